"""AutoGen on the scheduler: the only package that knows AutoGen's classes.

Wrap a client in :class:`ScheduledClient`, :func:`bind` a freshly built team to the
:class:`RunScope` of one attempt of a run, and drive it with :class:`Attempt`.
"""

from .attempt import Attempt, TaskInput, dump_result, dump_task, load_result, load_task
from .calls.building import build_client, client_class
from .calls.client import ScheduledClient, model_answer
from .calls.models import CallLimits, Model
from .calls.parts import senders, shown_name
from .calls.ping import ping
from .calls.wrapped_client import provider_name, provider_of, takes_tiers
from .containment import build
from .journal.mismatch import difference
from .journal.outcomes import (
    AttemptOutcome,
    DeadlinePassed,
    NeedsInput,
    NonDeterminism,
    Paused,
    WouldCall,
)
from .journal.recorded import Journal
from .scope import AdHocScope, RunScope, current_scope
from .secrets import remember
from .steps.effects import Effect, idempotency_key, idempotent, once, pure
from .steps.inputs import now, random, step
from .steps.step import person_answer
from .teams import clients_of_component, load_component, load_factory, redacted
from .wrappers.bind import around, bind
from .wrappers.wrapper import release

__all__ = [
    "AdHocScope",
    "Attempt",
    "AttemptOutcome",
    "CallLimits",
    "DeadlinePassed",
    "Effect",
    "Journal",
    "Model",
    "NeedsInput",
    "NonDeterminism",
    "Paused",
    "RunScope",
    "ScheduledClient",
    "TaskInput",
    "WouldCall",
    "around",
    "bind",
    "build",
    "build_client",
    "client_class",
    "clients_of_component",
    "current_scope",
    "difference",
    "dump_result",
    "dump_task",
    "idempotency_key",
    "idempotent",
    "load_component",
    "load_factory",
    "load_result",
    "load_task",
    "model_answer",
    "now",
    "once",
    "person_answer",
    "ping",
    "provider_name",
    "provider_of",
    "pure",
    "random",
    "redacted",
    "release",
    "remember",
    "senders",
    "shown_name",
    "step",
    "takes_tiers",
]

"""AutoGen on the scheduler: the only package that knows AutoGen's classes.

Wrap a client in :class:`ScheduledClient`, :func:`bind` a freshly built team to the
:class:`RunScope` of one attempt of a run, and run it as ever.
"""

from .attempt import Attempt, dump_result, load_result
from .calls.client import ScheduledClient
from .calls.models import Model
from .calls.wrapped_client import model_name, openai_client
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
from .requests.codec import model_answer
from .scope import RunScope, current_scope
from .steps.effects import idempotency_key, idempotent, once, pure
from .steps.inputs import now, random, step
from .steps.lazy_start import release
from .steps.step import Again, person_answer
from .teams import build, load_component, load_factory, redacted
from .wrappers.bind import bind

__all__ = [
    "Again",
    "Attempt",
    "AttemptOutcome",
    "DeadlinePassed",
    "Journal",
    "Model",
    "NeedsInput",
    "NonDeterminism",
    "Paused",
    "RunScope",
    "ScheduledClient",
    "WouldCall",
    "bind",
    "build",
    "current_scope",
    "difference",
    "dump_result",
    "idempotency_key",
    "idempotent",
    "load_component",
    "load_factory",
    "load_result",
    "model_answer",
    "model_name",
    "now",
    "once",
    "openai_client",
    "person_answer",
    "pure",
    "random",
    "redacted",
    "release",
    "step",
]

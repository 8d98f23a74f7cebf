"""AutoGen on the scheduler: the only package that knows AutoGen's classes.

Wrap a client in :class:`ScheduledClient`, :func:`bind` a freshly built team to the
:class:`RunScope` of one attempt of a run, and run it as ever.
"""

from .attempt import Attempt, dump_result, load_result
from .behind import release
from .binding import bind
from .changes import difference
from .client import Model, ScheduledClient
from .identity import RunScope, current_scope
from .inner import model_name, openai_client
from .inputs import now, random, step
from .kinds import idempotency_key, idempotent, once, pure
from .replay import Journal
from .steps import Again, person_answer
from .stops import Changed, Late, Paused, Stop, Waits, WouldAsk
from .teams import build, load_component, load_factory, redacted
from .wire import model_answer

__all__ = [
    "Again",
    "Attempt",
    "Changed",
    "Journal",
    "Late",
    "Model",
    "Paused",
    "RunScope",
    "ScheduledClient",
    "Stop",
    "Waits",
    "WouldAsk",
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

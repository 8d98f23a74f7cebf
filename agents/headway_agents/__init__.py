"""AutoGen on the scheduler: the only package that knows AutoGen's classes.

Wrap a client in :class:`ScheduledClient`, :func:`bind` a freshly built team to the
:class:`RunScope` of one attempt of a run, and run it as ever.
"""

from .attempt import Attempt, dump_result, load_result
from .binding import bind
from .client import Model, ScheduledClient
from .identity import RunScope, current_scope
from .inner import model_name, openai_client
from .teams import build, load_component, load_factory, redacted

__all__ = [
    "Attempt",
    "Model",
    "RunScope",
    "ScheduledClient",
    "bind",
    "build",
    "current_scope",
    "dump_result",
    "load_component",
    "load_factory",
    "load_result",
    "model_name",
    "openai_client",
    "redacted",
]

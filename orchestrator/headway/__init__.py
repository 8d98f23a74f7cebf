"""Headway: AutoGen teams behind one priority scheduler that owns the provider budget.

Importing this package imports neither AutoGen nor the OpenAI SDK: they take seconds, and most
commands do not need them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headway_agents.inputs import now, random, step
    from headway_agents.kinds import idempotency_key, idempotent, once, pure

    from .api import Headway
    from .control import Check
    from .events import Admitted, Ended, Finished, Queued, Retrying, Started
    from .handles import RunFailed, RunHandle, RunOptions, RunResult
    from .receipt import Receipt

__version__ = "0.1.0"

_HOMES = {
    "Headway": "headway.api",
    "Check": "headway.control",
    "Receipt": "headway.receipt",
    "RunFailed": "headway.handles",
    "RunHandle": "headway.handles",
    "RunOptions": "headway.handles",
    "RunResult": "headway.handles",
    "Admitted": "headway.events",
    "Ended": "headway.events",
    "Finished": "headway.events",
    "Queued": "headway.events",
    "Retrying": "headway.events",
    "Started": "headway.events",
    "now": "headway_agents.inputs",
    "random": "headway_agents.inputs",
    "step": "headway_agents.inputs",
    "idempotency_key": "headway_agents.kinds",
    "idempotent": "headway_agents.kinds",
    "once": "headway_agents.kinds",
    "pure": "headway_agents.kinds",
}

__all__ = [
    "Admitted",
    "Check",
    "Ended",
    "Finished",
    "Headway",
    "Queued",
    "Receipt",
    "Retrying",
    "RunFailed",
    "RunHandle",
    "RunOptions",
    "RunResult",
    "Started",
    "__version__",
    "idempotency_key",
    "idempotent",
    "now",
    "once",
    "pure",
    "random",
    "step",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

"""Headway: AutoGen teams behind one priority scheduler that owns the provider budget.

Importing this package imports neither AutoGen nor the OpenAI SDK: they take seconds, and most
commands do not need them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headway_agents.steps.effects import idempotency_key, idempotent, once, pure
    from headway_agents.steps.inputs import now, random, step

    from .api import Headway
    from .runs.actions import Check
    from .runs.events import Admitted, Ended, Finished, Queued, Retrying, Started
    from .runs.handle import RunFailed, RunHandle, RunResult
    from .runs.options import RunOptions
    from .runs.receipt import Receipt

__version__ = "0.1.0"

_HOMES = {
    "Headway": "headway.api",
    "Check": "headway.runs.actions",
    "Receipt": "headway.runs.receipt",
    "RunFailed": "headway.runs.handle",
    "RunHandle": "headway.runs.handle",
    "RunOptions": "headway.runs.options",
    "RunResult": "headway.runs.handle",
    "Admitted": "headway.runs.events",
    "Ended": "headway.runs.events",
    "Finished": "headway.runs.events",
    "Queued": "headway.runs.events",
    "Retrying": "headway.runs.events",
    "Started": "headway.runs.events",
    "now": "headway_agents.steps.inputs",
    "random": "headway_agents.steps.inputs",
    "step": "headway_agents.steps.inputs",
    "idempotency_key": "headway_agents.steps.effects",
    "idempotent": "headway_agents.steps.effects",
    "once": "headway_agents.steps.effects",
    "pure": "headway_agents.steps.effects",
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

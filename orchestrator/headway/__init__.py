"""Headway: AutoGen teams behind one priority scheduler that owns the provider budget.

Importing this package imports neither AutoGen nor the OpenAI SDK: they take seconds, and most
commands do not need them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import Headway
    from .events import Admitted, Ended, Finished, Queued, Retrying, Started
    from .runs import RunFailed, RunHandle, RunResult

__version__ = "0.1.0"

_HOMES = {
    "Headway": "api",
    "RunFailed": "runs",
    "RunHandle": "runs",
    "RunResult": "runs",
    "Admitted": "events",
    "Ended": "events",
    "Finished": "events",
    "Queued": "events",
    "Retrying": "events",
    "Started": "events",
}

__all__ = [
    "Admitted",
    "Ended",
    "Finished",
    "Headway",
    "Queued",
    "Retrying",
    "RunFailed",
    "RunHandle",
    "RunResult",
    "Started",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)

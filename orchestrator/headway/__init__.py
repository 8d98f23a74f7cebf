"""Headway: AutoGen teams behind one priority scheduler that owns the provider budget.

Importing this package imports neither AutoGen nor the OpenAI SDK: they take seconds, and most
commands do not need them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headway_agents.steps.effects import idempotency_key, idempotent, once, pure
    from headway_agents.steps.inputs import now, random, step
    from headway_scheduler.errors import (
        BudgetExceeded,
        CallerError,
        CallTooLarge,
        DeadlineExceeded,
        HeadwayError,
        IllegalTransition,
        InternalError,
        NothingToAnswer,
        ProviderError,
        QueueFull,
        RunNotFound,
        RunNotResumable,
        SchedulerClosed,
        StoreBusy,
        StoreError,
        StoreReplaced,
        StoreTakenOver,
        UnknownQuota,
    )
    from headway_scheduler.model.calls import CallRecord, Priority, Usage
    from headway_scheduler.model.changes import Change
    from headway_scheduler.model.runs import Run
    from headway_scheduler.model.schedules import Overlap, Schedule, ScheduleState
    from headway_scheduler.model.states import CallState, RunState

    from .api import Headway
    from .config import Config, ConfigError
    from .pricing.costs import Cost
    from .runs.actions import Check
    from .runs.event_stream import EventStream
    from .runs.events import Admitted, Ended, Finished, Missed, Progress, Queued, Retrying, Started
    from .runs.handle import RunFailed, RunHandle, RunResult
    from .runs.options import RunOptions, StartOptions
    from .runs.receipt import Receipt
    from .workflows import Models

__version__ = "0.1.0"

_MODULES = {
    "headway.api": ("Headway",),
    "headway.config": (
        "Config",
        "ConfigError",
    ),
    "headway.pricing.costs": ("Cost",),
    "headway.runs.actions": ("Check",),
    "headway.runs.event_stream": ("EventStream",),
    "headway.runs.events": (
        "Admitted",
        "Ended",
        "Finished",
        "Missed",
        "Progress",
        "Queued",
        "Retrying",
        "StartOptions",
        "Started",
    ),
    "headway.runs.handle": (
        "RunFailed",
        "RunHandle",
        "RunResult",
    ),
    "headway.runs.options": ("RunOptions", "StartOptions"),
    "headway.runs.receipt": ("Receipt",),
    "headway.workflows": ("Models",),
    "headway_agents.steps.effects": (
        "idempotency_key",
        "idempotent",
        "once",
        "pure",
    ),
    "headway_agents.steps.inputs": (
        "now",
        "random",
        "step",
    ),
    "headway_scheduler.errors": (
        "BudgetExceeded",
        "CallTooLarge",
        "CallerError",
        "DeadlineExceeded",
        "HeadwayError",
        "IllegalTransition",
        "InternalError",
        "NothingToAnswer",
        "ProviderError",
        "QueueFull",
        "QueueFull",
        "RunNotFound",
        "RunNotResumable",
        "SchedulerClosed",
        "StoreBusy",
        "StoreError",
        "StoreReplaced",
        "StoreTakenOver",
        "UnknownQuota",
    ),
    "headway_scheduler.model.calls": (
        "CallRecord",
        "Priority",
        "Usage",
    ),
    "headway_scheduler.model.changes": ("Change",),
    "headway_scheduler.model.runs": ("Run",),
    "headway_scheduler.model.schedules": ("Overlap", "Schedule", "ScheduleState"),
    "headway_scheduler.model.states": (
        "CallState",
        "RunState",
    ),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Admitted",
    "BudgetExceeded",
    "CallRecord",
    "CallState",
    "CallTooLarge",
    "CallerError",
    "Change",
    "Check",
    "Config",
    "ConfigError",
    "Cost",
    "DeadlineExceeded",
    "Ended",
    "EventStream",
    "Finished",
    "Headway",
    "HeadwayError",
    "IllegalTransition",
    "InternalError",
    "Missed",
    "Models",
    "NothingToAnswer",
    "Overlap",
    "Priority",
    "Progress",
    "ProviderError",
    "QueueFull",
    "Queued",
    "Receipt",
    "Retrying",
    "Run",
    "RunFailed",
    "RunHandle",
    "RunNotFound",
    "RunNotResumable",
    "RunOptions",
    "RunResult",
    "RunState",
    "Schedule",
    "ScheduleState",
    "SchedulerClosed",
    "StartOptions",
    "Started",
    "StoreBusy",
    "StoreError",
    "StoreReplaced",
    "StoreTakenOver",
    "UnknownQuota",
    "Usage",
    "__version__",
    "idempotency_key",
    "idempotent",
    "now",
    "once",
    "pure",
    "random",
    "step",
]


def __dir__() -> list[str]:
    """List what is public, for completion."""
    return list(__all__)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

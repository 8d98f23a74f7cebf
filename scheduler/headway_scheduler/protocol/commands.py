"""Commands of any process to the leader, and orders of the leader to a worker.

Law: data only, and every value can be written as JSON. A command that is asked twice changes
nothing the second time, or is refused.
"""

from typing import Any

from ..model.calls import Priority
from ..model.changes import HoldState
from ..model.runs import Run, Worker
from ..model.schedules import Schedule
from .tagged import Tagged


class QueueRun(Tagged, frozen=True, tag=True, omit_defaults=True):
    """Queue a run. If another run has its idempotency key already, nothing happens."""

    run: Run


class CancelRun(Tagged, frozen=True, tag=True, omit_defaults=True):
    """End a run for good, executed or not."""

    run_id: str


class PauseRun(Tagged, frozen=True, tag=True, omit_defaults=True):
    """Stop a run at its next call, or keep it from being taken up."""

    run_id: str


class SetPriority(Tagged, frozen=True, tag=True, omit_defaults=True):
    """Change the class of a run with its waiting calls, or of one waiting call."""

    target: str
    """The id of the run or of the call."""
    priority: Priority


class SetHold(Tagged, frozen=True, tag=True, omit_defaults=True):
    """Pause or drain all calls, those of a class or those of a model; or open them again."""

    target: str
    """``all``, ``class:CLASS`` or ``model:MODEL``."""
    state: HoldState


class SetLimits(Tagged, frozen=True, tag=True, omit_defaults=True):
    """Change some of a quota's settings."""

    quota: str
    limits: dict[str, Any] | None
    """Settings by their names in the configuration. None: all as the leader has it configured."""


class SetWeight(Tagged, frozen=True, tag=True, omit_defaults=True):
    """Change a team's share of the quotas beside other teams."""

    team: str
    weight: float | None
    """Above 0; 1 is an ordinary team's. None: as configured."""


class ResumeQuota(Tagged, frozen=True, tag=True, omit_defaults=True):
    """Let one call of a quota try whose account was locked out."""

    quota: str


class SetSchedules(Tagged, frozen=True, tag=True, omit_defaults=True):
    """Define schedules, anew or for the first time, and delete others."""

    schedules: tuple[Schedule, ...] = ()
    """Definitions; what became of those that are there already stays."""
    removed: tuple[str, ...] = ()
    """Names to delete; those that are not there are passed over."""


class HoldSchedule(Tagged, frozen=True, tag=True, omit_defaults=True):
    """Pause a schedule, or have it go on."""

    name: str
    is_paused: bool


class FireSchedule(Tagged, frozen=True, tag=True, omit_defaults=True):
    """Queue the run of a schedule now, whatever its times and policies say."""

    name: str
    run_id: str
    """The id that the run gets. If a run has it already, nothing happens."""


class RegisterWorker(Tagged, frozen=True, tag=True, omit_defaults=True):
    """Have a process execute runs, or state anew how many it takes."""

    worker: Worker
    again: bool = False
    """Whether it was listed before: it is refused if others have taken it for dead since."""


class ClaimRun(Tagged, frozen=True, tag=True, omit_defaults=True):
    """Give a run that nobody executes to a worker, if it is still as it was read."""

    run: Run
    worker_id: str


class RetireWorker(Tagged, frozen=True, tag=True, omit_defaults=True):
    """Have a process execute runs no more; what it has not begun goes to others."""

    worker_id: str
    died: bool = False
    """Whether it shows no life any more: then each of its runs has lost a life."""


class ExecuteRun(Tagged, frozen=True, tag=True, omit_defaults=True):
    """Execute a run: its row names the worker that this order goes to."""

    run: Run


Command = (
    QueueRun
    | CancelRun
    | PauseRun
    | SetPriority
    | SetHold
    | SetLimits
    | SetWeight
    | ResumeQuota
    | SetSchedules
    | HoldSchedule
    | FireSchedule
    | RegisterWorker
    | ClaimRun
    | RetireWorker
)
"""A command of any process to the leader."""

LongRunning = CancelRun | PauseRun
"""Commands that may wait for the end of a run. Other commands pass them."""

RunOrder = CancelRun | PauseRun | SetPriority
"""Commands about a run, which the leader may pass on to the worker that executes it."""

Order = ExecuteRun | RunOrder
"""An order of the leader to a worker."""

"""Defines a schedule: a run that is queued again and again. Data only."""

from enum import StrEnum

from .data import Data
from .runs import Run

CATCHUP_SECONDS = 31_536_000.0
"""How old a missed time may be when it is caught up, if nobody says: a year, as in Temporal."""


class Overlap(StrEnum):
    """What becomes of a time that comes while the run before has not ended; as Temporal's."""

    SKIP = "skip"  # nothing is queued
    BUFFER_ONE = "buffer_one"  # the first such time waits for the end; others are skipped
    ALLOW_ALL = "allow_all"  # the run is queued all the same


class Schedule(Data, frozen=True):
    """What is queued, and when: the definition, as a program or the file states it."""

    name: str
    """Unique in the database."""
    cron: str
    """Five fields: minute, hour, day of the month, month, day of the week."""
    zone: str
    """The time zone that the fields are of, as in ``Europe/Berlin``."""
    run: Run
    """What is queued, as if submitted at 0: ``deadline`` is in seconds from then. Id and key are
    made anew each time."""
    overlap: Overlap = Overlap.SKIP
    """What becomes of a time that comes too early."""
    catchup_seconds: float = CATCHUP_SECONDS
    """How old a missed time may be when it is caught up."""
    source: str | None = None
    """The file that states it; None: a program does."""


class ScheduleState(Data, frozen=True):
    """A schedule, and what became of it: a row of table ``schedules``. Times are epoch seconds."""

    schedule: Schedule
    """Its definition."""
    next_at: float
    """The first time that has not been met."""
    is_paused: bool = False
    """Whether an operator has paused it."""
    buffered_at: float | None = None
    """The time whose run waits for the end of the run before; None: none does."""
    last_at: float | None = None
    """The last time for which a run was queued; None: none was."""
    last_run: str | None = None
    """The id of the last run; None: there was none."""
    skipped: int = 0
    """How many times in a row, since then, no run was queued for: the one before had not ended, or
    they were too old."""

    @property
    def name(self) -> str:
        """The name of the schedule."""
        return self.schedule.name

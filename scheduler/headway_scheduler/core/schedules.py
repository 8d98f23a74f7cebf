"""Decides for which times runs of a schedule are queued. Law: the time is an argument.

Theory of operation. Times are met in their order, each once: :func:`meet` takes all from
``next_at`` to now through the schedule's policies, and moves ``next_at`` behind now. It is asked
again at ``next_at``, and, if a time is buffered, when the run before has ended. Clock changes are
as in Debian's cron, which ``cronsim`` follows: a schedule at fixed hours fires once a day, one with
``*`` in its minutes or hours follows the time that passes.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from itertools import islice
from typing import Protocol
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from ..errors import CallerError
from ..model.data import replace
from ..model.schedules import Overlap, Schedule, ScheduleState

MOST_CAUGHT_UP = 100
"""The most missed times that are met at once. Of more, the last ones are."""

SHORTEST_CATCHUP_SECONDS = 10.0
"""The shortest catch-up window, which is Temporal's: the leader may be replaced meanwhile."""

_FIELDS = (
    "minute hour day-of-month month day-of-week, as in '0 3 * * *' (each day at 03:00), "
    "'*/15 * * * *' or '30 8 * * MON-FRI'"
)


@lru_cache(maxsize=256)
def check_cron(cron: str) -> str:
    """Return a cron expression that names times. Raises CallerError, which says what is one."""
    why = "wrong number of fields"
    if len(cron.split()) == 5:
        try:
            if next(CronSim(cron, datetime(2000, 1, 1, tzinfo=UTC)), None) is not None:
                return cron
            why = "it names no day that there is"
        except CronSimError as error:
            why = str(error).lower()
        except Exception:  # it asserts some things; the text may be anything
            why = "not understood"
    raise CallerError(f"cron must have five fields, {_FIELDS}, not {cron[:100]!r}: {why}")


@lru_cache(maxsize=256)
def zone_of(name: str) -> tzinfo:
    """Return a time zone. Raises CallerError for a name that is none."""
    try:
        return ZoneInfo(name)
    except Exception:  # ValueError for a path, an OSError for a folder, and its own
        raise CallerError(
            f"zone must be a time zone, as in 'Europe/Berlin', 'America/New_York' or 'UTC', not "
            f"{name[:100]!r}"
        ) from None


class Timed(Protocol):
    """What comes again and again: a schedule, or what a file says of one."""

    @property
    def cron(self) -> str:
        """Minute, hour, day of the month, month, day of the week."""

    @property
    def zone(self) -> str:
        """The time zone that ``cron`` is of."""


def next_time(schedule: Timed, after: float) -> float:
    """Return the first time of a schedule after a time; both in epoch seconds.

    Raises CallerError for an expression or a zone that cannot be.
    """
    return next(_times(schedule, after))


def _times(schedule: Timed, after: float) -> Iterator[float]:
    """Yield the times of a schedule after a time, in order, each once."""
    check_cron(schedule.cron)
    begin = datetime.fromtimestamp(after, zone_of(schedule.zone))
    for moment in CronSim(schedule.cron, begin):
        # Two times that spring skips come out as one, and in the second of two hours that autumn
        # has alike, the first one of them.
        if moment.timestamp() > after:
            after = moment.timestamp()
            yield after


def missed(schedule: Schedule, since: float, now: float) -> list[float]:
    """Return the times from ``since`` to ``now``; of more than ``MOST_CAUGHT_UP``, the last ones.

    All in epoch seconds. It takes a bounded time, however long ago ``since`` is.
    """
    after = since - 1e-3  # times are whole seconds
    while True:
        found = list(islice(_times(schedule, after), MOST_CAUGHT_UP + 1))
        if len(found) <= MOST_CAUGHT_UP or found[-1] > now:
            return [at for at in found if at <= now]
        after = (after + now) / 2  # fewer, and still the last ones


def meet(
    state: ScheduleState, now: float, *, is_open: bool
) -> tuple[ScheduleState, tuple[float, ...]]:
    """Return a schedule as it is once all times up to ``now`` are met, and those to queue runs for.

    ``is_open``: whether its last run has not ended. Raises CallerError as :func:`next_time` does.
    """
    if state.is_paused:
        return state, ()
    schedule, coming = state.schedule, next_time(state.schedule, now)
    allows = schedule.overlap is Overlap.ALLOW_ALL
    times: list[float] = []
    buffered, skipped = state.buffered_at, state.skipped
    if buffered is not None and (allows or not is_open):
        times.append(buffered)
        buffered, is_open, skipped = None, True, 0
    for at in missed(schedule, state.next_at, now) if state.next_at <= now else ():
        if at < now - schedule.catchup_seconds:
            skipped += 1
        elif allows or not is_open:
            times.append(at)
            is_open, skipped = True, 0
        elif schedule.overlap is Overlap.BUFFER_ONE and buffered is None:
            buffered = at
        else:
            skipped += 1
    # A time that is later than the next one was computed by a clock that was set back since.
    return replace(state, next_at=coming, buffered_at=buffered, skipped=skipped), tuple(times)


def resumed(state: ScheduleState, now: float) -> ScheduleState:
    """Return a paused schedule as it goes on: what came meanwhile is not caught up."""
    return replace(state, is_paused=False, buffered_at=None, next_at=next_time(state.schedule, now))


def defined(schedule: Schedule, before: ScheduleState | None, now: float) -> ScheduleState:
    """Return a schedule as it is with this definition; what became of it so far stays."""
    if before is None:
        return ScheduleState(schedule, next_time(schedule, now))
    old = before.schedule
    is_moved = (old.cron, old.zone) != (schedule.cron, schedule.zone)
    next_at = next_time(schedule, now) if is_moved else before.next_at
    return replace(before, schedule=schedule, next_at=next_at)


def run_key(schedule: Schedule, at: float) -> str:
    """Return the idempotency key of the run for a time, as in ``schedule:nightly:2026-03-29…``."""
    return f"schedule:{schedule.name}:{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"

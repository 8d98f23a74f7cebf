"""Counts calls for history: how many wait, and which attempts brought no answer. Pure."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..model.calls import CallRecord, Outcome, Priority
from ..model.history import CUT_OFF, LONGEST_ERROR, MINUTE, PREEMPTED, Crowd, Try
from ..model.quotas import Observation, ProviderEvent
from ..model.states import IN_FLIGHT, CallState

SAMPLE_SECONDS = 1.0
"""Calls that wait are counted at most this often: it takes time for each of them."""


class Census(NamedTuple):
    """How many calls there are of each kind at one moment. By class: interactive first."""

    waiting: list[int]  #: queued, by class
    in_flight: list[int]  #: admitted and not settled, by class
    parked: int  #: queued, and nobody waits for them, or a person is asked
    batched: int  #: in a batch of the provider, or waiting for one


def census(records: Iterable[CallRecord]) -> Census:
    """Count calls that have not ended."""
    waiting, in_flight = [0] * len(Priority), [0] * len(Priority)
    parked = batched = 0
    for record in records:
        if record.state in IN_FLIGHT:
            in_flight[record.call.priority] += 1
        elif record.state is CallState.BATCHED:
            batched += 1
        elif record.parked:
            parked += 1
        else:
            waiting[record.call.priority] += 1
    return Census(waiting, in_flight, parked, batched)


class Crowds:
    """Keeps the most calls that waited in the current minute, until the minute is over.

    A process that dies loses that one minute. A minute without any has no row.
    """

    def __init__(self) -> None:
        self.sample_at: float = 0.0
        """When calls are to be counted again; epoch seconds."""
        self._minute = 0
        self._waiting: list[int] = [0] * len(Priority)
        self._in_flight: list[int] = [0] * len(Priority)

    def sample(self, records: Iterable[CallRecord], now: float) -> tuple[Crowd, ...]:
        """Count calls that have not ended, and return the rows of the minute that is over, if any.

        The commit that writes these rows may fail: then the whole core is thrown away.
        """
        self.sample_at = now + SAMPLE_SECONDS
        minute, found = int(now // MINUTE), census(records)
        over: tuple[Crowd, ...] = ()
        if minute != self._minute:
            over = self._rows()
            self._minute, self._waiting, self._in_flight = minute, found.waiting, found.in_flight
        else:
            self._waiting = list(map(max, self._waiting, found.waiting))
            self._in_flight = list(map(max, self._in_flight, found.in_flight))
        return over

    def _rows(self) -> tuple[Crowd, ...]:
        counts = zip(Priority, self._waiting, self._in_flight, strict=True)
        at = self._minute * MINUTE
        return tuple(Crowd(at, *each) for each in counts if each[1] or each[2])


def tried(
    record: CallRecord,
    outcome: Outcome,
    signals: Mapping[str, Observation],
    now: float,
    *,
    preempted: bool = False,
) -> Try | None:
    """Return the row of an attempt that is over; None for one that its own agent cancelled or whose
    request was never made, and for a step: it asks no provider.
    """
    call = record.call
    if not call.quotas:
        return None
    quota, event, pause_until = call.quotas[0], None, None
    for name, told in signals.items():
        if told.event not in (None, ProviderEvent.ANSWERED):
            quota, event, pause_until = name, told.event, told.pause_until
    if event is not None:
        news = event.value
    elif outcome.state is CallState.UNKNOWN or outcome.lost:
        news = CUT_OFF
    elif outcome.state is CallState.FAILED:
        news = ProviderEvent.FAILED.value
    elif outcome.state is CallState.QUEUED and not outcome.uncounted:
        news = PREEMPTED if preempted else ProviderEvent.FAILED.value
    else:
        return None
    error = None if outcome.error is None else outcome.error[:LONGEST_ERROR]
    admitted_at = now if record.admitted_at is None else record.admitted_at
    return Try(call.id, call.run_id, quota, admitted_at, now, news, pause_until, error)

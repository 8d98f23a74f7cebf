"""Records one side: its teams, and its calls as its agents asked and as its provider saw them.

Law of this file: both sides are measured in the same way. The wait of a call is the time from the
request of its agent until the provider received the request that it accepted, on one monotonic
clock. A call that was never accepted has no wait, and is counted apart.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import NamedTuple

from headway_scheduler.model.calls import Priority
from headway_scheduler.testing.provider import Ledger

from .plan import BACKGROUND, URGENT, Arrival, Plan


class TeamState(StrEnum):
    """Whether a team runs, has finished, or has died."""

    RUNNING = "running"
    FINISHED = "finished"
    DIED = "died"


class Waits(NamedTuple):
    """The waits of one class so far, in seconds; None before the first."""

    calls: int  #: that were accepted
    last_seconds: float | None
    median_seconds: float | None
    worst_seconds: float | None


@dataclass(slots=True)
class _Asked:
    """A call that an agent asked for."""

    team: str
    priority: Priority
    at: float
    is_over: bool = False


@dataclass(slots=True)
class TeamRecord:
    """One team; times are seconds of the monotonic clock."""

    priority: Priority
    arrived_at: float
    state: TeamState = TeamState.RUNNING
    ended_at: float | None = None
    error: str = ""

    @property
    def lived_seconds(self) -> float:
        """Seconds from its arrival to its end, or to now."""
        return (self.ended_at or time.monotonic()) - self.arrived_at


class Side:
    """The record of one side, during the race and afterwards."""

    def __init__(self, name: str, plan: Plan) -> None:
        self.name = name
        self.plan = plan
        self.ledger: Ledger = Ledger()
        self.teams: dict[str, TeamRecord] = {}
        self.started_at: float = time.monotonic()
        self.ended_at: float = self.started_at
        self._asked: dict[str, _Asked] = {}

    # What happens

    def arrive(self, arrival: Arrival) -> TeamRecord:
        """Record that a team begins."""
        record = self.teams[arrival.team] = TeamRecord(arrival.priority, time.monotonic())
        return record

    def end(self, record: TeamRecord, error: Exception | None) -> None:
        """Record that a team has ended, by an ``error`` or well."""
        record.ended_at = self.ended_at = time.monotonic()
        record.state = TeamState.FINISHED if error is None else TeamState.DIED
        record.error = "" if error is None else f"{type(error).__name__}: {error}"

    @contextmanager
    def recording(self, arrival: Arrival) -> Iterator[str]:
        """Record a call from the request of its agent to its answer or error. Yields its mark."""
        mark = f"{arrival.team}.{len(self._asked)}"
        asked = self._asked[mark] = _Asked(arrival.team, arrival.priority, time.monotonic())
        try:
            yield mark
        finally:
            asked.is_over = True

    # What is seen

    @property
    def calls(self) -> int:
        """How many calls agents asked for."""
        return len(self._asked)

    @property
    def wall_seconds(self) -> float:
        """Seconds from the start to the end of the last team that has ended."""
        return self.ended_at - self.started_at

    @property
    def refused(self) -> int:
        """How many requests the provider answered with 429."""
        return sum(entry.status == 429 for entry in self.ledger.entries)

    def count(self, state: TeamState) -> int:
        """Count the teams in a state."""
        return Counter(team.state for team in self.teams.values())[state]

    def waits(self, priority: Priority) -> Waits:
        """Return the waits of a class, in the order in which its calls were accepted."""
        waits = [
            received_at - self._asked[mark].at
            for mark, received_at in self._accepted().items()
            if self._asked[mark].priority is priority
        ]
        if not waits:
            return Waits(0, None, None, None)
        return Waits(len(waits), waits[-1], median(waits), max(waits))

    def waiting(self, priority: Priority) -> int:
        """How many calls were neither accepted nor given up yet."""
        accepted = self._accepted()
        return sum(
            asked.priority is priority and not asked.is_over and mark not in accepted
            for mark, asked in self._asked.items()
        )

    def given_up(self) -> int:
        """How many calls ended without having been accepted."""
        accepted = self._accepted()
        return sum(a.is_over and mark not in accepted for mark, a in self._asked.items())

    def overtaken(self) -> int:
        """How many background calls were asked for before an urgent call, and accepted after it."""
        accepted = self._accepted()
        calls = [(self._asked[mark], at) for mark, at in accepted.items()]
        urgent = [(asked.at, at) for asked, at in calls if asked.priority is URGENT]
        return sum(
            any(asked.at < asked_at and at < received_at for asked_at, at in urgent)
            for asked, received_at in calls
            if asked.priority is BACKGROUND
        )

    def lost(self) -> int:
        """How many answers were paid for by teams that died without a result."""
        dead = {name for name, team in self.teams.items() if team.state is TeamState.DIED}
        return sum(self._asked[entry.who].team in dead for entry in self.ledger.paid)

    def _accepted(self) -> dict[str, float]:
        """Yield the mark of each accepted call, and when its request was received."""
        return {entry.who: entry.received_monotonic for entry in self.ledger.accepted}

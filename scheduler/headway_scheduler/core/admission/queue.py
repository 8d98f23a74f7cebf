"""Orders the calls that wait. Law of this file: it decides order, never permission.

Theory of operation. Lanes that share a quota, directly or through others, compete: they form a
*pool*, and in a pool

1. the more urgent class goes first. A class that waits earns credit, its promised share of the
   time; once that covers its next call, the call is *floor_boosted* before the most urgent class;
2. inside a class, teams share alike, by start-time fair queueing: a call starts when its team's
   last one finished in virtual time, or now, and takes its cost over the team's weight. What a
   team did not use is not saved up;
3. inside a team, calls go by *due* time: their arrival, plus what their run takes yet, or the
   deadline of the run if that is sooner (``runs/registry`` says). It does not change while a call
   waits, so that a heap suffices, and no call is passed for ever.

A team has one clock in the whole pool but calls in many lanes. Its start only ever grows, so a
lane's heap of teams may lag behind: what surfaces too early is put back.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace
from typing import NamedTuple

from ...model.calls import CallRecord, Priority
from ..policy import Policy

VirtualStart = tuple[float, int]
"""When a team's next call starts, in virtual time, and since when the team waits."""


class Rank(NamedTuple):
    """Where a call stands in its pool: compared field by field, the smaller goes first."""

    place: int
    """The class whose place and headroom the call has: a more urgent one, if it is boosted."""
    in_turn: int
    """0 if it is boosted, before all that are in turn."""
    priority: int
    """Its own class."""
    start: float
    """When its team's next call starts, in virtual time."""
    since: int
    """The place of its team in the order in which teams began to wait."""
    due: float
    """When it counts as having come; epoch seconds."""
    seq: int
    """Its arrival number."""


@dataclass(slots=True, eq=False)
class Waiter:
    """A queued call, as its line orders it."""

    record: CallRecord
    effective_priority: Priority
    """Its class: more urgent than the call asks for, if a more urgent run waits for its run."""
    team: str
    """The team whose share it draws on."""
    due: float
    """When it counts as having come; epoch seconds."""
    cost: float
    """Budget-seconds: how long the call takes all refill of its scarcest limit."""
    is_gone: bool = False
    """Whether it has left the line: its heap entry is dropped when it surfaces."""

    def __lt__(self, other: "Waiter") -> bool:
        # Needed by heapq only. Two entries tie only when one is the tombstone of the same call, so
        # any order will do.
        return False


@dataclass(slots=True)
class _Team:
    """A team in one class of one pool."""

    weight: float
    """Its share relative to other teams."""
    start: float
    """When its next call starts, in virtual time: budget-seconds over weights."""
    since: int = 0
    """When it began to wait: of teams with one start, the lower number goes first."""
    waiting: int = 0
    """How many of its calls wait."""


class _Class:
    """One class in one pool. ``version`` grows with every change: older findings are stale."""

    __slots__ = ("credit", "teams", "version", "virtual", "waiting")

    def __init__(self) -> None:
        self.version = 0
        self.virtual = 0.0
        self.credit = 0.0
        self.waiting = 0
        self.teams: dict[str, _Team] = {}

    def join(self, waiter: Waiter, weight: float, number: int) -> None:
        self.version += 1
        self.waiting += 1
        team = self.teams.get(waiter.team)
        if team is None:
            team = self.teams[waiter.team] = _Team(weight, self.virtual)
        if not team.waiting:
            team.start, team.since = max(team.start, self.virtual), number
        team.waiting += 1

    def serve(self, waiter: Waiter) -> None:
        team = self.teams[waiter.team]
        self.virtual = max(self.virtual, team.start)
        team.start += waiter.cost / team.weight
        self.leave(waiter)

    def start_of(self, name: str) -> VirtualStart:
        team = self.teams[name]
        return team.start, team.since

    def leave(self, waiter: Waiter) -> None:
        self.version += 1
        self.waiting -= 1
        team = self.teams[waiter.team]
        team.waiting -= 1
        if not self.waiting:
            # No call waits, so no team is owed anything: all teams start anew together. Virtual
            # time never goes back, so it goes on from the latest start.
            self.virtual = max(each.start for each in self.teams.values())
            self.credit = min(self.credit, 0.0)
            self.teams.clear()
        elif not team.waiting and team.start <= self.virtual:
            del self.teams[waiter.team]


class Pool:
    """Lanes that compete with each other: their classes, credits and teams."""

    def __init__(self, policy: Policy, weights: Mapping[str, float], now: float) -> None:
        self.policy = policy
        self._weights = weights
        self._at = now
        self._joined = 0
        self.classes: tuple[_Class, ...] = tuple(_Class() for _ in Priority)

    def advance(self, now: float) -> None:
        """Give each class that waits its promised share of the time since the last call."""
        elapsed, self._at = max(0.0, now - self._at), max(now, self._at)
        for each, share in zip(self.classes, self.policy.promised_share, strict=True):
            if each.waiting and share and elapsed:
                each.credit = min(self.policy.credit_seconds, each.credit + share * elapsed)

    def join(self, waiter: Waiter, now: float) -> None:
        """Add a call. Its class earns credit from now on, not for the time before."""
        if any(each.waiting for each in self.classes):
            self.advance(now)
        else:
            self._at = now  # nobody has waited: a clock that stepped back meanwhile costs nothing
        weight = self._weights.get(waiter.team, 1.0)
        self._joined += 1
        self.classes[waiter.effective_priority].join(waiter, weight, self._joined)

    def leave(self, waiter: Waiter) -> None:
        """Remove a call that was not admitted."""
        self.classes[waiter.effective_priority].leave(waiter)

    def serve(self, waiter: Waiter, rank: Rank) -> None:
        """Remove a call that is admitted at ``rank``; charge its team and its class."""
        each = self.classes[waiter.effective_priority]
        least = each.credit - waiter.cost
        # In turn, a class uses up what it was promised, but makes no debts.
        each.credit = least if not rank.in_turn else max(least, min(each.credit, 0.0))
        each.serve(waiter)

    def rank(self, waiter: Waiter, start: VirtualStart) -> Rank:
        """Return the rank of a call that is the next of its class in some lane."""
        priority = waiter.effective_priority
        if self.has_credit(waiter):
            top = next(each for each in Priority if self.classes[each].waiting)
            if top < priority:
                return Rank(top, 0, priority, *start, waiter.due, waiter.record.seq)
        return Rank(priority, 1, priority, *start, waiter.due, waiter.record.seq)

    def has_credit(self, waiter: Waiter) -> bool:
        """Whether its class has earned what a call costs."""
        credit = self.classes[waiter.effective_priority].credit
        # ``credit > 0`` too: a call may cost 0, and a class without a promised share has 0 credit.
        return credit > 0 and credit >= min(waiter.cost, self.policy.credit_seconds)

    def start_of(self, waiter: Waiter) -> VirtualStart:
        """Return when its team's next call starts, in virtual time."""
        return self.classes[waiter.effective_priority].start_of(waiter.team)

    def reweigh(self, team: str) -> None:
        """Take in a team's changed share; it counts from the team's next call on."""
        for each in self.classes:
            if team in each.teams:
                each.teams[team].weight = self._weights[team]

    def absorb(self, other: "Pool") -> None:
        """Take in the calls of another pool. No start and no virtual time moves back."""
        for mine, theirs in zip(self.classes, other.classes, strict=True):
            mine.version += theirs.version + 1
            mine.virtual = max(mine.virtual, theirs.virtual)
            mine.credit = min(mine.credit, theirs.credit)
            mine.waiting += theirs.waiting
            for name, team in theirs.teams.items():
                own = mine.teams.setdefault(name, _Team(team.weight, team.start))
                own.start, own.since = max(own.start, team.start), max(own.since, team.since)
                own.waiting += team.waiting
        self._joined = max(self._joined, other._joined)
        # Of a pool in which nobody waited it may be old: nobody earns for the time before.
        self._at = max(self._at, other._at)

    def ranked(self, waiters: Iterable[Waiter]) -> list[tuple[Rank, Waiter]]:
        """Return every call in the order in which they go if no other call comes. O(n log n)."""
        ranks: list[tuple[Rank, Waiter]] = []
        starts: dict[tuple[Priority, str], float] = {}
        for waiter in sorted(waiters, key=lambda each: (each.due, each.record.seq)):
            priority, key = waiter.effective_priority, (waiter.effective_priority, waiter.team)
            team = self.classes[priority].teams[waiter.team]
            start = starts.get(key, team.start)
            starts[key] = start + waiter.cost / team.weight
            own = Rank(priority, 1, priority, start, team.since, waiter.due, waiter.record.seq)
            ranks.append((own, waiter))
        ranks.sort(key=lambda pair: pair[0])
        first = {
            waiter.effective_priority: index
            for index, (_, waiter) in reversed(list(enumerate(ranks)))
        }
        for index in first.values():
            rank, waiter = ranks[index]
            ranks[index] = self.rank(waiter, (rank.start, rank.since)), waiter
        ranks.sort(key=lambda pair: pair[0])
        return ranks


class _ClassQueue:
    """The calls of one class in one lane: a heap of teams, and of each team a heap of calls."""

    __slots__ = ("_calls", "_entries", "_head", "_seen", "_teams", "live")

    def __init__(self) -> None:
        self._teams: list[tuple[VirtualStart, str]] = []
        self._calls: dict[str, list[tuple[float, int, Waiter]]] = {}
        self._entries = 0
        self.live = 0
        self._head: tuple[VirtualStart, Waiter]
        self._seen = -1

    def __iter__(self) -> Iterator[Waiter]:
        for calls in self._calls.values():
            yield from (waiter for _, _, waiter in calls if not waiter.is_gone)

    def push(self, waiter: Waiter, start: VirtualStart) -> None:
        self.live += 1
        self._entries += 1
        calls = self._calls.get(waiter.team)
        if calls is None:
            calls = self._calls[waiter.team] = []
            heappush(self._teams, (start, waiter.team))
        heappush(calls, (waiter.due, waiter.record.seq, waiter))

    def head(self, service_class: _Class) -> tuple[VirtualStart, Waiter]:
        """Return the next call and its team's start; cached until the class changes.

        There must be a ``live`` call.
        """
        if self._seen != service_class.version:
            self._head, self._seen = self._find(service_class), service_class.version
        return self._head

    def _find(self, service_class: _Class) -> tuple[VirtualStart, Waiter]:
        """Find the head; drop tombstones and correct stale starts of teams on the way."""
        while True:
            start, team = self._teams[0]
            calls = self._calls[team]
            while calls and calls[0][2].is_gone:
                heappop(calls)
                self._entries -= 1
            if not calls:
                heappop(self._teams)
                del self._calls[team]
                continue
            waiter = calls[0][2]
            current = service_class.start_of(team)
            if current == start:
                return start, waiter
            heapreplace(self._teams, (current, team))

    def drop(self, waiter: Waiter) -> None:
        """Remove a call, wherever it stands: it becomes a tombstone, dropped when it surfaces."""
        waiter.is_gone = True
        self.live -= 1
        if self._entries > 2 * self.live + 8:
            self._drop_tombstones()

    def _drop_tombstones(self) -> None:
        for team, calls in list(self._calls.items()):
            calls[:] = [entry for entry in calls if not entry[2].is_gone]
            heapify(calls)
            if not calls:
                del self._calls[team]
        self._teams = [entry for entry in self._teams if entry[1] in self._calls]
        heapify(self._teams)
        self._entries = self.live


class Line:
    """The queue of one lane. Operations are O(log n)."""

    __slots__ = ("_queues", "pool", "waiting", "waiting_cost")

    def __init__(self, pool: Pool) -> None:
        self.pool: Pool = pool
        self.waiting: int = 0
        """How many calls stand in it."""
        self.waiting_cost: float = 0.0
        """Their cost together, in budget-seconds. It begins anew whenever none stands in it: a sum
        of floats that is added to and subtracted from drifts."""
        self._queues = tuple(_ClassQueue() for _ in Priority)

    def push(self, waiter: Waiter, now: float) -> None:
        """Add a call."""
        self.waiting += 1
        self.waiting_cost += waiter.cost
        self.pool.join(waiter, now)
        self._queues[waiter.effective_priority].push(waiter, self.pool.start_of(waiter))

    def head(self) -> tuple[Rank, Waiter] | None:
        """Show the next call and its rank."""
        best: tuple[Rank, Waiter] | None = None
        pool = self.pool
        for queue, service_class in zip(self._queues, pool.classes, strict=True):
            # Classes come in order, so after the first only a boosted call can go before it.
            if queue.live and (best is None or service_class.credit > 0):
                start, waiter = queue.head(service_class)
                if best is None:
                    best = pool.rank(waiter, start), waiter
                elif pool.has_credit(waiter) and (rank := pool.rank(waiter, start)) < best[0]:
                    best = rank, waiter
        return best

    def serve(self, waiter: Waiter, rank: Rank) -> None:
        """Take out a call that goes now."""
        self.waiting -= 1
        self.waiting_cost = self.waiting_cost - waiter.cost if self.waiting else 0.0
        self._queues[waiter.effective_priority].drop(waiter)
        self.pool.serve(waiter, rank)

    def remove(self, waiter: Waiter) -> None:
        """Take out a call that does not go."""
        self.waiting -= 1
        self.waiting_cost = self.waiting_cost - waiter.cost if self.waiting else 0.0
        self._queues[waiter.effective_priority].drop(waiter)
        self.pool.leave(waiter)

    def __iter__(self) -> Iterator[Waiter]:
        """All calls, in no particular order."""
        for queue in self._queues:
            yield from queue

"""The order of calls as it is written down: no heaps, nothing remembered that can be looked up."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from headway_scheduler.core.admission.queue import Rank, Waiter
from headway_scheduler.core.policy import Policy
from headway_scheduler.model.calls import Priority


@dataclass
class PlainOrder:
    """The order as it is written down, worked out anew for every question."""

    policy: Policy
    weights: Mapping[str, float]
    waiting: list[tuple[Hashable, Waiter]] = field(default_factory=list)  # (line, call)
    starts: dict[tuple[int, str], float] = field(default_factory=dict)
    since: dict[tuple[int, str], int] = field(default_factory=dict)
    joined: int = 0
    virtual: dict[int, float] = field(default_factory=dict)
    credit: dict[int, float] = field(default_factory=dict)
    at: float = 0.0

    def of_class(self, priority: int) -> list[Waiter]:
        return [each for _, each in self.waiting if each.effective_priority == priority]

    def advance(self, now: float) -> None:
        for priority in Priority:
            if self.of_class(priority):
                earned = self.credit.get(priority, 0.0) + self.policy.promised_share[
                    priority
                ] * max(0.0, now - self.at)
                self.credit[priority] = min(self.policy.credit_seconds, earned)
        # A clock that steps back costs nothing while nobody waits.
        self.at = max(self.at, now) if self.waiting else now

    def push(self, where: Hashable, each: Waiter) -> None:
        key = each.effective_priority, each.team
        if not any(other.team == each.team for other in self.of_class(each.effective_priority)):
            start = max(self.starts.get(key, 0.0), self.virtual.get(each.effective_priority, 0.0))
            self.starts[key] = start
            self.since[key] = self.joined
        self.joined += 1
        self.waiting.append((where, each))

    def in_turn(self, each: Waiter) -> Rank:
        key = each.effective_priority, each.team
        return self.starts[key], self.since[key], each.due, each.record.seq

    def rank(self, each: Waiter) -> Rank:
        priority = each.effective_priority
        start, since, *rest = self.in_turn(each)
        own = (priority, start, since + 1, *rest)
        top = min(other.effective_priority for _, other in self.waiting)
        needed = min(each.cost, self.policy.credit_seconds)
        is_boosted = (
            top < priority
            and self.policy.promised_share[priority] > 0
            and self.credit.get(priority, 0.0) >= needed
        )
        return (top, 0, *own) if is_boosted else (priority, 1, *own)

    def head(self, where: Hashable) -> Waiter | None:
        """The best of the first calls of each class: only the first one can be boosted."""
        first = []
        for priority in Priority:
            here = [
                each
                for at, each in self.waiting
                if at == where and each.effective_priority == priority
            ]
            if here:
                first.append(min(here, key=self.in_turn))
        return min(first, key=self.rank, default=None)

    def leave(self, each: Waiter) -> None:
        self.waiting = [pair for pair in self.waiting if pair[1] is not each]
        if not self.of_class(each.effective_priority):
            mine = [
                start
                for (priority, _), start in self.starts.items()
                if priority == each.effective_priority
            ]
            self.virtual[each.effective_priority] = max(mine)
            self.credit[each.effective_priority] = min(
                self.credit.get(each.effective_priority, 0.0), 0.0
            )

    def serve(self, each: Waiter) -> None:
        key, priority = (each.effective_priority, each.team), each.effective_priority
        is_boosted = self.rank(each)[1] == 0
        credit = self.credit.get(priority, 0.0)
        in_turn = max(credit - each.cost, min(credit, 0.0))
        self.credit[priority] = credit - each.cost if is_boosted else in_turn
        self.virtual[priority] = max(self.virtual.get(priority, 0.0), self.starts[key])
        self.starts[key] += each.cost / self.weights.get(each.team, 1.0)
        self.leave(each)

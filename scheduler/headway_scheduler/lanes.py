"""Calls that draw on the same quotas, and what stops the first of them.

Law of this file: a lane answers whether a call may go; it never takes anything.

Theory of operation. A blocked head holds the buckets that block it: no later call may take from
those, but any call that does not need them goes past. Where only time stops the head, its other
buckets keep what it needs until then: a later call takes from them what will have refilled, no
more, or the head would wait for each of its buckets in turn, for ever.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from .budget import Bucket
from .model import Call
from .ordering import Ordering


@dataclass(slots=True, eq=False)
class QuotaState:
    """One quota as it stands: its buckets, and until when it is paused."""

    name: str
    buckets: tuple[Bucket, ...]
    paused_until: float | None = None

    def paused(self, now: float) -> float | None:
        """When the pause ends, if there is one."""
        until = self.paused_until
        return until if until is not None and until > now else None


Blocker = Bucket | QuotaState


@dataclass(slots=True)
class Claims:
    """What blocked heads keep from later calls in one round of admission.

    ``held`` are their blockers; ``kept`` says what they need of their other buckets, and when.
    """

    held: set[Blocker] = field(default_factory=set)
    kept: dict[Bucket, list[tuple[float, float]]] = field(default_factory=dict)

    def leave(self, bucket: Bucket, amount: float, now: float) -> bool:
        """Whether ``amount`` may be taken from ``bucket`` as far as better calls go."""
        if not self.held:
            return True
        return bucket not in self.held and all(
            bucket.spares(amount, need, at, now) for need, at in self.kept.get(bucket, ())
        )


class Lane:
    """A queue of calls with the same set of quotas."""

    __slots__ = ("buckets", "order", "quotas")

    def __init__(self, quotas: tuple[QuotaState, ...], order: Ordering) -> None:
        self.quotas = quotas
        self.buckets = tuple(bucket for quota in quotas for bucket in quota.buckets)
        self.order = order

    def blockers(self, call: Call, now: float, claims: Claims) -> list[Blocker]:
        """What stops ``call``: paused quotas; buckets that are short or kept for a better call."""
        blocked: list[Blocker] = [quota for quota in self.quotas if quota.paused(now) is not None]
        for bucket in self.buckets:
            amount = bucket.amount(call)
            if not (bucket.passes(amount, now) and claims.leave(bucket, amount, now)):
                blocked.append(bucket)
        return blocked

    def claim(self, call: Call, now: float, claims: Claims, blocked: list[Blocker]) -> list[float]:
        """Keep the place of a blocked head; answer when its blockers give way by time alone.

        Each of these times matters: a bucket that suffices is free again for later calls, even if
        the head still waits for another.
        """
        times = [_ready_at(call, b, now) for b in blocked if b not in claims.held]
        # A bucket that passes by itself waits for the turn of a better call, which has its time.
        known = [at for at in times if at is not None and at > now]
        if len(known) == len(blocked):
            self._keep(call, max(known), claims)
        claims.held.update(blocked)
        return known

    def _keep(self, call: Call, at: float, claims: Claims) -> None:
        for bucket in self.buckets:
            if bucket.limit.per_second:  # a slot is not kept: it would stand idle
                need = bucket.need(bucket.amount(call))
                claims.kept.setdefault(bucket, []).append((need, at))

    def obstacles(
        self, call: Call, before: list[Call], now: float
    ) -> Iterator[tuple[QuotaState, Bucket | None, float | None]]:
        """What ``call`` must wait for if all of ``before`` go first: quota, bucket, until when.

        Without a bucket, the quota is paused; without a time, only the end of a call can tell.
        """
        for quota in self.quotas:
            opens_at = quota.paused(now)
            if opens_at is not None:
                yield quota, None, opens_at
            sharing = [other for other in before if quota.name in other.quotas]
            for bucket in quota.buckets:
                amount = sum(map(bucket.amount, sharing)) + bucket.need(bucket.amount(call))
                if amount > bucket.available(now):
                    yield quota, bucket, bucket.refilled_at(amount, now, opens_at or now)


def _ready_at(call: Call, blocker: Blocker, now: float) -> float | None:
    if isinstance(blocker, QuotaState):
        return blocker.paused_until
    return blocker.ready_at(blocker.amount(call), now)

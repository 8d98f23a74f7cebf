"""Groups calls that draw on the same quotas into lanes, and finds what blocks the first of each.

Law of this file: a lane answers whether a call may go; it never takes anything.

Theory of operation. A blocked head claims the buckets that block it: no later call may take from
those, but any call that does not need them goes past. Where only time blocks the head, its other
buckets keep what it needs until then: a later call takes from them only what will have refilled by
then. Without that, the head would wait for each of its buckets in turn, and might never go.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ...errors import CallTooLarge, UnknownQuota
from ...model.calls import Call
from ...model.quotas import GUESSED, Quota
from ..limits.bucket import Bucket
from ..limits.quota import QuotaState
from ..policy import Policy
from .queue import Line, Pool, Waiter

Blocker = Bucket | QuotaState

MOST_GUESSED = 1_000
"""How many quotas that nobody configured there may be, one for each address that is asked."""


@dataclass(slots=True)
class ClaimedBuckets:
    """What blocked heads keep from later calls, in one round of admission."""

    blocking: set[Blocker] = field(default_factory=set)
    """The blockers of blocked heads: no later call may take from them."""
    kept: dict[Bucket, list[tuple[float, float]]] = field(default_factory=dict)
    """Of other buckets: amounts that blocked heads need, and when; epoch seconds."""

    def leave(self, bucket: Bucket, amount: float, now: float) -> bool:
        """Whether a later call may take ``amount`` and leave blocked heads what they claimed."""
        return bucket not in self.blocking and all(
            bucket.spares(amount, need, at, now) for need, at in self.kept.get(bucket, ())
        )


class Lane:
    """A queue of calls with the same set of quotas."""

    __slots__ = ("_costly", "buckets", "line", "local", "quotas")

    def __init__(self, quotas: tuple[QuotaState, ...], line: Line) -> None:
        self.quotas: tuple[QuotaState, ...] = quotas
        self.line: Line = line
        self.renew()

    def renew(self) -> None:
        """Look up the quotas' buckets again, after their limits changed."""
        self.buckets: tuple[Bucket, ...] = tuple(
            bucket for quota in self.quotas for bucket in quota.buckets
        )
        # Daily limits count only if there are no others: they may be spent in a minute.
        passing = tuple(bucket for bucket in self.buckets if not bucket.is_daily)
        self._costly: tuple[Bucket, ...] = passing or self.buckets
        self.local: frozenset[str] = frozenset(
            quota.name for quota in self.quotas if quota.is_local
        )
        """Names of quotas of local servers."""

    def check(self, call: Call) -> None:
        """Raise CallTooLarge for a call that is larger than a limit ever allows."""
        for bucket in self.buckets:
            if bucket.amount(call) > bucket.limit.largest:
                raise too_large(call, bucket)

    def fits(self, call: Call) -> bool:
        """Whether every limit allows a call of this size."""
        return all(bucket.amount(call) <= bucket.limit.largest for bucket in self.buckets)

    def free_share(self, now: float) -> float:
        """Return the smallest free share, from 0 to 1, of all limits; 1 without limits."""
        shares = (bucket.available(now) / bucket.limit.capacity for bucket in self.buckets)
        return min(shares, default=1.0)

    def cost(self, call: Call) -> float:
        """Return the budget-seconds of a call: how long it takes all refill of its scarcest limit.

        Daily limits count only if there are no others.
        """
        return max([bucket.cost(call) for bucket in self._costly], default=0.0)

    def blockers(
        self, call: Call, now: float, claimed: ClaimedBuckets, headroom: float
    ) -> list[Blocker]:
        """Return what blocks ``call``: quotas that are shut, buckets that are short or claimed."""
        blocked: list[Blocker] = [quota for quota in self.quotas if quota.breaker.is_shut(now)]
        for bucket in self.buckets:
            amount = bucket.amount(call)
            if (
                not bucket.passes(amount, now, headroom)
                or (call.unbounded and bucket.waits_for_another(call))
                or (claimed.blocking and not claimed.leave(bucket, amount, now))
            ):
                blocked.append(bucket)
        return blocked

    def claim(
        self,
        call: Call,
        now: float,
        claimed: ClaimedBuckets,
        headroom: float,
        blocked: list[Blocker],
    ) -> list[float]:
        """Keep the place of a blocked head; return when its blockers end by time alone.

        Each time matters, not only the last: once a bucket suffices, it is free for later calls,
        even if the head still waits for another bucket.
        """
        for each in blocked:
            each.waited_at = now
        times = [_ready_at(call, b, now, headroom) for b in blocked if b not in claimed.blocking]
        # A bucket that is ready now blocks only because it is kept for a better call: the time of
        # that call is known already.
        known = [at for at in times if at is not None and at > now]
        if len(known) == len(blocked):
            self._keep(call, max(known), claimed, headroom)
        claimed.blocking.update(blocked)
        return known

    def _keep(self, call: Call, at: float, claimed: ClaimedBuckets, headroom: float) -> None:
        for bucket in self.buckets:
            # A slot is not kept: it would stand idle, while a bucket refills what it lends.
            if bucket.limit.per_second:
                need = bucket.need(bucket.amount(call), headroom)
                claimed.kept.setdefault(bucket, []).append((need, at))

    def obstacles(
        self, call: Call, before: list[Call], now: float, headroom: float
    ) -> Iterator[tuple[QuotaState, Bucket | None, float | None]]:
        """Yield what ``call`` waits for if all of ``before`` go first: quota, bucket, until when.

        No bucket: the quota is shut. No time: only the end of a call can tell.
        """
        for quota in self.quotas:
            opens_at = quota.breaker.paused(now)
            if quota.breaker.is_shut(now):
                yield quota, None, opens_at
            sharing = [other for other in before if quota.name in other.quotas]
            for bucket in quota.buckets:
                own = bucket.amount(call)
                kept = bucket.kept(own, headroom)
                amount = sum(map(bucket.amount, sharing)) + bucket.need(own)
                if bucket.waits_for_another(call):
                    yield quota, bucket, None
                elif amount + kept > bucket.available(now):
                    yield quota, bucket, bucket.refilled_at(amount, kept, now, opens_at or now)


def too_large(call: Call, bucket: Bucket) -> CallTooLarge:
    """The error of a call that needs more than a limit ever allows."""
    return CallTooLarge(
        f"call {call.id} of {call.path!r} needs {_number(bucket.amount(call))} "
        f"{bucket.limit.resource}, but quota {bucket.quota!r} never allows more than "
        f"{_number(bucket.limit.largest)}: shorten the prompt or raise the limit"
    )


class Lanes:
    """Keeps every quota, and the lanes of the calls that draw on them."""

    def __init__(self, quotas: Iterable[Quota], policy: Policy, now: float) -> None:
        self._configured = {quota.name: quota for quota in quotas}
        self.quotas: dict[str, QuotaState] = {
            name: QuotaState(quota, now) for name, quota in self._configured.items()
        }
        self.policy: Policy = policy
        self._weights = dict(policy.weights)
        self._by_names: dict[tuple[str, ...], Lane] = {}
        self._pool_of: dict[str, Pool] = {}
        self.lanes: list[Lane] = []
        self.pools: list[Pool] = []
        """Each pool once."""

    def quota(self, name: str) -> QuotaState:
        """Return a quota by its name. Raises UnknownQuota."""
        try:
            return self.quotas[name]
        except KeyError:
            known = ", ".join(sorted(self.quotas)) or "none"
            raise UnknownQuota(f"no quota {name!r}; configured: {known}") from None

    def knows(self, name: str, now: float) -> bool:
        """Whether a quota is configured, or of an address: then it is there from here on."""
        if name not in self.quotas and name.startswith(GUESSED):
            guessed = sum(each.startswith(GUESSED) for each in self.quotas)
            if guessed < MOST_GUESSED:
                self.quotas[name] = QuotaState(Quota.guessed(name), now)
        return name in self.quotas

    def of(self, names: tuple[str, ...], now: float) -> Lane:
        """Return the lane of calls that draw on these quotas. Raises UnknownQuota."""
        lane = self._by_names.get(names)
        if lane is None:
            for name in names:
                self.knows(name, now)
            quotas = tuple(map(self.quota, names))
            lane = self._by_names[names] = Lane(quotas, Line(self._pool(names, now)))
            self.lanes.append(lane)
            self.pools = list(dict.fromkeys(each.line.pool for each in self.lanes))
        return lane

    def set_limits(self, name: str, quota: Quota | None, now: float) -> None:
        """Change a quota's limits, or go back to the configured ones. Raises UnknownQuota."""
        self.knows(name, now)
        state = self.quota(name)
        state.restate(quota or self._configured.get(name) or Quota.guessed(name), now)
        self.renew(name)

    def renew(self, name: str) -> None:
        """Have the lanes of a quota look up its buckets again."""
        quota = self.quotas[name]
        for lane in self.lanes:
            if quota in lane.quotas:
                lane.renew()

    def set_weight(self, team: str, weight: float | None) -> None:
        """Change a team's share, or go back to the configured one."""
        self._weights[team] = weight or self.policy.weights.get(team, 1.0)
        for pool in self.pools:
            pool.reweigh(team)

    def waiting(self, pool: Pool) -> list[Waiter]:
        """Return every call that waits in a pool."""
        return [waiter for lane in self.lanes if lane.line.pool is pool for waiter in lane.line]

    def _pool(self, names: tuple[str, ...], now: float) -> Pool:
        """Return the pool of a new lane. Pools that the lane links become one."""
        linked = dict.fromkeys(self._pool_of[name] for name in names if name in self._pool_of)
        pool, *others = linked or [Pool(self.policy, self._weights, now)]
        for other in others:
            pool.absorb(other)
        for lane in self.lanes:
            if lane.line.pool in others:
                lane.line.pool = pool
        joined = [name for name, theirs in self._pool_of.items() if theirs in others]
        self._pool_of |= dict.fromkeys((*names, *joined), pool)
        return pool


def _number(amount: float) -> str:
    return f"{amount:,.2f}".rstrip("0").rstrip(".") if amount >= 0.1 else f"{amount:.2g}"


def _ready_at(call: Call, blocker: Blocker, now: float, headroom: float) -> float | None:
    if isinstance(blocker, QuotaState):
        return blocker.breaker.paused(now)
    return blocker.ready_at(blocker.amount(call), now, headroom)

"""Mirrors one provider limit as a token bucket: reserve, charge, settle.

Law of this file: ``available = fill - reserved``. Fill and reservations are two numbers; one number
for both drifts away from the provider's.

Theory of operation. The provider takes a call's amount out of its own bucket when the request
arrives, some moment after we admitted it. If we took it out of our fill at admission, our fill
would start to refill before the provider's and run ahead of it. So an admitted amount is first
*reserved*, and is *charged* to the fill at the answer or a transit time after the request was sent,
whichever comes first. A commit and a busy event loop may lie between the admission and the request,
for as long as they take: what is not sent yet stays reserved. A fill is capped at its capacity, so
a charge that comes later leaves it lower or equal: what we call available is never more than what
the provider has, whatever the delays, as long as requests travel no longer than the transit time.

*Correcting*. An answer tells what remained at the provider: some count when the request arrived,
others when the answer left. The fill is compared at both times, and lowered by the smaller of the
two differences, so it never loses what is there. Refill that a full bucket lost, and what was
corrected since, are no part of a difference.

*Settling* corrects the charge to what was used. The fill rises to what it would be now, had the
unused part never been charged. If the bucket had been full in between, the unused part would have
overflowed, and so it has at the provider, which gave it back before we heard. So each charge keeps
its *room*: how much more the bucket could have taken at its fullest since the charge. No more than
the room comes back.

Concurrency is never charged: it is reserved while the call is in flight. A daily limit is charged
like the others, but is full again at the start of a day, and not before; ``refills.py`` has that,
and the windows of providers that count in windows. Of dollars a call must find all that it
reserves, for they are a cap; and of calls that may cost more than they reserve, one at a time is in
flight.

*Headroom*. Of a bucket, what a class leaves to more urgent ones is paid once, for the refill goes
on. A window gives nothing more than it has, so what was left would be lost at its end. There the
kept part is let go evenly over the window: at each moment a part of what is left of it stays.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import assert_never

from ...model.calls import Call, Outcome
from ...model.quotas import DAY_SECONDS, BucketState, Limit, Resource
from .refills import BLUR_SECONDS, Refill, Sliding, WindowEnd, refill_of
from .reservation import Reservation

TRANSIT_SECONDS = 0.5
"""The longest time that a request travels before we count it as charged, answer or not."""

_AMOUNTS: Mapping[Resource, Callable[[Call], float]] = {
    Resource.TOKENS: lambda call: call.tokens,
    Resource.TOKENS_PER_DAY: lambda call: call.tokens,
    Resource.INPUT_TOKENS: lambda call: call.input_tokens,
    Resource.OUTPUT_TOKENS: lambda call: call.output_tokens,
    Resource.ENQUEUED_TOKENS: lambda call: call.input_tokens,
    Resource.USD_PER_DAY: lambda call: call.usd,
}
"""The amount of a call that each limit counts; any other limit counts 1 for a call."""

_TRANSIT_SHARE = 0.05
"""The transit time is at first this share of the time in which the bucket fills, at most."""
KEPT_SECONDS = 10.0
"""Headroom is no more than refills in so many seconds. Of a bucket that holds a minute, 30 % would
be 18 s of the budget, which nobody has when only background calls are left."""
CALM_SECONDS = 600.0
"""How long no refusal comes by chance before a transit time that grew for one is halved."""
_EPSILON = 1e-9
"""Rounding of sums of floats, as a share of the capacity."""
_TICK_SECONDS = 1e-6
"""Epoch seconds are no finer than 2.4e-7 as floats: a time named for asking again is this much
late, so that it is later than now and finds the bucket filled."""


class Bucket:
    """One limit of one quota. All times are epoch seconds, given by the caller."""

    __slots__ = (
        "_amount",
        "_charged",
        "_cost_rate",
        "_in_transit",
        "_is_concurrency",
        "_is_money",
        "_kept_at",
        "_kept_since",
        "_lost",
        "_most_kept",
        "_rate",
        "_refill_kind",
        "_taken",
        "_transit_seconds",
        "_unbounded",
        "_unsent",
        "_was_full",
        "_widened_at",
        "as_of",
        "burst_at",
        "corrected_at",
        "fill",
        "is_daily",
        "limit",
        "quota",
        "reserved",
        "waited_at",
    )

    def __init__(self, quota: str, limit: Limit, now: float) -> None:
        self.quota: str = quota
        self._refill_kind: Refill | None = None
        self._set_limit(limit)
        self.fill: float = limit.capacity
        self.reserved: float = 0.0
        self.as_of: float = now
        self._unbounded = 0
        self._was_full = True
        self._kept_since: float = now
        self._kept_at: float | None = None
        self.waited_at: float | None = None
        """When an admission last found that a call waits for this bucket."""
        self.corrected_at: float | None = None
        """When an answer last showed that the provider had less, or no more for another one."""
        self.burst_at: float | None = None
        """When a full bucket was first used up by more than half since the last word on that."""
        # Refill that found the bucket full, and what corrections took; what was set aside. In all.
        self._lost = self._taken = 0.0
        # Admitted and not sent; then sent, in the order in which they become charges.
        self._unsent: dict[Reservation, None] = {}
        self._in_transit: deque[Reservation] = deque()
        # Charged and not settled, in the order of their charges.
        self._charged: dict[Reservation, None] = {}

    def change(
        self,
        limit: Limit,
        now: float,
        reservation: Reservation | None = None,
        remaining: float | None = None,
    ) -> None:
        """Go on with another limit for the same resource.

        What is free stays free, up to the new capacity: a raised limit fills up at its own rate.
        If it is raised by half, or counted in another way, because of an answer that told what
        ``remaining`` there was when the request of ``reservation`` came, that is free at once.
        """
        self._advance(now)
        before, old_capacity = self._refill_kind, self.limit.capacity
        grown = limit.capacity - old_capacity
        if grown < 0:
            # First, or the fill would be cut to the new capacity and charged for them after that.
            self._charge_all()
            for reservation in self._charged:
                reservation.room = max(0.0, reservation.room + grown)
        # Growth leaves every room as it is: what a full bucket lost under the old limit stays lost.
        self._set_limit(limit)
        if self._is_concurrency:
            self.fill = limit.capacity
        elif before is not None and before is self._refill_kind:
            self.fill += grown  # what was taken of a day or a window stays taken
        else:
            is_new = grown > 0.5 * old_capacity or before is not self._refill_kind
            if is_new and reservation is not None and remaining is not None:
                self._raise(reservation, remaining, now)
            self.fill = min(self.fill, limit.capacity)
            if isinstance(self._refill_kind, Sliding):
                self._refill_kind.note(now, limit.capacity - self.fill)
        self._forget_readings()

    def _raise(self, reservation: Reservation, remaining: float, now: float) -> None:
        """Add what the provider had more than we when a request came. Refill since then is not."""
        if reservation.level is not None and reservation.charge_at is not None:
            sent_at = reservation.charge_at - self._transit_seconds
            seconds = max(0.0, now - sent_at) + self._transit_seconds
            refilled = seconds * self.limit.per_second
            self.fill += max(0.0, remaining - reservation.level - refilled)

    def _set_limit(self, limit: Limit) -> None:
        self.limit: Limit = limit
        kind = refill_of(limit)
        match self._refill_kind, kind:
            case Sliding() as old, Sliding():
                old.seconds = kind.seconds
            case WindowEnd() as old, WindowEnd():
                old.period_seconds, old.starts = kind.period_seconds, kind.starts
            case _:
                self._refill_kind = kind
        self._rate: float = limit.per_second if self._refill_kind is None else 0.0
        # A window lets go what it kept before its end. Of concurrency a slot that is kept would
        # stand idle, and what is kept of a day would be lost.
        self._most_kept: float = limit.capacity if limit.per_second else 0.0
        if self._rate:
            self._most_kept = KEPT_SECONDS * self._rate
        self._amount = _AMOUNTS.get(limit.resource)
        self._is_concurrency = limit.resource.is_held
        self._is_money = limit.resource.is_money
        # Looked up once: admission asks for every call.
        self.is_daily: bool = limit.resource.is_daily
        self._cost_rate: float = limit.per_second or limit.capacity
        if self.is_daily:
            self._cost_rate = limit.capacity / DAY_SECONDS
        # A tiny bucket would lose all its refill to the transit time: bound that by a share of the
        # time in which the bucket fills.
        fill_seconds = limit.capacity / limit.per_second if limit.per_second else 0.0
        self._transit_seconds = min(TRANSIT_SECONDS, _TRANSIT_SHARE * fill_seconds)
        self._widened_at: float | None = None

    def amount(self, call: Call) -> float:
        """Return what ``call`` takes of this limit, in the resource's unit."""
        return 1 if self._amount is None else self._amount(call)

    def cost(self, call: Call) -> float:
        """Return how many seconds of refill ``call`` takes; of concurrency, its share of it."""
        return self.amount(call) / self._cost_rate

    def used(self, outcome: Outcome, reservation: Reservation) -> float:
        """Return what an attempt took of this limit in the end."""
        if not outcome.sent:
            return 0.0
        if outcome.refused:
            return self._spilled(reservation)
        match self.limit.resource:
            case Resource.TOKENS | Resource.TOKENS_PER_DAY if outcome.used_tokens is not None:
                return outcome.used_tokens
            case Resource.INPUT_TOKENS if outcome.usage is not None:
                return outcome.usage.input_tokens - outcome.free_input_tokens
            case Resource.OUTPUT_TOKENS if outcome.usage is not None:
                return outcome.usage.output_tokens
            case Resource.USD_PER_DAY if outcome.usd is not None:
                return outcome.usd
        return reservation.amount

    def _spilled(self, reservation: Reservation) -> float:
        """Return what a refused request takes: it may empty the bucket, but leaves no debt."""
        if self.limit.resource not in (Resource.REQUESTS, Resource.REQUESTS_PER_DAY):
            return 0.0
        fill = self.fill + (reservation.amount if reservation.charged else 0.0)
        return max(0.0, min(reservation.amount, fill))

    def available(self, now: float) -> float:
        """Return what a new call may take at ``now``; below 0 while in debt."""
        if now > self.as_of or self._in_transit:
            self._advance(now)
        return self.fill - self.reserved

    def never_passes(self, call: Call) -> bool:
        """Whether no wait can help: a call needs more dollars than there ever are."""
        return self._is_money and self.amount(call) > self.limit.largest

    def waits_for_another(self, call: Call) -> bool:
        """Whether ``call`` may cost more than it reserves, and another such call is in flight."""
        return call.unbounded and self._is_money and self._unbounded > 0

    def passes(self, amount: float, now: float, headroom: float = 0.0) -> bool:
        """Whether ``amount`` may be reserved: it is free, or the bucket is full."""
        deficit = self.need(amount, headroom) - self.available(now)
        if deficit <= _EPSILON * self.limit.capacity:
            return True
        if self._refill_kind is None or not headroom:
            return False
        kept = headroom * self._kept_share(self._refill_kind, now)
        deficit = self.need(amount, kept) - self.available(now)
        return deficit <= _EPSILON * self.limit.capacity

    def _kept_share(self, refill: Refill, now: float) -> float:
        """Return the share of its headroom that a window still keeps: evenly less until its end.

        A sliding window has no end. There it goes on from when a call first waited for what was
        kept, and anew when none has done so for the length of a window.
        """
        seconds = self.limit.window_seconds
        if isinstance(refill, WindowEnd):
            # What is charged near the end counts twice, so all is let go before.
            since = seconds - (refill.after(now) - now)
            return max(0.0, 1 - since / max(seconds / 2, seconds - BLUR_SECONDS - TRANSIT_SECONDS))
        self._kept_since, self._kept_at = self._lets_go_since(now), now
        return max(0.0, 1 - (now - self._kept_since) / seconds)

    def _lets_go_since(self, now: float) -> float:
        """Return from when on a sliding window lets go what it keeps."""
        is_waited_for = (
            self._kept_at is not None and now - self._kept_at <= self.limit.window_seconds
        )
        return self._kept_since if is_waited_for else now

    def need(self, amount: float, headroom: float = 0.0) -> float:
        """Return what must be free for ``amount``: at most what is ours, the rest becomes debt.

        ``headroom`` is the share of the capacity, from 0 to 1, that stays for more urgent calls; of
        a bucket that refills continuously, no more than refills in ``KEPT_SECONDS``.
        """
        most = self.limit.capacity if self._refill_kind is None else self._ours
        if headroom:
            amount += min(headroom * most, self._most_kept)
        return amount if amount < most or self._is_money else most

    def kept(self, amount: float, headroom: float) -> float:
        """Return how much of what must be free for ``amount`` is for more urgent calls."""
        return self.need(amount, headroom) - self.need(amount)

    @property
    def _ours(self) -> float:
        """How much of a window other clients of the key leave us, and never nothing."""
        others = self._refill_kind.others if isinstance(self._refill_kind, Sliding) else 0.0
        return max(1.0, self.limit.capacity - others)

    def ready_at(self, amount: float, now: float, headroom: float = 0.0) -> float | None:
        """Return when to ask again for ``amount``; None if only the end of a call can tell."""
        if self.passes(amount, now, headroom):
            return now
        deficit = self.need(amount, headroom) - self.available(now)
        limit = self.limit
        if self._is_concurrency:
            return None
        if self._refill_kind is not None:
            return self._ready_in_window(self._refill_kind, amount, now, headroom)
        if self.fill + deficit > (1 + _EPSILON) * limit.capacity:
            # The fill is capped below what is needed until reserved amounts become charges.
            if self._in_transit:
                return max(now, self._in_transit[0].charge_at or now)
            if self._unsent:
                return None  # they are sent first, and that is told
        return max(now, self.as_of) + deficit / limit.per_second + _TICK_SECONDS

    def _ready_in_window(
        self, refill: Refill, amount: float, now: float, headroom: float
    ) -> float | None:
        """Return when a window has room, or lets go what it kept; None: that is not known yet."""
        deficit = self.need(amount) - self.available(now)
        if deficit <= _EPSILON * self.limit.capacity:
            # Either enough of what is kept is let go, or something comes back before that.
            share = -deficit / (headroom * self._ours)
            seconds = max(0.0, self._kept_share(refill, now) - share) * self.limit.window_seconds
            times = (now + seconds, refill.ready_at(0.0, now))
            return min(at for at in times if at is not None and at >= now) + _TICK_SECONDS
        at = refill.ready_at(deficit - _EPSILON * self.limit.capacity, now)
        if at is not None and self.is_daily:
            return at
        if at is not None:
            return max(now, at) + _TICK_SECONDS
        # What is missing is still on its way: it comes back a window after its charge.
        if self._in_transit:
            return max(now, self._in_transit[0].charge_at or now) + _TICK_SECONDS
        return None

    def spares(self, amount: float, need: float, at: float, now: float) -> bool:
        """Whether ``amount`` may be taken at ``now`` and ``need`` be available again at ``at``."""
        if self._refill_kind is None:
            refills = max(0.0, at - now - self._transit_seconds) * self._rate
        else:
            refills = self._refill_kind.gain(now, at, self.limit.capacity)
        return self.available(now) - amount + refills + _EPSILON * self.limit.capacity >= need

    def refilled_at(self, amount: float, kept: float, now: float, opens_at: float) -> float | None:
        """Return when ``amount`` can have been taken in all, if nothing goes before ``opens_at``.

        ``kept``: the headroom that must be left. None if only the end of a call can tell.
        """
        rate = self.limit.per_second
        if self._is_concurrency:
            return None
        if isinstance(self._refill_kind, Sliding):
            return self._come_back_at(self._refill_kind, amount, kept, now, opens_at)
        amount += kept
        if isinstance(ends := self._refill_kind, WindowEnd):
            # What was taken beyond the limit is forgotten at the end of the window.
            free = max(0.0, self.available(now))
            windows = math.ceil((amount - free) / self.limit.capacity)
            after = (windows - 1) * ends.period_seconds
            return opens_at if windows < 1 else ends.after(opens_at) + after
        free = min(self.limit.capacity, self.available(now) + (opens_at - now) * rate)
        return opens_at + max(0.0, amount - free) / rate

    def _come_back_at(
        self, window: Sliding, amount: float, kept: float, now: float, opens_at: float
    ) -> float:
        """Return when a sliding window has ``amount``, beside what it still keeps of ``kept``."""
        seconds, at, free = self.limit.window_seconds, opens_at, self.available(now)
        all_let_go = self._lets_go_since(now) + seconds
        returns = [(entry.at + seconds, entry.amount) for entry in window.taken]
        for returned_at, returned in [*returns, (math.inf, 0.0)]:
            if free >= amount:
                share = min(1.0, (free - amount) / kept) if kept else 1.0
                let_go = max(at, all_let_go - share * seconds)
                if let_go <= returned_at:
                    return let_go
            if returned_at < math.inf:
                at, free = max(at, returned_at), free + returned
        return at + (amount - free) / self.limit.per_second

    def take(self, call: Call, now: float, *, is_sent: bool = True) -> Reservation:
        """Set aside what ``call`` takes. As :meth:`reserve`."""
        reservation = self.reserve(self.amount(call), now, is_sent=is_sent)
        if call.unbounded and self._is_money:
            reservation.unbounded = True
            self._unbounded += 1
        return reservation

    def reserve(self, amount: float, now: float, *, is_sent: bool = True) -> Reservation:
        """Set ``amount`` aside for a call that leaves at once, or when :meth:`send` says so."""
        self._advance(now)
        self.reserved += amount
        reservation = Reservation(amount, None)
        if not self._is_concurrency:
            self._taken += amount
            if is_sent:
                self._note_sent(reservation, now)
            else:
                self._unsent[reservation] = None
        return reservation

    def send(self, reservation: Reservation, at: float) -> None:
        """Note that the request of a reservation left ``at``. Once is enough."""
        if reservation not in self._unsent:
            return
        del self._unsent[reservation]
        self._advance(at)
        self._note_sent(reservation, at)

    def _note_sent(self, reservation: Reservation, at: float) -> None:
        due, in_transit = at + self._transit_seconds, self._in_transit
        # A charge that comes later is safe, and keeps them in order.
        last = in_transit[-1].charge_at if in_transit else None
        reservation.charge_at = due if last is None else max(due, last)
        reservation.level = self.fill - self.reserved
        reservation.after = reservation.level + self._taken
        reservation.lost = self._lost
        if self._was_full and 2 * reservation.level < self.limit.capacity:
            self._was_full = False
            if self.burst_at is None:  # else one that is full before each call would never tell
                self.burst_at = at
        in_transit.append(reservation)

    def take_over(self, call: Call, since: float | None, now: float) -> Reservation:
        """As :meth:`adopt`; but dollars of a call that was admitted today (``since``) come back.

        No refill has come between: the day is the same.
        """
        reservation = self.adopt(self.amount(call))
        if self._is_money:
            reservation.unbounded = call.unbounded
            self._unbounded += call.unbounded
            ends = self._refill_kind
            is_today = isinstance(ends, WindowEnd) and since is not None and ends.after(since) > now
            if is_today:
                reservation.room = self.limit.capacity - self.available(now)
                self._charged[reservation] = None
        return reservation

    def adopt(self, amount: float) -> Reservation:
        """Make the reservation of a call that was in flight when the stored state was written.

        The stored state counts it as spent, so only concurrency is reserved anew. Nothing of it
        can come back: how full the bucket has been since its charge is not known.
        """
        if not self._is_concurrency:
            return Reservation(amount, None, charged=True)
        self.reserved += amount
        return Reservation(amount, None)

    def settle(
        self, reservation: Reservation, used: float, now: float, *, refused: bool = False
    ) -> None:
        """End a reservation at what the call turned out to use; 0 gives all of it back.

        What was ``refused`` the provider never took: no debt stays of it.
        """
        self._advance(now)
        reservation.settled = True
        self._unbounded -= reservation.unbounded
        if not reservation.charged:
            self._unsent.pop(reservation, None)
            self.reserved -= reservation.amount
            self.fill -= 0.0 if self._is_concurrency else used
            self._note(used, now)
        elif isinstance(self._refill_kind, Sliding):
            self.fill += self._refill_kind.give_back(reservation, reservation.amount - used, now)
        elif used < reservation.amount:
            owed = max(0.0, -self.fill) if refused else 0.0
            self._give_back(reservation, reservation.amount - used, owed)
        else:
            self.fill -= used - reservation.amount
        self._charged.pop(reservation, None)

    def _note(self, amount: float, at: float, reservation: Reservation | None = None) -> None:
        """Tell a window what was charged."""
        if self._refill_kind is not None:
            self._refill_kind.note(at, amount, reservation)

    def drain(self, now: float, until: float | None = None, amount: float = 0.0) -> None:
        """Set what is available to 0, unless it is below: the provider's bucket is empty.

        If it told ``until`` when, then ``amount`` will be available at that time, and no more.
        """
        if self.limit.per_second:
            drained = max(0.0, self.available(now))
            self.fill -= drained
            if isinstance(self._refill_kind, Sliding) and self._refill_kind.is_told:
                self._refill_kind.others += drained
            else:
                self._note(drained, now)
            if until is not None and self._rate:
                self.as_of = max(self.as_of, until - max(0.0, amount - self.fill) / self._rate)

    def is_taken_by_others(self, now: float) -> bool:
        """Whether an answer has just shown that other clients of the key took what was there."""
        is_told = self.corrected_at is not None and now - self.corrected_at < BLUR_SECONDS
        return is_told and isinstance(self._refill_kind, Sliding) and self._refill_kind.others > 0

    def end_window(self, at: float) -> None:
        """Have all that was, or will be, charged before ``at`` come back then at the latest."""
        if isinstance(self._refill_kind, Sliding):
            self._refill_kind.end(at)

    def correct(
        self,
        reservation: Reservation,
        remaining: float,
        now: float,
        answered_from: float = math.inf,
    ) -> None:
        """Lower the fill to what the provider has, if an answer shows that it has less.

        ``remaining`` is what was left, rounded down, when the request of ``reservation`` had
        arrived, or when its answer left: a transit time ago, or ``answered_from`` on. The fill is
        never raised.
        """
        self._advance(now)
        if reservation.after is None:
            return
        if remaining < reservation.amount:
            self.corrected_at = now
        if not reservation.charged:  # its request has arrived
            self._charge(reservation)
        available, left = self.fill - self.reserved, remaining + 1
        at_arrival = reservation.after - left - (self._lost - reservation.lost)
        seconds = max(self._transit_seconds, now - answered_from)
        way_back = seconds * self._rate
        if self._refill_kind is not None:
            way_back = self._refill_kind.came_back_since(now - seconds)
        at_answer = available - way_back - (left - self.reserved)
        above, most = min(at_arrival, at_answer), max(at_arrival, at_answer)
        if isinstance(self._refill_kind, Sliding):
            # What remains is rounded down: by up to 1 it may be less.
            above = self._refill_kind.read(above, most + 1, now)
        elif above > 0:
            self._note(above, now)
        else:
            return
        self.fill -= above
        self._lost += above
        if above > 0:
            self.corrected_at = now

    def widen_transit(self, now: float) -> None:
        """Count requests as travelling twice as long: a refusal came that may be chance."""
        if self.limit.per_second:
            self._transit_seconds = min(TRANSIT_SECONDS, 2 * self._transit_seconds)
            self._widened_at = now

    def _forget_readings(self) -> None:
        """Compare no answer to a call that was sent under other limits, or on another day."""
        for reservation in (*self._in_transit, *self._charged):
            reservation.after = None

    def state(self, now: float, paused_until: float | None) -> BucketState:
        """Return what to store: reservations count as spent, because a crash cannot tell.

        It refills from the time at which the last of them has arrived at the latest.
        """
        resource, available = self.limit.resource, self.available(now)
        last = self._in_transit[-1].charge_at if self._in_transit else None
        if self._unsent:  # they leave now at the earliest
            last = max(last or now, now + self._transit_seconds)
        as_of = max(self.as_of, last or self.as_of)
        capacity = None if math.isinf(self.limit.capacity) else self.limit.capacity
        return BucketState(self.quota, resource, available, as_of, paused_until, capacity)

    def restore(self, state: BucketState, now: float) -> None:
        """Go on from a stored state. If the clock went back meanwhile, nothing has refilled."""
        if not self._is_concurrency:
            available = state.available
            if self.is_daily and state.capacity is not None:
                # Another limit may be stated since: what was taken of the day stays taken.
                available += self.limit.capacity - state.capacity
            self.fill = min(self.limit.capacity, available)
            self.as_of = min(state.as_of, now + self._transit_seconds)
            if isinstance(self._refill_kind, Sliding):
                self._refill_kind.note(self.as_of, self.limit.capacity - self.fill)
                # What was kept is let go from then on: how long before, nobody wrote down.
                self._kept_since = self._kept_at = self.as_of

    def _advance(self, now: float) -> None:
        in_transit = self._in_transit
        while in_transit:
            reservation = in_transit[0]
            if not (reservation.settled or reservation.charged):
                due = reservation.charge_at
                if due is None or due > now:
                    break
                self._refill(due)
                self._charge(reservation)
            in_transit.popleft()
        if now > self.as_of:
            self._refill(now)

    def _charge_all(self) -> None:
        for reservation in (*self._in_transit, *self._unsent):
            if not (reservation.settled or reservation.charged):
                self._charge(reservation)
        self._in_transit.clear()
        self._unsent.clear()

    def _charge(self, reservation: Reservation) -> None:
        self.reserved -= reservation.amount
        self.fill -= reservation.amount
        reservation.charged = True
        if reservation.after is not None:
            reservation.after -= self._taken
        reservation.room = self.limit.capacity - self.fill
        self._charged[reservation] = None
        if self._refill_kind is not None:
            self._refill_kind.note(self.as_of, reservation.amount, reservation)

    def _give_back(self, reservation: Reservation, unused: float, owed: float) -> None:
        """Raise the fill as if ``unused`` had not been charged, and adapt the rooms to that."""
        given = min(unused, max(reservation.room, owed))
        self.fill += given
        is_earlier = True
        for other in self._charged:
            if other is reservation:
                is_earlier = False
            elif is_earlier:
                other.room = min(other.room + unused, reservation.room) - given
            else:
                other.room -= given

    def _refill(self, now: float) -> None:
        if now > self.as_of:
            if self._refill_kind is not None:
                self._refill_window(self._refill_kind, now)
            refilled = self.fill + (now - self.as_of) * self._rate
            if refilled >= self.limit.capacity:
                self._lost += refilled - self.limit.capacity
                refilled = self.limit.capacity
                self._was_full = True
            self.fill = refilled
            self.as_of = now
            if self._widened_at is not None and now - self._widened_at > CALM_SECONDS:
                self._transit_seconds /= 2
                self._widened_at = now
            # Rooms grow from the earliest charge to the latest, so only the last ones can shrink.
            room = self.limit.capacity - self.fill
            for reservation in reversed(self._charged):
                if reservation.room <= room:
                    break
                reservation.room = room

    def _refill_window(self, refill: Refill, now: float) -> None:
        match refill:
            case WindowEnd():
                carried = refill.carried(self.as_of, now)
                if carried is not None:
                    self.fill = self.limit.capacity - carried
                    self._forget_readings()
            case Sliding():
                self.fill += refill.come_back(now)
            case _:
                assert_never(refill)

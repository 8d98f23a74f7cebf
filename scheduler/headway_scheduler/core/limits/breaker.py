"""Stops asking a provider that fails, and probes it. Law of this file: pure; it counts and times.

Theory of operation. A call that failed by the provider's fault goes again after a pause of its own,
as long as there is *retry budget*: each answer earns a tenth of a retry. Without budget the breaker
*opens*: the whole quota pauses, each time twice as long, and its calls have no pauses of their own
any more. After the pause (*half-open*) the most urgent call goes alone, as a *probe*. Each answer
lets one more call go at once, and the breaker closes when answers have earned a whole retry. A
fault starts the next pause, after which another call probes first: the fault may have been the
call's own. So a provider that is down costs one request per pause, a flaky provider is asked
little, and the waiting calls are still in order when the provider comes back. While answers come
between the faults, it is not down, and pauses grow to 16 s and no further.

A lane of the provider for which it has no capacity (the ``short`` ones here) has a quota of its
own, and so a breaker: its first refusal opens it, pauses are longer, and nothing counts as a fault.

A locked-out account stops the quota, because no pause mends that. One call tries again when an
operator resumes the quota, or when a new process begins.
"""

import json
from dataclasses import dataclass, field

from ...model.formulas import backoff_seconds, short_seconds

RETRIES_PER_ANSWER = 0.1
"""Retries that an answer adds to the retry budget."""
FIRST_RETRIES = 3.0
"""The retry budget at the beginning."""
MOST_RETRIES = 10.0
"""The most retries that the budget saves up."""
MOST_PAUSES_OF_FLAKY = 5
"""After so many pauses, of 1 to 16 s, the next are no longer while the provider answers in between.
With shorter ones more than a tenth of the calls of ``benchmarks.chaos`` go again, in some seeds."""
ASIDE_SECONDS = 1.0
"""How much longer than the other calls a failed probe waits."""


@dataclass(slots=True, eq=False)
class Breaker:
    """The circuit breaker of one quota."""

    paused_until: float | None = None
    """No call is sent before this time, in epoch seconds; None: never paused."""
    retries: float = FIRST_RETRIES
    """The retry budget: how many failed calls may go again without opening the breaker."""
    pauses: int = 0
    """Pauses in a row; 0 while the breaker is closed."""
    window: int = 1
    """While it is open: how many probes may be in flight at once."""
    probes: set[str] = field(default_factory=set[str])
    """While it is open: ids of the calls in flight that probe."""
    failed_probe: str | None = None
    """The id of the last probe that failed."""
    failed_calls: set[str] = field(default_factory=set[str])
    """Ids of calls that failed by the provider's fault since its last answer, two at most."""
    stopped: str | None = None
    """The provider's words that no call of this account gets through; None: not stopped."""
    is_short: bool = False
    """Whether it is open because the provider has no capacity, and for no fault."""
    short_since: float | None = None
    """Since when the provider has had no capacity, in epoch seconds; None: it has some, as far as
    is known."""

    @property
    def is_open(self) -> bool:
        """Whether calls go only as probes."""
        return self.pauses > 0

    @property
    def is_faulty(self) -> bool:
        """Whether it is open for a fault, not only for lack of capacity."""
        return self.is_open and not self.is_short

    @property
    def is_unanswered(self) -> bool:
        """Whether no call got an answer since the last pause for a fault."""
        return self.is_open and self.window == 1

    @property
    def fails_one_alone(self) -> bool:
        """Whether the faults since the last answer were all of one call: perhaps its own."""
        return len(self.failed_calls) == 1

    def paused(self, now: float) -> float | None:
        """Return when the pause ends, epoch seconds; None if there is none."""
        until = self.paused_until
        return until if until is not None and until > now else None

    def is_shut(self, now: float) -> bool:
        """Whether no call may go now."""
        is_full = self.is_open and len(self.probes) >= self.window
        return is_full or self.stopped is not None or self.paused(now) is not None

    def pause(self, until: float) -> None:
        """Let nothing go before ``until``."""
        self.paused_until = max(self.paused_until or 0.0, until)

    def admit(self, call_id: str) -> None:
        """Note an admitted call: while the breaker is open, it is a probe."""
        if self.is_open:
            self.probes.add(call_id)

    def record_answer(self) -> bool:
        """Record that the provider answered. Return whether that lets more calls go."""
        self.retries = min(MOST_RETRIES, self.retries + RETRIES_PER_ANSWER)
        was_open = self.is_open
        self.failed_calls.clear()
        self.short_since = None
        if self.is_open:
            self.window += 1
            self.stopped = None
            if self.retries >= 1:
                self.pauses = 0
                self.probes.clear()
                self.is_short = False
        return was_open

    def record_failure(self, call_id: str, now: float) -> bool:
        """Record a fault of the provider. Return whether the breaker is open now."""
        if len(self.failed_calls) < 2:
            self.failed_calls.add(call_id)
        if self.is_open and call_id not in self.probes:
            return True  # sent before the breaker opened: it tells nothing new
        if not self.is_open and self.retries >= 1:
            self.retries -= 1
            return False
        self.failed_probe = call_id if self.is_open else None
        if not self.is_unanswered:
            self.pauses = min(self.pauses, MOST_PAUSES_OF_FLAKY - 1)
        self._open()
        self.pause(now + backoff_seconds(self.pauses))
        return True

    def record_no_capacity(self, call_id: str, now: float) -> bool:
        """Record that the provider had no capacity for a call. Return whether that is news."""
        if self.is_open and call_id not in self.probes:
            return False  # sent before the breaker opened
        since = now if self.short_since is None else self.short_since
        self._open()
        # The call keeps its place: that it was refused says nothing about it.
        self.is_short, self.short_since, self.failed_probe = True, since, None
        self.pause(now + short_seconds(self.pauses))
        return True

    def _open(self) -> None:
        self.is_short, self.short_since = False, None
        self.pauses += 1
        self.window, self.retries = 1, 0.0
        self.probes.clear()

    def rest(self) -> None:
        """Let one call go when the pause ends, and the others when that is answered."""
        self._open()

    def stop(self, error: str) -> None:
        """Let nothing go until somebody has mended the account; ``error``: the provider's words."""
        self.stopped = error
        self._open()

    def try_again(self) -> None:
        """Let one call try although the quota is stopped; if it is answered, it is open again."""
        self.stopped = None
        self.retries = max(self.retries, 1 - RETRIES_PER_ANSWER)

    def not_before(self, call_id: str) -> float | None:
        """Return when a failed call may go again, epoch seconds; None: it may be the next probe."""
        if call_id != self.failed_probe or self.paused_until is None:
            return None
        return self.paused_until + ASIDE_SECONDS

    def end(self, call_id: str) -> None:
        """Note that a call has ended, with an answer or without: another may probe in its place."""
        self.probes.discard(call_id)

    def dump(self) -> str:
        """Write the state down; the time of the pause is stored with the buckets."""
        known = [round(self.retries, 3), self.pauses, self.stopped]
        return json.dumps([*known, self.short_since] if self.is_short else known)

    def load(self, text: str) -> None:
        """Go on from what was written down. Raises ValueError or TypeError, and changes nothing."""
        retries, pauses, stopped, *short = json.loads(text)
        if not (0 <= float(retries) <= MOST_RETRIES and int(pauses) >= 0):
            raise ValueError("no state of a breaker")
        if not (stopped is None or isinstance(stopped, str)):
            raise TypeError("what a provider says is a text")
        if len(short) > 1 or not all(isinstance(each, int | float | None) for each in short):
            raise ValueError("no state of a breaker")
        self.retries, self.pauses, self.stopped = float(retries), int(pauses), stopped
        self.is_short, self.short_since = bool(short), next(iter(short), None)

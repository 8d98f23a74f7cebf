"""Whether a provider is asked at all, after it failed. Law of this file: pure; it counts and times.

Theory of operation. A call that failed by the provider's fault goes again after a pause of its own,
as long as there is *retry budget*: each answer earns a tenth of a retry. Without budget the breaker
opens: the whole quota pauses, each time twice as long, and no call of it has a pause of its own any
more. After the pause the most urgent call goes alone, as a *probe*. An answer lets one more go at
once than before, and the breaker closes when answers have earned a retry. A fault makes it pause
again, and then the next call is the first to try, for the fault may have been that call's own. So a
provider that is down costs one request a pause, one that is flaky is asked little, and who waits
for it still stands in order when it comes back.

An account that is locked out stops the quota: no pause mends that. When an operator says so, or a
new process begins, one call tries again.
"""

import json
from dataclasses import dataclass, field

from ...model.formulas import backoff_seconds

RETRIES_PER_ANSWER = 0.1
FIRST_RETRIES = 3.0
MOST_RETRIES = 10.0
ASIDE_SECONDS = 1.0
"""How much longer than the others a failed probe waits."""


@dataclass(slots=True, eq=False)
class Breaker:
    """Of one quota. ``pauses`` in a row, 0 while it is closed.

    While it is open, ``probes`` are the calls that try, at most ``window`` at once, and
    ``failed_probe`` is the last one that failed. ``stopped``: the provider's words that no call of
    this account gets through.
    """

    paused_until: float | None = None
    retries: float = FIRST_RETRIES
    pauses: int = 0
    window: int = 1
    probes: set[str] = field(default_factory=set[str])
    failed_probe: str | None = None
    stopped: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether calls go only to try."""
        return self.pauses > 0

    @property
    def is_unanswered(self) -> bool:
        """Whether nobody got an answer since it last paused for a fault."""
        return self.is_open and self.window == 1

    def paused(self, now: float) -> float | None:
        """When the pause ends, if there is one."""
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
        """Take note of a call that goes."""
        if self.is_open:
            self.probes.add(call_id)

    def record_answer(self) -> bool:
        """Take note that the provider lives. Return whether more may go for that."""
        self.retries = min(MOST_RETRIES, self.retries + RETRIES_PER_ANSWER)
        was_open = self.is_open
        if self.is_open:
            self.window += 1
            self.stopped = None
            if self.retries >= 1:
                self.pauses = 0
                self.probes.clear()
        return was_open

    def record_failure(self, call_id: str, now: float) -> bool:
        """Take note of a fault. Return whether the breaker is open."""
        if self.is_open and call_id not in self.probes:
            return True  # it was sent before; its like is known already
        if not self.is_open and self.retries >= 1:
            self.retries -= 1
            return False
        self.failed_probe = call_id if self.is_open else None
        self._open()
        self.pause(now + backoff_seconds(self.pauses))
        return True

    def _open(self) -> None:
        self.pauses += 1
        self.window, self.retries = 1, 0.0
        self.probes.clear()

    def stop(self, error: str) -> None:
        """Let nothing go until somebody has mended what ``error`` says."""
        self.stopped = error
        self._open()

    def try_again(self) -> None:
        """Let one call try although the quota is stopped."""
        self.stopped = None

    def not_before(self, call_id: str) -> float | None:
        """Before when a call that failed is not tried again; None if it may be the next probe."""
        if call_id != self.failed_probe or self.paused_until is None:
            return None
        return self.paused_until + ASIDE_SECONDS

    def end(self, call_id: str) -> None:
        """Let another call try when this one has ended, however it did."""
        self.probes.discard(call_id)

    def dump(self) -> str:
        """Write down how it stands; pauses are stored with the buckets."""
        return json.dumps([round(self.retries, 3), self.pauses, self.stopped])

    def load(self, text: str) -> None:
        """Go on from what was written down."""
        self.retries, self.pauses, self.stopped = json.loads(text)

"""Limits that are stated wrongly, change in mid-run, or are not told: how soon are they met?

``python -m benchmarks.limits``. The real core in simulated time, always with more to send than is
allowed, against a provider that enforces token buckets. Each row is ten minutes; utilisation is of
the scarcer limit, from one minute after the start, or after the change, to the end. No time of this
machine is in it: the same numbers come again.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush

from headway_scheduler.core.scheduler import Scheduler
from headway_scheduler.model.calls import Call, Outcome, Priority, Usage
from headway_scheduler.model.quotas import Observation, ProviderEvent, Quota
from headway_scheduler.model.states import CallState
from headway_scheduler.protocol.messages import Observe, Settle, Submit
from headway_scheduler.providers import PROVIDERS
from headway_scheduler.testing.provider.gate import Gate
from headway_scheduler.testing.provider.limits import Limits

SECONDS = 600.0
CHANGE_AT = 240.0
REQUESTS, TOKENS = 500.0, 450_000.0
QUEUED = 50
QUOTA = "q"


@dataclass(frozen=True)
class Row:
    """One scenario. ``stated`` is how much of the true limits is stated; ``after`` the change."""

    name: str
    stated: float = 1.0
    after: float = 1.0
    burst_seconds: float = 60.0
    has_headers: bool = True
    is_guess: bool = True


@dataclass
class Tally:
    """What came of it, from a minute after the start or the change on."""

    tokens: float = 0.0
    requests: int = 0
    refused: int = 0
    sent: int = 0


@dataclass
class World:
    """The core, the provider, and what is on its way between them."""

    row: Row
    seed: int
    now: float = 0.0
    tally: Tally = field(default_factory=Tally)
    events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    count: int = 0
    waiting: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        limits = {"requests": REQUESTS * self.row.stated, "tokens": TOKENS * self.row.stated}
        quota = Quota.per_minute(QUOTA, **limits)
        self.core = Scheduler([Quota(QUOTA, quota.limits, self.row.is_guess)], 0.0)
        self.gate = Gate(self._limits(1.0), 0.0)

    def run(self) -> Tally:
        """Ten minutes."""
        changed = self.row.after == 1.0
        while self.now < SECONDS:
            if not changed and self.now >= CHANGE_AT:
                changed, self.gate = True, Gate(self._limits(self.row.after), self.now)
                for name, bucket in self.gate._buckets.items():
                    self.gate._buckets[name] = bucket.taken(bucket.fill, self.now)
            self._step()
        return self.tally

    def _limits(self, share: float) -> Limits:
        burst = self.row.burst_seconds
        return Limits(REQUESTS * share, TOKENS * share, burst_seconds=burst)

    def _step(self) -> None:
        while self.waiting < QUEUED:
            self.count += 1
            self.waiting += 1
            tokens = max(50, int(self.random.lognormvariate(6.5, 0.7)))
            call = Call(
                f"c{self.count}", "r", "w", "m", (QUOTA,), Priority.NORMAL, tokens, self.now
            )
            self.core.handle(Submit(call), self.now)
        for record in self.core.admit(self.now):
            self.waiting -= 1
            arrives = self.now + self.random.uniform(0.02, 0.2)
            self._at(arrives, lambda call=record.call: self._arrive(call))
        self.core.take_batch(self.now)
        ask_at = self.core.next_event(self.now)
        if self.events and (ask_at is None or self.events[0][0] <= ask_at):
            self.now, _, act = heappop(self.events)
            act()
        else:
            assert ask_at is not None
            self.now = ask_at

    def _at(self, when: float, act: Callable[[], None]) -> None:
        heappush(self.events, (when, self.count, act))
        self.count += 1

    def _arrive(self, call: Call) -> None:
        counted = call.tokens * self.random.uniform(0.97, 1.03)
        refusal = self.gate.admit("m", int(counted), self.now)
        headers = self.gate.headers(self.now) if self.row.has_headers else {}
        if self._is_counted:
            self.tally.sent += 1
            self.tally.refused += refusal is not None
            self.tally.tokens += counted if refusal is None else 0.0
            self.tally.requests += refusal is None
        if refusal is not None:
            pause = float(refusal.headers().get("retry-after-ms", 1000)) / 1000
            back = self.now + 0.05
            self._at(back, lambda: self._refused(call, headers, pause))
            return
        self.gate.leave()
        done = self.now + self.random.uniform(1.0, 6.0)
        self._at(self.now + 0.05, lambda: self._heard(call, headers))
        self._at(done, lambda: self._done(call))

    @property
    def _is_counted(self) -> bool:
        return self.now >= (60.0 if self.row.after == 1.0 else CHANGE_AT + 60.0)

    def _heard(self, call: Call, headers: dict[str, str]) -> None:
        told = PROVIDERS["openai"].rate_limits(headers, self.now)
        signals = Observation(event=ProviderEvent.ANSWERED, headers=told)
        self.core.handle(Observe(call.id, {QUOTA: signals}), self.now)

    def _refused(self, call: Call, headers: dict[str, str], pause: float) -> None:
        told = PROVIDERS["openai"].rate_limits(headers, self.now)
        signals = Observation(self.now + pause, ProviderEvent.REFUSED, told)
        self.core.handle(Observe(call.id, {QUOTA: signals}), self.now)
        self.core.handle(
            Settle(call.id, Outcome(CallState.QUEUED, error="429", refused=True)), self.now
        )
        self.waiting += 1

    def _done(self, call: Call) -> None:
        self.core.handle(Settle(call.id, Outcome(CallState.DONE, Usage(call.tokens, 0))), self.now)


ROWS = [
    Row(f"{name}{headers}", stated, after, burst, bool(not headers), guess)
    for headers in ("", ", no headers")
    for name, stated, after, burst, guess in (
        ("right, burst 60 s", 1.0, 1.0, 60.0, True),
        ("right, burst 10 s", 1.0, 1.0, 10.0, True),
        ("right, burst 1 s", 1.0, 1.0, 1.0, True),
        ("x 4, burst 60 s", 4.0, 1.0, 60.0, True),
        ("x 4, burst 10 s", 4.0, 1.0, 10.0, True),
        ("x 0.25, burst 60 s", 0.25, 1.0, 60.0, True),
        ("x 0.25, burst 10 s", 0.25, 1.0, 10.0, True),
        ("halved, burst 60 s", 1.0, 0.5, 60.0, True),
        ("doubled, burst 60 s", 1.0, 2.0, 60.0, True),
        ("x 4, stated for good", 4.0, 1.0, 60.0, False),
        ("halved, stated for good", 1.0, 0.5, 60.0, False),
    )
]


def main() -> None:
    """Print the table, its bar beside each figure."""
    print(f"{'limits':38}{'utilisation (0.95)':>20}{'429s in 1,000':>16}{'bar':>6}")
    for row in ROWS:
        tallies = [World(row, seed).run() for seed in range(3)]
        seconds = SECONDS - (60.0 if row.after == 1.0 else CHANGE_AT + 60.0)
        use = [
            max(t.tokens / (TOKENS * row.after), t.requests / (REQUESTS * row.after)) * 60 / seconds
            for t in tallies
        ]
        refused = [1000 * t.refused / t.sent for t in tallies]
        bar = 1 if row.has_headers else 60
        print(f"{row.name:38}{min(use):>20.3f}{max(refused):>16.2f}{bar:>6}")


if __name__ == "__main__":
    main()

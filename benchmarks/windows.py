"""Windows of providers: how much of what they allow is used, and how often they refuse.

    python -m benchmarks.windows [--quick]

The real core in simulated time, against the simulated provider's own limits. No time of this
machine is in it: the same numbers come again. Requests travel for 20 to 100 ms there, and answers
leave after 0.3 to 1.5 s.

First table: ten minutes with more to send than is allowed, of which the first is not counted. A
provider counts in a window of some kind, with or without headers; the limit is stated, or a guess
of 500 requests a minute; the calls are all of class background, or a tenth of the allowed rate is
interactive, a fifth is normal, and the rest is background. *used*: of what the windows allow.
*refused*: of 1,000 requests. *urgent*: the median wait of interactive calls, in seconds.

Second table: 160 calls of 40 teams at once, four each, one after the other (25 background, 10
normal, 5 interactive). *floor*: the earliest end that the windows allow. The bars are for a user
who states the window, too: what nobody knows is paced.
"""

import argparse
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from statistics import median

from headway_agents.calls.errors import Retry, next_step
from headway_scheduler.core.policy import Policy
from headway_scheduler.core.scheduler import Scheduler
from headway_scheduler.model.calls import Call, Outcome, Priority, Usage
from headway_scheduler.model.quotas import Observation, ProviderEvent, Quota, Resource, Window
from headway_scheduler.model.states import CallState
from headway_scheduler.protocol.messages import MarkSent, Observe, Settle, Submit
from headway_scheduler.providers import PROVIDERS, Failure
from headway_scheduler.testing.provider.gate import Gate
from headway_scheduler.testing.provider.limits import HeaderStyle, Limits
from headway_scheduler.testing.provider.windows import WindowKind

QUOTA = "q"
START = 1_772_366_417.0
"""Not at a whole minute."""
QUEUED = 60
GUESS = 500.0
USED_BAR = 0.90
REFUSED_BARS = {True: 10.0, False: 30.0}
"""By whether the limit is stated."""
BACKGROUND_BAR = 0.95
FLOOD_REFUSED_BAR = 5.0
SHARED_BAR = 20.0
TEAMS = [Priority.BACKGROUND] * 25 + [Priority.NORMAL] * 10 + [Priority.INTERACTIVE] * 5
CALLS_OF_TEAM = 4


@dataclass(frozen=True)
class Kind:
    """A provider, as it counts and as it tells."""

    name: str
    limits: Limits
    provider: str = "openai"

    @property
    def per_second(self) -> float | None:
        """Requests that it allows; None: only how many are in flight counts."""
        rpm = self.limits.requests_per_minute
        return None if rpm is None else rpm / 60


def _limits(
    rpm: float | None,
    window: WindowKind,
    seconds: float = 60.0,
    headers: HeaderStyle = HeaderStyle.NONE,
    burst: float = 60.0,
    concurrency: int | None = None,
) -> Limits:
    return Limits(
        rpm,
        burst_seconds=burst,
        concurrency=concurrency,
        window=window,
        window_seconds=seconds,
        headers=headers,
    )


BUCKET, SLIDING, FIXED = WindowKind.BUCKET, WindowKind.SLIDING, WindowKind.FIXED
MINUTE, OPENAI, AZURE = WindowKind.MINUTE, HeaderStyle.OPENAI, HeaderStyle.AZURE
LITELLM, REMAINING = HeaderStyle.LITELLM, HeaderStyle.REMAINING
KINDS = (
    Kind("bucket of 60 s, 600/min", _limits(600, BUCKET)),
    Kind("bucket of 60 s, 600/min, headers", _limits(600, BUCKET, headers=OPENAI)),
    Kind("bucket of 1 s, 600/min", _limits(600, BUCKET, burst=1)),
    Kind("bucket of 1 s, 600/min, headers", _limits(600, BUCKET, burst=1, headers=OPENAI)),
    Kind("sliding, 600/min", _limits(600, SLIDING)),
    Kind("sliding, 600/min, headers", _limits(600, SLIDING, headers=OPENAI)),
    Kind("fixed, 600/min", _limits(600, FIXED)),
    Kind("fixed, 600/min, headers", _limits(600, FIXED, headers=OPENAI)),
    Kind("calendar minute, 600/min", _limits(600, MINUTE)),
    Kind("calendar minute, 600/min, headers", _limits(600, MINUTE, headers=OPENAI)),
    Kind("Azure: sliding, 20 in 10 s", _limits(120, SLIDING, 10, AZURE), "azure"),
    Kind("Azure: the same, remaining alone", _limits(120, SLIDING, 10, REMAINING), "azure"),
    Kind("LiteLLM key: fixed, 60 in 10 s", _limits(360, FIXED, 10, LITELLM)),
)
FLOODS = (
    (Kind("bucket, 60/min", _limits(60, BUCKET)), 110.0, 1.1),  # less the headroom of background
    (Kind("sliding, 60/min", _limits(60, SLIDING)), 120.0, 1.1),
    (Kind("sliding, 60/min, headers", _limits(60, SLIDING, headers=OPENAI)), 120.0, 1.1),
    (Kind("fixed, 60/min", _limits(60, FIXED)), 120.0, 1.1),
    (Kind("fixed, 60/min, headers", _limits(60, FIXED, headers=OPENAI)), 120.0, 1.1),
    (Kind("calendar minute, 60/min", _limits(60, MINUTE)), 103.0, 1.1),
    (Kind("LiteLLM key: 60 in 10 s", _limits(360, FIXED, 10, LITELLM)), 21.0, 25 / 21),
    (
        Kind("LiteLLM key: 4 at once", _limits(None, BUCKET, headers=LITELLM, concurrency=4)),
        36.0,
        20 / 14,
    ),
    (Kind("4 at once, in no header", _limits(None, BUCKET, concurrency=4)), 36.0, 20 / 14),
)


@dataclass
class Tally:
    """What came of it, from a minute after the start on."""

    accepted: int = 0
    refused: int = 0
    waits: list[float] = field(default_factory=list[float])
    """Of interactive calls."""
    by_class: dict[Priority, int] = field(default_factory=dict[Priority, int])

    @property
    def refused_of_1000(self) -> float:
        return 1000 * self.refused / max(1, self.accepted + self.refused)


@dataclass
class World:
    """The core, the provider, and what is on its way between them."""

    kind: Kind
    quota: Quota
    seed: int
    counted_from: float = 60.0
    odd_header_at: float | None = None
    """When one answer tells a limit and a rest of 1."""
    others: float = 0.0
    """The share of the allowed rate that another client of the same key takes."""
    now: float = START
    tally: Tally = field(default_factory=Tally)
    events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    attempts: dict[str, int] = field(default_factory=dict[str, int])
    submitted_at: dict[str, float] = field(default_factory=dict[str, float])
    count: int = 0
    waiting: int = 0
    ended: Callable[[Call], None] = lambda _: None

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.core = Scheduler([self.quota], self.now, Policy(), own="here")
        self.gate = Gate(self.kind.limits, self.now)
        self.provider = PROVIDERS[self.kind.provider]
        if self.others and self.kind.per_second is not None:
            for at in _arrivals(self.random, self.others * self.kind.per_second, START + 600):
                self.at(at, self._other)

    def submit(self, priority: Priority, team: str = "t") -> None:
        self.count += 1
        name = f"c{self.count}"
        self.submitted_at[name] = self.now
        call = Call(name, team, team, "m", (QUOTA,), priority, 1, self.now)
        self.core.handle(Submit(call), self.now, "here")
        self.waiting += 1

    def at(self, when: float, act: Callable[[], None]) -> None:
        self.count += 1
        heappush(self.events, (when, self.count, act))

    def _other(self) -> None:
        if self.gate.admit("m", 1, self.now) is None:
            self.at(self.now + 1.0, self.gate.leave)

    def step(self, until: float) -> None:
        """Admit what may go, and let the next thing happen."""
        for record in self.core.admit(self.now):
            self.waiting -= 1
            self.at(self.now + 0.002, lambda call=record.call: self._send(call))
        self.core.take_batch(self.now)
        ask_at = self.core.next_event(self.now)
        times = [t for t in (ask_at, self.events[0][0] if self.events else None) if t is not None]
        if not times or min(times) > until:
            self.now = until
        elif self.events and self.events[0][0] == min(times):
            self.now, _, act = heappop(self.events)
            act()
        else:
            self.now = min(times)

    def _send(self, call: Call) -> None:
        self.core.handle(MarkSent(call.id, self.now), self.now, "here")
        self.attempts[call.id] = self.attempts.get(call.id, 0) + 1
        self.at(self.now + self.random.uniform(0.01, 0.05), lambda: self._arrive(call))

    def _arrive(self, call: Call) -> None:
        refusal = self.gate.admit("m", 1, self.now)
        headers = self.gate.headers(self.now)
        is_counted = self.now - START >= self.counted_from
        back = self.now + self.random.uniform(0.01, 0.05)
        if refusal is not None:
            self.tally.refused += is_counted
            headers |= refusal.headers()
            body, text = refusal.body(), refusal.message
            self.at(back, lambda: self._refused(call, headers, body, text))
            return
        if self.odd_header_at is not None and self.now - START >= self.odd_header_at:
            self.odd_header_at = None
            headers = dict.fromkeys(headers, "1")
        self.tally.accepted += is_counted
        if is_counted:
            by_class = self.tally.by_class
            by_class[call.priority] = by_class.get(call.priority, 0) + 1
            if call.priority is Priority.INTERACTIVE:
                self.tally.waits.append(self.now - self.submitted_at[call.id])
        answer = self.now + self.random.uniform(0.3, 1.5)
        self.at(answer, self.gate.leave)
        self.at(answer + self.random.uniform(0.01, 0.05), lambda: self._done(call, headers))

    def _done(self, call: Call, headers: dict[str, str]) -> None:
        told = self.provider.rate_limits(headers, self.now)
        signals = Observation(event=ProviderEvent.ANSWERED, headers=told)
        self.core.handle(Observe(call.id, {QUOTA: signals}), self.now, "here")
        done = Outcome(CallState.DONE, Usage(1, 0))
        self.core.handle(Settle(call.id, done), self.now, "here")
        self.ended(call)

    def _refused(self, call: Call, headers: dict[str, str], body: object, text: str) -> None:
        told = self.provider.rate_limits(headers, self.now)
        self.core.handle(Observe(call.id, {QUOTA: Observation(headers=told)}), self.now, "here")
        failure = Failure(429, headers, body, text)
        verdict = self.provider.judge(failure, self.attempts[call.id], self.now)
        step = next_step(verdict, text, self.now, head=None, quota=QUOTA, routes=(), faults=0)
        assert isinstance(step, Retry)
        message = Settle(call.id, step.outcome, {QUOTA: step.observation})
        self.core.handle(message, self.now, "here")
        self.waiting += 1


def quota_of(kind: Kind, *, is_stated: bool, knows_window: bool = False) -> Quota:
    """Return what a user states of a provider, or the guess of one who states nothing."""
    if not is_stated:
        return Quota.stated(QUOTA, {Resource.REQUESTS: GUESS}, burst_seconds=None, is_guess=True)
    limits: dict[Resource, float | None] = {
        Resource.REQUESTS: kind.limits.requests_per_minute,
        Resource.CONCURRENCY: kind.limits.concurrency,
    }
    if not knows_window:
        return Quota.stated(QUOTA, limits, burst_seconds=None)
    window, seconds = Window(str(kind.limits.window)), kind.limits.window_seconds
    return Quota.stated(
        QUOTA,
        limits,
        burst_seconds=kind.limits.burst_seconds,
        window=window,
        window_seconds=seconds,
    )


def saturated(kind: Kind, priorities: str, *, is_stated: bool, seed: int, **more: float) -> Tally:
    """Ten minutes with more to send than is allowed."""
    world = World(kind, quota_of(kind, is_stated=is_stated), seed, **more)  # type: ignore[arg-type]
    assert kind.per_second is not None
    end = START + 600
    if priorities == "all":
        for priority, share in ((Priority.INTERACTIVE, 0.1), (Priority.NORMAL, 0.2)):
            for at in _arrivals(world.random, share * kind.per_second, end):
                world.at(at, lambda priority=priority: world.submit(priority))
    rest = Priority.INTERACTIVE if priorities == "interactive" else Priority.BACKGROUND
    while world.now < end:
        while world.waiting < QUEUED:
            world.submit(rest)
        world.step(end)
    return world.tally


def _arrivals(rng: random.Random, per_second: float, end: float) -> Iterator[float]:
    at = START
    while (at := at + rng.expovariate(per_second)) < end:
        yield at


def flood(
    kind: Kind, *, is_stated: bool, seed: int, knows_window: bool = False
) -> tuple[float, Tally]:
    """160 calls of 40 teams. Return the seconds until the last answer."""
    quota = quota_of(kind, is_stated=is_stated, knows_window=knows_window)
    world = World(kind, quota, seed, counted_from=0.0)
    left = {f"t{n}": CALLS_OF_TEAM for n in range(len(TEAMS))}

    def go_on(call: Call) -> None:
        left[call.run_id] -= 1
        if left[call.run_id]:
            world.submit(call.priority, call.run_id)

    world.ended = go_on
    for number, priority in enumerate(TEAMS):
        world.submit(priority, f"t{number}")
    while any(left.values()):
        world.step(world.now + 600)
        if world.now - START > 3_600:
            break
    return world.now - START, world.tally


def used(kind: Kind, tally: Tally, seconds: float = 540.0) -> float:
    """Return the share of what the windows allow."""
    assert kind.per_second is not None
    return tally.accepted / (kind.per_second * seconds)


def _first_table(seeds: range) -> int:
    print(f"{'':36}{'stated':>28}{'unknown':>28}")
    print(f"{'ten minutes, saturated':36}" + f"{'used':>12}{'refused':>9}{'urgent':>7}" * 2)
    missed = 0
    for kind in KINDS:
        alone = {}
        for priorities in ("background", "all", "interactive"):
            cells = []
            for is_stated in (True, False):
                runs = [
                    saturated(kind, priorities, is_stated=is_stated, seed=seed) for seed in seeds
                ]
                share = min(used(kind, each) for each in runs)
                refused = max(each.refused_of_1000 for each in runs)
                waits = [wait for each in runs for wait in each.waits]
                urgent = f"{median(waits):7.2f}" if waits and priorities == "all" else f"{'':7}"
                is_bad = share < USED_BAR or refused > REFUSED_BARS[is_stated]
                if priorities != "interactive":
                    missed += is_bad
                alone[priorities, is_stated] = share
                cells.append(f"{'*' if is_bad else '':>6}{share:6.3f}{refused:9.1f}{urgent}")
            if priorities != "interactive":
                print(f"{kind.name + ', ' + priorities:36}{''.join(cells)}")
        for is_stated in (True, False):
            ratio = alone["background", is_stated] / alone["interactive", is_stated]
            if ratio < BACKGROUND_BAR:
                missed += 1
                print(f"  * background alone has {ratio:.3f} of what interactive alone has")
    return missed


def _second_table(seeds: range) -> int:
    print()
    print(f"{'':36}{'':7}{'window stated':>24}{'limit stated':>24}{'unknown':>24}")
    print(f"{'160 calls at once':36}{'floor':>7}" + f"{'seconds':>15}{'refused':>9}" * 3)
    missed = 0
    for kind, floor, most in FLOODS:
        cells = []
        for is_stated, knows_window in ((True, True), (True, False), (False, False)):
            ends = [
                flood(kind, is_stated=is_stated, seed=seed, knows_window=knows_window)
                for seed in seeds
            ]
            seconds = max(end for end, _ in ends)
            refused = max(tally.refused_of_1000 for _, tally in ends)
            is_bad = knows_window and (seconds > most * floor or refused > FLOOD_REFUSED_BAR)
            missed += is_bad
            cells.append(f"{'*' if is_bad else '':>7}{seconds:8.1f}{refused:9.1f}")
        print(f"{kind.name:36}{floor:7.0f}{''.join(cells)}")
    return missed


def _third_table(seeds: range) -> int:
    print()
    print("one answer in ten minutes tells a limit, a rest and a reset of 1")
    missed = 0
    for kind in KINDS:
        if kind.limits.headers is HeaderStyle.NONE:
            continue
        losses = []
        for seed in seeds:
            with_it = saturated(kind, "background", is_stated=True, seed=seed, odd_header_at=120.0)
            without = saturated(kind, "background", is_stated=True, seed=seed)
            losses.append(1 - with_it.accepted / without.accepted)
        missed += max(losses) >= 0.01
        print(f"{kind.name:36}costs {100 * max(losses):.2f} % (bar: 1 %)")
    return missed


def _fourth_table(seeds: range) -> int:
    print()
    print(f"{'another client takes 20 % of the key':36}{'used':>12}{'refused':>9}")
    missed = 0
    for kind in KINDS[:6]:
        runs = [saturated(kind, "all", is_stated=True, seed=seed, others=0.2) for seed in seeds]
        refused = max(each.refused_of_1000 for each in runs)
        is_bad = refused > SHARED_BAR
        missed += is_bad
        share = min(used(kind, each) for each in runs) / 0.8
        print(f"{kind.name:36}{'*' if is_bad else '':>6}{share:6.3f}{refused:9.1f}")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one seed instead of three")
    seeds = range(1 if parser.parse_args().quick else 3)
    missed = _first_table(seeds) + _second_table(seeds) + _third_table(seeds)
    missed += _fourth_table(seeds)
    print()
    print(f"bars missed (*): {missed}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())

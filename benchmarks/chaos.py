"""Every fault at random for twenty minutes of simulated time, and crashes in between.

    python -m benchmarks.chaos [--seeds 5] [--first-seed 1] [--minutes 20]

The real core and store, and the real judgement of what failed, against a provider that enforces its
limits and keeps a ledger; what is simulated is the clock, the network and the callers. Runs ask one
call after the other. Single requests fail in every way there is; for some time the provider is
down, overloaded, out of reach, or grants half as much; now and then the process dies, and the next
one goes on from the store. Exit status 1 if a law of ``broken`` does not hold. No time of this
machine is in it: the same seed gives the same report.
"""

import argparse
import random
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Any

from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.core.inspection import provider_health, statistics
from headway_scheduler.core.scheduler import Scheduler
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import Call, CallRecord, Outcome, Priority, Usage
from headway_scheduler.model.quotas import Observation, ProviderEvent, Quota
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.protocol.messages import MarkSent, Observe, Resubmit, SaveRun, Settle, Submit
from headway_scheduler.providers import PROVIDERS, ErrorClass, Failure
from headway_scheduler.testing.provider.gate import Gate
from headway_scheduler.testing.provider.limits import Limits

QUOTA = "q"
STATED = Quota.per_minute(QUOTA, requests=500, tokens=450_000)
LIMITS = Limits(requests_per_minute=500, tokens_per_minute=450_000)
HALF = Limits(requests_per_minute=250, tokens_per_minute=225_000)
RUNS_AT_ONCE = 40
MAX_ATTEMPTS = 8
TIMEOUT_SECONDS = 30.0
CRASH_EVERY_SECONDS = 120.0
PROVIDER = PROVIDERS["openai"]

NORMAL, DOWN, FLAKY, HALVED = "normal", "down", "flaky", "halved"
SINGLE = {"500": 0.01, "503": 0.01, "hang": 0.005, "cut": 0.01, "garbled": 0.005}
SINGLE |= {"429": 0.005, "in stream": 0.005, "400": 0.002, "unreachable": 0.005}
"""How often a request fails in each way while all is well."""

ANSWERS = {
    "500": Failure(500, {}, {"error": {"type": "server_error"}}),
    "503": Failure(503, {}, {"error": {"code": "server_is_overloaded"}}),
    "hang": Failure(message="timed out"),
    "cut": Failure(message="connection lost"),
    "garbled": Failure(message="not JSON"),
    "429": Failure(429, {"retry-after": "2"}, {"error": {"code": "rate_limit_exceeded"}}),
    "in stream": Failure(None, {}, {"type": "server_error"}),
    "400": Failure(400, {}, {"error": {"code": "context_length_exceeded"}}),
    "unreachable": Failure(message="connection refused"),
}
PAID = frozenset({"cut", "garbled", "in stream"})
"""Failures after which the provider has been paid."""


@dataclass
class Job:
    """One run: how many calls it has yet to ask, and what came of it."""

    run: Run
    left: int
    call_id: str = ""
    failure: str = ""


@dataclass
class Flight:
    """One attempt at a call. ``life`` is that of the process that made it."""

    call: Call
    attempt: int
    life: int


@dataclass
class Report:
    """What came of it all. ``broken`` names laws that did not hold."""

    calls: int = 0
    requests: int = 0
    retries: int = 0
    crashes: int = 0
    over: int = 0
    possibly_twice: int = 0
    runs: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


class Chaos:
    """The world: callers above the core, a provider below it."""

    def __init__(self, seed: int, minutes: float) -> None:
        self.random = random.Random(seed)
        self.seconds = 60 * minutes
        self.now = 0.0
        self.store = MemoryStore()
        self.core = Scheduler([STATED], 0.0)
        self.gate = Gate(LIMITS, 0.0)
        self.phase, self.halved_at = NORMAL, -1e9
        self.life = 0
        self.order = count()
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.jobs: dict[str, Job] = {}
        self.flying: dict[str, Flight] = {}
        self.faults: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        self.paid_for_nothing: Counter[str] = Counter()
        self.report = Report()

    def simulate(self) -> Report:
        """Run to the end, and check what must hold then."""
        for _ in range(RUNS_AT_ONCE):
            self._at(self.random.uniform(0, 5), self._begin)
        self._at(60.0, self._change_phase)
        self._at(self.random.expovariate(1 / CRASH_EVERY_SECONDS), self._crash)
        while self.jobs or self.now < self.seconds:
            self._decide()
            at = self.core.next_event(self.now)
            if self.events and (at is None or self.events[0][0] <= at):
                self.now, _, act = heappop(self.events)
                act()
            elif at is not None:
                self.now = at
            else:
                self.report.broken.append("nothing would ever happen again")
                break
            if self.now > 10 * self.seconds:
                self.report.broken.append("it does not come to an end")
                break
        self._check()
        return self.report

    # The callers

    def _begin(self) -> None:
        if self.now >= self.seconds:
            return
        name = f"r{next(self.order)}"
        priority, team = self.random.choice(list(Priority)), f"t{self.random.randrange(4)}"
        run = Run(name, team, "", priority, RunState.RUNNING, self.now, attempts=1)
        self.jobs[name] = Job(run, self.random.randrange(3, 12))
        self.core.handle(SaveRun(run), self.now)
        self._ask(self.jobs[name])

    def _ask(self, job: Job) -> None:
        job.call_id = f"{job.run.id}.{job.left}"
        tokens = max(50, int(self.random.lognormvariate(6.3, 0.7)))
        priority = job.run.priority
        call = Call(job.call_id, job.run.id, "a", "m", (QUOTA,), priority, tokens, self.now)
        self.core.handle(Submit(call), self.now)
        self.report.calls += 1

    def _ended(self, job: Job, failure: str = "") -> None:
        """A call has ended, or failed for good; its run goes on, or ends as well."""
        job.left -= 1
        if job.left and not failure:
            self._ask(job)
            return
        del self.jobs[job.run.id]
        self.report.runs[failure or "completed"] += 1
        state = RunState.FAILED if failure else RunState.COMPLETED
        self.core.handle(SaveRun(self._run(job, state)), self.now)
        self._at(self.now + self.random.uniform(0, 1), self._begin)

    def _run(self, job: Job, state: RunState) -> Run:
        run = job.run
        return Run(run.id, run.workflow, "", run.priority, state, run.created_at, attempts=1)

    # The scheduler and its shell

    def _decide(self) -> None:
        grants = self.core.admit(self.now)
        self._commit(self.core.take_batch(self.now))
        for record in grants:
            self.core.handle(MarkSent(record.call.id, self.now), self.now)
            flight = Flight(record.call, record.attempts, self.life)
            self.flying[record.call.id] = flight
            self._at(
                self.now + self.random.uniform(0.01, 0.2),
                lambda flight=flight: self._arrive(flight),
            )

    def _commit(self, batch: Batch) -> None:
        _finished(self.store.commit(batch))

    def _crash(self) -> None:
        """The process dies; the next one goes on, and resumes every run at once."""
        self.report.crashes += 1
        self.life += 1
        self.flying.clear()
        self.core = Scheduler([STATED], self.now)
        for job in self.jobs.values():
            self.core.handle(SaveRun(job.run), self.now)
        self.core.restore(_finished(self.store.snapshot()), self.now, lambda call_id: False)
        self._commit(self.core.take_batch(self.now))
        rows: dict[str, CallRecord] = {row.call.id: row for row in _finished(self.store.calls())}
        for job in list(self.jobs.values()):
            row = rows.get(job.call_id)
            if row is None:  # it was not written yet
                self.report.calls -= 1
                self._ask(job)
            elif row.state is CallState.DONE:
                self._ended(job)
            elif row.state is CallState.FAILED:
                self._ended(job, row.error or "")
            else:
                self.core.handle(Resubmit(row), self.now)
        self._at(self.now + self.random.expovariate(1 / CRASH_EVERY_SECONDS), self._crash)

    # The provider

    def _change_phase(self) -> None:
        phases = [NORMAL, DOWN, FLAKY, HALVED]
        self.phase = self.random.choices(phases, [6, 1, 1, 1])[0]
        halved = self.phase == HALVED
        if halved or self.gate is None:
            self.halved_at = self.now
        fills = {
            name: bucket.refilled(self.now).fill for name, bucket in self.gate._buckets.items()
        }
        self.gate = Gate(HALF if halved else LIMITS, self.now)
        for name, bucket in self.gate._buckets.items():
            excess = bucket.fill - min(bucket.fill, fills[name])
            self.gate._buckets[name] = bucket.taken(excess, self.now)
        self._at(self.now + self.random.uniform(20, 150), self._change_phase)

    def _fault(self) -> str | None:
        if self.phase == DOWN:
            return self.random.choice(["unreachable", "hang", "503", "500"])
        share = 8.0 if self.phase == FLAKY else 1.0
        draw = self.random.random()
        for name, odds in SINGLE.items():
            draw -= odds * (1.0 if name == "400" else share)
            if draw < 0:
                return name
        return None

    def _arrive(self, flight: Flight) -> None:
        self.report.requests += 1
        fault = self._fault()
        if fault == "unreachable" or fault == "429" or fault == "400":
            self._later(0.05, flight, fault, {})
            return
        refusal = self.gate.admit("m", flight.call.tokens, self.now)
        headers = self.gate.headers(self.now)
        if refusal is not None:
            self.report.over += self.now > self.halved_at + 30.0
            self._later(0.05, flight, "429", headers | refusal.headers())
            return
        self.gate.leave()
        if fault == "hang":
            self._later(TIMEOUT_SECONDS, flight, fault, headers)
            return
        self.paid[flight.call.id] += fault is None or fault in PAID
        took = self.random.uniform(0.5, 6.0)
        if fault in ("500", "503"):
            took = 0.1
        elif self.random.random() < 0.5:  # streamed: the head comes first
            self._at(self.now + 0.1, lambda: self._heard(flight, headers))
        self._later(took, flight, fault, headers)

    def _later(
        self, seconds: float, flight: Flight, fault: str | None, headers: dict[str, str]
    ) -> None:
        def end() -> None:
            if flight.life != self.life or self.flying.get(flight.call.id) is not flight:
                # Nobody is there any more who waited for it.
                self.paid_for_nothing[flight.call.id] += fault is None or fault in PAID
            elif fault is None:
                self._answered(flight, headers)
            else:
                self._failed(flight, fault, headers)

        self._at(self.now + seconds, end)

    # What came back

    def _heard(self, flight: Flight, headers: dict[str, str]) -> None:
        if flight.life == self.life and self.flying.get(flight.call.id) is flight:
            told = PROVIDER.rate_limits(headers, self.now)
            self.core.handle(
                Observe(flight.call.id, {QUOTA: Observation(None, ProviderEvent.ANSWERED, told)}),
                self.now,
            )

    def _answered(self, flight: Flight, headers: dict[str, str]) -> None:
        del self.flying[flight.call.id]
        self._tell(flight, ProviderEvent.ANSWERED, None, headers)
        usage = Usage(flight.call.tokens, 10)
        self.core.handle(Settle(flight.call.id, Outcome(CallState.DONE, usage, "{}")), self.now)
        self._commit(self.core.take_batch(self.now))
        self._ended(self.jobs[flight.call.run_id])

    def _failed(self, flight: Flight, fault: str, headers: dict[str, str]) -> None:
        call = flight.call
        del self.flying[call.id]
        self.report.faults[fault] += 1
        self.paid_for_nothing[call.id] += fault in PAID
        failure = ANSWERS[fault]
        if fault == "429" and headers:
            failure = Failure(429, headers, failure.body)
        verdict = PROVIDER.judge(failure, flight.attempt, self.now)
        if verdict.error_class in (ErrorClass.TRANSIENT, ErrorClass.OVERLOADED):
            self.faults[call.id] += QUOTA not in provider_health(self.core.state).unanswered
        if verdict.error_class is ErrorClass.FINAL or self.faults[call.id] >= MAX_ATTEMPTS:
            reason = (
                "a bad request"
                if verdict.error_class is ErrorClass.FINAL
                else "it failed eight times"
            )
            self._tell(
                flight,
                ProviderEvent.ANSWERED if failure.status else ProviderEvent.FAILED,
                None,
                headers,
            )
            self.core.handle(Settle(call.id, Outcome(CallState.FAILED, error=reason)), self.now)
            self._commit(self.core.take_batch(self.now))
            self._ended(self.jobs[call.run_id], reason)
            return
        until = self.now + verdict.pause_seconds
        if verdict.error_class is ErrorClass.RATE_LIMITED:
            self._tell(flight, ProviderEvent.REFUSED, until, headers)
            outcome = Outcome(CallState.QUEUED, error=fault, refused=True)
        else:
            self.report.retries += 1
            self._tell(flight, ProviderEvent.FAILED, None, headers)
            outcome = Outcome(CallState.QUEUED, error=fault, not_before=until)
        self.core.handle(Settle(call.id, outcome), self.now)

    def _tell(
        self, flight: Flight, event: ProviderEvent, until: float | None, headers: dict[str, str]
    ) -> None:
        told = PROVIDER.rate_limits(headers, self.now)
        self.core.handle(
            Observe(flight.call.id, {QUOTA: Observation(until, event, told)}), self.now
        )

    # In the end

    def _check(self) -> None:
        report = self.report
        rows = list(_finished(self.store.calls()))
        for row in rows:
            id, paid, lost = row.call.id, self.paid[row.call.id], self.paid_for_nothing[row.call.id]
            if row.state not in (CallState.DONE, CallState.FAILED):
                report.broken.append(f"call {id} is {row.state}")
            if paid - lost != (row.state is CallState.DONE):
                report.broken.append(f"call {id} was paid {paid} times, {lost} of them for nothing")
            # Lost in a crash, or failed after it was paid: the journal says so of each.
            if paid > 1 and not (row.lost_attempts or row.attempts > 1):
                report.broken.append(f"call {id} was paid twice, and is not listed")
            report.possibly_twice += paid > 1
        if report.retries > 0.1 * report.calls + 60:
            report.broken.append(f"{report.retries} retries of {report.calls} calls")
        if report.over > 0.001 * report.requests:
            report.broken.append(f"{report.over} requests were over the limits")
        if report.runs["it failed eight times"] > 0:
            report.broken.append("a run failed although waiting would have mended it")
        counts = statistics(self.core.state, self.now)
        if counts.in_flight or any(counts.waiting) or counts.parked:
            report.broken.append(f"something is left: {counts}")

    def _at(self, when: float, act: Callable[[], None]) -> None:
        heappush(self.events, (when, next(self.order), act))


def _finished(step: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns that awaits nothing."""
    try:
        step.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it awaits something")


def main() -> int:
    """Print a line for each seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=20)
    options = parser.parse_args()
    is_well = True
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        report = Chaos(seed, options.minutes).simulate()
        runs = ", ".join(f"{n} {what}" for what, n in report.runs.most_common())
        faults = ", ".join(f"{n} {what}" for what, n in report.faults.most_common())
        print(
            f"seed {seed}: runs: {runs}; {report.calls:,} calls, {report.retries} retries, "
            f"{report.crashes} crashes, {report.over} over the limits, {report.possibly_twice} "
            f"paid more than once (each of them cut off); faults: {faults}"
        )
        for each in report.broken:
            print(f"  BROKEN: {each}")
        is_well = is_well and not report.broken
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())

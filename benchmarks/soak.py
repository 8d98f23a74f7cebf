"""A million calls through the core, in simulated time: memory returns to where it began.

    python -m benchmarks.soak [--calls N]

Runs come and go, calls are cancelled, requeued and lost, quotas pause and limits change. At every
tenth of the way everything is let finish, and what is allocated is printed. By the second, what is
learned of the workflows' runs has reached its size; if the last has more, the exit status is 1.
"""

import argparse
import gc
import random
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from headway_scheduler.core.inspection import queued
from headway_scheduler.core.scheduler import Scheduler
from headway_scheduler.model import changes
from headway_scheduler.model.calls import Call, Outcome, Priority
from headway_scheduler.model.data import replace
from headway_scheduler.model.quotas import Observation, Quota
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.protocol.messages import (
    ApplyChange,
    AwaitRuns,
    Observe,
    SaveRun,
    Settle,
    Submit,
)

QUOTAS = (
    Quota.per_minute("org", requests=60_000, tokens=6_000_000),
    Quota.per_minute("model", tokens=3_000_000, burst_seconds=10),
    Quota.per_minute("slots", concurrency=200),
)
SETS = (("org",), ("org", "model"), ("org", "slots"), ("slots",))
RUNS = 400
BURST = 50
SLACK_BLOCKS = 2_000
"""What a thousandth of the calls would leave behind, if they left anything."""


class Soak:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.core = Scheduler(QUOTAS, self.now)
        self.runs: dict[str, Run] = {}
        self.flying: list[str] = []
        self.numbers = count()
        self.submitted = 0

    def step(self) -> None:
        """A burst arrives, what may go goes, and most of what flies ends."""
        for _ in range(BURST):
            self.submit()
        self.flying += [record.call.id for record in self.core.admit(self.now)]
        self.random.shuffle(self.flying)
        for _ in range(min(BURST + 5, len(self.flying))):
            self.end(self.flying.pop())
        self.operate()
        self.core.take_batch(self.now)
        self.now += BURST / 900

    def submit(self) -> None:
        run = self.run()
        priority = self.random.choice(list(Priority))
        quotas = self.random.choice(SETS)
        tokens = self.random.randrange(1, 4_000)
        call = Call(f"c{next(self.numbers)}", run, "a", "m", quotas, priority, tokens, self.now)
        self.core.handle(Submit(call), self.now)
        self.submitted += 1
        if self.random.random() < 0.03:
            self.core.handle(Settle(call.id, Outcome(CallState.CANCELLED, sent=False)), self.now)

    def run(self) -> str:
        """The run of a call; now and then one ends and another begins."""
        if len(self.runs) < RUNS or self.random.random() < 0.05:
            name, team = f"r{next(self.numbers)}", f"t{self.random.randrange(50)}"
            run = Run(name, team, "", Priority.LOW, RunState.RUNNING, self.now, attempts=1)
            self.core.handle(SaveRun(run), self.now)
            self.runs[name] = run
            if len(self.runs) > RUNS:
                self.close(next(iter(self.runs)))
        return self.random.choice(list(self.runs))

    def close(self, name: str) -> None:
        run = self.runs.pop(name)
        self.core.handle(SaveRun(replace(run, state=RunState.COMPLETED)), self.now)

    def end(self, name: str) -> None:
        kind = self.random.random()
        if kind < 0.05:
            self.core.handle(
                Settle(name, Outcome(CallState.QUEUED, not_before=self.now + 1)), self.now
            )
        elif kind < 0.06:
            self.core.handle(Settle(name, Outcome(CallState.UNKNOWN)), self.now)
        else:
            self.core.handle(Settle(name, Outcome(CallState.DONE, used_tokens=1)), self.now)

    def operate(self) -> None:
        """What operators and providers do: each now and then."""
        draw = self.random.random()
        if draw < 0.02:
            self.core.handle(
                Observe("", {"model": Observation(pause_until=self.now + 0.5)}), self.now
            )
        elif draw < 0.04:
            name, on = self.random.sample(list(self.runs), 2)
            self.core.handle(AwaitRuns(name, frozenset({on})), self.now)
            self.core.handle(AwaitRuns(name, frozenset()), self.now)
        elif draw < 0.06:
            tokens = self.random.choice([2_000_000, 3_000_000])
            change = Quota.per_minute("model", tokens=tokens, burst_seconds=10)
            self.core.handle(ApplyChange(changes.limits("model", change, self.now)), self.now)

    def drain(self) -> None:
        """Let everything finish, runs too."""
        while self.flying or queued(self.core.state):
            for name in self.flying:
                self.core.handle(Settle(name, Outcome(CallState.DONE)), self.now)
            self.flying = [record.call.id for record in self.core.admit(self.now)]
            if not self.flying:
                self.now = self.core.next_event(self.now) or self.now
        for name in list(self.runs):
            self.close(name)
        self.core.take_batch(self.now)


def marks(calls: int, seed: int) -> Iterator[tuple[int, int, int]]:
    """Calls so far, blocks allocated and resident KiB, at each tenth of the way."""
    soak = Soak(seed)
    for tenth in range(1, 11):
        while soak.submitted < calls * tenth / 10:
            soak.step()
        soak.drain()
        gc.collect()
        yield soak.submitted, sys.getallocatedblocks(), _resident_kib()


def _resident_kib() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    lines = (line.split() for line in status.read_text().splitlines())
    return next(int(words[1]) for words in lines if words[0] == "VmRSS:")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start = time.perf_counter()
    found = []
    print(f"{'calls':>10}{'blocks':>10}{'resident KiB':>14}")
    for mark in marks(arguments.calls, arguments.seed):
        found.append(mark)
        print(f"{mark[0]:10,}{mark[1]:10,}{mark[2]:14,}", flush=True)
    grown = found[-1][1] - found[1][1]
    print(f"{grown:+,} blocks since the second line, in {time.perf_counter() - start:.0f} s")
    raise SystemExit(grown > SLACK_BLOCKS)


if __name__ == "__main__":
    main()

"""What a decision costs, with many calls queued. The core alone, on the clock of this machine.

Law of this file: all depths in one run, so that they compare. Of several batches the fastest
counts: what else runs on the machine only adds.
"""

from dataclasses import dataclass
from time import perf_counter

from headway_scheduler.core import Scheduler
from headway_scheduler.model import Call, Outcome, Priority, Quota, Run
from headway_scheduler.states import CallState, RunState

TEAMS = 1_000
DEPTHS = (1_000, 10_000, 100_000)
BATCH = 100
BATCHES = 9
QUOTA = Quota.per_minute("q", requests=6_000, tokens=6_000_000, burst_seconds=0.01)
"""One request of 1,000 tokens fits into a full bucket, which takes 10 ms to fill."""

STEP_SECONDS = 0.0102
OK = Outcome(CallState.DONE, used_tokens=1_000)


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds. ``decision``: one admission; ``submit`` and ``settle``: what is around it."""

    depth: int
    decision: float
    submit: float
    settle: float


def costs(depths: tuple[int, ...] = DEPTHS) -> list[Cost]:
    """Measure all depths, smallest first."""
    return [_cost(depth) for depth in depths]


def _cost(depth: int) -> Cost:
    core, now, number = Scheduler([QUOTA], 0.0), 0.0, 0
    for index in range(TEAMS):
        priority = Priority(index % len(Priority))
        state = RunState.RUNNING
        core.track(Run(f"r{index}", "w", "", priority, state, now, team=f"t{index}"), now)
    for number in range(depth):
        core.submit(_call(number, now), now)
    core.take_batch(now)
    decisions, submits, settles = list[float](), list[float](), list[float]()
    for _ in range(BATCHES):
        spent = [0.0, 0.0, 0.0]
        for _ in range(BATCH):
            number += 1
            now += STEP_SECONDS
            call = _call(number, now)
            start = perf_counter()
            core.submit(call, now)
            submitted = perf_counter()
            granted = core.admit(now)
            admitted = perf_counter()
            assert len(granted) == 1, f"{len(granted)} calls went in one step"
            core.settle(granted[0].call.id, OK, now)
            core.take_batch(now)
            settled = perf_counter()
            spent[0] += admitted - submitted
            spent[1] += submitted - start
            spent[2] += settled - admitted
        for column, seconds in zip((decisions, submits, settles), spent, strict=True):
            column.append(seconds / BATCH * 1e6)
    return Cost(depth, min(decisions), min(submits), min(settles))


def _call(number: int, now: float) -> Call:
    priority = Priority(number % TEAMS % len(Priority))
    return Call(f"c{number}", f"r{number % TEAMS}", "agent", "m", ("q",), priority, 1_000, now)

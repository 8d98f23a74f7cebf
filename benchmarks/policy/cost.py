"""What a decision costs, with many calls queued. The core alone, on the clock of this machine.

Law of this file: all depths in one run, so that they compare. Of several batches the fastest
counts: what else runs on the machine only adds.
"""

from dataclasses import dataclass
from time import perf_counter

from headway_scheduler.core.scheduler import Scheduler
from headway_scheduler.model.calls import Call, Outcome, Priority
from headway_scheduler.model.quotas import Quota
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.protocol.messages import SaveRun, Settle, Submit

TEAMS = 1_000
DEPTHS = (1_000, 10_000, 100_000)
BATCH = 100
BATCHES = 9
MANY = 50
STEP_SECONDS = 0.0102
"""A bucket has room for a pass again: one request of 1,000 tokens takes 10 ms to fill."""

OK = Outcome(CallState.DONE, used_tokens=1_000)


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds. ``alone``: a pass that admits one call and finds when to look again.

    ``admission``: one of many in a pass; ``submit`` and ``settle``: what is around it.
    """

    depth: int
    alone: float
    admission: float
    submit: float
    settle: float


def costs(depths: tuple[int, ...] = DEPTHS) -> list[Cost]:
    """Measure all depths, smallest first."""
    return [_cost(depth) for depth in depths]


def _cost(depth: int) -> Cost:
    alone = _spent(depth, BATCH, 1)
    together = _spent(depth, BATCH // MANY, MANY)
    return Cost(depth, alone[1], together[1], alone[0], alone[2])


def _spent(depth: int, passes: int, admitted: int) -> tuple[float, float, float]:
    """Microseconds for each call to submit, admit and settle it, so many ``admitted`` in a pass."""
    quota = Quota.per_minute("q", requests=6_000, tokens=6_000_000, burst_seconds=0.01 * admitted)
    core, now, number = Scheduler([quota], 0.0), 0.0, 0
    for index in range(TEAMS):
        priority = Priority(index % len(Priority))
        state = RunState.RUNNING
        core.handle(SaveRun(Run(f"r{index}", "w", "", priority, state, now, team=f"t{index}")), now)
    for number in range(depth):
        core.handle(Submit(_call(number, now)), now)
    core.take_batch(now)
    batches = list[list[float]]()
    for _ in range(BATCHES):
        spent = [0.0, 0.0, 0.0]
        for _ in range(passes):
            now += STEP_SECONDS * admitted
            calls = [_call(number + n, now) for n in range(1, admitted + 1)]
            number += admitted
            start = perf_counter()
            for call in calls:
                core.handle(Submit(call), now)
            submitted = perf_counter()
            granted = core.admit(now)
            admitted_at = perf_counter()
            # Of a full bucket, classes leave what is kept for more urgent ones.
            assert 0.6 * admitted <= len(granted) <= admitted, f"{len(granted)} went in one pass"
            for record in granted:
                core.handle(Settle(record.call.id, OK), now)
            core.take_batch(now)
            settled = perf_counter()
            spent[0] += (submitted - start) / admitted
            spent[1] += (admitted_at - submitted) / len(granted)
            spent[2] += (settled - admitted_at) / len(granted)
        batches.append([seconds / passes * 1e6 for seconds in spent])
    submit, admit, settle = (min(column) for column in zip(*batches, strict=True))
    return submit, admit, settle


def _call(number: int, now: float) -> Call:
    priority = Priority(number % TEAMS % len(Priority))
    return Call(f"c{number}", f"r{number % TEAMS}", "agent", "m", ("q",), priority, 1_000, now)

"""An hour of work, made from recorded teams and recorded arrivals.

Law of this file: the same seed gives the same work, for every policy; policies differ in nothing
but when a call goes. So the noise of a call's answer time and of its token count is drawn here.

What stands for what:

- *interactive*: runs of AG2 CaptainAgent, 3 to 9 calls, 14 k tokens each; somebody watches them
- *normal*: any CaptainAgent run, or a Magentic-One run of at most 20 calls, with equal chance
- *background*: any CaptainAgent run, or any Magentic-One run, with equal chance: up to 70 calls,
  3 to 3,471 k tokens, 197 k on average

Interactive and normal runs come as requests of the Azure conversation trace do, background runs as
those of its code trace: as many consecutive arrivals as there are runs, from anywhere in the trace,
stretched to the length of the simulation. So they are as uneven as they were: arrivals drawn one by
one would be nearly Poisson. A class gets runs until its share of the load is filled to within the
shortest run.
Load is measured in the tokens that the provider charges: these runs have long prompts, so tokens
are scarcer than requests in every scenario (a call is 0.7 s of 450 k TPM, 0.5 s of 120 RPM).
No call is above a burst of 60 s. The largest is 77 k tokens; at a burst of 10 s it waits for a full
bucket and goes into debt, with the provider as with us.

Teams are Zipf-distributed. Background work is batch work, which few teams have, so its exponent is
larger than that of interactive work; it is such that under strict priority the runs of other teams
than the heaviest take two thirds of the mean run, as in the simulation that the policy comes from.
A workflow is one kind of run of one team.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random

from headway_scheduler.model.calls import Priority

DATA = Path(__file__).parent / "data"
TEAMS = 8
COUNTING_ERROR = 0.03
LATENCY_SECONDS = 0.5
TOKENS_PER_SECOND = 60.0
SERVICE_NOISE = 0.25
"""Standard deviation of the logarithm of an answer's time."""

SHORT_CALLS = 20
MISFITS = 200
"""A class is full once this many drawn runs in a row did not fit."""

ZIPF = {Priority.INTERACTIVE: 0.5, Priority.NORMAL: 1.0, Priority.BACKGROUND: 2.0}
CLASSES = tuple(ZIPF)


@dataclass(frozen=True, slots=True)
class Step:
    """One call. ``error``: by which factor we miscount it. ``seconds``: how long its answer is."""

    agent: str
    input_tokens: int
    output_tokens: int
    error: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Job:
    """One run: calls one after the other. ``arrives_at`` in seconds since the start."""

    id: str
    team: str
    workflow: str
    priority: Priority
    arrives_at: float
    steps: tuple[Step, ...]

    @property
    def alone_seconds(self) -> float:
        """How long it takes if it never waits."""
        return sum(step.seconds for step in self.steps)


@dataclass(frozen=True, slots=True)
class Mix:
    """How much of what: ``load`` of the budget, and the shares of the classes in it."""

    load: float = 1.3
    interactive: float = 0.15
    normal: float = 0.25
    background: float = 0.60

    def shares(self) -> dict[Priority, float]:
        return dict(zip(CLASSES, (self.interactive, self.normal, self.background), strict=True))


SAT = Mix()
HI = Mix(load=1.4, interactive=0.15, normal=0.65, background=0.20)
"""Interactive and normal alone are 1.12 of the budget."""

Size = Callable[[int, int], float]
"""Budget-seconds of a call with so many input and output tokens."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A run as it was recorded: agent, input and output tokens of each call."""

    kind: str
    calls: tuple[tuple[str, int, int], ...]


@lru_cache
def recorded_runs() -> tuple[Recorded, ...]:
    lines = (DATA / "autogen_team_runs.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return tuple(Recorded(row["kind"], tuple(map(tuple, row["calls"]))) for row in rows)


@lru_cache
def recorded_arrivals(trace: str) -> tuple[int, ...]:
    """Milliseconds since the first request of an Azure trace."""
    return tuple(map(int, (DATA / f"azure_{trace}_arrivals_ms.txt").read_text().split()))


@lru_cache
def _kinds() -> dict[Priority, tuple[tuple[Recorded, ...], ...]]:
    """For each class, the groups of which one is drawn, and then a run of it."""
    runs = recorded_runs()
    captain = tuple(run for run in runs if run.kind == "captain_agent")
    magentic = tuple(run for run in runs if run.kind == "magentic_one")
    short = tuple(run for run in magentic if len(run.calls) <= SHORT_CALLS)
    return {
        Priority.INTERACTIVE: (captain,),
        Priority.NORMAL: (captain, short),
        Priority.BACKGROUND: (captain, magentic),
    }


def make(seed: int, minutes: float, mix: Mix, size: Size) -> list[Job]:
    """Make the work of ``minutes``, in the order of arrival."""
    rng = Random(seed)
    seconds = minutes * 60
    jobs: list[Job] = []
    for priority, share in mix.shares().items():
        trace = "code" if priority is Priority.BACKGROUND else "conv"
        runs = _fill(rng, _kinds()[priority], mix.load * share * seconds, size)
        arrivals = _arrivals(rng, recorded_arrivals(trace), len(runs), seconds)
        for run, arrives_at in zip(runs, arrivals, strict=True):
            team = f"team-{_zipf(rng, ZIPF[priority]) + 1}"
            name = f"{priority.label}-{len(jobs)}"
            workflow = f"{team}/{run.kind}"
            jobs.append(Job(name, team, workflow, priority, arrives_at, _steps(rng, run)))
    return sorted(jobs, key=lambda job: job.arrives_at)


def _fill(
    rng: Random, kinds: Sequence[Sequence[Recorded]], budget_seconds: float, size: Size
) -> list[Recorded]:
    """Draw runs until no more of them fits."""
    drawn: list[Recorded] = []
    left, misfits = budget_seconds, 0
    while misfits < MISFITS:
        run = rng.choice(rng.choice(kinds))
        needed = sum(size(tokens_in, tokens_out) for _, tokens_in, tokens_out in run.calls)
        if needed > left:
            misfits += 1
            continue
        misfits = 0
        left -= needed
        drawn.append(run)
    return drawn


def _arrivals(rng: Random, recorded: Sequence[int], count: int, seconds: float) -> Iterator[float]:
    """Stretch ``count`` consecutive arrivals, and the gap after them, to ``seconds``."""
    first = rng.randrange(len(recorded) - count)
    start, end = recorded[first], recorded[first + count]
    for at in recorded[first : first + count]:
        yield (at - start) / (end - start) * seconds


def _steps(rng: Random, run: Recorded) -> tuple[Step, ...]:
    return tuple(
        Step(
            agent,
            tokens_in,
            tokens_out,
            max(0.5, rng.gauss(1.0, COUNTING_ERROR)),
            (LATENCY_SECONDS + tokens_out / TOKENS_PER_SECOND)
            * rng.lognormvariate(0, SERVICE_NOISE),
        )
        for agent, tokens_in, tokens_out in run.calls
    )


def _zipf(rng: Random, exponent: float) -> int:
    return rng.choices(range(TEAMS), [1 / (rank + 1) ** exponent for rank in range(TEAMS)])[0]

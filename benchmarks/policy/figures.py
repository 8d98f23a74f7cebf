"""What a simulation showed, as numbers. Law of this file: each figure says how it is measured.

- *util*: tokens accepted until the arrivals end, over those that could have been: a full bucket
  and the refill since, less what was lost to a full bucket while no call waited. A call that its
  client gave up waits for ever: it was never served.
- *429s*, and per 1,000 calls that were accepted
- *wait*: from when a call was ready to when the request that was accepted left, in seconds, by
  class; without the network, which costs everybody the same
- *run*: mean seconds from a run's arrival to its end, by class; runs that died are not in it
- *died*: the share of runs whose client gave up, or that had not ended when the simulation did
- *others*: mean run of all teams but the one with the most work
- *jain*: Jain's index of how fast the teams go; the speed of a team is the time that its runs
  take alone over the time that they took, both summed. What a run did before it died counts for
  nothing.
- *makespan*: the end of the last run over the physical bound. The bound is the latest of: each
  run's arrival and its time alone; and, for each arrival, the time that the work from then on
  takes of each limit, less a burst: ``arrival + (sum - burst) / rate``. With all runs there at the
  start, that is ``max((n - b_R) / r_R, (tokens - b_T) / r_T, longest run alone)``.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from math import inf, nan
from statistics import fmean, median
from typing import Any

from .provider import Budget, Meter, Provider
from .workload import CLASSES, Job
from .world import Ledger, Running

PERCENTILES = (0.50, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Figures:
    """One simulation. Per class: interactive, normal, background."""

    utilisation: float
    refused: float
    refused_per_1000: float
    waits: tuple[tuple[float, ...], ...]
    longest_wait: tuple[float, ...]
    runs: tuple[float, ...]
    run: float
    died: tuple[float, ...]
    others: float
    jain: float
    makespan: float
    calls: float


NAMES = tuple(field.name for field in fields(Figures))


def measure(jobs: Sequence[Job], ledger: Ledger, provider: Provider, seconds: float) -> Figures:
    """Take every figure. ``seconds``: when the arrivals ended."""
    by_class = [
        sorted(wait.seconds for wait in ledger.waits if wait.priority is level) for level in CLASSES
    ]
    runs = [[run for run in ledger.runs if run.job.priority is level] for level in CLASSES]
    heaviest = heaviest_team(jobs, provider.budget)
    accepted = len(ledger.waits)
    return Figures(
        utilisation=_utilisation(ledger, provider.tokens, seconds),
        refused=provider.refused,
        refused_per_1000=1000 * provider.refused / max(1, accepted),
        waits=tuple(tuple(_quantile(waits, p) for p in PERCENTILES) for waits in by_class),
        longest_wait=tuple(waits[-1] if waits else nan for waits in by_class),
        runs=tuple(_mean_run(each) for each in runs),
        run=_mean_run(ledger.runs),
        died=tuple(_share_died(each) for each in runs),
        others=_mean_run(run for run in ledger.runs if run.job.team != heaviest),
        jain=_jain(ledger.runs),
        makespan=_makespan(ledger) / bound(jobs, provider.budget),
        calls=accepted,
    )


def medians(figures: Sequence[Figures]) -> Figures:
    """The median of each figure."""
    return _each(figures, median)


def lowest(figures: Sequence[Figures]) -> Figures:
    """The least of each figure."""
    return _each(figures, min)


def highest(figures: Sequence[Figures]) -> Figures:
    """The most of each figure."""
    return _each(figures, max)


def heaviest_team(jobs: Iterable[Job], budget: Budget) -> str:
    """The team with the most tokens."""
    tokens: defaultdict[str, float] = defaultdict(float)
    for job in jobs:
        tokens[job.team] += _tokens(job, budget)
    return max(tokens, key=lambda team: tokens[team])


def bound(jobs: Sequence[Job], budget: Budget) -> float:
    """Before when no policy can be done, in seconds."""
    requests = Meter(budget.requests_per_minute, budget.burst_seconds)
    tokens = Meter(budget.tokens_per_minute, budget.burst_seconds)
    least, calls, total = 0.0, 0.0, 0.0
    for job in sorted(jobs, key=lambda job: -job.arrives_at):
        calls += len(job.steps)
        total += _tokens(job, budget)
        work = max(
            job.alone_seconds,
            (calls - requests.capacity) / requests.per_second,
            (total - tokens.capacity) / tokens.per_second,
        )
        least = max(least, job.arrives_at + work)
    return least


def seconds_of(run: Running) -> float | None:
    """How long a run took; None if it died."""
    return None if run.ended_at is None else run.ended_at - run.job.arrives_at


def _tokens(job: Job, budget: Budget) -> float:
    return sum(budget.settled(step.input_tokens, step.output_tokens) for step in job.steps)


def _utilisation(ledger: Ledger, tokens: Meter, seconds: float) -> float:
    could = tokens.capacity + seconds * tokens.per_second - ledger.lost_idle
    return ledger.taken / could


def _mean_run(runs: Iterable[Running]) -> float:
    took = [seconds for run in runs if (seconds := seconds_of(run)) is not None]
    return fmean(took) if took else nan


def _share_died(runs: Sequence[Running]) -> float:
    return sum(run.ended_at is None for run in runs) / max(1, len(runs))


def _makespan(ledger: Ledger) -> float:
    ends = [run.ended_at or run.died_at or inf for run in ledger.runs]
    return max(ends, default=0.0)


def _jain(runs: Iterable[Running]) -> float:
    alone: defaultdict[str, float] = defaultdict(float)
    took: defaultdict[str, float] = defaultdict(float)
    for run in runs:
        team = run.job.team
        end = run.ended_at or run.died_at or inf
        took[team] += end - run.job.arrives_at
        alone[team] += run.job.alone_seconds if run.ended_at is not None else 0.0
    speeds = [alone[team] / took[team] for team in took]
    squares = sum(speed * speed for speed in speeds)
    return sum(speeds) ** 2 / (len(speeds) * squares) if squares else nan


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else nan


def _each(figures: Sequence[Figures], pick: Callable[[list[float]], float]) -> Figures:
    columns = ([getattr(each, name) for each in figures] for name in NAMES)
    return Figures(*(_fold(column, pick) for column in columns))


def _fold(column: list[Any], pick: Callable[[list[float]], float]) -> Any:
    if isinstance(column[0], tuple):
        return tuple(_fold(list(cells), pick) for cells in zip(*column, strict=True))
    return pick(column)

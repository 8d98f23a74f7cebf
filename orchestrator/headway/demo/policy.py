"""Compares waits in one flood with and without each part of the policy, in simulated time.

Law of this file: the scheduler's core decides everything; this file only advances its clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean

from headway_scheduler.core.inspection import queued
from headway_scheduler.core.policy import Policy
from headway_scheduler.core.scheduler import Scheduler
from headway_scheduler.model.calls import Call, Outcome, Priority
from headway_scheduler.model.quotas import Quota
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.protocol.messages import AwaitRuns, SaveRun, Settle, Submit

BUDGET = Quota.per_minute("budget", tokens=600, burst_seconds=30)
"""10 tokens a second, 300 at once."""

TOKENS = 20
BAR_CHARACTERS = 36  # with its words and figures, a line of 80
_NO_HEADROOM = replace(Policy(), headroom=(0.0,) * len(Priority))


@dataclass(frozen=True, slots=True)
class Flow:
    """A run, and when each of its calls comes. ``team`` is the run's name by default."""

    name: str
    priority: Priority
    times: tuple[float, ...]
    team: str | None = None
    waits_for: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Mean seconds that the calls of one run waited, without a part of the policy and with it.

    ``ends``: when the last call of all runs went, without and with it: the price for the others.
    """

    part: str
    who: str
    waits: tuple[float, float]
    ends: tuple[float, float]


def waits(flows: Sequence[Flow], policy: Policy | None = None) -> dict[str, list[float]]:
    """Let the core admit all calls of all runs; return the seconds that each waited, by run."""
    scheduler = Scheduler([BUDGET], 0.0, policy)
    for flow in flows:
        team = flow.team or flow.name
        run = Run(flow.name, team, "", flow.priority, RunState.RUNNING, 0.0, team=team)
        scheduler.handle(SaveRun(run), 0.0)
        if flow.waits_for is not None:
            scheduler.handle(AwaitRuns(flow.name, frozenset({flow.waits_for})), 0.0)
    calls = [
        Call(f"{f.name}.{n}", f.name, "agent", "model", ("budget",), f.priority, TOKENS, at)
        for f in flows
        for n, at in enumerate(f.times)
    ]
    calls.sort(key=lambda call: call.submitted_at)
    waited: dict[str, list[float]] = {flow.name: [] for flow in flows}
    now, done = 0.0, Outcome(CallState.DONE)
    while calls or queued(scheduler.state):
        while calls and calls[0].submitted_at <= now:
            scheduler.handle(Submit(calls.pop(0)), now)
        for record in scheduler.admit(now):
            waited[record.call.run_id].append(now - record.call.submitted_at)
            scheduler.handle(Settle(record.call.id, done), now)
        ask_at = scheduler.next_event(now)
        times = [call.submitted_at for call in calls[:1]] + ([] if ask_at is None else [ask_at])
        now = min(times, default=now)
    return waited


def comparisons() -> list[Comparison]:
    """Compare headroom, fair share and priority inheritance, each by itself."""
    crawl = Flow("crawl", Priority.BACKGROUND, (0.0,) * 100)
    question = Flow("question", Priority.INTERACTIVE, (41.0,) * 4 + (71.0,) * 4)
    bulk = Flow("bulk", Priority.NORMAL, (0.0,) * 100)
    daily = Flow("daily", Priority.NORMAL, (20.0,) * 6)
    research = Flow("research", Priority.BACKGROUND, (20.0,) * 6)
    report = Flow("report", Priority.INTERACTIVE, ())
    return [
        _compared(
            "headroom", "question", [crawl, question], [crawl, question], without=_NO_HEADROOM
        ),
        _compared("fair share", "daily", [bulk, replace(daily, team="bulk")], [bulk, daily]),
        _compared(
            "inheritance",
            "research",
            [bulk, research, report],
            [bulk, research, replace(report, waits_for="research")],
        ),
    ]


def picture(found: Sequence[Comparison]) -> str:
    """Draw the waits as bars of text."""
    lines = ["mean wait of one run in a flood, s  (simulated time)"]
    for each in found:
        words = (f"{each.part}, for {each.who}", "")
        for label, how, wait in zip(words, ("without", "with"), each.waits, strict=True):
            bar = "█" * round(BAR_CHARACTERS * wait / max(each.waits)) or "▏"
            lines.append(f"{label:<27}{how:>7}  {bar} {wait:.1f}")
    return "\n".join(lines)


def _compared(
    part: str,
    who: str,
    plain: Sequence[Flow],
    better: Sequence[Flow],
    without: Policy | None = None,
) -> Comparison:
    both = waits(plain, without), waits(better)
    means, ends = zip(*((mean(each[who]), _end(plain, each)) for each in both), strict=True)
    return Comparison(part, who, means, ends)


def _end(flows: Sequence[Flow], waited: dict[str, list[float]]) -> float:
    return max(
        at + wait for flow in flows for at, wait in zip(flow.times, waited[flow.name], strict=True)
    )

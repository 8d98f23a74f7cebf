"""``headway run``."""

from argparse import Namespace
from typing import Any

from ...api import Headway
from ...runs.options import RunOptions
from ..json_views import run_facts
from ..text import duration
from ..watch import Watch, asking, say_result, say_summary, watched


def run(args: Namespace) -> int:
    """Start a run and watch it to its end."""
    return watched(args, _run, end_of_one, several_runs=False)


def options_of(args: Namespace) -> RunOptions:
    """Return the options that ``run`` and ``submit`` share."""
    return RunOptions(
        team=args.team,
        parameters=dict(args.parameter) or None,
        budget_usd=args.budget_usd,
        deadline_seconds=args.deadline,
        lane=args.lane,
    )


async def _run(args: Namespace, watch: Watch) -> None:
    async with Headway(args.config) as headway, watch.beside(headway):
        headway.ask(asking())
        handle = await headway.start(
            args.workflow,
            task=args.task,
            priority=args.priority,
            key=args.key,
            **options_of(args),
        )
        watch.follow(handle)


def end_of_one(args: Namespace, watch: Watch, more: dict[str, Any] | None = None) -> None:
    """Print the end of the last run that was watched; ``more`` goes into its JSON."""
    if watch.last is None:  # interrupted before it was queued
        return
    run, result = watch.last.run, watch.last.task_result
    if args.json:
        text = result.messages[-1].to_text() if result and result.messages else None
        say_result(watch, {**run_facts(run), "text": text, **(more or {})})
        return
    took = ""
    if run.started_at is not None and run.finished_at is not None:
        took = f" after {duration(run.finished_at - run.started_at)}"
    say_summary(watch, f"{run.state}{took}", f"{run.id}: `headway runs show {run.id}`")

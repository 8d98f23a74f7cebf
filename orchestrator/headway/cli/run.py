"""``headway run``."""

from argparse import Namespace

from ..api import Headway
from .facts import run_facts
from .watch import Watch, say_result, say_summary, watched
from .words import duration


def run(args: Namespace) -> int:
    """Submit a run and watch it to its end."""
    return watched(args, _run, _end, several_runs=False)


async def _run(args: Namespace, watch: Watch) -> None:
    async with Headway(args.config) as headway, watch.beside(headway):
        watch.follow(
            await headway.submit(args.team, task=args.task, priority=args.priority, key=args.key)
        )


def _end(args: Namespace, watch: Watch) -> None:
    if watch.last is None:  # interrupted before it was queued
        return
    run, result = watch.last.run, watch.last.task_result
    if args.json:
        text = result.messages[-1].to_text() if result and result.messages else None
        say_result(watch, {**run_facts(run), "text": text})
        return
    took = ""
    if run.started_at is not None and run.finished_at is not None:
        took = f" after {duration(run.finished_at - run.started_at)}"
    say_summary(watch, f"{run.state}{took}", f"{run.id}: `headway runs show {run.id}`")

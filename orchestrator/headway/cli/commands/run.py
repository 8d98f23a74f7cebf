"""``headway run``."""

import inspect
from argparse import Namespace
from collections.abc import Callable, Collection
from typing import Any

from headway_scheduler.errors import CallerError

from ...api import Headway
from ...runs.options import RunOptions
from ...spelling import did_you_mean
from ...workflows import import_autogen
from ..files import check_writable, given_task, write_private
from ..json_views import run_facts
from ..output import complain, say
from ..text import duration
from ..watch import Watch, say_result, watched


def run(args: Namespace) -> int:
    """Start a run and watch it to its end."""
    if args.last and args.json:
        raise CallerError("give --last or --json: the last object of --json has the text as well")
    if args.output is not None:
        check_writable(args.output)
    args.task = given_task(args.task)
    return watched(args, _run, _end, several_runs=False, shows_messages=not args.last)


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
    headway = Headway(args.config)
    await _require(headway, args.workflow, dict(args.parameter))
    async with headway, watch.beside(headway):
        headway.ask(watch.person())
        handle = await headway.start(
            args.workflow,
            task=args.task,
            priority=args.priority,
            key=args.key,
            **options_of(args),
        )
        watch.follow(handle)


async def _require(headway: Headway, workflow: str, parameters: Collection[str]) -> None:
    """Raise CallerError if there is no such workflow, or if it does not take ``parameters``.

    A word that is mistyped makes no run.
    """
    _, component = headway.workflows.describe(workflow)
    if component is None:
        await import_autogen()
        from headway_agents import load_factory

        factory = load_factory(headway.config.workflows.get(workflow, workflow))
        _check_parameters(factory, workflow, parameters)


def _check_parameters(
    factory: Callable[..., Any], workflow: str, parameters: Collection[str]
) -> None:
    try:
        taken = inspect.signature(factory).parameters
    except ValueError:  # built in: it does not say what it takes
        return
    if any(each.kind is each.VAR_KEYWORD for each in taken.values()):
        return
    for name in parameters:
        if name not in taken:
            named = list(taken)[1:]  # the first one is for `models`
            meant = did_you_mean(name, named) or f"it takes {', '.join(named) or 'none'}"
            raise CallerError(f"workflow {workflow!r} takes no parameter {name!r}: {meant}")


def _end(args: Namespace, watch: Watch) -> None:
    """Print the end of the run; write its final text last, so that nothing else is lost by that."""
    result = None if watch.last is None else watch.last.task_result
    end_of_one(args, watch, say_on=complain if args.last else say)
    if result is None or not result.messages:
        return
    text = result.messages[-1].to_text()
    if args.last:
        say(text)
    if args.output is not None:
        write_private(args.output, text)


def end_of_one(
    args: Namespace,
    watch: Watch,
    more: dict[str, Any] | None = None,
    *,
    say_on: Callable[[str], None] = say,
) -> None:
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
    say_on(f"{run.state}{took} · {watch.totals}")
    say_on(f"{run.id}: `headway runs show {run.id}`")

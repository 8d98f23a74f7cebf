"""``headway resume`` and the verbs of ``headway runs`` that change a run.

A command that makes a run go on watches it to its end and prints the receipt last.
"""

from argparse import Namespace
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from functools import partial

import anyio

from headway_scheduler.errors import CallerError
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import RunState

from ...api import Headway
from ...runs.actions import Check
from ...runs.handle import RunHandle
from ...runs.receipt import Receipt
from ..files import given_task
from ..json_views import run_facts
from ..output import say, say_json
from ..parser import CHANGED, FAILED, WAITS
from ..watch import Watch, asking, see_workflows, watched
from .run import end_of_one

Start = Callable[[Headway, Namespace], Awaitable[Sequence[RunHandle]]]


def resume(args: Namespace) -> int:
    """Go on with one run, or with all that were interrupted."""
    if (args.id is None) == (not args.all):
        raise CallerError("say which run is to go on: an id, or --all")
    if args.check:
        return _check(args)
    return _go_on(args, _resumed, several_runs=args.all)


def retry(args: Namespace) -> int:
    """Go on with a failed run."""
    return _go_on(args, _retried)


def fork(args: Namespace) -> int:
    """Start a copy of a run."""
    args.task = None if args.task is None else given_task(args.task)
    return _go_on(args, _forked)


def continue_run(args: Namespace) -> int:
    """Give the team of a completed run another task."""
    args.task = given_task(args.task)
    return _go_on(args, _continued)


def answer(args: Namespace) -> int:
    """Answer what a run waits for, and go on with it."""
    if args.words is not None and args.done is not None:
        raise CallerError("give the answer once: WORDS or --done RESULT")
    if args.abort:
        return _told(args, anyio.run(_aborted, args))
    return _go_on(args, _answered)


def cancel(args: Namespace) -> int:
    """End a run for good."""
    return _told(args, anyio.run(_steered, args, Headway.cancel))


def pause(args: Namespace) -> int:
    """Keep a run from being taken up."""
    return _told(args, anyio.run(_steered, args, Headway.pause))


async def _resumed(headway: Headway, args: Namespace) -> Sequence[RunHandle]:
    if args.all:
        return await headway.resume_all(unknown=args.unknown)
    return [await headway.resume(args.id, unknown=args.unknown, on_change=args.on_change)]


async def _retried(headway: Headway, args: Namespace) -> Sequence[RunHandle]:
    budget, deadline = args.budget_usd, args.deadline
    return [await headway.retry(args.id, budget_usd=budget, deadline_seconds=deadline)]


async def _forked(headway: Headway, args: Namespace) -> Sequence[RunHandle]:
    return [await headway.fork(args.id, at=args.at, task=args.task)]


async def _continued(headway: Headway, args: Namespace) -> Sequence[RunHandle]:
    return [await headway.continue_run(args.id, args.task)]


async def _answered(headway: Headway, args: Namespace) -> Sequence[RunHandle]:
    words = args.words if args.done is None else args.done
    run = await headway.answer(args.id, words, again=args.again)
    return [await headway.resume(run.id)]


async def _aborted(args: Namespace) -> Run:
    async with Headway(args.config) as headway:
        words = args.words if args.done is None else args.done
        return await headway.answer(args.id, words, again=args.again, abort=True)


async def _steered(args: Namespace, verb: Callable[[Headway, str], Awaitable[Run]]) -> Run:
    async with Headway(args.config) as headway:
        return await verb(headway, args.id)


def _told(args: Namespace, run: Run) -> int:
    say_json(run_facts(run)) if args.json else say(f"{run.id}  {run.state}")
    return 0


def _go_on(args: Namespace, start: Start, *, several_runs: bool = False) -> int:
    """Start runs, watch them to their ends, and print their receipts."""
    receipts: list[Receipt] = []
    work = partial(_watched, start, receipts)
    return watched(args, work, partial(_end, receipts), several_runs=several_runs)


async def _watched(start: Start, receipts: list[Receipt], args: Namespace, watch: Watch) -> None:
    async with Headway(args.config) as headway:
        headway.ask(asking())
        handles: Sequence[RunHandle] = ()
        try:
            async with watch.beside(headway):
                handles = await start(headway, args)
                for handle in handles:
                    watch.follow(handle)
        finally:
            with anyio.CancelScope(shield=True):
                for handle in handles:
                    receipts.append(await headway.receipt(handle.id))


def _end(receipts: list[Receipt], args: Namespace, watch: Watch) -> None:
    end_of_one(args, watch, {"receipts": [asdict(receipt) for receipt in receipts]})
    if not args.json:
        for receipt in receipts:
            say(f"{receipt.run_id}: {receipt}")


def _check(args: Namespace) -> int:
    see_workflows()
    checks = anyio.run(_checked, args)
    if args.json:
        say_json([asdict(check) for check in checks])
    else:
        for check in checks:
            say(_sentence(check))
    if any(check.outcome == "changed" for check in checks):
        return CHANGED
    if any(check.outcome == "fails" for check in checks):
        return FAILED
    return WAITS if any(check.outcome == "waits" for check in checks) else 0


async def _checked(args: Namespace) -> list[Check]:
    async with Headway(args.config) as headway:
        runs = await headway.list_runs([RunState.INTERRUPTED]) if args.all else []
        ids = [run.id for run in runs] if args.all else [args.id]
        return [await headway.check(key, unknown=args.unknown) for key in ids]


def _sentence(check: Check) -> str:
    head = f"{check.run_id}: {check.replayed} answers are given back, then it "
    if check.outcome == "asks":
        return f"{head}asks: {check.next}"
    if check.outcome == "waits":
        return f"{head}waits for a person: call {check.next}"
    if check.outcome == "changed":
        return f"{check.run_id}: the workflow changed\n{check.change}"
    return f"{head}{check.outcome}{f': {check.next}' if check.next else ''}"

"""``headway resume`` and the verbs of ``headway runs`` that change a run.

A command that makes a run go on watches it to its end and prints the receipt last.
"""

from argparse import Namespace
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from functools import partial

import anyio

from headway_scheduler.errors import CallerError, RunNotResumable, WorkflowNotHere
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import ENDED_RUNS, RunState

from ...api import Headway
from ...runs.actions import Check
from ...runs.handle import RunHandle
from ...runs.options import RunOptions
from ...runs.receipt import Receipt
from ..files import given_task
from ..json_views import run_facts
from ..output import complain, one_line, say, say_json
from ..parser import BAD_INPUT, CHANGED, FAILED, WAITS
from ..selection import has_filters, selected, to_change
from ..watch import Watch, see_workflows, watched
from .run import end_of_one
from .work import end_of_several

_R = RunState
_OPEN = (_R.QUEUED, _R.RUNNING, _R.WAITING, _R.PAUSED, _R.INTERRUPTED)
_NOT_STARTED = (_R.QUEUED, _R.RUNNING, _R.INTERRUPTED)
AT_ONCE = 32
"""How many runs one command executes at the same time."""

Start = Callable[[Headway, str], Awaitable[RunHandle | None]]
"""Has a run go on, by its id; None if it is left as it is."""


def resume(args: Namespace) -> int:
    """Go on with runs that were interrupted or paused."""
    if args.all:
        if args.ids or has_filters(args):
            raise CallerError("say which runs: --all, or ids, or --state, --team and --since")
        args.state, args.yes = [_R.INTERRUPTED.value], True
    find = selected if args.check else to_change
    runs = find(args, (_R.INTERRUPTED, _R.PAUSED))
    if args.check:
        return _check(args, runs)

    async def start(headway: Headway, run_id: str) -> RunHandle | None:
        try:
            return await headway.resume(run_id, unknown=args.unknown, on_change=args.on_change)
        except (WorkflowNotHere, RunNotResumable) as error:
            if not args.all:
                raise
            complain(f"left as it is: {error}")  # or another process was faster
            return None

    return _go_on(args, runs, start)


def retry(args: Namespace) -> int:
    """Go on with failed runs."""
    options = RunOptions(budget_usd=args.budget_usd, deadline_seconds=args.deadline, lane=args.lane)
    runs = to_change(args, [_R.FAILED])
    return _go_on(args, runs, lambda headway, run_id: headway.retry(run_id, **options))


def fork(args: Namespace) -> int:
    """Start copies of runs."""
    task = None if args.task is None else given_task(args.task)
    runs = to_change(args, tuple(ENDED_RUNS))
    return _go_on(args, runs, lambda headway, run_id: headway.fork(run_id, at=args.at, task=task))


def continue_run(args: Namespace) -> int:
    """Give the teams of completed runs another task."""
    task = given_task(_last(args, "TASK"))
    runs = to_change(args, [_R.COMPLETED])
    return _go_on(args, runs, lambda headway, run_id: headway.continue_run(run_id, task))


def answer(args: Namespace) -> int:
    """Answer what runs wait for, and go on with them."""
    words: str | None = args.done
    is_plain = words is None and not (args.again or args.abort)
    if is_plain:
        words = _last(args, "WORDS")
    runs = to_change(args, [_R.WAITING])
    if args.abort:
        return _steered(args, runs, lambda headway, run_id: headway.answer(run_id, abort=True))

    async def start(headway: Headway, run_id: str) -> RunHandle | None:
        asked = await headway.question(run_id) if is_plain else None
        if asked is not None and asked[0].call.kind != "person":
            raise CallerError(
                f"run {run_id}: {one_line(asked[1])} Say so by --done RESULT, --again or --abort"
            )
        run = await headway.answer(run_id, words, again=args.again)
        try:
            return await headway.resume(run.id)
        except (WorkflowNotHere, RunNotResumable):  # or a worker was faster
            complain(
                f"{run.id} is answered: a worker that has its workflow goes on with it", "info"
            )
            return None

    return _go_on(args, runs, start)


def _last(args: Namespace, what: str) -> str:
    """Take the last word, which is no id. Raises CallerError if there is none."""
    if len(args.ids) < 2 - has_filters(args):
        raise CallerError(f"say which run, and {what}: `{args.line} --help` shows how")
    word: str = args.ids.pop()
    return word


def cancel(args: Namespace) -> int:
    """End runs for good."""
    return _steered(args, to_change(args, _OPEN), Headway.cancel)


def pause(args: Namespace) -> int:
    """Keep runs from being taken up."""
    return _steered(args, to_change(args, _NOT_STARTED), Headway.pause)


def _steered(
    args: Namespace, runs: Sequence[Run], verb: Callable[[Headway, str], Awaitable[Run]]
) -> int:
    """Change runs one after the other, say what became of each, and return the exit code.

    A run that does not allow it keeps no other from being changed. A single one raises its error.
    """
    refused: list[str] = []

    async def act() -> list[Run]:
        changed = []
        async with Headway(args.config) as headway:
            for run in runs:
                try:
                    changed.append(await verb(headway, run.id))
                except CallerError as error:
                    if len(args.ids) == 1:
                        raise
                    refused.append(str(error))
        return changed

    changed = anyio.run(act) if runs else []
    if args.json:
        facts = [run_facts(run) for run in changed]
        say_json(facts[0] if len(args.ids) == 1 else facts)
    else:
        for run in changed:
            say(f"{run.id}  {run.state}")
        if not runs:
            say("no run was changed")
    for text in refused:
        complain(text)
    return BAD_INPUT if refused else 0


def _go_on(args: Namespace, runs: Sequence[Run], start: Start) -> int:
    """Start runs, the most urgent first, watch them to their ends, and print their receipts."""
    receipts: list[Receipt] = []
    first_to_last = sorted(runs, key=lambda run: (run.priority, run.created_at))
    work = partial(_watched, [run.id for run in first_to_last], start, receipts)
    return watched(args, work, partial(_end, receipts), several_runs=len(runs) > 1)


async def _watched(
    ids: Sequence[str], start: Start, receipts: list[Receipt], args: Namespace, watch: Watch
) -> None:
    if not ids:
        return
    handles: list[RunHandle] = []
    async with Headway(args.config) as headway:
        headway.ask(watch.person())
        try:
            async with watch.beside(headway):
                for run_id in ids:
                    await watch.room(AT_ONCE)
                    if watch.is_draining:
                        break
                    try:
                        handle = await start(headway, run_id)
                    except CallerError as error:
                        if len(args.ids) == 1:
                            raise
                        watch.refuse(error)
                        continue
                    if handle is not None:
                        handles.append(handle)
                        watch.follow(handle)
        finally:
            with anyio.CancelScope(shield=True):
                for handle in handles:
                    receipts.append(await headway.receipt(handle.id))


def _end(receipts: list[Receipt], args: Namespace, watch: Watch) -> None:
    more = {"receipts": [asdict(receipt) for receipt in receipts]}
    if watch.states.total() == 1:
        end_of_one(args, watch, more)
    else:
        end_of_several(args, watch, "no run went on here", more)
    if not args.json:
        for receipt in receipts:
            say(f"{receipt.run_id}: {receipt}")


def _check(args: Namespace, runs: Sequence[Run]) -> int:
    see_workflows()
    checks = anyio.run(_checked, args, runs)
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


async def _checked(args: Namespace, runs: Sequence[Run]) -> list[Check]:
    async with Headway(args.config) as headway:
        return [await headway.check(run.id, unknown=args.unknown) for run in runs]


def _sentence(check: Check) -> str:
    head = f"{check.run_id}: {check.replayed} answers are given back, then it "
    if check.outcome == "asks":
        return f"{head}asks: {check.next}"
    if check.outcome == "waits":
        return f"{head}waits for a person: call {check.next}"
    if check.outcome == "changed":
        return f"{check.run_id}: the workflow changed\n{check.change}"
    return f"{head}{check.outcome}{f': {check.next}' if check.next else ''}"

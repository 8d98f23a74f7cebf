"""Which runs a verb is about: those that ids name, or all that fit filters.

Law of this file: what changes runs that nobody named one by one is shown first, and confirmed.
"""

import sys
from argparse import Namespace
from collections.abc import Collection, Sequence

import anyio

from headway_scheduler.errors import CallerError
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import RunState

from ..config import Config, load
from ..runs.stopped import find_run
from .database import Reader, reading
from .output import clean, complain, shortened, table
from .text import age, counted

MOST = 1000
"""How many runs one command is about, at most."""
PREVIEWED = 10
"""How many of them a preview lists."""
TASK_WIDTH = 40


def selected(args: Namespace, states: Collection[RunState] = ()) -> Sequence[Run]:
    """Return the runs that ``args`` names by ids, or else by filters, newest first.

    ``states``: those that the verb is about, if no state was asked for; without any, all. Raises
    RunNotFound for an id that names none, and CallerError for more than ``MOST`` runs.
    """
    runs, _ = anyio.run(_selected, load(args.config), args, states)
    return runs


def to_change(args: Namespace, states: Collection[RunState]) -> Sequence[Run]:
    """Return the runs that ``args`` names, for a verb that changes them: see :func:`selected`.

    Runs that filters name are shown, and a person has to agree; none are returned if not. Raises
    CallerError where nobody can be asked.
    """
    runs, now = anyio.run(_selected, load(args.config), args, states)
    if args.ids or args.yes or not runs:
        return runs
    what = f"`{args.line}` is about {counted(len(runs), 'run')}"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise CallerError(
            f"{what}, and nobody is here to agree: add --yes if all of them are meant"
        )
    complain(what)
    sys.stderr.write(f"{clean(_preview(runs, now))}\nGo on? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return runs
    complain("nothing was done")
    return []


async def _selected(
    config: Config, args: Namespace, states: Collection[RunState]
) -> tuple[Sequence[Run], float]:
    if bool(args.ids) == has_filters(args):
        raise CallerError("say which runs: either ids, or --state, --team and --since")
    async with reading(config) as reader:
        if args.ids:
            found = [await find_run(reader.store, each) for each in args.ids]
            return [
                reader.as_it_is(run) for run in {run.id: run for run in found}.values()
            ], reader.now
        runs = await listed(reader, args, states, MOST + 1)
        if len(runs) > MOST:
            raise CallerError(f"more than {MOST:,} runs fit: ask for fewer, as with --since 1h")
        return runs, reader.now


def has_filters(args: Namespace) -> bool:
    """Whether ``args`` says which runs are meant without naming them."""
    return any(each is not None for each in (args.state, args.team, args.since))


async def listed(
    reader: Reader, args: Namespace, states: Collection[RunState], limit: int
) -> Sequence[Run]:
    """Return the runs that fit the filters of ``args``, newest first, as they are now.

    ``states``: those that are listed if no state was asked for; none: all.
    """
    if args.state is not None:
        states = [RunState(each) for each in args.state]
    rows = await reader.store.runs(_of_rows(states, reader), team=args.team, limit=limit)
    since = 0.0 if args.since is None else reader.now - args.since
    runs = (reader.as_it_is(run) for run in rows if run.created_at >= since)
    return [run for run in runs if not states or run.state in states]


def _of_rows(states: Collection[RunState], reader: Reader) -> set[RunState]:
    """Return the states of rows that may stand for ``states``: see ``Reader.as_it_is``."""
    may_be_dead = {RunState.INTERRUPTED, RunState.FAILED} & set(states) and not reader.is_held
    return {*states, RunState.RUNNING} if may_be_dead else set(states)


def _preview(runs: Sequence[Run], now: float) -> str:
    rows = [
        (run.id, run.state, run.workflow, age(run.created_at, now), shortened(run.task, TASK_WIDTH))
        for run in runs[:PREVIEWED]
    ]
    more = f"\nand {len(runs) - PREVIEWED:,} more" if len(runs) > PREVIEWED else ""
    return table(("ID", "STATE", "WORKFLOW", "SUBMITTED", "TASK"), rows) + more

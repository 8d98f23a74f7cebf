"""``headway work``."""

from argparse import Namespace

import anyio

from headway_scheduler.errors import StoreBusy
from headway_scheduler.states import RunState

from ..api import Headway
from ..config import Config, load
from .database import reading
from .output import say
from .watch import Watch, say_result, say_summary, watched

POLL_SECONDS = 1.0
"""How often a worker that waits looks for runs: one read, which no writer notices."""


def work(args: Namespace) -> int:
    """Take queued runs, most urgent first, until none is left."""
    return watched(args, _work, _end, several_runs=True)


async def _work(args: Namespace, watch: Watch) -> None:
    config = load(args.config)
    await _take_all(config, args.runs, watch)
    while args.forever:
        # Meanwhile the database is open to `headway submit`: one process writes at a time.
        await _wait_for_runs(config)
        try:
            await _take_all(config, args.runs, watch)
        except StoreBusy:
            await anyio.sleep(POLL_SECONDS)


async def _take_all(config: Config, at_once: int, watch: Watch) -> None:
    async with Headway(config) as headway, watch.beside(headway):
        await headway.work(at_once=at_once, watch=watch.follow)


async def _wait_for_runs(config: Config) -> None:
    while True:
        async with reading(config) as reader:
            if await reader.store.runs({RunState.QUEUED}, limit=1):
                return
        await anyio.sleep(POLL_SECONDS)


def _end(args: Namespace, watch: Watch) -> None:
    if args.json:
        say_result(watch, {"states": {state.value: n for state, n in watch.states.items()}})
    elif not watch.states:
        say("no run is queued: `headway submit` queues one")
    else:
        states = ", ".join(f"{count} {state}" for state, count in watch.states.items())
        say_summary(watch, states, "`headway runs list` shows them")

"""Carries out one change of the queue or the limits, and says what was changed."""

from argparse import Namespace
from collections.abc import Awaitable, Callable

import anyio

from headway_scheduler.model.changes import Change

from ..api import Headway
from .output import say, say_json


def changed(args: Namespace, act: Callable[[Headway], Awaitable[Change | None]]) -> int:
    """Carry out ``act`` and print the change that it returns, if any."""

    async def do() -> Change | None:
        async with Headway(args.config) as headway:
            return await act(headway)

    change = anyio.run(do)
    if args.json:
        say_json([] if change is None else [change_facts(change)])
    else:
        say("done; it holds for every process that works on this queue from now on")
    return 0


def change_facts(change: Change) -> dict[str, object]:
    """Return what ``--json`` shows of a change."""
    return {"at": change.at, "kind": change.action, "target": change.target, "value": change.value}

"""``headway work``."""

from argparse import Namespace

from ..api import Headway
from ..config import Config, load
from .output import say
from .watch import Watch, say_result, say_summary, watched


def work(args: Namespace) -> int:
    """Take queued runs, most urgent first, until none is left."""
    return watched(args, _work, _end, several_runs=True)


async def _work(args: Namespace, watch: Watch) -> None:
    config = load(args.config)
    while not await _works(config, args, watch):
        pass


async def _works(config: Config, args: Namespace, watch: Watch) -> bool:
    """Work; while another process leads, wait for its end instead."""
    async with Headway(config) as headway:
        if args.forever and not headway.is_leader:
            await headway.until_nobody_leads()
            return False
        async with watch.beside(headway):
            await headway.work(at_once=args.runs, forever=args.forever, watch=watch.follow)
    return True


def _end(args: Namespace, watch: Watch) -> None:
    if args.json:
        say_result(watch, {"states": {state.value: n for state, n in watch.states.items()}})
    elif not watch.states:
        say("no run is queued: `headway submit` queues one")
    else:
        states = ", ".join(f"{count} {state}" for state, count in watch.states.items())
        say_summary(watch, states, "`headway runs list` shows them")

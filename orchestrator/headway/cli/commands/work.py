"""``headway work``."""

import signal
from argparse import Namespace

import anyio

from ...api import Headway
from ..output import say
from ..watch import Watch, say_result, say_summary, watched


def work(args: Namespace) -> int:
    """Take queued runs, most urgent first, until none is left."""
    return watched(args, _work, _end, several_runs=True)


async def _work(args: Namespace, watch: Watch) -> None:
    watch.takes_runs = not args.forever
    async with (
        Headway(args.config, label=args.label) as headway,
        watch.beside(headway),
        anyio.create_task_group() as group,
    ):
        group.start_soon(_heed_signals, headway)
        await headway.work(slots=args.slots, forever=args.forever, watch=watch.follow)
        group.cancel_scope.cancel()


async def _heed_signals(headway: Headway) -> None:
    """Drain at the first SIGTERM; at the second, stop as Ctrl-C does."""
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            if headway.is_draining:
                signal.raise_signal(signal.SIGINT)
            headway.drain()


def _end(args: Namespace, watch: Watch) -> None:
    if args.json:
        say_result(watch, {"states": {state.value: n for state, n in watch.states.items()}})
    elif not watch.states:
        say("no run is queued: `headway submit` queues one")
    else:
        states = ", ".join(f"{count} {state}" for state, count in watch.states.items())
        say_summary(watch, states, "`headway runs list` shows them")

"""``headway work``."""

import signal
from argparse import Namespace
from functools import partial
from typing import Any

import anyio

from headway_scheduler.model.states import RunState

from ...api import Headway
from ..output import complain, say
from ..text import counted, duration
from ..watch import Watch, say_result, watched


def work(args: Namespace) -> int:
    """Take queued runs, most urgent first, until none is left."""
    end = partial(end_of_several, none="no run is queued: `headway submit` queues one")
    return watched(args, _work, end, several_runs=True)


async def _work(args: Namespace, watch: Watch) -> None:
    watch.takes_runs, watch.says_receipts = not args.forever, not args.json
    async with (
        Headway(args.config, label=args.label) as headway,
        watch.beside(headway),
        anyio.create_task_group() as group,
    ):
        group.start_soon(_heed_signals, headway, watch, args.drain_timeout)
        await headway.work(slots=args.slots, forever=args.forever, watch=watch.follow)
        if not args.forever:
            await _tell_what_is_left(headway)
        group.cancel_scope.cancel()


async def _tell_what_is_left(headway: Headway) -> None:
    if left := await headway.list_runs([RunState.INTERRUPTED]):
        are = "1 run is" if len(left) == 1 else f"{len(left)} runs are"
        complain(f"{are} interrupted, and left so: `headway resume --all` goes on with them")
    strange = await headway.list_runs([RunState.QUEUED])
    for name in sorted({run.workflow for run in strange if not headway.workflows.can_build(run)}):
        complain(
            f"runs of workflow {name!r} stay queued: it is not in [workflows], and only a program "
            "that registers it can execute them"
        )


async def _heed_signals(headway: Headway, watch: Watch, timeout: float | None) -> None:
    """Take no more runs from the first SIGTERM on; the second and third are as Ctrl-C.

    ``timeout``: so many seconds after the first, runs are interrupted as by the second.
    """
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with anyio.create_task_group() as group:
            async for _ in signals:
                if headway.is_draining:
                    signal.raise_signal(signal.SIGINT)
                    continue
                complain(_draining(len(watch.live), timeout), "info")
                if timeout is not None:
                    group.start_soon(_drain_after, timeout, watch)
                headway.drain()


def _draining(runs: int, timeout: float | None) -> str:
    if not runs:
        return "no more runs are taken"
    after = "" if timeout is None else f"; what is left after {duration(timeout)} is interrupted"
    end = "ends" if runs == 1 else "end"
    return f"no more runs are taken; {counted(runs, 'run')} {end} first{after}"


async def _drain_after(seconds: float, watch: Watch) -> None:
    await anyio.sleep(seconds)
    watch.drain()


def end_of_several(
    args: Namespace, watch: Watch, none: str, more: dict[str, Any] | None = None
) -> None:
    """Print how many runs ended how, or ``none``; ``more`` goes into its JSON."""
    if args.json:
        counts = {state.value: count for state, count in watch.states.items()}
        say_result(watch, {"states": counts, **(more or {})})
    elif not watch.states:
        say(none)
    else:
        states = ", ".join(f"{count} {state}" for state, count in watch.states.items())
        say(f"{states} · {watch.totals}")
        say("`headway runs list` shows them")

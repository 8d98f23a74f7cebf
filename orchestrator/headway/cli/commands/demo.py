"""``headway demo``: no key, nothing to start. Exits 0 if every team of Headway finished."""

from argparse import Namespace
from dataclasses import asdict

import anyio
from rich.console import Console

from ..output import complain, say_json
from ..parser import FAILED, INTERRUPTED


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let the error reach :func:`headway.cli.main`: rich would end the process from a task."""
        raise  # rich calls this while it handles the error


def run(args: Namespace) -> int:
    """Run the demo; with ``args.json`` print one JSON document and nothing else."""
    try:
        return anyio.run(_demo, bool(args.json), _Console())
    except KeyboardInterrupt:
        complain("stopped; nothing is left behind")
        return INTERRUPTED


async def _demo(as_json: bool, console: Console) -> int:
    if not as_json:
        console.print("Headway demo: loading AutoGen …")
    # Here, not at the top: AutoGen takes seconds, and someone is looking at the screen.
    from ...demo.plan import Plan
    from ...demo.policy import comparisons, picture
    from ...demo.race import Race
    from ...demo.screen import introduction, watch
    from ...demo.summary import show

    race = Race(Plan())
    async with anyio.create_task_group() as group:
        if not as_json:
            console.print(introduction(race.plan), highlight=False)
            group.start_soon(watch, race, console)
        await race.run()
        group.cancel_scope.cancel()
    report = race.report()
    compared = comparisons()
    if as_json:
        say_json(report.as_json() | {"policy": [asdict(each) for each in compared]})
    else:
        show(report, console)
        console.print(f"\n{picture(compared)}", highlight=False)
    return 0 if report.headway.finished == report.headway.teams else FAILED

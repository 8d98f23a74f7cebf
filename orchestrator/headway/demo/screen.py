"""Shows the race while it runs: panels on a terminal, else a plain line now and then."""

import time
from collections.abc import Iterator

import anyio
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from headway_scheduler.core.views import Explanation, Gauge
from headway_scheduler.model.quotas import Resource
from headway_scheduler.runtime.local import LocalScheduler

from .plan import BACKGROUND, CLASSES, URGENT, Plan
from .race import Race
from .side import Side, TeamState, Waits

_FRAME_SECONDS = 0.25
_LINES_SECONDS = 3.0
_PANEL_WIDTH = 58
_BAR_WIDTH = 22
_STYLES = {URGENT: "dark_orange3", BACKGROUND: "grey62"}


def introduction(plan: Plan) -> str:
    """Say what the demo is about to do."""
    limits = plan.limits
    return (
        f"{plan.background_teams} background teams of 3 calls arrive within "
        f"{plan.flood_seconds:g} s, an urgent (interactive) one of 4 calls after "
        f"{plan.urgent_at_seconds:g} s. "
        "Both sides run at the same time, with Headway and without, each against a simulated "
        f"provider of its own that allows {limits.requests_per_minute:,.0f} requests and "
        f"{limits.tokens_per_minute:,.0f} tokens a minute."
    )


async def watch(race: Race, console: Console) -> None:
    """Show the race until this is cancelled."""
    started_at = time.monotonic()
    if not console.is_terminal or console.is_dumb_terminal:
        while True:
            await anyio.sleep(_LINES_SECONDS)
            for line in lines(race, time.monotonic() - started_at):
                console.print(line, soft_wrap=True, highlight=False)
    # No refresh by a thread: the records change meanwhile.
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(frame(race, time.monotonic() - started_at), refresh=True)
            await anyio.sleep(_FRAME_SECONDS)


# Plain lines


def lines(race: Race, seconds: float) -> Iterator[str]:
    """Return a line for each side that is not over."""
    if race.headway is not None:
        gauges = race.headway.scheduler.statistics().gauges
        free = ", ".join(f"{max(0.0, g.available):,.0f} {g.resource}" for g in gauges)
        yield f"{seconds:4.0f} s  headway  {_brief(race.ours)}; free {free}"
    if any(team.state is TeamState.RUNNING for team in race.stock.teams.values()):
        yield f"{seconds:4.0f} s  without  {_brief(race.stock)}"


def _brief(side: Side) -> str:
    waiting = ", ".join(f"{side.waiting(priority)} {priority.label}" for priority in CLASSES)
    worst = ", ".join(_seconds(side.waits(priority).worst_seconds) for priority in CLASSES)
    teams = f"teams {side.count(TeamState.FINISHED)} finished, {side.count(TeamState.DIED)} died"
    return f"waiting {waiting}; worst waits {worst}; 429s {side.refused}; {teams}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


# A frame of the live view


def frame(race: Race, seconds: float) -> RenderableType:
    """Draw both sides beside each other."""
    scheduler = race.headway.scheduler if race.headway is not None else None
    ours = _panel("with Headway", _gauges(scheduler), race.ours, _next(scheduler))
    stock = _panel("without: stock AutoGen clients", _no_gauges(), race.stock, "nobody knows")
    title = Text.assemble(("headway demo", "bold"), f"  {seconds:.0f} s")
    return Group(title, Columns([ours, stock]))


def _panel(
    title: str, gauges: Iterator[tuple[str, RenderableType]], side: Side, next_call: str
) -> Panel:
    table = Table.grid(padding=(0, 1))
    table.add_column(style="grey62", min_width=11, no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for name, shown in (*gauges, *_rows(side)):
        table.add_row(name, shown)
    table.add_row("next", next_call)
    return Panel(table, title=title, title_align="left", width=_PANEL_WIDTH)


def _gauges(scheduler: LocalScheduler | None) -> Iterator[tuple[str, RenderableType]]:
    for gauge in scheduler.statistics().gauges if scheduler is not None else ():
        yield gauge.resource, _gauge(gauge)


def _no_gauges() -> Iterator[tuple[str, RenderableType]]:
    for resource in (Resource.REQUESTS, Resource.TOKENS):
        yield resource, Text("nobody keeps the budget", "grey62")


def _gauge(gauge: Gauge) -> RenderableType:
    used = max(0.0, gauge.capacity - gauge.available)
    return _bar(used, gauge.capacity, "blue", f"{used:,.0f} of {gauge.capacity:,.0f} in use")


def _rows(side: Side) -> Iterator[tuple[str, RenderableType]]:
    for priority in CLASSES:
        waiting = side.waiting(priority)
        total = max(1, side.plan.background_teams)
        yield priority.label, _bar(waiting, total, _STYLES[priority], f"{waiting} waiting")
        yield "  waited", Text(_waits(side.waits(priority)), _STYLES[priority])
    finished, died = side.count(TeamState.FINISHED), side.count(TeamState.DIED)
    running = side.count(TeamState.RUNNING)
    yield (
        "teams",
        Text.assemble(
            (f"{finished} finished", "green"), f", {running} running, ", _alarm(died, "died")
        ),
    )
    yield "429s", _alarm(side.refused, "refused")


def _bar(value: float, total: float, style: str, words: str) -> RenderableType:
    row = Table.grid(padding=(0, 1))
    bar = ProgressBar(total, min(value, total), _BAR_WIDTH, complete_style=style)
    bar.finished_style = style
    row.add_row(bar, words)
    return row


def _waits(waits: Waits) -> str:
    if waits.last_seconds is None or waits.worst_seconds is None:
        return "none accepted yet"
    return f"last {waits.last_seconds:.1f} s, worst {waits.worst_seconds:.1f} s"


def _alarm(count: int, word: str) -> Text:
    return Text(f"{count} {word}", "bold red" if count else "")


def _next(scheduler: LocalScheduler | None) -> str:
    """Return the head of the queue and what it waits for."""
    queued = scheduler.queued() if scheduler is not None else []
    if scheduler is None or not queued:
        return "nothing waits"
    call = queued[0].call
    explained = scheduler.explain(call.id)
    return f"{call.path}: {_why(explained, scheduler.now())}"


def _why(explained: Explanation | None, now: float) -> str:
    if explained is None or not explained.blockers:
        return "goes now"
    blocker = explained.blockers[0]
    when = "" if blocker.at is None else f", in {max(0.0, blocker.at - now):.1f} s"
    if blocker.resource is None:
        return f"paused{when}"
    return f"{blocker.need:,.0f} {blocker.resource}, {blocker.free:,.1f} free{when}"

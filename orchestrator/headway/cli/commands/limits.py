"""``headway limits``. What it shows, it shows beside a live process, and after it died."""

from argparse import Namespace
from collections.abc import Iterator, Sequence

import anyio

from headway_scheduler.core.inspection import statistics
from headway_scheduler.core.state import SchedulerState
from headway_scheduler.core.views import Gauge
from headway_scheduler.errors import CallerError
from headway_scheduler.model.changes import Change

from ...config import load
from ..changes import change_facts, changed
from ..database import StoredQueue, load_queue, reading
from ..output import one_line, say, say_json, table
from ..text import clock

_GAUGES = ("QUOTA", "LIMIT", "A MINUTE", "FULL", "FREE", "KNOWN", "STATE")


def show(args: Namespace) -> int:
    """Show every limit that holds now, configured or learned, and what is free of it."""
    queue, now = anyio.run(_queue, args)
    gauges = statistics(queue.scheduler.state, now).gauges
    if args.json:
        say_json([{**each._asdict(), "resource": str(each.resource)} for each in gauges])
    else:
        rows = [_gauge_row(each, now) for each in gauges]
        say(table(_GAUGES, [*rows, *_rows_of_lanes(queue.scheduler.state, now)]))
    return 0


def _rows_of_lanes(state: SchedulerState, now: float) -> Iterator[tuple[str, ...]]:
    """Yield a line for each quota without limits, as lanes have, that lets nothing go."""
    for name, quota in state.lanes.quotas.items():
        breaker = quota.breaker
        if quota.buckets or not breaker.is_open:
            continue
        said = "probing"
        if breaker.stopped is not None:
            said = f"stopped: {one_line(breaker.stopped)}"
        elif breaker.short_since is not None:
            said = f"no capacity since {clock(breaker.short_since, now)}"
        yield name, "none", "", "", "", "", said


def set(args: Namespace) -> int:
    """Change limits until they are reset."""
    settings = dict(map(_setting, args.settings))
    return changed(args, lambda headway: headway.limits.set(args.quota, settings))


def reset(args: Namespace) -> int:
    """Go back to the configured limits."""
    return changed(args, lambda headway: headway.limits.reset(args.quota))


def resume(args: Namespace) -> int:
    """Let a stopped quota try again."""
    return changed(args, lambda headway: headway.limits.resume(args.quota))


def weight(args: Namespace) -> int:
    """Change the share of a team."""
    return changed(args, lambda headway: headway.limits.weight(args.team, args.weight))


def log(args: Namespace) -> int:
    """Show what was changed, newest first."""
    changes, now = anyio.run(_changes, args)
    if args.json:
        say_json([change_facts(change) for change in changes])
    else:
        rows = [(clock(each.at, now), each.action, each.target, each.value) for each in changes]
        say(table(("AT", "WHAT", "OF", "TO"), rows) if rows else "nothing was changed")
    return 0


def _gauge_row(gauge: Gauge, now: float) -> tuple[str, ...]:
    rate = f"{60 * gauge.per_second:,.6g}" if gauge.per_second else ""
    state = "open"
    if gauge.stopped is not None:
        state = f"stopped: {one_line(gauge.stopped)}"
    elif gauge.paused_until is not None:
        state = f"paused until {clock(gauge.paused_until, now)}"
    full, free = f"{gauge.capacity:,.6g}", f"{gauge.available:,.6g}"
    return gauge.quota, str(gauge.resource), rate, full, free, _known(gauge), state


def _known(gauge: Gauge) -> str:
    """Say from what a limit is known and how it is counted, as in ``told, sliding 10 s``."""
    window = "" if gauge.window_seconds is None else f" {gauge.window_seconds:,.6g} s"
    known = f"{gauge.source}, {gauge.counted}{window}" if gauge.counted else gauge.source
    return f"{known}; answers show a bucket" if gauge.is_contradicted else known


async def _queue(args: Namespace) -> tuple[StoredQueue, float]:
    config = load(args.config)
    async with reading(config) as reader:
        return await load_queue(config, reader), reader.now


async def _changes(args: Namespace) -> tuple[Sequence[Change], float]:
    async with reading(load(args.config)) as reader:
        return await reader.store.changes(), reader.now


def _setting(text: str) -> tuple[str, object]:
    key, sign, value = text.partition("=")
    if not sign:
        raise CallerError(f"{text!r} is no setting: write it as requests_per_minute=200")
    try:
        number = float(value)
    except ValueError:
        return key, value
    return key, int(number) if number.is_integer() else number

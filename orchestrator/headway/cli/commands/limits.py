"""``headway queue bump``, ``pause``, ``drain``, ``resume``, and ``headway limits``."""

from argparse import Namespace
from collections.abc import Awaitable, Callable, Sequence

import anyio

from headway_scheduler.core.views import Gauge
from headway_scheduler.errors import CallerError
from headway_scheduler.model.changes import Change

from ...api import Headway
from ...config import load
from ...queue import Operations
from ..database import Queue, load_queue, reading
from ..output import one_line, say, say_json, table
from ..text import clock

GAUGES = ("QUOTA", "LIMIT", "A MINUTE", "FULL", "FREE", "STATE")


def bump(args: Namespace) -> int:
    """Change the class of a run or a waiting call."""
    return _done(args, lambda queue: queue.bump(args.id, args.priority))


def pause(args: Namespace) -> int:
    """Send nothing until resumed."""
    return _done(args, lambda queue: queue.pause(args.of))


def drain(args: Namespace) -> int:
    """Send what waits, hold what comes later."""
    return _done(args, lambda queue: queue.drain(args.of))


def resume(args: Namespace) -> int:
    """Send again what was held."""
    return _done(args, lambda queue: queue.resume(args.of))


def set_limits(args: Namespace) -> int:
    """Change limits until they are reset."""
    settings = dict(map(_setting, args.settings))
    return _done(args, lambda queue: queue.set_limits(args.quota, settings))


def reset_limits(args: Namespace) -> int:
    """Go back to the configured limits."""
    return _done(args, lambda queue: queue.reset_limits(args.quota))


def resume_quota(args: Namespace) -> int:
    """Let a stopped quota try again."""
    return _done(args, lambda queue: queue.resume_quota(args.quota))


def show_limits(args: Namespace) -> int:
    """Show every limit that holds now, configured or learned, and what is free of it."""
    queue, now = anyio.run(_queue, args)
    gauges = queue.scheduler.statistics(now).gauges
    if args.json:
        say_json([{**each._asdict(), "resource": str(each.resource)} for each in gauges])
    else:
        say(table(GAUGES, [gauge_row(each, now) for each in gauges]))
    return 0


async def _queue(args: Namespace) -> tuple[Queue, float]:
    config = load(args.config)
    async with reading(config) as reader:
        return await load_queue(config, reader), reader.now


def gauge_row(gauge: Gauge, now: float) -> tuple[str, ...]:
    """A line of the table of ``GAUGES`` for one limit."""
    rate = f"{60 * gauge.per_second:,.6g}" if gauge.per_second else ""
    state = "open"
    if gauge.stopped is not None:
        state = f"stopped: {one_line(gauge.stopped)}"
    elif gauge.paused_until is not None:
        state = f"paused until {clock(gauge.paused_until, now)}"
    full, free = f"{gauge.capacity:,.6g}", f"{gauge.available:,.6g}"
    return gauge.quota, str(gauge.resource), rate, full, free, state


def set_weight(args: Namespace) -> int:
    """Change the share of a team."""
    return _done(args, lambda queue: queue.set_weight(args.team, args.weight))


def show_log(args: Namespace) -> int:
    """Show what was changed, newest first."""
    changes, now = anyio.run(_changes, args)
    if args.json:
        say_json([_facts(change) for change in changes])
    else:
        rows = [(clock(each.at, now), each.kind, each.target, each.value) for each in changes]
        say(table(("AT", "WHAT", "OF", "TO"), rows) if rows else "nothing was changed")
    return 0


def _done(args: Namespace, act: Callable[[Operations], Awaitable[Change | None]]) -> int:
    """Do one thing, and say which change was written for it, if it is one."""

    async def do() -> Change | None:
        async with Headway(args.config) as headway:
            return await act(headway.queue)

    change = anyio.run(do)
    if args.json:
        say_json([] if change is None else [_facts(change)])
    else:
        say("done; it holds for every process that works on this queue from now on")
    return 0


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


def _facts(change: Change) -> dict[str, object]:
    return {"at": change.at, "kind": change.kind, "target": change.target, "value": change.value}

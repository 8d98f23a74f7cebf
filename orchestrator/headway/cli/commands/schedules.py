"""``headway schedules``. What it shows, it shows beside a live process, and after it died."""

import time
from argparse import Namespace
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TypeVar

import anyio

from headway_scheduler.core.schedules import next_time, zone_of
from headway_scheduler.errors import CallerError
from headway_scheduler.model.schedules import ScheduleState

from ...api import Headway
from ...config import Config, ScheduleConfig, load
from ..database import reading
from ..output import say, say_json, table
from ..text import clock

HEADERS = ("NAME", "NEXT", "CRON", "ZONE", "WORKFLOW", "LAST", "LAST RUN", "STATE")
T = TypeVar("T")


def show(args: Namespace) -> int:
    """Show when each schedule comes next, and what became of its last run."""
    config = load(args.config)
    states, last = anyio.run(_schedules, config)
    if args.json:
        say_json([_facts(state, last) for state in states])
        return 0
    if states:
        say(table(HEADERS, [_row(state, last) for state in states]))
    missing = sorted(config.schedules.keys() - {state.name for state in states})
    for name in missing:
        words = coming(config.schedules[name])
        say(f"{name}: {words}, says {config.file}; queued once a process that leads has opened")
    if not missing and not states:
        say("no schedule: name one in [schedules] of headway.toml, or by hw.schedule in Python")
    return 0


def pause(args: Namespace) -> int:
    """Queue nothing until resumed."""
    _act(args, lambda headway: headway.schedules.pause(args.name))
    return _done(args, f"{args.name} is paused: `headway schedules resume {args.name}`")


def resume(args: Namespace) -> int:
    """Go on with the next time that comes."""
    _act(args, lambda headway: headway.schedules.resume(args.name))
    return _done(args, f"{args.name} goes on; what came while it was paused is not caught up")


def run(args: Namespace) -> int:
    """Queue the run of a schedule now, and print its id."""
    run_id = _act(args, lambda headway: headway.schedules.run(args.name))
    if args.json:
        say_json({"id": run_id})
    else:
        say(run_id)
    return 0


def remove(args: Namespace) -> int:
    """Delete a schedule that a program named."""
    _act(args, lambda headway: headway.schedules.remove(args.name))
    return _done(args, f"{args.name} is removed; its runs stay")


def _act(args: Namespace, act: Callable[[Headway], Awaitable[T]]) -> T:
    async def do() -> T:
        async with Headway(args.config) as headway:
            return await act(headway)

    return anyio.run(do)


def _done(args: Namespace, words: str) -> int:
    if args.json:
        say_json({"name": args.name})
    else:
        say(words)
    return 0


async def _schedules(config: Config) -> tuple[Sequence[ScheduleState], dict[str, str]]:
    """Read the schedules, and in which state the last run of each is."""
    async with reading(config) as reader:
        states, last = await reader.store.schedules(), dict[str, str]()
        for state in states:
            run = None if state.last_run is None else await reader.store.run(state.last_run)
            if run is not None:
                last[state.name] = reader.as_it_is(run).state.value
        return states, last


def _row(state: ScheduleState, last: dict[str, str]) -> tuple[str, ...]:
    schedule = state.schedule
    said = "paused" if state.is_paused else "active"
    if state.buffered_at is not None:
        said += ", one waits for the run before"
    if state.skipped:
        said += f", {state.skipped:,} skipped since"
    run_id = state.last_run
    return (
        state.name,
        "" if state.is_paused else _local(state.next_at, schedule.zone),
        schedule.cron,
        schedule.zone,
        schedule.run.workflow,
        "never" if state.last_at is None else clock(state.last_at, time.time()),
        "" if run_id is None else f"{run_id} {last.get(state.name, 'pruned')}",
        said,
    )


def coming(schedule: ScheduleConfig) -> str:
    """Write when a schedule of the file comes next."""
    at = next_time(schedule, time.time())
    return f"next {_local(at, schedule.zone)} {schedule.zone}"


def _local(at: float, zone: str) -> str:
    """Write a time by the clocks of a schedule's zone."""
    try:
        return datetime.fromtimestamp(at, zone_of(zone)).strftime("%Y-%m-%d %H:%M")
    except (CallerError, ValueError, OverflowError):  # no zone of this machine, or no time
        return f"{at:.0f}"


def _facts(state: ScheduleState, last: dict[str, str]) -> dict[str, object]:
    schedule = state.schedule
    return {
        "name": schedule.name,
        "cron": schedule.cron,
        "zone": schedule.zone,
        "overlap": schedule.overlap.value,
        "catchup_seconds": schedule.catchup_seconds,
        "source": schedule.source,
        "next_at": state.next_at,
        "is_paused": state.is_paused,
        "buffered_at": state.buffered_at,
        "last_at": state.last_at,
        "last_run": state.last_run,
        "last_state": last.get(state.name),
        "skipped": state.skipped,
        "workflow": schedule.run.workflow,
        "task": schedule.run.task,
        "priority": schedule.run.priority.label,
    }

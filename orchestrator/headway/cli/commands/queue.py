"""``headway queue``. What it shows, it shows beside a live process, and after it died."""

from argparse import Namespace
from contextlib import suppress
from typing import Any

import anyio

from headway_scheduler.core.inspection import explain, explain_each
from headway_scheduler.core.views import Explanation
from headway_scheduler.errors import CallerError
from headway_scheduler.model.calls import CallRecord
from headway_scheduler.model.states import LIVE_CALLS

from ... import arguments
from ...api import Headway
from ...config import Config, load
from ...runs.stopped import find_run
from ..changes import changed
from ..database import OneRun, Reader, StoredQueue, load_queue, read_run, reading
from ..json_views import call_facts
from ..output import complain, say, say_json, table
from ..text import clock, counted, duration, waited_seconds, waits_for
from .runs import missing

HEADERS = ("CALL", "PRIORITY", "AGENT", "MODEL", "TOKENS", "WAITED", "WAITS FOR")
NO_CALL = "no call of it waits"


def show_list(args: Namespace) -> int:
    """List the calls that wait, next one first, with what each waits for."""
    queue, reader = anyio.run(_load, load(args.config))
    shown = queue.calls[: args.limit]
    if args.json:
        say_json(
            {
                "is_held": reader.is_held,
                "queued": len(queue.calls),
                "in_flight": queue.in_flight,
                "calls": [_wait_facts(queue, record, reader.now) for record in shown],
            }
        )
        return 0
    if shown:
        ids = [record.call.id for record in shown]
        reasons = explain_each(queue.scheduler.state, ids, reader.now)
        rows = [_row(record, reasons.get(record.call.id), reader.now) for record in shown]
        say(table(HEADERS, rows))
    if len(queue.calls) > len(shown):
        say(f"{len(queue.calls) - len(shown):,} more: --limit N")
    say(_footer(queue, reader))
    return 0


def show_why(args: Namespace) -> int:
    """Say what one call waits for, its place, and when it should go; or what a run waits for."""
    found = anyio.run(_find, load(args.config), args.id)
    if isinstance(found, OneRun):
        run, lacks = found.run, missing(found)
        if args.json:
            say_json({"id": run.id, "state": run.state, "waits_for": lacks})
        else:
            say(f"run {run.id} is {run.state}, and {f'waits for {lacks}' if lacks else NO_CALL}")
        return 0
    record, queue, reader = found
    why = explain(queue.scheduler.state, record.call.id, reader.now)
    if args.json:
        say_json(_wait_facts(queue, record, reader.now))
    elif why is None:
        waited = duration(waited_seconds(record, reader.now))
        say(f"{record.call.id} of {record.call.path} is {record.state}; it waited {waited}")
    else:
        words = _waits_for(record, why, reader.now)
        say(f"{record.call.id} of {record.call.path} waits: {words}")
        if why.place is not None:
            starts = why.starts_at
            when = "" if starts is None else f"; goes at {clock(starts, reader.now)}"
            say(f"place {why.place} of those on {', '.join(record.call.quotas)}{when}")
        if record.error is not None:
            say(f"last try: {record.error}")
    return 0


def bump(args: Namespace) -> int:
    """Change the class of a run or a waiting call."""
    asked = arguments.priority(args.priority)

    async def act(headway: Headway) -> None:
        given = await headway.queue.bump(args.id, asked)
        if given is not asked:
            complain(f"{args.id} is {given.label}: its team may not ask for {asked.label}")

    return changed(args, act)


def pause(args: Namespace) -> int:
    """Send nothing until resumed."""
    return changed(args, lambda headway: headway.queue.pause(args.of))


def drain(args: Namespace) -> int:
    """Send what waits, hold what comes later."""
    return changed(args, lambda headway: headway.queue.drain(args.of))


def resume(args: Namespace) -> int:
    """Send again what was held."""
    return changed(args, lambda headway: headway.queue.resume(args.of))


async def _load(config: Config) -> tuple[StoredQueue, Reader]:
    async with reading(config) as reader:
        return await load_queue(config, reader), reader


async def _find(config: Config, call_id: str) -> OneRun | tuple[CallRecord, StoredQueue, Reader]:
    """Find a call by its id, ``run.number``; the run's part may be shortened, or all of it.

    A run's id alone finds its call that waits; the run, if none does.
    """
    async with reading(config) as reader:
        run_id, dot, number = call_id.partition(".")
        if not dot and (idle := await _without_call(reader, run_id)) is not None:
            return idle
        queue = await load_queue(config, reader)
        run = await reader.store.run(run_id) if dot and run_id else None
        wanted = call_id if run is None else f"{run.id}.{number}"
        past = [] if run is None else await reader.store.calls(run.id)
        known = {record.call.id: record for record in (*past, *queue.calls)}
        return _only(wanted, known, queue), queue, reader


async def _without_call(reader: Reader, run_id: str) -> OneRun | None:
    """Return a run of which no call waits; None for what is no run, or has a call that does."""
    with suppress(CallerError):
        run = await find_run(reader.store, run_id)
        if not await reader.store.calls(run.id, states=LIVE_CALLS):
            return await read_run(reader, run)
    return None


def _only(wanted: str, known: dict[str, CallRecord], queue: StoredQueue) -> CallRecord:
    if wanted in known:
        return known[wanted]
    starting = [r for r in queue.calls if wanted and r.call.id.startswith(wanted)]
    if len(starting) == 1:
        return starting[0]
    if not starting:
        raise CallerError(f"no call {wanted!r}: `headway queue list` shows those that wait")
    names = ", ".join(record.call.id for record in starting[:5])
    more = ", …" if len(starting) > 5 else ""
    raise CallerError(f"{wanted!r} is the start of several calls: {names}{more}: write more of it")


def _row(record: CallRecord, why: Explanation | None, now: float) -> tuple[str, ...]:
    call = record.call
    raised = None if why is None else why.effective_priority
    return (
        call.id,
        (call.priority if raised is None else raised).label,
        call.path,
        call.model,
        f"{call.tokens:,}",
        duration(waited_seconds(record, now)),
        _waits_for(record, why, now),
    )


def _waits_for(record: CallRecord, why: Explanation | None, now: float) -> str:
    """Say what a call waits for. A question waits for a person, and for no budget."""
    if record.call.is_question:
        return f"a person: `headway runs answer {record.call.run_id}`"
    return "" if why is None else waits_for(why, now)


def _wait_facts(queue: StoredQueue, record: CallRecord, now: float) -> dict[str, Any]:
    why = explain(queue.scheduler.state, record.call.id, now)
    facts = call_facts(record, now)
    if why is None:
        return facts | {"waits_for": None, "place": None, "starts_at": None}
    sentence = _waits_for(record, why, now)
    return facts | {"waits_for": sentence, "place": why.place, "starts_at": why.starts_at}


def _footer(queue: StoredQueue, reader: Reader) -> str:
    counts = f"{counted(len(queue.calls), 'call')} queued, {queue.in_flight} in flight"
    return counts if reader.is_held else f"{counts}; no process is working on them"

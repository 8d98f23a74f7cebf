"""``headway runs logs``: a line for each call of runs, while any process executes them.

Law of this file: it only reads the database. A call is printed when it has ended, and again if it
was made again and has ended anew.
"""

import json
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence

import anyio

from headway_scheduler.model.calls import BYPASS, CallRecord, ServiceLane
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import ENDED_RUNS, LIVE_CALLS, RunState

from ...config import Config, load
from ..json_views import call_facts
from ..output import one_line, say, say_json
from ..parser import FAILED
from ..selection import selected
from ..text import clock, indented
from .runs import one_run, text_of

LOOK_SECONDS = 0.25
"""How often ``--follow`` looks for more."""

Printed = set[tuple[str, str, float | None]]


def logs(args: Namespace) -> int:
    """Print ended calls; with ``--follow`` go on until the runs have ended."""
    config, printed = load(args.config), Printed()
    left = [run.id for run in selected(args)]
    is_one, is_well = len(left) == 1, True
    while left:
        for run_id in tuple(left):
            run = _print_new(config, run_id, printed, args.json, is_one)
            if not args.follow or run.state in ENDED_RUNS:
                left.remove(run_id)
                is_well &= not args.follow or run.state is RunState.COMPLETED
                if not args.json:
                    say(_state(run))
        if left:
            time.sleep(LOOK_SECONDS)
    return 0 if is_well else FAILED


def _print_new(config: Config, run_id: str, printed: Printed, as_json: bool, is_one: bool) -> Run:
    """Print the calls that have ended since the last look; of several runs, with the run's id."""
    found = anyio.run(one_run, config, run_id)
    run, calls, now = found.run, found.calls, found.now
    for record in _ended(calls, printed):
        if as_json:
            say_json({**call_facts(record, now), "answer": record.answer}, indent=None)
        else:
            say(f"{'' if is_one else f'{run.id} '}{_line(record, now)}")
    return run


def _ended(calls: Sequence[CallRecord], printed: Printed) -> Iterator[CallRecord]:
    for record in sorted(calls, key=lambda each: (each.finished_at or 0.0, each.seq)):
        end = (record.call.id, record.state.value, record.finished_at)
        if record.state not in LIVE_CALLS and end not in printed:
            printed.add(end)
            yield record


def _line(record: CallRecord, now: float) -> str:
    at = clock(record.finished_at or record.call.submitted_at, now)
    who = one_line(record.call.path)
    if not record.call.is_paid:
        who = f"{who} ({record.call.kind} {one_line(record.call.model)})"
    return f"{at}  {who}: {indented(_what(record))}"


def _what(record: CallRecord) -> str:
    if record.call.kind == BYPASS:
        return "past the scheduler"
    if record.answer is None:
        return f"{record.state}{f': {record.error}' if record.error else ''}"
    if record.call.kind != "model":
        return _words(record.answer)
    return text_of(json.loads(record.answer)["content"])


def _words(answer: str) -> str:
    """Return the words that a person gave; of other steps, the answer as JSON."""
    data = json.loads(answer)
    is_words = isinstance(data, dict) and data.keys() == {"person"}
    return str(data["person"]) if is_words else answer


def _state(run: Run) -> str:
    if run.state is RunState.WAITING and run.lane is ServiceLane.BATCH:
        return f"{run.id} waits for its batch, or for a person: `headway runs show {run.id}`"
    if run.state is RunState.WAITING:
        return f"{run.id} waits for a person: `headway runs answer {run.id}`"
    return f"{run.id} {run.state}{f': {one_line(run.error)}' if run.error else ''}"

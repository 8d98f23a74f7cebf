"""``headway runs``."""

import json
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Any

import anyio

from headway_scheduler.model.calls import BYPASS, CallRecord, Priority, ServiceLane
from headway_scheduler.model.formulas import dollars
from headway_scheduler.model.history import Try
from headway_scheduler.model.runs import LIVES, Run
from headway_scheduler.model.states import ENDED_RUNS, CallState, RunState

from ...config import Config, load
from ...runs.journal import unpacked
from ...runs.receipt import bypasses
from ...runs.stopped import find_run, is_by_batch
from ...workflows import is_portable
from ..database import OneRun, read_run, reading
from ..json_views import call_facts, run_facts, tries_facts
from ..output import complain, one_line, say, say_json, shortened, table
from ..selection import has_filters, listed, selected
from ..text import Totals, age, clock, counted, duration, indented, waited_seconds

MORE = "there are more: --limit N"
TASK_WIDTH = 60
LAST_MESSAGES = 5
SHOWN_TRIES = 5
"""How many attempts without an answer are shown of a run; its JSON has all that are read."""


def show_list(args: Namespace) -> int:
    """List runs, newest first."""
    runs, now = anyio.run(_list, load(args.config), args)
    shown = runs[: args.limit]
    if args.json:
        say_json([run_facts(run) for run in shown])
        if len(runs) > len(shown):
            complain(MORE, "info")
        return 0
    if not shown:
        say("no run fits" if has_filters(args) else "no runs")
        return 0
    has_teams = any(run.share != run.workflow for run in shown)
    headers = ("ID", "STATE", "PRIORITY", *(["TEAM"] * has_teams), "WORKFLOW", "SUBMITTED", "TASK")
    say(table(headers, [_row(run, has_teams, now) for run in shown]))
    if len(runs) > len(shown):
        say(MORE)
    return 0


def show(args: Namespace) -> int:
    """Show runs with their calls, their errors and their last messages."""
    config, runs = load(args.config), selected(args)
    if args.json:
        facts = [_all_facts(anyio.run(one_run, config, run.id)) for run in runs]
        say_json(facts[0] if len(args.ids) == 1 else facts)
        return 0
    for place, run in enumerate(runs):
        if place:
            say("")
        _show_one(config, anyio.run(one_run, config, run.id))
    if not runs:
        say("no run fits")
    return 0


def _all_facts(found: OneRun) -> dict[str, Any]:
    run, calls = found.run, found.calls
    facts = [
        call_facts(record, found.now) | {"tries": tries_facts(found.tries, record.call.id)}
        for record in calls
        if record.call.kind != BYPASS
    ]
    past = [
        {"host": host, "agent": agent, "requests": times}
        for (host, agent), times in bypasses(calls).items()
    ]
    return {**run_facts(run), "calls": facts, "bypassed": past, "messages": _messages(run, calls)}


def _show_one(config: Config, found: OneRun) -> None:
    run, calls, tries, now = found.run, found.calls, found.tries, found.now
    say("\n".join(_facts(found, config.highest(run.share))))
    shown = [record for record in calls if record.call.kind != BYPASS]
    if shown:
        headers = ("CALL", "KIND", "AGENT", "MODEL OR TOOL", "STATE", "TRIES", "WAITED", "TOKENS")
        say("\n" + table(headers, [_call_row(record, now) for record in shown]))
    if tries:
        rows = [_try_row(each, now) for each in tries[:SHOWN_TRIES]]
        say("\n" + table(("SENT AGAIN", "AT", "BECAUSE", "QUOTA", "ERROR"), rows))
    if len(tries) > SHOWN_TRIES:
        say("these are the last ones: --json has more")
    for message in _messages(run, calls)[-LAST_MESSAGES:]:
        source, text = one_line(str(message.get("source"))), text_of(message.get("content"))
        say(f"\n{source}: {indented(text)}")


async def _list(config: Config, args: Namespace) -> tuple[Sequence[Run], float]:
    async with reading(config) as reader:
        return await listed(reader, args, (), args.limit + 1), reader.now


async def one_run(config: Config, run_id: str) -> OneRun:
    """Return a run as it is now. Raises RunNotFound."""
    async with reading(config) as reader:
        return await read_run(reader, await find_run(reader.store, run_id))


def state_of(run: Run) -> str:
    """Return the state of a run, and whether it failed because it took workers down."""
    return f"{run.state}, quarantined" if run.is_quarantined else run.state


def _row(run: Run, has_teams: bool, now: float) -> tuple[str, ...]:
    return (
        run.id,
        state_of(run),
        run.priority.label,
        *([run.share] * has_teams),
        run.workflow,
        age(run.created_at, now),
        shortened(run.task, TASK_WIDTH),
    )


def _facts(found: OneRun, highest: Priority) -> Iterator[str]:
    run, calls, now = found.run, found.calls, found.now
    yield f"{run.id}  {state_of(run)}"
    yield f"workflow   {one_line(run.workflow)}"
    yield f"task       {one_line(run.task)}"
    is_highest = run.priority is highest and highest is not Priority.INTERACTIVE
    limited = f" · the most urgent that team {one_line(run.share)} may ask for"
    yield f"priority   {run.priority.label}{limited if is_highest else ''}"
    if run.lane is not ServiceLane.STANDARD:
        yield f"lane       {run.lane.value}, for background calls"
    if run.parent is not None:
        yield f"began as   a copy of {run.parent}"
    if run.deadline is not None:
        yield f"deadline   {clock(run.deadline, now)}"
    if run.budget_usd is not None:
        yield f"budget     {dollars(run.budget_usd)}"
    if (lacks := missing(found)) is not None:
        yield f"waits for  {lacks}"
    if run.waits_for is not None:
        yield f"waits for  {_awaited(run, calls)} (call {run.waits_for})"
    if run.key is not None:
        yield f"key        {one_line(run.key)}"
    yield f"submitted  {age(run.created_at, now)}"
    if run.started_at is not None and run.finished_at is not None:
        yield f"took       {duration(run.finished_at - run.started_at)}"
    yield from _facts_of_calls(calls, now)
    yield from _troubles(run)


def _facts_of_calls(calls: Sequence[CallRecord], now: float) -> Iterator[str]:
    yield f"calls      {Totals.of(calls, now)}"
    steps = sum(record.call.is_step for record in calls)
    if steps:
        yield f"steps      {steps}"
    retries = sum(max(0, record.attempts - 1) for record in calls)
    if retries:
        yield f"sent again {counted(retries, 'time')}"
    for record in calls:
        if record.state is CallState.QUEUED and record.error is not None:
            yield f"last try   {record.call.id}: {one_line(record.error)}"
    for (host, agent), times in bypasses(calls).items():
        yield f"bypassed   {counted(times, 'request')} to {one_line(host)} by {one_line(agent)}"


def _awaited(run: Run, calls: Sequence[CallRecord]) -> str:
    asked = next((each for each in calls if each.call.id == run.waits_for), None)
    if asked is not None and is_by_batch(asked):
        return "its batch"
    if asked is None or is_open_question(asked):
        return f'a person: `headway runs answer {run.id} "WORDS"`'
    return f"a person: `headway runs answer {run.id}` with --done RESULT, --again or --abort"


def missing(found: OneRun) -> str | None:
    """Say which worker a run lacks that waits for one; None if it waits for none, or gets one."""
    run, workers = found.run, [worker for worker in found.workers if worker.slots]
    if run.worker is not None:
        return None
    if run.state is RunState.INTERRUPTED and run.is_suspect:
        if run.has_last_life:
            return "a worker that executes nothing else"
        return "a worker that executes nothing else but such runs, each with an answer since"
    if run.state is not RunState.QUEUED:
        return None
    if not workers:
        return "a worker: none runs (`headway work`)"
    able = [each for each in workers if is_portable(run) or run.workflow in each.workflows]
    if not able:
        return "a worker that has its workflow: none of those that run has"
    slots = sum(worker.slots for worker in able)
    if sum(found.executed.get(worker.id, 0) for worker in able) < slots:
        return None
    return f"a slot: all {slots} are taken (`headway runs list --state running`)"


def _troubles(run: Run) -> Iterator[str]:
    if run.lives_lost and run.state is not RunState.COMPLETED:
        alone = ""
        if run.state not in ENDED_RUNS:
            alone = ": a worker died with it; the next one begins nothing else until it got further"
        yield f"lives lost {run.lives_lost} in a row, of {LIVES}{alone}"
    if run.error is not None:
        yield f"error      {one_line(run.error)}"


def _call_row(record: CallRecord, now: float) -> tuple[str, ...]:
    return (
        record.call.id,
        record.call.kind,
        record.call.path,
        record.call.model,
        "waits for a person" if is_open_question(record) else record.state,
        "" if is_open_question(record) else str(record.attempts),
        duration(waited_seconds(record, now)),
        _tokens(record),
    )


def _try_row(each: Try, now: float) -> tuple[str, ...]:
    error = shortened(each.error or "", TASK_WIDTH)
    return each.call_id, clock(each.ended_at, now), each.news, each.quota, error


def is_open_question(record: CallRecord) -> bool:
    """Whether a call is a question that nobody has answered: it waits for no budget."""
    return record.call.kind == "person" and record.state is CallState.QUEUED


def _tokens(record: CallRecord) -> str:
    if record.usage is not None:
        return f"{record.usage.total:,}"
    return f"{record.call.tokens:,} reserved" if record.call.is_paid else ""


def _messages(run: Run, calls: Sequence[CallRecord]) -> list[dict[str, Any]]:
    """Return the messages of the result as AutoGen dumped them; else the recorded answers.

    They are read as JSON: importing AutoGen takes seconds.
    """
    if run.result is not None:
        messages: list[dict[str, Any]] = unpacked(run.result, calls)["messages"]
        return messages
    answers = ((r.call.path, r.answer) for r in calls if r.call.kind == "model")
    return [
        {"source": path, "content": json.loads(answer)["content"]}
        for path, answer in answers
        if answer is not None
    ]


def text_of(content: Any) -> str:
    """Return the content of a message or an answer as text."""
    return content if isinstance(content, str) else json.dumps(content)

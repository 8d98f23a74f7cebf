"""``headway top``: the whole system at a glance, beside whatever process works on it.

Law of this file: it reads the database and writes the screen.
"""

import sys
import time
from argparse import Namespace
from collections import Counter
from dataclasses import dataclass
from typing import Any

import anyio

from headway_scheduler.core.inspection import statistics
from headway_scheduler.model.calls import Priority
from headway_scheduler.model.data import asdict
from headway_scheduler.model.runs import Run, Worker
from headway_scheduler.model.states import RunState
from headway_scheduler.ports import UnreadableRow

from ...config import Config, load
from ..database import Reader, StoredQueue, load_queue, reading
from ..json_views import call_facts, run_facts
from ..output import say, say_json, table
from ..text import age, counted
from .limits import GAUGES, gauge_row
from .queue import HEADERS, queue_row

EVERY_SECONDS = 1.0
AT_WORK = (RunState.RUNNING, RunState.WAITING, RunState.QUEUED)
WORKERS = ("WORKER", "PROCESS", "LABEL", "SINCE", "RUNS", "TAKES", "LIFE")
RUNS = ("RUN", "WORKFLOW", "PRIORITY", "STATE", "SINCE")


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker, how many runs it has, and how long ago it showed life, if that can be told."""

    worker: Worker
    runs: int
    silent_seconds: float | None
    leads: bool


@dataclass(frozen=True, slots=True)
class Dashboard:
    """The state of the system at one moment."""

    database: str
    queue: StoredQueue
    runs: list[Run]
    workers: list[WorkerView]
    is_held: bool
    now: float
    unreadable: list[UnreadableRow]


def top(args: Namespace) -> int:
    """Show the dashboard, again and again on a terminal, else once."""
    config = load(args.config)
    if args.json:
        say_json(_facts(anyio.run(_taken, config)))
    elif args.once or not sys.stdout.isatty():
        say(_drawn(anyio.run(_taken, config), args.limit))
    else:
        _live(config, args.limit)
    return 0


def _live(config: Config, limit: int) -> None:
    from rich.live import Live
    from rich.text import Text

    with Live(screen=True, auto_refresh=False) as live:
        while True:
            # As text, never as markup: what agents are called may be anything.
            live.update(Text(_drawn(anyio.run(_taken, config), limit)), refresh=True)
            time.sleep(EVERY_SECONDS)


async def _taken(config: Config) -> Dashboard:
    async with reading(config, names=False) as reader:
        queue = await load_queue(config, reader)
        runs = [reader.as_it_is(run) for run in await reader.store.runs(AT_WORK, urgent_first=True)]
        workers = await _seen(reader)
        name = reader.backend.name
        unreadable = sorted(reader.store.unreadable)
        return Dashboard(name, queue, runs, workers, reader.is_held, reader.now, unreadable)


async def _seen(reader: Reader) -> list[WorkerView]:
    leader = None if reader.holder is None else reader.holder.worker_id
    runs = Counter(run.worker for run in await reader.store.assigned())
    registry = reader.backend.workers()
    found = []
    for worker in await reader.store.workers():
        silent = await registry.silent_seconds(worker.id)
        found.append(WorkerView(worker, runs[worker.id], silent, worker.id == leader))
    return found


def _drawn(dashboard: Dashboard, limit: int) -> str:
    queue, now = dashboard.queue, dashboard.now
    counts = statistics(queue.scheduler.state, now)
    waiting = zip(Priority, counts.waiting, strict=True)
    classes = ", ".join(f"{count:,} {each.label}" for each, count in waiting if count)
    head = [
        f"{dashboard.database}: "
        f"{'a process works on it' if dashboard.is_held else 'no process works on it'}",
        f"waiting: {classes or 'none'} | parked: {counts.parked:,} | "
        f"in flight: {queue.in_flight:,} | runs: {counted(len(dashboard.runs), 'run')}",
    ]
    parts = [
        "\n".join(head),
        table(GAUGES, [gauge_row(each, now) for each in counts.gauges]),
    ]
    if queue.calls:
        rows = [queue_row(queue, record, now) for record in queue.calls[:limit]]
        parts.append(table(HEADERS, rows))
    if dashboard.workers:
        parts.append(table(WORKERS, [_worker_row(each, now) for each in dashboard.workers]))
    if dashboard.runs:
        parts.append(table(RUNS, [_run_row(run, now) for run in dashboard.runs[:limit]]))
    if dashboard.unreadable:
        words = (f"{row}: `headway db repair` sets it aside" for row in dashboard.unreadable)
        parts.append("\n".join(words))
    return "\n\n".join(parts)


def _worker_row(view: WorkerView, now: float) -> tuple[str, ...]:
    worker, silent = view.worker, view.silent_seconds
    life = "gone" if silent is None else f"{silent:.1f} s ago"
    return (
        worker.id,
        f"{worker.pid} (leads)" if view.leads else str(worker.pid),
        worker.label,
        age(worker.since, now),
        str(view.runs),
        str(worker.slots),
        life,
    )


def _run_row(run: Run, now: float) -> tuple[str, ...]:
    since = age(run.resumed_at or run.started_at or run.created_at, now)
    return run.id, run.workflow, run.priority.label, run.state.value, since


def _facts(dashboard: Dashboard) -> dict[str, Any]:
    queue, now = dashboard.queue, dashboard.now
    counts = statistics(queue.scheduler.state, now)
    waiting = zip(Priority, counts.waiting, strict=True)
    return {
        "is_held": dashboard.is_held,
        "waiting": {each.label: count for each, count in waiting},
        "parked": counts.parked,
        "in_flight": queue.in_flight,
        "limits": [{**gauge._asdict(), "resource": str(gauge.resource)} for gauge in counts.gauges],
        "calls": [call_facts(record, now) for record in queue.calls],
        "workers": [
            {
                **asdict(each.worker),
                "runs": each.runs,
                "leads": each.leads,
                "silent_seconds": each.silent_seconds,
            }
            for each in dashboard.workers
        ],
        "runs": [run_facts(run) for run in dashboard.runs],
        "unreadable": [row._asdict() for row in dashboard.unreadable],
    }

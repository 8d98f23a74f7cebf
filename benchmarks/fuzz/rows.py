"""Writes odd rows and requests into a database file, as another program would.

Of runs and calls only those of guilty runs are touched. No request is made in the name of a worker
that lives, and no notification is written for one: what such a batch or notification holds belongs
to everybody who waits in that worker (docs/isolation.md). Nor is a run said to have taken workers
down: it would be alone in a worker for up to a minute, by right. Rows that can be read and
contradict others, as an answer that is done and not there, are written: `db repair` mends them.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from .odd import FLOATS, SQL_INTEGERS, Random, json_value, mutated, text, written

RUN_COLUMNS = {
    "INTEGER": ("priority", "attempts", "parent_until"),
    "REAL": ("created_at", "started_at", "finished_at", "deadline", "budget_usd", "resumed_at"),
    "TEXT": (
        *("workflow", "task", "state", "key", "component", "result", "error", "parameters"),
        *("version", "history", "parent", "waits_for", "team"),
    ),
}
CALL_COLUMNS = {
    "INTEGER": (
        *("priority", "tokens", "occurrence", "attempts", "input_tokens", "output_tokens"),
        *("arrival", "losses", "input_estimate", "output_estimate"),
    ),
    "REAL": ("submitted_at", "not_before", "admitted_at", "sent_at", "finished_at", "usd_estimate"),
    "TEXT": ("kind", "path", "model", "quotas", "request_hash", "state", "answer", "error"),
}
STATES = (
    *("bogus", "queued", "running", "completed", "failed", "interrupted", "cancelled", "paused"),
    *("done", "sent", "admitted", "unknown", ""),
)
RUN = {
    "id": "r-odd9",
    "workflow": "nobody",
    "task": "t",
    "priority": 2,
    "state": "queued",
    "created_at": 1e9,
}
CALL = {
    "id": "r-odd9.1",
    "run_id": "r-odd9",
    "agent": "a",
    "model": "g2",
    "quotas": ["g2"],
    "priority": 2,
    "tokens": 5,
    "submitted_at": 1e9,
    "request_hash": "00112233445566778899aabbccddeeff",
}
WORKER = {"id": "w-odd9", "pid": 2, "since": 1e9, "label": "", "slots": 1, "workflows": ["x"]}
REQUESTS: tuple[dict[str, Any], ...] = (
    {"type": "QueueRun", "run": RUN},
    {"type": "CancelRun", "run_id": "r-odd9"},
    {"type": "PauseRun", "run_id": "r-odd9"},
    {"type": "SetPriority", "target": "r-odd9", "priority": 1},
    {"type": "SetHold", "target": "model:g3", "state": "paused"},
    {"type": "SetLimits", "quota": "g4", "limits": {"requests_per_minute": 60}},
    {"type": "SetWeight", "team": "odd", "weight": 2.0},
    {"type": "ResumeQuota", "quota": "g5"},
    {"type": "RegisterWorker", "worker": WORKER},
    {"type": "RetireWorker", "worker_id": "w-odd9"},
    {"type": "ClaimRun", "run": RUN, "worker_id": "w-odd9"},
    {
        "type": "MessageBatch",
        "worker_id": "w-odd9",
        "joins": WORKER,
        "messages": [
            {"type": "Submit", "call": CALL},
            {"type": "MarkSent", "call_id": "r-odd9.1", "at": 1e9},
            {"type": "Settle", "call_id": "r-odd9.1", "outcome": {"state": "done"}},
            {"type": "SaveRun", "run": RUN},
            {"type": "Observe", "call_id": "r-odd9.1", "observations": {"g2": {"event": "failed"}}},
            {"type": "Learn", "lessons": [{"kind": "tokens", "subject": "odd", "value": "{}"}]},
            {"type": "DropWorker", "worker_id": "w-odd9"},
        ],
    },
)


def write(path: Path, seed: int, numbers: Iterable[int], guilty: list[str]) -> Counter[str]:
    """Write one odd row for each number, in one transaction; return how many of each kind."""
    written_of: Counter[str] = Counter()
    with closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        for number in numbers:
            rng = Random(f"{seed} row {number}")
            kind, statement, values = _statement(rng, guilty)
            try:
                changed = db.execute(statement, values).rowcount
            except (sqlite3.Error, OverflowError, UnicodeError):
                changed = 0  # SQLite itself refuses it
            written_of[kind if changed else "rows refused by SQLite or of nobody"] += 1
        db.execute("COMMIT")
    return written_of


def _statement(rng: Random, guilty: list[str]) -> tuple[str, str, tuple[Any, ...]]:
    odd = rng.random()
    if odd < 0.35:
        return "requests", "INSERT INTO inbox (sender, event) VALUES (?, ?)", _request(rng)
    run_id = rng.choice(guilty) if guilty else ""
    if odd < 0.6:
        column, value = _column(rng, RUN_COLUMNS)
        return (
            "rows",
            f"UPDATE runs SET {column} = {_place(rng, value)} WHERE id = ?",
            (
                *_bound(value),
                run_id,
            ),
        )
    if odd < 0.85:
        column, value = _column(rng, CALL_COLUMNS)
        seq = "(SELECT seq FROM calls WHERE run_id = ? ORDER BY seq LIMIT 1 OFFSET ?)"
        statement = f"UPDATE calls SET {column} = {_place(rng, value)} WHERE seq = {seq}"
        return "rows", statement, (*_bound(value), run_id, rng.randrange(20))
    return _other(rng)


def _other(rng: Random) -> tuple[str, str, tuple[Any, ...]]:
    value = written(json_value(rng), rng)[:2_000]
    table = rng.randrange(4)
    if table == 0:
        kinds = ("tokens", "run", "bogus", "limits", "")
        return (
            "rows",
            "INSERT OR REPLACE INTO lessons (kind, subject, value) VALUES (?, ?, ?)",
            (rng.choice(kinds), rng.choice(('["g1", "x"]', "odd", text(rng)[:99])), value),
        )
    if table == 1:
        kinds = ("weight", "limits", "hold", "bogus")
        return (
            "rows",
            "INSERT INTO changes (at, kind, target, value) VALUES (?, ?, ?, ?)",
            (
                rng.choice(FLOATS),
                rng.choice(kinds),
                rng.choice(("odd", "g6", text(rng)))[:99],
                value,
            ),
        )
    if table == 2:
        return (
            "rows",
            "INSERT INTO outbox (worker, text) VALUES (?, ?)",
            (rng.choice(("w-odd9", text(rng)[:99])), value),
        )
    return (
        "rows",
        "INSERT OR REPLACE INTO buckets (quota, resource, available, as_of, paused_until) "
        "VALUES (?, ?, ?, ?, ?)",
        (
            f"g{rng.randrange(20)}",
            rng.choice(("requests", "tokens", "bogus", "concurrency")),
            *(rng.choice(FLOATS) for _ in range(3)),
        ),
    )


def _request(rng: Random) -> tuple[Any, Any]:
    request: Any = rng.choice(REQUESTS)
    if rng.random() < 0.8:
        for _ in range(rng.choice((1, 1, 2, 4))):
            request = mutated(request, rng)
    event: Any = written(request, rng)
    if rng.random() < 0.15:
        event = event[: rng.randrange(len(event) + 1)]
    return rng.choice(("c-odd9", "w-odd9", text(rng)[:50])), event


def _column(rng: Random, columns: dict[str, tuple[str, ...]]) -> tuple[str, Any]:
    kind = rng.choice(list(columns))
    column = rng.choice(columns[kind])
    if kind == "INTEGER":
        return column, rng.choice((*SQL_INTEGERS, None))
    if kind == "REAL":
        return column, rng.choice((*FLOATS, None))
    if column == "state":
        return column, rng.choice(STATES)
    if rng.random() < 0.3:
        return column, json.dumps(
            mutated({"a": [1, "x"], "b": {}}, Random(rng.random())), default=str
        )
    return column, rng.choice(
        (text(rng), None, b"\xff\xfe", written(json_value(rng), rng)[:30_000])
    )


def _place(rng: Random, value: Any) -> str:
    return "CAST(? AS TEXT)" if isinstance(value, bytes) else "?"


def _bound(value: Any) -> tuple[Any, ...]:
    return (value,)

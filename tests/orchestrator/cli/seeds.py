"""A database in which everything happens that a screen can show, at the time of ``frozen.py``."""

import json
from hashlib import sha256
from pathlib import Path

from tests.orchestrator.cli.frozen import NOW

from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import Call, CallRecord, Priority, Usage
from headway_scheduler.model.changes import Change
from headway_scheduler.model.history import MINUTE, Crowd, Try, WaitCount
from headway_scheduler.model.prompts import ChainNode, Chunk
from headway_scheduler.model.quotas import BucketState, Resource
from headway_scheduler.model.runs import Run, Worker
from headway_scheduler.model.states import CallState, RunState

WORKER = "w-0123456789ab"
QUESTION = "Publish the report, or hold it?"
CLASSES = (Priority.INTERACTIVE, Priority.NORMAL, Priority.BACKGROUND)
CONFIG = """
[database]
path = "headway.db"
[quotas.openai]
requests_per_minute = 500
tokens_per_minute = 90_000
concurrency = 8
burst_seconds = 60
[models."gpt-5.4"]
quotas = ["openai"]
"""


def write_config(folder: Path) -> None:
    (folder / "headway.toml").write_text(CONFIG)


def batch() -> Batch:
    """12 runs, of which one waits for a person; calls of each state; history of an hour."""
    runs = [_run(number) for number in range(12)]
    calls = [each for number, run in enumerate(runs) for each in _calls(number, run)]
    text = json.dumps(["question", json.dumps(QUESTION)])
    chunk = Chunk(sha256(text.encode()).digest()[:16], text)
    node = ChainNode(sha256(chunk.hash).digest()[:16], None, chunk.hash)
    asks = Run(
        *("r-asks0000", "weekly-report", "Week 48", Priority.NORMAL, RunState.WAITING, NOW - 4_000),
        started_at=NOW - 3_990,
        resumed_at=NOW - 3_990,
        waits_for="r-asks0000.1",
    )
    question = Call(
        *("r-asks0000.1", asks.id, "editor", "question", (), Priority.NORMAL, 0, NOW - 3_630),
        request_hash=node.hash.hex(),
        kind="person",
    )
    minute = int(NOW) // MINUTE * MINUTE
    return Batch(
        new=(*calls, CallRecord(question, 100)),
        runs=(*runs, asks),
        chunks=(chunk,),
        nodes=(node,),
        buckets=(
            BucketState("openai", Resource.TOKENS, 9_000.0, NOW),
            BucketState("openai", Resource.REQUESTS, 300.0, NOW),
        ),
        joined=(Worker(WORKER, 4711, NOW - 7_300, "laptop", 16),),
        changes=(Change(NOW - 600, "gate", "class:low", json.dumps(["paused", 0])),),
        tries=(
            Try(
                "r-00000001.1", "r-00000001", "openai", NOW - 22, NOW - 20, "refused", None, "slow"
            ),
            Try(
                "r-00000004.1", "r-00000004", "openai", NOW - 22, NOW - 19, "refused", None, "slow"
            ),
            Try("r-00000004.1", "r-00000004", "openai", NOW - 9, NOW - 7, "failed", None, "reset"),
        ),
        waits=tuple(
            WaitCount(MINUTE, minute - MINUTE, priority, "weekly-report", bucket, 9)
            for priority, bucket in zip(CLASSES, (20, 36, 60), strict=True)
        ),
        crowds=tuple(
            Crowd(minute - back * MINUTE, priority, (back * 7 + 3 * priority) % 23, 2)
            for back in range(1, 60)
            for priority in CLASSES
        ),
    )


def _run(number: int) -> Run:
    priority = CLASSES[number % 3]
    return Run(
        *(f"r-{number:08}", "weekly-report", f"Week {number + 30}", priority, RunState.RUNNING),
        NOW - 700 - 60 * number,
        started_at=NOW - 690,
        resumed_at=NOW - 690,
        worker=WORKER,
    )


def _calls(number: int, run: Run) -> list[CallRecord]:
    def call(place: int, submitted_at: float) -> Call:
        agent = "critic" if number % 2 else "writer"
        head = (f"{run.id}.{place}", run.id, agent, "gpt-5.4", ("openai",), run.priority)
        return Call(*head, 11_800, submitted_at, request_hash=f"{number}.{place}")

    done = CallRecord(
        call(0, NOW - 680),
        3 * number,
        CallState.DONE,
        attempts=1,
        admitted_at=NOW - 60,
        finished_at=NOW - 10 * number,
        usage=Usage(1_000, 200),
        answer=json.dumps({"content": "Done."}),
        arrival=0,
    )
    waits = CallRecord(call(1, NOW - 8 - number), 3 * number + 1, worker=WORKER)
    if number % 4:
        return [done, waits]
    sent = call(2, NOW - 5)
    flying = CallRecord(
        *(sent, 3 * number + 2, CallState.SENT),
        attempts=1,
        admitted_at=NOW - 4,
        sent_at=NOW - 4,
        worker=WORKER,
    )
    return [done, waits, flying]

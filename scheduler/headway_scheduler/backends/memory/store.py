"""A store that forgets with its process, for tests and simulations.

Law of this file: it behaves as the SQLite store does, and shares no mutable object with its caller.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Self

from ...errors import KeyTaken, StoreError, StoreReadOnly, StoreTakenOver
from ...model.batch import Batch, Lesson, Letter, OutboxRow, Snapshot
from ...model.batches import BatchedRequest, BatchState, Gathered, ProviderBatch
from ...model.calls import Call, CallRecord, Charge, Route, ServiceLane, Spent, Usage
from ...model.changes import Change
from ...model.data import replace
from ...model.notices import Notice
from ...model.prompts import ChainNode
from ...model.quotas import BucketState, Resource
from ...model.runs import Run, Worker
from ...model.schedules import ScheduleState
from ...model.states import ENDED_RUNS, LIVE_CALLS, CallState, RunState
from ...ports import Clock, UnreadableRow
from ..lookup import CANDIDATES, node_hash, only_run
from .history import HistoryTables

KEPT_ANSWERS = 1000
"""How many answers to requests are kept, for senders that have not read them yet."""

_OFFSET = time.time() - time.monotonic()


def _clock() -> float:
    return _OFFSET + time.monotonic()


@dataclass
class Tables:
    """The rows of the database. All stores and mailboxes of a backend share them."""

    calls: dict[str, CallRecord] = field(default_factory=dict[str, CallRecord])
    seqs: set[int] = field(default_factory=set[int])
    buckets: dict[tuple[str, Resource], BucketState] = field(
        default_factory=dict[tuple[str, Resource], BucketState]
    )
    runs: dict[str, Run] = field(default_factory=dict[str, Run])
    texts: dict[bytes, str] = field(default_factory=dict[bytes, str])
    nodes: dict[bytes, ChainNode] = field(default_factory=dict[bytes, ChainNode])
    changes: list[Change] = field(default_factory=list[Change])
    lessons: dict[tuple[str, str], Lesson] = field(default_factory=dict[tuple[str, str], Lesson])
    workers: dict[str, Worker] = field(default_factory=dict[str, Worker])
    inbox: dict[int, Letter] = field(default_factory=dict[int, Letter])
    answers: dict[int, str] = field(default_factory=dict[int, str])
    outbox: dict[int, OutboxRow] = field(default_factory=dict[int, OutboxRow])
    requests: dict[str, BatchedRequest] = field(default_factory=dict[str, BatchedRequest])
    batches: dict[str, ProviderBatch] = field(default_factory=dict[str, ProviderBatch])
    schedules: dict[str, ScheduleState] = field(default_factory=dict[str, ScheduleState])
    notices: dict[str, Notice] = field(default_factory=dict[str, Notice])
    set_aside: list[UnreadableRow] = field(default_factory=list[UnreadableRow])
    epoch: int = 0
    history: HistoryTables = field(default_factory=HistoryTables)
    starts: int = 0
    """How many terms in a row ended before their leader was ready."""
    last_id: int = 0
    """The last id that a row of the inbox or the outbox got: no id is used twice."""

    def next_id(self) -> int:
        """Return the id of a new row of the inbox or the outbox."""
        self.last_id += 1
        return self.last_id

    def assert_epoch(self, epoch: int | None, name: str) -> None:
        """Raise StoreTakenOver if ``epoch`` is not the current one. None passes."""
        if epoch not in (None, self.epoch):
            raise StoreTakenOver(f"{name}: another process took over: nothing was written")


class MemoryStore:
    """Keeps all rows in dictionaries. They stay when the store is closed.

    With ``epoch``, every commit asserts that it still is the leader's.
    """

    def __init__(
        self,
        tables: Tables | None = None,
        *,
        name: str = "memory",
        epoch: int | None = None,
        read_only: bool = False,
    ) -> None:
        self.tables = Tables() if tables is None else tables
        self.name = name
        self.clock: Clock = _clock
        self.unreadable: tuple[UnreadableRow, ...] = ()
        """Always empty: only this code writes rows to memory."""
        self._epoch = epoch
        self._read_only = read_only

    async def __aenter__(self) -> Self:
        """Do nothing: memory needs no opening."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Do nothing: the rows stay."""

    async def commit(self, batch: Batch) -> None:
        """Write all of ``batch``. Raises StoreError or KeyTaken, and writes nothing then."""
        if self._read_only:
            raise StoreReadOnly(f"{self.name}: was opened to be read only")
        self.tables.assert_epoch(self._epoch, self.name)
        self._check_calls(batch)
        self._check_keys(batch)
        for record in batch.new:
            self.tables.calls[record.call.id] = replace(record, parked=False)
            self.tables.seqs.add(record.seq)
        for record in batch.changed:
            old = self.tables.calls[record.call.id]
            call = _routed(old.call, record.call)
            self.tables.calls[record.call.id] = replace(
                record, call=call, seq=old.seq, parked=False
            )
        self.tables.buckets |= {(bucket.quota, bucket.resource): bucket for bucket in batch.buckets}
        self.tables.runs |= {run.id: run for run in batch.runs}
        for chunk in batch.chunks:
            self.tables.texts.setdefault(chunk.hash, chunk.text)
        for node in batch.nodes:
            self.tables.nodes.setdefault(node.hash, node)
        self.tables.changes += batch.changes
        self.tables.lessons |= {(lesson.kind, lesson.subject): lesson for lesson in batch.lessons}
        self._save_batches(batch)
        self.tables.history.write(batch)
        self._forget(batch.forget)
        self.tables.schedules |= {state.name: state for state in batch.schedules}
        for name in batch.unscheduled:
            self.tables.schedules.pop(name, None)
        self.tables.notices |= {notice.id: notice for notice in batch.notices}
        for notice_id in batch.told:
            self.tables.notices.pop(notice_id, None)
        for worker in batch.joined:
            self.tables.workers[worker.id] = worker
        for worker_id in batch.left:
            self.tables.workers.pop(worker_id, None)
        self._carry(batch)

    def _save_batches(self, batch: Batch) -> None:
        tables = self.tables
        tables.requests |= {request.call_id: request for request in batch.requests}
        if batch.provider_batches:
            batched = {r.call.id for r in self._in_states(None, {CallState.BATCHED})}
            tables.requests = {k: v for k, v in tables.requests.items() if k in batched}
            ended = [k for k, v in tables.batches.items() if v.state is BatchState.ENDED]
            for key in ended:
                del tables.batches[key]
            tables.batches |= {each.id: each for each in batch.provider_batches}

    def _carry(self, batch: Batch) -> None:
        """Take requests out of the inbox, and write to the outbox."""
        tables = self.tables
        tables.starts = 0 if batch.begins else tables.starts
        for request_id, tries in batch.tried:
            if (request := tables.inbox.get(request_id)) is not None:
                tables.inbox[request_id] = replace(request, tries=tries)
        for request_id, why in batch.set_aside:
            name = f"{request_id} of {tables.inbox[request_id].sender}"
            tables.set_aside.append(UnreadableRow("request", name, why))
        for answer in batch.answers:
            if tables.inbox.pop(answer.request_id, None) is not None:
                tables.answers[answer.request_id] = answer.text
        for old in list(tables.answers)[:-KEPT_ANSWERS]:
            del tables.answers[old]
        for request_id in batch.taken:
            tables.inbox.pop(request_id, None)
        seen = dict(batch.seen)
        for number, row in list(tables.outbox.items()):
            is_read = number <= seen.get(row.worker, 0)
            if is_read or (batch.left and row.worker not in tables.workers):
                del tables.outbox[number]
        tables.outbox |= {tables.next_id(): row for row in batch.outbox}

    async def snapshot(self) -> Snapshot:
        """Return the buckets, every call that has not ended, operators' changes and lessons."""
        buckets = tuple(self.tables.buckets[key] for key in sorted(self.tables.buckets))
        calls = tuple(map(replace, self._in_states(None, LIVE_CALLS)))
        last: dict[tuple[str, str], Change] = {}
        for change in self.tables.changes:
            last.pop((change.action, change.target), None)  # a dict keeps the first one's place
            last[change.action, change.target] = change
        next_seq = max(self.tables.seqs, default=-1) + 1
        lessons = tuple(await self.lessons())
        return Snapshot(buckets, calls, next_seq, tuple(last.values()), lessons)

    async def assigned(self) -> Sequence[Run]:
        """Return the runs that a worker executes or is about to execute."""
        found = [run for run in self.tables.runs.values() if run.worker is not None]
        return sorted(found, key=lambda run: run.worker or "")

    async def workers(self) -> Sequence[Worker]:
        """Return the processes that execute runs, the oldest first."""
        return sorted(self.tables.workers.values(), key=lambda worker: (worker.since, worker.id))

    async def schedules(self) -> Sequence[ScheduleState]:
        """Return every schedule, by name."""
        return [self.tables.schedules[name] for name in sorted(self.tables.schedules)]

    async def notices(self, *, limit: int | None = None) -> Sequence[Notice]:
        """Return what is to be told to the world outside, oldest first."""
        return sorted(self.tables.notices.values(), key=lambda notice: notice.at)[:limit]

    async def lessons(self) -> Sequence[Lesson]:
        """Return every lesson, by kind and subject."""
        return tuple(self.tables.lessons[key] for key in sorted(self.tables.lessons))

    async def changes(self, *, limit: int | None = None) -> Sequence[Change]:
        """Return what operators changed, newest first."""
        return self.tables.changes[::-1][:limit]

    async def run(self, run_id: str) -> Run | None:
        """Return the run with this id, or the only run whose id starts with it; None for none."""
        found = sorted(key for key in self.tables.runs if key.startswith(run_id))
        return only_run(run_id, [self.tables.runs[key] for key in found[: CANDIDATES + 1]])

    async def run_with_key(self, key: str) -> Run | None:
        """Return the run that was submitted under this idempotency key; None for none."""
        return next((run for run in self.tables.runs.values() if run.key == key), None)

    async def runs(
        self,
        states: Collection[RunState] = (),
        *,
        team: str | None = None,
        limit: int | None = None,
        urgent_first: bool = False,
    ) -> Sequence[Run]:
        """Return runs in any of ``states`` (all, if empty), newest first or most urgent first."""
        found = [run for run in self.tables.runs.values() if not states or run.state in states]
        if urgent_first:
            return sorted(found, key=lambda run: (run.priority, run.created_at))[:limit]
        if team is not None:
            found = [run for run in found if run.share == team]
        # Of runs that were made at the same instant, the run that was written later is newer.
        found.reverse()
        found.sort(key=lambda run: run.created_at, reverse=True)
        return found[:limit]

    async def calls(
        self,
        run_id: str | None = None,
        states: Collection[CallState] = (),
        *,
        limit: int | None = None,
    ) -> Sequence[CallRecord]:
        """Return the calls of a run (of all, if None) in any of ``states`` (all, if empty), by
        arrival.
        """
        return [replace(record) for record in islice(self._in_states(run_id, states), limit)]

    async def spent(self, by: str, since: float) -> Sequence[Spent]:
        """Return the usage of calls that came at ``since`` (epoch seconds) or later.

        ``by`` groups them: model, team, workflow, run or day.
        """
        calls: Counter[tuple[str, str, Usage | None, Charge | None]] = Counter()
        lost: Counter[tuple[str, str, Usage | None, Charge | None]] = Counter()
        last_at: dict[tuple[str, str, Usage | None, Charge | None], float] = {}
        for record in self.tables.calls.values():
            call, usage = record.call, record.usage
            is_done = record.state is CallState.DONE or usage is not None
            if call.is_paid and call.submitted_at >= since and (is_done or record.lost_attempts):
                source = record.usd_source
                charge = None if source is None else Charge(record.usd, source)
                alike = (self._key(call, by), call.model, usage, charge)
                calls[alike] += is_done
                lost[alike] += record.lost_attempts
                last_at[alike] = max(last_at.get(alike, 0.0), record.finished_at or 0.0)
        return [
            Spent(key, model, usage, count, lost[alike], charge, last_at[alike])
            for alike, count in calls.items()
            for key, model, usage, charge in [alike]
        ]

    def _key(self, call: Call, by: str) -> str:
        run = self.tables.runs.get(call.run_id)
        if by == "model":
            return call.model
        if by == "day":
            return datetime.fromtimestamp(call.submitted_at, UTC).date().isoformat()
        if run is None:
            return ""
        return {"run": run.id, "workflow": run.workflow, "team": run.share}[by]

    async def prompt(self, request_hash: str) -> Sequence[str] | None:
        """Return the texts of a recorded request, in order; None if it is not recorded."""
        nodes = self._nodes_of([request_hash])
        return [self.tables.texts[node.chunk] for node in reversed(nodes)] or None

    async def provider_batches(self) -> Sequence[ProviderBatch]:
        """Return the batches of the provider that have not ended, oldest first."""
        found = [x for x in self.tables.batches.values() if x.state is not BatchState.ENDED]
        return sorted(found, key=lambda each: (each.created_at, each.id))

    async def batched_requests(self, batch_id: str | None) -> Sequence[BatchedRequest]:
        """Return the requests of a batch; with None, those that are in none."""
        return [each for each in self.tables.requests.values() if each.batch_id == batch_id]

    async def gathered(self) -> Sequence[Gathered]:
        """Return how many requests are in no batch, by model and endpoint."""
        found: dict[tuple[str, str], Gathered] = {}
        for each in await self.batched_requests(None):
            size, key = len(each.body.encode()), (each.model, each.endpoint)
            old = found.get(key, Gathered(*key, 0, 0, each.created_at))
            since = min(old.since, each.created_at)
            found[key] = Gathered(*key, old.calls + 1, old.bytes + size, since)
        return sorted(found.values(), key=lambda each: each.since)

    async def batch_answers(self, run_id: str) -> Mapping[str, str]:
        """Return the provider's responses to the batched calls of a run, by call."""
        batched = self._in_states(run_id, {CallState.BATCHED})
        found = (self.tables.requests.get(record.call.id) for record in batched)
        return {each.call_id: each.answer for each in found if each and each.answer is not None}

    async def runs_to_wake(self) -> Sequence[Run]:
        """Return waiting runs whose call by batch is answered, or has left its batch."""
        found = [run for run in self.tables.runs.values() if self._wakes(run)]
        return sorted(found, key=lambda run: run.created_at)

    def _wakes(self, run: Run) -> bool:
        record = self.tables.calls.get(run.waits_for or "")
        if run.state is not RunState.WAITING or record is None:
            return False
        request = self.tables.requests.get(record.call.id)
        is_answered = request is not None and request.answer is not None
        is_by_batch = record.call.lane is ServiceLane.BATCH
        return is_by_batch and (is_answered or record.state is not CallState.BATCHED)

    async def unwanted_calls(self) -> Sequence[str]:
        """Return the ids of batched calls whose runs have ended for good."""
        over, runs = {RunState.COMPLETED, RunState.CANCELLED}, self.tables.runs
        batched = self._in_states(None, {CallState.BATCHED})
        found = (record.call for record in batched)
        return [
            c.id for c in found if (run := runs.get(c.run_id)) is not None and run.state in over
        ]

    def _nodes_of(self, request_hashes: Iterable[str]) -> list[ChainNode]:
        """Return every node of some requests once, the last node of each first."""
        found: dict[bytes, ChainNode] = {}
        for request_hash in request_hashes:
            node = self.tables.nodes.get(node_hash(request_hash))
            while node is not None and node.hash not in found:
                found[node.hash] = node
                node = None if node.parent is None else self.tables.nodes.get(node.parent)
        return list(found.values())

    def _forget(self, run_ids: Sequence[str]) -> None:
        if not run_ids:
            return
        for run_id in self._forgettable(run_ids):
            del self.tables.runs[run_id]
        gone = set(run_ids).difference(self.tables.runs)
        self.tables.calls = {
            k: v for k, v in self.tables.calls.items() if v.call.run_id not in gone
        }
        self.tables.seqs = {record.seq for record in self.tables.calls.values()}
        self.tables.history.forget(gone)
        for run_id in gone:
            self.tables.buckets.pop((f"run {run_id}", Resource.USD), None)
        nodes = self._nodes_of(record.call.request_hash for record in self.tables.calls.values())
        used = {node.chunk for node in nodes}
        self.tables.nodes = {node.hash: node for node in nodes}
        self.tables.texts = {key: text for key, text in self.tables.texts.items() if key in used}

    def _forgettable(self, run_ids: Sequence[str]) -> set[str]:
        """Return the runs that have ended, without the ancestors of runs that stay."""
        named = set(run_ids).intersection(self.tables.runs)
        found = {run_id for run_id in named if self.tables.runs[run_id].state in ENDED_RUNS}
        for run in self.tables.runs.values():
            child = run
            while child.id not in found and child.parent in found:
                found.discard(child.parent)
                child = self.tables.runs[child.parent]
        return found

    def _in_states(self, run_id: str | None, states: Collection[CallState]) -> Iterator[CallRecord]:
        for record in sorted(self.tables.calls.values(), key=lambda record: record.seq):
            if run_id in (None, record.call.run_id) and (not states or record.state in states):
                yield record

    def _check_calls(self, batch: Batch) -> None:
        ids, seqs = {record.call.id for record in batch.new}, {record.seq for record in batch.new}
        if min(len(ids), len(seqs)) < len(batch.new):
            raise KeyTaken("two new calls have the same id or seq: nothing was written")
        if not (ids.isdisjoint(self.tables.calls) and seqs.isdisjoint(self.tables.seqs)):
            raise KeyTaken("a new call has the id or seq of an older one: nothing was written")
        for record in batch.changed:
            if record.call.id not in self.tables.calls and record.call.id not in ids:
                raise StoreError(f"call {record.call.id} was never written: nothing was written")

    def _check_keys(self, batch: Batch) -> None:
        if not batch.runs:
            return
        after = self.tables.runs | {run.id: run for run in batch.runs}
        keys = Counter(run.key for run in after.values())
        for run in batch.runs:
            if run.key is not None and keys[run.key] > 1:
                raise KeyTaken(
                    f"another run has the key {run.key!r} already: nothing was written; "
                    "take that run or use a new key"
                )


def _routed(old: Call, new: Call) -> Call:
    """Return ``old`` with the class and the route of ``new``: nothing else of a call changes."""
    usage = (new.tokens, new.input_tokens, new.output_tokens, new.usd)
    route = Route(new.model, new.quotas, *usage, unbounded=new.unbounded, lane=new.lane)
    return replace(route.taken_by(old), priority=new.priority)

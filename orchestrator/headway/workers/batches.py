"""Takes requests that go by batch to the provider, and their answers back. Only the leader does.

Law of this file: every step is one commit, and after ``kill -9`` on any line the next leader goes
on from what is on disk; docs/adr/0005-batch-lane.md has a row for each.

Theory of operation. A turn looks at the database: which requests have been gathered long enough,
which batches there are, which runs wait for what has come. It keeps nothing that matters in memory.
What a provider answers is a line of a file; here it is only kept. What it means is decided by the
client of its call when the run goes on.
"""

import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, assert_never

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from headway_scheduler.errors import CallerError, StoreCorrupt, StoreError
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.batches import BatchedRequest, BatchState, Gathered, ProviderBatch
from headway_scheduler.model.calls import CallRecord, Charge, Outcome, Served, ServiceLane
from headway_scheduler.model.data import replace
from headway_scheduler.model.quotas import Observation
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.ports import Store
from headway_scheduler.protocol.messages import Amend, LeaveBatch, Message, Observe
from headway_scheduler.providers import PROVIDERS, readings
from headway_scheduler.runtime.local import LocalScheduler
from headway_scheduler.runtime.retry import LOST, RETRY_SECONDS

from ..config import Config
from ..config.values import patience_seconds
from ..pricing.prices import charge
from ..reached import key_of, of_model
from .lane_quotas import LONGEST_WORDS, LaneQuotas

if TYPE_CHECKING:
    from headway_agents.calls.errors import NoAnswer

    from .batch_provider import BatchProvider, Standing

TICK_SECONDS = 5.0
"""How often the database is looked at."""
POLL_SECONDS = 60.0
"""How often the provider is asked how a batch stands, in the first hour."""
LATER_POLL_SECONDS = 600.0
"""The same, after that."""
ADOPT_SECONDS = 60.0
"""How long after a first look, that found no batch of ours at the provider, the second one is. What
was handed in by a process that died since is listed by then."""
MOST_CALLS = 10_000
MOST_BYTES = 90_000_000
"""The most calls, and bytes of requests, in one batch: OpenAI takes 50,000 and 200 MB."""
GIVES_UP_SECONDS = 172_800.0
"""How long a batch may take to be handed in, and then to end: the provider's day, and another one
for what keeps it from there."""
MOST_ODD = 3
"""How many odd answers to its file, or to its handing in, a batch bears."""

_FULL = "token_limit_exceeded"
"""The code of a batch that is beyond what may be enqueued."""
_FINAL_STATUS = frozenset({*range(300, 400), 400, 403, 404, 405, 409, 413, 422})
_OVER = frozenset({"completed", "failed", "expired", "cancelled"})
"""States of a batch at the provider from which on nothing comes."""
OVERDUE = "batch {} has no end after two days"
_log = logging.getLogger("headway")


class BatchLane:
    """Gathers, hands in and collects, for the leader."""

    def __init__(self, scheduler: LocalScheduler, store: Store, config: Config) -> None:
        self._scheduler = scheduler
        self._store = store
        self._config = config
        self._lanes = LaneQuotas(scheduler, config)
        self._clients: dict[str, BatchProvider] = {}
        self._looked_at: dict[str, float] = {}
        """By batch: when a look found it nowhere at the provider. -inf: nobody else knows of it."""
        self._odd: dict[str, int] = {}
        """By batch: how many odd answers came before the provider had it."""
        self._collecting = anyio.Lock()
        """Held from a look at which calls are wanted until what follows is written. So an answer is
        kept for its call, or counted for one that was cancelled."""
        self._ask_at: dict[str, float] = {}
        self._busy: set[str] = set()
        """Models whose server is being asked something: a slow one keeps no other waiting."""
        self._wanted: set[str] = set()
        """Models whose batches were all looked through since a call was cancelled: of the others
        one may be for nobody."""
        self._stopped: set[str] = set()
        """Models whose key or account the provider refused: an operator resumes their lanes."""

    async def run(self) -> None:
        """Take turns until cancelled."""
        try:
            async with anyio.create_task_group() as group:
                while True:
                    try:
                        await self._turn(group)
                    except LOST:
                        raise
                    except StoreError:
                        await anyio.sleep(RETRY_SECONDS)
                    await anyio.sleep(TICK_SECONDS)
        finally:
            with anyio.CancelScope(shield=True):
                for client in self._clients.values():
                    await client.close()
            self._clients.clear()

    async def _turn(self, group: TaskGroup) -> None:
        """Do whatever can be done now; servers are asked in ``group``. Raises StoreError."""
        async with self._collecting:
            ended: dict[str, Outcome] = {}
            unwanted = await self._store.unwanted_calls()
            for run_id in {call_id.rpartition(".")[0] for call_id in unwanted}:
                ended |= await self._paid(run_id)
            for call_id in unwanted:
                # It may still be answered, and is amended then. What it reserved stays spent.
                outcome = ended.get(call_id, Outcome(CallState.CANCELLED))
                await self._scheduler.settle(call_id, outcome)
                self._wanted.clear()
        for gathered in await self._store.gathered():
            if self._is_due(gathered):
                await self._plan(gathered)
        by_model: dict[str, list[ProviderBatch]] = {}
        for batch in await self._store.provider_batches():
            by_model.setdefault(batch.model, []).append(batch)
        self._stopped = {model for model in self._stopped if self._lanes.is_stopped(model)}
        for model in by_model.keys() - self._busy - self._stopped:
            self._busy.add(model)
            group.start_soon(self._ask, model, by_model[model], name=f"headway batches of {model}")
        for run in await self._store.runs_to_wake():
            await self._scheduler.save_run(replace(run, state=RunState.QUEUED, waits_for=None))

    async def _paid(self, run_id: str) -> dict[str, Outcome]:
        """Return the ends of a run's batched calls whose answers are here, although it wants none.

        Of rows that cannot be read nothing is known: they must not keep the batches of others.
        """
        try:
            answers = await self._store.batch_answers(run_id)
            records = await self._store.calls(run_id, {CallState.BATCHED}) if answers else ()
            calls = {record.call.id: record.call for record in records}
            bodies = [(calls[key], json.loads(text)["body"]) for key, text in answers.items()]
        except (StoreCorrupt, ValueError, LookupError, TypeError) as error:
            _log.warning("run %s: an answer by batch cannot be read: %s", run_id, error)
            return {}
        ended = {}
        for call, body in bodies:
            served, cost = self._charged(call.model, call.submitted_at, body)
            ended[call.id] = Outcome(
                CallState.CANCELLED,
                usage=served.usage,
                usd=cost.usd,
                usd_source=cost.source,
                served_model=served.model,
            )
        return ended

    def _charged(self, model: str, at: float, body: Any) -> tuple[Served, Charge]:
        """Return what the body of an answer by batch says was used, and what that costs."""
        served = readings.served([body], [])
        share = self._config.batch_usd_factor
        return served, charge(of_model(self._config, model), served, at, share=share)

    async def _ask(self, model: str, batches: Sequence[ProviderBatch]) -> None:
        """Take the batches of a model as far as they go now, one after the other."""
        is_asked = model not in self._wanted
        self._wanted.add(model)
        try:
            for batch in batches:
                if model in self._stopped:
                    break
                now = self._scheduler.now()
                if now < self._ask_at.get(batch.id, 0.0) and not is_asked:
                    continue
                try:
                    if not (is_asked and await self._is_cancelled(batch)):
                        await self._advance(batch)
                except StoreError:
                    raise
                except Exception as error:  # of one batch: the others go on
                    self._ask_at[batch.id] = now + POLL_SECONDS
                    _warn(batch, error)
        except LOST:
            raise
        except StoreError:
            pass  # what is on disk stands: the next turn goes on from there
        finally:
            self._busy.discard(model)

    # Gathered -> planned

    def _is_due(self, gathered: Gathered) -> bool:
        is_full = gathered.calls >= MOST_CALLS or gathered.bytes >= MOST_BYTES
        waited = self._scheduler.now() - gathered.since
        return is_full or waited >= self._config.batch_wait

    async def _plan(self, gathered: Gathered) -> None:
        """Choose the requests of a batch, the oldest first."""
        chosen: list[BatchedRequest] = []
        size = 0
        for request in await self._store.batched_requests(None):
            if (request.model, request.endpoint) != (gathered.model, gathered.endpoint):
                continue
            size += len(request.body.encode())
            if chosen and (len(chosen) >= MOST_CALLS or size > MOST_BYTES):
                break
            chosen.append(request)
        now, batch_id = self._scheduler.now(), f"b-{secrets.token_hex(6)}"
        batch = ProviderBatch(batch_id, gathered.model, gathered.endpoint, BatchState.PLANNED, now)
        placed = tuple(replace(request, batch_id=batch_id) for request in chosen)
        await self._scheduler.write(Batch(requests=placed, provider_batches=(batch,)))
        _log.info("batch %s: %d calls to model %r", batch_id, len(placed), gathered.model)

    # Planned -> uploaded -> submitted -> ended

    async def _advance(self, batch: ProviderBatch) -> None:
        """Take a batch as far as it goes now. Raises what time may mend."""
        client: BatchProvider | None = None
        try:
            client = await self._client(batch.model)
            if batch.state is BatchState.PLANNED:
                batch = await self._upload(client, batch)
            match batch.state:
                case BatchState.UPLOADED:
                    await self._hand_in(client, batch)
                case BatchState.SUBMITTED:
                    await self._look(client, batch)
                case BatchState.PLANNED | BatchState.ENDED:
                    pass  # it has failed, or is over
                case _:
                    assert_never(batch.state)
        except StoreError:
            raise
        except Exception as error:
            may_have_it = batch.state is not BatchState.PLANNED
            if client is not None and client.shuts_out(error, may_have_it=may_have_it):
                await self._stop(batch, error)
            elif self._is_overdue(batch):
                await self._let_go(batch, OVERDUE.format(batch.id))
            elif (given_up := await self._given_up(batch, error)) is not None:
                await self._let_go(batch, str(given_up))
            else:
                raise

    def _is_overdue(self, batch: ProviderBatch) -> bool:
        return self._scheduler.now() - batch.created_at > GIVES_UP_SECONDS

    async def _given_up(self, batch: ProviderBatch, error: Exception) -> "NoAnswer | None":
        """Return the error if nobody answers for as long as the patience for a first contact."""
        from headway_agents.calls.errors import NoAnswer, is_unsent
        from headway_agents.calls.first_contact import cause_of, patience_for

        if batch.state is not BatchState.PLANNED or not is_unsent(error):
            return None
        address, scheduler = of_model(self._config, batch.model).shown, self._scheduler
        stated = self._config.model(batch.model).patience
        has_answered = await scheduler.has_answered(address)
        seconds = None if stated is None else patience_seconds(stated)
        limit = patience_for(seconds, has_answered=has_answered)
        if scheduler.now() - batch.created_at < limit:
            return None
        return NoAnswer(address, limit, cause_of(error))

    async def _upload(self, client: "BatchProvider", batch: ProviderBatch) -> ProviderBatch:
        requests = await self._store.batched_requests(batch.id)
        lines = (_line_of(request) for request in requests)
        file = (f"headway-{batch.id}.jsonl", "".join(lines).encode())
        try:
            file_id = await client.upload(*file)
        except Exception as error:
            return await self._refused(batch, error)
        self._scheduler.note_answer(of_model(self._config, batch.model).shown)
        # Nobody else can have handed this file in: it is new.
        self._looked_at[batch.id] = -inf
        return await self._saved(batch, BatchState.UPLOADED, file_id=file_id)

    async def _hand_in(self, client: "BatchProvider", batch: ProviderBatch) -> None:
        """Hand in the file, unless another process has done so and died before it said so."""
        now, looked_at = self._scheduler.now(), self._looked_at.get(batch.id)
        if looked_at != -inf:
            if looked_at is not None and now - looked_at < ADOPT_SECONDS:
                return
            if (found := await client.find(batch.id)) is not None:
                await self._saved(batch, BatchState.SUBMITTED, provider_id=found)
                return
            if looked_at is None:
                self._looked_at[batch.id] = now
                return
        # The epoch is asserted once more: a leader that was frozen since hands nothing in.
        await self._scheduler.write(Batch(provider_batches=(batch,)))
        self._looked_at.pop(batch.id, None)  # from here on the provider may know of it
        assert batch.file_id is not None
        try:
            made = await client.begin(batch.file_id, batch.endpoint, batch.id)
        except Exception as error:
            await self._refused(batch, error)
        else:
            await self._saved(batch, BatchState.SUBMITTED, provider_id=made)
            await self._lanes.note_taken(batch.model)

    async def _look(self, client: "BatchProvider", batch: ProviderBatch) -> None:
        """Ask how a batch stands, and collect it when it is over."""
        now = self._scheduler.now()
        is_young = now - batch.created_at < 3600
        self._ask_at[batch.id] = now + (POLL_SECONDS if is_young else LATER_POLL_SECONDS)
        assert batch.provider_id is not None
        found = await client.look(batch.provider_id)
        if found.status not in _OVER:
            if self._is_overdue(batch):
                await self._let_go(batch, OVERDUE.format(batch.id))
            return
        lines = [line for file in found.files for line in await client.lines(file)]
        await self._collect(batch, lines, self._said(batch, found))

    def _said(self, batch: ProviderBatch, found: "Standing") -> Mapping[str, Observation] | None:
        """Return what the end of a batch says of its lane: something only if the whole failed."""
        if found.status != "failed":
            return None
        words = found.words or "the provider failed it"
        return self._lanes.refused(batch.model, words, is_full=_FULL in found.codes)

    async def _is_cancelled(self, batch: ProviderBatch) -> bool:
        """Cancel a batch that nobody wants, if this is one; it is looked at until it is over."""
        # To save it anew forgets requests of calls that ended.
        await self._scheduler.write(Batch(provider_batches=(batch,)))
        if await self._store.batched_requests(batch.id):
            return False
        self._ask_at.pop(batch.id, None)
        if batch.state is not BatchState.SUBMITTED:
            if batch.state is BatchState.UPLOADED:
                return False  # it may have been handed in: it is adopted first
            await self._collect(batch, [])
            return True
        client = await self._client(batch.model)
        assert batch.provider_id is not None
        with suppress(Exception):  # it may be over by now
            await client.cancel(batch.provider_id)
        return False

    async def _collect(
        self,
        batch: ProviderBatch,
        lines: Sequence[dict[str, Any]],
        signals: Mapping[str, Observation] | None = None,
    ) -> None:
        """Keep every answer; what has none is queued again. ``signals``: of the lane's quota."""
        async with self._collecting:
            await self._keep(batch, lines, signals)

    async def _keep(
        self,
        batch: ProviderBatch,
        lines: Sequence[dict[str, Any]],
        signals: Mapping[str, Observation] | None,
    ) -> None:
        batch.check(BatchState.ENDED)
        requests = {each.call_id: each for each in await self._store.batched_requests(batch.id)}
        answered: dict[str, BatchedRequest] = {}
        others: dict[str, Any] = {}
        for line in lines:
            call_id, response = line.get("custom_id"), line.get("response")
            if not isinstance(call_id, str) or not isinstance(response, dict):
                continue
            if call_id not in requests:
                others[call_id] = response.get("body")
            elif call_id not in answered:
                text = json.dumps({k: response.get(k) for k in ("status_code", "body")})
                answered[call_id] = replace(requests[call_id], answer=text, body="")
        why = f"batch {batch.id} has ended without an answer to it"
        left = [LeaveBatch(key, why) for key in requests.keys() - answered.keys()]
        messages: list[Message] = [*sorted(left, key=lambda each: each.call_id)]
        if signals is not None:
            messages.insert(0, Observe("", signals))
        if others and (records := await self._cancelled(batch, others)):
            messages.append(Amend(tuple(records)))
        self._odd.pop(batch.id, None)
        ended = replace(batch, state=BatchState.ENDED)
        rows = Batch(requests=tuple(answered.values()), provider_batches=(ended,))
        await self._scheduler.write(rows, *messages)
        _log.info("batch %s: %d of %d answered", batch.id, len(answered), len(requests))

    async def _cancelled(self, batch: ProviderBatch, bodies: dict[str, Any]) -> list[CallRecord]:
        """Return the rows of cancelled calls that were answered all the same: they are paid."""
        run_ids = {call_id.rpartition(".")[0] for call_id in bodies}
        found = []
        for run_id in sorted(run_ids):
            for record in await self._store.calls(run_id, {CallState.CANCELLED}):
                body = bodies.get(record.call.id)
                is_by_batch = record.call.lane is ServiceLane.BATCH
                if body is None or not is_by_batch or record.usage is not None:
                    continue
                served, cost = self._charged(batch.model, batch.created_at, body)
                if served.usage is None:
                    continue
                record.usage, record.usd = served.usage, cost.usd
                record.usd_source, record.served_model = cost.source, served.model
                found.append(record)
        return found

    async def _refused(self, batch: ProviderBatch, error: Exception) -> ProviderBatch:
        """Let the calls of a batch go that the provider refuses. Raises what time may mend."""
        from .batch_provider import OddAnswer

        odd = self._odd.get(batch.id, 0) + isinstance(error, OddAnswer)
        self._odd[batch.id] = odd
        if getattr(error, "status_code", None) not in _FINAL_STATUS and odd < MOST_ODD:
            raise error
        await self._let_go(batch, str(error))
        return replace(batch, state=BatchState.ENDED)

    async def _let_go(self, batch: ProviderBatch, words: str) -> None:
        """End a batch that comes to nothing: its calls are queued again, and its lane stops."""
        await self._collect(batch, [], self._lanes.refused(batch.model, words))

    async def _stop(self, batch: ProviderBatch, error: Exception) -> None:
        """Leave all batches of a model as they are until an operator resumes its lane."""
        if (client := self._clients.pop(batch.model, None)) is not None:
            await client.close()  # the next one asks for the key anew
        self._ask_at.pop(batch.id, None)
        await self._lanes.stop(batch.model, error)
        self._stopped.add(batch.model)

    async def _saved(self, batch: ProviderBatch, state: BatchState, **names: str) -> ProviderBatch:
        batch.check(state)
        changed = replace(batch, state=state, **names)
        if state is BatchState.SUBMITTED:
            changed = replace(changed, created_at=self._scheduler.now())
        await self._scheduler.write(Batch(provider_batches=(changed,)))
        return changed

    async def _client(self, model: str) -> "BatchProvider":
        if model not in self._clients:
            # To import the SDK, or to run a command that prints a key, takes long.
            self._clients[model] = await to_thread.run_sync(self._new_client, model)
        return self._clients[model]

    def _new_client(self, model: str) -> "BatchProvider":
        from .batch_provider import BatchProvider

        if model not in self._config.models and self._config.default_model is None:
            raise CallerError(f"model {model!r} is not configured any more")
        found = of_model(self._config, model)
        return BatchProvider(key_of(found), found.address, PROVIDERS[found.provider])


def _line_of(request: BatchedRequest) -> str:
    line = {
        "custom_id": request.call_id,
        "method": "POST",
        "url": request.endpoint,
        "body": json.loads(request.body),
    }
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n"


def _warn(batch: ProviderBatch, error: Exception) -> None:
    """Say why a batch did not come further."""
    from headway_agents.secrets import scrubbed

    words = scrubbed(str(error))[:LONGEST_WORDS] or "no answer in time"
    _log.warning("batch %s: %s: %s", batch.id, type(error).__name__, words)

"""Messages and times in, decisions out: the scheduler as a state machine.

Law: no clock, no I/O, no asyncio. The same messages at the same times give the same decisions.

Theory of operation. Calls that draw on the same set of quotas stand in one *lane*, ordered by the
policy of ``admission/queue.py``. :meth:`Scheduler.admit` looks at the heads of all lanes, best rank
first, and takes a call when all its quotas pass, else nothing; ``admission/lanes.py`` says what a
blocked head keeps from those behind it. Calls that wait for a time of their own (a retry after a
fault), or for an operator, stand aside until it comes (``state.py``).

What changed since the last :meth:`Scheduler.take_batch` must be committed before anyone acts on a
grant. After a failed commit, the scheduler is thrown away and built again from the store.
"""

from collections.abc import Callable, Iterable, Mapping
from heapq import heapify, heappop, heappush
from types import MappingProxyType
from typing import assert_never

from ..errors import CallerError, IllegalTransition, InternalError, NothingToAnswer, QueueFull
from ..model.batch import Batch, Lesson, Snapshot
from ..model.batches import BatchedRequest
from ..model.calls import BYPASS, Call, CallRecord, Outcome, Route, ServiceLane
from ..model.data import replace
from ..model.quotas import Observation, ProviderEvent, Quota, Resource
from ..model.runs import Run
from ..model.states import IN_FLIGHT, LIVE_CALLS, UNDER_WAY, CallState
from ..protocol.messages import (
    Amend,
    ApplyChange,
    AwaitRuns,
    ChargeRequest,
    Decide,
    DropWorker,
    EnterBatch,
    ForgetRuns,
    Learn,
    LeaveBatch,
    MarkSent,
    Message,
    Observe,
    ProbeStopped,
    Reestimate,
    Resubmit,
    SaveRun,
    SetCallPriority,
    Settle,
    Submit,
)
from . import recovery
from .admission.lanes import Blocker, ClaimedBuckets, Lane, too_large
from .admission.preemption import URGENT
from .admission.queue import Rank, Waiter
from .admission.routing import routed
from .limits.bucket import Bucket
from .limits.quota import Attempt, QuotaState
from .notices import Notices
from .policy import Policy
from .state import NOT_BATCHED, SIZES, LiveCall, SchedulerState
from .tally import tried

LARGEST_SHARE = 8
"""A single call may bring at most one in so many of the bytes that all may."""

_FAULTS = (ProviderEvent.FAILED, ProviderEvent.OVERLOADED, ProviderEvent.LOCKED_OUT)
_NOTHING_OBSERVED = Observation()
_NO_SIGNALS: Mapping[str, Observation] = MappingProxyType({})


class Scheduler:
    """Decides which calls may be sent; owns the quotas and every call that has not ended."""

    def __init__(
        self,
        quotas: Iterable[Quota],
        now: float,
        policy: Policy | None = None,
        own: str | None = None,
    ) -> None:
        self.state: SchedulerState = SchedulerState(quotas, policy or Policy(), now)
        """Everything it knows, for ``inspection.py`` and others to read."""
        self.own: str | None = own
        """The worker whose process this is in: it alone says at once what it sends and hears. None:
        nobody does, and whatever is admitted counts as sent."""
        self._asked_at: float | None = None
        self._notices = Notices(self.state.policy.notifies)

    def handle(  # noqa: C901  # one case for each type of message
        self, message: Message, now: float, worker: str | None = None
    ) -> None:
        """Process a message of ``worker``; None: of this process.

        Changes the state and notes what the next commit must write; or raises and changes nothing.
        Raises UnknownQuota, CallTooLarge or CallerError for a mistake of the sender;
        IllegalTransition for a step that a call cannot take; InternalError for a call that is
        queued or in flight already.
        """
        log = self.state.log
        match message:
            case Submit():
                self._submit(message, now, worker)
            case MarkSent():
                self._mark_sent(message, now)
            case EnterBatch():
                self._enter_batch(message.request)
            case LeaveBatch():
                self._leave_batch(message, now)
            case Observe():
                self._require_quotas(message.signals)
                self._observe(message.call_id, message.signals, now, worker)
            case Settle():
                self._settle(message, now, worker)
            case SaveRun():
                self._track(message.run, now)
                if message.spent_usd and self.state.budgets.note_spent(
                    message.run.id, message.spent_usd
                ):
                    log.budgets.add(message.run.id)
                log.runs.append(message.run)
            case Learn():
                for lesson in message.lessons:
                    log.lessons[lesson.kind, lesson.subject] = lesson
            case Resubmit():
                self._resubmit(message, now, worker)
            case Decide():
                self._decide(message, now)
            case SetCallPriority():
                self._set_priority(message, now)
            case Reestimate():
                self._reestimate(message, now)
            case AwaitRuns():
                changed = self.state.registry.wait(message.run_id, message.on)
                self.state.place_runs_again(changed, now)
            case ApplyChange():
                self.state.apply(message.change, now)
                log.changes.append(message.change)
            case DropWorker():
                self._drop_worker(message.worker_id, now)
            case ProbeStopped():
                self._probe_stopped(now)
            case ChargeRequest():
                self._charge_request(message, now)
            case Amend():
                log.amended += message.records
            case ForgetRuns():
                log.forget += message.run_ids
                for run_id in message.run_ids:
                    self._forget_batched(run_id, now)
                    self.state.budgets.forget(run_id)
            case _:
                assert_never(message)

    def admit(self, now: float) -> list[CallRecord]:
        """Admit every call that may be sent at ``now``, best rank first, and return their rows."""
        state = self.state
        self._asked_at = now
        state.recall(now)
        lanes = [lane for lane in state.lanes.lanes if lane.line.waiting]
        for pool in state.lanes.pools if lanes else ():  # time passes for those who wait
            pool.advance(now)
        grants: list[CallRecord] = []
        claimed = ClaimedBuckets()
        asks: list[float] = []
        heads = [lane.line.head() for lane in lanes]
        heap = [(head[0], index) for index, head in enumerate(heads) if head is not None]
        heapify(heap)
        while heap:
            rank, index = heappop(heap)
            lane, head = lanes[index], heads[index]
            # Admitting a call of another lane of the pool may have changed the head of this one.
            if len(lanes) > 1:
                head = lane.line.head()
            assert head is not None
            if head[0] != rank:
                heappush(heap, (head[0], index))
                continue
            _, waiter = head
            headroom = state.policy.headroom[rank.place]
            call = waiter.record.call
            if self._lacks_dollars(call, now):
                heads[index] = head = lane.line.head()
                if head is not None:
                    heappush(heap, (head[0], index))
                continue
            if blocked := lane.blockers(call, now, claimed, headroom):
                self._make_room(waiter, blocked, claimed, now)
                asks.extend(lane.claim(call, now, claimed, headroom, blocked))
                continue
            grants.append(self._grant(lane, waiter, rank, now))
            heads[index] = head = lane.line.head()
            if head is not None:
                heappush(heap, (head[0], index))
        state.ask_at = min(asks, default=None)
        return grants

    def _lacks_dollars(self, call: Call, now: float) -> bool:
        """Take a call out of its line for which there are no dollars: aside, or for good."""
        state = self.state
        budget = state.budgets.by_run.get(call.run_id)
        if budget is None and not call.usd:
            return False
        live = state.live[call.id]
        for bucket in state.lanes.of(call.quotas, now).buckets:
            if bucket.never_passes(call):  # the limit was lowered since
                state.refuse(live, too_large(call, bucket), now)
                return True
        if budget is None or budget.passes(call):
            return False
        if budget.covers(call):
            state.set_aside(live, budget, now)
        else:
            state.refuse(live, budget.exceeded(call), now)
        return True

    def take_refused(self) -> list[tuple[CallRecord, CallerError]]:
        """Return queued calls that ended because they can never go, each with its error."""
        refused, self.state.refused = self.state.refused, []
        return refused

    def _grant(self, lane: Lane, waiter: Waiter, rank: Rank, now: float) -> CallRecord:
        record, state = waiter.record, self.state
        call, live = record.call, state.live[record.call.id]
        lane.line.serve(waiter, rank)
        record.check(CallState.ADMITTED)
        record.admit(now)
        live.waited = (live.waited or 0.0) + now - live.queued_at
        state.registry.charge(call, waiter.cost)
        is_sent = self.own is None or record.worker != self.own
        live.reservations = tuple(
            [(bucket, bucket.take(call, now, is_sent=is_sent)) for bucket in lane.buckets]
        )
        if (budget := state.budgets.by_run.get(call.run_id)) is not None:
            live.budget = budget
            budget.reserve(call)
            state.log.budgets.add(call.run_id)
        live.waiter = None
        for quota in lane.quotas:
            quota.in_flight += 1
            if quota.breaker.pauses:
                quota.breaker.admit(call.id)
        live.beside = lane.quotas[0].in_flight if lane.quotas else 0
        if lane.local:
            state.preemption.admitted(call.id, waiter.effective_priority, lane.local, now)
        state.change(record)
        return record

    def _make_room(
        self, waiter: Waiter, blocked: list[Blocker], claimed: ClaimedBuckets, now: float
    ) -> None:
        """Name a young background call to give its slot to an urgent call that lacks only that."""
        if waiter.effective_priority not in URGENT or len(blocked) != 1:
            return
        (bucket,) = blocked
        if not isinstance(bucket, Bucket) or bucket in claimed.blocking:
            return
        is_slot = bucket.limit.resource is Resource.CONCURRENCY
        if is_slot and self.state.lanes.quota(bucket.quota).is_local:
            live = self.state.live.items()
            flying = (key for key, each in live if each.record.state in IN_FLIGHT)
            self.state.preemption.make_room(bucket.quota, flying, now)

    def take_preempted(self) -> list[CallRecord]:
        """Return calls in flight to cancel and queue again: urgent calls need their slots."""
        state = self.state
        if not state.preemption.named:
            return []
        return [live.record for key in state.preemption.take() if (live := state.live.get(key))]

    def next_event(self, now: float) -> float | None:
        """Return when :meth:`admit` may admit more if nothing else happens; None for never."""
        at = self.state.ask_at
        for heap in (self.state.delayed, self.state.flex_ends):
            if heap and (at is None or heap[0][0] < at):
                at = heap[0][0]
        return None if at is None else max(now, at)

    def take_batch(self, now: float) -> Batch:
        """Return what changed since the last call, for one commit, and forget it."""
        log = self.state.log
        batch = self.state.take_batch(now)
        if not self.state.policy.notifies:
            return batch
        return replace(batch, notices=self._notices.of_commit(self.state, log, batch, now))

    def restore(
        self,
        snapshot: Snapshot,
        now: float,
        owned: Callable[[CallRecord], bool],
        *,
        runs: Iterable[Run] = (),
        awaited: Mapping[str, frozenset[str]] | None = None,
    ) -> list[str]:
        """Go on from the store, as ``recovery.restore`` says; return what was left out."""
        left_out = recovery.restore(self.state, snapshot, now, owned, runs=runs, awaited=awaited)
        self._notices.know(self.state)
        return left_out

    # Messages

    def _submit(self, message: Submit, now: float, worker: str | None) -> None:
        state, call = self.state, message.call
        if call.id in state.live:
            raise InternalError(f"call {call.id} was submitted twice")
        if message.routes:
            call = routed(call, message.routes, state.lanes, state.registry, now)
        self._check(call, now)
        size = self._require_room(message)
        parked, routes = message.parked, message.routes
        record = CallRecord(call, state.next_seq, worker=worker, parked=parked, routes=routes)
        state.next_seq += 1
        live = state.add(record)
        live.bytes, live.queued_at = size, call.submitted_at
        state.bytes += size
        state.log.new[call.id] = record
        if message.prompt is not None:
            state.log.chunks += message.prompt.chunks
            state.log.nodes += message.prompt.nodes
        if not message.parked:
            state.enqueue(live, now)

    def _resubmit(self, message: Resubmit, now: float, worker: str | None) -> None:
        state, call = self.state, message.record.call
        live = state.live.get(call.id)
        if live is None:
            _check_ended(message.record)
            message.record.check(CallState.QUEUED)
        elif not live.record.parked:
            raise InternalError(f"call {call.id} was submitted twice")
        # What it reserved before may be of other prices, and of other limits.
        self._check(routed(call, message.routes, state.lanes, state.registry, now), now)
        for route in message.routes:
            state.lanes.of(route.quotas, now)
        if live is None:
            live = state.add(replace(message.record))
        live.record.routes = message.routes
        live.record.resubmit(worker)
        live.queued_at = now
        state.change(live.record)
        state.enqueue(live, now)

    def _require_room(self, message: Submit) -> int:
        """Return how many bytes a new call brings. Raises QueueFull.

        Only new calls are refused: one that waited before, in whatever process, goes on.
        """
        state, policy = self.state, self.state.policy
        if policy.waiting is not None and len(state.live) >= policy.waiting:
            raise QueueFull(
                f"{len(state.live):,} calls wait or are in flight, and defaults.waiting permits no "
                "more: ask again when some have ended, or raise it"
            )
        if message.prompt is None:
            return 0
        size = sum(_bytes_of(chunk.text) for chunk in message.prompt.chunks)
        most = policy.waiting_bytes
        if most is not None and state.bytes + size > most:
            raise QueueFull(
                f"calls that wait brought {state.bytes:,} bytes of text, this one brings {size:,}, "
                f"and defaults.waiting_bytes permits {most:,}: ask again when some have ended, or "
                "raise it"
            )
        if most is not None and size > most // LARGEST_SHARE:
            raise QueueFull(
                f"call {message.call.id} brings {size:,} bytes of text, more than an eighth of "
                f"defaults.waiting_bytes ({most:,}): shorten the prompt, or raise it"
            )
        return size

    def _check(self, call: Call, now: float) -> None:
        """Raise CallTooLarge or BudgetExceeded for a call that can never go."""
        self.state.lanes.of(call.quotas, now).check(call)
        budget = self.state.budgets.by_run.get(call.run_id)
        if budget is not None and not budget.covers(call):
            raise budget.exceeded(call)

    def _decide(self, message: Decide, now: float) -> None:
        record, outcome = message.record, message.outcome
        live = self.state.live.get(record.call.id)
        if live is None:
            _check_ended(record)
            record.check(outcome.state)
            decided = replace(record)
            decided.decide(outcome, now)
            if decided.parked:
                self.state.add(decided)
            self.state.change(decided)
            return
        if not live.record.parked:
            raise NothingToAnswer(f"call {record.call.id} waits for no person: it was answered")
        if outcome.state is not CallState.QUEUED:
            live.record.check_end(outcome)
            self._end_attempt(live, outcome, now)

    def _mark_sent(self, message: MarkSent, now: float) -> None:
        live = self.state.live.get(message.call_id)
        if live is not None and live.record.state is CallState.ADMITTED:
            live.record.mark_sent(message.at)
            at = min(message.at, now)
            for bucket, reservation in live.reservations:
                bucket.send(reservation, at)
            self.state.change(live.record)
            self.state.ask_at = now  # what waits for a full bucket asks when they are charges

    def _enter_batch(self, request: BatchedRequest) -> None:
        live = self.state.live.get(request.call_id)
        if live is None or live.record.state is not CallState.ADMITTED:
            raise IllegalTransition(f"call {request.call_id} is not admitted: it joins no batch")
        live.record.state = CallState.BATCHED
        for name in live.record.call.quotas:
            self.state.lanes.quotas[name].in_flight -= 1
        self.state.log.requests.append(request)
        self.state.change(live.record)

    def _leave_batch(self, message: LeaveBatch, now: float) -> None:
        """Park a call whose batch had no answer to it. One that has ended meanwhile stays so."""
        live = self.state.live.get(message.call_id)
        if live is not None and live.record.state is CallState.BATCHED:
            outcome = Outcome(CallState.QUEUED, error=message.error, sent=False)
            self._end_attempt(live, outcome, now, is_parked=True)

    def _forget_batched(self, run_id: str, now: float) -> None:
        """Forget calls that outlived their run: their rows are deleted with it."""
        for call_id in self.state.registry.calls(run_id):
            live = self.state.live[call_id]
            if live.record.state is CallState.BATCHED:
                self._end_attempt(live, Outcome(CallState.CANCELLED), now)
                del self.state.log.changed[call_id]

    def _settle(self, message: Settle, now: float, worker: str | None) -> None:
        """End an attempt. A call that is not live has ended before: only ``signals`` count then."""
        if message.signals:
            self._require_quotas(message.signals)
        live = self.state.live.get(message.call_id)
        if live is not None:
            live.record.check_end(message.outcome)
            if live.record.state is CallState.BATCHED:  # its run went on elsewhere since
                live.record.worker = worker
        if message.signals:
            self._observe(message.call_id, message.signals, now, worker)
        if live is not None:
            self._end_attempt(live, message.outcome, now, message.signals)

    def _end_attempt(
        self,
        live: LiveCall,
        outcome: Outcome,
        now: float,
        signals: Mapping[str, Observation] = _NO_SIGNALS,
        *,
        is_parked: bool = False,
    ) -> None:
        """Settle the reservations, and end the call or queue it again.

        ``is_parked``: nobody waits for it, so it stays aside until its run goes on.
        """
        state, record = self.state, live.record
        call, was_in_flight = record.call, record.state in IN_FLIGHT
        if outcome.state is not CallState.DONE:
            self._note_try(record, outcome, signals, now)
        record.settle(outcome, now)
        quotas = [quota for name in call.quotas if (quota := state.lanes.quotas.get(name))]
        first = quotas[0] if quotas and quotas[0].name == call.quotas[0] else None
        if first and first.is_local and outcome.usage is not None and record.sent_at is not None:
            # Only its speed shows that a local server is overloaded: it sends no limits.
            seconds = now - record.sent_at
            first.record_write_speed(seconds, outcome.usage.output_tokens, now)
        for quota in quotas:
            quota.in_flight -= was_in_flight
            if quota.breaker.probes:
                quota.breaker.end(call.id)
        for bucket, reservation in live.reservations:
            used = bucket.used(outcome, reservation)
            bucket.settle(reservation, used, now, refused=outcome.refused)
        live.reservations = ()
        if live.budget is not None and call.id not in live.budget.waiting:
            live.budget.settle(call, outcome)
            state.budgets.short.add(call.run_id)
            state.log.budgets.add(call.run_id)
            live.budget = None
        state.change(record)
        state.ask_at = now
        if is_parked:
            record.parked = True
            return
        if outcome.state is CallState.QUEUED:
            self._queue_again(live, quotas, now)
            return
        state.remove(live, now)
        if state.preemption.times:
            state.preemption.ended(call.id)

    def _note_try(
        self, record: CallRecord, outcome: Outcome, signals: Mapping[str, Observation], now: float
    ) -> None:
        """Have an attempt in flight that ends without an answer written."""
        if record.state not in IN_FLIGHT:
            return
        is_preempted = record.call.id in self.state.preemption.times and not outcome.sent
        if row := tried(record, outcome, signals, now, preempted=is_preempted):
            self.state.log.tries.append(row)

    def _queue_again(self, live: LiveCall, quotas: Iterable[QuotaState], now: float) -> None:
        record, live.queued_at = live.record, now
        opened = [quota.breaker for quota in quotas if quota.breaker.is_open]
        if opened:
            # The quota pauses as a whole, so calls need no pause of their own; but a probe that
            # failed waits longer than the others, because the fault may be its own.
            times = (breaker.not_before(record.call.id) or 0.0 for breaker in opened)
            record.not_before = max(times) or None
            if any(not self._is_faulty(route) for route in record.routes):
                record.not_before = None  # it is answered elsewhere
        self.state.enqueue(live, now)

    def _is_faulty(self, route: Route) -> bool:
        quotas = self.state.lanes.quotas
        return any(quotas[name].breaker.is_faulty for name in route.quotas if name in quotas)

    def _require_quotas(self, signals: Mapping[str, Observation]) -> None:
        """Raise UnknownQuota if ``signals`` name a quota that is not configured."""
        for name in signals:
            if name not in self.state.lanes.quotas:
                self.state.lanes.quota(name)

    def _observe(
        self, call_id: str, signals: Mapping[str, Observation], now: float, worker: str | None
    ) -> None:
        """Record what an attempt showed of its quotas. A 429 pauses its own quota, no other."""
        state = self.state
        live = state.live.get(call_id)
        reservations = {} if live is None else dict(live.reservations)
        admitted_at = answered_from = now
        sent_at: float | None = None
        beside = 0
        if live is not None:
            beside = live.beside
            admitted_at = live.record.admitted_at or now
            sent_at = live.record.sent_at or live.record.admitted_at
            # Another process tells with its next request: its answer may be any time since then.
            is_own = worker is None or worker == self.own
            answered_from = now if is_own else sent_at or admitted_at
        for name, observation in signals.items():
            if observation == _NOTHING_OBSERVED:
                continue
            quota = state.lanes.quotas[name]
            attempt = Attempt(call_id, admitted_at, sent_at, reservations, answered_from, beside)
            buckets = quota.buckets
            quota.observe(observation, attempt, now, self._asked_at)
            if quota.buckets is not buckets:
                state.renew_buckets(name, now)
            state.log.touched.add((name,))
            state.ask_at = now
            if observation.event in _FAULTS and quota.breaker.is_open:
                self._send_elsewhere(name, now)
            elif observation.event is ProviderEvent.NO_CAPACITY:
                state.note_no_capacity(name, now)

    def _send_elsewhere(self, quota: str, now: float) -> None:
        """Let calls that wait for a provider that stopped answering take another route."""
        for live in list(self.state.live.values()):
            if live.record.routes and live.waiter is not None and quota in live.record.call.quotas:
                self.state.withdraw(live, now)
                self.state.enqueue(live, now)

    def _charge_request(self, message: ChargeRequest, now: float) -> None:
        """Charge a request that nobody admitted, as its provider does, and write its row."""
        state, call = self.state, message.call
        if call is not None and call.kind != BYPASS:
            raise IllegalTransition(f"call {call.id}: a {call.kind} goes when it is admitted")
        for name in message.quotas:
            if state.lanes.knows(name, now):
                state.lanes.quotas[name].charge_request(now)
                state.log.touched.add((name,))
        if call is not None:
            row = CallRecord(call, state.next_seq, CallState.CANCELLED, finished_at=now)
            state.log.new[call.id] = row
            state.next_seq += 1

    def _probe_stopped(self, now: float) -> None:
        for quota in self.state.lanes.quotas.values():
            if quota.breaker.stopped is not None:
                quota.try_again()
                self.state.log.touched.add((quota.name,))
                self.state.ask_at = now

    def _track(self, run: Run, now: float) -> None:
        """Take in a run's class, team and deadline; its size, once it has completed.

        Its calls that asked for its class follow it into a new one.
        """
        state, registry = self.state, self.state.registry
        if run.state not in UNDER_WAY:
            dependents = registry.dependents(run.id)
            if (workflow := registry.end(run)) is not None:
                lesson = Lesson(SIZES, workflow, registry.sizes.dump(workflow))
                state.log.lessons[SIZES, workflow] = lesson
            state.place_runs_again(dependents, now)
            return
        before = registry.track(run)
        if run.budget_usd is not None or run.id in state.budgets.by_run:
            state.budgets.limit(run.id, run.budget_usd)
        for call_id in registry.calls(run.id):
            record = state.live[call_id].record
            if before is not None and record.call.priority is before.priority is not run.priority:
                state.set_priority(record, run.priority)
        state.place_runs_again(registry.dependents(run.id), now)

    def _set_priority(self, message: SetCallPriority, now: float) -> None:
        live = self.state.live.get(message.call_id)
        if live is None or live.record.state is not CallState.QUEUED:
            raise CallerError(
                f"call {message.call_id} does not wait, so its class is settled: "
                "`headway queue` lists the calls that do"
            )
        self.state.set_priority(live.record, message.priority)
        self.state.place_again([live], now)

    def _reestimate(self, message: Reestimate, now: float) -> None:
        """Change what a queued call takes. One that was admitted meanwhile stays as it is."""
        state, live = self.state, self.state.live.get(message.call_id)
        for route in message.routes:
            state.lanes.of(route.quotas, now)
        if live is None or live.record.state is not CallState.QUEUED or live.record.parked:
            return
        state.withdraw(live, now)
        first = message.routes[0]
        has_choice = len(message.routes) > 1 or first.lane is not ServiceLane.STANDARD
        live.record.routes = message.routes if has_choice else ()
        if not has_choice:
            live.record.call = message.routes[0].taken_by(live.record.call)
        state.change(live.record)
        state.enqueue(live, now)

    def _drop_worker(self, worker: str, now: float) -> None:
        """Treat a dead worker's calls as ``restore`` does those without an owner."""
        for live in list(self.state.live.values()):
            if live.record.worker != worker:
                continue
            match live.record.state:
                case CallState.QUEUED:
                    self.state.withdraw(live, now)
                    live.record.parked = True
                case CallState.BATCHED:
                    pass  # it needs no process
                case CallState.ADMITTED if live.record.call.lane is ServiceLane.BATCH:
                    self._end_attempt(live, NOT_BATCHED, now, is_parked=True)
                case _:
                    self._end_attempt(live, Outcome(CallState.UNKNOWN), now)


def _bytes_of(text: str) -> int:
    """Return how much memory a text takes at most, without looking at each character."""
    return len(text) * (1 if text.isascii() else 4)


def _check_ended(record: CallRecord) -> None:
    """Refuse a row of a call that is not live here any more: it is older than the call's end."""
    if record.state in LIVE_CALLS:
        raise IllegalTransition(
            f"call {record.call.id}: it was {record.state}, and has ended since"
        )

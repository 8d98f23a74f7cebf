"""One call from the queue to its end. Law of this file: whatever is awaited, no reservation leaks.

Theory of operation. Each admission gives a :class:`LiveCall` a reservation, and for each it owes
the scheduler one end. It pays by settling, by queueing again, or, left in any other way, by
abandoning: that awaits nothing, so it works while everything is being cancelled.

Others act on a call between any two of its awaits. AutoGen's token and the end of the run cancel
it, and a more urgent call preempts it: :class:`Interruption` ends what the call awaits then, once,
as ``asyncio.timeout`` does, not again and again as an anyio scope does. AutoGen's clients put a
request into a task of its own; a second cancellation would hit the clean-up of that task and lose
the connection's place in the pool. A stream that rests between two chunks awaits nothing, so it is
abandoned at once, and raises when its agent asks for the next chunk. The task of the agent may be
cancelled too; that goes first, and is never swallowed.
"""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Never, TypeVar, assert_never

import anyio
from autogen_core import CancellationToken
from msgspec import structs

from headway_scheduler.core.views import ProviderHealth
from headway_scheduler.errors import ProviderError, StoreError
from headway_scheduler.model.batches import BatchedRequest
from headway_scheduler.model.calls import (
    UNPRICED,
    Call,
    CallRecord,
    Outcome,
    Route,
    Served,
    ServiceLane,
)
from headway_scheduler.model.formulas import short_seconds
from headway_scheduler.model.quotas import Observation, ProviderEvent
from headway_scheduler.model.states import CallState
from headway_scheduler.providers import ErrorClass, Failure, Verdict
from headway_scheduler.providers.readings import Odd, date, retry_after_seconds

from ..journal.events import JournalSlot, Skipped, WorkBegan, WorkEnded
from ..requests.prompts import RequestDigest
from ..scope import LiveCalls, RunScope
from ..secrets import scrubbed
from .errors import (
    EVENTS,
    MAX_ATTEMPTS,
    SAME_FAULT_SECONDS,
    LockOut,
    NoAnswer,
    Refuse,
    ResponseHead,
    Retry,
    TimedOut,
    described,
    heard,
    is_free,
    is_unsent,
    judged,
    next_step,
    paid_usage,
)
from .models import NO_CANDIDATE, Candidate

if TYPE_CHECKING:
    from .first_contact import Patience

T = TypeVar("T")
_log = logging.getLogger("headway")
_ALERT = "quota %r is stopped, its calls wait: %s: mend it, then `headway limits resume`"
_REPEATS = (
    "model %r: its client (%s) sends more than one request in one attempt: each is charged, and "
    "none waits for its turn: switch its own retries off"
)
_ODD = "model %r: %s is out of range: counted as unknown"
KNOWN_NODES = 10_000
"""How many messages a scope knows to be on disk at most; others are only handed over again."""

NOTHING = Served()
"""For an answer that says nothing of usage, tier or model."""
_READABLE = ("json", "event-stream")
_said: set[tuple[str, str]] = set()
"""The (model, field) and (model, class) pairs that this process has warned of."""


@asynccontextmanager
async def attached(
    scope: RunScope,
    slot: JournalSlot,
    digest: RequestDigest,
    *,
    token: CancellationToken | None = None,
) -> AsyncIterator["LiveCall"]:
    """Give a call that is not queued yet to the block; abandon it if the block leaves it unsettled.

    ``token`` cancels it, and so does the end of the run.
    """
    live = LiveCall(scope, slot, digest)
    scope.live_calls[slot.id] = partial(_cancel, live)
    if token is not None:
        # AutoGen's token keeps its callbacks for the whole run, so this one holds no call.
        token.add_callback(partial(_cancelled_by_token, scope.live_calls, slot.id))
    try:
        yield live
    except Exception as error:
        # After the end of its run a call only fails because it was cancelled: not worth telling.
        if not scope.is_closed:
            scope.error = error
        raise
    finally:
        # No await from here on: this also runs while the task is being cancelled.
        live.abandon()
        scope.scheduler.on_preempt.pop(slot.id, None)
        scope.scheduler.reestimates.pop(slot.id, None)
        scope.live_calls.pop(slot.id, None)


def _cancel(live: "LiveCall", reason: BaseException) -> None:
    if not live.interruption.cancel(reason):
        live.abandon()


def _cancelled_by_token(live_calls: LiveCalls, call_id: str) -> None:
    if (cancel := live_calls.get(call_id)) is not None:
        cancel(asyncio.CancelledError("cancelled by its token"))


async def recorded(live: "LiveCall") -> str | None:
    """Return the recorded answer of a call when its turn has come; None if the row has none.

    Raises ProviderError with the text of a recorded failure.
    """
    record = live.slot.record
    if record is None or not live.slot.is_answered:
        return None
    if not live.slot.is_unordered:
        assert record.arrival is not None
        await live.wait(partial(live.scope.deliver, record.arrival))
    if record.state is CallState.FAILED:
        raise ProviderError(record.error or "the call failed")
    assert record.answer is not None
    return record.answer


class Phase(Enum):
    """How far a call has come: each leads to the next, SENT back to QUEUED too, all to ENDED."""

    NEW = auto()  # the scheduler does not know of it; its recorded answer may wait for its turn
    QUEUED = auto()  # the scheduler has it, or a person was asked
    ADMITTED = auto()  # it holds its reservation, and owes an end
    SENT = auto()  # as ADMITTED, while its request is out and until its failure is judged
    SETTLING = auto()  # the scheduler was told its end, and records it whatever happens here
    ENDED = auto()


class Preempted(Exception):
    """A call in flight makes room for a more urgent one. :meth:`LiveCall.failed` takes it."""


class Interruption:
    """Ends what a call awaits, from outside, once; every later wait raises ``reason``.

    ``is_cut_off``: the process ends, and with it the task, while the call awaits something.
    ``once``: the wait was cancelled for this alone, a more urgent call or a time limit, and has
    not noticed yet.
    """

    def __init__(self) -> None:
        self.reason: BaseException | None = None
        self.is_cut_off = False
        self.once: Exception | None = None
        self._waiter: asyncio.Task[object] | None = None

    def check(self) -> None:
        """Raise ``reason`` if the call was cancelled."""
        if self.reason is not None:
            raise self.reason

    async def wait(self, step: Callable[[], Awaitable[T]]) -> T:
        """Await ``step()``. Raises ``reason`` once the call is cancelled, what :meth:`interrupt`
        was given once.

        A cancellation that is not ours passes through.
        """
        self.check()
        task = asyncio.current_task()
        assert task is not None  # a coroutine that runs is in a task
        others = task.cancelling()  # cancellations that somebody else deals with already
        self._waiter = task
        try:
            return await step()
        except asyncio.CancelledError:
            reason = self._take()
            if reason is None or task.uncancel() > others:
                # Somebody cancels the task itself, maybe beside us. An agent without a team asks in
                # the task that executes its run: if that is cut off, this is the first to know, for
                # nobody has closed the scope yet.
                self.is_cut_off = anyio.current_effective_deadline() == -math.inf
                raise
            raise reason from None
        finally:
            self._waiter = None

    def cancel(self, reason: BaseException) -> bool:
        """Have whatever the call awaits, now or next, end with ``reason``. The first reason counts.

        Return whether it awaits something now.
        """
        if self.reason is None:
            self.reason = reason
            # An interruption has cancelled the wait; a second time would be taken for somebody
            # else's.
            if self._waiter is not None and self.once is None:
                self._waiter.cancel()
        return self._waiter is not None

    def interrupt(self, error: Exception) -> bool:
        """Have what the call awaits now end with ``error``. If it awaits nothing, nothing happens.

        Return whether it awaits something.
        """
        if self.reason is None and self.once is None and self._waiter is not None:
            self.once = error
            self._waiter.cancel()
        return self._waiter is not None

    def _take(self) -> BaseException | None:
        """Return why a wait was interrupted; None if this did not do it."""
        once, self.once = self.once, None
        return once if self.reason is None else self.reason


class LiveCall:
    """A call of an agent: acquired, sent, then done, failed or refused; failed may queue it again.

    ``candidate`` is the model that it goes to, once it is acquired. ``asks_for_flex``: so its user
    chose. ``batch_answer``: its answer, if it went by batch. Whatever is awaited for it goes
    through ``wait``, so that it can be interrupted; settling alone does not.
    """

    asks_for_flex = False
    batch_answer: str | None = None

    def __init__(self, scope: RunScope, slot: JournalSlot, digest: RequestDigest) -> None:
        self.scope = scope
        self.slot = slot
        self.digest = digest
        self.candidate = NO_CANDIDATE
        self._scheduler = scope.scheduler
        self._phase = Phase.NEW
        self.interruption = Interruption()
        self.wait = self.interruption.wait
        self._head: ResponseHead | None = None
        self._call: Call | None = None
        self._candidates: Mapping[tuple[str, ServiceLane], Candidate] = {}
        self._routes: tuple[Route, ...] = ()
        self._attempts = 0
        self._sent_at = 0.0
        self._faults: Counter[str | None] = Counter()
        self._said, self._said_since, self._said_times = "", 0.0, 0
        self._overruns = self._times_short = 0
        self._patience: dict[str, Patience] = {}

    # Before it is sent

    async def acquire(
        self, call: Call, candidates: Sequence[Candidate] = (), routes: tuple[Route, ...] = ()
    ) -> None:
        """Queue the call and wait until it may be sent. ``call`` is its row, if it has none yet.

        It goes on one of ``routes``, if there are any; ``candidates`` are the models that they
        name. Raises what ``SchedulerClient.acquire`` raises.
        """
        self._call, self._routes = call, routes
        self._candidates = {(each.model.name, each.model.lane): each for each in candidates}
        if candidates:
            self.candidate = candidates[0]
        await self.wait(partial(self.scope.replay_barrier, self.slot))
        self.begin()
        for candidate in candidates:
            address, stated = candidate.model.address, candidate.model.patience
            if address is not None and (stated or address not in self._scheduler.answered):
                self._be_patient(address, stated)
        self._admitted(await self.wait(partial(self._queued, call)))

    async def for_person(self) -> Never:
        """Wait for a person who is not there, until the attempt ends."""
        await self.wait(partial(self.scope.replay_barrier, self.slot))
        await self.wait(partial(self.scope.for_person, self.slot))
        raise AssertionError  # that wait only ends by being cancelled

    async def for_another_person(self) -> Never:
        """Wait as :meth:`for_person`: the person who was asked has left. The question stays."""
        self._end()
        await self.wait(partial(self.scope.for_person, self.slot))
        raise AssertionError  # that wait only ends by being cancelled

    def begin(self) -> None:
        """Enter QUEUED: the attempt is not quiet as long as the call is in flight."""
        self._phase = Phase.QUEUED
        self.scope.note_work(WorkBegan())

    async def _queued(self, call: Call) -> Call:
        known = self.scope.known_nodes
        prompt = self.digest.missing(known)
        if self.slot.record is None:
            granted = await self._scheduler.acquire(call, prompt, self._routes)
        else:
            granted = await self._scheduler.reacquire(self.slot.record, self._routes)
        known.update(node.hash for node in prompt.nodes)
        if len(known) > KNOWN_NODES:
            known.clear()
        return granted

    def _admitted(self, call: Call) -> None:
        if self._call is not None and call.model != self._call.model:
            _log.info("call %s goes to model %r, not %r", call.id, call.model, self._call.model)
        self._call = call
        # An old row may name a model that the configuration no longer has.
        self.candidate = self._candidates.get((call.model, call.lane), self.candidate)
        self._phase = Phase.ADMITTED
        self._scheduler.on_preempt[call.id] = self.preempt

    async def enter_batch(self, request: BatchedRequest) -> Never:
        """Keep the request of the call for a batch, and wait until the attempt of its run ends.

        Raises StoreError if it is not on disk.
        """
        # The scheduler is told before the first await: from then on the call needs nobody.
        self._phase = Phase.SETTLING
        try:
            await self._scheduler.enter_batch(request)
        except StoreError:
            self._phase = Phase.ADMITTED
            raise
        self._end()
        await self.wait(partial(self.scope.for_person, self.slot))
        raise AssertionError  # that wait only ends by being cancelled

    async def take_up(
        self, record: CallRecord, candidates: Sequence[Candidate], routes: tuple[Route, ...]
    ) -> None:
        """Go on with a call that went by batch. It stays *batched* until its end is recorded.

        Without an answer the attempt of the run ends.
        """
        self._candidates = {(each.model.name, each.model.lane): each for each in candidates}
        self._call, self._routes = record.call, routes
        self._admitted(record.call)
        self._phase = Phase.NEW
        await self.wait(partial(self.scope.replay_barrier, self.slot))
        self.batch_answer = self.scope.journal.batch_answers.get(self.slot.id)
        if self.batch_answer is None:
            await self.for_person()
        self._scheduler.adopt([record])
        self.begin()
        self._attempts, self._sent_at = 1, record.admitted_at or self._scheduler.now()

    # While it is sent

    async def record_sent(self) -> None:
        """Note that a request leaves now. Raises StoreTakenOver if it must not."""
        self._head, self.interruption.once = None, None
        await self._scheduler.sent(self.slot.id)
        # Only now: whoever is cancelled while this process asks whether it may send sent nothing.
        self._attempts += 1
        self._sent_at = self._scheduler.now()
        self._phase = Phase.SENT

    def record_head(self, status: int, headers: Mapping[str, str]) -> None:
        """Tell the scheduler what the head of an HTTP answer says, long before its body is here."""
        kind = headers.get("content-type", "json")
        is_garbled = status == 200 and not any(each in kind for each in _READABLE)
        self._head = ResponseHead(is_garbled)
        if (quota := self._quota) is not None:
            event = ProviderEvent.ANSWERED if status < 400 and not is_garbled else None
            address, known = self.candidate.model.address, self._scheduler
            if event is not None and (known.silent or address not in known.answered):
                known.note_answer(address)
            now, odd = self._scheduler.now(), list[Odd]()
            limits = self.candidate.provider.rate_limits(headers, now, odd)
            if status >= 400:
                retry_after_seconds(headers, now, odd)
            noted = self._noted(odd) if odd else ()
            signals = Observation(event=event, headers=limits, odd=noted, date=date(headers))
            self._scheduler.observed(self.slot.id, quota, signals)

    def record_repeat(self, head: tuple[int, Mapping[str, str]] | None) -> None:
        """Take in that a client sends once more in this attempt, although nobody admitted that.

        ``head``: status and headers of the answer to the request before. The client does not show
        a refusal that it takes for itself, so it is heard here.
        """
        if self._call is None:
            return
        self._scheduler.charge_request(self._call.quotas)
        now, model, quota = self._scheduler.now(), self.candidate.model.name, self._quota
        kind = type(self.candidate.client).__name__
        if head is not None and head[0] >= 400 and quota is not None:
            verdict = self.candidate.provider.judge(Failure(*head), self._attempts, now)
            event = EVENTS.get(verdict.error_class)
            until = now + verdict.pause_seconds if event is ProviderEvent.REFUSED else None
            if event is not None:
                self._scheduler.observed(self.slot.id, quota, Observation(until, event))
        if (model, kind) not in _said:
            _said.add((model, kind))
            _log.warning(_REPEATS, model, kind)

    def preempt(self) -> None:
        """Make room for a more urgent call, if the request is out. Called by the scheduler."""
        if self._phase is Phase.SENT:
            self.interruption.interrupt(Preempted())

    def expire(self, error: TimedOut) -> None:
        """End the attempt, whose time is over. Called by a timer while the request is out.

        A stream that rests with its agent awaits nothing: it is abandoned, so that its slot is
        free, and raises when it is asked for more.
        """
        if not self.interruption.interrupt(error):
            _cancel(self, error)

    # Its end

    async def done(self, answer: str, served: Served = NOTHING, odd: Sequence[Odd] = ()) -> None:
        """Record the answer. Returns when it is on disk and its turn came. Raises StoreError.

        ``odd``: fields of it that were out of range.
        """
        self.interruption.check()
        used, free, usage = None, 0, served.usage
        if usage is not None and self._call is not None:
            provider = self.candidate.provider
            characters = self.digest.characters
            self._scheduler.learn(self.slot.agent, self._call.model, characters, usage)
            used = provider.settled_tokens(usage)
            free = usage.cache_read_tokens if provider.caches_are_free else 0
        address = self.candidate.model.address
        if self._head is None and address not in self._scheduler.answered:
            self._scheduler.note_answer(address)
        # Its head, if it came by itself, told that the provider answers.
        event = None if self._head is not None else ProviderEvent.ANSWERED
        told = Observation(event=event, odd=self._noted(odd)) if event or odd else None
        outcome = Outcome(CallState.DONE, usage, answer, used_tokens=used, free_input_tokens=free)
        await self.settle(self._charged(outcome, served), told)

    async def failed(
        self, error: Exception, failure: Failure | None = None, served: Served = NOTHING
    ) -> None:
        """Queue the call again until it may be sent, if that can mend ``error``; else raise it.

        ``failure``: what came over the wire, if that is known; ``served``: what it told of itself.
        """
        self.interruption.check()
        if isinstance(error, Preempted):
            text = "made room for a more urgent call"
            await self._queue_again(Outcome(CallState.QUEUED, error=text, sent=False))
            return
        if isinstance(error, TimedOut) and error.setting == "call_timeout":
            self._overruns += 1
            if self._overruns > 1:
                error = TimedOut(error.model, error.setting, error.seconds, is_final=True)
        now, quota, head = self._scheduler.now(), self._quota, self._head
        provider = self.candidate.provider
        lane = self.candidate.model.lane
        is_flex = self.asks_for_flex or lane is ServiceLane.FLEX
        verdict = judged(
            error, provider, self._attempts, now=now, head=head, failure=failure, is_flex=is_flex
        )
        if verdict.error_class is ErrorClass.CAPACITY:
            self._attempts -= 1
            self._times_short += 1
            verdict = replace(verdict, pause_seconds=short_seconds(self._times_short))
        address = self.candidate.model.address
        if (patience := self._patience.get(address or "")) is not None:
            error, verdict = await patience.judged(
                error,
                verdict,
                heard(error, failure),
                has_head=head is not None,
                has_others=bool(self._elsewhere(patience.address)),
            )
        text, health = self._described(error), self._scheduler.provider_health()
        if verdict.error_class in (ErrorClass.TRANSIENT, ErrorClass.OVERLOADED):
            self._faults[quota] += quota not in health.unanswered
        if verdict.error_class is ErrorClass.ACCOUNT and quota and quota not in health.locked_out:
            _log.warning(_ALERT, quota, text)  # whoever asked next would get the same error
        step = next_step(
            verdict,
            text,
            now,
            head=head,
            quota=quota,
            routes=[each for each in self._routes if each.model != self.candidate.model.name],
            faults=self._faults[quota],
            is_own=self._is_own_fault(verdict, now, health),
            has_lane=self._call is not None and self._call.lane is ServiceLane.FLEX,
        )
        match step:
            case Retry(outcome, observation):
                # Nobody knows whether an answer that took too long was paid; one that nobody was
                # asked for was not.
                is_sent = head is not None or not is_unsent(error)
                is_lost, usd = isinstance(error, TimedOut), 0.0 if is_free(error) else None
                outcome = structs.replace(outcome, lost=is_lost, sent=is_sent, usd=usd)
                await self._queue_again(outcome, observation)
            case Refuse(refusal) | LockOut(refusal):
                await self.refused(error, refusal, served)
            case _:
                assert_never(step)

    def _be_patient(self, address: str, stated: float | None) -> None:
        """Wait for a server that may never answer no longer than its model's patience lasts."""
        from .first_contact import Patience

        if address not in self._patience:
            patience = Patience(self._scheduler, address, self.slot.id, stated, self._give_up)
            self._patience[address] = patience
            patience.begin()

    def _elsewhere(self, address: str) -> tuple[Route, ...]:
        """Return the routes of the call that lead to another server."""
        server_of = {key: each.model.address for key, each in self._candidates.items()}
        routes = self._routes
        return tuple([each for each in routes if server_of.get((each.model, each.lane)) != address])

    def _give_up(self, error: NoAnswer) -> None:
        """Go to another server than one that answers nobody, or end the call. Called by a timer."""
        if self._phase is not Phase.QUEUED:
            return
        if others := self._elsewhere(error.address):
            self._routes = others
            self._patience.pop(error.address).stop()
            self._scheduler.reroute(self.slot.id, others)
            self._scheduler.reestimates.pop(self.slot.id, None)  # it knows of all routes
        elif self.interruption.interrupt(error):
            # Whoever waits for its turn is cancelled by that, and looks here for what to record.
            end = Outcome(CallState.FAILED, error=described(error), sent=False)
            self._scheduler.ends[self.slot.id] = end

    def _described(self, error: Exception) -> str:
        """Say what became of an attempt; of one that reached nobody, where to and why not."""
        address = self.candidate.model.address
        if address is None or isinstance(error, NoAnswer) or not is_unsent(error):
            return described(error)
        from .first_contact import cause_of

        return scrubbed(f"no answer from {address}: {cause_of(error)}")

    async def again(self, error: Exception) -> None:
        """Queue the call again, to go at once: its request will be another one."""
        self.interruption.check()
        outcome = Outcome(CallState.QUEUED, error=described(error), sent=True, usd=0.0)
        await self._queue_again(outcome, Observation(event=ProviderEvent.ANSWERED))

    def _is_own_fault(self, verdict: Verdict, now: float, health: ProviderHealth) -> bool:
        """Whether a server has said the same so often that this request must be to blame.

        If it says so to other calls too, and answers none, it is down, for some time at least.
        """
        if verdict.said != self._said:
            self._said, self._said_since, self._said_times = verdict.said, now, 0
        self._said_times += 1
        if not verdict.said or self._said_times < MAX_ATTEMPTS:
            return False
        is_down = self._quota in health.unanswered and self._quota not in health.one_fails
        return not is_down or now - self._said_since >= SAME_FAULT_SECONDS

    async def refused(
        self, error: Exception, observation: Observation | None = None, served: Served = NOTHING
    ) -> Never:
        """Record ``error`` as what the agent gets, and raise it; but a cancelled call's reason."""
        self.interruption.check()
        odd = list[Odd]()
        if served.usage is None:
            served = structs.replace(served, usage=paid_usage(error, odd))
        if odd:
            observation = structs.replace(observation or Observation(), odd=self._noted(odd))
        is_lost, usage = isinstance(error, TimedOut), served.usage
        usd = 0.0 if usage is None and is_free(error) else None
        text = described(error)
        outcome = Outcome(CallState.FAILED, usage, error=text, lost=is_lost, usd=usd)
        await self.settle(self._charged(outcome, served), observation)
        raise error

    def _charged(self, outcome: Outcome, served: Served) -> Outcome:
        """Return an outcome with what the answer cost. It is never calculated again."""
        if served.usage is None:
            return outcome
        charge_of = self.candidate.model.charge_of
        charge = UNPRICED if charge_of is None else charge_of(served, self._sent_at)
        return structs.replace(
            outcome,
            usd=charge.usd,
            usd_source=charge.source,
            tier=served.tier,
            served_model=None if served.model == self.candidate.model.name else served.model,
        )

    async def settle(self, outcome: Outcome, observation: Observation | None = None) -> None:
        """Record how the call ended. Returns when it is on disk and the answer's turn has come."""
        about = self._about_quota(observation)
        if self.slot.is_unordered:
            self._phase = Phase.SETTLING
            await self._scheduler.settle(self.slot.id, outcome, about)
            self._end()
            return
        arrival = self.scope.number()
        # The scheduler is told before the first await, so from here on no cancellation undoes the
        # end. It may still come while the commit runs: then nobody will deliver the answer, and its
        # number must not hold up those after it.
        self._phase = Phase.SETTLING
        try:
            numbered = structs.replace(outcome, arrival=arrival)
            await self._scheduler.settle(self.slot.id, numbered, about)
            self.interruption.check()
        except BaseException:
            self.scope.tell(Skipped(arrival))
            raise
        self._phase = Phase.ENDED
        await self.wait(partial(self.scope.deliver, arrival, WorkEnded()))

    def abandon(self) -> None:
        """End the call if it has not ended. What it reserved stays spent: its request may be out.

        Awaits nothing. If the run is cut off, what becomes of the request is unknown.
        """
        if self._phase in (Phase.ADMITTED, Phase.SENT):
            is_unknown = self.scope.machine.is_interrupted or self.interruption.is_cut_off
            state = CallState.UNKNOWN if is_unknown else CallState.CANCELLED
            is_lost = isinstance(self.interruption.reason, TimedOut)
            self._scheduler.abandon(self.slot.id, Outcome(state, sent=True, lost=is_lost))
        self._end()

    def _end(self) -> None:
        for patience in self._patience.values():
            patience.stop()
        if self._phase not in (Phase.NEW, Phase.ENDED):
            self.scope.note_work(WorkEnded())
        self._phase = Phase.ENDED

    async def _queue_again(self, outcome: Outcome, observation: Observation | None = None) -> None:
        self._phase = Phase.QUEUED
        about = self._about_quota(observation)
        for patience in self._patience.values():
            patience.begin()
        self._admitted(
            await self.wait(partial(self._scheduler.retry, self.slot.id, outcome, about))
        )

    def _noted(self, odd: Sequence[Odd]) -> tuple[str, ...]:
        """Warn of odd fields, of each once in this process, and return them for the scheduler."""
        model = self.candidate.model.name
        for each in odd:
            if (model, each.field) not in _said:
                _said.add((model, each.field))
                _log.warning(_ODD, model, each.field)
        return tuple(f"{model}: {each.field}" for each in odd)

    @property
    def _quota(self) -> str | None:
        """The quota that answers of the provider speak of: the first one of the model."""
        quotas = () if self._call is None else self._call.quotas
        return quotas[0] if quotas else None

    def _about_quota(self, observation: Observation | None) -> Mapping[str, Observation]:
        quota = self._quota
        return {} if quota is None or observation is None else {quota: observation}

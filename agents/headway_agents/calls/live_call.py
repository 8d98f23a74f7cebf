"""One call on its way: queued, sent, settled. Law of this file: whatever is awaited, no slot leaks.

Theory of operation. A :class:`LiveCall` owes the scheduler one end for every admission. It pays by
settling, by queueing again, or, if it is left in any other way, by abandoning, which needs no
await and so works while everything is being cancelled.

A call is cancelled from outside by AutoGen's token and by the end of its run. Whoever waits is
then interrupted once, as ``asyncio.timeout`` does it, not again and again as by an anyio scope:
AutoGen's clients put a request into a task of its own, and a second blow would hit its clean-up
and lose the connection's place in the pool. A stream that rests between two chunks has nobody to
interrupt: it is abandoned on the spot and finds out when it goes on.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Never, TypeVar

import anyio
from autogen_core import CancellationToken

from headway_scheduler.errors import ProviderError
from headway_scheduler.model.calls import Call, Outcome, Route, Usage
from headway_scheduler.model.quotas import Observation, ProviderEvent
from headway_scheduler.model.states import CallState
from headway_scheduler.providers import OTHER, ErrorClass, Failure, Provider, Verdict

from ..scope import Place, RunScope
from .errors import judged, paid_usage, told

T = TypeVar("T")

Price = Callable[[Usage], float]
"""Dollars for usage."""
_log = logging.getLogger("headway")


@dataclass(frozen=True, slots=True)
class Way:
    """What the answers of a model mean, and what they cost, where dollars are counted."""

    provider: Provider = OTHER
    price: Price | None = None


MAX_ATTEMPTS = 8
"""Faults of one call before its error goes to the agent, while the provider answers others. One
that answers nobody is waited for, and so is being rate limited."""

_NEWS = {
    ErrorClass.RATE_LIMITED: ProviderEvent.REFUSED,
    ErrorClass.OVERLOADED: ProviderEvent.OVERLOADED,
    ErrorClass.TRANSIENT: ProviderEvent.FAILED,
    ErrorClass.ACCOUNT: ProviderEvent.LOCKED_OUT,
}
_READABLE = ("json", "event-stream")


@asynccontextmanager
async def attached(
    scope: RunScope, place: Place, token: CancellationToken | None = None
) -> AsyncIterator["LiveCall"]:
    """Enter with a call that is not queued yet. Left unsettled after that, it is abandoned."""
    live = LiveCall(scope, place)
    scope.attach(place.id, live.cancel)
    if token is not None:
        token.add_callback(partial(live.cancel, asyncio.CancelledError("cancelled by its token")))
    try:
        yield live
    except Exception as error:
        scope.failed(error)
        raise
    finally:
        live.abandon()
        scope.service.on_preempt(place.id, None)
        scope.detach(place.id)


class Preempted(Exception):
    """A call in flight makes room for a more urgent one; nobody but this file sees it."""


class LiveCall:
    """A call of an agent. It is recorded already, or else acquired, sent, and done or failed.

    Failed may mean that it goes again.
    """

    def __init__(self, scope: RunScope, place: Place) -> None:
        self._scope = scope
        self._service = scope.service
        self.place = place
        self._call: Call | None = None
        self._ways: Mapping[str, Way] = {}
        self._way = Way()
        self._routes: tuple[Route, ...] = ()
        self._owes_an_end = False
        self._attempts = 0
        self._faults = 0
        self._is_heard = self._is_garbled = False
        self._is_out = self._is_preempted = False
        self._reason: BaseException | None = None
        self._waiter: asyncio.Task[object] | None = None
        self._is_begun = False
        self._is_cut_off = False

    async def recorded(self) -> str | None:
        """Return the recorded answer when it is its turn; None if there is none.

        Raises ProviderError with the text of a recorded failure.
        """
        record = self.place.record
        if record is None or not self.place.is_answered:
            return None
        await self.wait(partial(self._scope.delivered, self.place))
        if record.state is CallState.FAILED:
            raise ProviderError(record.error or "the call failed")
        assert record.answer is not None
        return record.answer

    async def acquire(
        self, call: Call, ways: Mapping[str, Way] | None = None, routes: tuple[Route, ...] = ()
    ) -> None:
        """Wait until the call may be sent. ``call`` is how it is written if it has no row yet.

        It goes on one of its ``routes``, if it has any; ``ways`` says how each model is asked.
        Raises what ``LocalScheduler.acquire`` and the scope's ``may_pay`` do.
        """
        self._call, self._ways, self._routes = call, ways or {}, routes
        await self.wait(partial(self._scope.door, self.place))
        if call.is_paid:
            self._scope.may_pay(call)
        self._scope.begin()
        self._is_begun = True
        self._admitted(await self.wait(partial(self._queued, call)))

    async def for_person(self) -> Never:
        """Wait for a person who is not there; the attempt ends meanwhile."""
        await self.wait(partial(self._scope.door, self.place))
        await self.wait(partial(self._scope.for_person, self.place))
        raise AssertionError

    def sent(self) -> None:
        """Note that an attempt leaves now."""
        self._attempts += 1
        self._is_heard = self._is_garbled = self._is_preempted = False
        self._is_out = True
        self._service.sent(self.place.id)

    def told(self, status: int, headers: Mapping[str, str]) -> None:
        """Take in the head of an HTTP answer as soon as it is there."""
        kind = headers.get("content-type", "json")
        self._is_garbled = status == 200 and not any(each in kind for each in _READABLE)
        self._is_heard = True
        news = ProviderEvent.ANSWERED if status < 400 and not self._is_garbled else None
        if (quota := self._quota) is not None:
            told = self._way.provider.rate_limits(headers, self._service.now())
            self._service.observed(self.place.id, quota, Observation(event=news, headers=told))

    async def wait(self, step: Callable[[], Awaitable[T]]) -> T:
        """Await ``step()``, but raise the reason once the call is cancelled."""
        if self._reason is not None:
            raise self._reason
        task = asyncio.current_task()
        assert task is not None  # a coroutine that runs is in a task
        others = task.cancelling()
        self._waiter = task
        try:
            return await step()
        except asyncio.CancelledError:
            reason = self._interruption()
            if reason is None or task.uncancel() > others:
                # The task itself is being cancelled. A run without a team asks in the task that
                # executes it, and is cut off here before anybody can close its scope.
                self._is_cut_off = anyio.current_effective_deadline() == -math.inf
                raise
            raise reason from None
        finally:
            self._waiter = None

    def _interruption(self) -> BaseException | None:
        """What interrupted a wait, if it was one of ours. A preemption does it once."""
        is_preempted, self._is_preempted = self._is_preempted, False
        return Preempted() if self._reason is None and is_preempted else self._reason

    async def done(self, answer: str, usage: Usage | None = None) -> None:
        """Record the answer; returns when it is on disk and may be delivered. Raises StoreError."""
        self._is_out = False
        usd = None if usage is None or self._way.price is None else self._way.price(usage)
        used = None if usage is None else self._way.provider.settled_tokens(usage)
        if self._call is not None and usage is not None:
            agent, model = self.place.agent, self._call.model
            self._service.learn(agent, model, self.place.taken.characters, usage)
        signals = Observation() if self._is_heard else Observation(event=ProviderEvent.ANSWERED)
        outcome = Outcome(CallState.DONE, usage, answer, used_tokens=used, usd=usd)
        await self._arrive(outcome, signals)

    async def failed(self, error: Exception) -> None:
        """Return when the call may be sent again, if waiting can mend ``error``; else raise it."""
        self._is_out = False
        if self._reason is not None:
            raise self._reason
        if isinstance(error, Preempted):
            await self._made_room()
            return
        now = self._service.now()
        verdict = judged(error, self._way.provider, self._attempts, now)
        if verdict.kind is ErrorClass.FINAL and self._is_garbled:
            # Clients stumble over a page that is no JSON, each in its own way.
            verdict = self._way.provider.judge(Failure(), self._attempts, now)
        if verdict.kind in (ErrorClass.TRANSIENT, ErrorClass.OVERLOADED):
            self._faults += not (self._quota and self._service.is_left_alone(self._quota))
        if verdict.kind is ErrorClass.ACCOUNT:
            self._alert(error)
            if not self._routes:
                await self.refused(
                    error, Observation(event=ProviderEvent.LOCKED_OUT, error=told(error))
                )
        if verdict.kind is ErrorClass.FINAL:
            await self.refused(
                error, Observation(event=ProviderEvent.ANSWERED) if self._is_heard else None
            )
        if self._faults >= MAX_ATTEMPTS:
            await self.refused(error, Observation(event=_NEWS[verdict.kind]))
        await self._again(verdict, now, told(error))

    async def refused(self, error: Exception, signals: Observation | None = None) -> Never:
        """Record ``error`` as what the agent gets, and raise it; not if the call was cut off."""
        if self._reason is not None:
            raise self._reason
        usage = paid_usage(error)
        outcome = Outcome(CallState.FAILED, usage=usage, error=told(error))
        await self._arrive(outcome, signals)
        raise error

    def _alert(self, error: Exception) -> None:
        """Say that a quota stops: whoever asked next would get the same error."""
        if self._quota is not None and not self._service.is_stopped(self._quota):
            alert = "quota %r is stopped, its calls wait: %s: mend it, then `headway limits resume`"
            _log.warning(alert, self._quota, told(error))

    def preempt(self) -> None:
        """Give the slot to a more urgent call, if the request is out and nothing came of it yet."""
        if self._is_out and self._reason is None and self._waiter is not None:
            self._is_out, self._is_preempted = False, True
            self._waiter.cancel()

    async def _made_room(self) -> None:
        self._owes_an_end = False
        outcome = Outcome(CallState.QUEUED, error="made room for a more urgent call", sent=False)
        retry = partial(self._service.retry, self.place.id, outcome)
        self._admitted(await self.wait(retry))

    def cancel(self, reason: BaseException) -> None:
        """Have the call end with ``reason`` at whatever it awaits, now or next."""
        if self._reason is not None:
            return
        self._reason = reason
        if self._waiter is not None:
            self._waiter.cancel()
        else:
            self.abandon()

    def abandon(self) -> None:
        """Give the slot back if it is still owed; what was reserved stays spent.

        If the run is cut off, nobody knows what becomes of the request.
        """
        if self._owes_an_end:
            self._owes_an_end = False
            is_unknown = self._scope.is_interrupted or self._is_cut_off
            state = CallState.UNKNOWN if is_unknown else CallState.CANCELLED
            self._service.abandon(self.place.id, Outcome(state, sent=True))
        self._end()

    def _end(self) -> None:
        if self._is_begun:
            self._is_begun = False
            self._scope.end()

    @property
    def model(self) -> str:
        """The model that the call goes to."""
        assert self._call is not None  # it was acquired
        return self._call.model

    def _admitted(self, call: Call) -> None:
        if self._call is not None and call.model != self._call.model:
            _log.info("call %s goes to model %r, not %r", call.id, call.model, self._call.model)
        self._call = call
        self._way = self._ways.get(call.model, self._way)
        self._owes_an_end = True
        self._service.on_preempt(call.id, self.preempt)

    async def _queued(self, call: Call) -> Call:
        known = self._scope.known_links
        prompt = self.place.taken.unknown(known)
        if self.place.record is None:
            granted = await self._service.acquire(call, prompt, self._routes)
        else:
            granted = await self._service.reacquire(self.place.record, self._routes)
        known.update(link.hash for link in prompt.links)
        return granted

    @property
    def _quota(self) -> str | None:
        """The quota that the provider's answers speak of: the first one of the model."""
        quotas = () if self._call is None else self._call.quotas
        return quotas[0] if quotas else None

    def _signals(self, signals: Observation) -> Mapping[str, Observation]:
        return {} if self._quota is None else {self._quota: signals}

    async def _arrive(self, outcome: Outcome, told: Observation | None = None) -> None:
        # The event is posted before the first await, so from here the service ends the call.
        self._owes_an_end = False
        signals = None if told is None else self._signals(told)
        if self.place.is_inside:
            self._end()
            await self._service.settle(self.place.id, outcome, signals)
            return
        arrival = self._scope.turns.draw()
        try:
            await self._service.settle(self.place.id, replace(outcome, arrival=arrival), signals)
        except BaseException:
            self._scope.turns.skip(arrival)
            raise
        finally:
            self._end()
        await self.wait(partial(self._scope.turn, arrival))

    async def _again(self, verdict: Verdict, now: float, error: str) -> None:
        until = now + verdict.pause_seconds
        news = _NEWS[verdict.kind]
        if news is ProviderEvent.REFUSED and self._quota is not None:
            # The quota pauses, and with it all that would be refused as well. Requests stay spent.
            outcome = Outcome(CallState.QUEUED, error=error, refused=True)
            signals = self._signals(Observation(until, news))
        else:
            outcome = Outcome(CallState.QUEUED, error=error, not_before=until)
            signals = self._signals(Observation(event=news, error=error))
        self._owes_an_end = False
        retry = partial(self._service.retry, self.place.id, outcome, signals)
        self._admitted(await self.wait(retry))

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
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

from autogen_core import CancellationToken
from autogen_core.models import CreateResult

from headway_scheduler.model import Call, Outcome, Signals
from headway_scheduler.providers.openai import Kind, Verdict
from headway_scheduler.service import Service
from headway_scheduler.states import CallState

from .failures import judged, paid_usage, told
from .identity import RunScope
from .wire import dump_result, usage_of

T = TypeVar("T")
MAX_ATTEMPTS = 8
"""Transient faults of one call before its error goes to the agent. With the pauses of ``judge``
that is two minutes of a provider being down. Being rate limited is waiting and has no limit."""


@asynccontextmanager
async def admitted(
    scope: RunScope, call: Call, token: CancellationToken | None
) -> AsyncIterator["LiveCall"]:
    """Queue ``call`` and enter when it may be sent. Left unsettled, it is abandoned."""
    live = LiveCall(scope.service, call)
    scope.attach(call.id, live.cancel)
    if token is not None:
        token.add_callback(partial(live.cancel, asyncio.CancelledError("cancelled by its token")))
    try:
        await live.acquire()
        yield live
    except Exception as error:
        scope.failed(error)
        raise
    finally:
        live.abandon()
        scope.detach(call.id)


class LiveCall:
    """An admitted call. It is sent, and then done or failed; failed may mean that it goes again."""

    def __init__(self, service: Service, call: Call) -> None:
        self._service = service
        self._call = call
        self._owes_an_end = False
        self._attempts = 0
        self._faults = 0
        self._reason: BaseException | None = None
        self._waiter: asyncio.Task[object] | None = None

    async def acquire(self) -> None:
        """Wait until the call may be sent. Raises what ``Service.acquire`` does."""
        await self.wait(partial(self._service.acquire, self._call))
        self._owes_an_end = True

    def sent(self) -> None:
        """Note that an attempt leaves now."""
        self._attempts += 1
        self._service.sent(self._call.id)

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
            if self._reason is None or task.uncancel() > others:
                raise  # the task itself is being cancelled
            raise self._reason from None
        finally:
            self._waiter = None

    async def done(self, result: CreateResult) -> None:
        """Record the answer; on disk when this returns. Raises StoreError."""
        usage, answer = usage_of(result.usage), dump_result(result)
        await self._settle(Outcome(CallState.DONE, usage=usage, answer=answer))

    async def failed(self, error: Exception) -> None:
        """Return when the call may be sent again, if waiting can mend ``error``; else raise it."""
        if self._reason is not None:
            raise self._reason
        now = self._service.now()
        verdict = judged(error, self._attempts, now)
        self._faults += verdict.kind is Kind.TRANSIENT
        if verdict.kind is Kind.FINAL or self._faults >= MAX_ATTEMPTS:
            usage = paid_usage(error)
            await self._settle(Outcome(CallState.FAILED, usage=usage, error=told(error)))
            raise error
        await self._again(verdict, now, told(error))

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
        """Give the slot back if it is still owed; what was reserved stays spent."""
        if self._owes_an_end:
            self._owes_an_end = False
            self._service.abandon(self._call.id, Outcome(CallState.CANCELLED, sent=True))

    async def _settle(self, outcome: Outcome) -> None:
        # The event is posted before the first await, so from here the service ends the call.
        self._owes_an_end = False
        await self._service.settle(self._call.id, outcome)

    async def _again(self, verdict: Verdict, now: float, error: str) -> None:
        until, quotas = now + verdict.pause_seconds, self._call.quotas
        if verdict.kind is Kind.RATE_LIMITED and quotas:
            # The quota pauses, and with it all that would be refused as well. Requests stay spent.
            outcome = Outcome(CallState.QUEUED, error=error, used_tokens=0)
            signals = dict.fromkeys(quotas, Signals(pause_until=until))
        else:
            outcome, signals = Outcome(CallState.QUEUED, error=error, not_before=until), {}
        self._owes_an_end = False
        await self.wait(partial(self._service.retry, self._call.id, outcome, signals))
        self._owes_an_end = True

"""The scheduler of the process that leads. Law: what is said to hold is on disk."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping

from ..core import inspection
from ..core.policy import Policy
from ..core.views import Explanation, ProviderHealth, Statistics
from ..model import changes
from ..model.batch import Answer, Batch
from ..model.calls import CallRecord, Priority
from ..model.changes import Change, HoldState
from ..model.quotas import Observation, Quota
from ..ports import CONTACT_SECONDS, Clock, Presence, Store
from ..protocol.messages import ApplyChange, MarkSent, Message, Observe, SetCallPriority
from .client import Iterates, PumpedClient, SessionClient
from .clock import system_clock
from .pending import Callers, Pending, answer_here
from .pump import Pump
from .workers import Workers

CLOSING_SECONDS = 5.0
"""How long closing waits for a commit. One that takes longer may stand all the same."""


class LocalScheduler(PumpedClient):
    """Schedules the calls of this process, which leads. Use as an async context manager.

    ``on_change`` is called after every commit, for live views. One that does not ``admit`` yet
    gives no grants before :meth:`admit_from_here`. With a ``worker``, this process executes runs as
    that worker: their calls name it, are asked for by :attr:`session`, and outlive this scheduler.
    """

    presence: Presence | None = None
    """The presence of the worker, once it is open."""

    def __init__(
        self,
        store: Store,
        quotas: Iterable[Quota],
        *,
        policy: Policy | None = None,
        clock: Clock | None = None,
        on_change: Callable[[Batch], None] = lambda batch: None,
        admits: bool = True,
        worker: str | None = None,
    ) -> None:
        super().__init__(clock or system_clock())
        self._closing_seconds = CLOSING_SECONDS
        of_calls = self._callers if worker is None else Callers(self._callers.wakeup)
        self.session: SessionClient = SessionClient(self.now, self, of_calls, worker)
        """The client that the runs of this process use, whichever process leads."""
        self.workers: Workers = Workers(store, self.now, self._callers)
        self._pump = Pump(
            store,
            quotas,
            policy or Policy(),
            self.now,
            self.session,
            self._callers,
            workers=self.workers.listed,
            on_change=on_change,
            admits=admits,
        )
        self.waiting_runs: Collection[str] = self._pump.awaited.keys()
        """The runs under way that wait for another run, as they are at any time."""

    async def _begin(self) -> Iterates:
        await self.workers.begin()
        await self._pump.begin()
        return self._pump

    def admit_from_here(self) -> None:
        """Give grants from now on."""
        self._pump.admits = True
        self._callers.wake()

    # What callers ask

    async def sent(self, call_id: str) -> None:
        """Note that the request leaves now. Written with the next commit.

        The only in-memory change that may precede its commit. Safe: after a crash, ``admitted`` and
        ``sent`` both become ``unknown``.
        """
        presence = self.presence
        if presence is not None and time.monotonic() - presence.contact_at > CONTACT_SECONDS:
            # This process may have been stopped until another one leads, and took its runs.
            await presence.confirm()
        now = self.now()
        self._pump.core.handle(MarkSent(call_id, now), now)

    def observed(self, call_id: str, quota: str, signals: Observation) -> None:
        """Take in what the head of an answer told of a quota. Written with the next commit.

        Nobody is woken for it, unless everybody waits for a sign of life of the provider.
        """
        callers = self.session.callers
        if callers.is_closed:
            return
        # Where the end of the call is told, which comes after this and must not pass it: what an
        # answer tells is compared with what its call holds.
        callers.pending.append(Pending((Observe(call_id, {quota: signals}),)))
        state = self._pump.core.state.lanes.quotas.get(quota)
        if state is not None and state.breaker.pauses:
            self._callers.wake()

    def provider_health(self) -> ProviderHealth:
        """Which quotas' providers do not answer as they should."""
        return inspection.provider_health(self._pump.core.state)

    async def bump(self, call_id: str, priority: Priority) -> None:
        """Change the class of a queued call. Raises CallerError if it does not wait, StoreError."""
        await self._callers.tell(SetCallPriority(call_id, priority), answer_here())

    async def set_limits(self, quota: str, limits: Quota | None) -> Change:
        """Change a quota's limits, or go back to the configured ones; on disk when this returns.

        Raises UnknownQuota or StoreError.
        """
        return await self._change(changes.limits(quota, limits, self.now()))

    async def set_weight(self, team: str, weight: float | None) -> Change:
        """Change a team's share, or go back to the configured one; on disk when this returns.

        Raises CallerError or StoreError.
        """
        return await self._change(changes.weight(team, weight, self.now()))

    async def resume_quota(self, quota: str) -> Change:
        """Let one call try of a quota whose account was locked out; on disk when this returns.

        Raises UnknownQuota or StoreError.
        """
        return await self._change(changes.resume(quota, self.now()))

    async def set_hold(self, target: str, state: HoldState) -> Change:
        """Open, pause or drain all, a class or a model; on disk when this returns.

        Raises CallerError or StoreError.
        """
        change = changes.hold(target, state, self._pump.core.state.next_seq, self.now())
        return await self._change(change)

    async def write(self, batch: Batch, *messages: Message) -> None:
        """Write rows that the core knows nothing of, with what ``messages`` change, in one commit.

        Raises StoreError.
        """
        await self._callers.written(Pending(messages, batch))

    async def answer(self, answer: Answer, *, aside: str = "") -> None:
        """Say what became of a request, unless a commit has said it. Raises StoreError.

        ``aside``: why the request is kept for people to look at; empty for one that is not.
        """
        kept = ((answer.request_id, aside),) if aside else ()
        await self._callers.written(Pending((), Batch(answers=(answer,), set_aside=kept)))

    async def begin_with(self, *requests: tuple[int, int]) -> None:
        """Write down, for each of these requests, how many leaders have begun with it by now."""
        await self._callers.written(Pending((), Batch(tried=requests)))

    async def _change(self, change: Change) -> Change:
        await self._callers.tell(ApplyChange(change), answer_here(change))
        return change

    def _answer_all(self, error: Exception) -> None:
        """Let nobody wait any more; callers of the session only if that is closed as well."""
        lost = self._pump.lost
        self._callers.complete_all(lost or error)
        if self.session.callers.is_closed:
            self.session.callers.complete_all(lost or error)

    # Questions

    def explain(self, call_id: str) -> Explanation | None:
        """Return why a queued call waits; None if it is not live."""
        return inspection.explain(self._pump.core.state, call_id, self.now())

    def explain_first(self, most: int) -> Mapping[tuple[str, ...], Explanation]:
        """Return why the first call of each line waits, by its quotas; of ``most`` lines."""
        return inspection.explain_first(self._pump.core.state, self.now(), most)

    def queued(self) -> list[CallRecord]:
        """Every queued call, next one first. Read only."""
        return inspection.queued(self._pump.core.state)

    def statistics(self) -> Statistics:
        """How many wait and are in flight, and every gauge."""
        return inspection.statistics(self._pump.core.state, self.now())

"""The process that leads: it admits calls, carries out letters, and says who executes what.

Law of this file: what comes in letters is carried out once, and no run is executed twice.

Theory of operation. Letters are taken in the order in which they came. What workers tell of their
calls (parcels) goes to the scheduler at once, many in one commit; a verb is carried out by itself,
and only what waits for the end of a run lets others pass. What a letter changes and its answer are
one commit. Cancelling or pausing a run that is being executed is two, the run's end and the answer;
between them a kill leaves a letter whose run has ended, and ending it again changes nothing. If the
database cannot be written, letters wait.

A new leader reads what was told before, gives the runs of dead workers back, and only then admits.
A worker is dead when its lock is free, or when it has touched its file for long no more. Runs are
given to workers by a row that names the worker, in the commit that tells it.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from headway_scheduler.backends.sqlite.leadership import (
    WORKER_SILENT_SECONDS,
    Stamp,
    Vigil,
    holder,
    sweep,
    worker_lock,
)
from headway_scheduler.backends.sqlite.listener import Lookout
from headway_scheduler.backends.sqlite.mailbox import Inbox
from headway_scheduler.backends.sqlite.notifier import Bell, bell_of, ring
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.core.policy import Policy
from headway_scheduler.errors import (
    HeadwayError,
    InternalError,
    SchedulerClosed,
    StoreError,
    StoreTakenOver,
)
from headway_scheduler.model.batch import Answer, Batch, Letter
from headway_scheduler.model.runs import Run, Worker
from headway_scheduler.model.states import RunState
from headway_scheduler.protocol.codec import dump, load_request, refused
from headway_scheduler.protocol.commands import (
    Command,
    ExecuteRun,
    LongRunning,
    Order,
    RetireWorker,
)
from headway_scheduler.protocol.envelopes import ASKER, WORKER, Done, MessageBatch
from headway_scheduler.runtime.local import LocalScheduler, let_go
from headway_scheduler.runtime.pending import Completion, answering

from ..config import Config
from ..runs.handle import RunHandle
from ..runs.stopped import StoppedRuns
from ..workflows import is_portable
from .leader_commands import LeaderCommands

RETRY_SECONDS = 1.0
"""How long a letter waits that could not be answered, because the database cannot be written."""

POLL_SECONDS = 0.25
"""How often it is looked for letters although no bell has rung."""

VIGIL_SECONDS = 0.2
"""How often it is looked whether workers live."""

WAITING = (RunState.QUEUED, RunState.INTERRUPTED)
_log = logging.getLogger("headway")


@dataclass(frozen=True, slots=True)
class LocalWorker:
    """Who executes runs in the process that leads: ``handles`` are those that are executed.

    ``on_order`` is told which are to be; ``on_change`` is called after each commit.
    """

    worker: Worker
    handles: Mapping[str, RunHandle]
    on_order: Callable[[Order], None]
    on_change: Callable[[Batch], None]


class Leader:
    """Leads while it is open: an async context manager. Raises StoreBusy if another process does.

    ``local_worker``: who executes runs beside it, not through letters.
    """

    def __init__(
        self,
        config: Config,
        frozen: Stamp | None = None,
        local_worker: LocalWorker | None = None,
    ) -> None:
        self._local_worker = local_worker
        self.store = SqliteStore(config.database, frozen=frozen)
        policy = Policy(weights=config.weights)
        self.service = LocalScheduler(
            self.store,
            config.quotas.values(),
            policy=policy,
            clock=lambda: self.store.clock(),
            on_change=self._committed,
            admits=False,
        )
        stopped = StoppedRuns(self.service, self.store)
        own = None if local_worker is None else local_worker.worker.id
        handles = {} if local_worker is None else local_worker.handles
        self.commands = LeaderCommands(config, self.service, self.store, stopped, handles, own)
        self._adopted: set[tuple[str, str]] = set()
        self._vigils: dict[str, Vigil] = {}
        self._runs_changed = anyio.Event()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Open the database, hear everybody, give back the runs of the dead, and admit.

        Raises StoreError. Its block ends with StoreTakenOver, in a group, once another one leads.
        """
        try:
            await self._open()
        except BaseExceptionGroup as group:
            raise_store_error(group)
            raise
        return self

    async def _open(self) -> None:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.store)
            await stack.enter_async_context(self.service)
            inbox = await to_thread.run_sync(Inbox, self.store.path, self.store.epoch)
            stack.callback(inbox.close)
            bell = Bell(bell_of(self.store.path))
            stack.callback(bell.close)
            desk = _Desk(inbox, bell, self.service, self.commands)
            await desk.take_all()
            await self._bury()
            if self._local_worker is not None:
                await self.service.enlist(self._local_worker.worker)
            self.service.admit_from_here()
            group = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(group.cancel_scope.cancel)
            group.start_soon(desk.take, group, name="headway letters")
            group.start_soon(self._watch_over, name="headway workers")
            group.start_soon(self._assign_runs, name="headway runs")
            self._stack = stack.pop_all()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return await self._stack.__aexit__(kind, error, trace)

    def _committed(self, batch: Batch) -> None:
        self.commands.noticed(batch)
        for mail in batch.mail:
            ring(bell_of(self.store.path, mail.worker))
        if batch.left:
            known = self.service.workers.keys() - set(batch.left)
            self._adopted = {each for each in self._adopted if each[0] in known}
        if batch.joined or batch.left or any(run.worker is None for run in batch.runs):
            self._look_for_runs()
        if self._local_worker is not None:
            self._local_worker.on_change(batch)

    # Workers

    async def _bury(self) -> None:
        """Give back what the dead had, and those had whom nobody knows any more."""
        path = self.store.path
        for worker in list(self.service.workers):
            if await to_thread.run_sync(holder, worker_lock(path, worker)) is None:
                await self.service.lose(worker)
        running = await self.store.runs({RunState.RUNNING})
        for run in {run.id: run for run in (*running, *await self.store.assigned())}.values():
            if run.worker not in self.service.workers:
                await self.service.save_run(let_go(run))
        await to_thread.run_sync(sweep, path, list(self.service.workers))

    async def _watch_over(self) -> None:
        """Have the runs of workers that die taken from them, as long as this process leads."""
        own = None if self._local_worker is None else self._local_worker.worker.id
        dead: set[str] = set()
        while True:
            await anyio.sleep(VIGIL_SECONDS)
            others = [key for key in self.service.workers if key != own and key not in dead]
            self._vigils = {key: self._vigils.get(key) or self._vigil(key) for key in others}
            for worker, vigil in self._vigils.items():
                # By a letter: what it told before it died comes first.
                retire = dump(RetireWorker(worker))
                if vigil.may_lead() and await to_thread.run_sync(self._post, retire):
                    dead.add(worker)

    def _vigil(self, worker: str) -> Vigil:
        return Vigil(worker_lock(self.store.path, worker), WORKER_SILENT_SECONDS)

    def _post(self, event: str) -> bool:
        """Write a letter to this process; whether it could be."""
        try:
            with closing(Inbox(self.store.path)) as inbox:
                inbox.post(f"{ASKER}leader", event)
        except StoreError:
            return False
        return True

    # Runs

    async def _assign_runs(self) -> None:
        """Give runs that wait to workers that have room, whenever either changes."""
        while True:
            changed = self._runs_changed
            try:
                await self._assign()
            except StoreTakenOver:
                raise
            except StoreError:
                await anyio.sleep(RETRY_SECONDS)
                continue
            await changed.wait()

    def _look_for_runs(self) -> None:
        self._runs_changed.set()
        self._runs_changed = anyio.Event()

    async def _assign(self) -> None:
        async with self.commands.claims:
            busy = Counter(run.worker for run in await self.store.assigned())
            workers = self.service.workers
            room = {key: max(0, worker.slots - busy[key]) for key, worker in workers.items()}
            # Most often the first runs can be given. Any number may be passed over: those that are
            # given, that no worker has the workflow of, or that were adopted once.
            limit = sum(room.values()) + busy.total()
            while any(room.values()):
                runs = await self.store.runs(WAITING, limit=limit, urgent_first=True)
                for run in runs:
                    able = [key for key in room if room[key] and self._may_take(workers[key], run)]
                    if run.worker is None and run.id not in self.commands.handles and able:
                        worker = max(able, key=lambda key: room[key])
                        await self._give(run, worker)
                        room[worker] -= 1
                if len(runs) < limit:
                    return
                limit *= 2

    def _may_take(self, worker: Worker, run: Run) -> bool:
        if not is_portable(run) and run.workflow not in worker.workflows:
            return False
        if run.state is RunState.QUEUED:
            return True
        # Once: it may stop where its workflow changed, and would again.
        return worker.takes_interrupted and (worker.id, run.id) not in self._adopted

    async def _give(self, run: Run, worker: str) -> None:
        taken = replace(run, worker=worker)
        order = ExecuteRun(taken)
        if self._local_worker is not None and worker == self._local_worker.worker.id:
            await self.service.save_run(taken)
            self._local_worker.on_order(order)
        else:
            await self.service.order(worker, order, taken)
        if run.state is RunState.INTERRUPTED:
            self._adopted.add((worker, run.id))


class _Desk:
    """Takes letters. Until :meth:`take` it does so only when it is asked to."""

    def __init__(
        self, inbox: Inbox, bell: Bell, service: LocalScheduler, commands: LeaderCommands
    ) -> None:
        self._inbox = inbox
        self._bell = bell
        self._service = service
        self._commands = commands
        self._after = 0
        self._is_over = False
        self._come = anyio.Event()
        self._letters: deque[Letter] = deque()
        self._loop = asyncio.get_running_loop()

    async def take_all(self) -> None:
        """Take the letters that wait, before anything is executed here. Raises StoreError."""
        while letters := await to_thread.run_sync(self._inbox.waiting, self._after):
            self._after = letters[-1].id
            await self._take(letters, None)

    async def take(self, group: TaskGroup) -> None:
        """Take letters as they come, until cancelled; in ``group`` those that may take long."""
        lookout = Lookout(self._bell, self._look, POLL_SECONDS)
        lookout.start()
        try:
            while True:
                await self._come.wait()
                self._come = anyio.Event()
                letters = list(self._letters)
                self._letters.clear()
                await self._take(letters, group)
                if self._is_over:
                    self._inbox.waiting(self._after)  # raises
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(lookout.stop)

    # In the thread that looks

    def _look(self, has_rung: bool) -> None:
        if not self._inbox.has_changed():
            return
        try:
            while letters := self._inbox.waiting(self._after):
                self._after = letters[-1].id
                self._loop.call_soon_threadsafe(self._arrived, letters)
        except StoreTakenOver:
            self._is_over = True
            self._loop.call_soon_threadsafe(self._arrived, ())
            raise
        except StoreError:
            self._inbox.look_again()
            raise

    # On the loop

    def _arrived(self, letters: Sequence[Letter]) -> None:
        self._letters += letters
        self._come.set()

    async def _take(self, letters: Sequence[Letter], group: TaskGroup | None) -> None:
        """Take requests in their order; only what waits for the end of a run lets others pass."""
        batches: list[tuple[Letter, MessageBatch | InternalError]] = []
        for each in letters:
            match request := _read(each):
                case MessageBatch():
                    batches.append((each, request))
                case InternalError() if each.sender.startswith(WORKER):
                    batches.append((each, request))
                case _:
                    await self._deliver(batches, group is None)
                    batches = []
                    await self._answer(each, request, group)
        await self._deliver(batches, group is None)

    async def _answer(
        self, letter: Letter, command: Command | InternalError, group: TaskGroup | None
    ) -> None:
        if group is None:
            await self._settle(letter, command)
        elif isinstance(command, LongRunning):
            group.start_soon(self._settle_at_last, letter, command)
        else:
            await self._settle_at_last(letter, command)

    async def _deliver(
        self, batches: list[tuple[Letter, MessageBatch | InternalError]], is_first: bool
    ) -> None:
        """Hand batches over, all at once; if they cannot be written, again from the first one."""
        while batches:
            try:
                completions = [self._delivered(letter, batch) for letter, batch in batches]
                for completion in completions:
                    await completion.wait()
                    batches = batches[1:]
            except SchedulerClosed:
                return  # whoever admits next takes them
            except StoreTakenOver:
                raise
            except StoreError:
                if is_first:
                    raise
                await anyio.sleep(RETRY_SECONDS)

    def _delivered(self, letter: Letter, batch: MessageBatch | InternalError) -> Completion:
        if isinstance(batch, MessageBatch):
            return self._service.deliver(letter.id, batch)
        _log.error("a batch of worker %s cannot be read: %s", letter.sender, batch)
        return self._service.deliver_unreadable(letter.id, letter.sender, str(batch))

    async def _settle(self, letter: Letter, command: Command | InternalError) -> None:
        await self._service.answer(Answer(letter.id, await self._outcome(letter, command)))

    async def _settle_at_last(self, letter: Letter, command: Command | InternalError) -> None:
        while True:
            try:
                await self._settle(letter, command)
                return
            except SchedulerClosed:
                return  # whoever admits next takes it
            except StoreTakenOver:
                raise
            except StoreError:
                await anyio.sleep(RETRY_SECONDS)

    async def _outcome(self, letter: Letter, command: Command | InternalError) -> str:
        try:
            if isinstance(command, InternalError):
                raise command
            with answering(lambda change: Answer(letter.id, dump(Done(change)))):
                return dump(Done(await self._commands.execute(command)))
        except (StoreError, SchedulerClosed):
            raise
        except HeadwayError as error:
            return dump(refused(error))
        except Exception as error:  # a bug; it must not take this process with it, nor the next
            return dump(refused(InternalError(f"{type(error).__name__}: {error}")))


def _read(letter: Letter) -> MessageBatch | Command | InternalError:
    try:
        return load_request(letter.event)
    except InternalError as error:
        return error


def raise_store_error(
    group: BaseExceptionGroup[BaseException], kind: type[StoreError] = StoreError
) -> None:
    """Raise the first error of a ``kind`` that task groups wrapped, as it was."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            raise_store_error(error, kind)
        elif isinstance(error, kind):
            raise error from None

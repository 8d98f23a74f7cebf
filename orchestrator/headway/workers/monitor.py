"""Watches workers, and takes the runs of dead ones from them. Law: a live worker keeps its runs."""

import anyio

from headway_scheduler.cluster.posting import new_asker
from headway_scheduler.errors import StoreError
from headway_scheduler.model.states import RunState
from headway_scheduler.ports import Mailbox, Store, WorkerRegistry
from headway_scheduler.protocol.codec import dump
from headway_scheduler.protocol.commands import RetireWorker
from headway_scheduler.runtime.deaths import released
from headway_scheduler.runtime.local import LocalScheduler

WATCH_SECONDS = 0.2
"""How often the registry is asked for dead workers."""


class WorkerMonitor:
    """Finds dead workers, for the leader. ``own``: the worker of this process, if it has one."""

    def __init__(
        self,
        scheduler: LocalScheduler,
        store: Store,
        registry: WorkerRegistry,
        mailbox: Mailbox,
        *,
        own: str | None,
    ) -> None:
        self._scheduler = scheduler
        self._store = store
        self._registry = registry
        self._mailbox = mailbox
        self._own = own
        self._asker = new_asker()

    async def reap_dead_workers(self) -> None:
        """Give back the runs of dead workers, and of workers that are not listed any more.

        For a leader that has not admitted yet: it has taken all requests of theirs by then.
        """
        for worker in await self._registry.expired(list(self._scheduler.workers.listed)):
            await self._scheduler.workers.drop(worker, died=True)
        running = await self._store.runs({RunState.RUNNING})
        for run in {run.id: run for run in (*running, *await self._store.assigned())}.values():
            if run.worker not in self._scheduler.workers.listed:
                await self._scheduler.save_run(released(run))
        await self._registry.tidy(list(self._scheduler.workers.listed))

    async def watch(self) -> None:
        """Have dead workers retired, until cancelled."""
        dead: set[str] = set()
        while True:
            await anyio.sleep(WATCH_SECONDS)
            others = [
                key for key in self._scheduler.workers.listed if key not in (self._own, *dead)
            ]
            for worker in await self._registry.expired(others):
                # By a request: what the worker posted before it died is taken first.
                if await self._post(dump(RetireWorker(worker, died=True))):
                    dead.add(worker)

    async def _post(self, text: str) -> bool:
        """Post a request to this process; whether that was possible."""
        try:
            await self._mailbox.post(self._asker, text)
        except StoreError:
            return False
        return True

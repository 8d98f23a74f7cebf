"""A second Headway on the same database, here in the same process: it follows the first."""

import os
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskStatus
from autogen_agentchat.agents import AssistantAgent, BaseChatAgent, UserProxyAgent
from autogen_agentchat.base import Response
from autogen_agentchat.messages import TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core.models import UserMessage
from tests.waiting import until

from headway import Headway, RunFailed, RunHandle
from headway.config import ConfigError, load
from headway.runs.events import Ended
from headway.runs.options import new_run
from headway.testing import MODEL, QUOTA, SimulatedHeadway, simulated_headway
from headway.workers.leader import Leader, SessionCommands
from headway.workers.monitor import WorkerMonitor
from headway.workers.remote_commands import RemoteCommands
from headway_scheduler.backends import open_backend
from headway_scheduler.backends.sqlite import mailbox
from headway_scheduler.backends.sqlite.reads import connect
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.errors import (
    CallerError,
    RunNotFound,
    RunNotResumable,
    SchedulerClosed,
    StoreBusy,
    StoreTakenOver,
    UnknownQuota,
)
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import Call, Priority
from headway_scheduler.model.changes import Change, HoldState
from headway_scheduler.model.data import replace
from headway_scheduler.model.runs import Run, Worker
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.protocol.codec import dump
from headway_scheduler.protocol.commands import (
    CancelRun,
    ClaimRun,
    Command,
    PauseRun,
    QueueRun,
    RegisterWorker,
    SetHold,
)
from headway_scheduler.runtime.client import SchedulerClient
from headway_scheduler.testing.provider import Limits

pytestmark = pytest.mark.anyio


@pytest.fixture
async def leader() -> AsyncIterator[SimulatedHeadway]:
    async with simulated_headway() as headway:

        @headway.workflow("agent")
        def agent(models: object) -> AssistantAgent:
            return AssistantAgent("writer", models(MODEL))  # type: ignore[operator]

        yield headway


def second(leader: Headway) -> Headway:
    headway = Headway(leader.config)
    headway.workflow("agent")(lambda models: AssistantAgent("writer", models(MODEL)))
    return headway


async def test_what_a_follower_submits_the_leader_executes(leader: SimulatedHeadway) -> None:
    async with second(leader) as follower, anyio.create_task_group() as group:
        assert (leader.is_leader, follower.is_leader) == (True, False)
        group.start_soon(lambda: leader.work(slots=2, forever=True))
        runs = [await follower.submit("agent", task=f"{n}", key=f"{n % 2}") for n in range(4)]
        assert (runs[0].id, runs[1].id) == (runs[2].id, runs[3].id)
        while len(await follower.list_runs([RunState.COMPLETED])) < 2:  # noqa: ASYNC110 (rows)
            await anyio.sleep(0.01)
        leader.drain()
    assert len(leader.provider.ledger.paid) == 2


async def test_a_follower_steers_and_gets_the_leader_s_refusals(leader: SimulatedHeadway) -> None:
    async with second(leader) as follower:
        await follower.queue.pause("class:low")
        await follower.limits.set(QUOTA, {"requests_per_minute": 60})
        assert [change.action for change in await leader.limits.log()] == ["limits", "gate"]
        run = await follower.submit("agent", task="x")
        assert (await follower.pause(run.id)).state is RunState.PAUSED
        assert (await follower.cancel(run.id)).state is RunState.CANCELLED
        with pytest.raises(ConfigError):
            await follower.limits.set(QUOTA, {"rpm": 1})
        with pytest.raises(RunNotFound):
            await follower.queue.bump("r-none", "low")
        with pytest.raises(CallerError):
            await follower.limits.set(QUOTA, {"requests_per_minute": Decimal(1)})


async def test_a_follower_executes_and_the_leader_admits(leader: SimulatedHeadway) -> None:
    async with second(leader) as follower:
        handle = await follower.start("agent", task="x", key="k")
        result = await handle.result()
        assert (result.calls, result.usage.total > 0) == (1, True)
        again = await follower.start("agent", task="x", key="k")
        assert (await again.result()).text == result.text
        following = await follower.continue_run(handle.id, "more")
        assert (await following.result()).calls == 1
        copy = await follower.fork(handle.id, at="0")
        assert (await copy.result()).text == result.text
        answer = await follower.model(MODEL).create([UserMessage(content="hi", source="me")])
        assert answer.usage.prompt_tokens > 0
        assert [worker.pid for worker in await leader._opened.store.workers()] == [os.getpid()] * 2
        assert await follower.prune(keep=2) == []  # what the copies began with is kept
    rows = await leader.list_runs()
    assert {run.state for run in rows} == {RunState.COMPLETED}
    assert {run.worker for run in rows} == {None}
    assert len(leader.provider.ledger.paid) == 4
    assert len(await leader._opened.store.workers()) == 1
    with pytest.raises(CallerError, match="not open"):
        _ = follower.queue
    with pytest.raises(CallerError, match="not open"):
        await follower.submit("agent", task="x")


async def test_a_batch_that_the_leader_cannot_read_ends_no_run_as_if_it_were_recorded(
    leader: SimulatedHeadway,
) -> None:
    async with second(leader) as follower:
        await leader.queue.pause()
        handle = await follower.start("agent", task="x")
        await until(lambda: leader.scheduler.queued())
        posting = open_backend(leader.config.database).mailbox()
        await posting.post(
            follower._opened.executor.worker.id, '{"type": "MessageBatch", "messages": 1}'
        )
        await posting.close()
        with pytest.raises(RunFailed, match="could not read"):
            await handle.result()
        await leader.queue.resume()
    assert (await leader.get_run(handle.id)).state is RunState.FAILED


async def test_what_a_follower_is_refused_it_is_told(leader: SimulatedHeadway) -> None:
    """By the leader's scheduler, as it would be by its own."""
    async with second(leader) as follower:
        assert follower.waiting_calls == 0
        with pytest.raises(StoreBusy, match="another process leads"):
            _ = follower.scheduler
        await leader.queue.pause()
        handle = await follower.start("agent", task="x")
        await until(lambda: follower.waiting_calls)
        with pytest.raises(RunNotResumable, match="it is running"):
            await leader.resume(handle.id)
        with pytest.raises(RunNotResumable, match="is being executed"):
            await leader._opened.executor.claim(
                replace(await leader.get_run(handle.id), state=RunState.RUNNING)
            )
        await leader.cancel(handle.id)
        with pytest.raises(RunFailed, match="cancelled"):
            await handle.result()
        await leader.queue.resume()
        call = Call("x.0", "x", "a", "m", ("no such quota",), Priority.LOW, 1, 0.0)
        with pytest.raises(UnknownQuota, match="no such quota"):
            await follower._opened.scheduler.acquire(call)


async def test_a_run_of_another_process_is_waited_for(leader: SimulatedHeadway) -> None:
    async with second(leader) as follower:
        await leader.queue.pause()
        first = await leader.start("agent", task="x", key="k")
        others = [await follower.start("agent", task="x", key="k") for _ in range(2)]
        for other in others:
            assert (other.id, other.is_local, first.is_local) == (first.id, False, True)
            for steer in (other.cancel, other.pause, other.interrupt):
                with pytest.raises(CallerError, match="not executed by this process"):
                    steer()
        events: list[list[object]] = [[], []]

        async def see(number: int) -> None:
            events[number] += [event async for event in others[number].stream()]

        async with anyio.create_task_group() as group:
            group.start_soon(see, 0)
            group.start_soon(see, 1)
            await leader.queue.resume()
        said = (await first.result()).task_result.messages
        for own, other in zip(events, others, strict=True):
            assert own == [*said, Ended(first.id, RunState.COMPLETED, None, other.run.finished_at)]
            assert (await other.result()).calls == 1
    assert len(leader.provider.ledger.paid) == 1


@pytest.mark.parametrize("is_begun", [True, False])
async def test_a_run_that_another_process_is_about_to_execute_is_not_taken_from_it(
    leader: SimulatedHeadway, is_begun: bool
) -> None:
    """Its row is there before it begins, and what others want of it by then is heeded."""
    now = leader.scheduler.now()
    run, _ = new_run(leader.workflows, leader.config, now, "agent", "x", {"key": "k"})
    new = replace(run, worker=leader._opened.executor.worker.id)
    async with second(leader) as follower, anyio.create_task_group() as group:
        with leader._opened.executor.expecting(new) as expected:
            await leader._opened.executor.queue(new)
            handle = await follower.start("agent", task="x", key="k")
            forgotten = await follower.handle(new.id)
            group.start_soon(follower.cancel, new.id)
            await until(lambda: expected.is_cancelled)
            if is_begun:
                leader._opened.executor.execute(expected)
        with pytest.raises(RunFailed, match="cancelled"):
            await handle.result()
        assert not leader.provider.ledger.entries
        await follower.prune(keep=0)
        with pytest.raises(RunNotFound, match="it was pruned"):
            await forgotten.result()
        with pytest.raises(RunNotFound):
            await follower.handle(new.id)


@pytest.mark.parametrize("who", ["leader", "follower"])
@pytest.mark.parametrize("by", ["leader", "follower", "handle"])
async def test_a_run_that_is_cancelled_while_it_is_written_that_it_waits_is_cancelled(
    leader: SimulatedHeadway, monkeypatch: pytest.MonkeyPatch, who: str, by: str
) -> None:
    save_run = SchedulerClient.save_run
    async with second(leader) as follower:
        both = {"leader": leader, "follower": follower}
        for headway in both.values():
            headway.workflow("asks")(lambda _: RoundRobinGroupChat([UserProxyAgent("boss")]))
        async with anyio.create_task_group() as group:

            async def cancelled_then(client: SchedulerClient, run: Run) -> None:
                if run.state is RunState.WAITING and by == "handle":
                    handle.cancel()
                elif run.state is RunState.WAITING:
                    group.start_soon(both[by].cancel, run.id)
                    await until(lambda: handle.is_cancelled)
                await save_run(client, run)

            monkeypatch.setattr(SchedulerClient, "save_run", cancelled_then)
            handle = await both[who].start("asks", task="x")
            await handle.ended()
            # The leader is told of a handle that was cancelled too late after the handle's end.
            row = await leader.get_run(handle.id)
            while row.state is RunState.WAITING:
                await anyio.sleep(0.01)
                row = await leader.get_run(handle.id)
    assert row.state is RunState.CANCELLED
    (record,) = await leader.list_calls(handle.id)
    assert record.state is CallState.CANCELLED


@pytest.mark.parametrize("who", ["leader", "follower"])
@pytest.mark.parametrize("verb", ["start", "resume"])
async def test_a_worker_is_asked_for_a_run_while_the_leader_gives_it_that_run(
    leader: SimulatedHeadway, who: str, verb: str
) -> None:
    async with second(leader) as follower, anyio.create_task_group() as group:
        headway = follower if who == "follower" else leader
        group.start_soon(lambda: headway.work(slots=4, forever=True))
        for key in map(str, range(25)):
            run = await headway.submit("agent", task="x", key=key)
            if verb == "start":
                handle = await headway.start("agent", task="x", key=key)
            else:
                with suppress(RunNotResumable):  # the worker has begun it
                    await headway.resume(run.id)
                handle = await headway.handle(run.id)
            assert (handle.id, (await handle.result()).calls) == (run.id, 1)
        headway.drain()
    assert len(leader.provider.ledger.paid) == 25


@pytest.mark.parametrize("who", ["leader", "follower"])
async def test_an_order_to_execute_starts_the_run_that_is_expected(
    leader: SimulatedHeadway, who: str
) -> None:
    """The leader gives it to the worker that is about to claim it: the claim is granted."""
    async with second(leader) as follower:
        headway = follower if who == "follower" else leader
        executor, worker = headway._opened.executor, headway._opened.executor.worker.id
        await executor.join()
        run = (await leader.submit("agent", task="x")).run
        with executor.expecting(replace(run, worker=worker)) as handle:
            assert leader._opened.leader is not None
            await leader._opened.leader.assigner.give(run, worker)
            await headway._opened.commands.execute(ClaimRun(run, worker))
            executor.execute(handle)
        assert (await handle.result()).calls == 1
    assert len(leader.provider.ledger.paid) == 1


@pytest.mark.parametrize("who", ["leader", "follower"])
async def test_a_run_that_was_given_may_end_before_its_claim_is_heard(
    leader: SimulatedHeadway, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with second(leader) as follower:
        headway = follower if who == "follower" else leader
        await headway._opened.executor.join()
        run = (await leader.submit("agent", task="x")).run
        execute = headway._opened.commands.execute

        async def claim_late(command: Command) -> Change | None:
            if isinstance(command, ClaimRun):
                assert leader._opened.leader is not None
                await leader._opened.leader.assigner.give(command.run, command.worker_id)
                await until(lambda: run.id not in headway._opened.executor.handles)
            return await execute(command)

        monkeypatch.setattr(headway._opened.commands, "execute", claim_late)
        assert (await (await headway.resume(run.id)).result()).calls == 1
    assert len(leader.provider.ledger.paid) == 1


async def test_a_run_that_was_taken_up_once_does_not_keep_those_behind_it_waiting(
    leader: SimulatedHeadway,
) -> None:
    interrupted: list[str] = []

    def watch(handle: RunHandle) -> None:
        if handle.run.priority is Priority.INTERACTIVE:
            interrupted.append(handle.id)
            handle.interrupt()

    urgent = await leader.submit("agent", task="x", priority="interactive")
    await leader._opened.scheduler.save_run(replace(urgent.run, state=RunState.INTERRUPTED))
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: leader.work(slots=1, forever=True, watch=watch))
        await until(lambda: interrupted and not leader._opened.executor.handles)
        behind = [await leader.submit("agent", task="x", priority="low") for _ in range(3)]
        # They would wait for ever.
        for run in behind:
            await run.result()
        leader.drain()
    assert (await leader.get_run(urgent.id)).state is RunState.INTERRUPTED
    assert interrupted == [urgent.id]


async def test_a_worker_that_starts_a_run_while_it_begins_to_work_keeps_its_slots(
    leader: SimulatedHeadway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with second(leader) as follower, anyio.create_task_group() as group:
        commands = follower._opened.executor._commands
        execute = commands.execute
        registered: list[int] = []

        async def late(command: Any) -> None:
            if isinstance(command, RegisterWorker) and command.worker.slots == 0:
                await anyio.sleep(0.2)  # another thread may write its request first
            await execute(command)
            if isinstance(command, RegisterWorker):
                registered.append(command.worker.slots)

        with monkeypatch.context() as patch:
            patch.setattr(commands, "execute", late)
            group.start_soon(follower._opened.executor.join)
            await anyio.lowlevel.checkpoint()
            group.start_soon(lambda: follower.work(slots=1, forever=True))
            await (await follower.start("agent", task="x")).result()
            await until(lambda: len(registered) == 2)  # the run may have ended before
            workers = {worker.id: worker for worker in await leader._opened.store.workers()}
            assert workers[follower._opened.executor.worker.id].slots == 1
        follower.drain()


async def test_a_run_may_be_given_again_with_the_news_that_its_end_is_on_disk(
    leader: SimulatedHeadway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker reads both at once, while it still has the handle of the attempt that ended."""
    await leader.queue.pause()
    async with second(leader) as follower, anyio.create_task_group() as group:
        group.start_soon(lambda: follower.work(slots=1, forever=True))
        remote, worker = follower._opened.scheduler, follower._opened.executor.worker.id
        handle = await follower.start("agent", task="x")
        await until(lambda: follower.waiting_calls)
        held: list[tuple[int, str]] = []
        with monkeypatch.context() as patch:
            patch.setattr(remote._posting, "arrived", held.extend)
            handle.interrupt()
            row = await leader.get_run(handle.id)
            while (row.state, row.worker) != (RunState.INTERRUPTED, worker):
                await anyio.sleep(0.01)
                row = await leader.get_run(handle.id)
            await leader.queue.resume()
        remote._posting.arrived(held)
        await handle.ended()
        assert handle.run.state is RunState.INTERRUPTED
        # It would wait for ever.
        assert (await (await leader.handle(handle.id)).result()).calls == 1
        follower.drain()


@pytest.mark.parametrize("state", [RunState.QUEUED, RunState.INTERRUPTED])
async def test_runs_that_no_worker_can_take_do_not_keep_those_behind_them_waiting(
    leader: SimulatedHeadway, state: RunState
) -> None:
    """Of a workflow that is registered in another process, or that is to be resumed by hand."""
    behind = await leader.submit("agent", task="x", priority="low")
    workflow = "agent" if state is RunState.INTERRUPTED else "other"
    for n in range(20):
        run = Run(f"r-{n}", workflow, "x", Priority.HIGH, state, behind.run.created_at)
        await leader._opened.scheduler.save_run(run)
    # It would wait for ever.
    await leader.work(slots=1)
    assert [run.id for run in await leader.list_runs([RunState.COMPLETED])] == [behind.id]
    assert len(await leader.list_runs([state])) == 20


async def test_runs_of_workers_whom_nobody_knows_are_given_to_others(tmp_path: Path) -> None:
    config = load(environ={"HEADWAY_DATABASE": str(tmp_path / "headway.db")})
    lost = [
        Run(f"r-{state}", "a:b", "x", Priority.LOW, state, 1.0, worker="w-nobody")
        for state in (RunState.QUEUED, RunState.RUNNING)
    ]
    async with SqliteStore(tmp_path / "headway.db") as store:
        await store.commit(Batch(runs=tuple(lost)))
    async with Headway(config) as headway:
        rows = {run.id: (run.state, run.worker) for run in await headway.list_runs()}
        await headway._opened.commands.execute(QueueRun(replace(lost[0], id="r-late")))
        assert (await headway.get_run("r-late")).worker is None
    assert rows == {
        "r-queued": (RunState.QUEUED, None),
        "r-running": (RunState.INTERRUPTED, None),
    }


def dead_worker_s_run() -> Batch:
    """A run that a worker executes of which no process is left."""
    run = Run("r-1", "a:b", "x", Priority.LOW, RunState.RUNNING, 1.0, worker="w-dead")
    return Batch(runs=(run,), joined=(Worker("w-dead", 1, 1.0),))


@pytest.mark.parametrize("order", [CancelRun("r-1"), PauseRun("r-1")])
async def test_a_request_to_end_the_run_of_a_dead_worker_holds_up_no_start(
    tmp_path: Path, order: CancelRun | PauseRun
) -> None:
    """It waits for the worker to let go of the run, and only a leader finds the worker dead."""
    config = load(environ={"HEADWAY_DATABASE": str(tmp_path / "headway.db")})
    async with SqliteStore(tmp_path / "headway.db") as store:
        await store.commit(dead_worker_s_run())
    mailbox = open_backend(config.database).mailbox()
    request_id = await mailbox.post("c-1", dump(order))
    with anyio.fail_after(20):
        async with Headway(config) as headway:
            while (answer := await mailbox.answer(request_id)) is None:  # noqa: ASYNC110 (a row)
                await anyio.sleep(0.01)
            run = await headway.get_run("r-1")
    await mailbox.close()
    assert "Done" in answer
    assert run.state is (RunState.CANCELLED if isinstance(order, CancelRun) else RunState.PAUSED)


async def test_the_log_names_what_a_dead_worker_leaves(
    leader: SimulatedHeadway, caplog: pytest.LogCaptureFixture
) -> None:
    (lost,) = dead_worker_s_run().runs
    for number in range(7):
        await leader.scheduler.save_run(replace(lost, id=f"r-{number}"))
    await leader.scheduler.workers.enlist(Worker("w-dead", 1, 1.0))
    await until(lambda: caplog.records)
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("worker w-dead has died, and leaves r-0 interrupted, r-1 interrupted, ")
    assert told.endswith(" and 2 more")


async def test_whoever_stands_in_for_a_leader_ends_the_run_of_a_dead_worker(tmp_path: Path) -> None:
    config = load(environ={"HEADWAY_DATABASE": str(tmp_path / "headway.db")})
    async with SqliteStore(tmp_path / "headway.db") as store:
        await store.commit(dead_worker_s_run())
    backend, stand_in = open_backend(config.database), Headway(config)._opener._lead_briefly
    commands = RemoteCommands(backend, lambda vacancy: stand_in("w-test", vacancy))
    with anyio.fail_after(20):
        await commands.execute(CancelRun("r-1"))
    async with backend.reader() as reader:
        assert [run.state for run in await reader.runs()] == [RunState.CANCELLED]


async def test_a_request_to_end_the_run_of_a_living_worker_waits_for_it_and_not_the_start(
    tmp_path: Path,
) -> None:
    config = load(environ={"HEADWAY_DATABASE": str(tmp_path / "headway.db")})
    async with SqliteStore(tmp_path / "headway.db") as store:
        await store.commit(dead_worker_s_run())
    backend = open_backend(config.database)
    mailbox = backend.mailbox()
    with anyio.fail_after(20):
        async with backend.workers().present("w-dead"):
            request_id = await mailbox.post("c-1", dump(CancelRun("r-1")))
            for _ in range(4):  # no leader counts it as one that takes leaders down
                async with Headway(config):
                    assert await mailbox.answer(request_id) is None
        async with Headway(config) as headway:
            while await mailbox.answer(request_id) is None:  # noqa: ASYNC110 (a row)
                await anyio.sleep(0.01)
            assert (await headway.get_run("r-1")).state is RunState.CANCELLED
    await mailbox.close()


async def test_a_leader_that_closes_while_a_run_is_to_be_ended_has_not_lost_its_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = load(environ={"HEADWAY_DATABASE": str(tmp_path / "headway.db")})
    backend = open_backend(config.database)
    async with SqliteStore(tmp_path / "headway.db") as store:
        await store.commit(dead_worker_s_run())
    mailbox = backend.mailbox()
    async with backend.workers().present("w-dead"), Headway(config) as headway:
        assert headway.is_leader
        await mailbox.post("c-1", dump(CancelRun("r-1")))
        with closing(connect(tmp_path / "headway.db", "mode=ro")) as db:
            ordered = "SELECT count(*) FROM outbox WHERE worker = 'w-dead'"
            while not db.execute(ordered).fetchone()[0]:  # noqa: ASYNC110 (a row)
                await anyio.sleep(0.01)
    await mailbox.close()
    assert "another process leads" not in caplog.text


async def test_one_that_fails_to_lead_leaves_the_place_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opened the database, and then another program kept it locked for too long."""
    config = load(environ={"HEADWAY_DATABASE": str(tmp_path / "headway.db")})

    def locked(*_: object) -> NoReturn:
        raise StoreBusy("another program keeps it locked")

    with monkeypatch.context() as patch:
        patch.setattr(mailbox.SqliteMailbox, "read_ahead", locked)
        with pytest.raises(StoreBusy, match="keeps it locked"):
            async with Leader(config, open_backend(config.database), "w-test"):
                pytest.fail("it leads")
    async with Headway(config) as headway:
        assert headway.is_leader


@pytest.mark.parametrize("is_grouped", [False, True])
async def test_one_that_leads_for_a_moment_may_lose_the_lead_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_grouped: bool
) -> None:
    """Whoever asked something goes on, and is answered by the other one."""
    config = load(environ={"HEADWAY_DATABASE": str(tmp_path / "headway.db")})
    lost = StoreTakenOver("another process took over")

    async def lose(*_: object) -> NoReturn:
        raise ExceptionGroup("tasks", [lost]) if is_grouped else lost

    monkeypatch.setattr(WorkerMonitor, "reap_dead_workers", lose)
    vacancy = open_backend(config.database).leadership().look()
    assert vacancy is not None
    await Headway(config)._opener._lead_briefly("w-test", vacancy)
    monkeypatch.undo()
    async with Headway(config) as headway:
        assert headway.is_leader


async def test_one_that_leads_for_a_moment_leads_to_its_end_although_it_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own request is answered before the runs of dead workers are given back."""
    config = load(environ={"HEADWAY_DATABASE": str(tmp_path / "headway.db")})
    lost = Run("r-1", "a:b", "x", Priority.LOW, RunState.RUNNING, 1.0, worker="w-nobody")
    async with SqliteStore(tmp_path / "headway.db") as store:
        await store.commit(Batch(runs=(lost,)))
    reap_dead_workers = WorkerMonitor.reap_dead_workers

    async def reap_late(monitor: WorkerMonitor) -> None:
        await anyio.sleep(0.2)  # the answer is read before
        await reap_dead_workers(monitor)

    monkeypatch.setattr(WorkerMonitor, "reap_dead_workers", reap_late)
    backend, stand_in = open_backend(config.database), Headway(config)._opener._lead_briefly
    commands = RemoteCommands(backend, lambda vacancy: stand_in("w-test", vacancy))
    change = await commands.execute(SetHold("all", HoldState.PAUSED))
    assert change is not None
    async with backend.reader() as store:
        assert [run.state for run in await store.runs()] == [RunState.INTERRUPTED]


async def test_a_follower_waits_for_whoever_writes(
    leader: SimulatedHeadway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "BUSY_SECONDS", 0.01)  # many attempts
    async with second(leader) as follower, anyio.create_task_group() as group:
        other = connect(leader.config.database, "mode=rw")
        other.execute("BEGIN IMMEDIATE")
        group.start_soon(follower.queue.pause)
        await anyio.sleep(0.2)
        other.execute("ROLLBACK")
        other.close()
    assert len(await leader.limits.log()) == 1


@pytest.mark.parametrize("who", ["leader", "follower"])
async def test_a_run_whose_submitter_is_cancelled_meanwhile_is_executed(
    leader: SimulatedHeadway, who: str
) -> None:
    async with second(leader) as follower:
        headway = follower if who == "follower" else leader
        await headway._opened.executor.join()
        with closing(connect(leader.config.database, "mode=rw")) as other:
            other.execute("BEGIN IMMEDIATE")
            with anyio.move_on_after(0.2) as scope:
                await headway.start("agent", task="x")
            assert scope.cancelled_caught
            assert not await headway.list_runs()
            other.execute("ROLLBACK")
        while not await headway.list_runs([RunState.COMPLETED]):  # noqa: ASYNC110 (rows)
            await anyio.sleep(0.01)
    assert len(leader.provider.ledger.paid) == 1


async def test_a_leader_that_lost_its_place_follows_and_its_runs_go_on() -> None:
    """One call of each kind: in flight, waiting for its turn, and asked after the lead was lost."""
    async with simulated_headway(Limits(concurrency=1), latency_seconds=3) as headway:
        headway.workflow("agent")(lambda models: AssistantAgent("writer", models(MODEL)))
        store = headway._opened.store
        runs = [await headway.start("agent", task=f"{n}") for n in range(2)]
        while len(await store.calls(states=[CallState.QUEUED])) != 1:  # noqa: ASYNC110 (rows)
            await anyio.sleep(0.01)
        freeze(headway)
        backend = open_backend(headway.config.database)
        vacancy = await backend.leadership().vacant()
        async with Leader(headway.config, backend, "w-other", vacancy=vacancy) as other:
            await until(lambda: not headway.is_leader)
            assert other.scheduler.statistics().in_flight == 1
            runs.append(await headway.start("agent", task="2"))
            await headway.queue.pause("class:low")  # by a request, from here on
            assert len({(await run.result()).text for run in runs}) == 3
            assert [change.target for change in await headway.limits.log()] == ["class:low"]
        assert len(headway.provider.ledger.paid) == 3
        assert [call.lost_attempts for call in await store.calls()] == [0, 0, 0]


async def test_what_is_asked_while_a_leader_that_lost_its_place_closes_goes_to_the_next(
    leader: SimulatedHeadway, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert leader._opened.leader is not None
    store = leader._opened.leader.store
    assert isinstance(store, SqliteStore)
    closes, is_closing, may_close = store.__aexit__, anyio.Event(), anyio.Event()

    async def close(*_: object) -> None:
        is_closing.set()
        with anyio.CancelScope(shield=True):
            await may_close.wait()
            await closes()

    monkeypatch.setattr(store, "__aexit__", close)
    freeze(leader)
    backend = open_backend(leader.config.database)
    vacancy = await backend.leadership().vacant()
    async with Leader(leader.config, backend, "w-other", vacancy=vacancy):
        try:
            await is_closing.wait()
            await leader.queue.pause("class:low")
            run = await leader.start("agent", task="x")
        finally:
            may_close.set()
        assert (await run.result()).text
        assert [change.target for change in await leader.limits.log()] == ["class:low"]


async def test_one_that_is_replaced_while_it_opens_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(environ={"HEADWAY_DATABASE": str(tmp_path / "headway.db")})
    opening, replaced, is_done = list[WorkerMonitor](), anyio.Event(), anyio.Event()
    reap = WorkerMonitor.reap_dead_workers

    async def late(self: WorkerMonitor) -> None:
        opening.append(self)
        if len(opening) == 1:
            await replaced.wait()
        await reap(self)

    async def use() -> None:
        async with Headway(config) as headway:
            assert not headway.is_leader
            await headway.queue.pause("class:low")
        is_done.set()

    monkeypatch.setattr(WorkerMonitor, "reap_dead_workers", late)
    backend = open_backend(config.database)
    async with anyio.create_task_group() as group:
        group.start_soon(use)
        await until(lambda: bool(opening))
        stop_pulse(opening[0]._store)
        vacancy = await backend.leadership().vacant()
        async with Leader(config, backend, "w-other", vacancy=vacancy):
            replaced.set()
            await is_done.wait()


def freeze(headway: Headway) -> None:
    """Stop the pulse of a leader of this process, as SIGSTOP would."""
    assert headway._opened.leader is not None
    stop_pulse(headway._opened.leader.store)


def stop_pulse(store: object) -> None:
    assert isinstance(store, SqliteStore)
    lock = store._opened.lock
    lock._end.set()
    lock._heartbeat_thread.join()


async def test_a_follower_whose_leader_left_leads_for_its_requests(tmp_path: Path) -> None:
    config = load(environ={"HEADWAY_DATABASE": str(tmp_path / "headway.db")})
    leaving, left = anyio.Event(), anyio.Event()

    async def lead(*, task_status: TaskStatus[None]) -> None:
        async with Headway(config):
            task_status.started()
            await leaving.wait()
        left.set()

    async with anyio.create_task_group() as group:
        await group.start(lead)
        async with Headway(config) as follower:
            leaving.set()
            await follower.queue.pause("class:low")
            assert len(await follower.limits.log()) == 1
            assert not follower.is_leader
            await left.wait()  # it may have heard the request while it was leaving
            async with Headway(config) as next_one:
                assert next_one.is_leader


@pytest.mark.parametrize("lives_lost", [0, 1])
async def test_calls_outside_of_runs_take_no_slot(
    leader: SimulatedHeadway, lives_lost: int
) -> None:
    """Their run goes on until Headway closes, and a suspect waits for a worker that is idle."""
    await leader.model(MODEL).create([UserMessage(content="x", source="user")])
    run = await leader.submit("agent", task="x")
    suspect = replace(run.run, lives_lost=lives_lost)
    await leader.scheduler.save_run(suspect)
    with anyio.fail_after(30):
        await leader.work(slots=1)
    assert (await leader.get_run(run.id)).state is RunState.COMPLETED


async def test_a_suspect_does_not_wait_for_ever_for_a_worker_that_is_idle(
    leader: SimulatedHeadway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only worker executes a run that waits until midnight for dollars, or for an operator."""
    monkeypatch.setattr("headway.workers.assignment.IDLE_SECONDS", 0.5)
    monkeypatch.setattr("headway.workers.assignment.ALONE_SECONDS", 0.5)
    await leader.queue.pause("class:high")
    held = await leader.submit("agent", task="x", priority="high")
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: leader.work(slots=4, forever=True))
        await until(lambda: leader.waiting_calls)
        suspects = [(await leader.submit("agent", task=f"{n}")).run for n in range(2)]
        for run in suspects:  # as if it had been a suspect when it was queued
            await leader.scheduler.save_run(replace(run, id=f"{run.id}s", lives_lost=1))
        last = await leader.submit("agent", task="last", priority="background")
        for run_id in (*(f"{run.id}s" for run in suspects), last.id):
            assert (await (await leader.handle(run_id)).result()).text
        assert (await leader.get_run(held.id)).state is RunState.RUNNING
        await leader.queue.resume("class:high")
        leader.drain()


@pytest.mark.parametrize("who", ["leader", "follower"])
async def test_a_run_that_waits_for_another_one_gives_its_slot_back(
    leader: SimulatedHeadway, who: str
) -> None:
    """Every slot is taken by a run whose agent submits another run, and waits for it."""

    def register(headway: Headway) -> None:
        class Parent(BaseChatAgent):
            produced_message_types = (TextMessage,)

            async def on_messages(self, messages: Any, cancellation_token: Any) -> Response:
                child = await headway.submit("agent", task="child")
                text = (await (await headway.handle(child.id)).result()).text
                return Response(chat_message=TextMessage(content=text, source=self.name))

            async def on_reset(self, cancellation_token: Any) -> None:
                pass

        headway.workflow("parent")(lambda models: Parent("parent", "waits"))

    async with second(leader) as follower:
        headway = follower if who == "follower" else leader
        register(headway)
        for number in range(2):
            await headway.submit("parent", task=f"{number}")
        with anyio.fail_after(60):
            await headway.work(slots=1)
        assert len(await headway.list_runs([RunState.COMPLETED])) == 4


async def test_a_command_of_a_leader_that_is_lost_meanwhile_goes_to_the_next(
    leader: SimulatedHeadway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session forgets the leader while the command waits for it to close."""
    of_leader = leader._opened.leader
    assert of_leader is not None

    async def lost(command: Command) -> None:
        commands.leader, of_leader.is_lost = None, True
        raise SchedulerClosed("it is closed")

    monkeypatch.setattr(of_leader.commands, "execute", lost)
    asked: list[Command] = []

    class Remote:
        async def execute(self, command: Command) -> Change | None:
            asked.append(command)
            return None

    commands = SessionCommands(of_leader, Remote())
    command = CancelRun("r-1")
    try:
        assert await commands.execute(command) is None
    finally:
        of_leader.is_lost = False
    assert asked == [command]

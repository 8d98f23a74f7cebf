"""Calls by batch, from a run that waits to its bill: in one process."""

import json
import re
import socket
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest
from anyio import to_thread
from tests.waiting import until

from headway import Headway, RunHandle
from headway.cli import main
from headway.config import load
from headway.workers import batches
from headway.workers.batch_provider import BatchProvider
from headway_agents.calls import first_contact
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.model.batches import BatchedRequest
from headway_scheduler.model.calls import CallRecord, ServiceLane
from headway_scheduler.model.data import replace
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.providers import PROVIDERS
from headway_scheduler.testing.provider import (
    BatchFault,
    Fault,
    FaultKind,
    Settings,
    SimulatedProvider,
    simulated_provider,
)

pytestmark = pytest.mark.anyio

CONFIG = """
[database]
path = "headway.db"
[quotas.org]
requests_per_minute = 6000
[quotas."sim/batch"]
enqueued_tokens = 1_000_000
[models.sim]
quotas = ["org"]
base_url = "{url}"
lanes = ["batch"]
usd_per_million_input_tokens = 1_000_000
usd_per_million_output_tokens = 1_000_000
[lanes]
batch_wait = 0.05
[workflows]
agent = "batch_workflows:agent"
pair = "batch_workflows:pair"
streamer = "batch_workflows:streamer"
"""
WORKFLOWS = """
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat

def agent(models):
    return AssistantAgent("writer", models("sim"))

def streamer(models):
    return AssistantAgent("writer", models("sim"), model_client_stream=True)

def pair(models):
    agents = [AssistantAgent(name, models("sim")) for name in ("writer", "critic")]
    return RoundRobinGroupChat(agents, termination_condition=MaxMessageTermination(3))
"""


@pytest.fixture
def settings() -> Settings:
    return Settings()


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(batches, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(batches, "ADOPT_SECONDS", 0.3)


@pytest.fixture
async def provider(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[SimulatedProvider]:
    async with simulated_provider(settings) as provider:
        (tmp_path / "headway.toml").write_text(CONFIG.format(url=provider.base_url))
        (tmp_path / "batch_workflows.py").write_text(WORKFLOWS)
        monkeypatch.syspath_prepend(str(tmp_path))
        yield provider


def opened(folder: Path) -> Headway:
    return Headway(load(folder / "headway.toml", environ={}))


async def submit(hw: Headway, workflow: str = "agent", task: str = "t", **more: Any) -> RunHandle:
    options = {"priority": "background", "lane": "batch", **more}
    return await hw.submit(workflow, task=task, **options)


async def worked(hw: Headway, *handles: RunHandle, is_expected_to_fail: bool = False) -> None:
    """Execute runs until all of these have ended."""

    database = hw.config.database
    assert isinstance(database, Path)

    def is_over() -> bool:
        states = [column(database, "state", "runs", handle.id)[0] for handle in handles]
        return set(states) <= {"completed", "failed"}

    async with anyio.create_task_group() as group:
        group.start_soon(lambda: hw.work(slots=2, forever=True))
        await until(is_over)
        hw.drain()
    errors = [(await hw.get_run(handle.id)).error for handle in handles]
    assert is_expected_to_fail or errors == [None] * len(handles)


def paid(provider: SimulatedProvider, tier: str) -> float:
    """What the provider bills, in the configuration's dollars of one for a token."""
    tokens = sum(
        entry.prompt_tokens + entry.completion_tokens
        for entry in provider.ledger.paid
        if entry.tier == tier
    )
    return tokens / 2 if tier == "batch" else float(tokens)


async def rows(hw: Headway, handle: RunHandle) -> list[CallRecord]:
    return list(await hw.list_calls(handle.id))


async def test_a_run_by_batch_waits_without_a_slot_and_is_answered_at_half_the_price(
    provider: SimulatedProvider, tmp_path: Path
) -> None:
    async with opened(tmp_path) as hw:
        handles = [await submit(hw, task=f"task {n}") for n in range(5)]
        await worked(hw, *handles)
        records = [record for each in handles for record in await rows(hw, each)]
        costs = (await hw.costs())[-1]
    assert {record.state for record in records} == {CallState.DONE}
    assert {record.call.lane for record in records} == {ServiceLane.BATCH}
    assert {entry.tier for entry in provider.ledger.entries} == {"batch"}
    assert len(provider.ledger.paid) == 5
    assert costs.usd == pytest.approx(paid(provider, "batch"))
    assert {record.usd_source for record in records} == {"stated by batch"}


async def test_a_team_goes_through_one_batch_after_the_other(
    provider: SimulatedProvider, tmp_path: Path
) -> None:
    async with opened(tmp_path) as hw:
        handle = await submit(hw, "pair")
        await worked(hw, handle)
        result = await (await hw.handle(handle.id)).result()
        assert [record.state for record in await rows(hw, handle)] == [CallState.DONE] * 2
    assert len(result.task_result.messages) == 3
    assert len(provider.ledger.paid) == 2


async def test_a_streaming_client_gets_its_answer_in_one_piece(
    provider: SimulatedProvider, tmp_path: Path
) -> None:
    async with opened(tmp_path) as hw:
        handle = await submit(hw, "streamer")
        await worked(hw, handle)
        assert (await hw.get_run(handle.id)).state is RunState.COMPLETED
    assert [entry.streamed for entry in provider.ledger.entries] == [False]


async def test_more_urgent_runs_do_not_go_by_batch(
    provider: SimulatedProvider, tmp_path: Path
) -> None:
    async with opened(tmp_path) as hw:
        await hw.run("agent", task="t", lane="batch", priority="interactive")
        near = await submit(hw, deadline_seconds=3600)
        await worked(hw, near)
    assert [entry.tier for entry in provider.ledger.entries] == ["", ""]


async def test_a_follower_hands_its_requests_over(
    provider: SimulatedProvider, tmp_path: Path
) -> None:
    async with opened(tmp_path) as leader, opened(tmp_path) as follower:
        assert leader.is_leader
        handles = [await submit(leader, task=f"task {n}") for n in range(3)]
        await worked(follower, *handles)
        states = [(await leader.get_run(handle.id)).state for handle in handles]
        usage = (await leader.costs())[-1]
    assert states == [RunState.COMPLETED] * 3
    assert usage.usd == pytest.approx(paid(provider, "batch"))


class Faults:
    """Gives the first requests of batches these faults, in order."""

    def __init__(self, *kinds: FaultKind) -> None:
        self.kinds = list(kinds)

    def __call__(self, number: int, body: Any) -> Fault | None:
        return Fault(self.kinds.pop(0)) if self.kinds else None


@pytest.mark.parametrize(
    "settings",
    [
        Settings(faults=Faults(FaultKind.HANG)),
        Settings(faults=Faults(FaultKind.SERVER_ERROR)),
        Settings(faults=Faults(FaultKind.RATE_LIMIT)),
    ],
    ids=["expired", "500", "429"],
)
async def test_a_call_that_its_batch_did_not_answer_is_asked_again(
    provider: SimulatedProvider, tmp_path: Path
) -> None:
    async with opened(tmp_path) as hw:
        handle = await submit(hw)
        await worked(hw, handle)
        (record,) = await rows(hw, handle)
    assert record.state is CallState.DONE
    assert len(provider.ledger.paid) == 1


@pytest.mark.parametrize("settings", [Settings(faults=Faults(*[FaultKind.UNKNOWN_PARAMETER] * 2))])
async def test_an_answer_that_no_wait_mends_fails_its_call_alone(
    provider: SimulatedProvider, tmp_path: Path
) -> None:
    async with opened(tmp_path) as hw:
        handles = [await submit(hw, task=f"task {n}") for n in range(4)]
        await worked(hw, *handles, is_expected_to_fail=True)
        states = [(await hw.get_run(handle.id)).state for handle in handles]
        errors = [(await rows(hw, handle))[0].error for handle in handles]
    assert sorted(states) == [RunState.COMPLETED] * 2 + [RunState.FAILED] * 2
    assert sum("Extra inputs are not permitted" in (error or "") for error in errors) == 2


@pytest.mark.parametrize("settings", [Settings(takes_batches=False)])
async def test_where_the_provider_takes_no_batches_calls_go_standard(
    provider: SimulatedProvider, tmp_path: Path, caplog: Any
) -> None:
    async with opened(tmp_path) as hw:
        handles = [await submit(hw, task=f"task {n}") for n in range(3)]
        await worked(hw, *handles)
        health = hw.scheduler.provider_health()
    assert {entry.tier for entry in provider.ledger.entries} == {""}
    assert len(provider.ledger.paid) == 3
    assert health.locked_out == ("sim/batch",)
    assert "takes no batches of model 'sim'" in caplog.text


@pytest.mark.parametrize(
    ("settings", "batches_paid"),
    [
        *((Settings(batch_fault=fault), 0) for fault in BatchFault if fault.startswith("page_for")),
        (Settings(batch_fault=BatchFault.ODD_ERRORS), 0),
        (Settings(batch_fault=BatchFault.GONE), 2),
        (Settings(batch_fault=BatchFault.NO_LINES), 2),
    ],
    ids=lambda value: getattr(value, "batch_fault", ""),
)
async def test_batches_that_come_to_nothing_are_let_go(
    provider: SimulatedProvider,
    settings: Settings,
    tmp_path: Path,
    batches_paid: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: Any,
) -> None:
    if settings.batch_fault is BatchFault.PAGE_FOR_LOOK:
        monkeypatch.setattr(batches, "GIVES_UP_SECONDS", 2.0)
    async with opened(tmp_path) as hw:
        handle = await submit(hw)
        await worked(hw, handle)
        (record,) = await rows(hw, handle)
    assert record.state is CallState.DONE
    assert len([each for each in provider.ledger.paid if each.tier != "batch"]) == 1
    assert len([each for each in provider.ledger.paid if each.tier == "batch"]) <= batches_paid
    assert all(" has no attribute " not in each.getMessage() for each in caplog.records)


class Refusing:
    """Refuses requests about files and batches whose method and path match, until it is mended."""

    def __init__(self, kind: FaultKind, pattern: str) -> None:
        self.kind = kind
        self.pattern = re.compile(pattern)
        self.asked = 0
        self.is_mended = False

    def __call__(self, request: str) -> Fault | None:
        if self.is_mended or self.pattern.fullmatch(request) is None:
            return None
        self.asked += 1
        return Fault(self.kind)


UPLOAD, BEGIN = "POST /v1/files", "POST /v1/batches"
LOOK, READ = "GET /v1/batches/batch_[^/]*", "GET /v1/files/.*/content"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings(batch_refusals=Refusing(kind, pattern)), words)
        for kind, pattern, words in (
            (FaultKind.UNAUTHORIZED, UPLOAD, "Incorrect API key provided"),
            (FaultKind.UNPAID, UPLOAD, "Insufficient Balance"),
            (FaultKind.INSUFFICIENT_QUOTA, BEGIN, "You exceeded your current quota"),
            (FaultKind.UNAUTHORIZED, BEGIN, "Incorrect API key provided"),
            (FaultKind.UNAUTHORIZED, LOOK, "Incorrect API key provided"),
            (FaultKind.FORBIDDEN, LOOK, "insufficient permissions"),
            (FaultKind.FORBIDDEN, READ, "insufficient permissions"),
        )
    ],
)
async def test_a_batch_whose_key_is_refused_waits_until_its_lane_is_resumed(
    provider: SimulatedProvider,
    settings: Settings,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: Any,
    capsys: Any,
) -> None:
    refusing = settings.batch_refusals
    assert isinstance(refusing, Refusing)
    monkeypatch.setattr(batches, "GIVES_UP_SECONDS", 0.0)  # what waits for people is not let go
    text = (tmp_path / "headway.toml").read_text()
    limit = '[quotas."sim/batch"]\nenqueued_tokens = 1_000_000\n'
    assert limit in text
    (tmp_path / "headway.toml").write_text(text.replace(limit, ""))  # as in most files
    async with opened(tmp_path) as hw, anyio.create_task_group() as group:
        group.start_soon(lambda: hw.work(slots=1, forever=True))
        handle = await submit(hw)
        await until(lambda: hw.scheduler.provider_health().locked_out == ("sim/batch",))
        await hw.run("agent", task="meanwhile", priority="interactive")
        await wait_for_state(hw, handle, RunState.WAITING)
        monkeypatch.chdir(tmp_path)
        assert await to_thread.run_sync(main, ["doctor"]) == 1
        assert words in capsys.readouterr().out
        assert refusing.asked == 1
        refusing.is_mended = True
        await hw.limits.resume("sim/batch")
        await wait_for_state(hw, handle, RunState.COMPLETED)
        others = [await submit(hw, task=f"other {n}") for n in range(3)]  # all by batch again
        for each in others:
            await wait_for_state(hw, each, RunState.COMPLETED)
        hw.drain()
    assert sorted(entry.tier for entry in provider.ledger.paid) == ["", *["batch"] * 4]
    assert len([each for each in caplog.messages if "is stopped" in each and words in each]) == 1


@pytest.mark.parametrize(
    "settings", [Settings(batch_refusals=Refusing(FaultKind.UNAUTHORIZED, BEGIN))]
)
async def test_a_batch_that_may_be_handed_in_waits_for_a_key_that_may_look(
    provider: SimulatedProvider, settings: Settings, tmp_path: Path
) -> None:
    refusing = settings.batch_refusals
    assert isinstance(refusing, Refusing)
    async with opened(tmp_path) as hw, anyio.create_task_group() as group:
        group.start_soon(lambda: hw.work(slots=1, forever=True))
        handle = await submit(hw)
        await until(lambda: hw.scheduler.provider_health().locked_out == ("sim/batch",))
        refusing.kind, refusing.pattern = FaultKind.FORBIDDEN, re.compile("GET /v1/batches")
        await hw.limits.resume("sim/batch")
        await until(lambda: refusing.asked == 2)
        await until(lambda: hw.scheduler.provider_health().locked_out == ("sim/batch",))
        refusing.is_mended = True
        await hw.limits.resume("sim/batch")
        await wait_for_state(hw, handle, RunState.COMPLETED)
        hw.drain()
    assert [entry.tier for entry in provider.ledger.paid] == ["batch"]


async def test_a_batch_whose_server_was_never_reached_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    (tmp_path / "headway.toml").write_text(CONFIG.format(url=url))
    (tmp_path / "batch_workflows.py").write_text(WORKFLOWS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(first_contact, "FIRST_PATIENCE_SECONDS", 0.3)
    async with opened(tmp_path) as hw:
        handle = await submit(hw)
        await worked(hw, handle, is_expected_to_fail=True)
        run = await hw.get_run(handle.id)
    words = f"no answer from {url} for 0.3 s: connection refused: see `headway doctor --ping`"
    assert words in (run.error or "")
    assert f"takes no batches of model 'sim': {words}" in caplog.text


async def test_a_file_of_requests_follows_no_redirect(tmp_path: Path) -> None:
    async with (
        simulated_provider(Settings()) as other,
        simulated_provider(Settings(moved_to=other.base_url)) as provider,
    ):
        asked = BatchProvider("a key", provider.base_url, PROVIDERS["openai"])
        with pytest.raises(openai.APIStatusError) as refused:
            await asked.upload("requests.jsonl", b"{}")
        await asked.close()
    assert refused.value.status_code == 307


async def test_a_run_that_is_deleted_takes_its_batched_calls_with_it(
    provider: SimulatedProvider, tmp_path: Path
) -> None:
    (tmp_path / "headway.toml").write_text(
        CONFIG.format(url=provider.base_url).replace("batch_wait = 0.05", "batch_wait = 600")
    )
    async with opened(tmp_path) as hw, anyio.create_task_group() as group:
        group.start_soon(lambda: hw.work(slots=1, forever=True))
        handle = await submit(hw)
        await wait_for_state(hw, handle, RunState.WAITING)
        run = await hw.get_run(handle.id)
        failed = replace(run, state=RunState.FAILED, finished_at=0.0)
        await hw.scheduler.save_run(failed)
        assert await hw.prune(keep=0) == [handle.id]
        assert hw.scheduler.statistics().batched == 0
        await hw.run("agent", task="after", priority="interactive")
        hw.drain()


@pytest.mark.parametrize("settings", [Settings(batch_seconds=600)])
async def test_a_batch_that_nobody_wants_is_cancelled(
    provider: SimulatedProvider, tmp_path: Path
) -> None:
    async with opened(tmp_path) as hw, anyio.create_task_group() as group:
        group.start_soon(lambda: hw.work(slots=2, forever=True))
        handle = await submit(hw)
        database = tmp_path / "headway.db"
        await until(lambda: states_of_batches(database) == ["submitted"])
        await wait_for_state(hw, handle, RunState.WAITING)
        await hw.cancel(handle.id)
        await until(lambda: states_of_batches(database) in (["ended"], []))
        (record,) = await rows(hw, handle)
        hw.drain()
    assert record.state is CallState.CANCELLED
    assert provider.ledger.paid == ()


@pytest.mark.parametrize(
    "settings", [Settings(batch_refusals=Refusing(FaultKind.SERVER_ERROR, LOOK))]
)
async def test_a_cancelled_call_that_is_answered_all_the_same_is_counted(
    provider: SimulatedProvider, settings: Settings, tmp_path: Path
) -> None:
    looks = settings.batch_refusals
    assert isinstance(looks, Refusing)
    async with opened(tmp_path) as hw:
        wanted, unwanted = await submit(hw, task="a"), await submit(hw, task="b")
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: hw.work(slots=2, forever=True))
            database = tmp_path / "headway.db"
            for handle in (wanted, unwanted):
                await wait_for_state(hw, handle, RunState.WAITING)
            # On a busy machine each may have a batch of its own.
            await until(lambda: set(states_of_batches(database)) == {"submitted"})
            await hw.cancel(unwanted.id)
            looks.is_mended = True  # nobody learns before that that the batch has ended
            await wait_for_state(hw, wanted, RunState.COMPLETED)
            await until(lambda: set(states_of_batches(database)) <= {"ended"})
            hw.drain()
        (record,) = await rows(hw, unwanted)
        costs = (await hw.costs())[-1]
    assert record.state is CallState.CANCELLED
    assert len(provider.ledger.paid) == 2
    assert costs.usd == pytest.approx(paid(provider, "batch"))


@pytest.mark.parametrize("answer", [None, "no JSON", "[]", '{"status_code": 200}'])
async def test_a_call_that_is_cancelled_once_its_answer_is_here_is_counted(
    provider: SimulatedProvider,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str | None,
) -> None:
    """One whose row cannot be read is cancelled like any other, and keeps no batch of others."""

    async def none(_: SqliteStore) -> list[Run]:
        return []

    monkeypatch.setattr(SqliteStore, "runs_to_wake", none)
    async with opened(tmp_path) as hw, anyio.create_task_group() as group:
        group.start_soon(lambda: hw.work(slots=2, forever=True))
        handle = await submit(hw)
        await until(lambda: states_of_batches(tmp_path / "headway.db") == ["ended"])
        await wait_for_state(hw, handle, RunState.WAITING)
        if answer is not None:
            with closing(sqlite3.connect(tmp_path / "headway.db")) as db, db:
                db.execute("UPDATE batched_requests SET answer = ?", (answer,))
        await hw.cancel(handle.id)
        while (record := (await rows(hw, handle))[0]).state is not CallState.CANCELLED:  # noqa: ASYNC110 (a row)
            await anyio.sleep(0.01)
        costs = (await hw.costs())[-1]
        hw.drain()
    assert (record.usage is None) is (answer is not None)
    assert costs.usd == pytest.approx(paid(provider, "batch") if answer is None else 0.0)
    assert paid(provider, "batch")


async def test_a_call_that_is_cancelled_while_its_answer_is_being_kept_is_counted(
    provider: SimulatedProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, batched_requests = tmp_path / "headway.db", SqliteStore.batched_requests

    async def cancelled_then(store: SqliteStore, batch_id: str | None) -> Sequence[BatchedRequest]:
        found = await batched_requests(store, batch_id)
        if found and batch_id is not None and provider.ledger.paid:
            await hw.cancel(handle.id)
            with anyio.move_on_after(1.0):
                await until(lambda: column(database, "state", "calls") == ["cancelled"])
        return found

    async with opened(tmp_path) as hw, anyio.create_task_group() as group:
        handle = await submit(hw)
        monkeypatch.setattr(SqliteStore, "batched_requests", cancelled_then)
        group.start_soon(lambda: hw.work(slots=2, forever=True))
        await until(lambda: states_of_batches(database) == ["ended"])
        await until(lambda: column(database, "state", "calls") == ["cancelled"])
        costs = (await hw.costs())[-1]
        hw.drain()
    assert costs.usd == pytest.approx(paid(provider, "batch"))
    assert costs.usd


async def test_a_budget_counts_batches_at_their_price(
    provider: SimulatedProvider, tmp_path: Path
) -> None:
    async with opened(tmp_path) as hw:
        handle = await submit(hw, "pair", budget_usd=1_000_000)
        await worked(hw, handle)
        spent = sum(record.usd or 0 for record in await rows(hw, handle))
    assert spent == pytest.approx(paid(provider, "batch"))


async def wait_for_state(hw: Headway, handle: RunHandle, state: RunState) -> None:
    database = hw.config.database
    assert isinstance(database, Path)
    await until(lambda: state.value in column(database, "state", "runs", handle.id))


def column(database: Path, name: str, table: str, row_id: str = "%") -> list[str]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        query = f"SELECT {name} FROM {table} WHERE id LIKE ?"
        return [value for (value,) in db.execute(query, (row_id,))]


def states_of_batches(database: Path) -> list[str]:
    return column(database, "state", "provider_batches")


async def test_what_waits_is_shown(
    provider: SimulatedProvider, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "headway.toml").write_text(
        CONFIG.format(url=provider.base_url).replace("batch_wait = 0.05", "batch_wait = 600")
    )
    async with opened(tmp_path) as hw, anyio.create_task_group() as group:
        group.start_soon(lambda: hw.work(slots=1, forever=True))
        handles = [await submit(hw, task=f"task {n}") for n in range(3)]
        for handle in handles:
            await wait_for_state(hw, handle, RunState.WAITING)
        statistics = hw.scheduler.statistics()
        hw.drain()
    monkeypatch.chdir(tmp_path)
    assert await to_thread.run_sync(main, ["runs", "show", handles[0].id]) == 0
    said = capsys.readouterr().out
    assert "waits for  its batch" in said
    assert "batched" in said
    assert statistics.batched == 3
    (gauge,) = [each for each in statistics.gauges if each.quota == "sim/batch"]
    assert gauge.available < gauge.capacity
    assert json.dumps(gauge.resource) == '"enqueued tokens"'


async def test_a_server_that_hangs_holds_up_no_batch_of_another(
    provider: SimulatedProvider, tmp_path: Path
) -> None:
    asked = anyio.Event()

    async def hang(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            asked.set()
            await anyio.sleep_forever()

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        group.start_soon(listener.serve, hang)
        with (tmp_path / "headway.toml").open("a") as file:
            file.write(
                'hung = "hung_workflow:hung"\n[models.slow]\nquotas = ["org"]\n'
                f'base_url = "http://127.0.0.1:{port}/v1"\nlanes = ["batch"]\n'
            )
        (tmp_path / "hung_workflow.py").write_text(
            "from autogen_agentchat.agents import AssistantAgent\n"
            'def hung(models):\n    return AssistantAgent("writer", models("slow"))\n'
        )
        async with opened(tmp_path) as hw:
            group.start_soon(lambda: hw.work(slots=2, forever=True))
            stuck = await submit(hw, "hung")
            await asked.wait()
            fine = await submit(hw)
            database = hw.config.database
            assert isinstance(database, Path)
            await until(lambda: column(database, "state", "runs", fine.id) == ["completed"])
            assert (await hw.get_run(stuck.id)).state is RunState.WAITING
            hw.drain()
        group.cancel_scope.cancel()

"""How workflows are registered, what their factories may do, and runs of scripts."""

import json
import re
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from anyio.from_thread import start_blocking_portal
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_ext.models.openai import OpenAIChatCompletionClient

from headway import Headway, Models, RunFailed
from headway.cli import main
from headway.testing import simulated_headway
from headway_scheduler.errors import CallerError
from headway_scheduler.model.states import RunState
from headway_scheduler.testing.provider import (
    Fault,
    FaultKind,
    Latency,
    Reply,
    Settings,
    ToolCall,
    simulated_provider,
)

INFO: Any = {"vision": False, "function_calling": False, "json_output": False, "family": "unknown"}
INFO |= {"structured_output": False}


def team(models: Models) -> AssistantAgent:
    return AssistantAgent("writer", models("sim"))


def written(folder: Path, address: str) -> Path:
    file = folder / "headway.toml"
    file.write_text(f"""
[database]
path = "headway.db"
[models.sim]
base_url = "{address}"
keyless = true
""")
    return file


def own_client(address: str) -> OpenAIChatCompletionClient:
    return OpenAIChatCompletionClient(
        model="sim", base_url=address, api_key="not-a-key", model_info=INFO
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (RoundRobinGroupChat([AssistantAgent("a", own_client("http://127.0.0.1:1/v1"))]), "is no"),
        ("report", "a str is no factory"),
        (lambda: None, "takes no argument"),
    ],
    ids=["team", "text", "function"],
)
def test_what_is_no_factory_is_refused_with_words(tmp_path: Path, given: Any, words: str) -> None:
    headway = Headway(written(tmp_path, "http://127.0.0.1:1/v1"))
    with pytest.raises(CallerError, match=words) as raised:
        headway.workflow("report")(given)
    assert "def make(models)" in str(raised.value)


CELL = """
@hw.workflow("cell")
def cell(models):
    return AssistantAgent("{name}", models("sim"))
"""


@pytest.mark.anyio
async def test_a_client_that_leads_past_the_simulated_provider_is_refused() -> None:
    async with simulated_headway() as hw:
        client = own_client("http://127.0.0.1:1/v1")
        hw.workflow("own")(lambda models: AssistantAgent("a", models(client)))
        with pytest.raises(RunFailed, match=r"simulated, and a client asks http://127.0.0.1:1/v1"):
            await hw.run("own", task="Go.")
        client = own_client(hw.provider.base_url)
        assert (await hw.run("own", task="Go.")).text
        await client.close()


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["tool_choice", "tools", "messages", "json_output"])
async def test_what_agents_give_with_each_request_cannot_be_given_for_all(name: str) -> None:
    async with simulated_headway() as hw:
        hw.workflow("own")(lambda models: AssistantAgent("a", models("sim", **{name: "required"})))
        with pytest.raises(RunFailed, match=f"{name} cannot be given"):
            await hw.run("own", task="Go.")


@pytest.mark.anyio
async def test_a_queued_run_that_fails_is_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def broken(models: Models) -> AssistantAgent:
        raise ValueError("no such prompt")

    async with simulated_headway() as hw:
        hw.workflow("broken")(broken)
        run = await hw.submit("broken", task="Go.")
        await hw.work(slots=1)
        assert (await hw.get_run(run.id)).state is RunState.FAILED
    (told,) = (each for each in caplog.records if each.levelname == "ERROR")
    assert "no such prompt" in told.getMessage()


@pytest.mark.anyio
async def test_a_cell_of_a_notebook_that_is_run_again_replaces_its_workflow() -> None:
    async with simulated_headway() as hw:
        cells = {"hw": hw, "AssistantAgent": AssistantAgent, "__name__": "__main__"}
        for name in ("first", "second"):
            exec(CELL.format(name=name), cells)
        result = await hw.run("cell", task="Go.")
        assert result.task_result.messages[-1].source == "second"
        with pytest.raises(CallerError, match="registered already"):
            hw.workflow("cell")(team)


@pytest.mark.anyio
async def test_a_worker_takes_the_runs_of_a_workflow_that_is_registered_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with simulated_provider() as provider:
        file = written(tmp_path, provider.base_url)
        before = Headway(file)
        before.workflow("late")(team)
        async with before:
            run = (await before.submit("late", task="Go.")).run

        async def lacks() -> str:
            await to_thread.run_sync(main, ["runs", "show", run.id, "--config", str(file)])
            found = re.search(r"^waits for  (.*)$", capsys.readouterr().out, re.MULTILINE)
            return found[1] if found else ""

        assert await lacks() == "a worker: none runs (`headway work`)"
        async with Headway(file) as hw, anyio.create_task_group() as group:
            group.start_soon(lambda: hw.work(slots=1, forever=True))
            while await lacks() != "a worker that has its workflow: none of those that run has":
                pass  # it registers
            hw.workflow("late")(team)
            assert (await (await hw.handle(run.id)).result()).text
            hw.drain()


@pytest.mark.anyio
async def test_a_run_without_a_slot_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with simulated_provider(Settings(latency=Latency(base_seconds=60))) as provider:
        file = written(tmp_path, provider.base_url)
        async with Headway(file) as hw, anyio.create_task_group() as group:
            hw.workflow("late")(team)
            group.start_soon(lambda: hw.work(slots=1, forever=True))
            first = await hw.submit("late", task="Go.")
            while (await hw.get_run(first.id)).state is not RunState.RUNNING:  # noqa: ASYNC110 (a row)
                await anyio.sleep(0.01)
            second = await hw.submit("late", task="Go.")
            told = ["queue", "why", second.id, "--config", str(file)]
            await to_thread.run_sync(main, told)
            assert capsys.readouterr().out == (
                f"run {second.id} is queued, and waits for a slot: all 1 are taken "
                "(`headway runs list --state running`)\n"
            )
            await to_thread.run_sync(main, [*told, "--json"])
            assert json.loads(capsys.readouterr().out)["state"] == "queued"
            await to_thread.run_sync(main, ["runs", "show", second.id, "--config", str(file)])
            assert "waits for  a slot: all 1 are taken" in capsys.readouterr().out
            for run in (second, first):
                await hw.cancel(run.id)
            await to_thread.run_sync(main, told)
            assert capsys.readouterr().out.endswith("is cancelled, and no call of it waits\n")
            hw.drain()


@pytest.mark.anyio
async def test_a_drain_that_takes_too_long_interrupts_runs(tmp_path: Path) -> None:
    async with simulated_headway() as hw:
        hw.workflow("late")(team)
        await hw.queue.pause()
        runs = [await hw.submit("late", task="Go.") for _ in range(2)]
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: hw.work(slots=1, forever=True))
            while (await hw.get_run(runs[0].id)).state is not RunState.RUNNING:  # noqa: ASYNC110 (a row)
                await anyio.sleep(0.01)
            hw.drain()
            with pytest.raises(CallerError, match="timeout_seconds"):
                hw.drain(timeout_seconds=-1)
            hw.drain(timeout_seconds=0)
        states = [(await hw.get_run(run.id)).state for run in runs]
        assert states == [RunState.INTERRUPTED, RunState.QUEUED]


@pytest.mark.anyio
async def test_a_key_that_has_another_task_is_said_to(caplog: pytest.LogCaptureFixture) -> None:
    async with simulated_headway() as hw:
        hw.workflow("cell")(team)
        first = await hw.run("cell", task="Go.", key="k")
        assert (await hw.run("cell", task="Go.", key="k")).run_id == first.run_id
        assert not caplog.messages
        assert (await hw.run("cell", task="Stop.", key="k")).run_id == first.run_id
        assert caplog.messages == [
            f"key 'k' belongs to run {first.run_id}, whose task or workflow is another: "
            "you get that run; use another key for another task"
        ]


@pytest.mark.anyio
@pytest.mark.parametrize("is_leader", [True, False])
async def test_submitting_a_key_again_queues_the_run_that_was_interrupted(
    tmp_path: Path, is_leader: bool
) -> None:
    async with simulated_provider(Settings(latency=Latency(0.2))) as provider:
        file = written(tmp_path, provider.base_url)
        before = Headway(file)
        before.workflow("cell")(team)
        async with before:
            run = await before.start("cell", task="Go.", key="k")
            run.interrupt()
            await run.ended()
        async with Headway(file) as leader, Headway(file) as follower:
            hw = leader if is_leader else follower
            assert hw.is_leader is is_leader
            hw.workflow("cell")(team)
            assert (await hw.get_run(run.id)).state is RunState.INTERRUPTED
            again = await hw.submit("cell", task="Go.", key="k")
            assert (again.id, again.run.state) == (run.id, RunState.QUEUED)
            await hw.work(slots=1)
            assert (await again.result()).text
            assert (await hw.submit("cell", task="Go.", key="k")).run.state is RunState.COMPLETED


@pytest.mark.anyio
async def test_a_reply_that_raises_fails_the_run_with_its_words() -> None:
    async with simulated_headway(reply=lambda request: str(request["no such field"])) as hw:
        hw.workflow("cell")(team)
        with pytest.raises(RunFailed, match="reply raised KeyError: 'no such field'"):
            await hw.run("cell", task="Go.")
        assert hw.provider.ledger.paid == ()


@pytest.mark.anyio
async def test_faults_of_the_provider_are_said_by_the_number_of_the_request() -> None:
    def faults(number: int, body: Any) -> Fault | None:
        return Fault(FaultKind.UNAUTHORIZED) if number == 2 else None

    async with simulated_headway(faults=faults) as hw:
        hw.workflow("cell")(team)
        assert (await hw.run("cell", task="Go.")).text
        with pytest.raises(RunFailed, match="401"):
            await hw.run("cell", task="Go.")


@pytest.mark.anyio
async def test_a_handle_says_which_run_it_is() -> None:
    async with simulated_headway() as hw:
        hw.workflow("cell")(team)
        run = await hw.submit("cell", task="Go.")
        assert repr(run) == f"<RemoteRunHandle {run.id} cell queued>"


@pytest.mark.anyio
async def test_a_factory_may_bring_a_client_of_its_own() -> None:
    async with simulated_headway() as hw:
        client = own_client(hw.provider.base_url)

        @hw.workflow("own")
        def own(models: Models) -> AssistantAgent:
            return AssistantAgent("writer", models(client, priority="high"))

        result = await hw.run("own", task="Go.")
        (record,) = await hw.list_calls(result.run_id)
        assert record.call.priority.label == "high"
        await client.close()


@pytest.mark.anyio
@pytest.mark.parametrize("given", [team, RoundRobinGroupChat, None])
async def test_what_is_no_model_is_refused_with_words(given: Any) -> None:
    async with simulated_headway() as hw:
        with pytest.raises(CallerError, match="is no model: give the name"):
            hw.model(given)


def test_a_script_runs_without_a_loop_of_its_own(tmp_path: Path) -> None:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(simulated_provider()) as provider,
    ):
        hw = Headway(written(tmp_path, provider.base_url))
        hw.workflow("report")(team)
        assert hw.run_sync("report", task="Week 47").text
        assert hw.run_sync("report", task="Week 48", key="w48").text
        assert len(provider.ledger.entries) == 2


@pytest.mark.anyio
async def test_a_notebook_is_told_to_await(tmp_path: Path) -> None:
    hw = Headway(written(tmp_path, "http://127.0.0.1:1/v1"))
    with pytest.raises(CallerError, match=r"await hw\.run"):
        hw.run_sync("report", task="Week 47")


@pytest.mark.anyio
async def test_plain_words_do_not_say_what_came_of_a_tool_that_was_cut_off(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = anyio.Event()

    async def charge(cents: int) -> str:
        """Charge."""
        begun.set()
        await anyio.sleep_forever()
        raise AssertionError

    settings = Settings(reply=lambda request: Reply(tool_calls=(ToolCall("charge", {"cents": 7}),)))
    async with simulated_provider(settings) as provider:
        file = written(tmp_path, provider.base_url)
        async with Headway(file) as hw:
            hw.workflow("pay")(lambda models: AssistantAgent("a", models("sim"), tools=[charge]))
            run = await hw.start("pay", task="Go.")
            await begun.wait()
            run.interrupt()
            await run.ended()
            run = await hw.resume(run.id)
            await run.ended()
            asked = ["runs", "answer", run.id, "Yes.", "--config", str(file)]
            assert await to_thread.run_sync(main, asked) == 2
            assert (await hw.get_run(run.id)).state is RunState.WAITING
            assert "--done RESULT, --again or --abort" in capsys.readouterr().err
            await to_thread.run_sync(main, ["runs", "show", run.id, "--config", str(file)])
            assert "with --done RESULT, --again or --abort" in capsys.readouterr().out
            # A command does not have the workflow of this program: it answers, and leaves it.
            asked = ["runs", "answer", run.id, "--again", "--config", str(file)]
            assert await to_thread.run_sync(main, asked) == 0
            assert "is answered: a worker that has its workflow goes on" in capsys.readouterr().err
            assert (await hw.get_run(run.id)).state is RunState.QUEUED

"""How workflows are registered, what their factories may do, and runs of scripts."""

from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_ext.models.openai import OpenAIChatCompletionClient

from headway import Headway, Models
from headway.testing import simulated_headway
from headway_scheduler.errors import CallerError
from headway_scheduler.testing.provider import simulated_provider

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

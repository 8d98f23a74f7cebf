"""A completed run keeps each text of its answers once, and gives every message back whole."""

import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.base import Team
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat

from headway import Headway
from headway.cli import main
from headway.config import load
from headway.pricing.prices import Prices
from headway.runs.export import exported
from headway.runs.journal import packed, unpacked
from headway_agents import dump_result
from headway_scheduler.errors import StoreCorrupt
from headway_scheduler.model.calls import Call, CallRecord, Priority
from headway_scheduler.model.data import replace
from headway_scheduler.model.states import CallState
from headway_scheduler.testing.provider import Settings, simulated_provider

pytestmark = pytest.mark.anyio


def long_reply(body: Any) -> str:
    """Long, and another one for every prompt."""
    messages = body["messages"]
    return f"Answer {len(messages)} to «{str(messages[-1]['content'])[:9]}»\n" * 40


def team(models: Any) -> Team:
    agents = [AssistantAgent(name, models("sim")) for name in ("writer", "critic")]
    return RoundRobinGroupChat(agents, termination_condition=MaxMessageTermination(5))


@pytest.fixture
async def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Path]:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    async with simulated_provider(Settings(reply=long_reply)) as provider:
        file = tmp_path / "headway.toml"
        file.write_text(
            f"""
[database]
path = "headway.db"
[quotas.roomy]
concurrency = 50
[models.sim]
quotas = ["roomy"]
base_url = "{provider.base_url}"
"""
        )
        yield file


def opened(config: Path) -> Headway:
    headway = Headway(load(config, environ={}))
    headway.workflow("team")(team)
    return headway


async def test_the_texts_of_answers_stand_in_a_result_as_references(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with opened(config) as headway:
        handle = await headway.start("team", task="Go.", key="once")
        await handle.result()
    assert handle.task_result is not None
    whole = dump_result(handle.task_result)
    async with opened(config) as headway:
        run = await headway.get_run(handle.id)
        assert run.result is not None
        assert "Answer" in whole
        assert "Answer" not in run.result
        assert [ref[1] for ref in json.loads(run.result)["refs"]] == [
            f"{run.id}.{number}" for number in range(4)
        ]
        again = await headway.start("team", task="Go.", key="once")
        assert (await again.result()).task_result == handle.task_result
        export = await exported(headway._opened.store, run, Prices(headway.config).usd_of)
        assert export.messages == json.loads(whole)["messages"]
    capsys.readouterr()
    show = partial(main, ["runs", "show", run.id, "--json", "--config", str(config)])
    assert await to_thread.run_sync(show) == 0
    assert json.loads(capsys.readouterr().out)["messages"] == json.loads(whole)["messages"]


async def test_a_result_without_references_is_read_as_it_was_written(config: Path) -> None:
    async with opened(config) as headway:
        handle = await headway.start("team", task="Go.", key="once")
        await handle.result()
        assert handle.task_result is not None
        whole = dump_result(handle.task_result)
        await headway.scheduler.save_run(replace(handle.run, result=whole))
    async with opened(config) as headway:
        again = await headway.start("team", task="Go.", key="once")
        assert (await again.result()).task_result == handle.task_result


async def test_a_copy_refers_to_no_call_of_its_parent_and_keeps_its_own_texts(config: Path) -> None:
    async with opened(config) as headway:
        first = await headway.start("team", task="Go.", key="first")
        await first.result()
        fork = await headway.fork(first.id, at="2")
        await fork.result()
        following = await headway.continue_run(first.id, "And now?")
        await following.result()
    for handle in (fork, following):
        assert handle.task_result is not None
        assert handle.run.result is not None
        refs = json.loads(handle.run.result)["refs"]
        assert {call_id.rpartition(".")[0] for _, call_id, _ in refs} == {handle.id}
    async with opened(config) as headway:
        own = await headway.list_calls(fork.id)
        assert fork.task_result is not None
        whole = json.loads(dump_result(fork.task_result))
        assert unpacked(fork.run.result or "", own) == whole
        # What a copy began with stays as long as the copy, and its own texts go with it.
        await headway.scheduler.forget(first.id, following.id)
        assert [run.id for run in await headway.list_runs()] == [fork.id, first.id]
        again = await headway.start("team", task="Go.", key="first")
        assert (await again.result()).task_result == first.task_result
        assert unpacked(fork.run.result or "", await headway.list_calls(fork.id)) == whole


def answer_of(number: int, **answer: Any) -> CallRecord:
    call = Call(f"r.{number}", "r", "writer", "m", (), Priority.NORMAL, 0, 0.0)
    return CallRecord(call, number, CallState.DONE, answer=json.dumps(answer))


def test_only_a_long_text_that_equals_an_answers_is_replaced() -> None:
    long, thought = "so " * 50, "hm " * 50
    records = [answer_of(0, content=long, thought=thought), answer_of(1, content="yes")]
    contents: list[Any] = [long, "yes", [long], {"text": long}, thought, long + "!", None]
    messages = [{"content": content, "id": n} for n, content in enumerate(contents)]
    whole = {"stop_reason": "end", "messages": [*messages, {"id": 7}]}
    text = packed(json.dumps(whole), records)
    assert json.loads(text)["refs"] == [[0, "r.0", "content"], [4, "r.0", "thought"]]
    assert unpacked(text, records) == whole


def test_a_reference_to_a_call_that_is_gone_is_a_damaged_database() -> None:
    records = [answer_of(0, content="so " * 50)]
    whole = json.dumps({"stop_reason": None, "messages": [{"content": "so " * 50}]})
    with pytest.raises(StoreCorrupt, match=r"call r\.0"):
        unpacked(packed(whole, records), [])

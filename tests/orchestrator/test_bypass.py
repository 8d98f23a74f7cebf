"""What the code of a run asks of a provider by itself is counted, charged and said, or refused."""

import json
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2
import openai
import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import UserMessage

from headway import Headway
from headway.cli import main
from headway.config import load
from headway_agents import bypass
from headway_scheduler.model.calls import BYPASS
from headway_scheduler.model.states import CallState
from headway_scheduler.testing.provider import (
    Reply,
    Settings,
    SimulatedProvider,
    ToolCall,
    simulated_provider,
)

pytestmark = pytest.mark.anyio
CLIENTS = (httpx.AsyncClient, httpx.Client, httpx2.AsyncClient, httpx2.Client)
ORIGINALS = {kind: kind.send for kind in CLIENTS}
HELLO: Any = [{"role": "user", "content": "hi"}]


def reply(body: Any) -> Reply | None:
    """Agents with a tool call it once."""
    tools = [tool["function"]["name"] for tool in body.get("tools") or ()]
    is_called = any(message["role"] == "tool" for message in body["messages"])
    return Reply(tool_calls=(ToolCall(tools[0]),)) if tools and not is_called else None


@pytest.fixture
async def provider() -> AsyncIterator[SimulatedProvider]:
    bypass._said.clear()
    async with simulated_provider(Settings(reply=reply)) as provider:
        yield provider
    assert all(kind.send is ORIGINALS[kind] for kind in CLIENTS)


def headway(folder: Path, provider: SimulatedProvider, policy: str = "warn") -> Headway:
    (folder / "headway.toml").write_text(f"""
[database]
path = "headway.db"
[defaults]
bypass = "{policy}"
[quotas.day]
requests_per_day = 1000
[models.sim]
base_url = "{provider.base_url}"
quotas = ["day"]
""")
    return Headway(load(folder / "headway.toml", environ={}))


def asks_by_itself(base_url: str) -> Callable[[], Any]:
    async def look_up() -> str:
        """Ask a model, past the scheduler."""
        sdk = openai.AsyncOpenAI(api_key="not-a-key", base_url=base_url)
        async with sdk:
            await sdk.models.list()  # costs nothing, and is not counted
            answer = await sdk.chat.completions.create(model="sim", messages=HELLO)
        return str(answer.choices[0].message.content)

    return look_up


def asks_in_a_thread(base_url: str) -> Callable[[], Any]:
    def look_up() -> str:
        """Ask a model, past the scheduler, as a function that blocks."""
        body = {"model": "sim", "messages": HELLO}
        return httpx.post(f"{base_url}/chat/completions", json=body).text[:20]

    return look_up


def asks_of_nobody(base_url: str) -> Callable[[], Any]:
    async def look_up() -> str:
        """Ask a server that is no provider."""
        async with httpx.AsyncClient() as http:
            try:
                await http.post("http://127.0.0.1:9/v1/chat/completions", json={})
            except httpx.ConnectError:
                return "nobody"
        return "somebody"

    return look_up


async def run_of(opened: Headway, tool: Callable[[], Any]) -> Any:
    opened.workflow("w")(lambda models: AssistantAgent("critic", models("sim"), tools=[tool]))
    return await opened.run("w", task="x")


@pytest.mark.parametrize("tool", [asks_by_itself, asks_in_a_thread])
async def test_it_is_counted_charged_shown_and_said_once(
    tmp_path: Path,
    provider: SimulatedProvider,
    tool: Any,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with caplog.at_level(logging.WARNING, "headway"):
        async with headway(tmp_path, provider) as opened:
            result = await run_of(opened, tool(provider.base_url))
            again = await opened.run("w", task="y")
            rows = await opened.list_calls(result.run_id)
            left = day_left(opened)
            receipt = await opened.receipt(result.run_id)
    assert len(provider.ledger) == 2 + 2 * result.calls == 2 + 2 * again.calls
    (past,) = [row for row in rows if row.call.kind == BYPASS]
    assert (past.call.path, past.call.model) == ("critic", "127.0.0.1")
    assert (past.state, past.call.quotas, past.attempts) == (CallState.CANCELLED, ("day",), 0)
    assert left == 1000 - len(provider.ledger)
    assert receipt.bypassed == 1
    assert str(receipt).endswith(" · past the scheduler: 1")
    said = [r.getMessage() for r in caplog.records if "past the scheduler" in r.getMessage()]
    assert said == [
        f"agent 'critic' of run {result.run_id} asks 127.0.0.1 past the scheduler: use models(…) "
        "or hw.openai (docs/providers.md)"
    ]
    shown = await anyio.to_thread.run_sync(show, tmp_path, result.run_id)
    assert shown == 0
    out = capsys.readouterr().out
    assert "bypassed   1 request to 127.0.0.1 by critic" in out
    assert "steps      1\n" in out
    assert "past.0" not in out


def day_left(opened: Headway) -> float:
    gauges = opened.scheduler.statistics().gauges
    return next(gauge.available for gauge in gauges if gauge.quota == "day")


def show(folder: Path, run_id: str, *more: str) -> int:
    return main(["runs", "show", run_id, "--config", str(folder / "headway.toml"), *more])


async def test_scripts_read_the_count_beside_the_calls(
    tmp_path: Path, provider: SimulatedProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    async with headway(tmp_path, provider) as opened:
        result = await run_of(opened, asks_by_itself(provider.base_url))
    await anyio.to_thread.run_sync(show, tmp_path, result.run_id, "--json")
    facts = json.loads(capsys.readouterr().out)
    assert facts["bypassed"] == [{"host": "127.0.0.1", "agent": "critic", "requests": 1}]
    assert {call["kind"] for call in facts["calls"]} == {"model", "tool"}


async def test_it_is_refused_if_the_configuration_says_so(
    tmp_path: Path, provider: SimulatedProvider
) -> None:
    async with headway(tmp_path, provider, "refuse") as opened:
        result = await run_of(opened, asks_in_a_thread(provider.base_url))
        text = json.dumps([m.model_dump(mode="json") for m in result.task_result.messages])
        rows = await opened.list_calls(result.run_id)
    assert "asks 127.0.0.1 past the scheduler" in text
    assert '[defaults] bypass` is \\"refuse\\"' in text
    assert len(provider.ledger) == result.calls
    assert BYPASS not in {row.call.kind for row in rows}


async def test_where_it_is_allowed_nothing_is_watched(
    tmp_path: Path, provider: SimulatedProvider
) -> None:
    async with headway(tmp_path, provider, "allow") as opened:
        result = await run_of(opened, asks_by_itself(provider.base_url))
        assert all(kind.send is ORIGINALS[kind] for kind in CLIENTS)
        assert (await opened.receipt(result.run_id)).bypassed == 0


async def test_what_is_scheduled_and_what_asks_no_provider_is_none(
    tmp_path: Path, provider: SimulatedProvider, caplog: pytest.LogCaptureFixture
) -> None:
    async with headway(tmp_path, provider) as opened:
        sdk = opened.openai("sim")

        async def look_up() -> str:
            """Ask through the scheduler."""
            await sdk.models.list()
            answer = await sdk.chat.completions.create(model="sim", messages=HELLO)
            return str(answer.choices[0].message.content)

        result = await run_of(opened, look_up)
        opened.workflow("n")(
            lambda models: AssistantAgent("a", models("sim"), tools=[asks_of_nobody("")])
        )
        other = await opened.run("n", task="x")
        await opened.model("sim").create([UserMessage(content="hi", source="user")])
        async with httpx.AsyncClient() as http:  # of no run
            body = {"model": "sim", "messages": HELLO}
            await http.post(f"{provider.base_url}/chat/completions", json=body)
        for run_id in (result.run_id, other.run_id):
            assert (await opened.receipt(run_id)).bypassed == 0
    assert "past the scheduler" not in caplog.text


async def test_two_at_once_watch_by_their_own_rules_and_the_last_gives_back(
    tmp_path: Path, provider: SimulatedProvider
) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    one, two = headway(folders[0], provider), headway(folders[1], provider, "refuse")
    async with one:
        async with two:
            first = await run_of(one, asks_by_itself(provider.base_url))
            second = await run_of(two, asks_by_itself(provider.base_url))
            assert (await one.receipt(first.run_id)).bypassed == 1
            assert (await two.receipt(second.run_id)).bypassed == 0
        assert httpx.AsyncClient.send is not ORIGINALS[httpx.AsyncClient]
        again = await one.run("w", task="again")
        assert (await one.receipt(again.run_id)).bypassed == 1
    assert all(kind.send is ORIGINALS[kind] for kind in CLIENTS)


async def test_a_wrapper_of_somebody_else_stays_where_it_is(
    tmp_path: Path, provider: SimulatedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with headway(tmp_path, provider) as opened:
        await run_of(opened, asks_by_itself(provider.base_url))
        ours = httpx.AsyncClient.send

        async def theirs(*args: Any, **options: Any) -> Any:
            return await ours(*args, **options)

        httpx.AsyncClient.send = theirs  # type: ignore[method-assign]
    assert httpx.AsyncClient.send is theirs
    async with httpx.AsyncClient() as http:  # nobody watches any more
        await http.post(f"{provider.base_url}/embeddings", json={"model": "m", "input": "x"})
    async with headway(tmp_path, provider) as opened:
        result = await run_of(opened, asks_by_itself(provider.base_url))
        assert (await opened.receipt(result.run_id)).bypassed == 1
    httpx.AsyncClient.send = ours  # type: ignore[method-assign]
    async with headway(tmp_path, provider) as opened:
        await run_of(opened, asks_of_nobody(""))


async def test_a_run_that_goes_on_replays_its_calls_beside_them(
    tmp_path: Path, provider: SimulatedProvider
) -> None:
    """A factory that asks by itself asks again at each attempt, and each time is counted."""
    ask = asks_by_itself(provider.base_url)

    async def factory(models: Any) -> Any:
        await ask()
        await ask()
        return AssistantAgent("critic", models("sim"))

    async with headway(tmp_path, provider) as opened:
        opened.workflow("w")(factory)
        first = await opened.run("w", task="x")
        rows = await opened.list_calls(first.run_id)
        assert [row.call.id for row in rows if row.call.kind == BYPASS] == [
            f"{first.run_id}.past.{number}" for number in range(2)
        ]
        follow = await opened.continue_run(first.run_id, "more")
        await follow.ended()
        assert follow.error is None
        receipt = await opened.receipt(follow.id)
        assert (receipt.replayed, receipt.paid, receipt.bypassed) == (1, 1, 2)


async def test_another_attempt_goes_on_counting(
    tmp_path: Path, provider: SimulatedProvider
) -> None:
    ask, is_broken = asks_by_itself(provider.base_url), [True]

    async def factory(models: Any) -> Any:
        await ask()
        if is_broken.pop():
            raise RuntimeError("not yet")
        return AssistantAgent("critic", models("sim"))

    async with headway(tmp_path, provider) as opened:
        opened.workflow("w")(factory)
        handle = await opened.start("w", task="x")
        await handle.ended()
        assert isinstance(handle.error, Exception)
        is_broken.append(False)
        again = await opened.retry(handle.id)
        assert (await again.result()).calls == 1
        rows = await opened.list_calls(handle.id)
        past = [row.call.id for row in rows if row.call.kind == BYPASS]
        assert past == [f"{handle.id}.past.{number}" for number in range(2)]


async def test_a_follower_counts_through_the_leader(
    tmp_path: Path, provider: SimulatedProvider
) -> None:
    async with headway(tmp_path, provider) as leader, headway(tmp_path, provider) as follower:
        assert not follower.is_leader
        result = await run_of(follower, asks_by_itself(provider.base_url))
        rows = await leader.list_calls(result.run_id)
        left = day_left(leader)
    assert sum(row.call.kind == BYPASS for row in rows) == 1
    assert left == 1000 - len(provider.ledger)

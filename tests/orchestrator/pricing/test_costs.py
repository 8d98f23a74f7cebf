"""Costs are added up from the journal, call by call; an unknown price stays unknown."""

import json
from pathlib import Path
from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import UserMessage

from headway import Headway
from headway.cli import main
from headway.cli.parser import COST_KEYS
from headway.config import Config, load
from headway.pricing.costs import added_up
from headway.pricing.prices import Prices
from headway.testing import MODEL, simulated_headway
from headway_scheduler.errors import CallerError
from headway_scheduler.model.calls import SPENT_BY, Spent, Usage
from headway_scheduler.testing.provider import Reply, Settings, simulated_provider

CONFIG = """
[database]
path = "headway.db"
[quotas.q]
requests_per_minute = 6000
[models.stated]
quotas = ["q"]
usd_per_million_input_tokens = 2
usd_per_million_output_tokens = 10
[models."gpt-4o"]
quotas = ["q"]
[models.nobodys]
quotas = ["q"]
"""


@pytest.fixture
def prices(tmp_path: Path) -> Prices:
    (tmp_path / "headway.toml").write_text(CONFIG)
    return Prices(load(tmp_path / "headway.toml"))


def test_each_call_is_priced_and_what_has_no_price_is_unknown(prices: Prices) -> None:
    spent = [
        Spent("a", "stated", Usage(1_000, 100), 3, 1),
        Spent("a", "nobodys", Usage(5, 5), 2, 0),
        Spent("b", "stated", None, 1, 0),
        Spent("b", "gpt-4o", Usage(1_000_000, 0), 1, 0),
        Spent("c", "nobodys", Usage(5, 5), 1, 0),
    ]
    a, b, c, total = added_up(spent, prices)
    assert (c.usd, c.unpriced) == (None, 1)
    assert a.usd is not None
    assert b.usd is not None
    assert (a.key, a.calls, a.unpriced, a.possibly_paid) == ("a", 5, 2, 1)
    assert a.usd == pytest.approx(3 * 0.003)
    assert (a.input_tokens, a.output_tokens) == (3_010, 310)
    assert (b.calls, b.unpriced) == (2, 1)
    assert b.usd > 0  # the list price
    assert (total.key, total.calls, total.unpriced) == ("total", 8, 4)
    assert total.usd == pytest.approx(a.usd + b.usd)


@pytest.mark.anyio
async def test_the_costs_of_a_headway_are_what_its_provider_was_paid() -> None:
    async with simulated_headway() as headway:

        @headway.workflow("agent")
        def agent(models: object) -> AssistantAgent:
            return AssistantAgent("writer", models(MODEL))  # type: ignore[operator]

        for team in ("a", "a", "b"):
            run = await headway.start("agent", task="x", team=team)
            await run.result()
        paid = headway.provider.ledger.paid
        costs = {cost.key: cost for cost in await headway.costs("team")}
        assert {key: cost.calls for key, cost in costs.items()} == {"a": 2, "b": 1, "total": 3}
        assert costs["total"].input_tokens == sum(entry.prompt_tokens for entry in paid)
        assert (costs["total"].usd, costs["total"].unpriced) == (
            None,
            3,
        )  # no price is known for the simulated model
        with pytest.raises(CallerError, match="not by 'colour'"):
            await headway.costs("colour")


PRICED = """
[database]
path = "headway.db"
[quotas.q]
requests_per_minute = 6000
[models.m]
quotas = ["q"]
base_url = "{address}"
api_key_env = "A_KEY"
usd_per_million_input_tokens = {price}
usd_per_million_output_tokens = 10
usd_per_million_cached_input_tokens = 1
"""


@pytest.mark.anyio
async def test_a_call_is_charged_once_when_it_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streamed or not, by a client or by the SDK: what was cached is counted, and later prices
    change nothing of what it cost."""
    monkeypatch.setenv("A_KEY", "not-a-key")
    said = Reply("A haiku.", output_tokens=100, cached_tokens=6, tier="default")
    asked = [UserMessage(content="Write a haiku about the sea.", source="user")]
    messages: Any = [{"role": "user", "content": "Write a haiku about the sea."}]
    async with simulated_provider(Settings(reply=lambda _: said)) as provider:

        def config(price: float) -> Config:
            file = tmp_path / "headway.toml"
            file.write_text(PRICED.format(address=provider.base_url, price=price))
            return load(file)

        async with Headway(config(2)) as headway:
            client, sdk = headway.model("m"), headway.openai("m")
            await client.create(asked)
            assert [item async for item in client.create_stream(asked)]
            await sdk.chat.completions.create(model="m", messages=messages)
            stream = await sdk.chat.completions.create(
                model="m", messages=messages, stream=True, stream_options={"include_usage": True}
            )
            assert [chunk async for chunk in stream]
            (run,) = await headway.list_runs()
            rows = await headway.list_calls(run.id)
            (cost, _) = await headway.costs("model")
        async with Headway(config(1000)) as headway:
            (again, _) = await headway.costs("model")
    prompt = rows[0].usage.input_tokens if rows[0].usage else 0
    used = Usage(prompt, 100, cache_read_tokens=6)
    usd = ((prompt - 6) * 2 + 6 * 1 + 100 * 10) / 1e6
    assert [row.usage for row in rows] == [used] * 4
    assert [row.usd for row in rows] == [pytest.approx(usd)] * 4
    assert {(row.usd_source, row.tier, row.served_model) for row in rows} == {
        ("stated", "default", None)
    }
    assert (cost.calls, cost.cached_tokens, cost.unpriced) == (4, 24, 0)
    assert cost.usd == again.usd == pytest.approx(4 * usd)
    assert again.saved_usd > cost.saved_usd == pytest.approx(4 * 6 / 1e6)


def test_the_command_shows_and_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "headway.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    assert main(["submit", "a:b", "task"]) == 0
    capsys.readouterr()
    assert main(["costs", "--by", "day", "--since", "7d"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == [
        "total",
        *("0", "0", "0", "0"),
        "$0.0000",
        *("-", "-"),
    ]
    assert main(["costs", "--json"]) == 0
    (total,) = json.loads(capsys.readouterr().out)
    assert (total["key"], total["usd"]) == ("total", 0.0)


def test_the_command_line_groups_costs_by_what_a_store_can_group_by() -> None:
    assert COST_KEYS == SPENT_BY

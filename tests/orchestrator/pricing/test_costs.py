"""What was spent: added up from the journal, priced call by call, unknown where it is unknown."""

import json
from pathlib import Path

import pytest
from autogen_agentchat.agents import AssistantAgent

from headway.cli import main
from headway.cli.parser import COST_KEYS
from headway.config import load
from headway.pricing.costs import added_up
from headway.pricing.prices import Prices
from headway.testing import MODEL, simulated_headway
from headway_scheduler.errors import CallerError
from headway_scheduler.model.calls import SPENT_BY, Spent, Usage

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


def test_the_command_shows_and_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "headway.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    assert main(["submit", "a:b", "task"]) == 0
    capsys.readouterr()
    assert main(["costs", "--by", "day", "--since", "7d"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["total", "0", "0", "0", "$0.0000"]
    assert main(["costs", "--json"]) == 0
    (total,) = json.loads(capsys.readouterr().out)
    assert (total["key"], total["usd"]) == ("total", 0.0)


def test_the_command_line_groups_costs_by_what_a_store_can_group_by() -> None:
    assert COST_KEYS == SPENT_BY

"""Dollars are a cap: what the provider bills stays within a budget, however many calls go at once.

The provider's own ledger counts, at the prices of the configuration.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from autogen_agentchat.agents import AssistantAgent, BaseChatAgent
from autogen_agentchat.base import Response
from autogen_agentchat.messages import BaseChatMessage, TextMessage
from autogen_core import CancellationToken
from autogen_core.models import ChatCompletionClient, UserMessage
from tests.waiting import until

from headway import Headway, RunFailed
from headway.cli.database import load_queue, reading
from headway.cli.text import waits_for
from headway_scheduler.core.inspection import explain
from headway_scheduler.testing.provider import (
    Fault,
    FaultKind,
    Latency,
    Reply,
    Settings,
    SimulatedProvider,
    simulated_provider,
)

pytestmark = pytest.mark.anyio

CALLS = 50
USD_PER_TOKEN = 20e-6
CONFIG = """
[database]
path = "headway.db"
[quotas.sim]
concurrency = 64
[quotas.money]
usd_per_day = 0.5
[models.sim]
quotas = ["sim"]
base_url = "{url}"
usd_per_million_input_tokens = 1
usd_per_million_output_tokens = 20
[models.unpriced]
quotas = ["sim"]
base_url = "{url}"
[teams.poor]
quotas = ["money"]
"""


class Fan(BaseChatAgent):
    """Asks all its questions at once, and tells how many were answered."""

    produced_message_types = (TextMessage,)

    def __init__(self, client: ChatCompletionClient, cap: int | None) -> None:
        super().__init__("fan", "Asks much.")
        self._client = client
        self._arguments = {} if cap is None else {"max_tokens": cap}

    async def on_messages(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> Response:
        asked = [
            self._client.create(
                [UserMessage(content=f"question {number}", source="user")],
                extra_create_args=self._arguments,
            )
            for number in range(CALLS)
        ]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        if errors:
            raise errors[0]
        return Response(chat_message=TextMessage(content="all", source=self.name))

    async def on_reset(self, cancellation_token: CancellationToken) -> None:
        pass


def opened(folder: Path) -> Headway:
    headway = Headway(folder / "headway.toml")

    @headway.workflow("fan")
    def fan(models: Any, model: str = "sim", cap: int | None = None) -> Fan:
        return Fan(models(model), cap)

    headway.workflow("one")(lambda models: AssistantAgent("one", models("sim")))
    return headway


@pytest.fixture
def settings() -> Settings:
    return Settings(latency=Latency(0.02), reply=lambda body: Reply("x", output_tokens=1000))


@pytest.fixture
async def provider(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[SimulatedProvider]:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    async with simulated_provider(settings) as provider:
        (tmp_path / "headway.toml").write_text(CONFIG.format(url=provider.base_url))
        yield provider


def billed(provider: SimulatedProvider) -> float:
    paid = provider.ledger.paid
    return sum(each.prompt_tokens + 20 * each.completion_tokens for each in paid) / 1e6


async def test_with_a_cap_on_its_calls_a_run_never_passes_its_budget(
    provider: SimulatedProvider, tmp_path: Path
) -> None:
    async with opened(tmp_path) as headway:
        with pytest.raises(RunFailed, match="BudgetExceeded"):
            await headway.run("fan", task="t", budget_usd=0.5, parameters={"cap": 1000})
    assert 0.45 < billed(provider) <= 0.5


async def test_calls_that_reserve_more_than_they_cost_go_on_when_others_end(
    provider: SimulatedProvider, tmp_path: Path
) -> None:
    """50 calls reserve $4 of $1.50, and cost $1: all go, some after others."""
    async with opened(tmp_path) as headway:
        await headway.run("fan", task="t", budget_usd=1.5, parameters={"cap": 4000})
    assert len(provider.ledger.paid) == CALLS


async def test_without_caps_one_call_at_a_time_goes_until_answers_tell_what_they_cost(
    provider: SimulatedProvider, tmp_path: Path
) -> None:
    """Three calls alone, then as many at once as the budget has room for."""
    async with opened(tmp_path) as headway:
        run = await headway.start("fan", task="t", budget_usd=0.5)
        with pytest.raises(RunFailed, match="BudgetExceeded"):
            await run.result()
        calls = await headway.list_calls(run.id)
    rounds = Counter(call.admitted_at for call in calls if call.usage is not None)
    assert list(dict(sorted(rounds.items())).values())[:3] == [1, 1, 1]
    assert max(rounds.values()) > 1
    assert 0.45 < billed(provider) <= 0.5


@pytest.mark.parametrize(
    "settings", [Settings(reply=lambda body: Reply("x", output_tokens=100_000))]
)
async def test_without_caps_a_budget_is_passed_by_one_call_that_nobody_could_foresee(
    provider: SimulatedProvider, tmp_path: Path
) -> None:
    async with opened(tmp_path) as headway:
        with pytest.raises(RunFailed, match="BudgetExceeded"):
            await headway.run("fan", task="t", budget_usd=0.5)
    assert len(provider.ledger.paid) == 1


async def test_processes_that_follow_keep_their_runs_budgets_too(
    provider: SimulatedProvider, tmp_path: Path
) -> None:
    async with opened(tmp_path) as leader, opened(tmp_path) as follower:
        runs = [
            await each.start("fan", task="t", budget_usd=budget, parameters={"cap": 1000})
            for each, budget in ((follower, 0.3), (follower, 0.2), (leader, 0.1))
        ]
        for run in runs:
            with pytest.raises(RunFailed, match="BudgetExceeded"):
                await run.result()
    assert 0.5 < billed(provider) <= 0.6


async def test_dollars_a_day_are_a_cap_too(provider: SimulatedProvider, tmp_path: Path) -> None:
    async with opened(tmp_path) as headway:
        run = await headway.start("fan", task="t", team="poor", parameters={"cap": 1000})
        statistics = headway.scheduler.statistics
        await until(lambda: billed(provider) > 0.45 and not statistics().in_flight)
        assert billed(provider) <= 0.5
        await headway.cancel(run.id)


@pytest.mark.parametrize("by", ["file", "command"])
async def test_under_each_other_number_the_day_has_spent_what_it_has_spent(
    provider: SimulatedProvider, tmp_path: Path, by: str
) -> None:
    """Lowered, raised and left, with calls between and without."""

    def free(headway: Headway) -> tuple[float, float]:
        (gauge,) = [g for g in headway.scheduler.statistics().gauges if g.quota == "money"]
        return gauge.capacity, gauge.available

    numbers = ((3.0, True), (2.5, True), (2.5, False), (2.5, False), (3.5, True), (3.5, False))
    for number, is_used in (*numbers, (3.5, False)):
        if by == "file":
            text = CONFIG.format(url=provider.base_url).replace("= 0.5", f"= {number}")
            (tmp_path / "headway.toml").write_text(text)
        async with opened(tmp_path) as headway:
            if by == "command":
                await headway.limits.set("money", {"usd_per_day": number})
            assert free(headway) == (number, pytest.approx(number - billed(provider)))
            if is_used:
                await headway.run("one", task="t", team="poor")
                assert free(headway) == (number, pytest.approx(number - billed(provider)))


def cut_every_third(number: int, _: Any) -> Fault | None:
    return Fault(FaultKind.CUT_STREAM, after_chunks=0) if number % 3 == 0 else None


@pytest.mark.parametrize(
    "settings",
    [Settings(reply=lambda body: Reply("x", output_tokens=1000), faults=cut_every_third)],
)
async def test_an_answer_that_is_cut_off_is_billed_and_counts_what_it_reserved(
    provider: SimulatedProvider, tmp_path: Path
) -> None:
    async with opened(tmp_path) as headway:
        with pytest.raises(RunFailed, match="BudgetExceeded"):
            await headway.run("fan", task="t", budget_usd=0.5, parameters={"cap": 1000})
    assert 0.4 < billed(provider) <= 0.5


async def test_what_was_spent_is_known_after_a_restart(
    provider: SimulatedProvider, tmp_path: Path
) -> None:
    async with opened(tmp_path) as headway:
        run = await headway.start("fan", task="t", budget_usd=0.3, parameters={"cap": 1000})
        with pytest.raises(RunFailed):
            await run.result()
    assert billed(provider) <= 0.3
    async with opened(tmp_path) as headway:
        again = await headway.retry(run.id, budget_usd=0.4)
        with pytest.raises(RunFailed, match="BudgetExceeded"):
            await again.result()
    assert 0.3 < billed(provider) <= 0.4


async def test_a_budget_needs_a_price(provider: SimulatedProvider, tmp_path: Path) -> None:
    async with opened(tmp_path) as headway:
        with pytest.raises(RunFailed, match=r"no price .*usd_per_million_input_tokens"):
            await headway.run("fan", task="t", budget_usd=9, parameters={"model": "unpriced"})
        await headway.run("fan", task="t", parameters={"model": "unpriced"})
    assert len(provider.ledger.paid) == CALLS


@pytest.mark.parametrize(
    "settings", [Settings(latency=Latency(30), reply=lambda body: Reply("x", output_tokens=1000))]
)
async def test_queue_why_says_that_a_call_waits_for_the_budget_of_its_run(
    provider: SimulatedProvider, tmp_path: Path
) -> None:
    """Of a live process, and of what is on disk."""
    async with opened(tmp_path) as headway:
        run = await headway.start("fan", task="t", budget_usd=0.5, parameters={"cap": 9000})
        statistics = headway.scheduler.statistics
        await until(lambda: statistics().in_flight == 2 and sum(statistics().waiting) == CALLS - 2)
        waiting = headway.scheduler.queued()[0].call.id
        words = (
            r"budget of the run: needs \$0.18\d\d, \$0.1[34]\d\d free, when a call in flight ends"
        )
        why = headway.scheduler.explain(waiting)
        assert why is not None
        assert re.fullmatch(words, waits_for(why, headway.scheduler.now()))
        async with reading(headway.config) as reader:
            why = None
            while why is None:  # what is shown above may not be committed yet
                await anyio.sleep(0.01)
                stored = await load_queue(headway.config, reader)
                why = explain(stored.scheduler.state, waiting, reader.now)
            assert "budget of the run: needs $0.18" in waits_for(why, reader.now)
        await headway.cancel(run.id)

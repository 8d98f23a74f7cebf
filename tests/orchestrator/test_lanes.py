"""Lanes of a provider, from the configuration to the bill."""

import json
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread
from tests.waiting import until

from headway import Headway
from headway.cli import main
from headway.config import ConfigError, load
from headway.pricing.prices import Prices
from headway.reached import of_model
from headway_scheduler.errors import CallerError
from headway_scheduler.model.calls import Priority, Served, ServiceLane, Usage
from headway_scheduler.testing.provider import (
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
[models.sim]
quotas = ["org"]
base_url = "{url}"
lanes = ["flex"]
priority_for = ["interactive"]
[lanes]
flex_gives_up = {gives_up}
[workflows]
agent = "lane_workflows:agent"
"""
WORKFLOWS = """
from autogen_agentchat.agents import AssistantAgent

def agent(models):
    return AssistantAgent("writer", models("sim"))
"""


def refused_by_flex(number: int, body: Any) -> Fault | None:
    return Fault(FaultKind.NO_CAPACITY) if body.get("service_tier") == "flex" else None


@pytest.fixture
def settings() -> Settings:
    return Settings()


@pytest.fixture
async def provider(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[SimulatedProvider]:
    async with simulated_provider(settings) as provider:
        text = CONFIG.format(url=provider.base_url, gives_up="0.1")
        (tmp_path / "headway.toml").write_text(text)
        (tmp_path / "lane_workflows.py").write_text(WORKFLOWS)
        monkeypatch.syspath_prepend(str(tmp_path))
        yield provider


def opened(folder: Path) -> Headway:
    return Headway(load(folder / "headway.toml", environ={}))


def tiers(provider: SimulatedProvider) -> list[tuple[str, int]]:
    return [(entry.tier, entry.status) for entry in provider.ledger.entries]


async def test_a_run_opts_in(provider: SimulatedProvider, tmp_path: Path) -> None:
    async with opened(tmp_path) as hw:
        result = await hw.run("agent", task="t", priority="background", lane="flex")
        assert (await hw.get_run(result.run_id)).lane is ServiceLane.FLEX
        (record,) = await hw.list_calls(result.run_id)
        await hw.run("agent", task="t", priority="background")
        await hw.run("agent", task="t", priority="interactive", lane="flex")
    assert record.call.quotas == ("sim/flex", "org")
    assert tiers(provider) == [("flex", 200), ("", 200), ("priority", 200)]


async def test_the_lane_of_a_run_is_known_to_whoever_executes_it(
    provider: SimulatedProvider, tmp_path: Path
) -> None:
    async with opened(tmp_path) as leader, opened(tmp_path) as follower:
        assert leader.is_leader
        assert not follower.is_leader
        handle = await leader.submit("agent", task="t", priority="background", lane="flex")
        await follower.work(slots=1)
        await until(lambda: len(provider.ledger.entries) == 1)
        assert (await leader.get_run(handle.id)).lane is ServiceLane.FLEX
    assert tiers(provider) == [("flex", 200)]


async def test_a_copy_of_a_run_has_its_lane(provider: SimulatedProvider, tmp_path: Path) -> None:
    async with opened(tmp_path) as hw:
        result = await hw.run("agent", task="t", priority="background", lane="flex")
        copy = await hw.fork(result.run_id, at="0")
        await copy.ended()
    assert tiers(provider) == [("flex", 200)] * 2


@pytest.mark.parametrize("settings", [Settings(faults=refused_by_flex)])
@pytest.mark.parametrize("follows", [False, True])
async def test_without_capacity_a_call_goes_standard_in_the_end(
    provider: SimulatedProvider, tmp_path: Path, follows: bool
) -> None:
    async with opened(tmp_path) as leader, opened(tmp_path) as follower:
        hw = follower if follows else leader
        result = await hw.run("agent", task="t", priority="background", lane="flex")
        (record,) = await hw.list_calls(result.run_id)
    assert record.call.lane is ServiceLane.STANDARD
    assert record.attempts == 1
    assert tiers(provider) == [("flex", 429), ("", 200)]


@pytest.mark.parametrize("settings", [Settings(faults=refused_by_flex)])
async def test_a_lane_without_capacity_is_shown(
    provider: SimulatedProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    text = CONFIG.format(url=provider.base_url, gives_up="600")
    (tmp_path / "headway.toml").write_text(text)
    async with opened(tmp_path) as hw:
        handle = await hw.start("agent", task="t", priority="background", lane="flex")
        await until(lambda: hw.scheduler.provider_health().probing == ("sim/flex",))
        await hw.cancel(handle.id)
    monkeypatch.chdir(tmp_path)
    assert await to_thread.run_sync(main, ["limits", "list"]) == 0
    (line,) = [each for each in capsys.readouterr().out.splitlines() if "sim/flex" in each]
    assert "no capacity since" in line


async def test_flex_without_a_model_that_has_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "headway.toml").write_text('[database]\npath = "headway.db"\n')
    async with opened(tmp_path) as hw:
        with pytest.raises(CallerError, match=r'lanes = \["flex"\]'):
            await hw.submit("a:b", task="t", lane="flex")
        with pytest.raises(CallerError, match="lane must be one of standard, flex, batch, not"):
            await hw.submit("a:b", task="t", lane="fast")


async def test_a_run_that_is_too_urgent_for_its_lane_is_told_so(
    provider: SimulatedProvider, tmp_path: Path, caplog: Any
) -> None:
    caplog.set_level(logging.WARNING, "headway")
    async with opened(tmp_path) as hw:
        await hw.submit("agent", task="t", lane="flex")
    assert "is normal: only background calls go by flex" in caplog.text


@pytest.mark.parametrize("command", ["submit", "run"])
def test_the_command_line_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "replayed_workflows.py").write_text(
        "from autogen_ext.models.replay import ReplayChatCompletionClient\n"
        "from autogen_agentchat.agents import AssistantAgent\n"
        "def agent(models):\n"
        "    return AssistantAgent('w', ReplayChatCompletionClient(['yes']))\n"
    )
    (tmp_path / "headway.toml").write_text('[models.sim]\nlanes = ["flex"]\n')
    words = [
        command,
        "replayed_workflows:agent",
        "t",
        "-p",
        "background",
        "--lane",
        "flex",
        "--json",
    ]
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(words) == 0
    assert '"lane": "flex"' in capsys.readouterr().out
    assert main(["runs", "list", "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)
    assert run["lane"] == "flex"
    assert main(["runs", "show", run["id"]]) == 0
    assert "lane       flex" in capsys.readouterr().out


# Configuration


def configured(folder: Path, text: str) -> Any:
    (folder / "headway.toml").write_text(text)
    return load(folder / "headway.toml", environ={})


def test_a_lane_has_a_quota_of_its_own(tmp_path: Path) -> None:
    config = configured(tmp_path, '[models.m]\nlanes = ["flex"]\n[models.n]\n')
    assert config.quotas["m/flex"].limits == ()
    assert "n/flex" not in config.quotas
    stated = configured(
        tmp_path, '[models.m]\nlanes = ["flex"]\n[quotas."m/flex"]\nrequests_per_minute = 5\n'
    )
    assert stated.quotas["m/flex"].limits[0].largest == 5


def test_a_model_that_is_not_listed_has_the_lane_of_the_default_one(tmp_path: Path) -> None:
    config = configured(tmp_path, '[defaults]\nmodel = "m"\n[models.m]\nlanes = ["flex"]\n')
    assert config.lane_quota("other", ServiceLane.FLEX) == "m/flex"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("90", 90), ('"90s"', 90), ('"15m"', 900), ('"1.5h"', 5400), ('"1d"', 86400)],
)
def test_times_have_units(tmp_path: Path, value: str, seconds: float) -> None:
    assert configured(tmp_path, f"[lanes]\nflex_before = {value}\n").flex_before == seconds


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[models.m]\nlanes = ["fast"]', "must be a list of lanes; permitted: flex, batch"),
        ('[models.m]\nlanes = "flex"', "must be a list of lanes"),
        ('[models.m]\npriority_for = ["urgent"]', "'urgent' is not a priority"),
        ("[models.m]\npriority_for = 3", "must be a list of priorities"),
        (
            '[models.m]\nlanes = ["flex"]\nprovider = "local"',
            "is for OpenAI's protocol, not for local",
        ),
        ('[models.m]\npriority_for = ["high"]\nprovider = "anthropic"', "not for anthropic"),
        ('[lanes]\nflex_before = "soon"', 'must be a time above 0, as seconds or as in "90s"'),
        ("[lanes]\nflex_before = 0", "must be a time above 0"),
        ("[lanes]\nflex_after = 1", "is unknown; did you mean flex_before"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=r"headway\.toml:") as caught:
        configured(tmp_path, text)
    assert words in str(caught.value)


# Price

AT = datetime(2026, 11, 1, 12, tzinfo=UTC).timestamp()
USAGE = Usage(12_000, 300)


def test_a_call_is_priced_by_the_tier_that_served_it_and_reserves_the_most_it_may_cost(
    tmp_path: Path,
) -> None:
    text = '[quotas.q]\nusd_per_day = 5\n[models."gpt-5.4"]\nquotas = ["q"]\nlanes = ["flex"]\n'
    hw = Headway(configured(tmp_path, text + 'priority_for = ["high"]\n'))
    standard, flex, fast = (
        hw.workflows._model(of_model(hw.config, "gpt-5.4"), lane)
        for lane in (ServiceLane.STANDARD, ServiceLane.FLEX, ServiceLane.PRIORITY)
    )
    prices = Prices(hw.config)
    tiers = (None, "flex", "priority")
    usd = {tier: prices.charge("gpt-5.4", Served(USAGE, tier), AT).usd for tier in tiers}
    assert usd[None] is not None
    assert usd["flex"] == pytest.approx(usd[None] / 2, rel=0.02)
    reserved = [model.price(USAGE) for model in (standard, flex, fast) if model.price is not None]
    assert reserved == pytest.approx([usd[None], usd[None], usd["priority"]])
    assert fast.classes == (Priority.HIGH,)


def test_flex_has_longer_times_unless_others_are_stated(tmp_path: Path) -> None:
    hw = Headway(configured(tmp_path, '[models.m]\nlanes = ["flex"]\ncall_timeout = 70\n'))
    standard, flex = (
        hw.workflows._model(of_model(hw.config, "m"), lane).limits for lane in list(ServiceLane)[:2]
    )
    assert (standard.first_byte_timeout, standard.call_timeout) == (600, 70)
    assert (flex.first_byte_timeout, flex.call_timeout) == (900, 70)

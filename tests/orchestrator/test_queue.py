"""Changes of the queue while everything runs, from Python and from the command line."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread
from autogen_agentchat.agents import AssistantAgent
from tests.processes import WarmProcess
from tests.waiting import until

from headway import Headway, RunFailed
from headway.config import ConfigError
from headway.testing import MODEL, QUOTA, SimulatedHeadway, simulated_headway
from headway_scheduler.errors import CallerError, RunNotFound, RunNotResumable
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import Priority
from headway_scheduler.model.changes import Change
from headway_scheduler.model.quotas import Resource
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import RunState
from headway_scheduler.testing.provider import Latency, Ledger, Settings, simulated_provider

pytestmark = pytest.mark.anyio


def register(headway: Headway) -> None:
    @headway.workflow("agent")
    def agent(models: object) -> AssistantAgent:
        return AssistantAgent("writer", models(MODEL))  # type: ignore[operator]


async def test_a_paused_class_waits_a_bumped_run_goes_and_the_rest_follows() -> None:
    async with simulated_headway() as headway:
        register(headway)
        await headway.queue.pause("class:background")
        held = [await headway.start("agent", task=str(n), priority="background") for n in range(2)]
        free = await headway.start("agent", task="free")
        await free.result()
        while len(headway.scheduler.queued()) < 2:
            await next_event(headway)
        assert len(headway.provider.ledger.paid) == 1
        why = headway.scheduler.explain(headway.scheduler.queued()[0].call.id)
        assert why is not None
        assert why.operator_hold == "class:background paused"
        await headway.queue.bump(held[1].id, "interactive")
        await held[1].result()
        assert (await headway.get_run(held[1].id)).priority is Priority.INTERACTIVE
        await headway.queue.resume("class:background")
        await held[0].result()
        assert [(c.action, c.target) for c in await headway.limits.log()] == [
            ("gate", "class:background"),
            ("gate", "class:background"),
        ]
        with pytest.raises(RunNotResumable, match="cannot be bumped"):
            await headway.queue.bump(held[0].id, "low")
        with pytest.raises(RunNotFound):
            await headway.queue.bump("r-none", "low")


async def next_event(headway: Headway) -> None:
    """Let others run."""
    import anyio

    await anyio.sleep(0.01)


async def test_limits_change_by_their_names_and_come_back() -> None:
    async with simulated_headway() as headway:
        configured = headway.scheduler.statistics().gauges
        await headway.limits.set(QUOTA, {"requests_per_minute": 60, "usd_per_day": 5})
        rates = {
            g.resource: (g.capacity, g.per_second) for g in headway.scheduler.statistics().gauges
        }
        assert rates[Resource.REQUESTS][1] == 1
        assert rates[Resource.USD_PER_DAY] == (5, 0)
        for limits in ({"rpm": 1}, {"concurrency": 0}):
            with pytest.raises(ConfigError):
                await headway.limits.set(QUOTA, limits)
        with pytest.raises(CallerError, match="'concurrency' is inf"):
            await headway.limits.set(QUOTA, {"concurrency": inf})
        with pytest.raises(CallerError):
            await headway.limits.weight("team", 0)
        await headway.limits.reset(QUOTA)
        now = headway.scheduler.statistics().gauges
        assert [replace_free(g) for g in now] == [replace_free(g) for g in configured]


def replace_free(gauge: object) -> object:
    return gauge._replace(available=0.0)  # type: ignore[attr-defined]


async def test_a_run_is_of_the_team_that_is_named_else_of_its_workflow() -> None:
    async with simulated_headway() as headway:
        register(headway)
        named = await headway.submit("agent", task="a", team="research")
        other = await headway.submit("agent", task="b")
        assert (await headway.get_run(named.id)).share == "research"
        assert (await headway.get_run(other.id)).share == "agent"


@pytest.fixture
async def changed() -> AsyncIterator[SimulatedHeadway]:
    """A Headway of which very much was changed before."""
    async with simulated_headway() as headway:
        before = tuple(Change(1.0, "weight", f"team-{n}", "2") for n in range(1500))
        assert headway._opened.leader is not None
        await headway._opened.leader.store.commit(Batch(changes=before))
        yield headway


async def test_each_act_returns_what_it_changed(changed: SimulatedHeadway) -> None:
    """The leader's act and a follower's, after however many others."""
    async with Headway(changed.config) as follower:
        for headway in (changed, follower):
            queue, limits = headway.queue, headway.limits
            acts: list[tuple[Callable[[], Awaitable[Change]], str, str]] = [
                (queue.pause, "gate", "all"),
                (queue.drain, "gate", "all"),
                (queue.resume, "gate", "all"),
                (partial(limits.set, QUOTA, {"concurrency": 2}), "limits", QUOTA),
                (partial(limits.reset, QUOTA), "limits", QUOTA),
                (partial(limits.resume, QUOTA), "resume", QUOTA),
                (partial(limits.weight, "team", 3.0), "weight", "team"),
            ]
            for act, kind, target in acts:
                change = await act()
                assert (change.action, change.target) == (kind, target)
                assert [change] == await limits.log(limit=1)
        assert len(await follower.limits.log()) == 1500 + 2 * len(acts)


async def test_a_command_says_what_it_changed_after_however_many_changes(
    changed: SimulatedHeadway,
) -> None:
    folder = changed.config.database.parent
    for words, kind in (
        (["queue", "resume"], "gate"),
        (["limits", "set", QUOTA, "concurrency=3"], "limits"),
    ):
        said = await to_thread.run_sync(partial(headway_command, folder, *words, "--json"))
        (change,) = json.loads(said)
        assert change["kind"] == kind
    log = json.loads(await to_thread.run_sync(headway_command, folder, "limits", "log", "--json"))
    assert len(log) == 1502


async def test_a_worker_sees_a_run_behind_however_many_that_it_cannot_execute() -> None:
    async with simulated_headway() as headway:
        register(headway)
        mine = await headway.submit("agent", task="x")
        others = (
            Run(f"r-{n}", "other", "x", Priority.LOW, RunState.QUEUED, mine.run.created_at + 1)
            for n in range(1500)
        )
        assert headway._opened.leader is not None
        await headway._opened.leader.store.commit(Batch(runs=tuple(others)))
        assert await headway._opened.executor._is_any_left()
        await headway.work(slots=1)
        assert (await headway.get_run(mine.id)).state is RunState.COMPLETED
        assert len(await headway.list_runs([RunState.QUEUED])) == 1500


TEAM_QUOTAS = """
[database]
path = "headway.db"
[quotas.wide]
requests_per_minute = 60_000
[quotas.one]
concurrency = 1
[quotas.money]
usd_per_day = 2.0
[models.sim]
quotas = ["wide"]
base_url = "{url}"
usd_per_million_input_tokens = 1_000
usd_per_million_output_tokens = 1
[models.unpriced]
quotas = ["wide"]
base_url = "{url}"
[teams.narrow]
quotas = ["one"]
[teams.poor]
quotas = ["money"]
"""


@pytest.fixture
async def teams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """A Headway of teams with quotas of their own, and the provider behind it."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-1")
    settings = Settings(latency=Latency(0.02))
    async with simulated_provider(settings) as provider:
        file = tmp_path / "headway.toml"
        file.write_text(TEAM_QUOTAS.format(url=provider.base_url))
        async with Headway(file) as headway:

            @headway.workflow("agent")
            def agent(models: Any, model: str = "sim") -> AssistantAgent:
                return AssistantAgent("writer", models(model))

            yield headway, provider


async def test_a_team_waits_for_its_own_quota_and_no_other_does(teams: Any) -> None:
    headway, provider = teams
    for team, is_narrow in (("narrow", True), ("others", False)):
        asked_before = len(provider.ledger)
        await headway.queue.pause("all")
        runs = [await headway.start("agent", task=str(n), team=team) for n in range(6)]
        await until(lambda: len(headway.scheduler.queued()) == 6)
        await headway.queue.resume("all")
        for run in runs:
            await run.result()
        asked = Ledger(provider.ledger.entries[asked_before:])
        assert (asked.most_at_once() == 1) is is_narrow


async def test_a_team_that_has_spent_its_dollars_waits_for_the_next_day(teams: Any) -> None:
    headway, provider = teams
    runs = [await headway.start("agent", task=str(n), team="poor") for n in range(100)]
    await runs[0].result()
    while headway.scheduler.statistics().in_flight:
        await next_event(headway)
    spent = sum(entry.prompt_tokens for entry in provider.ledger.paid) / 1_000
    await headway.run("agent", task="of another team")
    waiting = headway.scheduler.queued()
    assert waiting
    assert 1.0 < spent <= 2.0
    for record in waiting:
        why = headway.scheduler.explain(record.call.id)
        assert [blocker.quota for blocker in why.blockers] == ["money"]
        await headway.cancel(record.call.run_id)


async def test_a_team_that_counts_dollars_needs_a_price_and_no_other_does(teams: Any) -> None:
    headway, _ = teams
    parameters = {"model": "unpriced"}
    await headway.run("agent", task="x", parameters=parameters)
    failing = await headway.start("agent", task="x", parameters=parameters, team="poor")
    with pytest.raises(RunFailed, match="usd_per_million_input_tokens"):
        await failing.result()


def headway_command(folder: Path, *words: str, status: int = 0) -> str:
    with WarmProcess(
        [sys.executable, "-m", "headway", *words],
        cwd=folder,
        env=os.environ | {"HEADWAY_DATABASE": str(folder / "headway.db")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        out, err = process.communicate()
    assert process.returncode == status, err
    return out + err


def test_the_commands_write_what_they_say(tmp_path: Path) -> None:
    headway_command(tmp_path, "queue", "pause", "class:background")
    headway_command(tmp_path, "limits", "set", "default", "requests_per_minute=200")
    headway_command(tmp_path, "limits", "weight", "research", "3")
    headway_command(tmp_path, "queue", "resume", "class:background")
    log = json.loads(headway_command(tmp_path, "limits", "log", "--json"))
    assert [(row["kind"], row["target"]) for row in reversed(log)] == [
        ("gate", "class:background"),
        ("limits", "default"),
        ("weight", "research"),
        ("gate", "class:background"),
    ]
    assert "class:background" in headway_command(tmp_path, "limits", "log")
    assert "no setting 'rpm'" in headway_command(
        tmp_path, "limits", "set", "default", "rpm=1", status=2
    )
    assert "cannot hold" in headway_command(tmp_path, "queue", "pause", "everything", status=2)
    assert "no run" in headway_command(tmp_path, "queue", "bump", "r-x", "-p", "low", status=2)

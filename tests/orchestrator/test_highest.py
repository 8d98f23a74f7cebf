"""A class is a claim: the configuration says how urgent a team, or anybody, may be."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread
from autogen_agentchat.agents import AssistantAgent

from headway import Headway
from headway.cli import main
from headway_scheduler.model.calls import Priority
from headway_scheduler.testing.provider import Settings, simulated_provider

pytestmark = pytest.mark.anyio

CONFIG = """
[database]
path = "headway.db"
[defaults]
highest = "high"
[quotas.q]
concurrency = 4
[models.sim]
quotas = ["q"]
base_url = "{url}"
[teams.batch]
highest = "low"
[teams.desk]
highest = "interactive"
"""


def opened(folder: Path) -> Headway:
    headway = Headway(folder / "headway.toml")

    @headway.workflow("agent")
    def agent(models: Any, urgent: bool = False) -> AssistantAgent:
        return AssistantAgent("writer", models("sim", priority="interactive" if urgent else None))

    return headway


@pytest.fixture
async def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Path]:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    async with simulated_provider(Settings()) as provider:
        (tmp_path / "headway.toml").write_text(CONFIG.format(url=provider.base_url))
        yield tmp_path


@pytest.mark.parametrize(
    ("team", "asked", "given"),
    [
        (None, "interactive", Priority.HIGH),
        (None, "normal", Priority.NORMAL),
        ("batch", "high", Priority.LOW),
        ("batch", "background", Priority.BACKGROUND),
        ("desk", "interactive", Priority.INTERACTIVE),
    ],
)
async def test_a_run_that_asks_for_more_is_lowered_and_told_so(
    folder: Path, caplog: pytest.LogCaptureFixture, team: str | None, asked: str, given: Priority
) -> None:
    async with opened(folder) as headway:
        handle = await headway.submit("agent", task="x", team=team, priority=asked)
        assert (handle.run.priority, handle.asked_priority) == (given, Priority[asked.upper()])
        assert (await headway.get_run(handle.id)).priority is given
        is_said = f"run {handle.id} is {given.label}: it asks for {asked}" in caplog.text
        assert is_said is (given.label != asked)


@pytest.mark.parametrize(
    ("team", "asked", "given"),
    [
        ("night", None, Priority.BACKGROUND),
        ("night", "normal", Priority.NORMAL),
        ("agent", None, Priority.LOW),  # of the workflow's name: the run names no team
        ("batch", None, Priority.LOW),  # normal, as nobody says otherwise; then lowered
        ("desk", None, Priority.NORMAL),
    ],
)
async def test_a_run_that_states_no_class_has_that_of_its_team(
    folder: Path, team: str, asked: str | None, given: Priority
) -> None:
    with (folder / "headway.toml").open("a") as file:
        file.write('[teams.night]\npriority = "background"\n[teams.agent]\npriority = "low"\n')
    named = None if team == "agent" else team
    async with opened(folder) as headway:
        handle = await headway.submit("agent", task="x", team=named, priority=asked)
        assert (await headway.get_run(handle.id)).priority is given


@pytest.mark.parametrize("follows", [False, True])
async def test_a_bump_is_lowered_by_whatever_process(folder: Path, follows: bool) -> None:
    async with opened(folder) as leader, opened(folder) as follower:
        handle = await leader.submit("agent", task="x", team="batch", priority="background")
        asking = follower if follows else leader
        assert await asking.queue.bump(handle.id, "interactive") is Priority.LOW
        assert (await leader.get_run(handle.id)).priority is Priority.LOW


async def test_a_call_of_its_own_class_is_lowered_and_said_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with opened(folder) as headway:
        handle = await headway.start(
            "agent", task="x", team="batch", priority="low", parameters={"urgent": True}
        )
        await handle.result()
        [record] = await headway.list_calls(handle.id)
        assert record.call.priority is Priority.LOW
        assert caplog.text.count("are low: they ask for interactive") == 1
        free = await headway.start("agent", task="x", team="desk", parameters={"urgent": True})
        await free.result()
        [record] = await headway.list_calls(free.id)
        assert record.call.priority is Priority.INTERACTIVE


async def test_runs_show_and_queue_bump_say_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with opened(folder) as headway:
        handle = await headway.submit("agent", task="x", team="batch", priority="background")
    monkeypatch.chdir(folder)
    await to_thread.run_sync(main, ["queue", "bump", handle.id, "-p", "high"])
    assert f"{handle.id} is low: its team may not ask for high" in capsys.readouterr().err
    await to_thread.run_sync(main, ["runs", "show", handle.id])
    shown = capsys.readouterr().out
    assert "priority   low · the most urgent that team batch may ask for" in shown

"""How far something is, and how long it may still take: on a terminal, and nowhere else."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread
from tests.tmux import Terminal, headway

from headway import Headway
from headway.cli.progress import progress, progress_line
from headway.cli.views import JsonLines, PlainLines
from headway.cli.watch import Watch
from headway.runs import stopped
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import Priority
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import RunState
from headway_scheduler.testing.provider import Latency, Settings, simulated_provider

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

SCRIPT = """
import os, time
from headway.cli.progress import progress
with progress("copying") as report:
    report(3, 12)
    while not os.path.exists("go"):
        time.sleep(0.01)
print("copied")
"""
TEAM = """
from autogen_agentchat.agents import AssistantAgent

def team(models):
    return AssistantAgent("writer", models("m"))
"""
CONFIG = """
[database]
path = "headway.db"
[quotas.q]
concurrency = 1
[models.m]
quotas = ["q"]
api_key_env = "TEST_KEY"
base_url = "{url}"
"""


def test_a_line_says_how_far_and_how_long_yet() -> None:
    assert progress_line(0, 4, "runs", 9.0) == "╌" * 20 + " 0 of 4 runs"
    assert progress_line(1, 4, "runs", 9.0) == "━" * 5 + "╌" * 15 + " 1 of 4 runs, 27.0 s left"
    assert progress_line(4, 4, "runs", 9.0) == "━" * 20 + " 4 of 4 runs"
    assert progress_line(0, 0, "runs", 9.0) == "╌" * 20 + " 0 of 0 runs"


def test_on_a_terminal_there_is_a_bar_and_at_the_end_it_is_gone(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    with Terminal(tmp_path, [sys.executable, "script.py"]) as terminal:
        terminal.until("copying", "25%")
        (tmp_path / "go").touch()
        screen = terminal.until("copied", "[ended: 0]")
        assert "25%" not in screen


def test_elsewhere_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("copying") as report:
        report(1, 2)
    assert capsys.readouterr() == ("", "")


async def test_work_shows_how_many_of_the_queued_runs_have_ended(tmp_path: Path) -> None:
    (tmp_path / "teams.py").write_text(TEAM)
    async with simulated_provider(Settings(latency=Latency(3_600.0))) as provider:
        (tmp_path / "headway.toml").write_text(CONFIG.format(url=provider.base_url))
        runs = [
            Run(f"r-0000000{n}", "teams:team", "Hello?", Priority.LOW, RunState.QUEUED, 1_000.0 + n)
            for n in range(3)
        ]
        async with SqliteStore(tmp_path / "headway.db") as store:
            await store.commit(Batch(runs=tuple(runs)))
        command = headway("work", "--slots", "1")
        with Terminal(tmp_path, command, environment={"TEST_KEY": "none"}) as terminal:
            await to_thread.run_sync(partial(terminal.until, "0 of 3 runs", "in flight: 1"))
            terminal.press("C-c")
            await to_thread.run_sync(partial(terminal.until, "in flight"))


class FakeRun:
    def __init__(self, replayed: int) -> None:
        self.replayed = replayed


class LiveView(PlainLines):
    is_live = True


async def test_a_long_run_that_goes_on_shows_how_many_answers_it_got_back() -> None:
    watch: Any = Watch(LiveView(several_runs=True))
    headway: Any = None
    watch.live = {"r-a": FakeRun(150), "r-b": FakeRun(0)}
    watch._answers = {"r-a": 100, "r-b": 300}
    (line,) = await watch._progress(headway)
    assert "100 of 400 answers given back" in line
    watch.live["r-b"].replayed = 300
    assert await watch._progress(headway) == []


@pytest.mark.parametrize("view", [PlainLines(several_runs=True), JsonLines()])
async def test_where_a_status_replaces_none_it_says_no_progress(view: Any) -> None:
    watch: Any = Watch(view)
    watch.takes_runs = True
    assert await watch._progress(None) == []


async def test_pruning_goes_in_parts_and_a_copy_goes_before_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopped, "PRUNED_AT_ONCE", 2)
    (tmp_path / "headway.toml").write_text(CONFIG.format(url="http://127.0.0.1:9/v1"))
    runs = [
        Run(
            *(f"r-0000000{n}", "w", "t", Priority.LOW, RunState.COMPLETED, 1_000.0 + n),
            finished_at=2_000.0 + n,
            parent=f"r-0000000{n - 1}" if n else None,
        )
        for n in range(5)
    ]
    async with SqliteStore(tmp_path / "headway.db") as store:
        await store.commit(Batch(runs=tuple(runs)))
    told = list[tuple[int, int]]()
    async with Headway(tmp_path / "headway.toml") as hw:
        gone = await hw.prune(keep=0, report=lambda done, total: told.append((done, total)))
        assert gone == [run.id for run in runs]
        assert await hw.list_runs() == []
    assert told == [(0, 5), (2, 5), (4, 5)]

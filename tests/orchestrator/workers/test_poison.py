"""Runs that take their workers down, beside runs that do not. Real processes, real deaths."""

import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.orchestrator.workers.processes import World, world_in

WORKFLOWS = """
import os, sys
from pathlib import Path
from autogen_agentchat.agents import AssistantAgent

def poison(models):
    with open("deaths", "a") as deaths:
        deaths.write("x")
    how = Path("how").read_text()
    if how == "exit":
        os._exit(7)
    if how == "sysexit":
        sys.exit(7)
    return AssistantAgent("writer", models("sim"))

def late_poison(models):
    def look() -> str:
        "Look."
        os._exit(7)
    return AssistantAgent("writer", models("sim"), tools=[look])
"""

LONG_WORKFLOWS = """
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.teams import RoundRobinGroupChat

def team(models):
    return RoundRobinGroupChat([AssistantAgent("writer", models("sim"))])
"""

PROGRAM = """
import sys, anyio
from headway import Headway
sys.path.insert(0, ".")
import here_workflows, poison_workflows

headway = Headway()
headway.workflow("mine")(here_workflows.agent)
headway.workflow("bad")(poison_workflows.poison)

async def main(is_first):
    async with headway:
        if is_first:
            for n in range(3):
                await headway.start("mine", task=f"task {n}")
            await headway.start("bad", task="x")

anyio.run(main, len(sys.argv) > 1)
"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    with world_in(tmp_path, base_seconds=0.3) as world:
        (tmp_path / "poison_workflows.py").write_text(WORKFLOWS)
        (tmp_path / "import_poison.py").write_text("import os; os._exit(7)")
        (tmp_path / "how").write_text("exit")
        yield world


def deaths(world: World) -> int:
    path = world.folder / "deaths"
    return len(path.read_text()) if path.exists() else 0


def submitted(world: World, workflow: str, count: int = 1) -> list[str]:
    return [world.headway("submit", workflow, f"task {n}").strip() for n in range(count)]


class Supervisor:
    """Starts a worker again whenever one has died."""

    def __init__(self, world: World, workers: int) -> None:
        self._world = world
        self.workers = [self._start() for _ in range(workers)]
        self.deaths = 0

    def _start(self) -> subprocess.Popen[str]:
        return self._world.start("work", "--forever", "--slots", "4")

    def until(self, ended: list[str]) -> None:
        while any(self._world.state(run_id) not in ("completed", "failed") for run_id in ended):
            for number, worker in enumerate(self.workers):
                if worker.poll() is not None:
                    assert worker.returncode == 7, worker.communicate()
                    self.deaths += 1
                    self.workers[number] = self._start()
            time.sleep(0.05)


def lives(world: World, run_id: str) -> int:
    return int(world.rows("SELECT lives_lost FROM runs WHERE id = ?", run_id)[0][0])


@pytest.mark.timeout(120)
def test_a_run_that_takes_three_workers_down_is_quarantined_and_honest_runs_complete(
    world: World,
) -> None:
    honest = submitted(world, "agent", 4)
    (poison,) = submitted(world, "poison_workflows:poison")
    honest += submitted(world, "agent", 4)
    supervisor = Supervisor(world, 3)
    supervisor.until([*honest, poison])
    assert [world.state(run_id) for run_id in honest] == ["completed"] * 8
    assert world.state(poison) == "failed"
    assert supervisor.deaths == deaths(world) == 3
    assert all(worker.poll() is None for worker in supervisor.workers)
    assert "failed, quarantined" in world.headway("runs", "list")
    shown = world.headway("runs", "show", poison)
    assert f"`headway runs retry {poison}`" in shown
    (facts,) = (each for each in world.facts("runs", "list") if each["id"] == poison)
    assert (facts["quarantined"], facts["lives_lost"]) == (True, 3)
    # The factory is mended: the run has three lives again.
    (world.folder / "how").write_text("live")
    world.headway("runs", "retry", poison)
    assert (world.state(poison), lives(world, poison)) == ("completed", 0)


@pytest.mark.timeout(120)
def test_two_such_runs_are_both_found_and_nobody_else_is(world: World) -> None:
    poisons = [*submitted(world, "poison_workflows:poison"), *submitted(world, "import_poison:any")]
    honest = submitted(world, "agent", 6)
    supervisor = Supervisor(world, 2)
    supervisor.until([*honest, *poisons])
    assert [world.state(run_id) for run_id in honest] == ["completed"] * 6
    assert [world.state(run_id) for run_id in poisons] == ["failed"] * 2
    assert [lives(world, run_id) for run_id in poisons] == [3, 3]


def test_a_reader_says_so_before_anybody_leads_again(world: World) -> None:
    (poison,) = submitted(world, "poison_workflows:poison")
    for number in range(3):
        worker = world.start("work", "--forever")
        assert worker.wait() == 7
        expected = "interrupted" if number < 2 else "failed, quarantined"
        assert expected in world.headway("runs", "list")
    assert "failed, quarantined" in world.headway("runs", "list", "--state", "failed")
    assert "retry" in world.headway("runs", "show", poison)
    world.headway("work")
    assert (world.state(poison), deaths(world)) == ("failed", 3)


def test_a_factory_that_calls_sys_exit_fails_alone(world: World) -> None:
    (world.folder / "how").write_text("sysexit")
    worker = world.worker()
    (run_id,) = submitted(world, "poison_workflows:poison")
    world.until(lambda: world.state(run_id) == "failed", worker)
    assert (lives(world, run_id), deaths(world)) == (0, 1)


@pytest.mark.parametrize(("end", "lost"), [(signal.SIGKILL, 1), (signal.SIGTERM, 0)])
def test_a_worker_that_is_stopped_on_purpose_costs_no_life_unless_it_is_killed(
    world: World, end: signal.Signals, lost: int
) -> None:
    world.headway("queue", "pause")
    worker = world.worker()
    (run_id,) = submitted(world, "agent")
    world.until(lambda: world.rows("SELECT 1 FROM calls WHERE state = 'queued'"), worker)
    worker.send_signal(end)
    if end is signal.SIGTERM:  # it drains; Ctrl-C interrupts its run
        worker.send_signal(signal.SIGINT)
    worker.wait()
    world.headway("queue", "resume")
    assert world.state(run_id) == "interrupted"
    assert lives(world, run_id) == lost
    again = world.worker()
    world.until(lambda: world.state(run_id) == "completed", again)


def test_a_program_that_is_started_again_and_again_finds_its_own(world: World) -> None:
    """It has no other process: what it goes on with when it starts is what took it down."""
    ends = [world.start("-c", PROGRAM, *(["first"] if not n else [])).wait() for n in range(4)]
    assert ends == [7, 7, 7, 0]
    rows = world.rows("SELECT workflow, state, lives_lost >= 3 FROM runs ORDER BY created_at")
    honest = ("mine", "completed", 0)
    assert rows == [honest, honest, honest, ("bad", "failed", 1)]


def test_suspects_go_on_side_by_side_once_each_got_further_but_for_the_last_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    (tmp_path / "long_workflows.py").write_text(LONG_WORKFLOWS)
    with world_in(tmp_path, base_seconds=0.2) as world:
        ids = submitted(world, "long_workflows:team", 4)
        with closing(sqlite3.connect(world.database)) as db, db:
            db.execute("UPDATE runs SET state = 'interrupted', lives_lost = 1")
            db.execute("UPDATE runs SET lives_lost = 2 WHERE id = ?", (ids[3],))
        worker = world.start("work", "--forever", "--slots", "4")
        running = "SELECT id FROM runs WHERE state = 'running' ORDER BY id"
        # Three beside each other, although none has ended; the one in its last life waits.
        world.until(lambda: len(world.rows(running)) == 3, worker)
        assert {run_id for (run_id,) in world.rows(running)} == set(ids[:3])
        assert world.rows("SELECT 1 FROM runs WHERE state = 'completed'") == []
        for run_id in ids[:3]:
            world.headway("runs", "cancel", run_id)
        world.until(lambda: world.state(ids[3]) == "running", worker)


def test_a_suspect_has_its_worker_for_itself_until_it_got_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    with world_in(tmp_path, base_seconds=2.0) as world:
        (suspect, *others) = submitted(world, "agent", 3)
        with closing(sqlite3.connect(world.database)) as db, db:
            db.execute(
                "UPDATE runs SET state = 'interrupted', lives_lost = 1 WHERE id = ?", (suspect,)
            )
        worker = world.start("work", "--forever", "--slots", "4")

        def are_given() -> bool:
            return bool(
                world.rows("SELECT 1 FROM runs WHERE worker IS NOT NULL AND id != ?", suspect)
            )

        def is_answered() -> bool:
            answered = "SELECT 1 FROM calls WHERE run_id = ? AND state = 'done'"
            return bool(world.rows(answered, suspect))

        world.until(are_given, worker)
        # Looked at in this order: it was answered before the others were given.
        assert is_answered()
        for run_id in (suspect, *others):
            world.until(lambda run_id=run_id: world.state(run_id) == "completed", worker)
        assert lives(world, suspect) == 1

"""Systems without ``/proc``, as macOS: tried by hiding it. And the answer to Windows."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.orchestrator.workers.processes import World, world_in
from tests.processes import Process

AS_ON_MACOS = """
import os, sys, time

def hide(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith("/proc"):
        raise FileNotFoundError(2, "hidden", arguments[0])

sys.addaudithook(hide)
del time.CLOCK_BOOTTIME
sys.path.insert(0, os.getcwd())
from headway.cli import main
sys.exit(main(sys.argv[1:]))
"""

AS_ON_WINDOWS = """
import asyncio, sys, sysconfig
sysconfig.get_config_vars()  # of the system that it really is
sys.modules["fcntl"] = None
sys.platform = "win32"
from headway.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    with world_in(tmp_path) as found:
        yield found


def start(world: World, *command: str) -> Process:
    return world.start("-c", AS_ON_MACOS, *command, kind=Process)


def said(process: Process) -> str:
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


def test_without_proc_a_killed_leader_is_replaced_and_each_call_is_paid_once(world: World) -> None:
    first = start(world, "work", "--forever")
    world.until(lambda: world.leader() == first.pid, first)
    second = start(world, "work", "--forever")
    run_id = said(start(world, "submit", "agent", "one")).strip()
    world.until(lambda: world.state(run_id) == "completed", first, second)
    first.kill()
    first.communicate()
    run_id = said(start(world, "submit", "agent", "two")).strip()
    world.until(lambda: world.state(run_id) == "completed", second)
    world.until(lambda: world.leader() == second.pid, second)
    assert len(world.ledger.paid) == 2
    for command in (["doctor"], ["runs"], ["limits"], ["db", "check"]):
        said(start(world, *command))


def test_on_windows_a_command_says_where_headway_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-c", AS_ON_WINDOWS, "submit", "agent", "x"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 3
    assert "Linux and macOS" in done.stderr
    assert "WSL" in done.stderr
    assert "Traceback" not in done.stderr

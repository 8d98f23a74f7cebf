"""Ctrl-C, once and twice, in real processes: in the middle of calls, and at a person's prompt."""

import json
import os
import pty
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from tests.orchestrator.cli.shell import ended, headway, read, started
from tests.processes import WarmProcess

from headway import Headway
from headway.cli.commands.resume import AT_ONCE
from headway_scheduler.testing.provider import Body, Settings, simulated_provider

TEAMS = """
import time
from autogen_agentchat.agents import AssistantAgent, UserProxyAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat

def pair(models, model="sim", most=3):
    agents = [AssistantAgent(name, models(model)) for name in ("writer", "critic")]
    return RoundRobinGroupChat(agents, termination_condition=MaxMessageTermination(most))

def single(models):
    return pair(models, most=2)

def tight(models):
    return pair(models, "tight")

def asking(models):
    agents = [UserProxyAgent("boss")]
    return RoundRobinGroupChat(agents, termination_condition=MaxMessageTermination(2))

def stuck(models):
    print("now it is stuck", flush=True)
    while True:
        time.sleep(0.1)
"""
CONFIG = """
[database]
path = "headway.db"
[quotas.roomy]
concurrency = 9
[quotas.tight]
requests_per_minute = 1
[models.sim]
quotas = ["roomy"]
base_url = "{url}"
api_key_env = "TEST_KEY"
[models.tight]
quotas = ["tight"]
base_url = "{url}"
api_key_env = "TEST_KEY"
"""


class Gate:
    """Lets the provider answer, once it is open; it says when it was asked."""

    def __init__(self) -> None:
        self.is_asked = threading.Event()
        self.is_open = threading.Event()

    def reply(self, body: Body) -> str:
        self.is_asked.set()
        self.is_open.wait()
        return "An answer."


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def folder(tmp_path: Path, gate: Gate) -> Iterator[Path]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(simulated_provider(Settings(reply=gate.reply))) as sim,
    ):
        (tmp_path / "headway.toml").write_text(CONFIG.format(url=sim.base_url))
        (tmp_path / "teams.py").write_text(TEAMS)
        yield tmp_path
        gate.is_open.set()


def heard(stream: IO[str] | None, words: str) -> str:
    """Read lines up to the one with these words."""
    assert stream is not None
    while words not in (line := stream.readline()):
        assert line, f"it ended without {words!r}"
    return line


def runs(folder: Path, limit: int = 20) -> list[str]:
    """The states of the runs, the oldest first."""
    _, out, _ = headway(folder, "runs", "--json", "--limit", str(limit))
    return [run["state"] for run in reversed(json.loads(out))]


def calls(folder: Path, run_id: str) -> list[str]:
    _, out, _ = headway(folder, "runs", "show", run_id, "--json")
    return [call["state"] for call in json.loads(out)["calls"]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_ctrl_c_has_the_call_in_flight_end_and_asks_no_other(
    folder: Path, gate: Gate, number: signal.Signals
) -> None:
    with started(folder, "run", "teams:pair", "Go.") as process:
        assert gate.is_asked.wait(120)
        process.send_signal(number)
        assert heard(process.stderr, "Ctrl-C again").startswith("headway: 1 call in flight ends")
        gate.is_open.set()
        status, _, err = ended(process)
    run_id = err.partition("interrupted ")[2].partition(":")[0]
    assert (status, runs(folder)) == (130, ["interrupted"])
    assert f"headway: interrupted {run_id}: `headway resume {run_id}` goes on" in err
    assert calls(folder, run_id) == ["done"]
    status, out, err = headway(folder, "resume", run_id)
    assert status == 0, err
    assert "calls replayed: 1 · steps replayed: 0 · calls paid: 1" in out
    assert "cut off, possibly paid: 0" in out


def test_a_run_whose_last_call_ends_meanwhile_is_completed(folder: Path, gate: Gate) -> None:
    with started(folder, "run", "teams:single", "Go.", "--last") as process:
        assert gate.is_asked.wait(120)
        process.send_signal(signal.SIGINT)
        heard(process.stderr, "Ctrl-C again")
        gate.is_open.set()
        status, out, _ = ended(process)
    assert (status, out, runs(folder)) == (130, "An answer.\n", ["completed"])


def test_the_second_ctrl_c_stops_at_once_and_says_how_to_go_on(folder: Path, gate: Gate) -> None:
    with started(folder, "run", "teams:pair", "Go.") as process:
        assert gate.is_asked.wait(120)
        process.send_signal(signal.SIGINT)
        heard(process.stderr, "Ctrl-C again")
        process.send_signal(signal.SIGINT)
        status, _, err = ended(process)
    assert not gate.is_open.is_set()
    run_id = err.partition("interrupted ")[2].partition(":")[0]
    assert (status, runs(folder)) == (130, ["interrupted"])
    assert f"`headway resume {run_id}` goes on" in err
    assert "Traceback" not in err
    assert calls(folder, run_id) == ["unknown"]


def test_a_call_that_waits_in_the_queue_is_not_made_any_more(folder: Path, gate: Gate) -> None:
    gate.is_open.set()
    with started(folder, "run", "teams:tight", "Go.") as process:
        heard(process.stderr, "1 normal")  # its second call waits for most of a minute
        process.send_signal(signal.SIGINT)
        heard(process.stderr, "nothing is in flight; Ctrl-C again stops at once")
        status, _, err = ended(process)
    run_id = err.partition("interrupted ")[2].partition(":")[0]
    assert (status, calls(folder, run_id)) == (130, ["done", "cancelled"])


def test_work_takes_no_more_runs_after_the_first_ctrl_c(folder: Path, gate: Gate) -> None:
    for task in ("one", "two"):
        assert headway(folder, "submit", "teams:pair", task)[0] == 0
    with started(folder, "work", "--forever", "--slots", "1") as process:
        assert gate.is_asked.wait(120)
        process.send_signal(signal.SIGINT)
        heard(process.stderr, "1 call in flight ends first")
        gate.is_open.set()
        status, _, err = ended(process)
    assert (status, runs(folder)) == (130, ["interrupted", "queued"])
    assert "`headway resume r-" in err


def test_runs_that_wait_for_their_turn_are_not_begun_after_ctrl_c(folder: Path, gate: Gate) -> None:
    async def pause_many() -> None:
        async with Headway(folder / "headway.toml") as hw:
            for task in range(AT_ONCE + 2):
                run = await hw.submit("teams:pair", task=f"Task {task}.")
                await hw.pause(run.id)

    anyio.run(pause_many)
    with started(folder, "resume", "--state", "paused", "--yes") as process:
        while runs(folder, limit=AT_ONCE + 2).count("running") < AT_ONCE:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        heard(process.stderr, "Ctrl-C again")
        gate.is_open.set()
        status, _, err = ended(process)
    assert status == 130
    assert "`headway resume --all` goes on" in err
    found = runs(folder, limit=AT_ONCE + 2)
    assert found.count("paused") == 2
    assert set(found) == {"paused", "interrupted"}


def test_code_that_blocks_the_event_loop_ends_at_the_second_ctrl_c(folder: Path) -> None:
    with started(folder, "run", "teams:stuck", "Go.") as process:
        heard(process.stdout, "now it is stuck")
        while process.poll() is None:
            # Two signals that come at once are one, and nothing shows that the first was taken.
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(2)
    assert process.returncode in (130, -signal.SIGINT)  # the latter if it was about to end


# at a person's prompt


class AtTerminal:
    """A process on a terminal, which asks a question."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
        self.process: WarmProcess = started(folder, *arguments, **streams)
        os.close(theirs)
        self.shown = ""

    def wait_for(self, words: str) -> None:
        while words not in self.shown:
            piece = read(self._ours)
            assert piece, self.shown
            self.shown += piece.decode(errors="replace")

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def ended(self) -> int:
        while piece := read(self._ours):
            self.shown += piece.decode(errors="replace")
        os.close(self._ours)
        return self.process.wait()


@pytest.fixture
def terminal(folder: Path) -> Iterator[AtTerminal]:
    terminal = AtTerminal(folder, "run", "teams:asking", "Go.")
    with terminal.process:
        terminal.wait_for("Enter your response: ")
        yield terminal


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_at_a_prompt_ends_the_command(
    folder: Path, terminal: AtTerminal, times: int
) -> None:
    for _ in range(times):
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("nothing is in flight")
    assert terminal.ended() == 130
    assert "goes on" in terminal.shown
    assert runs(folder) == ["interrupted"]


def test_a_line_is_an_answer_and_no_status_line_comes_between(
    folder: Path, terminal: AtTerminal
) -> None:
    terminal.type(b"Well ")
    terminal.wait_for("Well ")
    terminal.type(b"done.\n")
    assert terminal.ended() == 0
    assert "Enter your response: Well done.\r\n" in terminal.shown
    assert re.findall("boss: (.*)", re.sub(r"\x1b\[[0-9;]*m|\r", "", terminal.shown)) == [
        "Well done."
    ]


def test_ctrl_d_at_a_prompt_has_the_run_wait(folder: Path, terminal: AtTerminal) -> None:
    terminal.type(b"\x04")
    assert terminal.ended() == 4
    assert "waits for a person" in terminal.shown
    assert runs(folder) == ["waiting"]

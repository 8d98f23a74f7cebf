"""The commands that make runs go on, in processes of their own, against the simulated provider."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.orchestrator.cli import shell
from tests.processes import WarmProcess

from headway_scheduler.testing.provider import Latency, Settings

TEAMS = """
from autogen_agentchat.agents import AssistantAgent, UserProxyAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat

def pair(models, *, critic="critic"):
    agents = [AssistantAgent(name, models("sim")) for name in ("writer", critic)]
    return RoundRobinGroupChat(agents, termination_condition=MaxMessageTermination(5))

def asking(models):
    agents = [AssistantAgent("writer", models("sim")), UserProxyAgent("boss")]
    return RoundRobinGroupChat(agents, termination_condition=MaxMessageTermination(4))
"""
CONFIG = (
    shell.CONFIG
    + """
usd_per_million_input_tokens = 10
usd_per_million_output_tokens = 10
[workflows]
pair = "teams:pair"
asking = "teams:asking"
"""
)

Headway = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with shell.provided(Settings(latency=Latency(0.15))) as url:
        yield url


@pytest.fixture
def folder(tmp_path: Path, base_url: str) -> Path:
    (tmp_path / "headway.toml").write_text(CONFIG.format(base_url))
    (tmp_path / "teams.py").write_text(TEAMS)
    return tmp_path


def started(folder: Path, *arguments: str) -> WarmProcess:
    return shell.started(folder, *arguments, stdin=subprocess.DEVNULL)


@pytest.fixture
def headway(folder: Path) -> Headway:
    return partial(shell.headway, folder)


def last_run(headway: Headway) -> dict[str, Any]:
    _, out, _ = headway("runs", "--json", "--limit", "1")
    (run,) = json.loads(out)
    return dict(run)


def killed_in_the_middle(folder: Path, how: signal.Signals) -> tuple[int, str]:
    """Run a team, and end its process when both agents have spoken."""
    with started(folder, "run", "pair", "Go.") as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(3)]
        process.send_signal(how)
        _, err = process.communicate()
    assert said[2].startswith("critic: ")
    return process.returncode, err


def test_a_killed_run_is_checked_and_resumed(folder: Path, headway: Headway) -> None:
    killed_in_the_middle(folder, signal.SIGKILL)
    run_id = last_run(headway)["id"]
    status, out, err = headway("resume", run_id, "--check")
    assert (status, err) == (0, "")
    assert out == f"{run_id}: 2 answers are given back, then it asks: {asked(out)}\n"
    lost = f"1 ({run_id}.2)" if "unknown" in out else "0"
    status, out, err = headway("resume", "--all")
    assert status == 0, err
    *_, first, _, receipt = out.splitlines()
    assert first.startswith("completed after ")
    assert receipt.startswith(f"{run_id}: calls replayed: 2 · steps replayed: 0 · calls paid: 2 ")
    assert f"cut off, possibly paid: {lost} " in receipt
    status, _, err = headway("resume", run_id)
    assert status == 2
    assert "runs continue" in err
    status, out, err = headway("runs", "continue", run_id, "And now?", "--json")
    assert status == 0, err
    result = json.loads(out.splitlines()[-1])
    assert result["history"] == ["Go."]
    assert result["receipts"][0]["replayed"] == 4
    status, out, _ = headway("runs", "fork", run_id, "--at", "3")
    assert "calls replayed: 3 · steps replayed: 0 · calls paid: 1 " in out


def asked(text: str) -> str:
    return text.partition("then it asks: ")[2].strip()


def test_ctrl_c_says_how_to_go_on_and_a_changed_workflow_halts(
    folder: Path, headway: Headway
) -> None:
    status, err = killed_in_the_middle(folder, signal.SIGINT)
    run_id = last_run(headway)["id"]
    assert status == 130
    assert f"`headway resume {run_id}` goes on" in err
    (folder / "teams.py").write_text(TEAMS.replace('critic="critic"', 'critic="judge"'))
    before = last_run(headway)
    status, out, err = headway("resume", run_id, "--check")
    assert status == 5
    assert "the workflow changed" in out
    status, out, err = headway("resume", run_id)
    assert (status, last_run(headway)) == (5, before), err
    assert "'judge'" in err
    assert "--on-change fork" in err
    status, out, err = headway("resume", run_id, "--on-change", "fork")
    assert status == 0, err
    assert last_run(headway)["parent"] == run_id


def test_a_question_ends_the_process_and_the_answer_goes_on(folder: Path, headway: Headway) -> None:
    (folder / "run.json").write_text("")
    (folder / "run.json").chmod(0o644)
    status, _, err = headway("run", "asking", "Go.")
    run_id = last_run(headway)["id"]
    assert status == 4
    assert f'`headway runs answer {run_id} "WORDS"` goes on' in err
    status, out, _ = headway("runs", "show", run_id)
    assert re.search(
        r"^\S+ +person +boss +question +waits for a person +[\d.]+ s$", out, re.MULTILINE
    )
    status, _, err = headway("resume", run_id)
    assert status == 2
    status, out, err = headway("runs", "answer", run_id, "Well done.")
    assert status == 0, err
    assert "boss: Well done." in out
    assert "steps replayed: 1" in out
    status, out, _ = headway("runs", "show", run_id)
    assert "steps      1" in out
    assert "boss (person question): Well done.\n" in headway("runs", "logs", run_id)[1]
    status, out, _ = headway("runs", "export", run_id, "-o", "run.json")
    assert (status, out) == (0, "")
    if sys.platform != "win32":
        assert (folder / "run.json").stat().st_mode & 0o777 == 0o600


def test_options_of_a_run_and_what_steers_it(folder: Path, headway: Headway) -> None:
    status, _, err = headway("run", "pair", "Go.", "--budget-usd", "0.0005", "-P", "critic=editor")
    run = last_run(headway)
    assert (status, run["state"]) == (1, "failed")
    assert "may spend $0.0005" in err
    assert run["parameters"] == {"critic": "editor"}
    status, out, err = headway("runs", "retry", run["id"], "--budget-usd", "5", "--deadline", "1h")
    assert status == 0, err
    assert "editor: " in out
    headway("submit", "pair", "Later.")
    queued = last_run(headway)["id"]
    assert headway("runs", "pause", queued)[1] == f"{queued}  paused\n"
    assert headway("runs", "cancel", queued)[1] == f"{queued}  cancelled\n"
    status, out, err = headway("db", "prune", "--older-than", "0.001s")
    assert (status, err) == (0, "")
    assert out.startswith("deleted 2 runs, ")
    for wrong in (["--deadline", "soon"], ["--budget-usd", "-1"], ["-P", "x"]):
        status, _, err = headway("submit", "pair", "x", *wrong)
        assert status == 2
        assert "Traceback" not in err


def test_the_database_is_looked_over_copied_and_pruned(folder: Path, headway: Headway) -> None:
    for task in ("one", "two", "three"):
        assert headway("run", "pair", task)[0] == 0
    assert "all is well" in headway("db", "check")[1]
    assert headway("db", "backup", "copy.db")[0] == 0
    status, _, err = headway("db", "backup", "copy.db")
    assert (status, "is there already" in err) == (3, True)
    assert "would delete 2 runs" in headway("db", "prune", "--keep", "1", "--dry-run")[1]
    assert len(json.loads(headway("db", "prune", "--keep", "1", "--json")[1])["runs"]) == 2
    assert len(json.loads(headway("runs", "--json")[1])) == 1
    status, _, err = headway("db", "prune")
    assert (status, "--older-than TIME" in err) == (2, True)
    assert "up to date" in headway("db", "migrate")[1]
    assert "all is well" in headway("db", "check")[1]

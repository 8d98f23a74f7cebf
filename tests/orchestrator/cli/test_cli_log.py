"""What goes to stderr and to a log file, in which form, and what is held back."""

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.orchestrator.cli import shell
from tests.orchestrator.cli.shell import KEY, headway, started
from tests.waiting import SLOW

TEAMS = """
import logging, os, warnings
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_ext.models.openai import OpenAIChatCompletionClient

class Gap(UserWarning): pass

def writer(models, whose="mine"):
    info = dict(vision=False, function_calling=False, json_output=False, family="unknown")
    # For its warning alone: nobody would close its connections.
    OpenAIChatCompletionClient(model="sim", model_info=info, base_url=os.environ["BASE"])
    warnings.warn("mind the gap", Gap)
    logging.getLogger("teams").warning("a line of %s\\x1b[2J", whose)
    agents = [AssistantAgent("writer", models("sim"))]
    return RoundRobinGroupChat(agents, termination_condition=MaxMessageTermination(2))

def leaky(models):
    return writer(models, os.environ["TEST_KEY"])

def configured(models):
    logging.basicConfig(format="MINE %(message)s")
    return writer(models)

def buggy(models):
    raise ValueError(f"a bug beside {os.environ['TEST_KEY']}")
"""
TIMED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00 (info|warning|error) \S.*")


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with shell.provided() as url:
        yield url


@pytest.fixture
def folder(tmp_path: Path, base_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "headway.toml").write_text(shell.CONFIG.format(base_url))
    (tmp_path / "teams.py").write_text(TEAMS)
    monkeypatch.setenv("BASE", base_url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return tmp_path


def said(folder: Path, *words: str) -> tuple[int, list[str]]:
    """The exit code of a command, and its lines on stderr but those about a slow machine."""
    status, _, err = headway(folder, *words)
    return status, [line for line in err.splitlines() if not SLOW.search(line)]


def test_warnings_of_others_are_held_back_and_those_of_the_workflow_are_not(folder: Path) -> None:
    status, lines = said(folder, "run", "teams:leaky", "Go.")
    text = "\n".join(lines)
    assert status == 0, text
    assert "structured_output" not in text
    assert "headway: warning: " in text
    assert "Gap: mind the gap" in text
    assert r"headway: warning: a line of [key]\x1b[2J" in text
    with (
        (folder / "said.txt").open("w") as file,
        started(folder, "run", "teams:writer", "Go.", "-v", stderr=file) as process,
    ):
        process.communicate()
    assert "Missing required field 'structured_output'" in (folder / "said.txt").read_text()


def test_the_lines_of_work_have_a_time_and_a_level(folder: Path) -> None:
    assert headway(folder, "submit", "teams:buggy", "Go.")[0] == 0
    status, lines = said(folder, "work")
    assert status == 1
    begun = [line for line in lines if not line.startswith(" ")]
    assert [line for line in begun if not TIMED.fullmatch(line)] == [
        "ValueError: a bug beside [key]"
    ]
    assert any(" error Traceback (most recent call last):" in line for line in lines)
    assert any("a bug beside [key]" in line and " error run r-" in line for line in lines)


def test_json_lines_are_all_objects(folder: Path) -> None:
    for team in ("teams:buggy", "teams:writer"):
        assert headway(folder, "submit", team, "Go.")[0] == 0
    _, lines = said(folder, "work", "--log-format", "json", "--log-file", "log.jsonl")
    rows = [json.loads(line) for line in lines]
    assert all({"at", "level", "logger", "message"} == row.keys() for row in rows)
    levels = {row["logger"]: row["level"] for row in rows}
    assert levels["headway.cli"] in ("error", "info")
    assert (levels["teams"], levels["py.warnings"]) == ("warning", "warning")
    assert any("Traceback" in row["message"] for row in rows)
    status, lines = said(folder, "resume", "r-none", "--log-format", "json")
    assert (status, len(lines)) == (2, 1)
    assert json.loads(lines[0])["message"].startswith("no run 'r-none'")


def test_a_log_file_has_the_lines_too_and_is_appended_to(folder: Path) -> None:
    for _ in range(2):
        status, lines = said(folder, "run", "teams:buggy", "Go.", "--log-file", "log.txt")
        assert status == 1
    text = (folder / "log.txt").read_text()
    assert "\n".join(lines) in text
    assert text.count("Traceback") == 2
    assert stat.S_IMODE((folder / "log.txt").stat().st_mode) == 0o600
    status, lines = said(folder, "run", "teams:writer", "Go.", "--log-file", "none/log.txt")
    assert (status, len(lines)) == (2, 1)
    assert "there is no folder none" in lines[0]
    assert len(json.loads(headway(folder, "runs", "--json")[1])) == 2


def test_a_workflow_that_sets_up_logging_itself_gets_its_lines(folder: Path) -> None:
    _, lines = said(folder, "run", "teams:configured", "Go.")
    assert [line.partition(" of ")[0] for line in lines if "a line" in line] == ["MINE a line"]
    _, lines = said(folder, "run", "teams:configured", "Go.", "--log-format", "json")
    assert [row["logger"] for row in map(json.loads, lines)].count("teams") == 1

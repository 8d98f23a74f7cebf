"""What ``run`` and ``submit`` take as a task, and where the final text of a run goes."""

import json
import os
import pty
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from autogen_agentchat.messages import (
    BaseChatMessage,
    ModelClientStreamingChunkEvent,
    TextMessage,
    ThoughtEvent,
)
from tests.orchestrator.cli import shell
from tests.orchestrator.cli.shell import headway, read, started

from headway.cli.terminal import Terminal
from headway.runs.events import Ended, Retrying
from headway_scheduler.model.states import RunState
from headway_scheduler.testing.provider import Settings

ANSWER = "First, a line.\nThen\x1b[2J another."

TEAMS = """
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat

def writer(models, *, tone="plain"):
    agents = [AssistantAgent("writer", models("sim"), model_client_stream=True)]
    return RoundRobinGroupChat(agents, termination_condition=MaxMessageTermination(2))

def broken(models):
    raise ValueError("no team today")
"""
CONFIG = (
    shell.CONFIG
    + """
[workflows]
writer = "teams:writer"
broken = "teams:broken"
"""
)


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with shell.provided(Settings(reply=lambda body: ANSWER)) as url:
        yield url


@pytest.fixture
def folder(tmp_path: Path, base_url: str) -> Path:
    (tmp_path / "headway.toml").write_text(CONFIG.format(base_url))
    (tmp_path / "teams.py").write_text(TEAMS)
    return tmp_path


def tasks(folder: Path) -> list[str]:
    _, out, _ = headway(folder, "runs", "--json")
    return [run["task"] for run in json.loads(out)]


def test_a_task_comes_from_standard_input_a_file_or_the_command(folder: Path) -> None:
    (folder / "task.txt").write_bytes("\ufeffGrüße\r\nan Ada\r\n".encode())
    assert headway(folder, "submit", "writer", "-", given="One\ntwo\n")[0] == 0
    assert headway(folder, "submit", "writer", "@task.txt")[0] == 0
    assert headway(folder, "submit", "writer", "@@ada is away")[0] == 0
    assert tasks(folder) == ["@ada is away", "Grüße\r\nan Ada", "One\ntwo"]


@pytest.mark.parametrize(
    ("data", "task", "said"),
    [
        (b"12 \xe9", "@task.txt", "the task in task.txt is no UTF-8 at byte 3"),
        (b" \n", "@task.txt", "the task in task.txt is empty"),
        (b"x" * 64_000_001, "@task.txt", "the task in task.txt is too long"),
        (b"x" * 16_000_001, "@task.txt", "task must have 0 to 16,000,000 characters"),
        (b"", "@nowhere.txt", "nowhere.txt cannot be read (No such file or directory)"),
        (b"", "@.", ". cannot be read (Is a directory)"),
        (b"", "@", "a file without a name cannot be read"),
        (b"", "-", "the task in standard input is empty"),
    ],
)
def test_a_task_that_cannot_be_one_is_refused_before_a_run_is_made(
    folder: Path, data: bytes, task: str, said: str
) -> None:
    (folder / "task.txt").write_bytes(data)
    status, out, err = headway(folder, "submit", "writer", task, given="")
    assert (status, out) == (2, "")
    assert err.startswith(f"headway: {said}"), err
    assert err.count("\n") == 1
    assert tasks(folder) == []


@pytest.mark.parametrize(
    ("workflow", "said"),
    [
        ("writxr", "no workflow 'writxr': did you mean writer?"),
        ("teem:writer", "'teem:writer': there is no module 'teem'"),
        ("teams:writxr", "'teams:writxr': module 'teams' (PLACE) has no 'writxr'"),
    ],
)
def test_a_workflow_that_is_mistyped_makes_no_run(folder: Path, workflow: str, said: str) -> None:
    status, out, err = headway(folder, "run", workflow, "Go.")
    assert (status, out) == (2, "")
    assert said.replace("PLACE", str(folder / "teams.py")) in err
    assert tasks(folder) == []


def test_a_parameter_that_is_mistyped_makes_no_run(folder: Path) -> None:
    status, out, err = headway(folder, "run", "writer", "Go.", "-P", "toen=dry")
    assert (status, out) == (2, "")
    assert "workflow 'writer' takes no parameter 'toen': did you mean tone?" in err
    assert "it takes none" in headway(folder, "run", "broken", "Go.", "-P", "tone=dry")[2]
    assert tasks(folder) == []
    assert headway(folder, "run", "writer", "Go.", "-P", "tone=dry")[0] == 0


def test_a_pipe_gets_real_lines_of_which_none_can_pose_as_a_message(folder: Path) -> None:
    status, out, _ = headway(folder, "run", "writer", "Go.")
    assert status == 0
    assert out.splitlines()[:3] == [
        "user: Go.",
        "writer: First, a line.",
        r"  Then\x1b[2J another.",
    ]


def test_the_last_text_alone_goes_to_stdout_and_as_it_is_to_a_file(folder: Path) -> None:
    (folder / "answer.txt").write_text("old")
    (folder / "answer.txt").chmod(0o644)
    status, out, err = headway(folder, "run", "writer", "Go.", "--last", "-o", "answer.txt")
    assert (status, out) == (0, "First, a line.\nThen\\x1b[2J another.\n")
    assert "headway: completed after " in err
    assert (folder / "answer.txt").read_text() == ANSWER
    assert stat.S_IMODE((folder / "answer.txt").stat().st_mode) == 0o600


def test_without_a_result_there_is_no_text_and_no_file(folder: Path) -> None:
    status, out, err = headway(folder, "run", "broken", "Go.", "--last", "-o", "answer.txt")
    assert (status, out) == (1, "")
    assert "no team today" in err
    assert not (folder / "answer.txt").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "nowhere/answer.txt"], "nowhere/answer.txt cannot be written: there is no folder"),
        (["-o", "."], ". is a folder: name a file"),
        (["--last", "--json"], "give --last or --json"),
    ],
)
def test_a_place_that_takes_no_text_is_refused_before_the_run(
    folder: Path, words: list[str], said: str
) -> None:
    status, out, err = headway(folder, "run", "writer", "Go.", *words)
    assert (status, out) == (2, "")
    assert err.startswith(f"headway: {said}"), err
    assert tasks(folder) == []


def test_a_terminal_shows_an_answer_that_streams_once(folder: Path) -> None:
    ours, theirs = pty.openpty()
    with started(folder, "run", "writer", "Go.", stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while piece := read(ours):
            shown += piece
    os.close(ours)
    text = shown.decode().replace("\r\n", "\n")
    assert process.returncode == 0
    assert text.count("First, a line.") == 1
    assert "First, a line.\n  Then\\x1b[2J another.\n" in text


class Screen:
    """A view on a terminal, and what has reached the terminal by now."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ours, theirs = pty.openpty()
        self._file = os.fdopen(theirs, "w")
        self._monkeypatch = monkeypatch
        self._shown = b""
        monkeypatch.setenv("TERM", "xterm")

    @property
    def view(self) -> Terminal:
        """Make the view; pytest has its own stdout in place until the test begins."""
        self._monkeypatch.setattr("sys.stdout", self._file)
        return Terminal(several_runs=False)

    @property
    def text(self) -> str:
        """What is shown, without escapes and the status line."""
        shown = self._shown.decode(errors="ignore").replace("\r\n", "\n")
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r|\S* ?starting\n?", "", shown)

    def wait_for(self, text: str) -> None:
        """Read until this is shown. A terminal hands over a little later what it was given."""
        self._file.flush()
        while text not in self.text:
            self._shown += os.read(self._ours, 65536)

    def close(self) -> None:
        self._file.close()
        os.close(self._ours)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    screen = Screen(monkeypatch)
    yield screen
    screen.close()


def chunk(source: str, text: str, message_id: str) -> ModelClientStreamingChunkEvent:
    return ModelClientStreamingChunkEvent(source=source, content=text, full_message_id=message_id)


def message(source: str, text: str, message_id: str = "") -> BaseChatMessage:
    named: dict[str, Any] = {"id": message_id} if message_id else {}
    return TextMessage(source=source, content=text, **named)


def test_pieces_are_shown_as_they_come_and_others_wait_until_the_answer_has_ended(
    screen: Screen,
) -> None:
    with screen.view as view:
        view.show("r-a", chunk("writer", "One\r", "m1"))
        screen.wait_for("writer: One")
        view.show("r-a", chunk("writer", "\ntwo", "m1"))
        view.show("r-a", chunk("critic", "Me", "m2"))
        view.show("r-a", message("critic", "Me too", "m2"))
        view.show("r-a", chunk("writer", " and three", "m1"))
        screen.wait_for("and three")
        view.show("r-a", message("writer", "One\r\ntwo and three", "m1"))
        view.show("r-a", message("critic", "That is all"))
        screen.wait_for("all\n")
    assert screen.text.split("\n")[-5:] == [
        "writer: One",
        "  two and three",
        "critic: Me too",
        "critic: That is all",
        "",
    ]


def test_an_answer_whose_beginning_was_missed_is_shown_whole(screen: Screen) -> None:
    with screen.view as view:
        view.show("r-a", chunk("writer", "One", "m1"))
        view.show("r-a", chunk("critic", "I d", "m2"))
        view.show("r-a", message("writer", "One", "m1"))
        view.show("r-a", chunk("critic", "isagree", "m2"))
        view.show("r-a", message("critic", "I disagree", "m2"))
        screen.wait_for("writer: One\ncritic: I disagree\n")
        with view.asking():
            view.show("r-a", chunk("writer", "T", "m3"))
            view.show("r-a", message("critic", "Never"))
            print("Well? ", end="")
            screen.wait_for("disagree\nWell? ")
        view.show("r-a", chunk("writer", "wo", "m3"))
        view.show("r-a", message("writer", "Two", "m3"))
        screen.wait_for("Well? critic: Never\nwriter: Two\n")


def test_a_thought_that_streamed_is_not_shown_again_and_another_message_is(screen: Screen) -> None:
    with screen.view as view:
        view.show("r-a", chunk("writer", "Let me look", "m1"))
        view.show("r-a", ThoughtEvent(source="writer", content="Let me look"))
        view.show("r-a", chunk("writer", "Hm", "m2"))
        view.show("r-a", message("writer", "Something else"))
        screen.wait_for("else\n")
    assert screen.text.count("Let me look") == 1
    assert "writer: Hm\nwriter: Something else\n" in screen.text


def test_an_answer_that_is_sent_again_streams_anew(screen: Screen) -> None:
    with screen.view as view:
        view.show("r-a", chunk("writer", "The first t", "m1"))
        view.show("r-a", Retrying("r-a", "r-a.0", "writer", 1, None, "cut"))
        view.show("r-a", chunk("writer", "The second try", "m1"))
        view.show("r-a", message("writer", "The second try", "m1"))
        view.show("r-a", message("critic", "Fine"))
        screen.wait_for("Fine\n")
    assert "writer: The first t\nwriter: The second try\ncritic: Fine\n" in screen.text


def test_what_is_held_back_is_shown_when_the_run_ends_in_the_middle(screen: Screen) -> None:
    with screen.view as view:
        view.show("r-a", chunk("writer", "Once", "m1"))
        view.show("r-a", message("critic", "Hear, hear"))
        view.show("r-a", Ended("r-a", RunState.FAILED, "cut", 0.0))
        screen.wait_for("writer: Once\ncritic: Hear, hear\n")

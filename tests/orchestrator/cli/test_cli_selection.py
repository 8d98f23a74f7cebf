"""Verbs about several runs, named by ids or by filters, and the question before they change any."""

import json
import os
import pty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.orchestrator.cli import shell
from tests.orchestrator.cli.shell import headway, read, started

from headway.cli.parser import parse
from headway_scheduler.testing.provider import Body, Settings

TEAMS = """
import os
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat

def writer(models):
    if os.path.exists("broken"):
        raise ValueError("no team today")
    agents = [AssistantAgent("writer", models("sim"))]
    return RoundRobinGroupChat(agents, termination_condition=MaxMessageTermination(2))
"""
CONFIG = (
    shell.CONFIG
    + """
[workflows]
writer = "teams:writer"
"""
)


def reply(body: Body) -> str:
    return f"Answer to {body['messages'][-1]['content']}"


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with shell.provided(Settings(reply=reply)) as url:
        yield url


@pytest.fixture
def folder(tmp_path: Path, base_url: str) -> Path:
    (tmp_path / "headway.toml").write_text(CONFIG.format(base_url))
    (tmp_path / "teams.py").write_text(TEAMS)
    return tmp_path


def submitted(folder: Path, *tasks: str) -> list[str]:
    return [headway(folder, "submit", "writer", task)[1].strip() for task in tasks]


def states(folder: Path) -> dict[str, str]:
    """The state of each run by its task."""
    _, out, _ = headway(folder, "runs", "--json")
    return {run["task"]: run["state"] for run in json.loads(out)}


def answered(folder: Path, words: str, *arguments: str) -> tuple[int, str]:
    """Run a command on a terminal, and type ``words`` when it asks."""
    ours, theirs = pty.openpty()
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    with started(folder, *arguments, **streams) as process:
        os.close(theirs)
        shown = b""
        while piece := read(ours):
            shown += piece
            if shown.endswith(b"Go on? [y/N] "):
                os.write(ours, f"{words}\n".encode())
    os.close(ours)
    return process.returncode, shown.decode().replace("\r\n", "\n")


def test_ids_are_all_looked_up_before_any_run_is_changed(folder: Path) -> None:
    one, two, three = submitted(folder, "one", "two", "three")
    status, out, err = headway(folder, "runs", "cancel", one, two, "r-nowhere")
    assert (status, out) == (2, "")
    assert "no run 'r-nowhere'" in err
    assert set(states(folder).values()) == {"queued"}
    status, out, _ = headway(folder, "runs", "cancel", one, "--json", two, one)
    assert status == 0
    assert [run["id"] for run in json.loads(out)] == [one, two]
    assert states(folder) == {"one": "cancelled", "two": "cancelled", "three": "queued"}
    assert headway(folder, "runs", "pause", three)[1] == f"{three}  paused\n"


def test_one_run_that_refuses_keeps_no_other_from_being_changed(folder: Path) -> None:
    one, two = submitted(folder, "one", "two")
    assert headway(folder, "runs", "cancel", one)[0] == 0
    status, out, err = headway(folder, "runs", "pause", one, two)
    assert (status, out) == (2, f"{two}  paused\n")
    assert f"run {one}" in err
    assert err.count("\n") == 1


def test_filters_ask_first_and_where_nobody_is_they_need_yes(folder: Path) -> None:
    submitted(folder, *"abcdefghijkl")
    status, out, err = headway(folder, "runs", "cancel", "--state", "queued")
    assert (status, out) == (2, "")
    assert err == (
        "headway: `headway runs cancel --state queued` is about 12 runs, and nobody is here to "
        "agree: add --yes if all of them are meant\n"
    )
    status, shown = answered(folder, "n", "runs", "cancel", "--state", "queued")
    assert status == 0
    assert "`headway runs cancel --state queued` is about 12 runs\n" in shown
    assert "and 2 more\nGo on? [y/N] n\n" in shown
    assert "nothing was done" in shown
    assert set(states(folder).values()) == {"queued"}
    status, shown = answered(folder, "y", "runs", "pause", "--since", "1h")
    assert (status, shown.count("  paused\n")) == (0, 12)
    status, out, _ = headway(folder, "runs", "cancel", "--state", "paused", "--yes")
    assert (status, out.count("  cancelled\n")) == (0, 12)
    status, out, _ = headway(folder, "runs", "cancel", "--state", "paused", "--yes")
    assert (status, out) == (0, "no run was changed\n")


def test_failed_runs_of_today_are_retried_and_completed_ones_go_on(folder: Path) -> None:
    (folder / "broken").touch()
    submitted(folder, "one", "two")
    assert headway(folder, "work")[0] == 1
    (folder / "broken").unlink()
    status, out, err = headway(folder, "runs", "retry", "--state", "failed", "--since", "1d", "-y")
    assert status == 0, err
    assert "2 completed · 2 calls" in out
    assert out.count("calls replayed: 0") == 2
    assert states(folder) == {"one": "completed", "two": "completed"}
    status, out, err = headway(folder, "runs", "continue", "--since", "1d", "-y", "--json", "And?")
    assert status == 0, err
    result = json.loads(out.splitlines()[-1])
    assert result["states"] == {"completed": 2}
    assert [each["replayed"] for each in result["receipts"]] == [1, 1]
    status, out, _ = headway(folder, "runs", "show", "--state", "completed", "--json")
    found = json.loads(out)
    assert sorted(run["messages"][-1]["content"] for run in found) == [
        *["Answer to And?"] * 2,
        "Answer to one",
        "Answer to two",
    ]
    ids = [run["id"] for run in found]
    status, out, _ = headway(folder, "runs", "show", ids[0], ids[1])
    assert [line.split("  ")[0] for line in out.splitlines() if "  completed" in line] == ids[:2]
    status, out, _ = headway(folder, "runs", "logs", *ids[:2])
    assert f"{ids[0]} completed" in out
    assert all(f"\n{each} " in f"\n{out}" for each in ids[:2])
    assert headway(folder, "runs", "export", *ids, "-o", "all.json")[0] == 0
    assert [each["run"]["id"] for each in json.loads((folder / "all.json").read_text())] == ids


def test_runs_resume_by_ids_and_by_state(folder: Path) -> None:
    one, two, three = submitted(folder, "one", "two", "three")
    assert headway(folder, "runs", "pause", one, two, three)[0] == 0
    status, out, err = headway(folder, "resume", one, two)
    assert (status, "2 completed" in out) == (0, True), err
    status, out, err = headway(folder, "resume", "--state", "paused", "--check", "--json")
    assert status == 0, err
    assert [check["run_id"] for check in json.loads(out)] == [three]
    status, out, err = headway(folder, "resume", "--all")
    assert (status, out) == (0, "no run went on here\n"), err
    status, out, err = headway(folder, "resume", "--state", "paused", "--yes")
    assert (status, "completed after" in out) == (0, True), err


def test_several_states_and_a_team_choose_runs(folder: Path) -> None:
    nightly = headway(folder, "submit", "writer", "count", "--team", "nightly")[1].strip()
    (writer,) = submitted(folder, "write")
    _, out, _ = headway(folder, "runs")
    assert [line.split()[3] for line in out.splitlines()] == ["TEAM", "writer", "nightly"]
    for words, found in (
        ("--team nightly", [nightly]),
        ("--team writer", [writer]),  # of the workflow's name: it names no other team
        ("--state queued --state failed", [writer, nightly]),
        ("--state failed --state paused", []),
        ("--team nightly --state failed", []),
    ):
        _, out, _ = headway(folder, "runs", *words.split(), "--json")
        assert [run["id"] for run in json.loads(out)] == found
    _, out, _ = headway(folder, "runs", "--team", "other")
    assert out == "no run fits\n"
    status, out, _ = headway(folder, "runs", "cancel", "--team", "nightly", "--yes")
    assert (status, out) == (0, f"{nightly}  cancelled\n")
    assert states(folder) == {"count": "cancelled", "write": "queued"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("runs cancel", "say which runs: either ids, or --state, --team and --since"),
        (
            "runs show r-a --state failed",
            "say which runs: either ids, or --state, --team and --since",
        ),
        ("resume --all r-a", "say which runs: --all, or ids, or --state, --team and --since"),
        ("runs continue r-a", "say which run, and TASK"),
        ("runs answer r-a", "say which run, and WORDS"),
    ],
)
def test_what_is_left_open_is_asked_for(folder: Path, words: str, said: str) -> None:
    status, out, err = headway(folder, *words.split())
    assert (status, out) == (2, "")
    assert said in err


def test_ids_may_stand_on_both_sides_of_an_option() -> None:
    args: Any = parse(["runs", "answer", "r-a", "--json", "yes, publish"])
    assert args.ids == ["r-a", "yes, publish"]

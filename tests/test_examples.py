"""Every example runs as a reader would run it, and says what its docstring promises."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.processes import WarmProcess
from tests.waiting import without_slowness

EXAMPLES = Path(__file__).parent.parent / "examples"

ESSENTIAL: dict[str, list[str]] = {
    "01_first_team.py": [
        "queued    writer, normal",
        "admitted  writer",
        "message   writer: ",
        "queued    critic, background",
        "admitted  critic",
        "message   critic: ",
        "message   writer: ",
        "ended     completed",
        "result    3 calls, ",
        "again     the same key is the same run: True",
    ],
    "02_two_priorities.py": [
        "admitted  background: page 1",
        "admitted  interactive: a question",
        "admitted  background: page 6",
    ],
    "03_component_json.py": [
        "admitted  reader",
        "admitted  checker",
        "message   user: Which of our pages are out of date?",
        "message   reader: ",
        "message   checker: ",
        "result    2 calls, stopped by: Maximum number of messages 3 reached",
    ],
    "04_stock_agent.py": [
        "answer    ",
        "recorded  (ad hoc) gpt-5.4, high: done",
    ],
    "05_kill_and_resume.py": [
        "killed    4 calls were paid by then",
        "completed  calls replayed: ",
        "paid      ",
    ],
    "06_person_in_the_loop.py": [
        "state     waiting",
        "question  editor: Enter your response: ",
        "message   writer: ",
        "message   editor: Shorter, please.",
        "message   writer: ",
        "receipt   calls replayed: 1 · steps replayed: 1 · calls paid: 1",
    ],
    "07_fork.py": [
        "first     4 calls paid",
        "fork      calls replayed: 2 · steps replayed: 0 · calls paid: 2",
        "other     Explain the tides to a child.",
        "continued calls replayed: 4 · steps replayed: 0 · calls paid: 4",
        "all       12 calls paid for 4 runs of 4",
    ],
    "08_a_tool_that_runs_once.py": [
        "state     interrupted",
        "state     waiting: transfer was cut off, and may have happened. What came of transfer(",
        "state     completed, transferred 1 time",
    ],
    "09_parts_of_the_policy.py": [
        "arrival within the class  plain      crawl 108.7 s   chat   3.0 s   research   8.0 s",
        "the policy                plain      crawl 117.6 s   chat   0.0 s   research   9.0 s",
        "the policy                inherited  crawl 117.7 s   chat   0.0 s   research   0.0 s",
    ],
    "10_memory_with_embeddings.py": [
        "answer    My note says: The tide turns every six hours.",
        "recorded  input Notes.update_context",
        "recorded  sdk embed",
        "recorded  model sim",
        "again     My note says: The tide turns every six hours.",
        "paid      embed sim sim",
    ],
}
"""Beginnings of lines that must come in this order."""


def run(path: Path, cwd: Path) -> tuple[int, str, str]:
    paths = [os.path.abspath(entry) for entry in sys.path if entry]
    with WarmProcess(
        [sys.executable, "-W", "error::ResourceWarning", str(path)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        out, err = process.communicate()
    return process.returncode, out, err


AT_ANY_TIME = {"01_first_team.py": "message   user: Week 47"}
"""AutoGen tells of the task while the first call is being queued: before or after it."""


@pytest.mark.parametrize("name", ESSENTIAL)
def test_an_example_says_what_it_shows(name: str, tmp_path: Path) -> None:
    status, out, err = run(EXAMPLES / name, tmp_path)
    assert status == 0, err
    assert without_slowness(err) == ""
    assert AT_ANY_TIME.get(name, "") in out
    lines = iter(out.splitlines())
    for beginning in ESSENTIAL[name]:
        assert any(line.startswith(beginning) for line in lines), (beginning, out)
    assert list(tmp_path.iterdir()) == [], "an example leaves nothing behind"


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(ESSENTIAL)
    others = {path.name for path in EXAMPLES.iterdir() if path.suffix not in (".py", "")}
    assert others == {"team.json"}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 70

"""The fixture works in tests of anyio's plugin and of pytest-asyncio's, whichever are installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BODY = """
import asyncio
import pytest
from autogen_core.models import UserMessage

ASKED = [UserMessage(content="Why?", source="user")]

{head}
@pytest.mark.simulated_headway(reply=lambda request: "Because.")
async def test_an_answer(simulated_headway):
    assert simulated_headway.provider.base_url.startswith("http://127.0.0.1")
    task = asyncio.create_task(simulated_headway.model("sim").create(ASKED))
    assert (await task).content == "Because."

{mark}
async def test_without_arguments(simulated_headway):
    assert (await simulated_headway.model("sim").create(ASKED)).content != "Because."
    assert len(simulated_headway.provider.ledger.paid) == 1
"""
BACKEND = '@pytest.fixture\ndef anyio_backend():\n    return "asyncio"\n\n'
ALONE = ["-p", "no:asyncio"]
ANYIO, ASYNCIO = "@pytest.mark.anyio", "@pytest.mark.asyncio"


# Not anyio's mark in pytest-asyncio's automatic mode: there the two run the test in two loops, as
# anyio's documentation warns.
@pytest.mark.parametrize(
    ("head", "mark", "options"),
    [
        (BACKEND + ANYIO, ANYIO, ALONE),
        (BACKEND + ANYIO, ANYIO, []),
        (ASYNCIO, ASYNCIO, []),
        ("", "", ["--asyncio-mode=auto"]),
    ],
    ids=["anyio alone", "anyio, strict", "asyncio, strict", "asyncio, auto"],
)
def test_the_fixture_runs_in_the_loop_of_its_test(
    tmp_path: Path, head: str, mark: str, options: list[str]
) -> None:
    assert "2 passed" in run(tmp_path, BODY.format(head=head, mark=mark), *options)


LEFT = """
from autogen_agentchat.agents import AssistantAgent

{head}
@pytest.mark.simulated_headway(latency_seconds=3600)
async def test_it(simulated_headway):
    hw = simulated_headway
    hw.workflow("agent")(lambda models: AssistantAgent("writer", models("sim")))
    run = await hw.start("agent", task="Go.")
    assert run.id == "wrong"
"""


@pytest.mark.parametrize(
    ("head", "options"), [(BACKEND + ANYIO, ALONE), (ASYNCIO, [])], ids=["anyio", "asyncio"]
)
def test_a_test_that_fails_does_not_wait_for_its_runs(
    tmp_path: Path, head: str, options: list[str]
) -> None:
    text = "import pytest\n" + LEFT.format(head=head)
    assert "== 'wrong'" in run(tmp_path, text, *options, status=1)


def test_a_test_that_nobody_runs_in_a_loop_is_told_what_to_do(tmp_path: Path) -> None:
    text = "def test_sync(simulated_headway): ...\n"
    said = run(tmp_path, text, *ALONE, status=1)
    assert "is for async tests: mark the test with @pytest.mark.anyio" in said


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ('reply="Because."', "reply must be a function of the request"),
        ('"Because."', "simulated_headway takes arguments by name"),
    ],
)
def test_arguments_that_are_none_of_the_marker_fail_the_test(
    tmp_path: Path, given: str, words: str
) -> None:
    head = f"{BACKEND}import pytest\n\n{ANYIO}\n@pytest.mark.simulated_headway({given})\n"
    text = f"import pytest\n{head}async def test_it(simulated_headway): ...\n"
    assert words in run(tmp_path, text, *ALONE, status=1)


def run(folder: Path, text: str, *options: str, status: int = 0) -> str:
    (folder / "test_it.py").write_text(text)
    others = ("HEADWAY_", "PYTEST_", "SLIPCOVER_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(others)}
    plain = ["-q", "--strict-markers", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "error"]
    if "no:asyncio" not in options:
        plain += ["-o", "asyncio_default_fixture_loop_scope=function"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plain, *options, "test_it.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout

"""A key goes to its provider and nowhere else: not into the journal, logs, errors or any view."""

import json
import logging
import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread
from autogen_agentchat.agents import AssistantAgent

from headway import Headway, RunFailed
from headway.cli import main
from headway.config import load
from headway_scheduler.errors import CallerError
from headway_scheduler.testing.provider import Fault, FaultKind, Settings, simulated_provider

pytestmark = pytest.mark.anyio
KEY = "sk-proj-Zq9xDistinctiveKey0123456789"

CONFIG = """
[database]
path = "headway.db"
[quotas.q]
requests_per_minute = 6000
[models.sim]
quotas = ["q"]
base_url = "{url}"
{key}
"""


def printing(text: str, status: int = 0) -> str:
    """A setting whose command prints a text, and ends with a status."""
    program = f"import sys; print({text!r}); sys.exit({status})"
    return f"api_key_command = {json.dumps(shlex.join([sys.executable, '-c', program]))}"


@pytest.fixture
async def provider() -> AsyncIterator[Any]:
    settings = Settings(faults=lambda n, _: Fault(FaultKind.UNAUTHORIZED) if n == 2 else None)
    async with simulated_provider(settings) as provider:
        yield provider


def written(folder: Path, url: str, key: str) -> Path:
    (folder / "headway.toml").write_text(CONFIG.format(url=url, key=key))
    return folder / "headway.toml"


@pytest.mark.parametrize("by_command", [False, True])
async def test_a_key_is_in_nothing_that_is_kept_or_shown(
    by_command: bool,
    tmp_path: Path,
    provider: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", "unused" if by_command else KEY)
    kept = tmp_path / "key"
    kept.write_text(KEY)
    reading = f"import pathlib; print(pathlib.Path({str(kept)!r}).read_text())"
    command = json.dumps(shlex.join([sys.executable, "-c", reading]))
    stated = f"api_key_command = {command}" if by_command else 'api_key_env = "OPENAI_API_KEY"'
    file = written(tmp_path, provider.base_url, stated)
    seen: list[str] = []
    async with Headway(file) as headway:

        @headway.workflow("agent")
        def agent(models: Any) -> AssistantAgent:
            return AssistantAgent("writer", models("sim"))

        first = await headway.start("agent", task="x")
        await first.result()
        second = await headway.start("agent", task="again")
        with pytest.raises(RunFailed) as failed:
            await second.result()
        seen += [str(failed.value), repr(failed.value.__cause__)]
        assert len(provider.ledger) == 2
    kept.unlink()
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    shown = ""
    for words in (["config"], ["runs", "--json"], ["doctor"], ["limits"], ["queue"]):
        await to_thread.run_sync(main, words)
        out = capsys.readouterr()
        shown += out.out + out.err
    for text in (*seen, shown, caplog.text, everything(tmp_path)):
        assert KEY not in text


def everything(folder: Path) -> str:
    """All that is in the files of a folder: the database, its log, the configuration."""
    files = [each for each in folder.iterdir() if each.is_file()]
    assert any(each.name == "headway.db" for each in files)
    return "".join(each.read_bytes().decode(errors="replace") for each in files)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (printing(""), "printed nothing"),
        (printing(KEY, status=3), "ended with status 3"),
        ('api_key_command = "/no/such/program"', "cannot be run: FileNotFoundError"),
    ],
)
async def test_a_command_that_prints_no_key_says_so_and_shows_nothing(
    tmp_path: Path, provider: Any, key: str, said: str
) -> None:
    async with Headway(written(tmp_path, provider.base_url, key)) as headway:
        with pytest.raises(CallerError, match=said) as caught:
            headway.model("sim")
        assert KEY not in str(caught.value)


def test_a_command_must_be_one_that_a_shell_could_read(tmp_path: Path) -> None:
    file = written(tmp_path, "http://localhost/v1", 'api_key_command = "pass \'show"')
    with pytest.raises(CallerError, match=r"models\.sim\.api_key_command must be a command"):
        load(file)


@pytest.mark.parametrize("end", ["\r", "\nx", " x", "é"])
@pytest.mark.parametrize("by_command", [False, True])
async def test_a_key_that_no_header_takes_is_refused_and_not_shown(
    by_command: bool,
    end: str,
    tmp_path: Path,
    provider: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if by_command and end == "\r":
        end = "\ry"  # what a command prints is stripped
    monkeypatch.setenv("SIM_KEY", KEY + end)
    key = printing(KEY + end) if by_command else 'api_key_env = "SIM_KEY"'
    file = written(tmp_path, provider.base_url, key)
    status = await to_thread.run_sync(main, ["doctor", "--ping", "--config", str(file)])
    said = "".join(capsys.readouterr())
    assert status == 1
    assert "that no HTTP header takes: set it anew" in said
    assert KEY not in said

"""A run cut off after every commit goes on in a new process as if nothing had happened.

A copy of the database and its log, taken when a commit has returned, is what a machine finds that
lost its power right then.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from tests.waiting import until

from headway import Headway
from headway.config import load
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.model.states import CallState
from headway_scheduler.testing.provider import (
    Latency,
    Settings,
    SimulatedProvider,
    simulated_provider,
)

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import child as child_module  # noqa: E402
import teams  # noqa: E402

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning"),
    pytest.mark.filterwarnings("ignore:Using LocalCommandLineCodeExecutor:UserWarning"),
    pytest.mark.filterwarnings("ignore:No approval function:UserWarning"),
]


class Zygote:
    """Starts a new process for each job at the cost of a fork: AutoGen takes a second to import."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        command = [sys.executable, "-W", "ignore", str(HERE / "child.py")]
        environment = {**os.environ, "OPENAI_API_KEY": "not-a-key"}
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, bufsize=1, env=environment
        )
        assert self._said() == "ready"

    def run(self, folder: Path, **more: Any) -> Any:
        """Carry out a job, and return its result; None if its process was killed."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"folder": str(folder), **more}) + "\n")
        status = self._said()
        if status == str(-signal.SIGKILL):
            return None
        assert status == "0"
        return json.loads((folder / "result.json").read_text())

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def _said(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    started = Zygote()
    yield started
    started.close()


@pytest.fixture
async def provider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[SimulatedProvider]:
    """Answers branches that run at once one after the other, each once the last one is on disk."""

    async def in_order(body: dict[str, Any]) -> None:
        if (before := teams.branch_before(body)) is not None:
            await until(lambda: is_answered(tmp_path / body["model"], before))

    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    latency = Latency(0.003, seconds_per_output_token=0.002)
    settings = Settings(reply=teams.reply, latency=latency, hold=in_order)
    async with simulated_provider(settings) as provider:
        yield provider


def is_answered(folder: Path, agent: str) -> bool:
    with closing(sqlite3.connect(f"file:{folder / 'headway.db'}?mode=ro", uri=True)) as db:
        query = "SELECT 1 FROM calls WHERE path LIKE ? AND state = 'done'"
        return db.execute(query, (f"%{agent}",)).fetchone() is not None


@dataclass
class Copies:
    """Copies of a database, one for each commit, each asking the provider for its own model."""

    folder: Path
    team: str
    base_url: str
    count: int = 0

    def configured(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        (folder / "headway.toml").write_text(
            f"""
[database]
path = "headway.db"
[quotas.roomy]
concurrency = 50
[models.sim]
name = "{name}"
quotas = ["roomy"]
base_url = "{self.base_url}"
[workflows]
team = "teams:{self.team}"
"""
        )
        return folder

    def take(self) -> None:
        folder = self.configured(f"copy-{self.count}")
        self.count += 1
        for file in (self.folder / "uncut").glob("headway.db*"):
            if not file.name.endswith(("-shm", ".lock", ".bell")):
                shutil.copy(file, folder / file.name)


async def uncut(copies: Copies, monkeypatch: pytest.MonkeyPatch, most: float = float("inf")) -> Any:
    """Run a team, and copy its database after every commit, or after so many."""
    folder = copies.configured("uncut")
    commit = SqliteStore.commit

    async def copied(self: SqliteStore, batch: Any) -> None:
        await commit(self, batch)
        if copies.count < most:
            copies.take()

    async with Headway(load(folder / "headway.toml")) as headway:
        await headway.submit("team", task="Explain the tides.")
        with monkeypatch.context() as patch:
            patch.setattr(SqliteStore, "commit", copied)
            (run,) = await headway.list_runs()
            handle = await headway.resume(run.id)
            await handle.ended()
        return child_module.transcript(handle)


async def answered(folder: Path) -> int:
    """How many answers of models are on disk."""
    async with SqliteStore(folder / "headway.db") as store:
        rows = await store.calls(states={CallState.DONE})
        return sum(row.call.kind == "model" for row in rows)


def paid(provider: SimulatedProvider, name: str) -> int:
    return sum(entry.model == name for entry in provider.ledger.paid)


@pytest.mark.parametrize("team", [team.__name__ for team in teams.TEAMS])
async def test_a_run_cut_after_any_commit_ends_as_if_it_had_not_been(
    team: str,
    tmp_path: Path,
    provider: SimulatedProvider,
    zygote: Zygote,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copies = Copies(tmp_path, team, provider.base_url)
    expected = await uncut(copies, monkeypatch)
    calls = paid(provider, "uncut")
    assert calls >= 3
    assert copies.count >= calls
    for number in range(copies.count):
        folder = tmp_path / f"copy-{number}"
        known = await answered(folder)
        result = await to_thread.run_sync(zygote.run, folder)
        assert result.get("transcript") == expected, (number, result.get("error"))
        # Everything but what was answered by then, and nothing that was.
        assert paid(provider, folder.name) == calls - known, number


async def killed_and_resumed(
    copies: Copies, zygote: Zygote, provider: SimulatedProvider, seam: str, times: int
) -> tuple[bool, Any]:
    """Have a process die at a seam, and another one go on: whether it died, and what was said.

    The second one pays for nothing that was on disk.
    """
    folder = copies.configured(f"{child_module.SEAMS.index(seam)}-{times}")
    for file in (copies.folder / "copy-0").glob("headway.db*"):
        shutil.copy(file, folder / file.name)
    killed = await to_thread.run_sync(partial(zygote.run, folder, seam=seam, times=times))
    known, before = await answered(folder), paid(provider, folder.name)
    result = await to_thread.run_sync(zygote.run, folder)
    assert "error" not in result, (seam, times, result["error"])
    assert paid(provider, folder.name) - before == paid(provider, "uncut") - known, (seam, times)
    return killed is None, result["transcript"]


@pytest.mark.parametrize("seam", child_module.SEAMS)
async def test_a_process_killed_whenever_it_reaches_a_seam_loses_at_most_the_call_in_flight(
    seam: str,
    tmp_path: Path,
    provider: SimulatedProvider,
    zygote: Zygote,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copies = Copies(tmp_path, "graph_fan", provider.base_url)
    expected = await uncut(copies, monkeypatch, most=1)
    for times in count(1):
        killed, said = await killed_and_resumed(copies, zygote, provider, seam, times)
        assert said == expected, times
        if not killed:
            break
    # It died each time that it got there, the last time included.
    assert times > paid(provider, "uncut")


KILLED = ("round_robin", "selector_by_model", "swarm", "magentic", "nested")
"""Effects of teams that are killed too, each at every seam, at places that differ between them."""


@pytest.mark.parametrize("team", KILLED)
async def test_a_team_of_any_kind_survives_a_kill_at_every_seam(
    team: str,
    tmp_path: Path,
    provider: SimulatedProvider,
    zygote: Zygote,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copies = Copies(tmp_path, team, provider.base_url)
    expected = await uncut(copies, monkeypatch, most=1)
    for number, seam in enumerate(child_module.SEAMS):
        times = 2 + (number + KILLED.index(team)) % 3  # each of them reaches every seam four times
        killed, said = await killed_and_resumed(copies, zygote, provider, seam, times)
        assert killed, (seam, times)
        assert said == expected, (seam, times)


async def test_a_run_is_the_same_whatever_the_hash_seed(
    tmp_path: Path, provider: SimulatedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = Copies(tmp_path, "graph_fan", provider.base_url)
    expected = await uncut(copies, monkeypatch)
    folder = tmp_path / f"copy-{copies.count // 2}"
    for seed in ("1", "2"):
        other = copies.configured(f"seed-{seed}")
        for file in folder.glob("headway.db*"):
            shutil.copy(file, other / file.name)
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-W", "ignore", str(HERE / "child.py")]
        job = json.dumps({"folder": str(other)}) + "\n"
        await anyio.run_process(command, input=job.encode(), env=environment)
        assert json.loads((other / "result.json").read_text())["transcript"] == expected

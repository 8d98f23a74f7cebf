"""``kill -9`` in every phase of a batch, against a provider that lives on in another process.

The provider's own ledger counts: each call is paid once, at half the price.
"""

import json
import os
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.processes import WarmProcess

from headway_scheduler.testing.provider import Ledger

pytestmark = pytest.mark.timeout(600)  # 2,000 calls, and a process that starts anew six times

RUNS = 100
CALLS = 20
"""In each run, all at once."""

CONFIG = """
[database]
path = "headway.db"
[quotas.org]
requests_per_minute = 60_000
[models.sim]
quotas = ["org"]
base_url = "{url}"
lanes = ["batch"]
usd_per_million_input_tokens = 1_000
usd_per_million_output_tokens = 1_000
[lanes]
batch_wait = 1
"""
WORKFLOWS = """
import asyncio
from autogen_agentchat.agents import BaseChatAgent
from autogen_agentchat.base import Response
from autogen_agentchat.messages import TextMessage
from autogen_core.models import UserMessage

class Fan(BaseChatAgent):
    produced_message_types = (TextMessage,)

    def __init__(self, client, count):
        super().__init__("fan", "Asks much.")
        self.client, self.count = client, count

    async def on_messages(self, messages, cancellation_token):
        task = messages[-1].content
        asked = [
            self.client.create([UserMessage(content=f"{task}, question {n}", source="user")])
            for n in range(self.count)
        ]
        answers = await asyncio.gather(*asked)
        said = " ".join(answer.content for answer in answers)
        return Response(chat_message=TextMessage(content=said, source=self.name))

    async def on_reset(self, cancellation_token):
        pass

def fan(models, count=1):
    return Fan(models("sim"), count)
"""
CHILD = """
import sys, anyio
from headway import Headway
from headway.workers import batches
sys.path.insert(0, ".")
batches.TICK_SECONDS = batches.POLL_SECONDS = 0.05
batches.ADOPT_SECONDS = 0.5

async def main():
    async with Headway() as headway:
        for number in range(int(sys.argv[1])):
            await headway.submit(
                "killed_workflows:fan", task=f"task {number}", priority="background", lane="batch",
                parameters={"count": int(sys.argv[2])},
            )
        await headway.work(slots=8, forever=True)

anyio.run(main)
"""
URGENT = """
import sys, anyio
from headway import Headway
sys.path.insert(0, ".")

async def main():
    async with Headway() as headway:
        await headway.run("killed_workflows:fan", task="urgent", priority="interactive")

anyio.run(main)
"""


@dataclass
class World:
    """A folder, a provider in another process, and one process of Headway at a time."""

    folder: Path
    url: str
    children: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *words: str, code: str = CHILD) -> subprocess.Popen[str]:
        child = WarmProcess(
            [sys.executable, "-c", code, *words],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.children.append(child)
        return child

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the database as any SQLite program would; nothing if it is not there yet."""
        path = self.folder / "headway.db"
        if not path.exists():
            return []
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
                return db.execute(query).fetchall()
        except sqlite3.OperationalError:  # it is being made
            return []

    def count(self, query: str) -> int:
        found = self.ask(query)
        return int(found[0][0]) if found else 0

    def headway(self, *words: str) -> Any:
        """Run a command, and return what it shows."""
        command = [sys.executable, "-m", "headway", *words]
        with WarmProcess(command, cwd=self.folder, stdout=subprocess.PIPE, text=True) as child:
            shown, _ = child.communicate(timeout=60)
        assert child.returncode == 0
        return json.loads(shown)

    def begun(self) -> int:
        """How many batches the provider has begun."""
        with urllib.request.urlopen(f"{self.url}/batches") as answer:
            return len(json.load(answer)["data"])

    def kill_when(self, child: subprocess.Popen[str], is_so: Callable[[], object]) -> None:
        """Kill a process with ``kill -9`` once something is so."""
        until(is_so, child)
        child.kill()
        child.communicate()


def until(is_so: Callable[[], object], child: subprocess.Popen[str]) -> None:
    while not is_so():
        assert child.poll() is None, child.communicate()
        time.sleep(0.01)


@contextmanager
def world_in(folder: Path, *options: str) -> Iterator[World]:
    command = [sys.executable, "-m", "headway_scheduler.testing.provider"]
    command += ["--ledger", str(folder / "ledger.jsonl"), *options]
    with WarmProcess(command, stdout=subprocess.PIPE, text=True) as provider:
        assert provider.stdout is not None
        url = provider.stdout.readline().strip()
        (folder / "headway.toml").write_text(CONFIG.format(url=url))
        (folder / "killed_workflows.py").write_text(WORKFLOWS)
        world = World(folder, url)
        try:
            yield world
        finally:
            for child in world.children:
                if child.poll() is None:
                    child.kill()
                    child.communicate()
            provider.terminate()


def test_2000_calls_with_kills_in_every_phase_are_answered_once_and_paid_once_at_half_the_price(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    with world_in(tmp_path, "--batch-seconds", "1", "--batch-reply-seconds", "0.4") as world:
        batched = "SELECT count(*) FROM batched_requests"
        batch = "SELECT count(*) FROM provider_batches WHERE state = '{}'"
        killed: list[str] = []
        child = world.start(str(RUNS), str(CALLS))
        # Its runs make requests: some calls are admitted, some are batched, and none is in a batch.
        world.kill_when(child, lambda: world.count(batched) > 30)
        killed.append("requests are made")
        child = world.start("0", "0")
        world.kill_when(child, lambda: world.count(batch.format("planned")))
        killed.append("the file is on its way")
        # The provider has begun the batch, and says so only later.
        assert not world.begun()
        child = world.start("0", "0")
        world.kill_when(child, lambda: world.begun() and world.count(batch.format("uploaded")))
        killed.append("it is handed in, and nobody knows")
        child = world.start("0", "0")
        world.kill_when(child, lambda: world.count(batch.format("submitted")))
        killed.append("it is worked on")
        child = world.start("0", "0")
        answered = f"{batched} WHERE answer IS NOT NULL"
        world.kill_when(child, lambda: world.count(answered))
        killed.append("answers are on disk")
        child = world.start("0", "0")
        done = "SELECT count(*) FROM calls WHERE state = 'done'"
        world.kill_when(child, lambda: world.count(done) > 50)
        killed.append("runs go on")
        urgent_while_others_wait(world)
        child = world.start("0", "0")
        completed = "SELECT count(*) FROM runs WHERE state = 'completed'"
        until(lambda: world.count(completed) == RUNS + 1, child)
        assert len(killed) == 6
        check(world)


def urgent_while_others_wait(world: World) -> None:
    """An interactive run beside all that: a process of its own leads, and nothing holds it up."""
    urgent = world.start(code=URGENT)
    _, err = urgent.communicate(timeout=120)
    assert urgent.returncode == 0, err


def check(world: World) -> None:
    time.sleep(1)  # a batch that nobody looks at takes as long, and is billed as well
    assert world.begun()
    ledger = Ledger.read(world.folder / "ledger.jsonl")
    by_batch = [entry for entry in ledger.entries if entry.tier == "batch"]
    others = [entry for entry in ledger.entries if entry.tier != "batch"]
    assert Counter(entry.paid for entry in by_batch) == {True: RUNS * CALLS}
    assert ledger.duplicates() == {}
    assert len(others) == 1
    rows = world.ask(
        "SELECT lane, state, count(*), sum(usd), sum(losses), min(usd_source), sum(answer IS NULL) "
        "FROM calls WHERE run_id IN (SELECT id FROM runs WHERE lane = 'batch') GROUP BY 1, 2"
    )
    tokens = sum(entry.prompt_tokens + entry.completion_tokens for entry in by_batch)
    [(lane, state, calls, usd, losses, source, unanswered)] = rows
    assert (lane, state, calls, losses, unanswered) == ("batch", "done", RUNS * CALLS, 0, 0)
    assert usd == pytest.approx(tokens * 0.001 / 2, rel=1e-6)
    assert source == "stated by batch"
    assert world.count("SELECT count(*) FROM batched_requests WHERE batch_id IS NULL") == 0
    [urgent] = others
    whole = 0.001 * (urgent.prompt_tokens + urgent.completion_tokens)
    costs = world.headway("costs", "--by", "workflow", "--json")[-1]
    assert (costs["key"], costs["calls"], costs["unpriced"]) == ("total", RUNS * CALLS + 1, 0)
    assert costs["usd"] == pytest.approx(tokens * 0.001 / 2 + whole, rel=1e-6)
    assert costs["input_tokens"] == sum(entry.prompt_tokens for entry in ledger.paid)

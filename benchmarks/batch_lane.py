"""Interactive calls beside 2,000 background calls by batch, with kills.

    python -m benchmarks.batch_lane [--seconds 60] [--runs 100] [--calls 20] [--every 10]

The real thing in processes: 600 requests a minute, a bucket of half a second, and in each second
nine interactive calls within an instant, all of one run in a process of its own. Beside it a worker
leads at first; every ten seconds it is killed with SIGKILL and started anew, so the process of the
interactive run leads from the first kill on. In the first round that worker has nothing to do. In
the second it executes runs by batch, whose files the leader makes, hands in and reads. Printed are
the waits of the interactive calls in both rounds, and what became of the others; the exit status is
1 if one was not answered, or paid more often than once. Bar: the mean within 10 % of that without.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from sqlite3 import connect
from statistics import mean, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import anyio
from autogen_agentchat.agents import BaseChatAgent
from autogen_agentchat.base import Response
from autogen_agentchat.messages import TextMessage
from autogen_core.models import UserMessage

from headway import Headway
from headway.config import load
from headway.workers import batches
from headway_scheduler.testing.provider import Ledger

PER_SECOND = 9
WORKFLOW = "benchmarks.batch_lane:asker"
CONFIG = """
[database]
path = "headway.db"
[quotas.org]
requests_per_minute = 600
burst_seconds = 0.5
[models.sim]
quotas = ["org"]
base_url = "{url}"
lanes = ["batch"]
[lanes]
batch_wait = 1
"""


class Asker(BaseChatAgent):
    """Asks ``count`` questions within an instant, in each of so many ``seconds``."""

    produced_message_types = (TextMessage,)

    def __init__(self, client: Any, count: int, seconds: int) -> None:
        super().__init__("asker", "Asks much.")
        self.client, self.count, self.seconds = client, count, seconds

    async def on_messages(self, messages: Any, cancellation_token: Any) -> Response:
        """Ask, and answer when all is answered."""
        async with anyio.create_task_group() as group:
            for second in range(self.seconds):
                for number in range(self.count):
                    group.start_soon(self._ask, f"{messages[-1].content} {second}.{number}")
                if second < self.seconds - 1:
                    await anyio.sleep(1)
        return Response(chat_message=TextMessage(content="done", source=self.name))

    async def _ask(self, text: str) -> None:
        await self.client.create([UserMessage(content=text, source="user")])

    async def on_reset(self, cancellation_token: Any) -> None:
        """Nothing is kept."""


def asker(models: Any, count: int, seconds: int = 1) -> Asker:
    """Return the team of every run."""
    return Asker(models("sim"), count, seconds)


async def urge(folder: Path, seconds: int) -> None:
    """Execute the interactive run."""
    async with Headway(load(folder / "headway.toml")) as headway:
        parameters = {"count": PER_SECOND, "seconds": seconds}
        await headway.run(WORKFLOW, task="Urgent", priority="interactive", parameters=parameters)


async def submit(folder: Path, runs: int, calls: int) -> None:
    """Submit the runs by batch."""
    async with Headway(load(folder / "headway.toml")) as headway:
        for number in range(runs):
            await headway.submit(
                WORKFLOW,
                task=f"Task {number}",
                priority="background",
                lane="batch",
                parameters={"count": calls},
            )


async def work(folder: Path) -> None:
    """Execute runs by batch, as a worker does."""
    async with Headway(load(folder / "headway.toml")) as headway:
        await headway.work(slots=8, forever=True)


def forked(folder: Path, act: Callable[..., Any], *arguments: Any) -> int:
    """Return the id of a process that does something; AutoGen is imported already."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.chdir(folder)
            # In seconds: a day of the provider takes one here.
            batches.TICK_SECONDS = batches.POLL_SECONDS = 0.5
            batches.ADOPT_SECONDS = 1.0
            anyio.run(act, folder, *arguments)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


@dataclass
class Round:
    """One round: its runs by batch, and what was seen."""

    seconds: int
    every: float
    runs: int
    calls: int
    waits: list[float] = field(default_factory=list)
    at_kills: list[str] = field(default_factory=list)
    """How many calls stood where when a worker was killed."""
    done: int = 0
    """Calls by batch that were answered while the interactive run went on."""
    paid: Counter[int] = field(default_factory=Counter[int])
    """By how often a call by batch was paid: how many calls."""

    def play(self) -> "Round":
        """Play the round, then let the runs by batch end."""
        with TemporaryDirectory(prefix="headway-") as name:
            folder = Path(name)
            command = [sys.executable, "-m", "headway_scheduler.testing.provider"]
            command += ["--requests-per-minute", "600", "--burst-seconds", "2"]
            command += ["--batch-seconds", "2", "--ledger", str(folder / "ledger.jsonl")]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as provider:
                assert provider.stdout is not None
                url = provider.stdout.readline().strip()
                (folder / "headway.toml").write_text(CONFIG.format(url=url))
                try:
                    self._play(folder)
                finally:
                    provider.terminate()
            ledger = Ledger.read(folder / "ledger.jsonl")
            by_call = Counter(entry.who for entry in ledger.paid if entry.tier == "batch")
            self.paid = Counter(by_call.values())
        return self

    def _play(self, folder: Path) -> None:
        os.waitpid(forked(folder, submit, self.runs, self.calls), 0)
        worker = forked(folder, work)
        time.sleep(2)  # it leads
        urgent = forked(folder, urge, self.seconds)
        next_kill = time.monotonic() + self.every
        while os.waitpid(urgent, os.WNOHANG) == (0, 0):
            time.sleep(0.05)
            if time.monotonic() > next_kill:
                self.at_kills.append(standing(folder))
                os.kill(worker, signal.SIGKILL)
                os.waitpid(worker, 0)
                worker = forked(folder, work)
                next_kill += self.every
        self.done = count(folder, "calls", "lane = 'batch' AND state = 'done'")
        ends = time.monotonic() + 300
        while count(folder, "runs", "state <> 'completed'") and time.monotonic() < ends:
            time.sleep(0.5)
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
        query = "SELECT admitted_at - submitted_at FROM calls WHERE lane <> 'batch'"
        self.waits = [wait for (wait,) in asked(folder, query)]


def asked(folder: Path, query: str) -> list[tuple[Any, ...]]:
    """Ask the database, as any program would."""
    with closing(connect(f"file:{folder}/headway.db?mode=ro", uri=True)) as database:
        return database.execute(query).fetchall()


def count(folder: Path, table: str, condition: str) -> int:
    """Count rows."""
    return int(asked(folder, f"SELECT count(*) FROM {table} WHERE {condition}")[0][0])


def standing(folder: Path) -> str:
    """Say how many calls by batch stand where."""
    query = "SELECT state, count(*) FROM calls WHERE lane = 'batch' GROUP BY state"
    batched = asked(folder, "SELECT state FROM provider_batches WHERE state <> 'ended'")
    states = [f"{calls} {state}" for state, calls in asked(folder, query)]
    return ", ".join([*states, *(f"a batch {state}" for (state,) in batched)]) or "none"


def row(name: str, figures: Round) -> str:
    """Return a line of the table."""
    p50, p95 = (quantiles(figures.waits, n=20)[at] for at in (9, 18))
    return (
        f"{name:28}{len(figures.waits):9}{1000 * mean(figures.waits):9.1f}{1000 * p50:9.1f}"
        f"{1000 * p95:9.1f}{1000 * max(figures.waits):9.1f}{len(figures.at_kills):9}"
    )


def main() -> int:
    """Play both rounds and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--every", type=float, default=10.0)
    args = parser.parse_args()
    os.environ.setdefault("OPENAI_API_KEY", "no-key")
    alone = Round(args.seconds, args.every, 0, 0).play()
    beside = Round(args.seconds, args.every, args.runs, args.calls).play()
    names = ("calls", "mean ms", "p50", "p95", "max", "kills")
    print(f"{'waits of interactive calls':28}" + "".join(f"{name:>9}" for name in names))
    print(row("alone", alone))
    total = args.runs * args.calls
    print(row(f"beside {total:,} by batch", beside))
    print(f"mean beside / alone: {mean(beside.waits) / mean(alone.waits):.3f} (bar: 1.10)")
    print(
        f"calls by batch: {beside.done} answered meanwhile; paid once: {beside.paid[1]} of {total}"
    )
    for number, stood in enumerate(beside.at_kills, 1):
        print(f"  kill {number}: {stood}")
    return 0 if beside.paid == Counter({1: total}) else 1


if __name__ == "__main__":
    sys.exit(main())

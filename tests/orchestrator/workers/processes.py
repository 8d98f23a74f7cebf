"""A folder, a provider in a process of its own, and processes of Headway that come and go."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from tests.processes import Process, WarmProcess
from tests.scheduler.backends.writers import is_stopped
from tests.waiting import without_slowness

from headway_scheduler.backends import open_backend
from headway_scheduler.ports import Mailbox
from headway_scheduler.testing.provider import Ledger

CONFIG = """
[database]
path = "headway.db"
[defaults]
model = "sim"
[quotas.small]
requests_per_minute = 6000
[models.sim]
base_url = "{url}"
quotas = ["small"]
[workflows]
agent = "here_workflows:agent"
"""
WORKFLOWS = """
from autogen_agentchat.agents import AssistantAgent

def agent(models):
    return AssistantAgent("writer", models("sim"))
"""


@dataclass
class World:
    """``base_seconds``: how long the provider takes for an answer."""

    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def database(self) -> Path:
        return self.folder / "headway.db"

    @property
    def ledger(self) -> Ledger:
        return Ledger.read(self.folder / "ledger.jsonl")

    def start(self, *command: str, kind: type[Process] = WarmProcess) -> Process:
        """Start ``headway COMMAND``, or a program if it begins with ``-c``."""
        program = command if command[0] == "-c" else ("-m", "headway", *command)
        process = kind(
            [sys.executable, *program],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def headway(self, *command: str, status: int = 0) -> str:
        """What a command says, on stderr if it is to fail."""
        process = self.start(*command)
        out, err = process.communicate()
        assert process.returncode == status, err or out
        return without_slowness(err) if status else out

    def facts(self, *command: str) -> Any:
        return json.loads(self.headway(*command, "--json"))

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask the database as any SQLite program would; nothing, if it is not there yet."""
        if not self.database.exists():
            return []
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as db:
            return db.execute(query, values).fetchall()

    def state(self, run_id: str) -> str:
        return str(self.rows("SELECT state FROM runs WHERE id = ?", run_id)[0][0])

    def until(self, is_so: Callable[[], object], *alive: subprocess.Popen[str]) -> None:
        """Wait for something; those ``alive`` must not end before."""
        while not is_so():
            for process in alive:
                assert process.poll() is None, process.communicate()
            time.sleep(0.02)

    def freeze(self, process: subprocess.Popen[str]) -> None:
        """Stop a process, but not in the middle of a write: others would continue it."""
        while True:
            process.send_signal(signal.SIGSTOP)
            self.until(lambda: is_stopped(process), process)
            other = sqlite3.connect(self.database, timeout=0.1, isolation_level=None)
            with closing(other), suppress(sqlite3.OperationalError):
                other.execute("BEGIN IMMEDIATE")
                return
            process.send_signal(signal.SIGCONT)

    def leader(self) -> int | None:
        """The process id that the lock names, of a process that may be dead."""
        try:
            return int(Path(f"{self.database}.lock").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return None

    def worker(self) -> subprocess.Popen[str]:
        """Start ``headway work --forever``, and wait until it leads and has nothing to do."""
        process = self.start("work", "--forever")
        self.until(lambda: self.leader() == process.pid, process)
        self.until(lambda: self.rows("SELECT 1 FROM leadership WHERE epoch > 0"), process)
        self.answers(process, "asks for nothing")
        return process

    def answers(self, leader: subprocess.Popen[str], *requests: str) -> list[str]:
        """What the process that leads answers to requests, in whatever words they are."""

        async def ask() -> list[str]:
            mailbox = open_backend(self.database).mailbox()
            try:
                ids = [await mailbox.post("c-test", request) for request in requests]
                return [await answer(mailbox, request_id) for request_id in ids]
            finally:
                await mailbox.close()

        async def answer(mailbox: Mailbox, request_id: int) -> str:
            while (text := await mailbox.answer(request_id)) is None:
                assert leader.poll() is None, leader.communicate()
                await anyio.sleep(0.02)
            return text

        return anyio.run(ask)


@contextmanager
def world_in(folder: Path, *, base_seconds: float = 0.0) -> Iterator[World]:
    """Make the folder's configuration, and end every process that was started, at the end."""
    provider = [sys.executable, "-m", "headway_scheduler.testing.provider"]
    provider += ["--ledger", str(folder / "ledger.jsonl"), "--base-seconds", str(base_seconds)]
    with WarmProcess(provider, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        url = running.stdout.readline().strip()
        (folder / "headway.toml").write_text(CONFIG.format(url=url))
        (folder / "here_workflows.py").write_text(WORKFLOWS)
        world = World(folder)
        try:
            yield world
        finally:
            for process in world.started:
                process.kill()
                process.communicate()
            running.terminate()

"""The flood: 40 teams at once, each of which makes 4 calls, one after the other."""

import math
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import anyio
from autogen_core.models import UserMessage

from headway import Headway
from headway.config import load
from headway_scheduler.model.calls import Priority

ROOT = Path(__file__).parent.parent.parent
BUILD = ROOT / "build/servers"
"""Where servers are installed."""
TEAMS = ("background",) * 25 + ("normal",) * 10 + ("interactive",) * 5
CALLS_OF_TEAM = 4
START_SECONDS = 120.0
"""How long a server may take to answer: one of them imports for a minute on a busy machine."""


@dataclass
class Flood:
    """One row of the table: a limit, and how much of it the configuration states."""

    limit: str
    stated: str
    """``right``, ``limit`` (without how it is counted) or ``nothing``."""
    quota: str
    """What the configuration says of the quota, as TOML."""
    base_url: str
    key: str
    floor: float | None
    """The earliest end that the limit allows, in seconds; None without a limit."""
    starts_with: float | None = None
    """It begins when the clock shows a multiple of so many seconds; None: at once."""
    seconds: float = 0.0
    waits: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """Seconds from question to admission, by class, as Headway's own rows have them."""

    def wait(self, name: str) -> float:
        """The median wait of a class, in seconds."""
        return median(self.waits[name])


Books = Callable[[Flood], tuple[int, int]]
"""Tells how many requests of a flood a server saw, and how many of them it refused with a 429."""
Lines = Sequence[Sequence[Flood]]
"""Floods that are played one after the other; the lines are played side by side."""


async def play(lines: Lines, folder: Path) -> None:
    """Play floods, each with a Headway and a database of its own."""
    numbers = iter(range(sum(map(len, lines))))

    async def one_after_the_other(line: Sequence[Flood]) -> None:
        for flood in line:
            place = folder / str(next(numbers))
            place.mkdir()
            await _play_one(flood, place)

    async with anyio.create_task_group() as group:
        for line in lines:
            group.start_soon(one_after_the_other, line)


async def _play_one(flood: Flood, place: Path) -> None:
    file = place / "headway.toml"
    file.write_text(
        f"""
[database]
path = "headway.db"
[quotas.q]
{flood.quota}
[models.m]
base_url = "{flood.base_url}"
api_key_command = "echo {flood.key}"
quotas = ["q"]
"""
    )
    async with Headway(load(file)) as headway:
        clients = {name: headway.model("m", priority=name) for name in set(TEAMS)}
        if flood.starts_with is not None:
            now = time.time()
            next_one = math.ceil(now / flood.starts_with) * flood.starts_with
            await anyio.sleep(next_one - now)
        began = anyio.current_time()

        async def team(name: str) -> None:
            for _ in range(CALLS_OF_TEAM):
                await clients[name].create([UserMessage(content="Go.", source="user")])

        async with anyio.create_task_group() as group:
            for name in TEAMS:
                group.start_soon(team, name)
        flood.seconds = anyio.current_time() - began
        (run,) = await headway.list_runs()
        for row in await headway.list_calls(run.id):
            wait = (row.admitted_at or math.inf) - row.call.submitted_at
            flood.waits.setdefault(Priority(row.call.priority).label, []).append(wait)


def free_port() -> int:
    """Return a port of loopback that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def installed(folder: str, package: str, command: str) -> Path:
    """Return a command of a Python package, after installing it if need be."""
    place = BUILD / folder
    path = place / "bin" / command
    if not path.exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        pip = [str(place / "bin/python"), "-m", "pip", "install", "--quiet", package]
        subprocess.run(pip, check=True, stderr=subprocess.DEVNULL)
    return path


@contextmanager
def listening(
    command: Sequence[str], port: int, log: Path, environment: dict[str, str] | None = None
) -> Iterator[None]:
    """Have a server listen at a port of loopback; it writes into ``log``."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=log.parent
        )
        try:
            _await_port(process, port, log)
            yield
        finally:
            process.terminate()
            process.wait()


def _await_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    last = time.monotonic() + START_SECONDS
    while time.monotonic() < last and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{process.args!r} does not answer:\n{log.read_text()[-2_000:]}")

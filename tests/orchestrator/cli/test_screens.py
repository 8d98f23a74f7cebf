"""What commands show on a real terminal, at 80 and 120 columns, with colours and without.

``top`` and ``queue`` show a database at a time that stands still; there the database's path,
process ids and the age of a heartbeat are masked. ``run`` asks a simulated provider: ids of runs
and seconds are masked, and the status that a slow machine shows now and then is left out. The
numbers of ``demo`` are given. SNAPSHOTS=write writes the files anew.
"""

import re
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
from anyio import to_thread
from tests.orchestrator.cli import demo_screen, frozen, seeds
from tests.tmux import Terminal, assert_snapshot, headway

from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.backends.sqlite.worker_files import WorkerFiles
from headway_scheduler.testing.provider import Settings, simulated_provider

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

SIZES = [(80, 24), (120, 40)]
OF_PROCESSES = {
    r"\S*headway\.db": "…headway.db",
    r"process \d+": "process #",
    r"[\d.]+ s ago": "# s ago",
}
OF_RUNS = {
    r"\br-[0-9a-z]{8}\b": "r-########",
    r"\d+\.\d s": "#.# s",
    r"(?m)^headway: waiting.*\n": "",
}
TEAM = """
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat

def team(models):
    agents = [AssistantAgent(name, models("sim")) for name in ("writer", "critic")]
    return RoundRobinGroupChat(agents, termination_condition=MaxMessageTermination(3))
"""


def masked(screen: str, masks: Mapping[str, str]) -> str:
    for pattern, mask in masks.items():
        screen = re.sub(pattern, mask, screen)
    return screen


@pytest.fixture(params=[False, True], ids=["plain", "colour"])
def colour(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=SIZES, ids=["80", "120"])
def size(request: pytest.FixtureRequest) -> tuple[int, int]:
    columns, lines = request.param
    return columns, lines


Show = Callable[..., str]


@pytest.fixture
def show(tmp_path: Path, colour: bool, size: tuple[int, int]) -> Show:
    """Run a command in a terminal, wait for some text, and return what the screen shows then."""

    def run(command: list[str], *texts: str) -> str:
        environment = {"TZ": "UTC", "TEST_KEY": "none"} | ({} if colour else {"NO_COLOR": "1"})
        columns, lines = size
        terminal = Terminal(
            tmp_path, command, columns=columns, lines=lines, environment=environment
        )
        with terminal:
            terminal.until(*texts)
            while (screen := terminal.shown(colour=colour)) != terminal.shown(colour=colour):
                pass  # it was being written
            return screen

    return run


def name_of(command: str, colour: bool, size: tuple[int, int]) -> str:
    return f"{command}-{size[0]}{'-colour' if colour else ''}"


def at_a_time_that_stands_still(*arguments: str) -> list[str]:
    return [sys.executable, str(Path(frozen.__file__)), *arguments]


@pytest.fixture
async def busy(tmp_path: Path) -> AsyncIterator[None]:
    """A database that this process leads, and in which one worker lives."""
    seeds.write_config(tmp_path)
    async with AsyncExitStack() as stack:
        database = tmp_path / "headway.db"
        store = await stack.enter_async_context(SqliteStore(database, candidate=seeds.WORKER))
        await store.commit(seeds.batch())
        await stack.enter_async_context(WorkerFiles(database).present(seeds.WORKER))
        yield


async def test_top(show: Show, busy: None, colour: bool, size: tuple[int, int]) -> None:
    command = at_a_time_that_stands_still("top")
    screen = await to_thread.run_sync(partial(show, command, "? help"))
    assert_snapshot(name_of("top", colour, size), masked(screen, OF_PROCESSES))


async def test_queue(show: Show, busy: None, colour: bool, size: tuple[int, int]) -> None:
    command = at_a_time_that_stands_still("queue", "--limit", "8")
    screen = await to_thread.run_sync(partial(show, command, "[ended: 0]"))
    assert_snapshot(name_of("queue", colour, size), masked(screen, OF_PROCESSES))


async def test_run(show: Show, tmp_path: Path, colour: bool, size: tuple[int, int]) -> None:
    async with simulated_provider(Settings()) as provider:
        (tmp_path / "teams.py").write_text(TEAM)
        (tmp_path / "headway.toml").write_text(
            f'{seeds.CONFIG}[models.sim]\nquotas = ["openai"]\nbase_url = "{provider.base_url}"\n'
            'api_key_env = "TEST_KEY"\n'
        )
        command = headway("run", "teams:team", "Say which week it is")
        screen = await to_thread.run_sync(partial(show, command, "[ended: 0]"))
    assert_snapshot(name_of("run", colour, size), masked(screen, OF_RUNS))


@pytest.mark.parametrize("size", [(80, 75), (120, 60)], ids=["80", "120"])
def test_demo(show: Show, colour: bool, size: tuple[int, int]) -> None:
    screen = show([sys.executable, str(Path(demo_screen.__file__))], "[ended: 0]")
    assert_snapshot(name_of("demo", colour, size), screen)

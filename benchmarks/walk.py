"""How far a call walks through the code: functions entered, files, and moves between files.

    python -m benchmarks.walk [--files] [--json]

The real thing runs against the simulated provider: one call of a bare scheduled client in the
process that leads; a run of one agent that asks once, from starting it to its result; and a call
in a process that follows, its own side alone. Besides: the bytes of the request that ends a call,
from a provider that tells one limit, and the imports of the scheduler between its units, which are
the modules and packages directly below it. Imports at any depth count; a chain counts its units.

Counted is what begins, on the thread of the event loop, in a file of headway, headway_agents or
headway_scheduler, the simulated provider left out. What goes on after a wait counts no second time.
Generator expressions, lambdas and comprehensions are functions; from Python 3.12 on comprehensions
are none, so the bars are for 3.11. A move is when a function's file differs from that of the one
before. Walks are repeated and the shortest is taken, less the files that not all of them enter: no
timer fell due, nothing new was learned.

Before is what this file measured on commit b8f7b7b. The bars were set with another script, which
is lost. It counted 554 functions, 39 files and 265 moves for a call, 1,161, 54 and 524 for a run,
236, 22 and 137 for a follower, and 1,451 bytes.
"""

import argparse
import ast
import dis
import json
import math
import sqlite3
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import chain, pairwise
from pathlib import Path
from types import FrameType

import anyio
from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import UserMessage

import headway
import headway_agents
import headway_scheduler
from headway.config import load
from headway.testing import MODEL, simulated_headway
from headway_scheduler.backends.sqlite import leadership
from headway_scheduler.testing.provider import Limits

ROOTS = [Path(str(each.__file__)).parent for each in (headway, headway_agents, headway_scheduler)]
UNCOUNTED = ("headway/testing", "headway_scheduler/testing")
ANSWER = "Hello, world!"
REPEATS = 25
RESUME = dis.opmap["RESUME"]

Steps = list[str]
"""The file of each function that was entered, in their order."""

BARS = {  # on b8f7b7b, and at most
    "one call, leader: functions": (553, 552),
    "one call, leader: files": (38, 30),
    "one call, leader: moves": (259, 170),
    "start a run of one call: functions": (1163, 1160),
    "start a run of one call: files": (54, 44),
    "start a run of one call: moves": (525, 360),
    "one call, follower: functions": (233, 232),
    "one call, follower: files": (21, 18),
    "one call, follower: moves": (133, 90),
    "request that ends a call: bytes": (1448, 620),
    "scheduler: units": (31, 10),
    "scheduler: longest import chain": (13, 6),
    "scheduler: arrows between units": (97, 28),
}


@cache
def file_of(path: str) -> str | None:
    """A file of ours, from its package on; None if it is not counted."""
    for root in ROOTS:
        if Path(path).is_relative_to(root):
            name = Path(path).relative_to(root.parent).as_posix()
            return None if name.startswith(UNCOUNTED) else name
    return None


def begins(frame: FrameType) -> bool:
    """Whether a call is the first one: what goes on after a yield or an await is called too."""
    at, instructions = frame.f_lasti, frame.f_code.co_code
    return at >= 0 and instructions[at] == RESUME and instructions[at + 1] & 3 == 0


async def walk(act: Callable[[], Awaitable[object]]) -> Steps:
    """What this thread enters while ``act`` is awaited."""
    steps: Steps = []

    def hear(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and (file := file_of(frame.f_code.co_filename)) and begins(frame):
            steps.append(file)

    sys.setprofile(hear)
    try:
        await act()
    finally:
        sys.setprofile(None)
    return steps


async def shortest(act: Callable[[], Awaitable[object]]) -> Steps:
    """The walk of ``act`` once everything is imported and known, and no timer falls due."""
    walks = []
    for _ in range(REPEATS):
        await anyio.sleep(0.02)  # what the last one left to do is done
        walks.append(await walk(act))
    # On a busy machine a timer falls due in nearly every walk, and not the same one in all.
    of_act = set[str].intersection(*(set(steps) for steps in walks))
    walks = [[file for file in steps if file in of_act] for steps in walks[5:]]
    return min(walks, key=lambda steps: (moves(steps).total(), len(steps)))


def moves(steps: Steps) -> Counter[tuple[str, str]]:
    """How often one file follows another."""
    return Counter((before, file) for before, file in pairwise(steps) if before != file)


async def one_call(hw: headway.Headway) -> Steps:
    client = hw.model(MODEL)
    return await shortest(lambda: client.create([UserMessage(content="Hello?", source="user")]))


async def one_run(hw: headway.Headway) -> Steps:
    hw.workflow("agent")(lambda models: AssistantAgent("writer", models(MODEL)))

    async def run() -> None:
        handle = await hw.start("agent", task="Hello?")
        await handle.result()

    return await shortest(run)


async def leading() -> tuple[Steps, Steps]:
    async with simulated_headway() as hw:
        return await one_call(hw), await one_run(hw)


async def following() -> tuple[Steps, int]:
    """A call of a process that follows this one, and the bytes of the request that ends it."""
    limits = Limits(requests_per_minute=6000)
    async with simulated_headway(limits, reply=lambda _: ANSWER) as hw:
        with closing(sqlite3.connect(hw.config.database)) as db, db:
            # Requests are deleted when they are answered.
            db.executescript("""
                CREATE TABLE walked (request TEXT);
                CREATE TRIGGER walked AFTER INSERT ON inbox
                BEGIN INSERT INTO walked VALUES (new.event); END;
            """)
        command = [sys.executable, "-m", "benchmarks.walk", "--follow", str(hw.config.file)]
        child = await anyio.run_process(command, stderr=None)
        with closing(sqlite3.connect(hw.config.database)) as db:
            requests = [str(request) for (request,) in db.execute("SELECT request FROM walked")]
    return json.loads(child.stdout), min(len(each.encode()) for each in requests if ANSWER in each)


async def follow(file: Path) -> None:
    # Twelve times a second it looks whether somebody leads. On a busy machine a call takes longer
    # than that, so that the look would be in every walk.
    leadership.VACANCY_SECONDS = 60.0
    async with headway.Headway(load(file)) as hw:
        assert not hw.is_leader
        print(json.dumps(await one_call(hw)))


def imported(path: Path, base: Path) -> Iterator[str]:
    """Dotted names of what a file below ``base`` imports, at any depth."""
    inside = path.relative_to(base.parent).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = inside[: len(inside) - node.level + 1] if node.level else ()
            module = [*above, *filter(None, [node.module])]
            yield from (".".join([*module, alias.name]) for alias in node.names)


def units(base: Path) -> dict[str, set[str]]:
    """The modules and packages directly below ``base``, and which others each imports."""
    found: dict[str, set[str]] = {}
    for path in sorted(base.rglob("*.py")):
        unit = path.relative_to(base).with_suffix("").parts[0]
        names = [name.split(".") for name in imported(path, base)]
        inner = {parts[1] for parts in names if parts[0] == base.name and len(parts) > 1}
        found.setdefault(unit, set()).update(inner - {unit})
    del found["__init__"]
    return {unit: others & found.keys() for unit, others in found.items()}


def longest_chain(arrows: dict[str, set[str]]) -> tuple[float, str]:
    """How many units import one another in a row, and which; infinite if they do in a circle."""
    chains: dict[str, list[str]] = {}
    try:
        for unit in TopologicalSorter(arrows).static_order():
            below = (chains[other] for other in sorted(arrows[unit]))
            chains[unit] = [unit, *max(below, key=len, default=[])]
    except CycleError as error:
        return math.inf, " < ".join(error.args[1])
    longest = max(chains.values(), key=len)
    return len(longest), " > ".join(longest)


def show_files(name: str, steps: Steps) -> None:
    """Every file of a walk, those first that are most often moved to."""
    print(f"\n{name}\nmoves  functions  into, and most often from")
    entered, moved = Counter(steps), moves(steps)
    into = {file: Counter({b: n for (b, f), n in moved.items() if f == file}) for file in entered}
    for file in sorted(entered, key=lambda file: (-into[file].total(), file)):
        sources = ", ".join(f"{times} {source}" for source, times in into[file].most_common(3))
        print(f"{into[file].total():5}{entered[file]:11}  {file}: {sources}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", action="store_true", help="list files and imports as well")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--follow", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.follow:
        anyio.run(follow, arguments.follow)
        return
    call, run = anyio.run(leading)
    follower, request = anyio.run(following)
    counts = [(len(w), len(set(w)), moves(w).total()) for w in (call, run, follower)]
    arrows = units(ROOTS[-1])
    length, units_in_a_row = longest_chain(arrows)
    figures: list[float] = [*chain.from_iterable(counts), request]
    figures += [len(arrows), length, sum(map(len, arrows.values()))]
    rows = [(name, *bars, now) for (name, bars), now in zip(BARS.items(), figures, strict=True)]
    if arguments.json:
        keys = ("figure", "before", "at_most", "now")
        print(json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=1))
        return
    print(f"{'':36}before  at most      now")
    for name, before, most, now in rows:
        print(f"{name:34}{before:8,}{most:9,}{now:9,}")
    if arguments.files:
        show_files("one call, leader", call)
        show_files("start a run of one call", run)
        show_files("one call, follower", follower)
        print("\nscheduler: which unit imports which; the longest chain")
        for unit, others in sorted(arrows.items()):
            print(f"  {unit}: {', '.join(sorted(others))}")
        print(units_in_a_row)


if __name__ == "__main__":
    main()

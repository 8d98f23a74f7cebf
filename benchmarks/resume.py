"""What a long run costs on disk, and how long it takes to come back.

    python -m benchmarks.resume [--calls 600]

A team of three takes turns, each answer has about 2 KB, and nobody forgets: every prompt holds all
that was said. The run is stopped after the given number of calls; then it is resumed in the same
process (AutoGen is imported), and the time until its first new request leaves is taken. The size is
that of the database after a checkpoint, per answer. Run it with several numbers of calls: the
bytes per answer stay as they are when the journal is linear in what was said.
"""

import argparse
import logging
import random
import sqlite3
import string
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.teams import RoundRobinGroupChat, SelectorGroupChat

from headway import Headway
from headway.config import load
from headway_scheduler.states import CallState
from headway_scheduler.testing.provider import Settings, simulated_provider

ANSWER_CHARACTERS = 2000
WORDS = [
    "".join(random.Random(n).choices(string.ascii_lowercase, k=2 + n % 9)) for n in range(4000)
]


def answer(body: Any) -> str:
    """About 2 KB of words, other ones each time."""
    if "select the next role" in str(body["messages"][-1]):
        return "a"
    chooser = random.Random(
        str(body["messages"][-1]["content"])[-300:] + str(len(body["messages"]))
    )
    text = " ".join(chooser.choices(WORDS, k=500))
    return text[:ANSWER_CHARACTERS]


def team(models: Any, kind: str, turns: int) -> Any:
    agents = [AssistantAgent(name, models("sim")) for name in "abc"]
    if kind == "selector":
        return SelectorGroupChat(
            agents, models("sim"), max_turns=turns, allow_repeated_speaker=True
        )
    return RoundRobinGroupChat(agents, max_turns=turns)


async def play(folder: Path, base_url: str, kind: str, calls: int) -> dict[str, float]:
    (folder / "headway.toml").write_text(
        f"""
[database]
path = "headway.db"
[quotas.roomy]
concurrency = 50
[models.sim]
quotas = ["roomy"]
base_url = "{base_url}"
"""
    )
    config = load(folder / "headway.toml")
    async with Headway(config) as headway:
        headway.workflow("team")(lambda models: team(models, kind, 10 * calls))
        began = time.perf_counter()
        handle = await headway.submit("team", task="Talk.")
        async for _ in handle.stream():
            if len(handle.calls) > calls:
                break
        await headway.pause(handle.id)
        run_seconds = time.perf_counter() - began
        rows = await headway.calls(handle.id)
        answers = sum(row.state is CallState.DONE for row in rows)
        known = {row.call.id for row in rows}
        began = time.perf_counter()
        again = await headway.resume(handle.id)
        async for _ in again.stream():
            if again.calls.keys() - known:
                break
        resume_seconds = time.perf_counter() - began
        await headway.cancel(again.id)
    with sqlite3.connect(folder / "headway.db") as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (size,) = db.execute(
            "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        )
    return {
        "answers": answers,
        "run_seconds": run_seconds,
        "resume_seconds": resume_seconds,
        "bytes_per_answer": size[0] / answers,
    }


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, nargs="*", default=[150, 600])
    parser.add_argument("--kinds", nargs="*", default=["round_robin", "selector"])
    args = parser.parse_args()
    logging.getLogger("autogen_core").setLevel(logging.CRITICAL)
    async with simulated_provider(Settings(reply=answer)) as provider:
        for kind in args.kinds:
            for calls in args.calls:
                with TemporaryDirectory() as folder:
                    seen = await play(Path(folder), provider.base_url, kind, calls)
                told = "  ".join(f"{name} {value:,.2f}" for name, value in seen.items())
                print(f"{kind:12} {told}", flush=True)


if __name__ == "__main__":
    import os

    os.environ.setdefault("OPENAI_API_KEY", "not-a-key")
    anyio.run(main)

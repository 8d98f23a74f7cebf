"""What a long run costs on disk, and how long it takes to come back.

    python -m benchmarks.resume [--calls 150 600 2000] [--kinds round_robin selector]
    python -m benchmarks.resume --bounded [--window 10] [--calls 1000 3000 10000]

A team of three takes turns, and each answer has about 2 KB. As a rule nobody forgets: every prompt
holds all that was said. ``--bounded`` gives each agent a context of its last messages, so that
prompts do not grow and a run can be very long; but a window that slides makes each prompt a chain
of its own, so there the chain nodes per answer are about twice the window.

The run is stopped some calls before its end. Then it is resumed in the same process (AutoGen is
imported), the time until its first new request is taken, and it goes on to its end. The size is
that of the database of the completed run after a checkpoint, per answer; it does not grow with the
number of calls if the journal is linear in what was said. The model is in this process: what a
provider and its SDK take is no part of any number here.
"""

import argparse
import logging
import random
import sqlite3
import string
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.teams import RoundRobinGroupChat, SelectorGroupChat
from autogen_core.model_context import BufferedChatCompletionContext
from autogen_core.models import CreateResult, LLMMessage, RequestUsage
from autogen_ext.models.replay import ReplayChatCompletionClient

from headway import Headway
from headway.config import load

ANSWER_CHARACTERS = 2000
WORDS = [
    "".join(random.Random(n).choices(string.ascii_lowercase, k=2 + n % 9)) for n in range(4000)
]
CONFIG = """
[database]
path = "headway.db"
[quotas.default]
concurrency = 50
"""


class Talker(ReplayChatCompletionClient):
    """Says about 2 KB of words, other ones each time; asked who is next, it says who."""

    def __init__(self) -> None:
        super().__init__([])

    async def create(self, messages: Sequence[LLMMessage], **_: Any) -> CreateResult:
        last = str(messages[-1].content)
        text = "a"
        if "select the next role" not in last:
            chooser = random.Random(last[-300:] + str(len(messages)))
            text = " ".join(chooser.choices(WORDS, k=500))[:ANSWER_CHARACTERS]
        usage = RequestUsage(len(last) // 4, len(text) // 4)
        return CreateResult(finish_reason="stop", content=text, usage=usage, cached=False)


def team(kind: str, calls: int, window: int | None) -> Any:
    """A team that makes so many calls."""

    def context() -> BufferedChatCompletionContext | None:
        return None if window is None else BufferedChatCompletionContext(window)

    agents = [AssistantAgent(name, Talker(), model_context=context()) for name in "abc"]
    if kind == "selector":
        return SelectorGroupChat(
            agents, Talker(), max_turns=calls // 2, allow_repeated_speaker=True
        )
    return RoundRobinGroupChat(agents, max_turns=calls)


async def play(folder: Path, kind: str, calls: int, window: int | None) -> dict[str, float]:
    """Run, stop, resume and complete a run, and measure it."""
    (folder / "headway.toml").write_text(CONFIG)
    async with Headway(load(folder / "headway.toml", environ={})) as headway:
        headway.workflow("team")(lambda models: team(kind, calls, window))
        began = time.perf_counter()
        handle = await headway.start("team", task="Talk.")
        async for _ in handle.stream():
            if len(handle.calls) > calls - 4:
                break
        await headway.pause(handle.id)
        run_seconds = time.perf_counter() - began
        known = {row.call.id for row in await headway.list_calls(handle.id)}
        began = time.perf_counter()
        again = await headway.resume(handle.id)
        async for _ in again.stream():
            if again.calls.keys() - known:
                break
        resume_seconds = time.perf_counter() - began
        answers = (await again.result()).calls
    return {
        "answers": answers,
        "run_seconds": run_seconds,
        "resume_seconds": resume_seconds,
        **_sizes(folder / "headway.db", answers),
    }


def _sizes(path: Path, answers: int) -> dict[str, float]:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        questions = {
            "bytes": "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
            "result_bytes": "SELECT sum(length(CAST(result AS BLOB))) FROM runs",
            "links": "SELECT count(*) FROM links",
            "pieces": "SELECT count(*) FROM pieces",
        }
        return {
            f"{name}_per_answer": db.execute(question).fetchone()[0] / answers
            for name, question in questions.items()
        }


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bounded", action="store_true", help="contexts that forget")
    parser.add_argument("--window", type=int, default=10, help="messages that they keep")
    parser.add_argument("--calls", type=int, nargs="*")
    parser.add_argument("--kinds", nargs="*", default=None)
    parser.add_argument("--seconds", type=float, default=300, help="stop after so long")
    args = parser.parse_args()
    logging.getLogger("autogen_core").setLevel(logging.CRITICAL)
    counts = args.calls or ([1000, 3000, 10_000] if args.bounded else [150, 600, 2000])
    kinds = args.kinds or (["round_robin"] if args.bounded else ["round_robin", "selector"])
    with anyio.move_on_after(args.seconds) as limit:
        for kind in kinds:
            for calls in counts:
                with TemporaryDirectory() as folder:
                    window = args.window if args.bounded else None
                    seen = await play(Path(folder), kind, calls, window)
                told = "  ".join(f"{name} {value:,.2f}" for name, value in seen.items())
                print(f"{kind:12} {told}", flush=True)
    if limit.cancelled_caught:
        print(f"stopped after {args.seconds:.0f} s: what is not above was not measured")


if __name__ == "__main__":
    anyio.run(main)

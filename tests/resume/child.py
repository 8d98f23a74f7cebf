"""A process that has imported everything, and forks one that carries out each job it is told.

A job is one line of JSON on stdin: the folder of a database, and perhaps a seam at which the
process is to kill itself. What came of it is written to ``result.json`` in that folder, and its
exit status is said on stdout.
"""

import importlib
import json
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import anyio
import teams
from autogen_ext.models.openai import OpenAIChatCompletionClient
from openai import AsyncOpenAI
from openai.resources.chat.completions import AsyncCompletions

from headway import Headway
from headway.config import load
from headway.runs.handle import RunHandle
from headway.runs.journal import unpacked
from headway_agents import RunScope
from headway_agents.calls.live_call import LiveCall
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.model.states import RunState
from headway_scheduler.runtime.client import SessionClient

LATE = (
    "anyio._backends._asyncio",
    "openai.lib.streaming.chat",
    "openai.resources.chat.completions",
)
"""Modules that are imported at their first use: a tenth of what a job costs."""


def transcript(handle: RunHandle) -> list[Any]:
    """What was said, without ids and times."""
    assert handle.run.result is not None, (handle.run, handle.change, handle.error)
    said = unpacked(handle.run.result, handle.calls.values())["messages"]
    return [_plain(message) for message in said]


class Fuse:
    """Kills this process with SIGKILL when a seam is reached for the given time."""

    def __init__(self, seam: str, times: int) -> None:
        self._seam = seam
        self._left = times

    def reach(self, seam: str) -> None:
        if seam == self._seam:
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)

    def lay(self) -> None:
        """Wrap what stands at the seams: the store, the call, the provider's client."""
        self._wrap(SqliteStore, "commit", "before commit", "after commit, before anybody wakes")
        self._wrap(LiveCall, "_queued", "", "after admission, before sending")
        self._wrap(OpenAIChatCompletionClient, "create", "", "after the answer, before settling")
        self._wrap(SessionClient, "settle", "", "after settling, before delivery")
        self._wrap(RunScope, "deliver", "", "after delivery")
        send = AsyncCompletions.create

        async def sending(*args: Any, **more: Any) -> Any:
            async with anyio.create_task_group() as group:
                group.start_soon(self._soon)
                return await send(*args, **more)

        AsyncCompletions.create = sending  # type: ignore[method-assign]

    async def _soon(self) -> None:
        await anyio.sleep(0.002)
        self.reach("after sending, before the answer")

    def _wrap(self, owner: type, name: str, before: str, after: str) -> None:
        own = getattr(owner, name)

        async def wrapped(*args: Any, **more: Any) -> Any:
            self.reach(before)
            result = await own(*args, **more)
            self.reach(after)
            return result

        setattr(owner, name, wrapped)


SEAMS = (
    "before commit",
    "after commit, before anybody wakes",
    "after admission, before sending",
    "after sending, before the answer",
    "after the answer, before settling",
    "after settling, before delivery",
    "after delivery",
)


async def carry_out(folder: Path) -> list[Any]:
    """Go on with the only run of a database, whatever its state."""
    async with Headway(load(folder / "headway.toml")) as headway:
        (run,) = await headway.list_runs()
        if run.state in (RunState.COMPLETED, RunState.FAILED):
            handle = await headway.handle(run.id)
        else:
            handle = await headway.resume(run.id)
        await handle.ended()
        return transcript(handle)


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        drop = ("id", "call_id", "created_at", "full_message_id", "models_usage")
        return {key: _plain(value) for key, value in data.items() if key not in drop}
    return [_plain(item) for item in data] if isinstance(data, list) else data


def _main() -> None:
    assert teams.TEAMS
    for name in LATE:
        importlib.import_module(name)
    AsyncOpenAI(api_key="none")  # imports its HTTP client
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        job = json.loads(line)
        folder = Path(job["folder"])
        child = os.fork()
        if child == 0:
            try:
                if "seam" in job:
                    Fuse(job["seam"], job["times"]).lay()
                result = {"transcript": anyio.run(carry_out, folder)}
            except BaseException:
                result = {"error": traceback.format_exc()}
            (folder / "result.json").write_text(json.dumps(result))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    _main()

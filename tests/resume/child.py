"""A process that has imported everything, and forks one that carries out each job it is told.

A job is one line of JSON on stdin: the folder of a database, and what to do. What came of it is
written to ``result.json`` in that folder, and its exit status is said on stdout.
"""

import json
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import anyio
import autogen_ext.models.openai  # noqa: F401  imported once, for all
import teams

from headway import Headway
from headway.config import load
from headway.runs import RunHandle
from headway_scheduler.states import RunState

logging.disable(logging.CRITICAL)


def transcript(handle: RunHandle) -> list[Any]:
    """What was said, without ids and times."""
    assert handle.run.result is not None, (handle.run, handle.change, handle.error)
    return [_plain(message) for message in json.loads(handle.run.result)["messages"]]


async def carry_out(folder: Path) -> list[Any]:
    """Go on with the only run of a database, whatever its state."""
    async with Headway(load(folder / "headway.toml")) as headway:
        (run,) = await headway.runs()
        if run.state in (RunState.COMPLETED, RunState.FAILED):
            handle = RunHandle(run)
            handle.show_past(await headway.calls(run.id))
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
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        folder = Path(line.strip())
        child = os.fork()
        if child == 0:
            try:
                result = {"transcript": anyio.run(carry_out, folder)}
            except BaseException:
                result = {"error": traceback.format_exc()}
            (folder / "result.json").write_text(json.dumps(result))
            os._exit(0)
        os.waitpid(child, 0)
        sys.stdout.write(f"{folder}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()

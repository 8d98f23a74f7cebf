"""A component file: a team that AutoGen's ``dump_component()`` wrote runs unchanged.

``team.json`` knows nothing of Headway: its agents have AutoGen's OpenAI client. When the run is
built, each of them gets a scheduled client of its own in its place.
"""

from pathlib import Path

import anyio

from headway import Admitted
from headway.testing import simulated_headway

TEAM = Path(__file__).with_name("team.json")


async def main():
    async with simulated_headway() as hw:
        run = await hw.start(str(TEAM), task="Which of our pages are out of date?")
        async for event in run.stream():
            if isinstance(event, Admitted):
                print(f"admitted  {event.agent}")
        result = await run.result()
        for message in result.task_result.messages:
            print(f"message   {message.source}: {message.to_text()}")
        print(f"result    {result.calls} calls, stopped by: {result.task_result.stop_reason}")


if __name__ == "__main__":
    anyio.run(main)

"""Two priorities: an interactive run passes a flood of background runs.

The provider takes one request at a time. Six background runs have asked when somebody has a
question; it is answered next, after the one call that is in flight.
"""

import anyio
from autogen_agentchat.agents import AssistantAgent

from headway import Admitted, Queued
from headway.testing import simulated_headway
from headway_scheduler.testing.provider import Limits


def helper(models):
    return AssistantAgent("helper", models("sim"))


async def until_queued(run):
    async for event in run.stream():
        if isinstance(event, Queued):
            return


async def print_admission(run):
    async for event in run.stream():
        if isinstance(event, Admitted):
            print(f"admitted  {run.run.priority.label}: {run.run.task}")


async def main():
    one_at_a_time = Limits(concurrency=1)
    async with (
        simulated_headway(one_at_a_time, latency_seconds=0.5) as hw,
        anyio.create_task_group() as group,
    ):
        hw.workflow("helper")(helper)
        for page in range(1, 7):
            run = await hw.start("helper", task=f"page {page}", priority="background")
            await until_queued(run)
            group.start_soon(print_admission, run)
        urgent = await hw.start("helper", task="a question", priority="interactive")
        group.start_soon(print_admission, urgent)


if __name__ == "__main__":
    anyio.run(main)

"""A first team: name a workflow, submit a run of it, watch its calls, read its result.

A workflow is a function that builds a fresh team. ``models`` gives AutoGen clients whose calls
wait in Headway's queue. In your program, ``Headway("headway.toml")`` stands for the simulated one.
"""

import anyio
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.messages import TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat

from headway import Admitted, Ended, Queued
from headway.testing import simulated_headway


def weekly_report(models):
    writer = AssistantAgent("writer", models("sim"))
    critic = AssistantAgent("critic", models("sim", priority="background"))
    return RoundRobinGroupChat([writer, critic], termination_condition=MaxMessageTermination(4))


async def main():
    async with simulated_headway() as hw:
        hw.workflow("weekly-report")(weekly_report)
        run = await hw.start("weekly-report", task="Week 47", key="w47")
        async for event in run.stream():
            match event:
                case Queued():
                    print(f"queued    {event.agent}, {event.priority.label}")
                case Admitted():
                    print(f"admitted  {event.agent}")
                case TextMessage():
                    print(f"message   {event.source}: {event.content}")
                case Ended():
                    print(f"ended     {event.state}")
        result = await run.result()
        print(f"result    {result.calls} calls, {result.usage.total} tokens: {result.text}")
        again = await hw.start("weekly-report", task="Week 47", key="w47")
        print(f"again     the same key is the same run: {again.id == run.id}")


if __name__ == "__main__":
    anyio.run(main)

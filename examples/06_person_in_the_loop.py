"""A run asks a person, ends its work, and goes on when the answer is there, days later if need be.

While it waits it holds no process: the question and all answers so far are in the database. From a
shell, the same is ``headway runs answer ID "WORDS"``.
"""

import anyio
from autogen_agentchat.agents import AssistantAgent, UserProxyAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat

from headway.testing import simulated_headway


def draft(models):
    members = [AssistantAgent("writer", models("sim")), UserProxyAgent("editor")]
    return RoundRobinGroupChat(members, termination_condition=MaxMessageTermination(4))


async def main():
    async with simulated_headway() as hw:
        hw.workflow("draft")(draft)
        run = await hw.start("draft", task="Write a line on tides.")
        await run.ended()
        print(f"state     {run.run.state}")
        call, question = await hw.question(run.id)
        print(f"question  {call.call.path}: {question}")
        await hw.answer(run.id, "Shorter, please.")
        run = await hw.resume(run.id)
        result = await run.result()
        for message in result.task_result.messages:
            print(f"message   {message.source}: {message.to_text()}")
        print(f"receipt   {await hw.receipt(run.id)}")


if __name__ == "__main__":
    anyio.run(main)

"""A tool that must not run twice is cut off in the middle: a person says what came of it.

Undeclared tools are ``once``. ``@pure`` ones, which change nothing, and ``@idempotent`` ones, which
act once for one ``idempotency_key()``, are simply called again.
"""

import anyio
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat

from headway import once
from headway.testing import simulated_headway
from headway_scheduler.testing.provider import Reply, ToolCall

transfers = []
begun = anyio.Event()


@once
async def transfer(euros: int) -> str:
    """Transfer money."""
    transfers.append(euros)
    begun.set()
    await anyio.sleep(60)  # the bank takes its time, and then the process is gone
    return "transferred"


def pay(models):
    clerk = AssistantAgent("clerk", models("sim"), tools=[transfer], reflect_on_tool_use=True)
    return RoundRobinGroupChat([clerk], termination_condition=MaxMessageTermination(4))


def reply(body):
    is_done = any(message["role"] == "tool" for message in body["messages"])
    return None if is_done else Reply(tool_calls=(ToolCall("transfer", {"euros": 100}),))


async def main():
    async with simulated_headway(reply=reply) as hw:
        hw.workflow("pay")(pay)
        run = await hw.start("pay", task="Pay the bill.")
        await begun.wait()
        run.interrupt()
        await run.ended()
        print(f"state     {run.run.state}")
        run = await hw.resume(run.id)
        await run.ended()
        _, question = await hw.question(run.id)
        print(f"state     {run.run.state}: {question}")
        await hw.answer(run.id, "transferred: the account shows it")
        run = await hw.resume(run.id)
        await run.result()
        print(f"state     {run.run.state}, transferred {len(transfers)} time")


if __name__ == "__main__":
    anyio.run(main)

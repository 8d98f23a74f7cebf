"""Try another way from the middle of a run: what was said before is free.

``fork`` starts a copy that asks one call anew. ``continue_run`` gives the same team its next task.
"""

import anyio
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat

from headway.testing import simulated_headway


def talk(models):
    agents = [AssistantAgent(name, models("sim")) for name in ("writer", "critic")]
    return RoundRobinGroupChat(agents, termination_condition=MaxMessageTermination(5))


async def main():
    async with simulated_headway() as hw:
        hw.workflow("talk")(talk)
        first = await hw.start("talk", task="Explain the tides.")
        await first.result()
        print(f"first     {len(hw.provider.ledger.paid)} calls paid")
        fork = await hw.fork(first.id, at="2")
        await fork.result()
        print(f"fork      {await hw.receipt(fork.id)}")
        other = await hw.fork(first.id, at="2", task="Explain the tides to a child.")
        result = await other.result()
        print(f"other     {result.task_result.messages[0].to_text()}")
        following = await hw.continue_run(first.id, "Now in one sentence.")
        await following.result()
        print(f"continued {await hw.receipt(following.id)}")
        print(f"all       {len(hw.provider.ledger.paid)} calls paid for 4 runs of 4")


if __name__ == "__main__":
    anyio.run(main)

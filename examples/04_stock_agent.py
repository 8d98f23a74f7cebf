"""An agent of yours, moved over in two lines; the rest of the program stays as it was.

-   client = OpenAIChatCompletionClient(model="gpt-5.4")
-   agent = AssistantAgent("helper", client)
+   async with Headway() as hw:
+       agent = AssistantAgent("helper", hw.model("gpt-5.4", priority="high"))

Its calls are queued and counted with those of all runs, as a run of their own that ends with the
block. (Here ``simulated_headway()`` stands for ``Headway()``, so that no key is needed.)
"""

import anyio
from autogen_agentchat.agents import AssistantAgent

from headway.testing import simulated_headway


async def main():
    async with simulated_headway() as hw:
        agent = AssistantAgent("helper", hw.model("gpt-5.4", priority="high"))
        result = await agent.run(task="What is a headway?")
        print(f"answer    {result.messages[-1].to_text()}")
        for run in await hw.list_runs():
            for record in await hw.list_calls(run.id):
                call = record.call
                print(
                    f"recorded  {run.workflow} {call.model}, {call.priority.label}: {record.state}"
                )


if __name__ == "__main__":
    anyio.run(main)

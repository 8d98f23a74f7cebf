"""A memory finds notes by their embeddings, and asks for these through OpenAI's own SDK.

``hw.openai(model)`` is an ``AsyncOpenAI`` whose calls wait for their turn, draw on the quotas of
that model, and are recorded: a copy of the run asks the writer again, and pays for no embedding.
"""

from math import dist

import anyio
from autogen_agentchat.agents import AssistantAgent
from autogen_core.memory import Memory, MemoryContent, MemoryQueryResult, UpdateContextResult
from autogen_core.models import SystemMessage

from headway.testing import simulated_headway

NOTES = ["The tide turns every six hours.", "Rent is due on the first.", "Cats sleep all day."]


class Notes(Memory):
    component_type = "memory"

    def __init__(self, sdk):
        self.sdk = sdk

    async def query(self, query, cancellation_token=None, **kwargs):
        answer = await self.sdk.embeddings.create(model="embed", input=[query, *NOTES])
        asked, *known = [each.embedding for each in answer.data]
        nearest = min(range(len(NOTES)), key=lambda number: dist(asked, known[number]))
        note = MemoryContent(content=NOTES[nearest], mime_type="text/plain")
        return MemoryQueryResult(results=[note])

    async def update_context(self, model_context):
        (*_, last) = await model_context.get_messages()
        found = await self.query(last.content)
        await model_context.add_message(SystemMessage(content=found.results[0].content))
        return UpdateContextResult(memories=found)

    async def add(self, content, cancellation_token=None):
        NOTES.append(content.content)

    async def clear(self):
        NOTES.clear()

    async def close(self):
        pass


def reply(body):
    (note,) = (each["content"] for each in body["messages"][1:] if each["role"] == "system")
    return f"My note says: {note}"


async def main():
    async with simulated_headway(reply=reply) as hw:

        @hw.workflow("ask")
        def ask(models):
            return AssistantAgent("writer", models("sim"), memory=[Notes(hw.openai("embed"))])

        run = await hw.start("ask", task="When does the tide turn?")
        print(f"answer    {(await run.result()).text}")
        for row in await hw.list_calls(run.id):
            print(f"recorded  {row.call.kind} {row.call.model}")
        copy = await hw.fork(run.id, at="2")
        print(f"again     {(await copy.result()).text}")
        print("paid     ", *(entry.model for entry in hw.provider.ledger.paid))


if __name__ == "__main__":
    anyio.run(main)

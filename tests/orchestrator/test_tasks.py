"""A task is whatever AutoGen's teams take, and a run that is resumed has the same one."""

from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.messages import MultiModalMessage, StructuredMessage, TextMessage
from autogen_core import Image
from PIL import Image as Pillow
from pydantic import BaseModel

from headway import Models
from headway.testing import simulated_headway
from headway_agents import dump_task, load_task
from headway_scheduler.errors import CallerError
from headway_scheduler.model.runs import Task

pytestmark = pytest.mark.anyio


class City(BaseModel):
    name: str


def picture() -> MultiModalMessage:
    image = Image(Pillow.new("RGB", (4, 4), (200, 0, 0)))
    return MultiModalMessage(content=["What is this?", image], source="user")


def words(text: str) -> TextMessage:
    return TextMessage(content=text, source="user", metadata={"ticket": "4711"})


def team(models: Models) -> AssistantAgent:
    return AssistantAgent("writer", models("sim"))


@pytest.mark.parametrize(
    "given",
    ["Why?", words("Why?"), [words("Why?"), picture()], picture()],
    ids=["text", "message", "list", "image"],
)
async def test_a_task_is_read_as_it_was_written(given: Any) -> None:
    task = dump_task(given)
    assert dump_task(load_task(task)) == task
    expected = given if isinstance(given, list | str) else [given]
    if isinstance(given, str):
        assert load_task(task) == given
    else:
        assert [each.dump() for each in load_task(task)] == [each.dump() for each in expected]  # type: ignore[union-attr]
    assert ("Why?" in task.text) or ("What is this?" in task.text)


async def test_the_team_gets_messages_and_so_does_a_continued_run() -> None:
    async with simulated_headway() as hw:
        hw.workflow("team")(team)
        result = await hw.run("team", task=[words("First."), words("Second.")])
        said = result.task_result.messages
        assert [each.to_text() for each in said[:2]] == ["First.", "Second."]
        assert said[0].metadata == {"ticket": "4711"}
        row = await hw.get_run(result.run_id)
        assert (row.task, row.given.messages is None) == ("First.\nSecond.", False)

        handle = await hw.continue_run(result.run_id, words("Third."))
        assert (await handle.result()).task_result.messages[0].to_text() == "Third."
        further = await hw.continue_run(handle.id, "Fourth.")
        await further.result()
        row = await hw.get_run(further.id)
        assert row.history == (dump_task(said[:2]), Task("Third.", row.history[1].messages))
        asked = hw.provider.ledger.entries[-1]
        assert asked.accepted


async def test_a_picture_reaches_the_model() -> None:
    async with simulated_headway() as hw:
        hw.workflow("team")(team)
        result = await hw.run("team", task=picture())
        assert isinstance(result.task_result.messages[0], MultiModalMessage)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (None, "task must be a text, one of AutoGen's messages, or a list of them, not None"),
        ([], "not a list"),
        ([1], "it has a int"),
        (["a", "b"], "it has a str"),
        (StructuredMessage[City](content=City(name="Oslo"), source="user"), "could not make it"),
    ],
    ids=["none", "empty", "numbers", "texts", "structured"],
)
async def test_what_is_no_task_is_refused(given: Any, says: str) -> None:
    async with simulated_headway() as hw:
        hw.workflow("team")(team)
        with pytest.raises(CallerError, match=says):
            await hw.start("team", task=given)
        assert not await hw.list_runs()

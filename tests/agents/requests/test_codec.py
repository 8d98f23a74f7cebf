import os
import subprocess
import sys

import pytest
from autogen_core import FunctionCall, Image
from autogen_core.models import (
    AssistantMessage,
    CreateResult,
    FunctionExecutionResult,
    FunctionExecutionResultMessage,
    LLMMessage,
    RequestUsage,
    SystemMessage,
    UserMessage,
)
from autogen_core.models._types import ChatCompletionTokenLogprob, TopLogprob
from autogen_core.tools import FunctionTool, ToolSchema
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow
from pydantic import BaseModel

from headway_agents.calls.client import dump_result, load_result, output_cap
from headway_agents.requests.codec import Request
from headway_agents.requests.prompts import (
    PromptEncoder,
    characters,
    estimated_tokens,
)
from headway_scheduler.providers import readings

TEXT = st.text() | st.text(alphabet=st.characters())  # the latter may hold lone surrogates
LOGPROBS = st.floats(allow_nan=False)
CALLS = st.builds(FunctionCall, id=TEXT, arguments=TEXT, name=TEXT)
BYTES = st.none() | st.lists(st.integers(0, 255), max_size=3)
TOP = st.builds(TopLogprob, logprob=LOGPROBS, bytes=BYTES)
TOKENS = st.builds(
    ChatCompletionTokenLogprob,
    token=TEXT,
    logprob=LOGPROBS,
    top_logprobs=st.none() | st.lists(TOP, max_size=2),
    bytes=BYTES,
)
RESULTS = st.builds(
    CreateResult,
    finish_reason=st.sampled_from(
        ["stop", "length", "function_calls", "content_filter", "unknown"]
    ),
    content=TEXT | st.lists(CALLS, max_size=3),
    usage=st.builds(RequestUsage, st.integers(0), st.integers(0)),
    cached=st.booleans(),
    logprobs=st.none() | st.lists(TOKENS, max_size=3),
    thought=st.none() | TEXT,
)


def request_hash(request: Request) -> str:
    return PromptEncoder().encode(request).request_hash


@given(RESULTS)
def test_an_answer_survives_the_journal(result: CreateResult) -> None:
    text = dump_result(result)
    assert load_result(text) == result
    text.encode()  # storable


class Report(BaseModel):
    title: str
    pages: int = 1


def conversation(first_id: str = "a", second_id: str = "b") -> list[LLMMessage]:
    calls = [FunctionCall(first_id, '{"x": 1}', "add"), FunctionCall(second_id, "{}", "now")]
    results = [
        FunctionExecutionResult(content="2", name="add", call_id=first_id, is_error=False),
        FunctionExecutionResult(content="noon", name="now", call_id=second_id),
    ]
    return [
        SystemMessage(content="be brief"),
        UserMessage(content=["look", Image(Pillow.new("RGB", (4, 2), "red"))], source="user"),
        AssistantMessage(content=calls, source="writer", thought="hm"),
        FunctionExecutionResultMessage(content=results),
    ]


def add(x: int) -> int:
    """Add."""
    return x


def test_ids_of_tool_calls_do_not_count_but_their_order_does() -> None:
    here, there = Request(conversation("a", "b")), Request(conversation("call_9", "call_3"))
    assert request_hash(here) == request_hash(there)
    swapped = conversation("a", "b")
    results = swapped[-1]
    assert isinstance(results, FunctionExecutionResultMessage)
    results.content.reverse()
    assert request_hash(Request(swapped)) != request_hash(here)


@pytest.mark.parametrize(
    "other",
    [
        Request(conversation()[:-1]),
        Request(conversation(), tools=[{"name": "add"}]),
        Request(conversation(), tool_choice="required"),
        Request(conversation(), json_output=True),
        Request(conversation(), json_output=Report),
        Request(conversation(), extra={"temperature": 0}),
        Request([*conversation()[:1], UserMessage(content="look", source="user")]),
    ],
)
def test_what_is_asked_is_in_the_hash(other: Request) -> None:
    assert request_hash(other) != request_hash(Request(conversation()))


def test_pixels_are_in_the_hash_and_not_in_the_text() -> None:
    def picture(colour: str, size: tuple[int, int]) -> Request:
        image = Image(Pillow.new("RGB", size, colour))
        return Request([UserMessage(content=[image], source="user")])

    requests = [picture("red", (4, 2)), picture("blue", (4, 2)), picture("red", (2, 4))]
    assert len({request_hash(request) for request in requests}) == 3
    assert len("".join(PromptEncoder().encode(picture("red", (500, 500))).chunks())) < 300


def test_a_tool_and_its_schema_are_the_same() -> None:
    tool = FunctionTool(add, description="Add.")
    by_tool = Request(conversation(), [tool], tool_choice=tool)
    by_schema = Request(conversation(), [tool.schema], tool_choice=tool)
    assert request_hash(by_tool) == request_hash(by_schema)


SCRIPT = """
from autogen_core.models import SystemMessage
from autogen_core.tools import FunctionTool
from pydantic import BaseModel
from typing import Literal
from headway_agents.requests.prompts import PromptEncoder
from headway_agents.requests.codec import Request

class Choice(BaseModel):
    who: Literal["b", "a"]
    tags: set[str] = {"x", "y", "z"}

def pick(name: str, where: Literal["here", "there"] = "here") -> str:
    "Pick."
    return name

extra = {"stop": {"one", "two", "three"}, "object": object(), "model": Choice}
tools = [FunctionTool(pick, description="Pick.")]
request = Request([SystemMessage(content="x")], tools, "auto", Choice, extra)
print(PromptEncoder().encode(request).request_hash)
"""


def test_the_hash_is_the_same_in_every_process() -> None:
    def hashed(seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", SCRIPT]
        return subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True
        ).stdout

    assert len({hashed("0"), hashed("1"), hashed("12345")}) == 1


def test_everything_that_is_sent_counts() -> None:
    plain = Request([UserMessage(content="x" * 400, source="user")])
    assert 400 < characters(plain) < 440
    assert estimated_tokens(plain) == -(-characters(plain) // 4)
    schema: ToolSchema = {"name": "t", "description": "d" * 400}
    assert characters(Request(plain.messages, [schema])) > 800
    assert characters(Request(plain.messages, json_output=Report)) > characters(plain) + 50
    assert characters(Request(conversation())) > 3000  # the image


def test_the_output_cap_of_the_request_goes_first() -> None:
    request = Request([], extra={"max_tokens": 7})
    assert output_cap(request, {"max_completion_tokens": 9}) == 7
    assert output_cap(Request([]), {"max_completion_tokens": 9}) == 9
    assert output_cap(Request([]), {"max_tokens": None}) is None


def test_unknown_usage_is_none() -> None:
    assert readings.usage(vars(RequestUsage(0, 0)), []) is None
    usage = readings.usage(vars(RequestUsage(3, 4)), [])
    assert usage is not None
    assert usage.total == 7

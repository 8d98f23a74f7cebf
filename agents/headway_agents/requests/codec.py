"""Requests and answers of AutoGen's clients as data. Law: an answer comes back equal."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from autogen_core.models import CreateResult, LLMMessage, RequestUsage
from autogen_core.tools import Tool, ToolSchema
from pydantic import BaseModel

from headway_scheduler.model.calls import Usage

ToolChoice = Tool | Literal["auto", "required", "none"]


@dataclass(frozen=True, slots=True)
class Request:
    """What an agent asks, copied before anything is awaited: callers go on with their list."""

    messages: Sequence[LLMMessage]
    tools: Sequence[Tool | ToolSchema] = ()
    tool_choice: ToolChoice = "auto"
    json_output: bool | type[BaseModel] | None = None
    extra: Mapping[str, Any] | None = None


def usage_of(usage: RequestUsage) -> Usage | None:
    """Return what the provider counted, if it did."""
    return Usage.counted(usage.prompt_tokens, usage.completion_tokens)


def dump_result(result: CreateResult) -> str:
    """Return an answer as JSON; :func:`load_result` gives back an equal one."""
    # Not pydantic's own JSON: it turns infinite logprobs into null and refuses lone surrogates.
    # Compact: it goes into a request to the leader, and a row, of each call.
    return json.dumps(result.model_dump(), separators=(",", ":"))


def load_result(text: str) -> CreateResult:
    """Return an answer from its JSON."""
    return CreateResult.model_validate(json.loads(text))


def model_answer(text: str) -> str:
    """Return a person's words as the JSON of a model's answer. It cost nothing."""
    usage = RequestUsage(0, 0)
    return dump_result(CreateResult(finish_reason="stop", content=text, usage=usage, cached=True))

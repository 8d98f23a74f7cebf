"""Builds the teams of the demo, and the stock client. Only this file of the demo knows AutoGen.

A team is built by the same code on both sides; only the client that it is given differs.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, asynccontextmanager
from typing import Any

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.base import Team
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat, SelectorGroupChat
from autogen_core import CancellationToken
from autogen_core.models import (
    ChatCompletionClient,
    CreateResult,
    LLMMessage,
    ModelCapabilities,
    ModelInfo,
    RequestUsage,
)
from autogen_ext.models.openai import OpenAIChatCompletionClient

from headway_agents.attempt import TeamWork
from headway_scheduler.model.calls import Priority
from headway_scheduler.testing.provider import Body

from ..testing import MODEL
from .plan import BACKGROUND

Recording = Callable[[], AbstractContextManager[str]]
"""Entered when an agent asks, left when it has its answer or an error; gives the call's mark."""

_SOME_TEXT = "Noted. What was asked, what was found and what is to be done, in a few words. " * 3
_SELECTOR_PROMPT = "{roles}\n{history}\nSelect the next role from {participants}."


class Stopwatch(ChatCompletionClient):
    """Wraps a client: notes when each request is asked for, and sends a mark with it.

    The wrapped client is in ``client``, as in AutoGen's cache, so that Headway finds and binds it.
    """

    def __init__(self, client: ChatCompletionClient, recording: Recording) -> None:
        self.client = client
        self._recording = recording

    async def create(self, messages: Sequence[LLMMessage], **options: Any) -> CreateResult:
        """Ask the wrapped client; the mark goes out as the request's ``user``."""
        with self._recording() as mark:
            return await self.client.create(messages, **_marked(options, mark))

    async def create_stream(
        self, messages: Sequence[LLMMessage], **options: Any
    ) -> AsyncGenerator[str | CreateResult, None]:
        """Ask the wrapped client for a stream, with a mark too."""
        with self._recording() as mark:
            stream = self.client.create_stream(messages, **_marked(options, mark))
            async with aclosing(stream):
                async for item in stream:
                    yield item

    async def close(self) -> None:
        """Leave the client open: teams share it."""

    def actual_usage(self) -> RequestUsage:
        """The wrapped client's."""
        return self.client.actual_usage()

    def total_usage(self) -> RequestUsage:
        """The wrapped client's."""
        return self.client.total_usage()

    def count_tokens(self, messages: Sequence[LLMMessage], **options: Any) -> int:
        """The wrapped client's."""
        return self.client.count_tokens(messages, **options)

    def remaining_tokens(self, messages: Sequence[LLMMessage], **options: Any) -> int:
        """The wrapped client's."""
        return self.client.remaining_tokens(messages, **options)

    @property
    def capabilities(self) -> ModelCapabilities:
        """The wrapped client's."""
        return self.client.capabilities

    @property
    def model_info(self) -> ModelInfo:
        """The wrapped client's."""
        return self.client.model_info


def _marked(options: Mapping[str, Any], mark: str) -> dict[str, Any]:
    extra = {**options.get("extra_create_args", {}), "user": mark}
    return {**options, "extra_create_args": extra}


def build(priority: Priority, client: ChatCompletionClient, recording: Recording) -> Team:
    """Build a fresh team of a class; ``recording`` notes its calls."""
    watched = Stopwatch(client, recording)
    return _labelers(watched) if priority is BACKGROUND else _triage(watched)


async def run_stock(team: Team, task: str) -> None:
    """Run a team without Headway. Raises what it raises; cancelled, it leaves nothing running."""
    work = TeamWork(team, task, CancellationToken())
    try:
        async for _ in work.events():
            pass
    finally:
        await work.stop()


def _labelers(client: ChatCompletionClient) -> Team:
    """Three agents in turn: 3 calls."""
    return RoundRobinGroupChat(
        [
            AssistantAgent("reader", client, system_message="Read the page and sum it up."),
            AssistantAgent("labeler", client, system_message="Give it one of our labels."),
            AssistantAgent("checker", client, system_message="Check the label against the page."),
        ],
        termination_condition=MaxMessageTermination(4),
    )


def _triage(client: ChatCompletionClient) -> Team:
    """A model picks the speaker, two times: 4 calls."""
    return SelectorGroupChat(
        [
            AssistantAgent("planner", client, description="finds out what to do first"),
            AssistantAgent("engineer", client, description="knows the systems"),
            AssistantAgent("writer", client, description="tells the customers"),
        ],
        client,
        selector_prompt=_SELECTOR_PROMPT,
        termination_condition=MaxMessageTermination(3),
    )


def answer(body: Body) -> str:
    """Answer as the simulated model: the first candidate to a selector, else some text."""
    said = " ".join(str(message.get("content")) for message in body["messages"])
    asked = re.search(r"Select the next role from \['(\w+)'", said)
    return asked[1] if asked else _SOME_TEXT


@asynccontextmanager
async def stock_client(base_url: str) -> AsyncIterator[ChatCompletionClient]:
    """Make AutoGen's own client with its defaults, the retries of the SDK among them."""
    info = ModelInfo(
        vision=False,
        function_calling=True,
        json_output=True,
        structured_output=True,
        family="unknown",
    )
    client = OpenAIChatCompletionClient(
        model=MODEL, base_url=base_url, api_key="not-a-key", model_info=info
    )
    try:
        yield client
    finally:
        await client.close()

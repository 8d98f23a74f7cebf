"""All that a model's answer holds beside its text comes back equal: its reasoning, its logprobs.

The simulated provider has neither, so a small server on loopback answers AutoGen's own client.
"""

import json
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent, BaseChatAgent
from autogen_agentchat.base import Response, Team
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.messages import BaseChatMessage, TextMessage, ThoughtEvent
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core import CancellationToken
from autogen_core.models import ChatCompletionClient, CreateResult, UserMessage

from headway import Headway, RunHandle
from headway.config import load
from headway_agents.calls.client import load_result
from headway_scheduler.model.states import RunState

pytestmark = pytest.mark.anyio


class Reasoner(BaseHTTPRequestHandler):
    """Answers with what it thought and how sure it was, a function of what it is asked."""

    requests: list[Any]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.requests.append(body)
        count = len(str(body["messages"]))
        token = {"token": "so", "logprob": -1 / count, "bytes": [115, 111]}
        message = {
            "role": "assistant",
            "content": f"so {count}",
            "reasoning_content": f"hm {count}",
        }
        choice = {
            "index": 0,
            "message": message,
            "logprobs": {"content": [{**token, "top_logprobs": [token]}]},
            "finish_reason": "stop",
        }
        usage = {"prompt_tokens": count, "completion_tokens": 2, "total_tokens": count + 2}
        envelope = {"id": "c", "object": "chat.completion", "created": 0, "model": "sim"}
        data = json.dumps({**envelope, "choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The requests that the server got. Its address stands in the configuration."""
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    seen: list[Any] = []
    handler = type("Handler", (Reasoner,), {"requests": seen})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    (tmp_path / "headway.toml").write_text(
        f"""
[database]
path = "headway.db"
[quotas.roomy]
concurrency = 50
[models.sim]
quotas = ["roomy"]
base_url = "http://127.0.0.1:{server.server_port}/v1"
"""
    )
    yield seen
    server.shutdown()
    thread.join()
    server.server_close()


class Doubter(BaseChatAgent):
    """Says all that the model's answer holds, so that whatever came back differently shows."""

    produced_message_types = (TextMessage,)

    def __init__(self, client: ChatCompletionClient) -> None:
        super().__init__("doubter", "Doubts.")
        self._client = client
        self.results: list[CreateResult] = []

    async def on_messages(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> Response:
        asked = [UserMessage(content=message.to_text(), source="x") for message in messages]
        more = {"logprobs": True, "top_logprobs": 1}
        result = await self._client.create(asked, extra_create_args=more)
        self.results.append(result)
        text = result.model_dump_json()
        return Response(chat_message=TextMessage(content=text, source=self.name))

    async def on_reset(self, cancellation_token: CancellationToken) -> None: ...


class Factory:
    """Keeps the doubters of the teams that it made."""

    def __init__(self) -> None:
        self.doubters: list[Doubter] = []

    def __call__(self, models: Any) -> Team:
        doubter = Doubter(models("sim"))
        self.doubters.append(doubter)
        thinker = AssistantAgent("thinker", models("sim"))
        end = MaxMessageTermination(9)
        return RoundRobinGroupChat([thinker, doubter], termination_condition=end)


def said(handle: RunHandle) -> list[tuple[str, str]]:
    assert handle.task_result is not None, (handle.run, handle.change)
    return [(message.type, message.to_text()) for message in handle.task_result.messages]


async def test_reasoning_and_logprobs_come_back_equal(requests: list[Any], tmp_path: Path) -> None:
    live, again = Factory(), Factory()
    async with Headway(load(tmp_path / "headway.toml", environ={})) as headway:
        headway.workflow("team")(live)
        uncut = await headway.start("team", task="Go.")
        await uncut.result()
        calls = len(requests)
        cut = await headway.start("team", task="Go.")
        async for _ in cut.stream():
            if len(cut.calls) == calls - 1:
                cut.interrupt()
        assert cut.run.state is RunState.INTERRUPTED
        known = sum(row.answer is not None for row in await headway.list_calls(cut.id))
        assert known >= 3
    asked = len(requests)
    async with Headway(load(tmp_path / "headway.toml", environ={})) as headway:
        headway.workflow("team")(again)
        handle = await headway.resume(cut.id)
        await handle.result()
        assert len(requests) - asked == calls - known
        assert said(handle) == said(uncut)
        assert again.doubters[0].results == live.doubters[0].results
        first = await headway.list_calls(cut.id)
    assert all(load_result(row.answer or "").thought for row in first)
    for result in again.doubters[0].results:
        assert result.thought is not None
        assert result.logprobs is not None
        assert result.logprobs[0].top_logprobs
    thoughts = [text for kind, text in said(handle) if kind == ThoughtEvent.__name__]
    assert thoughts
    assert all(text.startswith("hm ") for text in thoughts)

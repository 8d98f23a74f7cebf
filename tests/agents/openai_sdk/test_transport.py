"""OpenAI's SDK against a provider on loopback, every request a call."""

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import anyio
import openai
import pytest
from tests.sentences import SENTENCE

from headway_agents import Journal, Model, RunScope
from headway_agents.openai_sdk.client import openai_sdk, scheduled
from headway_agents.openai_sdk.payloads import Answer
from headway_agents.steps.step import Step, perform
from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.errors import CallTooLarge, ProviderError, RunClosed
from headway_scheduler.model.calls import CallRecord, Priority, Usage
from headway_scheduler.model.quotas import Quota
from headway_scheduler.model.states import CallState
from headway_scheduler.runtime.local import LocalScheduler
from headway_scheduler.testing.provider import (
    Fault,
    FaultKind,
    Latency,
    Settings,
    SimulatedProvider,
    simulated_provider,
)

pytestmark = pytest.mark.anyio
KEY = "sk-test-0123456789abcdef"
MODEL = Model("m", ("q",))
HELLO: Any = [{"role": "user", "content": "hello"}]


@asynccontextmanager
async def serving(
    scope: RunScope, model: Model = MODEL, **settings: Any
) -> AsyncIterator[tuple[SimulatedProvider, openai.AsyncOpenAI]]:
    async with (
        simulated_provider(Settings(**settings)) as provider,
        openai_sdk(KEY, provider.base_url) as sdk,
    ):
        yield provider, scheduled(sdk, model, lambda: scope)


async def embed(sdk: openai.AsyncOpenAI, text: Any = "hello") -> Any:
    return await sdk.embeddings.create(model="e", input=text)


async def chat(sdk: openai.AsyncOpenAI) -> Any:
    return await sdk.chat.completions.create(model="c", messages=HELLO, max_tokens=50)


async def streamed(sdk: openai.AsyncOpenAI) -> list[Any]:
    stream = await sdk.chat.completions.create(
        model="c", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    return [chunk async for chunk in stream]


def said(chunks: Sequence[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def once(fault: Fault) -> Callable[..., Fault | None]:
    return lambda number, _: fault if number == 1 else None


class Hanging:
    """The first request gets no answer; ``begun`` is set when it is there."""

    def __init__(self) -> None:
        self.begun = anyio.Event()

    def __call__(self, number: int, _: Any) -> Fault | None:
        self.begun.set()
        return Fault(FaultKind.HANG) if number == 1 else None


def again(scheduler: LocalScheduler, rows: Sequence[CallRecord]) -> RunScope:
    """The run's next attempt."""
    return RunScope(scheduler, "run", Priority.NORMAL, journal=Journal(rows))


# What a call is


async def test_embeddings_are_a_call_that_is_on_disk_before_its_answer_is_seen(
    scope: RunScope, records: Any
) -> None:
    async with serving(scope) as (provider, sdk):
        answer = await embed(sdk, ["hello", "you"])
        (record,) = await records("run")
    assert (record.call.kind, record.call.model, record.call.path) == ("sdk", "m", "caller")
    assert record.state is CallState.DONE
    assert record.usage == Usage(answer.usage.prompt_tokens, 0)
    assert len(json.loads(json.loads(record.answer)["text"])["data"]) == len(answer.data) == 2
    (entry,) = provider.ledger.paid
    assert record.call.tokens >= entry.charged_tokens


async def test_what_is_reserved_covers_what_is_charged(scope: RunScope, records: Any) -> None:
    asked: list[Any] = ["a", ["a"] * 50, [1, 2, 3], [[1], [2, 3]], "x" * 1001]
    async with serving(scope) as (provider, sdk):
        for given in asked:
            await embed(sdk, given)
        await chat(sdk)
        reserved = [record.call.tokens for record in await records()]
        charged = [entry.charged_tokens for entry in provider.ledger.entries]
    assert all(ours >= theirs for ours, theirs in zip(reserved, charged, strict=True))
    assert all(ours <= theirs + 50 for ours, theirs in zip(reserved, charged, strict=True))


async def test_a_call_waits_for_its_quota(scope: RunScope) -> None:
    async with (
        serving(scope, Model("m", ("narrow",)), latency=Latency(0.02)) as (provider, sdk),
        anyio.create_task_group() as group,
    ):
        for text in ("one", "two", "three"):
            group.start_soon(embed, sdk, text)
    assert provider.ledger.most_at_once() == 1
    assert len(provider.ledger.paid) == 3


async def test_priority_of_the_client_goes_before_the_run_s(scope: RunScope, records: Any) -> None:
    async with serving(scope) as (provider, _), openai_sdk(KEY, provider.base_url) as sdk:
        await embed(scheduled(sdk, MODEL, lambda: scope, priority=Priority.HIGH))
    assert [record.call.priority for record in await records()] == [Priority.HIGH]


async def test_keys_and_headers_are_not_kept(
    scope: RunScope, records: Any, store: MemoryStore
) -> None:
    async with serving(scope) as (_, sdk):
        await sdk.embeddings.create(
            model="e", input=f"Use {KEY}.", extra_body={"api_key": "hidden"}, user="me"
        )
        (record,) = await records()
        kept = "".join(await store.prompt(record.call.request_hash) or ()) + repr(record)
    assert "Use [key]." in kept
    for secret in (KEY, "hidden", "Authorization"):
        assert secret not in kept


async def test_the_idempotency_header_carries_the_call(scope: RunScope) -> None:
    model = Model("m", ("q",), idempotency_header="x-headway-call")
    async with serving(scope, model) as (provider, sdk):
        await embed(sdk)
    assert [entry.who for entry in provider.ledger.entries] == ["run.0"]


async def test_a_list_is_no_call(scope: RunScope, records: Any) -> None:
    async with serving(scope) as (_, sdk):
        assert (await sdk.models.list()).data == []
    assert not await records()


async def test_headers_of_the_answer_reach_who_asks_for_them(scope: RunScope) -> None:
    async with serving(scope) as (_, sdk):
        raw = await sdk.embeddings.with_raw_response.create(model="e", input="hello")
    assert raw.headers["x-request-id"] == "req_1"
    assert raw.parse().data


# Streams


async def test_a_stream_is_recorded_before_its_end_is_seen(scope: RunScope, records: Any) -> None:
    states = []
    async with serving(scope, latency=Latency(seconds_per_output_token=0.001)) as (_, sdk):
        stream = await sdk.chat.completions.create(
            model="c", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        async for chunk in stream:
            usage = chunk.usage
            (record,) = await records()
            states.append(record.state)
        (record,) = await records()
    assert states[0] is CallState.ADMITTED
    assert record.state is CallState.DONE
    assert record.usage == Usage(usage.prompt_tokens, usage.completion_tokens)
    assert json.loads(record.answer)["text"].rstrip().endswith("data: [DONE]")


async def test_a_recorded_stream_says_the_same(
    scope: RunScope, scheduler: LocalScheduler, records: Any
) -> None:
    async with serving(scope) as (_, sdk):
        first = await streamed(sdk)
    async with serving(again(scheduler, await records())) as (provider, sdk):
        assert await streamed(sdk) == first
        assert not provider.ledger.entries


@pytest.mark.usefixtures("fast_pauses")
async def test_a_stream_that_is_cut_before_it_began_comes_again(
    scope: RunScope, records: Any, idle: Any
) -> None:
    cut = once(Fault(FaultKind.CUT_STREAM, after_chunks=0))
    async with serving(scope, faults=cut) as (provider, sdk):
        assert re.fullmatch(SENTENCE, said(await streamed(sdk)))
        assert len(provider.ledger) == 2
    (record,) = await records()
    assert (record.state, record.attempts) == (CallState.DONE, 2)
    await idle()


async def test_a_stream_that_is_cut_in_the_middle_is_no_answer(
    scope: RunScope, records: Any, idle: Any
) -> None:
    cut = once(Fault(FaultKind.CUT_STREAM, after_chunks=3))
    async with serving(scope, faults=cut) as (provider, sdk):
        with pytest.raises(openai.APIConnectionError) as caught:
            await streamed(sdk)
        assert scope.error is caught.value
        assert len(provider.ledger) == 1
        (record,) = await records()
        assert (record.state, record.answer) == (CallState.FAILED, None)
        await idle()
        assert await streamed(sdk)


async def test_a_stream_that_is_left_holds_nothing(
    scope: RunScope, records: Any, idle: Any
) -> None:
    async with serving(scope, latency=Latency(seconds_per_output_token=0.01)) as (_, sdk):
        async with await sdk.chat.completions.create(
            model="c", messages=HELLO, stream=True
        ) as stream:
            async for _ in stream:
                break
        await idle()
        (record,) = await records()
        assert record.state is CallState.CANCELLED


async def test_many_streams_of_which_some_are_cut_hold_nothing(scope: RunScope, idle: Any) -> None:
    failed = 0

    async def ask(sdk: openai.AsyncOpenAI) -> None:
        nonlocal failed
        try:
            await streamed(sdk)
        except openai.APIConnectionError:
            failed += 1

    def cut(number: int, _: Any) -> Fault | None:
        return Fault(FaultKind.CUT_STREAM, after_chunks=2) if number % 5 == 0 else None

    async with serving(scope, faults=cut) as (_, sdk):
        async with anyio.create_task_group() as group:
            for _ in range(200):
                group.start_soon(ask, sdk)
        await idle()
    assert failed == 40


def event(data: Any) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


SPOKEN = event({"choices": [{"index": 0, "delta": {"content": "hi"}}]})
END = b"data: [DONE]\n\n"
BUSY = event({"error": {"message": "Too many at once.", "code": "rate_limit_exceeded"}})
BROKEN = event({"error": {"message": "The model broke down.", "type": "server_error"}})


@asynccontextmanager
async def scripted(
    scope: RunScope, *bodies: bytes, headers: str = "content-type: text/event-stream"
) -> AsyncIterator[tuple[list[int], openai.AsyncOpenAI]]:
    """A server that answers with 200 and these bodies, and counts requests by connection."""
    connections: list[int] = []
    script = iter(bodies)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(0)
        number = len(connections) - 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                await reader.readexactly(length)
                connections[number] += 1
                body = next(script)
                chunk = f"{len(body):x}\r\n".encode() + body + b"\r\n" if body else b""
                start = f"HTTP/1.1 200 OK\r\n{headers}\r\ntransfer-encoding: chunked\r\n\r\n"
                writer.write(start.encode() + chunk + b"0\r\n\r\n")
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        async with openai_sdk(KEY, address) as sdk:
            yield connections, scheduled(sdk, MODEL, lambda: scope)


@pytest.mark.usefixtures("fast_pauses")
@pytest.mark.parametrize("refusal", [BUSY, BROKEN, b""])
async def test_a_stream_that_begins_with_an_error_is_asked_for_again(
    refusal: bytes, scope: RunScope, records: Any, idle: Any
) -> None:
    async with scripted(scope, refusal, SPOKEN + END) as (connections, sdk):
        assert said(await streamed(sdk)) == "hi"
        assert sum(connections) == 2
    (record,) = await records()
    assert (record.state, record.attempts) == (CallState.DONE, 2)
    await idle()


async def test_an_error_in_a_stream_is_the_sdk_s_own_with_the_provider_s_words(
    scope: RunScope, records: Any, idle: Any
) -> None:
    filling = SPOKEN * 5_000  # more than one read of the socket
    async with scripted(scope, filling + BROKEN + END) as (connections, sdk):
        with pytest.raises(openai.APIError, match="The model broke down"):
            await streamed(sdk)
        assert sum(connections) == 1
    (record,) = await records()
    assert record.state is CallState.FAILED
    assert "The model broke down." in record.error
    await idle()


async def test_a_stream_without_its_end_mark_is_not_recorded(
    scope: RunScope, records: Any, idle: Any
) -> None:
    async with scripted(scope, SPOKEN) as (_, sdk):
        with pytest.raises(openai.APIConnectionError, match="end mark"):
            await streamed(sdk)
    (record,) = await records()
    assert (record.state, record.answer) == (CallState.FAILED, None)
    assert "without its end mark" in record.error
    await idle()


async def test_a_reader_may_stop_while_it_drains_what_follows_the_end_mark(
    scope: RunScope, records: Any, idle: Any
) -> None:
    """The SDK gives up draining after a while, by a cancel scope of its own."""
    async with scripted(scope, SPOKEN + END + SPOKEN * 20_000) as (_, sdk):
        stream = await sdk.chat.completions.create(model="c", messages=HELLO, stream=True)
        body, read = aiter(stream.response.stream), 0
        with anyio.CancelScope():
            while read < 400_000:
                read += len(await anext(body))
        await stream.close()
    (record,) = await records()
    assert record.state is CallState.DONE
    await idle()


async def test_a_connection_that_is_read_to_its_end_is_used_again(scope: RunScope) -> None:
    async with scripted(scope, SPOKEN + END, SPOKEN + END) as (connections, sdk):
        for _ in range(2):
            asking = sdk.chat.completions.with_streaming_response.create(
                model="c", messages=HELLO, stream=True
            )
            async with asking as response:
                assert b"".join([part async for part in response.iter_bytes()]) == SPOKEN + END
        assert connections == [2]


async def test_a_body_that_came_compressed_is_kept_and_given_on_plain(
    scope: RunScope, records: Any
) -> None:
    body = gzip.compress(b'{"data": [], "model": "e", "object": "list"}')
    headers = "content-type: application/json\r\ncontent-encoding: gzip"
    async with scripted(scope, body, headers=headers) as (_, sdk):
        answer = await sdk.embeddings.with_raw_response.create(
            model="e", input="a", encoding_format="float"
        )
        assert answer.http_response.json()["model"] == "e"
    (record,) = await records()
    assert json.loads(json.loads(record.answer)["text"])["model"] == "e"


# Errors


async def test_a_429_keeps_its_place_and_is_paid_once(
    scope: RunScope, records: Any, idle: Any
) -> None:
    refused = once(Fault(FaultKind.RATE_LIMIT, retry_after_seconds=0.05))
    async with serving(scope, faults=refused) as (provider, sdk):
        assert (await embed(sdk)).data
        first, second = provider.ledger.entries
        assert (first.status, second.status) == (429, 200)
        assert second.received_at - first.received_at >= 0.045
        assert len(provider.ledger.paid) == 1
    (record,) = await records()
    assert (record.state, record.attempts) == (CallState.DONE, 2)
    await idle()


@pytest.mark.usefixtures("fast_pauses")
@pytest.mark.parametrize(
    ("error", "is_asked_again"),
    [({"code": 429, "message": "slow"}, True), ({"code": 400, "message": "too long"}, False)],
)
async def test_an_error_in_the_place_of_an_answer_is_not_kept(
    error: dict[str, Any], is_asked_again: bool, scope: RunScope, records: Any
) -> None:
    fault = Fault(FaultKind.ERROR_INSIDE, value=json.dumps(error))
    async with serving(scope, faults=once(fault)) as (provider, sdk):
        if is_asked_again:
            assert await chat(sdk)
        else:
            with pytest.raises(openai.APIError, match="too long"):
                await chat(sdk)
        assert len(provider.ledger) == 1 + is_asked_again
    (record,) = await records()
    assert record.state is (CallState.DONE if is_asked_again else CallState.FAILED)


async def test_an_answer_that_is_a_list_is_given_back_as_it_is(scope: RunScope) -> None:
    """Servers that speak OpenAI's protocol have paths of their own."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 6\r\n\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + b"[1, 2]")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        async with openai_sdk(KEY, url) as sdk:
            asked = scheduled(sdk, MODEL, lambda: scope)
            assert await asked.post("/rerank", cast_to=object, body={"q": "x"}) == [1, 2]


@pytest.mark.usefixtures("fast_pauses")
@pytest.mark.parametrize(
    "kind",
    [FaultKind.SERVER_ERROR, FaultKind.OVERLOADED, FaultKind.HANG, FaultKind.MALFORMED],
)
@pytest.mark.parametrize("ask", [embed, chat, streamed])
async def test_what_waiting_mends_is_asked_again(
    kind: FaultKind, ask: Any, scope: RunScope, idle: Any
) -> None:
    async with serving(scope, faults=once(Fault(kind))) as (provider, sdk):
        # Only a hang needs a timeout, and what is asked again must be answered within it.
        assert await ask(sdk.with_options(timeout=2.0) if kind is FaultKind.HANG else sdk)
        assert len(provider.ledger) == 2
        await idle()


FINAL = {
    FaultKind.UNAUTHORIZED: (openai.AuthenticationError, "Incorrect API key provided"),
    FaultKind.INSUFFICIENT_QUOTA: (openai.RateLimitError, "exceeded your current quota"),
}


@pytest.mark.parametrize("kind", list(FINAL))
@pytest.mark.parametrize("ask", [embed, chat, streamed])
async def test_what_no_wait_mends_is_the_sdk_s_own_error_with_the_provider_s_words(
    kind: FaultKind, ask: Any, scope: RunScope, records: Any, idle: Any
) -> None:
    expected, words = FINAL[kind]
    async with serving(scope, faults=lambda *_: Fault(kind)) as (provider, sdk):
        with pytest.raises(expected, match=words) as caught:
            await ask(sdk)
        assert type(caught.value) is expected
        assert scope.error is caught.value
        assert len(provider.ledger) == 1
    (record,) = await records()
    assert record.state is CallState.FAILED
    assert record.error.startswith(f"{expected.__name__}: ")
    assert words in record.error
    await idle()


async def test_a_recorded_failure_is_given_back(
    scope: RunScope, scheduler: LocalScheduler, records: Any
) -> None:
    async with serving(scope, faults=lambda *_: Fault(FaultKind.UNAUTHORIZED)) as (_, sdk):
        with pytest.raises(openai.AuthenticationError):
            await embed(sdk)
    async with serving(again(scheduler, await records())) as (provider, sdk):
        with pytest.raises(ProviderError, match="Incorrect API key"):
            await embed(sdk)
        assert not provider.ledger.entries


@pytest.mark.usefixtures("fast_pauses")
async def test_without_a_quota_a_provider_that_is_not_there_is_given_up(
    scope: RunScope, records: Any
) -> None:
    async with openai_sdk(KEY, "http://127.0.0.1:9/v1") as sdk:
        with pytest.raises(openai.APIConnectionError) as caught:
            await embed(scheduled(sdk, Model("m", ()), lambda: scope))
    assert scope.error is caught.value
    (record,) = await records()
    assert record.state is CallState.FAILED
    assert record.error == "APIConnectionError: Connection error."


async def test_what_is_learned_in_a_step_is_learned_of_the_agent(
    scope: RunScope, store: MemoryStore, records: Any
) -> None:
    async def act(sdk: openai.AsyncOpenAI, key: str) -> str:
        return str(len((await embed(sdk, key)).data))

    async with serving(scope) as (_, sdk):
        for name in ("one", "two"):
            await perform(scope, Step("tool", "a", name, ""), partial(act, sdk))
    assert [row.call.path for row in await records()] == ["a", "caller#run.0", "a", "caller#run.2"]
    lessons = (await store.snapshot()).lessons
    assert {lesson.subject for lesson in lessons} == {'["m", "caller"]', '["m", ""]'}


async def test_a_call_above_its_limit_is_refused_before_it_is_sent() -> None:
    async with LocalScheduler(MemoryStore(), [Quota.per_minute("q", tokens=100)]) as scheduler:
        scope = RunScope(scheduler, "run", Priority.NORMAL)
        async with serving(scope) as (provider, sdk):
            with pytest.raises(CallTooLarge):
                await embed(sdk, "x" * 4000)
            assert not provider.ledger.entries


# Being cut off


@pytest.mark.parametrize("ask", [embed, chat, streamed])
async def test_a_call_that_is_cancelled_gives_its_slot_back(
    ask: Any, scope: RunScope, records: Any, idle: Any
) -> None:
    hangs = Hanging()
    async with serving(scope, faults=hangs) as (_, sdk):
        task = asyncio.create_task(ask(sdk))
        await hangs.begun.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        await idle()
    (record,) = await records()
    assert record.state is CallState.CANCELLED


@pytest.mark.parametrize("ask", [embed, chat, streamed])
async def test_the_end_of_its_run_ends_a_call(
    ask: Any, scope: RunScope, records: Any, idle: Any
) -> None:
    hangs = Hanging()
    async with serving(scope, faults=hangs) as (_, sdk):
        task = asyncio.create_task(ask(sdk))
        await hangs.begun.wait()
        scope.close(interrupted=True)
        with pytest.raises(RunClosed):
            await task
        with pytest.raises(RunClosed):
            await ask(sdk)
        await idle()
    (record,) = await records()
    assert record.state is CallState.UNKNOWN


async def test_what_was_cut_off_is_sent_again_under_its_own_row(
    scope: RunScope, scheduler: LocalScheduler, records: Any
) -> None:
    hangs = Hanging()
    async with (
        serving(scope, faults=hangs) as (provider, sdk),
        openai_sdk(KEY, provider.base_url) as plain,
    ):
        task = asyncio.create_task(embed(sdk))
        await hangs.begun.wait()
        scope.close(interrupted=True)
        with pytest.raises(RunClosed):
            await task
        following = again(scheduler, await records())
        assert (await embed(scheduled(plain, MODEL, lambda: following))).data
    (record,) = await records()
    assert (record.state, record.attempts, record.lost_attempts) == (CallState.DONE, 2, 1)


def test_bytes_that_are_no_text_come_back_equal() -> None:
    for body in (b"\xff\xfb\x90speech", "Gezeiten: ä\n".encode(), b""):
        answer = Answer(200, "audio/mpeg", body)
        assert Answer.load(answer.dumped()) == answer

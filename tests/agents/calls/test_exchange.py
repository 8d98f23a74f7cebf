"""An odd answer harms at most the call that it answers: over real HTTP on loopback.

Through AutoGen's own client, asked at once and as a stream, and through OpenAI's SDK.
"""

import gzip
import json
import logging
import zlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from autogen_ext.models.openai import OpenAIChatCompletionClient
from hypothesis import given
from hypothesis import strategies as st
from tests.waiting import until

from headway_agents import CallLimits, Model, RunScope, ScheduledClient
from headway_agents.calls import live_call
from headway_agents.calls.client import load_result
from headway_agents.calls.exchange import (
    LONGEST_LINE,
    MIB,
    MOST_LINES,
    PART_BYTES,
    BodyReader,
    TooMuch,
)
from headway_agents.openai_sdk.client import openai_sdk, scheduled
from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.errors import ProviderError
from headway_scheduler.model.calls import Priority, Usage
from headway_scheduler.model.quotas import Quota
from headway_scheduler.model.states import CallState
from headway_scheduler.runtime.local import LocalScheduler
from headway_scheduler.testing.provider import (
    Fault,
    FaultKind,
    Latency,
    Settings,
    simulated_provider,
)

pytestmark = pytest.mark.anyio

HELLO: Any = [{"role": "user", "content": "hi"}]
FEW = {"first_byte_timeout": 30.0, "idle_timeout": 30.0, "call_timeout": 60.0}


class Asker:
    """Asks a provider in one of three ways, and keeps what is needed to judge."""

    def __init__(self, how: str, base_url: str, scope: RunScope, limits: CallLimits) -> None:
        self._how = how
        model = Model("m", ("q",), limits=limits)
        self._inner = OpenAIChatCompletionClient(
            model="sim-1", base_url=base_url, api_key="not-a-key", model_info=CAPABLE
        )
        self._client = ScheduledClient(self._inner, model, scope, path="w")
        self._sdk = openai_sdk("not-a-key", base_url)
        self._scheduled = scheduled(self._sdk, model, lambda: scope)

    async def ask(self, question: Any) -> str:
        if self._how == "create":
            return str((await self._client.create(question())).content)
        if self._how == "stream":
            items = [item async for item in self._client.create_stream(question())]
            return str(items[-1].content)  # type: ignore[union-attr]
        if self._how == "sdk":
            answer = await self._scheduled.chat.completions.create(model="c", messages=HELLO)
            return str(answer.choices[0].message.content)
        stream = await self._scheduled.chat.completions.create(
            model="c", messages=HELLO, stream=True
        )
        return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

    async def close(self) -> None:
        await self._inner.close()
        await self._sdk.close()


CAPABLE: Any = {
    **{"vision": False, "function_calling": True, "json_output": True, "family": "unknown"},
    **{"structured_output": False, "multiple_system_messages": True},
}
WAYS = ["create", "stream", "sdk", "sdk stream"]
WHOLE = ["create", "sdk"]
STREAMS = ["stream", "sdk stream"]


@asynccontextmanager
async def asking(
    how: str, scope: RunScope, faults: Any, **limits: Any
) -> AsyncIterator[tuple[Any, Asker]]:
    async with simulated_provider(Settings(faults=faults, reply=lambda _: "hello")) as provider:
        client = Asker(how, provider.base_url, scope, CallLimits(**{**FEW, **limits}))
        try:
            yield provider, client
        finally:
            await client.close()


def always(fault: Fault) -> Any:
    return lambda *_: fault


def first(*faults: Fault) -> Any:
    return lambda number, _: faults[number - 1] if number <= len(faults) else None


# Numbers


# AutoGen itself dumps what it got, and pydantic warns of it.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("how", ["create", "stream", "sdk"])
@pytest.mark.parametrize("count", ["NaN", "Infinity", "1e999", str(2**63), str(10**30), "-5"])
async def test_the_answer_stays_and_its_odd_usage_is_unknown_and_said_once(
    how: str,
    count: str,
    scope: RunScope,
    question: Any,
    records: Any,
    idle: Any,
    scheduler: LocalScheduler,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_call, "_said", set())
    async with asking(how, scope, always(Fault(FaultKind.ODD_USAGE, value=count))) as (_, client):
        with caplog.at_level(logging.WARNING, logger="headway"):
            for _ in range(3):
                assert await client.ask(question) == "hello"
    rows = await records()
    assert {(row.state, row.usage, row.attempts) for row in rows} == {(CallState.DONE, None, 1)}
    said = [text for text in caplog.messages if "out of range" in text]
    assert said == [
        f"model 'm': {field} is out of range: counted as unknown"
        for field in ("prompt_tokens", "completion_tokens")
    ]
    gauges = [each for each in scheduler.statistics().gauges if each.quota == "q"]
    assert gauges[0].odd == {"m: prompt_tokens": 3, "m: completion_tokens": 3}
    await idle()


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize(("count", "tokens"), [("1.5", 2), ("12.0", 12), ("7e0", 7)])
@pytest.mark.parametrize("how", ["create", "stream", "sdk"])
async def test_a_count_that_is_a_fraction_is_rounded_up(
    how: str, count: str, tokens: int, scope: RunScope, question: Any, records: Any
) -> None:
    async with asking(how, scope, always(Fault(FaultKind.ODD_USAGE, value=count))) as (_, client):
        assert await client.ask(question) == "hello"
    (row,) = await records()
    assert row.usage == Usage(tokens, tokens)
    if how != "sdk":
        result = load_result(row.answer)  # what a resumed run reads
        assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (tokens, tokens)


@pytest.mark.parametrize("value", ["1e300", "nan", "-5", "1" * 10_000 + "x", "1.1" * 3_000])
@pytest.mark.parametrize("how", WAYS)
async def test_an_odd_header_tells_nothing(
    how: str, value: str, scope: RunScope, question: Any, scheduler: LocalScheduler, idle: Any
) -> None:
    before = scheduler.statistics().gauges
    fault = Fault(FaultKind.ODD_HEADER, value=value)
    async with asking(how, scope, always(fault)) as (_, client):
        assert await client.ask(question) == "hello"
    await idle()
    gauges = scheduler.statistics().gauges
    assert [g.capacity for g in gauges] == [g.capacity for g in before]
    assert gauges[0].odd["m: x-ratelimit-limit-tokens"] == 1


@pytest.mark.usefixtures("fast_pauses")
@pytest.mark.parametrize(
    "value",
    ["NaN", "inf", "-5", "soon", "Fri, 31 Dec 99999999999999999999 23:59:59 +9999999999999"],
)
@pytest.mark.parametrize("how", WAYS)
async def test_an_odd_pause_is_one_of_ours(
    how: str, value: str, scope: RunScope, question: Any, records: Any
) -> None:
    fault = Fault(FaultKind.ODD_PAUSE, value=value)
    async with asking(how, scope, first(fault, fault)) as (provider, client):
        assert await client.ask(question) == "hello"
        assert [entry.status for entry in provider.ledger.entries] == [429, 429, 200]
    (row,) = await records()
    assert (row.state, row.attempts) == (CallState.DONE, 3)


# Size and nesting


@pytest.mark.parametrize("kind", [FaultKind.LARGE, FaultKind.PACKED])
@pytest.mark.parametrize("how", WAYS)
async def test_an_answer_above_its_limit_fails_the_call_once_and_names_the_setting(
    kind: FaultKind, how: str, scope: RunScope, question: Any, records: Any, idle: Any
) -> None:
    fault = Fault(kind, size_mb=3)
    async with asking(how, scope, always(fault), max_answer_mb=2) as (provider, client):
        with pytest.raises(
            ProviderError, match=r"answer above 2 MiB: see models\.m\.max_answer_mb"
        ):
            await client.ask(question)
        assert len(provider.ledger) == 1
    (row,) = await records()
    assert (row.state, row.attempts) == (CallState.FAILED, 1)
    assert "max_answer_mb" in row.error
    await idle()


@pytest.mark.parametrize("kind", [FaultKind.LARGE, FaultKind.PACKED])
@pytest.mark.parametrize("how", WAYS)
async def test_an_answer_below_its_limit_is_an_answer(
    kind: FaultKind, how: str, scope: RunScope, question: Any
) -> None:
    async with asking(how, scope, always(Fault(kind, size_mb=3)), max_answer_mb=4) as (_, client):
        assert await client.ask(question) == "hello"


@pytest.mark.parametrize("how", STREAMS)
async def test_a_line_of_a_stream_has_a_limit_too(
    how: str, scope: RunScope, question: Any, records: Any, idle: Any
) -> None:
    async with asking(how, scope, always(Fault(FaultKind.LARGE, size_mb=17))) as (_, client):
        with pytest.raises(ProviderError, match=r"a line of the stream is above 16 MiB"):
            await client.ask(question)
    (row,) = await records()
    assert (row.state, row.attempts) == (CallState.FAILED, 1)
    await idle()


@pytest.mark.parametrize("how", WAYS)
async def test_an_encoding_that_was_not_offered_is_refused(
    how: str, scope: RunScope, question: Any, records: Any, idle: Any
) -> None:
    fault = Fault(FaultKind.FOREIGN_PACKING)
    async with asking(how, scope, always(fault)) as (provider, client):
        with pytest.raises(ProviderError, match="answer in encoding 'zstd'"):
            await client.ask(question)
        assert len(provider.ledger) == 1
    await idle()


@pytest.mark.usefixtures("fast_pauses")
@pytest.mark.parametrize("how", WHOLE)
async def test_json_that_nests_too_deep_counts_as_no_answer(
    how: str, scope: RunScope, question: Any, records: Any
) -> None:
    async with asking(how, scope, first(Fault(FaultKind.DEEP))) as (_, client):
        assert await client.ask(question) == "hello"
    (row,) = await records()
    assert (row.state, row.attempts) == (CallState.DONE, 2)


@pytest.mark.usefixtures("fast_pauses")
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.timeout(60)
async def test_an_error_that_nests_lists_in_lists_is_an_error_as_any(
    how: str, scope: RunScope, question: Any, records: Any
) -> None:
    fault = Fault(FaultKind.DEEP_ERROR)
    async with asking(how, scope, first(fault, fault, fault)) as (_, client):
        assert await client.ask(question) == "hello"
    (row,) = await records()
    assert (row.state, row.attempts) == (CallState.DONE, 4)


async def test_half_of_a_surrogate_pair_comes_back_as_it_came(
    scope: RunScope, serve: Any, question: Any, records: Any
) -> None:
    async with serve(reply=lambda _: "a\ud800b\x00\x1b[2J") as (_, inner):
        client = ScheduledClient(inner, Model("m", ("q",)), scope, path="w")
        answer = await client.create(question())
    assert answer.content == "a\ud800b\x00\x1b[2J"
    (row,) = await records()
    assert "\\ud800" in row.answer
    assert load_result(row.answer) == answer


# Redirects


@pytest.mark.parametrize("how", WAYS)
async def test_no_redirect_is_followed(
    how: str, scope: RunScope, question: Any, records: Any, idle: Any
) -> None:
    async with simulated_provider() as other:
        target = f"{other.base_url}/chat/completions?key=secret"
        fault = Fault(FaultKind.REDIRECT, value=target)
        async with asking(how, scope, always(fault)) as (provider, client):
            with pytest.raises(ProviderError, match="no redirect is followed") as caught:
                await client.ask(question)
            assert len(provider.ledger) == 1
        assert not other.ledger.entries
    assert f"redirects to {other.base_url}/chat/completions," in str(caught.value)
    assert "secret" not in str(caught.value)
    (row,) = await records()
    assert (row.state, row.attempts) == (CallState.FAILED, 1)
    await idle()


# Time


@pytest.mark.usefixtures("fast_pauses")
@pytest.mark.parametrize("how", WAYS)
async def test_a_head_that_does_not_come_is_not_waited_for(
    how: str, scope: RunScope, question: Any, records: Any, idle: Any
) -> None:
    fault = first(Fault(FaultKind.HANG))
    async with asking(how, scope, fault, first_byte_timeout=0.3) as (provider, client):
        assert await client.ask(question) == "hello"
        assert [entry.paid for entry in provider.ledger.entries] == [False, True]
    (row,) = await records()
    assert (row.state, row.attempts, row.lost_attempts) == (CallState.DONE, 2, 1)
    await idle()


@pytest.mark.usefixtures("fast_pauses")
@pytest.mark.parametrize("how", WAYS)
async def test_a_body_that_stops_is_not_waited_for(
    how: str, scope: RunScope, question: Any, records: Any, idle: Any
) -> None:
    fault = first(Fault(FaultKind.STALL))
    async with asking(how, scope, fault, idle_timeout=0.3) as (_, client):
        assert await client.ask(question) == "hello"
    (row,) = await records()
    assert (row.state, row.attempts, row.lost_attempts) == (CallState.DONE, 2, 1)
    await idle()


@pytest.mark.usefixtures("fast_pauses")
@pytest.mark.parametrize("how", STREAMS)
async def test_bytes_that_make_no_line_of_a_stream_are_no_sign_of_life(
    how: str, scope: RunScope, question: Any, records: Any, idle: Any
) -> None:
    fault = first(Fault(FaultKind.DRIP, every_seconds=0.02))
    async with asking(how, scope, fault, idle_timeout=0.4) as (_, client):
        assert await client.ask(question) == "hello"
    (row,) = await records()
    assert (row.state, row.attempts, row.lost_attempts) == (CallState.DONE, 2, 1)
    await idle()


@pytest.mark.usefixtures("fast_pauses")
@pytest.mark.parametrize("how", WAYS)
async def test_the_second_answer_that_takes_too_long_fails_the_call_with_the_setting(
    how: str, scope: RunScope, question: Any, records: Any, idle: Any
) -> None:
    fault = Fault(FaultKind.DRIP, every_seconds=0.05)
    async with asking(how, scope, always(fault), call_timeout=0.4) as (provider, client):
        words = r"no whole answer in 0\.4 s, twice: see models\.m\.call_timeout"
        with pytest.raises(ProviderError, match=words):
            await client.ask(question)
        assert len(provider.ledger) == 2
    (row,) = await records()
    assert (row.state, row.attempts, row.lost_attempts) == (CallState.FAILED, 2, 2)
    await idle()


@pytest.mark.usefixtures("fast_pauses")
async def test_answers_that_drip_leave_their_slot_to_others(
    scheduler: LocalScheduler, question: Any, idle: Any
) -> None:
    """Two of them kept an urgent call out for as long as anybody looked."""
    from headway_scheduler.model.calls import Priority

    def faults(_: int, body: Any) -> Fault | None:
        is_slow = body["messages"][-1]["content"] == "slow"
        return Fault(FaultKind.DRIP, every_seconds=0.05) if is_slow else None

    background = RunScope(scheduler, "slow", Priority.BACKGROUND)
    urgent = RunScope(scheduler, "urgent", Priority.INTERACTIVE)
    limits = CallLimits(call_timeout=0.5)
    model = Model("m", ("narrow",), limits=limits)  # one at once
    async with simulated_provider(Settings(faults=faults)) as provider:
        inner = OpenAIChatCompletionClient(
            model="sim-1", base_url=provider.base_url, api_key="not-a-key", model_info=CAPABLE
        )

        async def drip() -> None:
            with pytest.raises(ProviderError, match="twice"):
                await ScheduledClient(inner, model, background, path="w").create(question("slow"))

        async with anyio.create_task_group() as group:
            group.start_soon(drip)
            await until(lambda: scheduler.statistics().in_flight)
            answer = await ScheduledClient(inner, model, urgent, path="w").create(question())
            assert answer.content
        await inner.close()
    await idle()


async def test_a_stream_that_rests_with_its_agent_for_too_long_gives_its_slot_back(
    scope: RunScope, serve: Any, question: Any, records: Any, idle: Any
) -> None:
    # Long enough for the first chunk to come on a busy machine.
    model = Model("m", ("q",), limits=CallLimits(call_timeout=2.0))
    async with serve() as (_, inner):
        stream = ScheduledClient(inner, model, scope, path="w").create_stream(question())
        await anext(stream)
        await until(lambda: not scope.scheduler.statistics().in_flight)  # type: ignore[attr-defined]
        with pytest.raises(ProviderError, match="call_timeout"):
            await anext(stream)
        await idle()
    (row,) = await records()
    assert (row.state, row.lost_attempts) == (CallState.CANCELLED, 1)


@pytest.mark.usefixtures("fast_pauses")
async def test_a_stream_of_the_sdk_that_stops_after_its_first_chunk_passes_the_error_on(
    scope: RunScope, question: Any, records: Any, idle: Any
) -> None:
    async with simulated_provider(
        Settings(reply=lambda _: "hello " * 50, latency=Latency(0, 0, 0.2))
    ) as provider:
        client = Asker("sdk stream", provider.base_url, scope, CallLimits(idle_timeout=0.3))
        with pytest.raises(ProviderError, match=r"no more of the answer in 0\.3 s"):
            await client.ask(question)
        await client.close()
    (row,) = await records()
    assert (row.state, row.attempts, row.lost_attempts) == (CallState.FAILED, 1, 1)
    await idle()


@pytest.mark.usefixtures("fast_pauses")
@pytest.mark.parametrize("how", ["create", "sdk"])
async def test_a_request_that_never_left_is_not_charged(how: str, question: Any) -> None:
    store, quota = MemoryStore(), Quota.per_minute("q", requests=10, burst_seconds=60)
    async with LocalScheduler(store, [quota]) as scheduler:
        scope = RunScope(scheduler, "run", Priority.NORMAL)
        client = Asker(how, "http://127.0.0.1:9/v1", scope, CallLimits())
        async with anyio.create_task_group() as group:
            group.start_soon(client.ask, question)
            # More often than the quota would permit in a minute, had it charged them.
            while not [row for row in await store.calls() if row.attempts > 12]:  # noqa: ASYNC110
                await anyio.sleep(0.01)
            (row,) = await store.calls()
            assert row.lost_attempts == 0
            group.cancel_scope.cancel()
        await client.close()


async def test_what_is_offered_and_how_long_connecting_may_take_is_ours_unless_shorter(
    scope: RunScope, serve: Any, question: Any
) -> None:
    seen: list[Any] = []

    async def look(request: Any) -> None:
        seen.append((request.headers["accept-encoding"], request.extensions["timeout"]["connect"]))

    async with serve() as (_, inner):
        for seconds in (2.0, 60.0):
            limits = CallLimits(connect_timeout=seconds)
            client = ScheduledClient(inner, Model("m", ("q",), limits=limits), scope, path="w")
            hooks = inner._client._client.event_hooks["request"]
            if look not in hooks:
                hooks.append(look)
            await client.create(question())
    # 5 s are the SDK's own.
    assert seen == [("gzip, deflate", 2.0), ("gzip, deflate", 5.0)]


# The reader of bodies


def fed(reader: BodyReader, pieces: Iterable[bytes]) -> list[bytes]:
    return [given for piece in pieces for given in reader.feed(piece)] + [bytes(reader.unread)]


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def packed(encoding: str, data: bytes) -> bytes:
    raw = zlib.compressobj(wbits=-15)
    return {
        "": data,
        "gzip": gzip.compress(data),
        "deflate": zlib.compress(data),
        "raw deflate": raw.compress(data) + raw.flush(),
    }[encoding]


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream; charset=utf-8"])
@pytest.mark.parametrize("encoding", ["", "gzip", "deflate", "raw deflate"])
@given(st.binary(max_size=300), st.integers(1, 400), st.integers(1, 3))
def test_what_is_given_on_is_what_came(
    encoding: str, content_type: str, data: bytes, size: int, times: int
) -> None:
    data *= times
    reader = BodyReader(encoding.removeprefix("raw "), content_type, MIB)
    assert b"".join(fed(reader, cut(packed(encoding, data), size))) == data


def test_a_stream_is_given_on_line_by_line_and_a_body_in_pieces() -> None:
    reader = BodyReader("", "text/event-stream", MIB)
    assert fed(reader, [b"data: 1", b"\n", b"\ndata", b": 2\r\n\r\nda", b"ta"]) == [
        *(b"data: 1\n", b"\n", b"data: 2\r\n\r\n"),
        b"data",
    ]
    reader = BodyReader("", "application/json", 10 * MIB)
    given = fed(reader, [b"x"] * (2 * PART_BYTES + 1))
    assert [len(each) for each in given] == [PART_BYTES, PART_BYTES, 1]
    reader = BodyReader("", "text/plain", MIB)  # a stream without its type
    assert fed(reader, [b"da", b"ta: 1\n"]) == [b"da", b"ta: 1\n", b""]


@pytest.mark.parametrize("encoding", ["", "gzip", "deflate"])
def test_a_body_is_counted_before_and_after_it_is_unpacked(encoding: str) -> None:
    reader, given = BodyReader(encoding, "application/json", MIB), list[bytes]()
    large = cut(packed(encoding, b" " * (50 * MIB)), PART_BYTES)
    with pytest.raises(TooMuch):
        given.extend(each for piece in large for each in reader.feed(piece))
    assert sum(map(len, given)) <= MIB
    reader = BodyReader(encoding, "application/json", MIB)
    empty = packed(encoding, b"") or b" "
    with pytest.raises(TooMuch):
        fed(reader, [empty] * (MIB + 1))


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([b"a\n" * MOST_LINES, b"a\n"], "event"),
        ([b"a\r" * (MOST_LINES + 1)], "event"),
        ([b"data: " + b"x" * (LONGEST_LINE // 2) + b"\n"] * 2, "event"),
        ([b"x" * MIB] * 17, "line"),
    ],
)
def test_a_line_and_an_event_of_a_stream_are_counted(lines: list[bytes], why: str) -> None:
    with pytest.raises(TooMuch, match=why):
        fed(BodyReader("", "text/event-stream", 100 * MIB), lines)


def test_many_events_and_many_lines_of_json_are_no_long_event() -> None:
    events = [b"data: 1\n\n" * 100, b": ping\r\n\r\n"] * 100
    assert b"".join(fed(BodyReader("", "text/event-stream", MIB), events)) == b"".join(events)
    lines = [b"{}\n" * 5000]
    assert b"".join(fed(BodyReader("", "application/x-ndjson", MIB), lines)) == b"".join(lines)


def test_what_is_not_packed_as_it_says_is_said() -> None:
    for encoding in ("gzip", "deflate"):
        with pytest.raises(ValueError, match="not packed as it says"):
            fed(BodyReader(encoding, "application/json", MIB), [json.dumps({"a": 1}).encode()])

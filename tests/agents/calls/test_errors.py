import json
import logging
import socket
import time
from contextlib import aclosing
from email.utils import formatdate
from json import JSONDecodeError
from typing import Any, ClassVar

import anyio
import openai
import pytest
from autogen_ext.models.openai import OpenAIChatCompletionClient
from pydantic import BaseModel
from tests.agents.calls.test_stock_clients import COMPLETION, OPENAI_STREAM, Said, Server
from tests.agents.conftest import CAPABLE
from tests.waiting import until

from headway_agents import Model, RunScope, ScheduledClient
from headway_agents.calls import wrapped_client
from headway_agents.calls.errors import (
    MAX_ATTEMPTS,
    AnswerRefused,
    LockOut,
    Refuse,
    ResponseHead,
    Retry,
    TimedOut,
    described,
    judged,
    next_step,
    paid_usage,
)
from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.model.calls import Outcome, Priority, Route
from headway_scheduler.model.quotas import Observation, ProviderEvent, Quota, Resource, Window
from headway_scheduler.model.states import CallState
from headway_scheduler.providers import PROVIDERS, ErrorClass, Verdict
from headway_scheduler.runtime.local import LocalScheduler
from headway_scheduler.testing.provider import (
    Fault,
    FaultKind,
    Latency,
    Limits,
    simulated_provider,
)

pytestmark = pytest.mark.anyio
MODEL = Model("m", ("q",))


def once(fault: Fault) -> Any:
    return lambda number, _: fault if number == 1 else None


async def test_a_429_pauses_the_quota_and_is_paid_once(
    scope: RunScope, serve: Any, question: Any, records: Any, scheduler: LocalScheduler
) -> None:
    paused: list[float] = []

    def faults(number: int, _: Any) -> Fault | None:
        if number == 1:
            return Fault(FaultKind.RATE_LIMIT, retry_after_seconds=0.05)
        paused.extend(g.paused_until or 0.0 for g in scheduler.statistics().gauges)
        return None

    async with serve(faults=faults) as (provider, inner):
        result = await ScheduledClient(inner, MODEL, scope, path="w").create(question())
        assert result.content
        assert [entry.status for entry in provider.ledger.entries] == [429, 200]
        assert len(provider.ledger.paid) == 1
        (record,) = await records()
        assert (record.state, record.attempts) == (CallState.DONE, 2)
        first, second = provider.ledger.entries
        assert second.received_at - first.received_at >= 0.045


async def test_a_429_gives_its_tokens_back(serve: Any, question: Any) -> None:
    """Else the retry would wait most of a minute for tokens that nobody used."""
    fault = Fault(FaultKind.RATE_LIMIT, retry_after_seconds=0.01)
    async with (
        LocalScheduler(MemoryStore(), [Quota.per_minute("q", tokens=1000)]) as scheduler,
        serve(client={"max_tokens": 900}, faults=once(fault)) as (_, inner),
    ):
        scope = RunScope(scheduler, "run", Priority.NORMAL)
        with anyio.fail_after(30):  # below most of a minute
            await ScheduledClient(inner, MODEL, scope, path="w").create(question())


async def test_a_429_without_a_quota_pauses_the_call(
    scope: RunScope, serve: Any, question: Any
) -> None:
    fault = Fault(FaultKind.RATE_LIMIT, retry_after_seconds=0.05)
    async with serve(faults=once(fault)) as (provider, inner):
        await ScheduledClient(inner, Model("free", ()), scope, path="w").create(question())
        first, second = provider.ledger.entries
        assert second.received_at - first.received_at >= 0.045


@pytest.mark.usefixtures("fast_pauses")
async def test_a_500_is_asked_again(
    scope: RunScope, serve: Any, question: Any, records: Any
) -> None:
    async with serve(faults=once(Fault(FaultKind.SERVER_ERROR))) as (provider, inner):
        assert (await ScheduledClient(inner, MODEL, scope, path="w").create(question())).content
        assert [entry.status for entry in provider.ledger.entries] == [500, 200]
        (record,) = await records()
        assert (record.state, record.attempts) == (CallState.DONE, 2)


@pytest.mark.usefixtures("fast_pauses")
async def test_a_call_that_fails_while_others_are_answered_is_given_up(
    scope: RunScope, serve: Any, question: Any, records: Any, idle: Any
) -> None:
    def faults(_: int, body: Any) -> Fault | None:
        is_bad = body["messages"][0]["content"] == "bad"
        return Fault(FaultKind.SERVER_ERROR) if is_bad else None

    async def others(client: ScheduledClient) -> None:
        while True:
            await client.create(question("good"))

    async with serve(faults=faults) as (provider, inner), anyio.create_task_group() as group:
        client = ScheduledClient(inner, MODEL, scope, path="w")
        group.start_soon(others, client)
        with pytest.raises(openai.InternalServerError):
            await client.create(question("bad"))
        group.cancel_scope.cancel()
    (record,) = [row for row in await records() if row.state is CallState.FAILED]
    assert record.error.startswith("InternalServerError: ")
    assert record.attempts >= MAX_ATTEMPTS
    assert sum(entry.status == 500 for entry in provider.ledger.entries) == record.attempts
    await idle()


@pytest.mark.usefixtures("fast_pauses")
async def test_a_provider_that_answers_nobody_is_waited_for(
    scope: RunScope, serve: Any, question: Any, records: Any
) -> None:
    down = 3 * MAX_ATTEMPTS

    def faults(number: int, _: Any) -> Fault | None:
        return Fault(FaultKind.OVERLOADED) if number <= down else None

    async with serve(faults=faults) as (provider, inner):
        assert (await ScheduledClient(inner, MODEL, scope, path="w").create(question())).content
        assert len(provider.ledger) == down + 1
        (record,) = await records()
        assert (record.state, record.attempts) == (CallState.DONE, down + 1)


@pytest.mark.usefixtures("fast_pauses")
@pytest.mark.parametrize("inside", [False, True])
async def test_a_lone_call_that_a_server_refuses_in_the_same_words_is_given_up(
    inside: bool, scope: RunScope, serve: Any, question: Any, records: Any, idle: Any
) -> None:
    """An answer is a sign of life: a request that is always refused must not be asked for ever."""
    value = json.dumps({"code": 500, "message": "cannot parse the schema of a tool"})
    fault = Fault(FaultKind.ERROR_INSIDE, value=value) if inside else Fault(FaultKind.SERVER_ERROR)
    async with serve(faults=lambda *_: fault) as (provider, inner):
        with pytest.raises(Exception):  # noqa: B017, PT011  of which class is the client's affair
            await ScheduledClient(inner, MODEL, scope, path="w").create(question())
        assert len(provider.ledger) == MAX_ATTEMPTS
    (record,) = await records()
    assert (record.state, record.attempts) == (CallState.FAILED, MAX_ATTEMPTS)
    await idle()


@pytest.mark.usefixtures("fast_pauses")
async def test_calls_that_a_server_refuses_alike_wait_for_it_at_first(
    scope: RunScope, serve: Any, question: Any
) -> None:
    down = 4 * MAX_ATTEMPTS

    def faults(number: int, _: Any) -> Fault | None:
        return Fault(FaultKind.SERVER_ERROR) if number <= down else None

    async with serve(faults=faults) as (provider, inner), anyio.create_task_group() as group:
        for path in ("v", "w"):
            client = ScheduledClient(inner, MODEL, scope, path=path)
            group.start_soon(client.create, question(path))
    assert len(provider.ledger) == down + 2


INSIDE = [
    ({"code": 429, "message": "slow down"}, None),
    ({"code": "503", "message": "no instance"}, None),
    ({"code": 502, "message": "upstream"}, None),
    ({"message": "model runner has unexpectedly stopped"}, None),
    ({"code": 400, "message": "context too long"}, "context too long"),
    ({"code": "402", "message": "no credit"}, "no credit"),
]


@pytest.mark.usefixtures("fast_pauses")
@pytest.mark.parametrize(("error", "is_final"), INSIDE, ids=str)
@pytest.mark.parametrize("after_chunks", [None, 0, 1])
async def test_an_error_inside_of_a_200_means_what_its_number_says(
    error: dict[str, Any],
    is_final: str | None,
    after_chunks: int | None,
    scope: RunScope,
    serve: Any,
    question: Any,
    scheduler: LocalScheduler,
) -> None:
    fault = Fault(FaultKind.ERROR_INSIDE, value=json.dumps(error), after_chunks=after_chunks or 0)
    ask = ScheduledClient.create if after_chunks is None else streamed
    async with serve(faults=once(fault)) as (provider, inner):
        client = ScheduledClient(inner, MODEL, scope, path="w")
        if is_final is None:
            assert await ask(client, question())
            assert len(provider.ledger) == 2
            return
        with pytest.raises(Exception, match=is_final):
            await ask(client, question())
        assert len(provider.ledger) == 1
        stopped = scheduler.statistics().gauges[0].stopped
        assert (stopped is not None) == (error["code"] == "402")


@pytest.mark.usefixtures("fast_pauses")
async def test_a_stream_that_ends_without_its_finish_goes_again(
    scope: RunScope, serve: Any, question: Any, records: Any
) -> None:
    """Its connection ended well, and AutoGen's client takes it for an answer."""
    async with serve(faults=once(Fault(FaultKind.UNFINISHED, after_chunks=2))) as (provider, inner):
        await streamed(ScheduledClient(inner, MODEL, scope, path="w"), question())
        assert len(provider.ledger) == 2
    (record,) = await records()
    assert (record.state, record.attempts) == (CallState.DONE, 2)


async def test_a_connection_that_breaks_after_the_end_mark_costs_nothing(
    scope: RunScope, serve: Any, question: Any, records: Any
) -> None:
    async with serve(faults=once(Fault(FaultKind.CUT_AFTER_END))) as (provider, inner):
        items = await streamed(ScheduledClient(inner, MODEL, scope, path="w"), question())
        assert items[-1].content
        assert len(provider.ledger) == 1
    (record,) = await records()
    assert (record.state, record.attempts) == (CallState.DONE, 1)


def no_stream_options(_: int, body: Any) -> Fault | None:
    is_asked = "stream_options" in body
    return Fault(FaultKind.UNKNOWN_PARAMETER, value="stream_options") if is_asked else None


async def test_a_server_that_takes_no_stream_options_is_asked_without(
    scope: RunScope, serve: Any, question: Any, records: Any
) -> None:
    async with serve(faults=no_stream_options) as (provider, inner):
        client = ScheduledClient(inner, MODEL, scope, path="w")
        for asked in (2, 3):
            assert (await streamed(client, question(f"the {asked}")))[-1].content
            assert len(provider.ledger) == asked  # the second time it is known
    assert [row.state for row in await records()] == [CallState.DONE] * 2


async def test_few_servers_that_take_no_stream_options_are_kept(
    scope: RunScope, serve: Any, question: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wrapped_client, "MOST_NOTED", 1)
    for _ in range(3):
        async with serve(faults=no_stream_options) as (_, inner):
            await streamed(ScheduledClient(inner, MODEL, scope, path="w"), question())
    assert len(wrapped_client._tell_no_usage) == 1


class Shape(BaseModel):
    """What a model is to fill in."""

    name: str


NULL = {"stream_options": None}


@pytest.mark.filterwarnings("ignore:Pydantic serializer")  # AutoGen's client and the SDK
@pytest.mark.parametrize(("stated", "extra"), [(NULL, {}), ({}, NULL)])
async def test_stream_options_of_none_are_left_out(
    stated: Any, extra: Any, scope: RunScope, serve: Any, question: Any
) -> None:
    bodies: list[Any] = []
    async with serve(client=stated, reply=bodies.append) as (_, inner):
        client = ScheduledClient(inner, MODEL, scope, path="w")
        for json_output in (None, Shape):
            options = {"json_output": json_output, "extra_create_args": extra}
            async with aclosing(client.create_stream(question(), **options)) as stream:
                assert [item async for item in stream][-1].content
            await client.create(question(), **options)
    assert len(bodies) == 4
    assert not [body for body in bodies if "stream_options" in body]


async def test_an_account_without_money_stops_the_quota(
    scope: RunScope, serve: Any, question: Any, scheduler: LocalScheduler
) -> None:
    async with serve(faults=lambda *_: Fault(FaultKind.UNPAID)) as (provider, inner):
        with pytest.raises(openai.APIStatusError):
            await ScheduledClient(inner, MODEL, scope, path="w").create(question())
        assert "Insufficient Balance" in (scheduler.statistics().gauges[0].stopped or "")
        assert len(provider.ledger) == 1


async def streamed(client: ScheduledClient, messages: Any) -> list[Any]:
    return [item async for item in client.create_stream(messages)]


FINAL = {
    FaultKind.UNAUTHORIZED: openai.AuthenticationError,
    FaultKind.INSUFFICIENT_QUOTA: openai.RateLimitError,
}


@pytest.mark.parametrize("kind", list(FINAL))
@pytest.mark.parametrize("ask", [ScheduledClient.create, streamed])
async def test_what_no_wait_mends_reaches_the_agent_as_it_came(
    kind: FaultKind, ask: Any, scope: RunScope, serve: Any, question: Any, records: Any
) -> None:
    async with serve(faults=lambda *_: Fault(kind)) as (provider, inner):
        with pytest.raises(FINAL[kind]) as caught:
            await ask(ScheduledClient(inner, MODEL, scope, path="w"), question())
        assert scope.error is caught.value
        assert len(provider.ledger) == 1
        (record,) = await records()
        assert record.state is CallState.FAILED
        assert record.error.startswith(FINAL[kind].__name__)


async def test_a_bad_key_fails_its_call_and_holds_the_others_until_it_is_mended(
    scope: RunScope, serve: Any, question: Any, scheduler: LocalScheduler, caplog: Any
) -> None:
    caplog.set_level(logging.WARNING, "headway")
    async with serve(faults=once(Fault(FaultKind.UNAUTHORIZED))) as (provider, inner):
        client = ScheduledClient(inner, MODEL, scope, path="w")
        with pytest.raises(openai.AuthenticationError):
            await client.create(question())
        (alert,) = caplog.records
        assert "quota 'q' is stopped" in alert.getMessage()
        async with anyio.create_task_group() as group:
            group.start_soon(client.create, question())
            group.start_soon(client.create, question())
            await until(lambda: sum(scheduler.statistics().waiting) >= 2)
            await anyio.sleep(0.05)
            assert len(provider.ledger) == 1
            await scheduler.resume_quota("q")
        assert [entry.status for entry in provider.ledger.entries] == [401, 200, 200]


@pytest.mark.usefixtures("fast_pauses")
@pytest.mark.parametrize("kind", [FaultKind.HANG, FaultKind.OVERLOADED, FaultKind.MALFORMED])
@pytest.mark.parametrize("ask", [ScheduledClient.create, streamed])
async def test_every_fault_leaves_nothing_held(
    kind: FaultKind, ask: Any, scope: RunScope, serve: Any, question: Any, idle: Any
) -> None:
    # Only a hang needs a timeout, and what is asked again must be answered within it.
    client = {"timeout": 2.0} if kind is FaultKind.HANG else {}
    async with serve(client=client, faults=once(Fault(kind))) as (provider, inner):
        await ask(ScheduledClient(inner, MODEL, scope, path="w"), question())
        assert len(provider.ledger) == 2
        await idle()


@pytest.mark.usefixtures("fast_pauses")
async def test_a_cut_stream_comes_again_from_its_start(
    scope: RunScope, serve: Any, question: Any, records: Any
) -> None:
    fault = Fault(FaultKind.CUT_STREAM, after_chunks=3)
    async with serve(faults=once(fault)) as (_, inner):
        client = ScheduledClient(inner, MODEL, scope, path="w")
        *chunks, last = [item async for item in client.create_stream(question())]
        text = "".join(chunks)
        assert text.endswith(last.content)
        assert len(text) > len(last.content)
        (record,) = await records()
        assert (record.state, record.attempts) == (CallState.DONE, 2)


@pytest.mark.usefixtures("fast_pauses")
async def test_a_refused_connection_is_waited_for(
    scope: RunScope, question: Any, records: Any
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    inner = client_of(port)
    async with anyio.create_task_group() as group:
        group.start_soon(ScheduledClient(inner, MODEL, scope, path="w").create, question())
        await attempted(records, MAX_ATTEMPTS + 1)
        async with simulated_provider(port=port) as provider:
            while not provider.ledger.paid:  # noqa: ASYNC110
                await anyio.sleep(0.01)
    (record,) = await records()
    assert record.state is CallState.DONE
    await inner.close()


@pytest.mark.usefixtures("fast_pauses")
@pytest.mark.parametrize("ask", [ScheduledClient.create, streamed])
async def test_a_page_instead_of_json_is_asked_again(
    ask: Any, scope: RunScope, question: Any, records: Any
) -> None:
    """As a proxy in between sends it, with 200: openai takes it for a text."""
    answer = Said(body=COMPLETION) if ask is ScheduledClient.create else OPENAI_STREAM
    page = Said(lines=["<html>Please log in</html>"], content_type="text/html")
    server = Server()
    server.says = [page, page, page, answer]
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with anyio.create_task_group() as group:
        group.start_soon(listener.serve, server.serve)
        inner = client_of(listener.extra(anyio.abc.SocketAttribute.local_port), "m")
        await ask(ScheduledClient(inner, MODEL, scope, path="w"), question())
        group.cancel_scope.cancel()
    await listener.aclose()
    await inner.close()
    (row,) = await records()
    assert (row.state, row.attempts, server.says) == (CallState.DONE, 4, [])


async def test_the_date_of_an_answer_tells_when_the_minutes_of_its_provider_end(
    question: Any,
) -> None:
    date = formatdate(time.time() + 1234, usegmt=True)
    server = Server()
    server.says = [Said(body=COMPLETION, headers={"date": date})]
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    inner = client_of(listener.extra(anyio.abc.SocketAttribute.local_port), "m")
    quota = Quota.stated("q", {Resource.REQUESTS: 100}, window=Window.MINUTE)
    async with (
        LocalScheduler(MemoryStore(), [quota]) as scheduler,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, server.serve)
        scope = RunScope(scheduler, "run", Priority.NORMAL)
        await ScheduledClient(inner, MODEL, scope, path="w").create(question())
        (limit,) = scheduler._pump.core.state.lanes.quotas["q"].learned.known.limits()
        group.cancel_scope.cancel()
    await listener.aclose()
    await inner.close()
    assert limit.day_starts == pytest.approx(-1234, abs=10)


def client_of(port: int, model: str = "sim-1") -> OpenAIChatCompletionClient:
    url = f"http://127.0.0.1:{port}/v1"
    return OpenAIChatCompletionClient(
        model=model, api_key="not-a-key", base_url=url, model_info=CAPABLE
    )


async def attempted(records: Any, times: int) -> None:
    while not [row for row in await records() if row.attempts >= times]:  # noqa: ASYNC110
        await anyio.sleep(0.01)


def test_a_key_in_an_error_stays_out_of_the_journal() -> None:
    error = ValueError(
        "Incorrect API key provided: sk-proj-abc***xyz. Bearer abc.def-123 "
        'api_key="0123abcd" AIzaSyA0123456789012345678901'
    )
    text = described(error)
    assert text.startswith("ValueError: Incorrect")
    for secret in ("sk-proj", "abc.def", "0123abcd", "AIzaSy"):
        assert secret not in text
    assert len(described(ValueError("x" * 10_000))) <= 2000


class _Response(Exception):
    def __init__(self, status_code: int, **fields: Any) -> None:
        super().__init__("no")
        self.status_code = status_code
        vars(self).update(fields)


def _wrapped(cause: Exception) -> Exception:
    error = RuntimeError("an adapter's own")
    error.__cause__ = cause
    return error


class _Amazon(Exception):
    """As botocore's ClientError."""

    def __init__(self, code: str, status: int) -> None:
        super().__init__(f"An error occurred ({code})")
        self.response = {
            "Error": {"Code": code, "Message": "no"},
            "ResponseMetadata": {"HTTPStatusCode": status},
        }


class _Slow:
    headers: ClassVar = {"Retry-After": "7"}


class TransportError(Exception):
    """As in httpx and httpx2."""


class ReadTimeout(TransportError):
    pass


@pytest.mark.parametrize(
    ("error", "kind", "pause"),
    [
        (ValueError("model does not support vision"), ErrorClass.FINAL, 0.0),
        (AttributeError("'str' object has no attribute 'choices'"), ErrorClass.FINAL, 0.0),
        (_Response(400), ErrorClass.FINAL, 0.0),
        (_Response(529), ErrorClass.OVERLOADED, 1.0),
        (_Response(429, response=_Slow), ErrorClass.RATE_LIMITED, 7.0),
        (_Response(429, body={"error": {"code": "insufficient_quota"}}), ErrorClass.ACCOUNT, 0.0),
        (_wrapped(_Response(429, response=_Slow)), ErrorClass.RATE_LIMITED, 7.0),
        (ConnectionResetError(), ErrorClass.TRANSIENT, 1.0),
        (TimeoutError(), ErrorClass.TRANSIENT, 1.0),
        (JSONDecodeError("cut", "", 0), ErrorClass.TRANSIENT, 1.0),
        (RecursionError("nested too deep"), ErrorClass.TRANSIENT, 1.0),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no text"), ErrorClass.TRANSIENT, 1.0),
        (AnswerRefused("too large"), ErrorClass.FINAL, 0.0),
        (TimedOut("m", "call_timeout", 5.0), ErrorClass.TRANSIENT, 1.0),
        (TimedOut("m", "call_timeout", 5.0, is_final=True), ErrorClass.FINAL, 0.0),
        (_Amazon("ThrottlingException", 400), ErrorClass.RATE_LIMITED, 1.0),
        (_Amazon("ValidationException", 400), ErrorClass.FINAL, 0.0),
        (ReadTimeout("cut"), ErrorClass.TRANSIENT, 1.0),
        (openai.APITimeoutError(None), ErrorClass.TRANSIENT, 1.0),  # type: ignore[arg-type]
        (openai.APIError("mid-stream", None, body={"code": "rate_limit_exceeded"}),  # type: ignore[arg-type]
         ErrorClass.RATE_LIMITED, 1.0),
        (openai.APIError("mid-stream", None, body={"type": "server_error"}),  # type: ignore[arg-type]
         ErrorClass.TRANSIENT, 1.0),
    ],
    ids=repr,
)  # fmt: skip
def test_errors_are_judged_by_their_looks(error: Exception, kind: ErrorClass, pause: float) -> None:
    provider = PROVIDERS["bedrock" if isinstance(error, _Amazon) else "openai"]
    verdict = judged(error, provider, 1, now=0.0)
    assert (verdict.error_class, verdict.pause_seconds) == (kind, pause)


NO_QUOTA, UNHEARD = {"quota": None}, {"head": None}
ROUTES: dict[str, Any] = {"routes": [Route("m", ("q",), 1), Route("n", ("q",), 1)]}
WORN = {"faults": MAX_ATTEMPTS}


def pausing_the_quota(event: ProviderEvent) -> Retry:
    return Retry(Outcome(CallState.QUEUED, error="why", refused=True), Observation(107.0, event))


def later(event: ProviderEvent) -> Retry:
    outcome = Outcome(CallState.QUEUED, error="why", not_before=107.0)
    return Retry(outcome, Observation(event=event, error="why"))


def beside_others() -> Retry:
    """Its quota does not pause: it goes when a slot is free."""
    outcome = Outcome(CallState.QUEUED, error="why", not_before=107.0, refused=True)
    return Retry(outcome, Observation(event=ProviderEvent.CROWDED))


def refused(event: ProviderEvent | None) -> Refuse:
    return Refuse(None if event is None else Observation(event=event))


@pytest.mark.parametrize(
    ("kind", "more", "step"),
    [
        (ErrorClass.RATE_LIMITED, {}, pausing_the_quota(ProviderEvent.REFUSED)),
        (ErrorClass.RATE_LIMITED, NO_QUOTA, later(ProviderEvent.REFUSED)),
        (ErrorClass.RATE_LIMITED, WORN, refused(ProviderEvent.REFUSED)),
        (ErrorClass.SPENT, {}, pausing_the_quota(ProviderEvent.SPENT)),
        (ErrorClass.AT_ONCE, {}, beside_others()),
        (ErrorClass.AT_ONCE, WORN, refused(ProviderEvent.CROWDED)),
        (ErrorClass.OVERLOADED, {}, later(ProviderEvent.OVERLOADED)),
        (ErrorClass.OVERLOADED, WORN, refused(ProviderEvent.OVERLOADED)),
        (ErrorClass.TRANSIENT, {}, later(ProviderEvent.FAILED)),
        (ErrorClass.TRANSIENT, UNHEARD, later(ProviderEvent.FAILED)),
        (ErrorClass.TRANSIENT, WORN, refused(ProviderEvent.FAILED)),
        (ErrorClass.TRANSIENT, {"faults": MAX_ATTEMPTS - 1}, later(ProviderEvent.FAILED)),
        (ErrorClass.ACCOUNT, {}, LockOut(Observation(event=ProviderEvent.LOCKED_OUT, error="why"))),
        (
            ErrorClass.ACCOUNT,
            WORN,
            LockOut(Observation(event=ProviderEvent.LOCKED_OUT, error="why")),
        ),
        (ErrorClass.ACCOUNT, ROUTES, later(ProviderEvent.LOCKED_OUT)),
        (ErrorClass.ACCOUNT, ROUTES | WORN, refused(ProviderEvent.LOCKED_OUT)),
        (ErrorClass.FINAL, {}, refused(ProviderEvent.ANSWERED)),
        (ErrorClass.FINAL, WORN | ROUTES, refused(ProviderEvent.ANSWERED)),
        (ErrorClass.FINAL, UNHEARD, refused(None)),
    ],
)
def test_what_becomes_of_a_call_whose_attempt_failed(
    kind: ErrorClass, more: dict[str, Any], step: Any
) -> None:
    known = {"head": ResponseHead(False), "quota": "q", "routes": (), "faults": 1} | more
    assert next_step(Verdict(kind, 7.0), "why", 100.0, **known) == step


def test_a_page_that_no_client_can_read_counts_as_no_answer() -> None:
    provider, error = PROVIDERS["openai"], AttributeError("'str' object has no attribute 'choices'")
    assert (
        judged(error, provider, 1, now=0.0, head=ResponseHead(True)).error_class
        is ErrorClass.TRANSIENT
    )
    assert judged(_Response(400), provider, 1, now=0.0).error_class is ErrorClass.FINAL


def test_what_a_refused_answer_cost_is_kept() -> None:
    class Usage:
        prompt_tokens, completion_tokens = 3, 5

    class Completion:
        usage = Usage

    error = ValueError("cut off at its length")
    assert paid_usage(error) is None
    vars(error)["completion"] = Completion
    usage = paid_usage(error)
    assert usage is not None
    assert usage.total == 8


async def test_a_request_above_the_providers_limit_ends_the_call(
    scope: RunScope, serve: Any, question: Any, records: Any
) -> None:
    async with serve(limits=Limits(tokens_per_minute=100)) as (provider, inner):
        with pytest.raises(openai.RateLimitError, match="too large"):
            await ScheduledClient(inner, MODEL, scope, path="w").create(question("x" * 1000))
        assert [entry.why for entry in provider.ledger.entries] == ["too_large"]
        (record,) = await records()
        assert record.state is CallState.FAILED


@pytest.mark.usefixtures("fast_pauses")
async def test_200_streams_at_once_of_which_every_fifth_is_cut_leave_no_slot_taken(
    serve: Any, question: Any
) -> None:
    def faults(number: int, _: Any) -> Fault | None:
        return Fault(FaultKind.CUT_STREAM, after_chunks=2) if number % 5 == 0 else None

    store = MemoryStore()
    quota = Quota.per_minute("q", concurrency=200)
    async with (
        LocalScheduler(store, [quota]) as scheduler,
        serve(faults=faults, latency=Latency(0.01)) as (provider, inner),
        anyio.create_task_group() as group,
    ):
        for n in range(200):
            client = ScheduledClient(
                inner, MODEL, RunScope(scheduler, f"r{n}", Priority.NORMAL), path="w"
            )
            group.start_soon(streamed, client, question(str(n)))
    assert {row.state for row in await store.calls()} == {CallState.DONE}
    assert len(provider.ledger) > 240
    (slots,) = scheduler.statistics().gauges
    assert slots.available == slots.capacity == 200

"""A server that never answered is given up after a stated patience; one that did is waited for."""

import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import anyio
import openai
import pytest
from anyio.abc import SocketAttribute
from autogen_core.models import UserMessage
from autogen_ext.models.openai import OpenAIChatCompletionClient
from tests.agents.conftest import CAPABLE
from tests.waiting import until

from headway_agents import Model, RunScope, ScheduledClient, ping
from headway_agents.calls import first_contact
from headway_agents.calls.errors import MOST_CAUSES, NoAnswer, causes
from headway_agents.calls.first_contact import cause_of
from headway_agents.openai_sdk.client import openai_sdk, scheduled
from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.errors import ProviderError
from headway_scheduler.model.calls import Priority, ServiceLane
from headway_scheduler.model.quotas import Quota
from headway_scheduler.model.states import CallState
from headway_scheduler.runtime.local import LocalScheduler
from headway_scheduler.testing.provider import (
    Fault,
    FaultKind,
    Settings,
    simulated_provider,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("fast_pauses")]
HELLO = [UserMessage(content="hi", source="user")]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def client_of(url: str) -> OpenAIChatCompletionClient:
    return OpenAIChatCompletionClient(
        model="sim-1", api_key="not-a-key", base_url=url, model_info=CAPABLE
    )


def model(url: str, patience: float | None = None) -> Model:
    return Model("m", ("q",), address=url, patience=patience)


@asynccontextmanager
async def saying(*answers: tuple[int, str, str]) -> AsyncIterator[str]:
    """A server that answers with (status, content type, text), the last one for ever."""
    left = list(answers)

    async def answer(stream: Any) -> None:
        async with stream:
            await stream.receive()
            status, kind, text = left.pop(0) if len(left) > 1 else left[0]
            head = f"HTTP/1.1 {status} said\r\ncontent-type: {kind}\r\nconnection: close"
            body = f"{head}\r\ncontent-length: {len(text)}\r\n\r\n{text}"
            await stream.send(body.encode())

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with anyio.create_task_group() as group:
        group.start_soon(listener.serve, answer)
        yield f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        group.cancel_scope.cancel()
    await listener.aclose()


async def test_a_server_that_never_answered_is_given_up_with_address_cause_and_remedy(
    scope: RunScope, records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_contact, "FIRST_PATIENCE_SECONDS", 0.2)
    url = f"http://127.0.0.1:{free_port()}/v1"
    inner = client_of(url)
    client = ScheduledClient(inner, model(url), scope, path="w")
    with pytest.raises(NoAnswer) as caught:
        await client.create(HELLO)
    said = f"no answer from {url} for 0.2 s: connection refused: see `headway doctor --ping`"
    assert str(caught.value) == said
    while (row := (await records())[0]).state is not CallState.FAILED:  # noqa: ASYNC110
        await anyio.sleep(0.005)
    assert said in row.error
    await inner.close()


async def test_a_call_that_is_waited_for_says_where_to_and_why_not(
    scope: RunScope, records: Any
) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    inner = client_of(url)
    async with anyio.create_task_group() as group:
        client = ScheduledClient(inner, model(url), scope, path="w")
        group.start_soon(client.create, HELLO)
        while not (said := [row.error for row in await records() if row.error]):  # noqa: ASYNC110
            await anyio.sleep(0.005)
        group.cancel_scope.cancel()
    assert said == [f"no answer from {url}: connection refused"]
    await inner.close()


async def test_all_that_wait_for_it_are_given_up_and_not_one_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Twenty calls, two at once: after the third fault the breaker lets one go a minute."""
    monkeypatch.setattr("headway_scheduler.model.formulas.FIRST_PAUSE_SECONDS", 60.0)
    monkeypatch.setattr("headway_scheduler.model.formulas.LONGEST_PAUSE_SECONDS", 60.0)
    monkeypatch.setattr(first_contact, "FIRST_PATIENCE_SECONDS", 0.3)
    url = f"http://127.0.0.1:{free_port()}/v1"
    inner, store, errors = client_of(url), MemoryStore(), list[Exception]()
    async with LocalScheduler(store, [Quota.per_minute("q", concurrency=2)]) as scheduler:

        async def ask(number: int) -> None:
            scope = RunScope(scheduler, f"r{number}", Priority.NORMAL)
            try:
                await ScheduledClient(inner, model(url), scope, path="w").create(HELLO)
            except NoAnswer as error:
                errors.append(error)

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(ask, number)
        assert len(errors) == 20
        assert not scheduler.silent
        assert not scheduler.session.ends
        statistics = scheduler.statistics()
        assert (statistics.in_flight, sum(statistics.waiting)) == (0, 0)
    assert {row.state for row in await store.calls()} == {CallState.FAILED}
    assert all("no answer from" in (row.error or "") for row in await store.calls())
    await inner.close()


async def test_a_server_that_has_answered_is_waited_for(
    scope: RunScope, scheduler: LocalScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_contact, "FIRST_PATIENCE_SECONDS", 0.01)
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1"
    inner = client_of(url)
    client = ScheduledClient(inner, model(url), scope, path="w")
    async with simulated_provider(port=port):
        await client.create(HELLO)
    async with anyio.create_task_group() as group:
        group.start_soon(client.create, HELLO)
        await until(lambda: any(each for each in scheduler.provider_health().unanswered))
        async with simulated_provider(port=port) as provider:
            await until(lambda: len(provider.ledger.paid) == 1)
    await inner.close()


async def test_that_it_has_answered_is_known_to_the_next_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, quota = MemoryStore(), Quota.per_minute("q", concurrency=2)
    async with simulated_provider() as provider:
        url = provider.base_url
        inner = client_of(url)
        async with LocalScheduler(store, [quota]) as scheduler:
            scope = RunScope(scheduler, "r", Priority.NORMAL)
            await ScheduledClient(inner, model(url), scope, path="w").create(HELLO)
        async with LocalScheduler(store, [quota]) as scheduler:
            assert url in scheduler.session.answered
            assert await scheduler.session.has_answered(url)
            assert not await scheduler.session.has_answered(url + "/other")
    await inner.close()


async def test_a_stated_patience_holds_for_a_server_that_has_answered_too(
    scope: RunScope, records: Any
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1"
    inner = client_of(url)
    client = ScheduledClient(inner, model(url, patience=0.2), scope, path="w")
    async with simulated_provider(port=port):
        await client.create(HELLO)
    with pytest.raises(NoAnswer, match=r"for 0\.2 s: connection refused"):
        await client.create(HELLO)
    await inner.close()


def with_fallback(
    scope: RunScope, url: str, other: str, *, quota: str = "q"
) -> tuple[ScheduledClient, list[OpenAIChatCompletionClient]]:
    """A client of ``url`` whose calls go to ``other`` if that does not answer."""
    inners = [client_of(each) for each in (url, other)]
    fallback = (inners[1], Model("other", (quota,), address=other), 1)
    return ScheduledClient(inners[0], model(url), scope, path="w", others=[fallback]), inners


@pytest.mark.parametrize("quota", ["q", "narrow"])
async def test_a_call_goes_on_to_the_fallback_of_a_server_that_never_answered(
    scope: RunScope, records: Any, quota: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where both draw on one quota, which pauses for the faults of the first."""
    monkeypatch.setattr(first_contact, "FIRST_PATIENCE_SECONDS", 0.2)
    async with simulated_provider() as provider:
        dead = f"http://127.0.0.1:{free_port()}/v1"
        client, inners = with_fallback(scope, dead, provider.base_url, quota=quota)
        assert (await client.create(HELLO)).content
        for inner in inners:
            await inner.close()
    (record,) = await records()
    assert (record.state, record.call.model) == (CallState.DONE, "other")


async def test_a_call_is_given_up_when_no_server_of_it_ever_answered(
    scope: RunScope, scheduler: LocalScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_contact, "FIRST_PATIENCE_SECONDS", 0.2)
    urls = [f"http://127.0.0.1:{free_port()}/v1" for _ in range(2)]
    client, inners = with_fallback(scope, *urls, quota="narrow")
    with pytest.raises(NoAnswer, match=r"no answer from .* for 0\.2 s: connection refused"):
        await client.create(HELLO)
    assert not scheduler.session.silent
    for inner in inners:
        await inner.close()


async def test_a_call_goes_on_to_the_fallback_of_a_wrong_path(
    scope: RunScope, scheduler: LocalScheduler
) -> None:
    async with simulated_provider() as provider, saying(NOT_FOUND) as url:
        client, inners = with_fallback(scope, url, provider.base_url, quota="narrow")
        assert (await client.create(HELLO)).content
        for inner in inners:
            await inner.close()
    (stopped,) = {each.stopped for each in scheduler.statistics().gauges if each.stopped}
    assert "does base_url need /v1?" in stopped


def with_a_lane(scope: RunScope, url: str) -> tuple[ScheduledClient, OpenAIChatCompletionClient]:
    inner, plain = client_of(url), model(url)
    fast = replace(plain, lane=ServiceLane.PRIORITY)
    return ScheduledClient(inner, plain, scope, path="w", others=[(inner, fast, 0)]), inner


async def test_a_lane_of_the_same_server_is_no_other_way(
    scope: RunScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_contact, "FIRST_PATIENCE_SECONDS", 0.2)
    url = f"http://127.0.0.1:{free_port()}/v1"
    client, inner = with_a_lane(scope, url)
    with pytest.raises(NoAnswer, match=r"for 0\.2 s: connection refused"):
        await client.create(HELLO)
    await inner.close()


async def test_a_bad_key_fails_a_call_that_may_go_by_a_lane(scope: RunScope, records: Any) -> None:
    async with simulated_provider(
        Settings(faults=lambda *_: Fault(FaultKind.UNAUTHORIZED))
    ) as provider:
        client, inner = with_a_lane(scope, provider.base_url)
        with pytest.raises(openai.AuthenticationError):
            await client.create(HELLO)
        assert len(provider.ledger) == 1
        await inner.close()
    (record,) = await records()
    assert record.state is CallState.FAILED


NOT_FOUND = (404, "text/plain", "404 page not found")
DETAIL = (404, "application/json", '{"detail": "Not Found"}')
NO_MODEL = (404, "application/json", json.dumps({"error": {"message": "no model", "code": "x"}}))


@pytest.mark.parametrize("how", ["client", "sdk"])
@pytest.mark.parametrize("said", [NOT_FOUND, DETAIL, (405, "text/plain", "no")])
async def test_a_wrong_path_stops_the_quota_and_says_what_may_be_missing(
    scope: RunScope, scheduler: LocalScheduler, how: str, said: tuple[int, str, str]
) -> None:
    async with saying(said) as url:
        with pytest.raises(ProviderError, match=rf"{url} answers {said[0]}: .*need /v1\?"):
            await ask(how, url, scope)
    stopped = {gauge.quota: gauge.stopped for gauge in scheduler.statistics().gauges}
    assert "does base_url need /v1?" in (stopped["q"] or "")
    assert stopped["narrow"] is None


@pytest.mark.parametrize("how", ["client", "sdk"])
async def test_an_api_that_does_not_know_the_model_is_no_wrong_path(
    scope: RunScope, scheduler: LocalScheduler, how: str
) -> None:
    async with saying(NO_MODEL) as url:
        with pytest.raises(Exception, match="no model"):
            await ask(how, url, scope)
        assert await scheduler.has_answered(url)
    assert all(gauge.stopped is None for gauge in scheduler.statistics().gauges)


async def test_a_path_that_was_right_once_is_not_taken_for_a_wrong_one(
    scope: RunScope, scheduler: LocalScheduler
) -> None:
    async with saying(NO_MODEL, NOT_FOUND) as url:
        for _ in range(2):
            with pytest.raises(Exception, match=r"no model|Error code: 404"):
                await ask("client", url, scope)
    assert all(gauge.stopped is None for gauge in scheduler.statistics().gauges)


async def ask(how: str, url: str, scope: RunScope) -> None:
    if how == "client":
        inner = client_of(url)
        try:
            await ScheduledClient(inner, model(url), scope, path="w").create(HELLO)
        finally:
            await inner.close()
        return
    sdk = openai_sdk("not-a-key", url)
    try:
        messages: Any = [{"role": "user", "content": "hi"}]
        await scheduled(sdk, model(url), lambda: scope).chat.completions.create(
            model="sim-1", messages=messages
        )
    finally:
        await sdk.close()


def chained(*errors: BaseException) -> BaseException:
    for outer, inner in pairwise(errors):
        outer.__cause__ = inner
    return errors[0]


def raised_from_none() -> Exception:
    """What ollama's client does with what its HTTP library raises."""
    try:
        try:
            raise ConnectionRefusedError(111, "no")
        except OSError:
            raise ConnectionError("see the docs") from None
    except ConnectionError as error:
        return error


def test_a_chain_of_causes_may_lead_back_to_its_beginning() -> None:
    first, second = ValueError("first"), ValueError("second")
    chained(first, second, first)
    assert len(list(causes(first))) == MOST_CAUSES


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (chained(OSError("all"), socket.gaierror(-2, "unknown")), "no such host"),
        (chained(OSError("all"), ConnectionRefusedError(111, "no")), "connection refused"),
        (
            chained(OSError("x"), ExceptionGroup("many", [ConnectionRefusedError()])),
            "connection refused",
        ),
        (ssl.SSLError(1, "[SSL] wrong version"), "TLS: [SSL] wrong version"),
        (TimeoutError(), "no answer in time"),
        (chained(ValueError("outer"), ValueError("inner")), "inner"),
        (ValueError(), "ValueError"),
        (raised_from_none(), "connection refused"),
    ],
)
def test_the_cause_of_silence_in_words(error: BaseException, words: str) -> None:
    said = cause_of(error)
    assert said == words or said.startswith(words.split(":")[0] + ":")


LIST = json.dumps({"data": [{"id": "gpt-4o"}, {"id": "models/gemini-x"}, 3]})


@pytest.mark.parametrize(
    ("said", "model", "finding"),
    [
        ((200, "application/json", LIST), "gpt-4o", (True, "lists 2 models, 'gpt-4o' among")),
        ((200, "application/json", LIST), "gemini-x", (True, "lists 2 models, 'gemini-x' am")),
        ((200, "application/json", LIST), "other", (True, "lists 2 models, not 'other'")),
        (
            (200, "application/json", '{"data": []}'),
            "x",
            (True, "lists no models"),
        ),
        ((200, "text/html", "<html>"), "x", (False, "answers, and not as an API does")),
        ((401, "application/json", "{}"), "x", (False, "answers 401: it refuses the key")),
        (NOT_FOUND, "x", (False, "answers 404: does base_url need /v1?")),
        ((307, "text/plain", ""), "x", (False, "answers 307: it leads elsewhere")),
        ((500, "text/plain", ""), "x", (False, "answers 500")),
        ((500, "text/plain", "No database."), "x", (False, "answers 500: No database.")),
        ((200, "application/json", '{"data": [' + "1," * 3_000_000), "x", (False, "an answer abo")),
    ],
)
async def test_what_a_ping_finds(
    said: tuple[int, str, str], model: str, finding: tuple[bool, str]
) -> None:
    async with saying(said) as url:
        is_well, words = await ping(f"{url}/models", {}, model, url)
    assert is_well is finding[0]
    assert finding[1] in words


async def test_a_ping_that_nobody_answers_says_why() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    assert await ping(f"{url}/models", {}, "m", url) == (False, "no answer: connection refused")

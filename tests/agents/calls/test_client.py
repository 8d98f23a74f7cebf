import inspect
from contextlib import nullcontext
from typing import Any

import pytest
from autogen_core import CancellationToken
from autogen_core.models import ChatCompletionClient, CreateResult, RequestUsage, UserMessage
from autogen_ext.models.cache import ChatCompletionCache
from autogen_ext.models.openai import OpenAIChatCompletionClient
from autogen_ext.models.replay import ReplayChatCompletionClient

from headway_agents import Journal, Model, NonDeterminism, RunScope, ScheduledClient, current_scope
from headway_agents.calls.client import load_result
from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.errors import CallerError, CallTooLarge, RunClosed
from headway_scheduler.model.calls import Priority, Usage
from headway_scheduler.model.quotas import Quota
from headway_scheduler.model.states import CallState
from headway_scheduler.runtime.local import LocalScheduler

pytestmark = pytest.mark.anyio
MODEL = Model("m", ("q",))
TOKEN = CancellationToken()


async def collected(client: ChatCompletionClient, messages: Any, **more: Any) -> list[Any]:
    return [item async for item in client.create_stream(messages, **more)]


def test_no_abstract_member_is_left() -> None:
    assert not inspect.isabstract(ScheduledClient)


async def test_every_member_answers(scope: RunScope, question: Any) -> None:
    inner = ReplayChatCompletionClient(["one two", "three"])
    client = ScheduledClient(inner, MODEL, scope, path="writer")
    assert (await client.create(question())).content == "one two"
    *chunks, last = await collected(client, question())
    assert chunks == ["three"]
    assert isinstance(last, CreateResult)
    assert client.count_tokens(question("x" * 40)) > 10
    assert client.remaining_tokens(question()) == 128_000 - client.count_tokens(question())
    assert client.model_info == inner.model_info
    with pytest.warns(DeprecationWarning, match="capabilities"):
        assert client.capabilities["vision"] is False
    assert client.total_usage() == RequestUsage(2, 3)
    assert client.actual_usage() == RequestUsage(0, 0)  # the replay client says "cached"
    await client.close()


async def test_a_call_is_on_disk_before_its_answer_is_seen(
    scope: RunScope, records: Any, serve: Any, question: Any
) -> None:
    async with serve() as (_, inner):
        client = ScheduledClient(inner, MODEL, scope, path="writer")
        result = await client.create(question())
        (record,) = await records("run")
        assert record.state is CallState.DONE
        assert record.usage == Usage(result.usage.prompt_tokens, result.usage.completion_tokens)
        assert load_result(record.answer) == result
        assert (record.call.id, record.call.path, record.call.model) == ("run.0", "writer", "m")


async def test_the_stream_reports_usage_and_ends_with_the_recorded_answer(
    scope: RunScope, records: Any, serve: Any, question: Any
) -> None:
    async with serve() as (provider, inner):
        client = ScheduledClient(inner, MODEL, scope, path="writer")
        chunks: list[str] = []
        async for item in client.create_stream(question()):
            if isinstance(item, CreateResult):
                (record,) = await records("run")
                assert record.state is CallState.DONE
                assert load_result(record.answer) == item
                assert item.usage.prompt_tokens > 0
                assert item.usage.completion_tokens > 0
                assert "".join(chunks) == item.content
            else:
                chunks.append(item)
        assert len(chunks) > 1
        assert client.total_usage().prompt_tokens == inner.total_usage().prompt_tokens > 0
        assert provider.ledger.paid[0].streamed


async def test_streamed_usage_is_not_forced_on_who_chose(
    scope: RunScope, serve: Any, question: Any
) -> None:
    async with serve(client={"stream_options": {"include_usage": False}}) as (_, inner):
        client = ScheduledClient(inner, MODEL, scope, path="writer")
        (*_, last) = await collected(client, question())
        assert last.usage == RequestUsage(0, 0)


async def test_the_sdk_does_not_retry(scope: RunScope, serve: Any) -> None:
    async with serve() as (_, inner):
        assert inner._client.max_retries == 2
        ScheduledClient(inner, MODEL, scope, path="writer")
        assert inner._client.max_retries == 0


async def test_a_list_that_changes_meanwhile_is_not_sent(
    scope: RunScope, serve: Any, question: Any
) -> None:
    seen: list[int] = []
    async with serve(reply=lambda body: seen.append(len(body["messages"]))) as (_, inner):
        client = ScheduledClient(inner, MODEL, scope, path="writer")
        messages = list(question())
        stream = client.create_stream(messages)
        messages.append(UserMessage(content="later", source="user"))
        async for _ in stream:
            pass
        assert seen == [1]


async def test_the_same_request_again_is_another_occurrence(
    scope: RunScope, records: Any, question: Any
) -> None:
    client = ScheduledClient(ReplayChatCompletionClient(["a"] * 4), MODEL)
    writer, critic = client.bound(scope, "writer"), client.bound(scope, "critic")
    for handle in (writer, writer, critic):
        await handle.create(question())
    await writer.create(question("else"))
    calls = [record.call for record in await records("run")]
    assert [(call.path, call.occurrence) for call in calls] == [
        ("writer", 0),
        ("writer", 1),
        ("critic", 0),
        ("writer", 0),
    ]
    assert len({call.request_hash for call in calls}) == 2


async def test_usage_is_counted_per_handle_and_in_all(
    scope: RunScope, serve: Any, question: Any
) -> None:
    async with serve() as (_, inner):
        client = ScheduledClient(inner, MODEL)
        writer = client.bound(scope, "writer")
        critic = writer.bound(scope, "critic")
        await writer.create(question())
        await critic.create(question("a longer question"))
        total = client.total_usage().prompt_tokens
        assert critic.total_usage().prompt_tokens > writer.total_usage().prompt_tokens > 0
        both = critic.total_usage().prompt_tokens + writer.total_usage().prompt_tokens
        assert total == client.actual_usage().prompt_tokens == both


async def test_a_handle_does_not_close_what_it_shares(scope: RunScope) -> None:
    class Closing(ReplayChatCompletionClient):
        closed = 0

        async def close(self) -> None:
            self.closed += 1

    inner = Closing([])
    client = ScheduledClient(inner, MODEL)
    await client.bound(scope, "writer").close()
    assert inner.closed == 0
    await client.close()
    assert inner.closed == 1


async def test_priority_of_the_agent_goes_before_the_run_s(
    scheduler: LocalScheduler, records: Any, question: Any
) -> None:
    scope = RunScope(scheduler, "run", Priority.BACKGROUND)
    inner = ReplayChatCompletionClient(["a", "b"])
    await ScheduledClient(inner, MODEL, scope, path="w").create(question())
    urgent = ScheduledClient(inner, MODEL, priority=Priority.INTERACTIVE)
    await urgent.bound(scope, "w").create(question())
    priorities = [record.call.priority for record in await records("run")]
    assert priorities == [Priority.BACKGROUND, Priority.INTERACTIVE]


async def test_the_cap_and_the_prompt_decide_what_is_reserved(
    scope: RunScope, records: Any, serve: Any, question: Any
) -> None:
    async with serve(client={"max_tokens": 500}) as (provider, inner):
        client = ScheduledClient(inner, MODEL, scope, path="w")
        await client.create(question())
        await client.create(question(), extra_create_args={"max_tokens": 700})
        await client.create(question("x" * 8000))
        reserved = [record.call.tokens for record in await records("run")]
        assert reserved[:2] == [500, 700]
        assert reserved[2] > 2000
        charged = [entry.charged_tokens for entry in provider.ledger.entries]
        assert all(ours >= theirs for ours, theirs in zip(reserved, charged, strict=True))


async def test_who_belongs_to_no_run_is_told_so(question: Any) -> None:
    client = ScheduledClient(ReplayChatCompletionClient(["a"]), MODEL)
    with pytest.raises(CallerError, match="belongs to no run"):
        await client.create(question())


async def test_the_context_is_the_fallback(scope: RunScope, records: Any, question: Any) -> None:
    client = ScheduledClient(ReplayChatCompletionClient(["a"]), MODEL)
    token = current_scope.set(scope)
    try:
        await client.create(question())
    finally:
        current_scope.reset(token)
    (record,) = await records("run")
    assert (record.call.run_id, record.call.path) == ("run", "caller")


async def test_a_closed_run_asks_for_nothing(scope: RunScope, records: Any, question: Any) -> None:
    client = ScheduledClient(ReplayChatCompletionClient(["a"]), MODEL, scope, path="w")
    scope.close()
    scope.close()
    with pytest.raises(RunClosed, match="run run has ended"):
        await client.create(question())
    with pytest.raises(RunClosed):
        await collected(client, question())
    assert not await records()


async def test_an_attempt_of_a_changed_workflow_stops_before_it_asks(
    scheduler: LocalScheduler, question: Any, records: Any
) -> None:
    for number in range(2):
        scope = RunScope(scheduler, "run", Priority.NORMAL, journal=Journal(await records()))
        client = ScheduledClient(ReplayChatCompletionClient(["a"]), MODEL, scope, path="w")
        with pytest.raises(RunClosed) if number else nullcontext():
            await client.create(question(f"question {number}"))
    assert [record.call.id for record in await records()] == ["run.0"]
    assert isinstance(scope.stopped, NonDeterminism)


async def test_a_call_above_its_limit_is_refused_and_kept_on_the_run(question: Any) -> None:
    async with LocalScheduler(MemoryStore(), [Quota.per_minute("q", tokens=100)]) as scheduler:
        scope = RunScope(scheduler, "run", Priority.NORMAL)
        client = ScheduledClient(ReplayChatCompletionClient(["a"]), MODEL, scope, path="w")
        with pytest.raises(CallTooLarge) as caught:
            await client.create(question("x" * 4000))
        assert scope.error is caught.value


async def test_a_hit_of_a_cache_around_a_bound_client_costs_nothing(
    scope: RunScope, records: Any, serve: Any, question: Any
) -> None:
    async with serve() as (provider, inner):
        cache = ChatCompletionCache(ScheduledClient(inner, MODEL, scope, path="w"))
        first, second = await cache.create(question()), await cache.create(question())
        assert first.content == second.content
        assert len(await records()) == len(provider.ledger) == 1


async def test_a_context_window_needs_no_network(scope: RunScope) -> None:
    inner = OpenAIChatCompletionClient(model="gpt-4", api_key="sk-test-0123456789")
    client = ScheduledClient(inner, MODEL, scope, path="w")
    assert client.remaining_tokens([]) == 8192
    await client.close()


async def test_what_looks_like_a_key_is_sent_but_not_kept(
    scope: RunScope, serve: Any, models: Any, question: Any, store: MemoryStore, records: Any
) -> None:
    key, heard = "sk-live-0123456789abcdef", []
    async with serve(reply=lambda body: heard.append(str(body))) as (_, inner):
        await models(inner).bound(scope, "a").create(question(f"Use {key}." + " Now." * 200))
    (record,) = await records()
    kept = "".join(await store.prompt(record.call.request_hash) or ())
    assert key in heard[0]
    assert key not in kept
    assert "Use [key]. Now." in kept

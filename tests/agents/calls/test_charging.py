"""Each provider's way of counting, played by the simulated one, is met without a refusal."""

from typing import Any

import anyio
import pytest

from headway_agents import Model, RunScope, ScheduledClient
from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.model.calls import Priority
from headway_scheduler.model.quotas import Quota, Resource
from headway_scheduler.model.states import CallState
from headway_scheduler.providers import PROVIDERS
from headway_scheduler.runtime.local import LocalScheduler
from headway_scheduler.testing.provider import Charging, Fault, FaultKind, Limits, Reply

pytestmark = pytest.mark.anyio
CALLS = 24
PROMPT = "words " * 300  # 450 tokens
BURST_SECONDS = 2.0
SLACK_SECONDS = 2.0
"""How late a request may arrive here without a refusal: the machine may be busy."""
WORDS = Reply("word " * 20)


def quota_of(charging: Charging) -> Quota:
    if charging is Charging.ANTHROPIC:
        limits = {Resource.INPUT_TOKENS: 90_000, Resource.OUTPUT_TOKENS: 60_000}
    else:
        limits = {Resource.TOKENS: 300_000}
    return Quota.stated("q", {Resource.REQUESTS: 6_000, **limits}, burst_seconds=BURST_SECONDS)


def limits_of(charging: Charging) -> Limits:
    is_apart = charging is Charging.ANTHROPIC
    return Limits(
        requests_per_minute=6_000,
        tokens_per_minute=90_000 if is_apart else 300_000,
        output_per_minute=60_000 if is_apart else None,
        burst_seconds=BURST_SECONDS + SLACK_SECONDS,
        charging=charging,
    )


@pytest.mark.parametrize("charging", list(Charging))
async def test_no_request_is_refused(charging: Charging, serve: Any, question: Any) -> None:
    store = MemoryStore()
    serving = serve(
        client={"max_tokens": 700}, limits=limits_of(charging), reply=lambda body: WORDS
    )
    model = Model("m", ("q",), provider=PROVIDERS[charging.value])
    async with (
        LocalScheduler(store, [quota_of(charging)]) as scheduler,
        serving as (provider, inner),
    ):
        async with anyio.create_task_group() as group:
            for n in range(CALLS):
                scope = RunScope(scheduler, f"r{n}", Priority.INTERACTIVE)
                client = ScheduledClient(inner, model, scope, path="w")
                group.start_soon(client.create, question(PROMPT))
        assert {entry.status for entry in provider.ledger.entries} == {200}
        assert len(provider.ledger) == CALLS


@pytest.mark.usefixtures("fast_pauses")
@pytest.mark.parametrize("kind", [FaultKind.STREAM_ERROR, FaultKind.OVERLOADED_529])
async def test_its_faults_go_again(
    kind: FaultKind, scope: RunScope, serve: Any, question: Any, records: Any
) -> None:
    serving = serve(faults=lambda n, _: Fault(kind) if n == 1 else None)
    async with serving as (provider, inner):
        client = ScheduledClient(inner, Model("m", ("q",)), scope, path="w")
        items = [item async for item in client.create_stream(question())]
        assert items[-1].content
        assert len(provider.ledger) == 2
        (row,) = await records()
        assert (row.state, row.attempts) == (CallState.DONE, 2)

"""A run's scope between its calls and its machine: what no call may do to the others."""

import asyncio
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any

import pytest
from anyio.lowlevel import checkpoint
from autogen_core import CancellationToken
from autogen_core.models import CreateResult
from autogen_ext.models.replay import ReplayChatCompletionClient

from headway_agents import (
    AdHocScope,
    Journal,
    Model,
    NonDeterminism,
    RunScope,
    ScheduledClient,
)
from headway_agents.calls import live_call
from headway_scheduler.errors import RunClosed
from headway_scheduler.model.calls import Priority
from headway_scheduler.model.states import CallState
from headway_scheduler.runtime.local import LocalScheduler

pytestmark = pytest.mark.anyio
MODEL = Model("m", ("q",))
ENDED = (asyncio.CancelledError, RunClosed)


def ad_hoc(scheduler: LocalScheduler) -> AdHocScope:
    def renew() -> AdHocScope:
        raise AssertionError

    return AdHocScope(
        scheduler, "ad-hoc", Priority.NORMAL, renew=renew, most_calls=1_000_000, until=inf
    )


def asking(scope: RunScope, path: str, says: str = "hm") -> ScheduledClient:
    return ScheduledClient(ReplayChatCompletionClient([says]), MODEL, scope, path=path)


async def test_a_call_that_is_cancelled_while_it_is_recorded_holds_up_no_other(
    scope: RunScope, question: Any, records: Any
) -> None:
    """It has a number by then, and nobody would deliver it."""

    class Leaving(ReplayChatCompletionClient):
        async def create(self, *arguments: Any, **more: Any) -> CreateResult:
            result = await super().create(*arguments, **more)
            asyncio.get_running_loop().call_soon(token.cancel)
            return result

    token = CancellationToken()
    client = ScheduledClient(Leaving(["paid"]), MODEL, scope, path="w")
    task = asyncio.ensure_future(client.create(question(), cancellation_token=token))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await asking(scope, "v").create(question())).content == "hm"
    assert {row.state for row in await records()} == {CallState.DONE}


async def test_an_answer_whose_turn_never_comes_shows_that_the_workflow_changed(
    scheduler: LocalScheduler, question: Any, records: Any
) -> None:
    """The first answer is of an agent that is gone; the second one waits for it, and nothing else
    goes on."""
    scope = RunScope(scheduler, "run", Priority.NORMAL)
    for path in ("gone", "w"):
        await asking(scope, path).create(question())
    scope.close()
    again = RunScope(scheduler, "run", Priority.NORMAL, journal=Journal(await records()))
    with pytest.raises(RunClosed):
        await asking(again, "w").create(question())
    assert isinstance(again.stopped, NonDeterminism)
    assert again.stopped.nearest is not None
    assert again.stopped.nearest.call.path == "gone"


async def test_a_stream_that_is_first_looked_at_when_its_run_has_ended_asks_nothing(
    scope: RunScope, question: Any, records: Any
) -> None:
    stream = asking(scope, "w").create_stream(question())
    scope.close()
    with pytest.raises(RunClosed):
        await anext(stream)
    assert not await records()


@pytest.mark.parametrize(
    "means",
    [
        lambda task, token: task.cancel(),
        lambda task, token: token.cancel(),
    ],
    ids=["task", "token"],
)
async def test_a_call_that_is_cancelled_anywhere_holds_up_no_other(
    means: Callable[..., Any], scheduler: LocalScheduler, question: Any
) -> None:
    """Two agents at once, one of them cancelled after k turns of the loop, for every k."""
    finished = 0
    for turns in range(1000):
        scope = RunScope(scheduler, f"run-{turns}", Priority.NORMAL)
        token = CancellationToken()
        first = asking(scope, "first").create(question(), cancellation_token=token)
        task, other = (
            asyncio.ensure_future(first),
            asyncio.ensure_future(asking(scope, "other").create(question())),
        )
        for _ in range(turns):
            await checkpoint()
        finished += task.done()
        means(task, token)
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(outcome, (CreateResult, *ENDED))
        assert (await other).content == "hm"
        assert (await asking(scope, "next").create(question())).content == "hm"
        assert scope.machine.in_flight == 0
        if finished == 3:
            return
    raise AssertionError("never finished")


def things_in(holder: object) -> int:
    """How many items the containers hold that a scope and its machine keep."""
    values = list(vars(holder).values())
    if isinstance(holder, RunScope):
        values += vars(holder.machine).values()
    return sum(len(value) for value in values if isinstance(value, dict | set | deque | list))


async def test_a_scope_of_no_run_keeps_nothing_of_calls_that_have_ended(
    scheduler: LocalScheduler, question: Any, records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program may ask through it for as long as it lives."""
    monkeypatch.setattr(live_call, "KNOWN_NODES", 3)
    scope, run = (
        ad_hoc(scheduler),
        RunScope(scheduler, "run", Priority.LOW),
    )
    for number in range(20):
        for each in (scope, run):
            await asking(each, "w").create(question(f"question {number}"))
    assert things_in(scope) <= 3
    assert things_in(run) >= 20  # what is counted here is what a replay needs
    rows = await records()
    assert [row.state for row in rows] == [CallState.DONE] * 40
    assert {f"ad-hoc.{number}" for number in range(20)} < {row.call.id for row in rows}


async def test_a_scope_of_no_run_that_is_closed_asks_nothing(
    scheduler: LocalScheduler, question: Any, records: Any
) -> None:
    scope = ad_hoc(scheduler)
    scope.close()
    with pytest.raises(RunClosed):
        await asking(scope, "w").create(question())
    assert not await records()

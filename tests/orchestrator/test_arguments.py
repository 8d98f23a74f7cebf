"""A wrong argument is refused where it comes in, by its name; runs of others do not notice."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.base import Team
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat

from headway import CallerError, Headway, Models
from headway.testing import MODEL, QUOTA, simulated_headway

pytestmark = pytest.mark.anyio

NAN, INFINITE, HUGE = float("nan"), float("inf"), 10**400


@pytest.fixture
async def headway() -> AsyncIterator[Headway]:
    async with simulated_headway(latency_seconds=0.02) as headway:

        @headway.workflow("team")
        def team(models: Models) -> Team:
            writer = AssistantAgent("writer", models(MODEL))
            return RoundRobinGroupChat([writer], termination_condition=MaxMessageTermination(9))

        yield headway


class Rude:
    """An object without words, or anything else that it could be asked for."""

    def _raise(self, *_: object) -> Any:
        raise RuntimeError("rude")

    __str__ = __repr__ = __len__ = __iter__ = __bool__ = _raise


def deep() -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(100_000):
        value = {"in": value}
    return value


TEXTS = [None, 5, b"bytes", "half \ud83d", ["x"]]
NAMES = [5, b"bytes", "half \ud83d", "", "x" * 501]
AMOUNTS = [0, -1, NAN, INFINITE, HUGE, True, "1", [1]]
COUNTS = [-1, 1.5, NAN, 2**63, True, "1"]
PRIORITIES = [0, 2, 7, True, 1.0, b"low", ["low"], "soon"]

WRONG_OPTIONS: dict[str, list[Any]] = {
    "task": TEXTS,
    "key": NAMES,
    "team": NAMES,
    "priority": PRIORITIES,
    "budget_usd": AMOUNTS,
    "deadline_seconds": AMOUNTS,
    "parameters": [{"x": NAN}, {"x": object()}, {"x": b"y"}, {1: {2}}, 5, deep(), Rude()],
}

WRONG_CALLS: dict[str, tuple[list[Any], Callable[[Headway, Any], Awaitable[object]]]] = {
    "run_id": (NAMES, lambda hw, value: hw.get_run(value)),
    "run_id of cancel": (NAMES, lambda hw, value: hw.cancel(value)),
    "run_id of pause": (NAMES, lambda hw, value: hw.pause(value)),
    "run_id of resume": (NAMES, lambda hw, value: hw.resume(value)),
    "limit": (COUNTS, lambda hw, value: hw.list_runs(limit=value)),
    "slots": ([*COUNTS, 0], lambda hw, value: hw.work(slots=value)),
    "older_than_seconds": ([-1, NAN, "1"], lambda hw, value: hw.prune(older_than_seconds=value)),
    "keep": (COUNTS, lambda hw, value: hw.prune(keep=value)),
    "since_seconds": ([-1, NAN, INFINITE, "1"], lambda hw, value: hw.costs(since_seconds=value)),
    "by": ([5, ["x"], Rude(), deep()], lambda hw, value: hw.costs(value)),
    "id": (NAMES, lambda hw, value: hw.queue.bump(value, "low")),
    "priority": (PRIORITIES, lambda hw, value: hw.queue.bump("r-x", value)),
    "target": (NAMES, lambda hw, value: hw.queue.pause(value)),
    "quota": (NAMES, lambda hw, value: hw.limits.reset(value)),
    "limits": (
        [5, "x", ["x"], Rude(), {"x": deep()}],
        lambda hw, value: hw.limits.set(QUOTA, value),
    ),
    "weight": (AMOUNTS, lambda hw, value: hw.limits.weight("team", value)),
    "team": (NAMES, lambda hw, value: hw.limits.weight(value, 1.0)),
    "limit of log": (COUNTS, lambda hw, value: hw.limits.log(limit=value)),
}


async def test_a_wrong_option_of_a_run_is_refused_and_harms_nobody(headway: Headway) -> None:
    bystander = await headway.start("team", task="x")
    for verb in (headway.start, headway.submit, headway.run):
        for name, values in WRONG_OPTIONS.items():
            for value in values:
                options = {"task": "x", name: value}
                if value is None and name != "task":
                    continue
                with pytest.raises(CallerError, match=name):
                    await verb("team", **options)
        for wrong in (None, 5, "", "half \ud83d"):
            with pytest.raises(CallerError, match="workflow"):
                await verb(wrong, task="x")  # type: ignore[arg-type]
    assert (await bystander.result()).calls == 8
    assert len(await headway.list_runs()) == 1


@pytest.mark.parametrize("what", WRONG_CALLS)
async def test_a_wrong_argument_is_refused_by_its_name(headway: Headway, what: str) -> None:
    values, call = WRONG_CALLS[what]
    for value in values:
        with pytest.raises(CallerError, match=what.split()[0]):
            await call(headway, value)
    assert (await headway.run("team", task="x")).calls == 8
    assert await headway.limits.log() == []


@pytest.mark.parametrize("value", [0, 2, True])
async def test_a_number_as_priority_says_what_to_write(headway: Headway, value: Any) -> None:
    with pytest.raises(CallerError, match=r"'interactive', 'high'.*LiteLLM"):
        await headway.start("team", task="x", priority=value)
    with pytest.raises(CallerError, match="LiteLLM"):
        headway.model(MODEL, priority=value)
    with pytest.raises(CallerError, match="LiteLLM"):
        headway.openai(MODEL, priority=value)

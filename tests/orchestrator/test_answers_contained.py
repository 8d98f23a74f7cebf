"""While one run gets an odd answer, four others complete, and again after a restart."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from autogen_agentchat.agents import AssistantAgent

from headway import Headway, RunFailed
from headway.config import load
from headway_agents import CallLimits
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.testing.provider import (
    Fault,
    FaultKind,
    Settings,
    SimulatedProvider,
    simulated_provider,
)

# AutoGen dumps what it got for its own log, and pydantic warns of it.
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings"),
]

ODD = {
    "5.5": Fault(FaultKind.ODD_USAGE, value="5.5"),
    "NaN": Fault(FaultKind.ODD_USAGE, value="NaN"),
    "2^63": Fault(FaultKind.ODD_USAGE, value=str(2**63)),
    "a long header": Fault(FaultKind.ODD_HEADER, value="1" * 10_000 + "x"),
    "large": Fault(FaultKind.LARGE, size_mb=2),
    "packed": Fault(FaultKind.PACKED, size_mb=30),
    "drips": Fault(FaultKind.DRIP, every_seconds=0.1),
    "redirects": Fault(FaultKind.REDIRECT, value="http://127.0.0.1:9/v1"),
}
FAILS = {
    "large": "answer above 1 MiB: see models.odd.max_answer_mb",
    "packed": "answer above 1 MiB: see models.odd.max_answer_mb",
    "drips": "no whole answer in 1 s, twice: see models.odd.call_timeout",
    "redirects": "redirects to http://127.0.0.1:9/v1, and no redirect is followed",
}
"""What the error of the run says; the others complete."""


def agent(models: Any, model: str) -> AssistantAgent:
    return AssistantAgent("writer", models(model))


@pytest.fixture(params=ODD)
async def odd(request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, SimulatedProvider]]:
    def faults(_: int, body: Any) -> Fault | None:
        return ODD[request.param] if body["model"] == "odd" else None

    async with simulated_provider(Settings(faults=faults)) as provider:
        yield str(request.param), provider


@pytest.fixture
def file(tmp_path: Path, odd: tuple[str, SimulatedProvider], monkeypatch: Any) -> Path:
    monkeypatch.setenv("TEST_KEY", "not-a-key")
    reached = f'quotas = ["q"]\nbase_url = "{odd[1].base_url}"\napi_key_env = "TEST_KEY"'
    (tmp_path / "headway.toml").write_text(f"""
[database]
path = "headway.db"
[quotas.q]
requests_per_minute = 6000
concurrency = 4
[models.good]
{reached}
[models.odd]
{reached}
max_answer_mb = 1
call_timeout = {1 if odd[0] == "drips" else 60}
""")
    return tmp_path / "headway.toml"


async def test_it_harms_its_own_run_at_most(file: Path, odd: tuple[str, SimulatedProvider]) -> None:
    name = odd[0]
    async with Headway(load(file)) as hw:
        hw.workflow("agent")(agent)
        one = await hw.start("agent", task="odd", parameters={"model": "odd"})
        others = [
            await hw.start("agent", task=f"good {n}", parameters={"model": "good"})
            for n in range(4)
        ]
        if name in FAILS:
            with pytest.raises(RunFailed) as caught:
                await one.result()
            assert FAILS[name] in str(caught.value)
        else:
            await one.result()
        for other in others:
            await other.result()
        (call,) = await hw.list_calls(one.id)
        assert call.state is (CallState.FAILED if name in FAILS else CallState.DONE)
        assert call.attempts == (2 if name == "drips" else 1)
    async with Headway(load(file)) as hw:
        hw.workflow("agent")(agent)
        states = [run.state for run in await hw.list_runs()]
        assert states.count(RunState.COMPLETED) == (4 if name in FAILS else 5)
        again = await hw.start("agent", task="again", parameters={"model": "good"})
        with anyio.fail_after(30):
            await again.result()


@pytest.mark.parametrize("odd", ["5.5"], indirect=True)
async def test_a_model_has_the_limits_of_its_settings(file: Path) -> None:
    async with Headway(load(file)) as hw:
        assert hw.workflows.model("good").model.limits == CallLimits()
        limits = CallLimits(max_answer_mb=1, call_timeout=60)
        assert hw.workflows.model("odd").model.limits == limits

import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent

from headway_agents import ScheduledClient, build, load_factory
from headway_scheduler.errors import CallerError

pytestmark = pytest.mark.anyio


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "headway_test_flows.py").write_text(
        textwrap.dedent(
            """
            def report(models): return models("m")
            number = 3
            """
        )
    )
    (tmp_path / "headway_test_broken.py").write_text("import no_such_thing\n")
    (tmp_path / "headway_test_raises.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.startswith("headway_test_")]:
        del sys.modules[name]


@pytest.mark.usefixtures("module")
def test_a_factory_is_found() -> None:
    assert load_factory("headway_test_flows:report")(str.upper) == "M"


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("report", "module:attribute"),
        (":report", "module:attribute"),
        ("headway_test_nothing:report", "no module 'headway_test_nothing'"),
        ("headway_test_flows:nothing", "has no 'nothing'"),
        ("headway_test_flows:number", "is a int, not a function"),
        ("headway_test_broken:report", "needs the module 'no_such_thing'"),
        ("headway_test_raises:report", "failed: ZeroDivisionError"),
    ],
)
def test_a_wrong_reference_is_explained(reference: str, message: str) -> None:
    with pytest.raises(CallerError, match=message):
        load_factory(reference)


async def test_factories_may_be_async(serve: Any, models: Any) -> None:
    async with serve() as (_, inner):

        async def make(models: Any) -> AssistantAgent:
            return AssistantAgent("writer", models(inner))

        built = await build(make, models)
        assert isinstance(built, AssistantAgent)
        assert isinstance(built._model_client, ScheduledClient)


async def test_a_factory_that_gives_no_team_is_explained() -> None:
    with pytest.raises(CallerError, match=r"factory 'dict' gives a dict"):
        await build(dict, {})  # type: ignore[arg-type]


async def test_an_error_of_the_factory_is_its_own() -> None:
    def broken(_: Any) -> Any:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await build(broken, None)

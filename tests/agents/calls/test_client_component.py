import json
from typing import Any

import pytest
from autogen_core.models import ChatCompletionClient
from autogen_ext.models.openai import OpenAIChatCompletionClient

from headway_agents import Model, RunScope, ScheduledClient
from headway_scheduler.model.calls import Priority

pytestmark = pytest.mark.anyio
MODEL = Model("m", ("q",))


async def test_the_component_form_holds_no_key(scope: RunScope, serve: Any, question: Any) -> None:
    async with serve() as (_, inner):
        client = ScheduledClient(inner, MODEL, priority=Priority.HIGH)
        text = client.dump_component().model_dump_json()
        assert "sk-test" not in text
        assert client.dump_component().provider == "headway_agents.ScheduledClient"


async def test_a_loaded_client_is_unbound_and_takes_the_key_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, scope: RunScope, serve: Any, question: Any
) -> None:
    async with serve() as (_, inner):
        client = ScheduledClient(
            inner, MODEL, priority=Priority.HIGH, arguments={"temperature": 0.2}
        )
        dumped = client.dump_component()
        monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment")
        loaded = ChatCompletionClient.load_component(type(dumped)(**_json(dumped)))
        assert isinstance(loaded, ScheduledClient)
        assert (loaded.model, loaded.priority, loaded.scope) == (MODEL, Priority.HIGH, None)
        assert loaded.arguments == {"temperature": 0.2}
        assert isinstance(loaded.wrapped, OpenAIChatCompletionClient)
        assert loaded.wrapped._client.api_key == "sk-from-the-environment"
        assert (await loaded.bound(scope, "w").create(question())).content
        await loaded.close()


def _json(model: Any) -> dict[str, Any]:
    return dict(json.loads(model.model_dump_json()))

"""A model of the configuration may be asked through any client of AutoGen's, with its arguments."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute
from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import UserMessage
from autogen_ext.models.openai import OpenAIChatCompletionClient
from tests.agents.calls.test_stock_clients import STOCK, Server

from headway import Headway
from headway.config import Config, ConfigError, load
from headway.config.clients import CLIENTS, OURS
from headway_agents import client_class, senders
from headway_scheduler.errors import CallerError
from headway_scheduler.testing.provider import Settings, simulated_provider

pytestmark = pytest.mark.anyio

HELLO = [UserMessage(content="hi", source="user")]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "AZURE_OPENAI_ENDPOINT", "ANTHROPIC_BASE_URL", "OLLAMA_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-ours-0123456789")
    monkeypatch.setenv("A_KEY", "sk-theirs-0123456789")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with anyio.create_task_group() as group:
        group.start_soon(listener.serve, server.serve)
        server.url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        yield server
        group.cancel_scope.cancel()
    await listener.aclose()


def config(folder: Path, text: str) -> Config:
    file = folder / "headway.toml"
    file.write_text(f'[database]\npath = "headway.db"\n{text}')
    return load(file, environ={})


INFO = "vision = false, function_calling = true, json_output = true, structured_output = false"
TABLES = {
    "anthropic": 'client = "anthropic"\narguments = { max_tokens = 100 }\n',
    "azure": 'client = "azure"\narguments = { api_version = "2024-10-21" }\n',
    "local": f'client = "ollama"\narguments = {{ model_info = {{ {INFO}, family = "x" }} }}\n',
    "openai": "arguments = { temperature = 0.5 }\n",
}


@pytest.mark.parametrize("provider", TABLES)
async def test_each_client_asks_in_its_providers_form_and_is_charged_so(
    tmp_path: Path, server: Server, provider: str
) -> None:
    url = f"{server.url}/v1" if provider == "openai" else server.url
    settings = config(tmp_path, f'[models.m]\nbase_url = "{url}"\n{TABLES[provider]}')
    server.says = [STOCK[provider].answer]
    async with Headway(settings) as headway:
        client: Any = headway.model("m")
        assert (await client.create(HELLO)).content == "Hello."
        assert client.model.provider.name == provider
        assert client.model.quotas == ("default",)
    assert len(server.asked) == 1


async def test_arguments_reach_the_provider_and_are_estimated_by(tmp_path: Path) -> None:
    bodies: list[Any] = []

    def reply(body: Any) -> str:
        bodies.append(body)
        return "ok"

    async with simulated_provider(Settings(reply=reply)) as provider:
        text = f"""
[models.m]
base_url = "{provider.base_url}"
[models.m.arguments]
temperature = 0.25
max_tokens = 77
timeout = 5.5
model_info = {{ vision = false }}
"""
        async with Headway(config(tmp_path, text)) as headway:
            client: Any = headway.model("m")
            await client.create(HELLO)
            (row,) = await headway.list_calls((await headway.list_runs())[0].id)
            assert client.model_info["vision"] is False
            assert client.model_info["function_calling"] is True
            assert client.wrapped._client.timeout == 5.5
    assert (bodies[0]["temperature"], bodies[0]["max_tokens"]) == (0.25, 77)
    assert row.call.tokens >= 77


async def test_any_other_class_is_named_by_its_path(tmp_path: Path) -> None:
    settings = config(
        tmp_path,
        """
[models.canned]
client = "autogen_ext.models.replay.ReplayChatCompletionClient"
arguments = { chat_completions = ["a", "b"] }
""",
    )
    async with Headway(settings) as headway:
        with pytest.raises(CallerError, match=r"unexpected keyword argument 'model'.*see client"):
            headway.model("canned")


class Echo(OpenAIChatCompletionClient):
    """A class of the user's own."""

    component_provider_override = None


@pytest.mark.parametrize(
    ("more", "key"),
    [("", "no-key"), ('api_key_env = "A_KEY"\n', "sk-theirs-0123456789")],
)
async def test_a_class_of_ones_own_gets_the_key_of_its_table_alone(
    tmp_path: Path, more: str, key: str
) -> None:
    path = f"{Echo.__module__}.Echo"
    text = f'[models.m]\nclient = "{path}"\nbase_url = "http://127.0.0.1:9/v1"\n{more}'
    async with Headway(config(tmp_path, text)) as headway:
        client: Any = headway.model("m")
        assert type(client.wrapped).__name__ == "Echo"
        assert client.wrapped._client.api_key == key
        assert client.model.provider.name == "openai"


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('client = "opnai"', "headway.toml:4: models.m.client must be one of openai, azure,"),
        (
            "arguments = { temprature = 1 }",
            "models.m.arguments.temprature is unknown; did you mean temperature?",
        ),
        ("arguments = 3", "models.m.arguments must be a table of arguments, not 3"),
        ('arguments = { api_key = "sk-1" }', "must not set api_key: that is for name, base_url"),
        (
            'arguments = { default_headers = { x-api-key = "sk-1234567" } }',
            "must not hold x-api-key: it would put a secret into a file",
        ),
        ('client = "azure"', "models.m.arguments must set api_version: client 'azure' needs it"),
        ("arguments = { metadata = { at = 2026-01-01 } }", "must hold no date or time"),
    ],
)
def test_a_mistake_is_found_when_the_configuration_is_read(
    tmp_path: Path, lines: str, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, f"[models.m]\n{lines}\n")
    assert says in str(caught.value)
    assert "sk-1" not in str(caught.value)


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name="anthropic")

    monkeypatch.setattr("headway_agents.calls.building.import_module", missing)
    kind = CLIENTS["anthropic"]
    says = r"needs the module 'anthropic'.*pip install 'headway-agents\[anthropic\]'"
    with pytest.raises(CallerError, match=says):
        client_class(kind.path, "m", kind.package)


@pytest.mark.parametrize("path", ["json.JSONDecoder", "json.nothing"])
def test_a_class_that_is_no_client_is_refused(path: str) -> None:
    with pytest.raises(CallerError, match="is no ChatCompletionClient of AutoGen's"):
        client_class(path, "m")


async def test_openais_sdk_is_for_models_that_speak_its_protocol(tmp_path: Path) -> None:
    text = '[models.m]\nclient = "anthropic"\napi_key_env = "A_KEY"'
    async with Headway(config(tmp_path, text)) as headway:
        with pytest.raises(CallerError, match=r"hw\.openai speaks OpenAI's protocol"):
            headway.openai("m")
        client: Any = headway.model("m")
        assert senders(client.wrapped).address == "https://api.anthropic.com"


async def test_the_table_of_a_model_leads_a_component_of_ollama_elsewhere(
    tmp_path: Path, server: Server
) -> None:
    made = STOCK["local"].make("http://gpu.example:11434")
    team = AssistantAgent("a", made)
    component = team.dump_component().model_dump(mode="json")
    component["config"]["model_client"]["config"]["model_info"] = made.model_info
    (tmp_path / "team.json").write_text(json.dumps(component))
    server.says = [STOCK["local"].answer]
    settings = config(tmp_path, f'[models.m]\nbase_url = "{server.url}"\nclient = "ollama"')
    async with Headway(settings) as headway:
        assert (await headway.run(str(tmp_path / "team.json"), task="x")).text == "Hello."


@pytest.mark.parametrize("word", CLIENTS)
def test_the_arguments_are_those_of_autogens_clients(word: str) -> None:
    kind = CLIENTS[word]
    made = client_class(kind.path, "m", kind.package)
    documented = set(getattr(made, "component_config_schema").model_fields)  # noqa: B009
    late = {"model_capabilities", "response_format", "follow_redirects"}
    # Ollama's client passes on its host alone.
    late |= {"headers", "timeout"} if word == "ollama" else {"azure_ad_token_provider"}
    assert documented - OURS - late <= kind.arguments | {"response_format"}
    if word in ("openai", "azure"):
        from autogen_ext.models.openai import _openai_client as theirs

        known = {*theirs.create_kwargs, *theirs.openai_init_kwargs, *documented}
        assert kind.arguments <= known
    assert kind.needs == () or set(kind.needs) <= kind.arguments


def test_arguments_are_shown_with_the_settings(tmp_path: Path) -> None:
    rows = config(tmp_path, "[models.m]\narguments = { seed = 1 }").rows()
    (shown,) = [value for name, value, _ in rows if name == "models.m.arguments"]
    assert json.loads(shown) == {"seed": 1}
    assert re.fullmatch(r"\{.*\}", shown)

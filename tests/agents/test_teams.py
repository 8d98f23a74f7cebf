import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.base import Team
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat, SelectorGroupChat
from autogen_core.models import ChatCompletionClient
from autogen_ext.models.openai import OpenAIChatCompletionClient

from headway_agents import RunScope, bind, load_component, redacted
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.errors import CallerError
from headway_scheduler.model.calls import Priority
from headway_scheduler.model.quotas import Quota
from headway_scheduler.runtime.local import LocalScheduler
from headway_scheduler.testing.provider import Fault, FaultKind

pytestmark = pytest.mark.anyio
KEY = "sk-test-0123456789abcdef"


def team(client: ChatCompletionClient) -> Team:
    review = SelectorGroupChat(
        [AssistantAgent("critic", client), AssistantAgent("editor", client)],
        client,
        name="review",
        selector_prompt="Only say: critic",
        termination_condition=MaxMessageTermination(3),
    )
    return RoundRobinGroupChat(
        [AssistantAgent("writer", client), review],
        termination_condition=MaxMessageTermination(3),
    )


def choosing(body: Any) -> str | None:
    return "critic" if "Only say: critic" in json.dumps(body["messages"]) else None


def as_json(component: Any) -> str:
    return str(component.dump_component().model_dump_json())


def as_yaml(component: Any) -> str:
    return yaml.safe_dump(json.loads(as_json(component)), sort_keys=False)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


async def close(team: Any) -> None:
    """Close what a file made: one client for each agent."""
    for holder in (team, *getattr(team, "_participants", ())):
        if holder is not team:
            await close(holder)
        elif hasattr(holder, "_model_client"):
            await holder._model_client.wrapped.close()


@pytest.mark.parametrize(("dump", "name"), [(as_json, "team.json"), (as_yaml, "team.yaml")])
async def test_a_dumped_team_runs_from_its_file(
    dump: Any, name: str, scope: RunScope, serve: Any, records: Any, models: Any
) -> None:
    async with serve(reply=choosing) as (provider, inner):
        text = dump(team(inner))
        assert "**********" in text
        loaded = load_component(text, name=name)
        bind(loaded, scope, models)
        await loaded.run(task="Go.")
        await close(loaded)
        paths = [record.call.path for record in await records()]
        assert paths == ["writer", "review/selector", "review/critic"]
        assert len(provider.ledger.paid) == 3


async def test_clients_of_ours_survive_the_file(
    scope: RunScope, serve: Any, records: Any, models: Any
) -> None:
    async with serve(reply=choosing) as (_, inner):
        loaded = load_component(as_json(team(models(inner))), name="team.json")
        bind(loaded, scope, lambda client: pytest.fail(f"{client} was wrapped again"))
        await loaded.run(task="Go.")
        await close(loaded)
        assert len(await records()) == 3


def client_config(**fields: Any) -> dict[str, Any]:
    info = dict.fromkeys(["vision", "function_calling", "json_output", "structured_output"], True)
    return {
        "provider": "autogen_ext.models.openai.OpenAIChatCompletionClient",
        "component_type": "model",
        "config": {"model": "sim-1", "model_info": {**info, "family": "unknown"}, **fields},
    }


def agent_config(**fields: Any) -> dict[str, Any]:
    return {
        "provider": "autogen_agentchat.agents.AssistantAgent",
        "component_type": "agent",
        "component_version": 2,
        "config": {
            "name": "writer",
            "description": "Writes.",
            "reflect_on_tool_use": False,
            "tool_call_summary_format": "{result}",
            "model_client": client_config(**fields),
        },
    }


@pytest.mark.parametrize(
    ("written", "used"),
    [({}, KEY), ({"api_key": "**********"}, KEY), ({"api_key": ""}, KEY), ({"api_key": "x"}, "x")],
)
def test_a_key_comes_from_the_environment_unless_it_is_written(
    written: dict[str, str], used: str
) -> None:
    agent = load_component(json.dumps(agent_config(**written)), name="agent.json")
    assert isinstance(agent, AssistantAgent)
    client = agent._model_client
    assert isinstance(client, OpenAIChatCompletionClient)
    assert client._client.api_key == used


@pytest.mark.parametrize("dump", [json.dumps, yaml.safe_dump])
def test_redacted_text_holds_no_key_and_still_loads(dump: Any) -> None:
    config = agent_config(
        api_key=KEY, default_headers={"Authorization": f"Bearer {KEY}", "X-Team": "a"}
    )
    config["config"]["system_message"] = f"Never say\n{KEY}."
    clean = redacted(dump(config))
    assert KEY not in clean
    assert "X-Team" in clean
    agent = load_component(clean, name="agent")
    assert isinstance(agent, AssistantAgent)


def test_a_key_in_a_comment_is_redacted() -> None:
    text = f"# was {KEY}\n" + yaml.safe_dump(agent_config())
    assert redacted(text) == text.replace(KEY, "[key]")


def test_text_without_a_key_is_kept_to_the_letter() -> None:
    text = "# ours\n" + yaml.safe_dump(agent_config())
    assert redacted(text) == text


@pytest.mark.parametrize(
    "provider",
    ["autogen_ext.models.openai.OpenAIChatCompletionClient", "OpenAIChatCompletionClient"],
)
@pytest.mark.parametrize("value", ["zebra", ["zebra"], {"a": "zebra"}, {"b": [{"c": "zebra"}]}])
def test_a_field_that_a_class_of_autogen_does_not_declare_is_not_kept(
    value: Any, provider: str
) -> None:
    config = agent_config(params=value) | {"params": value}
    config["config"]["model_client"]["provider"] = provider
    expected = agent_config()
    expected["config"]["model_client"]["provider"] = provider
    assert json.loads(redacted(json.dumps(config))) == expected


def test_fields_of_others_components_are_kept() -> None:
    config = agent_config()
    config["config"]["model_client"]["provider"] = "no_such_module.Client"
    config["config"]["model_client"]["config"]["params"] = {"top_k": 4}
    assert json.loads(redacted(json.dumps(config))) == config


def test_a_tool_may_have_a_parameter_called_api_key() -> None:
    schema = {"parameters": {"properties": {"api_key": {"type": "string"}}}}
    config = agent_config()
    config["config"]["metadata"] = schema
    assert json.loads(redacted(json.dumps(config))) == config


async def test_no_key_reaches_the_database(
    tmp_path: Path, serve: Any, models: Any, question: Any
) -> None:
    async with SqliteStore(tmp_path / "h.db") as store:
        async with (
            LocalScheduler(store, [Quota.per_minute("q", requests=1000)]) as scheduler,
            serve(faults=lambda *_: Fault(FaultKind.UNAUTHORIZED)) as (_, inner),
        ):
            client = models(inner).bound(RunScope(scheduler, "run", Priority.NORMAL), "w")
            with pytest.raises(Exception, match="key"):
                await client.create(question())
        (record,) = await store.calls("run")
        assert record.error.startswith("AuthenticationError")
    written = written_in(tmp_path)
    assert b"AuthenticationError" in written
    assert KEY.encode() not in written
    assert b"sk-" not in written


def written_in(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ('{"provider": "x",\n "config": }', "t.json", r"t\.json: no valid JSON at line 2"),
        ("provider: x\nconfig: [1, 2\n", "t.yaml", r"t\.yaml: no valid YAML at line \d"),
        ("{provider: x, config: {}}", "t.yml", "no dotted name"),
        ("just text", "t.yaml", r"t\.yaml: no 'provider'"),
        ("", "t.yaml", "no 'provider'"),
        ('{"config": {}}', "t.json", "no 'provider'"),
        ('{"provider": "no_such.Thing", "config": {}}', "t.json", "no module 'no_such'"),
        ('{"provider": "json.Nothing", "config": {}}', "t.json", "'json' has no 'Nothing'"),
        ('{"provider": "json.JSONDecoder", "config": {}}', "t.json", r"t\.json: TypeError"),
        ('{"provider": "json.JSONDecoder"}', "t.json", "config: Field required"),
        (json.dumps(client_config()), "t.json", "gives a OpenAIChatCompletionClient"),
    ],
)
def test_a_broken_file_is_explained(text: str, name: str, message: str) -> None:
    with pytest.raises(CallerError, match=message):
        load_component(text, name=name)


def test_a_broken_part_is_named() -> None:
    config = agent_config()
    config["config"]["model_client"]["provider"] = "autogen_ext.models.openai.Nothing"
    with pytest.raises(CallerError, match=r"t\.json: config\.model_client: provider"):
        load_component(json.dumps(config), name="t.json")
    del config["config"]["name"]
    config["config"]["model_client"] = client_config()
    with pytest.raises(CallerError, match=r"t\.json: name: Field required"):
        load_component(json.dumps(config), name="t.json")


def test_a_missing_key_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(CallerError, match="OPENAI_API_KEY"):
        load_component(json.dumps(agent_config()), name="t.json")

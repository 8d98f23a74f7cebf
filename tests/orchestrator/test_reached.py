"""A key goes only to an address that the user paired it with, whatever a component file says."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core.models import UserMessage
from autogen_ext.models.cache import ChatCompletionCache
from autogen_ext.models.openai import OpenAIChatCompletionClient
from autogen_ext.models.replay import ReplayChatCompletionClient

from headway import Headway, RunFailed
from headway.config import Config, load
from headway.paired_keys import NO_KEY
from headway.pricing.prices import charge
from headway.reached import key_of, of_client, of_model, quotas_past, replaced
from headway_scheduler.errors import CallerError, ProviderError
from headway_scheduler.model.calls import UNPRICED, Served, Usage
from headway_scheduler.providers import PROVIDERS
from headway_scheduler.testing.provider import (
    Fault,
    FaultKind,
    Limits,
    Settings,
    simulated_provider,
)

pytestmark = pytest.mark.anyio

OURS, OTHERS = "sk-of-my-openai-account-0123456789", "sk-other-0123456789abcdef"
INFO: Any = {
    "vision": False,
    "function_calling": True,
    "json_output": False,
    "structured_output": False,
    "family": "unknown",
}


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[str, list[str]]]:
    """A server that refuses everything: its address, and the heads of the requests it got."""
    heads: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        body = b'{"error": {"message": "no", "code": "bad"}}'
        head = f"HTTP/1.1 400 Bad\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        writer.write(f"{head}\r\nconnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", heads


def team_file(folder: Path, base_url: str) -> Path:
    """A file as somebody else wrote it, with an address and a key of their own."""
    client = OpenAIChatCompletionClient(
        model="third", api_key="x", base_url=base_url, model_info=INFO
    )
    component = AssistantAgent("a", client).dump_component().model_dump(mode="json")
    component["config"]["model_client"]["config"]["api_key"] = "sk-third-party-0123456789abcdef"
    file = folder / "team.json"
    file.write_text(json.dumps(component))
    return file


def config(folder: Path, text: str = "") -> Config:
    file = folder / "headway.toml"
    file.write_text(f'[database]\npath = "headway.db"\n{text}')
    return load(file, environ={})


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "AZURE_OPENAI_ENDPOINT", "ANTHROPIC_BASE_URL", "OLLAMA_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", OURS)
    monkeypatch.setenv("OTHER_KEY", OTHERS)


PAIRED = '[models.third]\nbase_url = "{url}"\napi_key_env = "OTHER_KEY"\n'


@pytest.mark.parametrize(("text", "sent"), [("", NO_KEY), (PAIRED, OTHERS)])
async def test_the_servers_key_is_sent_and_never_ours(tmp_path: Path, text: str, sent: str) -> None:
    async with listening() as (url, heads):
        settings = config(tmp_path, text.format(url=url))
        async with Headway(settings) as headway:
            with pytest.raises(RunFailed):
                await headway.run(str(team_file(tmp_path, url)), task="x")
    assert f"bearer {sent}".lower() in heads[-1].lower()
    assert all(OURS not in head for head in heads)


async def test_an_address_that_no_key_is_paired_with_is_refused_before_anything_is_sent(
    tmp_path: Path,
) -> None:
    async with Headway(config(tmp_path)) as headway:
        with pytest.raises(
            RunFailed,
            match=r'"?third\'? of .*team.json asks https://llm.example.com/v1, and no key is '
            r'paired with it: set base_url and api_key_env in \[models."third"\]',
        ):
            await headway.run(str(team_file(tmp_path, "https://llm.example.com/v1")), task="x")


async def test_what_the_configuration_says_goes_before_the_file(tmp_path: Path) -> None:
    async with listening() as (url, heads):
        settings = config(tmp_path, PAIRED.format(url=url))
        async with Headway(settings) as headway:
            with pytest.raises(RunFailed):
                await headway.run(str(team_file(tmp_path, "https://llm.example.com/v1")), task="x")
    assert OTHERS in heads[-1]


@pytest.mark.parametrize(
    ("provider", "client", "is_refused"),
    [
        ("openai", {}, False),
        ("openai", {"base_url": "https://api.openai.com/v1"}, False),
        ("openai", {"base_url": "http://api.openai.com/v1"}, True),
        ("openai", {"base_url": "https://api.openai.com.evil.example/v1"}, True),
        ("openai", {"base_url": "https://api.openai.com@evil.example/v1"}, True),
        ("openai", {"base_url": "https://[::1/v1"}, True),
        ("openai", {"base_url": "http://[::1]:8000/v1"}, False),
        ("openai", {"base_url": "http://localhost:8000/v1"}, False),
        ("openai", {"base_url": "http://localhost.evil.example/v1"}, True),
        ("anthropic", {"base_url": "https://api.openai.com/v1"}, True),
        ("azure", {"azure_endpoint": "https://ours.openai.azure.com"}, True),
        ("local", {"base_url": "http://gpu.example:11434"}, False),
    ],
)
def test_which_addresses_get_the_key_of_the_environment(
    tmp_path: Path, provider: str, client: dict[str, str], is_refused: bool
) -> None:
    asked = {"model": "m", **client}
    if is_refused:
        with pytest.raises(CallerError, match="no key is paired with it"):
            replaced(config(tmp_path), provider, asked, "team.json")
    else:
        assert OURS not in replaced(config(tmp_path), provider, asked, "t.json").values()


@pytest.mark.parametrize(
    ("address", "is_refused"),
    [("https://gate.example/v1", False), ("https://gate.example:444/v1", True)],
)
def test_a_key_and_an_address_of_the_environment_belong_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, is_refused: bool
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "https://gate.example/v1")
    asked = {"model": "m", "base_url": address}
    if is_refused:
        with pytest.raises(CallerError):
            replaced(config(tmp_path), "openai", asked, "t.json")
    else:
        assert replaced(config(tmp_path), "openai", asked, "t.json") == {}


OTHER_SERVER = '[models.m]\nbase_url = "{url}"\n'


@pytest.mark.parametrize("url", ["https://llm.example.com/v1", "http://api.openai.com/v1"])
async def test_a_server_of_the_configuration_never_gets_the_openai_key_unasked(
    tmp_path: Path, url: str
) -> None:
    settings = config(tmp_path, OTHER_SERVER.format(url=url))
    async with Headway(settings) as headway:
        said = rf"asks {url}, and no key is paired with it: set api_key_env in \[models.\"m\"\]"
        for ask in (headway.model, headway.openai):
            with pytest.raises(CallerError, match=said):
                ask("m")


@pytest.mark.parametrize(
    ("url", "more", "key"),
    [
        ("https://llm.example.com/v1", "keyless = true", NO_KEY),
        ("https://llm.example.com/v1", 'api_key_env = "OTHER_KEY"', OTHERS),
        ("https://llm.example.com/v1", 'api_key_env = "OPENAI_API_KEY"', OURS),
        ("https://api.openai.com/v1", "", OURS),
        ("http://127.0.0.1:4000/v1", "", NO_KEY),
        ("http://127.0.0.1:4000/v1", 'api_key_env = "OTHER_KEY"', OTHERS),
    ],
)
def test_the_key_of_a_server_is_the_one_that_its_table_names(
    tmp_path: Path, url: str, more: str, key: str
) -> None:
    assert key_of(of_model(config(tmp_path, OTHER_SERVER.format(url=url) + more), "m")) == key


def test_a_server_of_a_component_file_may_need_none(tmp_path: Path) -> None:
    settings = config(tmp_path, "[models.m]\nkeyless = true")
    asked = {"model": "m", "base_url": "https://llm.example.com/v1"}
    assert replaced(settings, "openai", asked, "t.json") == {"api_key": NO_KEY}


# One truth: quotas, prices and addresses of clients that no table names


def gpt(model: str = "gpt-4o", **more: Any) -> OpenAIChatCompletionClient:
    return OpenAIChatCompletionClient(model=model, api_key="x", model_info=INFO, **more)


HOME = """
[defaults]
model = "home"
[quotas.ours]
requests_per_minute = 600
[quotas.theirs]
concurrency = 2
[models.home]
base_url = "http://127.0.0.1:4000/v1"
quotas = ["ours"]
usd_per_million_input_tokens = 1
usd_per_million_output_tokens = 1
[models.far]
base_url = "https://llm.example.com/v1"
provider = "local"
quotas = ["theirs"]
keyless = true
[models.listed]
quotas = ["theirs"]
"""


@pytest.mark.parametrize(
    ("model", "address", "quota", "provider"),
    [
        ("any", "http://127.0.0.1:4000/v1/other", "ours", "openai"),
        ("any", "http://127.0.0.1:4001/v1", "at 127.0.0.1:4001", "openai"),
        ("any", "https://api.openai.com/v1", "at api.openai.com", "openai"),
        ("gemini-2.0-flash", None, "at generativelanguage.googleapis.com", "gemini"),
        ("any", "https://llm.example.com/v2", "theirs", "local"),
        ("home", "https://elsewhere.example.com/v1", "at elsewhere.example.com", "openai"),
        ("listed", "https://elsewhere.example.com/v1", "theirs", "openai"),
    ],
)
async def test_a_client_draws_on_the_quota_of_the_server_that_it_asks(
    tmp_path: Path, model: str, address: str | None, quota: str, provider: str
) -> None:
    client = gpt(model, **({} if address is None else {"base_url": address}))
    found = of_client(config(tmp_path, HOME), client)
    assert (found.model, found.quotas, found.provider) == (model, (quota,), provider)
    await client.close()


async def test_a_client_is_priced_by_its_own_address(tmp_path: Path) -> None:
    settings = config(tmp_path, HOME)
    there, here = gpt(), gpt(base_url="http://127.0.0.1:4001/v1")
    usage = Served(Usage(1_000_000, 0))
    assert charge(of_client(settings, there), usage, 1.8e9).source.startswith("list")
    assert charge(of_client(settings, here), usage, 1.8e9) == UNPRICED
    home = of_client(settings, gpt("x", base_url="http://127.0.0.1:4000/v1"))
    assert charge(home, usage, 1.8e9).usd == 1.0


@pytest.mark.parametrize(
    ("table", "address", "variable"),
    [
        ('[models."gemini-2.0-flash"]', "generativelanguage.googleapis.com", "GEMINI_API_KEY"),
        ('[models."claude-sonnet-4-5"]', "api.anthropic.com", "ANTHROPIC_API_KEY"),
        ('[models.x]\nprovider = "anthropic"', "api.anthropic.com", "ANTHROPIC_API_KEY"),
        ('[models."Llama-4"]', "api.llama.com", "LLAMA_API_KEY"),
        ('[models.x]\nclient = "anthropic"', "api.anthropic.com", "ANTHROPIC_API_KEY"),
        ("[models.x]", "api.openai.com", "OPENAI_API_KEY"),
    ],
)
def test_a_model_without_an_address_is_its_providers_and_gets_that_key_alone(
    tmp_path: Path, table: str, address: str, variable: str
) -> None:
    settings = config(tmp_path, table)
    found = of_model(settings, next(iter(settings.models)))
    assert found.address is not None
    assert urlsplit(found.address).netloc == address
    assert found.key_name == variable
    assert found.provider in PROVIDERS


@pytest.mark.parametrize(
    ("table", "variable", "stated", "address", "provider"),
    [
        ("", "OPENAI_BASE_URL", "http://gate:1/v1", "http://gate:1/v1", "openai"),
        ('client = "anthropic"', "ANTHROPIC_BASE_URL", "http://a:1", "http://a:1", "anthropic"),
        ('client = "ollama"', "OLLAMA_HOST", "gpu:11434", "http://gpu:11434", "local"),
        # The variable is for Anthropic's own protocol, and this client speaks OpenAI's.
        (
            'provider = "anthropic"',
            "ANTHROPIC_BASE_URL",
            "http://a:1",
            "https://api.anthropic.com/v1/",
            "anthropic",
        ),
    ],
)
def test_an_address_of_the_environment_is_that_of_the_client_which_reads_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    table: str,
    variable: str,
    stated: str,
    address: str,
    provider: str,
) -> None:
    monkeypatch.setenv(variable, stated)
    found = of_model(config(tmp_path, f"[models.x]\n{table}"), "x")
    assert (found.address, found.provider) == (address, provider)


async def test_a_client_without_an_address_has_the_table_of_its_model(tmp_path: Path) -> None:
    """A client that shows its model and nothing else, and one that shows neither."""
    settings = config(tmp_path, HOME)
    shows, silent = ReplayChatCompletionClient(["a"]), ReplayChatCompletionClient(["a"])
    shows.model = "far"  # type: ignore[attr-defined]
    assert of_client(settings, shows).quotas == ("theirs",)
    assert of_client(settings, silent).quotas == ("ours",)
    assert of_client(settings, silent).model == "ReplayChatCompletionClient"


def test_a_provider_without_a_server_of_its_own_needs_an_address(tmp_path: Path) -> None:
    settings = config(tmp_path, '[models.x]\nprovider = "local"')
    with pytest.raises(CallerError, match=r"names no server.*set base_url in"):
        key_of(of_model(settings, "x"))


async def test_two_servers_in_one_component_file_have_a_quota_each(tmp_path: Path) -> None:
    """The one refuses its account, and stops nobody else's quota."""
    settings = Settings(faults=lambda number, _: Fault(FaultKind.UNAUTHORIZED))
    async with (
        simulated_provider(settings) as broken,
        simulated_provider() as well,
        Headway(config(tmp_path)) as headway,
    ):
        clients = [gpt(name, base_url=each.base_url) for name, each in (("a", broken), ("b", well))]
        agents = [AssistantAgent(f"agent_{n}", each) for n, each in enumerate(clients)]
        team = RoundRobinGroupChat(agents, termination_condition=MaxMessageTermination(3))
        (tmp_path / "team.json").write_text(team.dump_component().model_dump_json())
        team = RoundRobinGroupChat(agents[::-1], termination_condition=MaxMessageTermination(2))
        (tmp_path / "other.json").write_text(team.dump_component().model_dump_json())
        with pytest.raises(RunFailed):
            await headway.run(str(tmp_path / "team.json"), task="x")
        assert (await headway.run(str(tmp_path / "other.json"), task="x")).calls == 1
        gauges = headway.scheduler.statistics().gauges
    stopped = {gauge.quota: gauge.stopped is not None for gauge in gauges}
    hosts = [each.base_url.removeprefix("http://").removesuffix("/v1") for each in (broken, well)]
    assert stopped == {f"at {hosts[0]}": True, f"at {hosts[1]}": False, "default": False}


async def test_what_an_address_taught_is_known_after_a_restart(tmp_path: Path) -> None:
    async with simulated_provider(Settings(limits=Limits(requests_per_minute=1200))) as provider:
        settings = config(tmp_path)
        for _ in range(2):
            client = gpt("m", base_url=provider.base_url)
            async with Headway(settings) as headway:
                asked = headway.model(client)
                await asked.create([UserMessage(content="hi", source="user")])
                gauges = headway.scheduler.statistics().gauges
            await client.close()
        name = f"at {provider.base_url.removeprefix('http://').removesuffix('/v1')}"
        rates = [g.per_second for g in gauges if (g.quota, g.resource) == (name, "requests")]
        assert rates == [20.0]
        async with Headway(settings) as headway:
            restored = headway.scheduler.statistics().gauges
            assert name in {gauge.quota for gauge in restored}
            await headway.limits.set(name, {"concurrency": 1})
            assert [g.resource for g in headway.scheduler.statistics().gauges if g.quota == name]


async def test_a_client_that_is_led_elsewhere_sends_nothing(tmp_path: Path) -> None:
    async with listening() as (url, heads), simulated_provider() as provider:
        client = gpt("m", base_url=provider.base_url)
        async with Headway(config(tmp_path)) as headway:
            asked = headway.model(client)
            client._client.base_url = url  # what a user's code may do at any time
            with pytest.raises(ProviderError, match=r"its key belongs to .*nothing was sent"):
                await asked.create([UserMessage(content="hi", source="user")])
        await client.close()
        assert (heads, len(provider.ledger)) == ([], 0)


async def test_a_cache_around_a_client_is_one_around_a_scheduled_client(tmp_path: Path) -> None:
    async with simulated_provider() as provider, Headway(config(tmp_path)) as headway:
        inner = gpt("m", base_url=provider.base_url)
        cache = headway.model(ChatCompletionCache(inner), priority="high")
        assert isinstance(cache, ChatCompletionCache)
        for is_hit in (False, True):
            said = await cache.create([UserMessage(content="hi", source="user")])
            assert said.cached is is_hit
        (run,) = await headway.list_runs()
        (row,) = await headway.list_calls(run.id)
        assert (row.call.model, len(provider.ledger)) == ("m", 1)
        assert row.call.priority.label == "high"
        await inner.close()


async def test_a_follower_finds_that_an_address_has_answered_meanwhile(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with (
        simulated_provider() as provider,
        Headway(settings) as leader,
        Headway(settings) as follower,
    ):
        assert not follower.is_leader
        known = follower._opened.scheduler
        assert not await known.has_answered(provider.base_url)
        client = gpt("m", base_url=provider.base_url)
        await leader.model(client).create([UserMessage(content="hi", source="user")])
        address = of_client(settings, client).shown
        assert await known.has_answered(address)
        await client.close()


@pytest.mark.parametrize(
    ("server", "quotas"),
    [
        (("http", "127.0.0.1", 4000), ("ours",)),
        (("https", "llm.example.com", None), ("theirs",)),
        (("https", "api.openai.com", None), ("at api.openai.com",)),
        (("https", "api.anthropic.com", None), ("at api.anthropic.com",)),
        (("http", "127.0.0.1", 4001), None),
        (("http", "llm.example.com", None), None),
        (("https", "www.example.com", None), None),
    ],
)
def test_what_goes_past_the_scheduler_is_charged_to_the_quota_of_its_server(
    tmp_path: Path, server: tuple[str, str, int | None], quotas: tuple[str, ...] | None
) -> None:
    assert quotas_past(config(tmp_path, HOME), server) == quotas


def test_without_a_configuration_openai_is_the_server_of_the_built_in_quota(
    tmp_path: Path,
) -> None:
    assert quotas_past(config(tmp_path), ("https", "api.openai.com", None)) == ("default",)

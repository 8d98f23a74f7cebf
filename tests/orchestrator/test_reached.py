"""A key goes only to an address that the user paired it with, whatever a component file says."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_ext.models.openai import OpenAIChatCompletionClient

from headway import Headway, RunFailed
from headway.config import Config, load
from headway.reached import NO_KEY, key_of, reached
from headway_scheduler.errors import CallerError

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
    for name in ("OPENAI_BASE_URL", "AZURE_OPENAI_ENDPOINT", "ANTHROPIC_BASE_URL"):
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
            reached(config(tmp_path), provider, asked, "team.json")
    else:
        assert OURS not in reached(config(tmp_path), provider, asked, "t.json").values()


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
            reached(config(tmp_path), "openai", asked, "t.json")
    else:
        assert reached(config(tmp_path), "openai", asked, "t.json") == {}


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
    assert key_of(config(tmp_path, OTHER_SERVER.format(url=url) + more), "m") == key


def test_a_server_of_a_component_file_may_need_none(tmp_path: Path) -> None:
    settings = config(tmp_path, "[models.m]\nkeyless = true")
    asked = {"model": "m", "base_url": "https://llm.example.com/v1"}
    assert reached(settings, "openai", asked, "t.json") == {"api_key": NO_KEY}

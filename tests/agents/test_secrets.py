"""No text has a key that the process knows; component files keep no field that can hold one."""

import base64
import json
import logging
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from headway_agents import secrets
from headway_agents.secrets import (
    remember,
    scrubbed,
    with_variables,
    without_known_keys,
    without_secret_fields,
    without_whole_keys,
)
from headway_scheduler.errors import CallerError

KEY = "tr0ub4dor&3/plain+words"


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Each test knows no key at first."""
    before = dict(secrets._known)
    secrets._known.clear()
    yield
    secrets._known.clear()
    secrets._known.update(before)


@pytest.mark.parametrize(
    "form",
    [KEY, quote(KEY, safe=""), base64.b64encode(KEY.encode()).decode()],
    ids=["plain", "url", "base64"],
)
def test_a_key_that_was_read_is_replaced_by_its_value(form: str) -> None:
    assert scrubbed(f"refused: {form}!") == f"refused: {form}!"
    remember(f"{KEY}\n")
    for clean in (scrubbed, without_whole_keys, without_known_keys):
        assert clean(f"refused: {form}!") == "refused: [key]!"


@pytest.mark.parametrize("value", [None, "", "short", "**********"])
def test_what_is_no_key_is_not_remembered(value: str | None) -> None:
    remember(value)
    assert not secrets._known


def test_log_lines_and_tracebacks_hold_no_key(caplog: pytest.LogCaptureFixture) -> None:
    remember(KEY)
    try:
        raise ValueError(f"with {KEY}")
    except ValueError:
        logging.getLogger("headway").exception("asked with %s", KEY)
    assert KEY not in caplog.text
    assert "asked with [key]" in caplog.text
    assert "ValueError: with [key]" in caplog.text


PLANTED: list[dict[str, Any]] = [
    {"api_key": "VALUE"},
    {"apiKey": "VALUE"},
    {"subscription_key": "VALUE"},
    {"keys": ["VALUE"]},
    {"azure_ad_token": "VALUE"},
    {"aws_session_token": "VALUE"},
    {"client_secret": "VALUE"},
    {"password": "VALUE"},
    {"passphrase": "VALUE"},
    {"credentials": "VALUE"},
    {"auth": "VALUE"},
    {"connection_string": "VALUE"},
    {"dsn": "VALUE"},
    {"cookie": "VALUE"},
    {"access_key_id": "VALUE"},
    {"key_material": "VALUE"},
    {"conn_str": "VALUE"},
    {"sas_url": "VALUE"},
    {"session_id": "VALUE"},
    {"default_query": {"sig": "VALUE"}},
    {"headers": {"X-Custom": "VALUE"}},
    {"default_headers": {"x-goog": "VALUE"}},
    {"env": {"ANY_NAME": "VALUE"}},
    {"cookies": {"session": "VALUE"}},
    {"args": ["--api-key", "VALUE"]},
    {"args": ["run", "--token=VALUE"]},
    {"url": "https://user:VALUE@mcp.example/sse"},
    {"url": "https://mcp.example/sse?access=VALUE"},
    {"participants": [{"config": {"server_params": {"env": {"A": "VALUE"}}}}]},
]


@pytest.mark.parametrize("config", PLANTED, ids=json.dumps)
def test_no_field_of_a_component_keeps_a_secret(config: dict[str, Any]) -> None:
    text = json.dumps(config).replace("VALUE", "0123-planted-value")
    kept = json.dumps(without_secret_fields(json.loads(text)))
    assert "0123-planted-value" not in kept
    assert scrubbed("it said 0123-planted-value") == "it said [key]"


@pytest.mark.parametrize(
    "config",
    [
        {"max_tokens": 1000, "token_limit": 20},
        {"tokenizer": "cl100k_base"},
        {"headers": {"Content-Type": "application/json", "X-Team": "a"}},
        {"env": {"LANG": "en_US.UTF-8", "DEBUG": "1"}},
        {"args": ["-m", "server", "--port", "8000"]},
        {"url": "https://mcp.example/sse"},
        {"description": "Uses the password https://x.example/?a=b of the user."},
        {"json_schema": {"properties": {"api_key": {"type": "string"}}}},
        {"keywords": ["weather", "temperature"]},
    ],
    ids=json.dumps,
)
def test_what_holds_none_stays(config: dict[str, Any]) -> None:
    assert without_secret_fields(config) == config


@pytest.mark.parametrize(
    "config",
    [
        {"api_key": "VALUE"},
        {"keys": ["VALUE"]},
        {"headers": {"X-Custom": "VALUE", "authorization": "Bearer VALUE"}},
        {"env": {"ANY_NAME": "VALUE"}},
        {"args": ["--api-key", "VALUE", "--port", "1"]},
        {"participants": [{"config": {"server_params": {"env": {"A": "VALUE"}}}}]},
    ],
    ids=json.dumps,
)
def test_what_names_a_variable_stays_and_is_filled_in_when_it_is_built(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED_KEY", "0123-planted-value")
    named = json.loads(json.dumps(config).replace("VALUE", "${PLANTED_KEY}"))
    assert without_secret_fields(named) == named
    filled = json.loads(json.dumps(config).replace("VALUE", "0123-planted-value"))
    assert with_variables(named) == filled
    assert scrubbed("it said 0123-planted-value") == "it said [key]"


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLANTED_KEY", raising=False)
    with pytest.raises(CallerError, match="export PLANTED_KEY"):
        with_variables({"a": [{"b": "${PLANTED_KEY}"}]})
    prompt = {"system_message": "Use ${PLANTED_KEY} and ${x}."}
    assert with_variables(prompt) == prompt

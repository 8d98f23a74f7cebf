"""The schema of headway.toml takes what the loader takes, and marks what an editor can know."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from headway.cli import main
from headway.config.keys import KEYS
from headway.config.schema import SHAPES, schema
from headway.config.template import TEMPLATE

VALIDATOR = Draft202012Validator(schema())
DOCS = Path(__file__).parents[3] / "docs"


def wrong(text: str) -> list[str]:
    return [error.json_path for error in VALIDATOR.iter_errors(tomllib.loads(text))]


def uncommented() -> str:
    """The template with every key that it shows, which do not all fit together."""
    return re.sub(r"^# (?=[\w-]+ = |\[\w)", "", TEMPLATE, flags=re.MULTILINE)


def test_it_is_a_schema_and_has_a_shape_for_each_type() -> None:
    Draft202012Validator.check_schema(schema())
    assert {key.value_type for key in KEYS.values()} == set(SHAPES)


def test_it_takes_the_template_with_all_that_it_shows() -> None:
    assert wrong(TEMPLATE) == []
    assert wrong(uncommented()) == []


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_it_takes_the_examples(page: Path) -> None:
    for part in page.read_text().split("```toml")[1:]:
        text = part.partition("\n")[2].partition("```")[0]
        assert wrong(text) == [], text


@pytest.mark.parametrize("path", KEYS, ids=".".join)
def test_it_takes_each_default_and_refuses_another_type(path: tuple[str, ...]) -> None:
    key = KEYS[path]
    if key.default is not None and key.default != ():
        default = list(key.default) if isinstance(key.default, tuple) else key.default
        assert wrong_value(path, default) == []
    assert wrong_value(path, [{"no": "value"}]) != []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[quotas.q]\nrequest_per_minute = 5", "$.quotas.q"),
        ("[quota.q]\nrequests_per_minute = 5", "$"),
        ("[quotas.q]\nconcurrency = 0", "$.quotas.q.concurrency"),
        ("[models.m]\nquotas = 'q'", "$.models.m.quotas"),
        ("[models.m]\napi_key_env = 'sk-123'", "$.models.m.api_key_env"),
        ("[defaults]\npriority = 'urgent'", "$.defaults.priority"),
    ],
)
def test_it_marks_what_is_wrong(text: str, place: str) -> None:
    assert wrong(text) == [place]


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(schema()))


def wrong_value(path: tuple[str, ...], value: Any) -> list[str]:
    for name in reversed(path):
        value = {"any" if name == "*" else name: value}
    return [error.json_path for error in VALIDATOR.iter_errors(value)]

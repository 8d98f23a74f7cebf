"""docs/configuration.md and the template say what the loader does."""

import re
from pathlib import Path

import pytest

from headway.config import TEMPLATE, Config, ConfigError, load
from headway.config.keys import DEFAULT_LIMITS, KEYS, dotted
from headway_scheduler.model.quotas import Quota

DOC = (Path(__file__).parents[3] / "docs/configuration.md").read_text(encoding="utf-8")


def cells(line: str) -> list[str]:
    return [cell.strip().strip("`") for cell in line.strip("|").split("|")]


def test_the_table_has_exactly_the_keys_of_the_loader() -> None:
    table = DOC.split("## Keys")[1].split("\n\n")[2]
    documented = [cells(line) for line in table.splitlines()[2:]]
    known = [
        [
            dotted(path).replace('"*"', "NAME"),
            key.value_type,
            key.show(key.default),
            key.variable.replace("*", "NAME"),
        ]
        for path, key in KEYS.items()
    ]
    assert documented == known


def test_every_key_is_explained_under_its_table() -> None:
    for path in KEYS:
        section = DOC.split(f"\n### {path[0]}\n")[1].split("\n#")[0]
        assert path[-1] == "*" or f"**`{path[-1]}`**" in section, path


def test_every_variable_is_one_that_the_loader_knows() -> None:
    known = {key.variable.replace("*", "NAME") for key in KEYS.values()} | {"HEADWAY_CONFIG"}
    example = "HEADWAY_QUOTAS__AZURE_EU__CONCURRENCY"
    assert set(re.findall(r"HEADWAY_[A-Z_]+", DOC)) == (known | {example}) - {""}


def test_the_numbers_of_the_default_quota() -> None:
    for limit in DEFAULT_LIMITS.values():
        assert f"{limit:,}" in DOC


def test_the_example_loads(tmp_path: Path) -> None:
    examples = re.findall(r"```toml\n(.*?)```", DOC, re.DOTALL)
    assert examples
    for text in examples:
        (tmp_path / "headway.toml").write_text(text, encoding="utf-8")
        load(environ={}, cwd=tmp_path)


def test_the_messages_are_those_of_the_loader(tmp_path: Path) -> None:
    name, key, variable = DOC.split("```\n")[-2].splitlines()
    quota = "[quotas.openai]\nconcurrency = 1\n"
    model = '[defaults]\nmodel = "gpt-5.4"\n[models."gpt-5.4"]\nquotas = ["opnai"]'
    cases = [
        (quota + "\n" * 7 + model, {}, name),
        ("\n\n\n[quotas.openai]\nrequests_per_min = 5", {}, key),
        ("", {"HEADWAY_PRIORITY": "urgent"}, variable),
    ]
    for text, environ, message in cases:
        (tmp_path / "headway.toml").write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            load(environ=environ, cwd=tmp_path)
        assert str(caught.value) == message


def read(folder: Path, text: str) -> Config:
    (folder / "headway.toml").write_text(text, encoding="utf-8")
    return load(environ={}, cwd=folder)


def test_the_template_loads_and_shows_every_key(tmp_path: Path) -> None:
    config = read(tmp_path, TEMPLATE)
    assert config.quotas["openai"] == Quota.per_minute(
        "openai", requests=500, tokens=30_000, concurrency=32, burst_seconds=None
    )
    assert config.model("gpt-4.1").quotas == ("openai",)
    for path in KEYS:
        assert f"[{path[0]}" in TEMPLATE
        assert path[-1] == "*" or f"{path[-1]} = " in TEMPLATE, dotted(path)


def test_what_the_template_has_commented_out_loads_too(tmp_path: Path) -> None:
    commented = re.sub(r"^# (?=[\w-]+ = )", "", TEMPLATE, flags=re.MULTILINE)
    config = read(tmp_path, commented)
    assert config.models["gpt-5.4"].base_url == "http://localhost:8000/v1"
    assert list(config.workflows) == ["weekly-report", "triage"]

"""headway.toml and the environment become one checked Config."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway import config as configuration
from headway.config import Config, ConfigError, ModelConfig, load, parse_priority
from headway_scheduler.model.calls import Priority
from headway_scheduler.model.data import replace
from headway_scheduler.model.quotas import Quota, Window

Load = Callable[..., Config]

FULL = """
[database]
path = "data/jobs.db"
[defaults]
priority = "low"
model = "gpt-5.4"
[workflows]
weekly-report = "reports.weekly:build.team"
triage = "teams/triage.yaml"
[quotas.openai]
requests_per_minute = 500
tokens_per_minute = 450_000
concurrency = 32
burst_seconds = 0.5
[quotas.gpu]
concurrency = 4
[models."gpt-5.4"]
quotas = ["openai"]
[models.local]
provider = "local"
name = "qwen3-32b"
quotas = ["gpu", "openai"]
base_url = "http://localhost:8000/v1"
api_key_env = "LOCAL_KEY"
"""


@pytest.fixture
def read(tmp_path: Path) -> Load:
    """Load a file of this text (or none) from its folder, with only these variables."""

    def read(text: str | None = None, /, **environ: str) -> Config:
        if text is not None:
            (tmp_path / "headway.toml").write_text(text, encoding="utf-8")
        return load(environ=environ, cwd=tmp_path)

    return read


def test_every_key_arrives(read: Load, tmp_path: Path) -> None:
    config = read(FULL)
    assert config.database == tmp_path / "data/jobs.db"
    assert config.priority is Priority.LOW
    assert config.default_model == "gpt-5.4"
    assert config.file == tmp_path / "headway.toml"
    assert config.quotas == {
        "openai": Quota.per_minute(
            "openai", requests=500, tokens=450_000, concurrency=32, burst_seconds=0.5
        ),
        "gpu": replace(Quota.per_minute("gpu", concurrency=4), is_local=True),
    }
    assert config.models == {
        "gpt-5.4": ModelConfig("gpt-5.4", ("openai",)),
        "local": ModelConfig(
            "qwen3-32b",
            ("gpu", "openai"),
            "local",
            base_url="http://localhost:8000/v1",
            api_key_env="LOCAL_KEY",
        ),
    }
    assert config.workflows == {
        "weekly-report": "reports.weekly:build.team",
        "triage": str(tmp_path / "teams/triage.yaml"),
    }


def sources(config: Config) -> dict[str, str]:
    """Where each value came from, by key."""
    return {key: source for key, _, source in config.rows()}


def test_without_a_file(read: Load, tmp_path: Path) -> None:
    config = read()
    assert config.database == tmp_path / ".headway/headway.db"
    guess = Quota.per_minute("default", requests=500, tokens=30_000, burst_seconds=None)
    assert config.quotas == {"default": replace(guess, is_guess=True)}
    assert config.priority is Priority.NORMAL
    assert (config.file, config.default_model) == (None, None)
    assert config.model("any") == ModelConfig("any", ("default",))
    assert set(sources(config).values()) == {"default"}


def test_an_empty_file_is_like_no_file(read: Load) -> None:
    empty, without = read(""), read()
    assert (empty.quotas, empty.database) == (without.quotas, without.database)


def test_listed_and_unlisted_models(read: Load) -> None:
    config = read(FULL)
    assert config.model("local") is config.models["local"]
    assert config.model("gpt-4.1") == ModelConfig("gpt-4.1", ("openai",))
    local = read(FULL.replace('model = "gpt-5.4"', 'model = "local"')).model("gpt-4.1")
    assert (local.name, local.base_url) == ("gpt-4.1", "http://localhost:8000/v1")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[quotas.a]\nconcurrency = 1", ["a", "default"]),
        ("[models.m]", ["default"]),
        ("[quotas.default]\nconcurrency = 1", ["default"]),
        (FULL, ["openai", "gpu"]),
        (FULL + "[models.more]", ["openai", "gpu", "default"]),
    ],
)
def test_the_default_quota_is_there_when_something_draws_on_it(
    read: Load, text: str, names: list[str]
) -> None:
    assert list(read(text).quotas) == names


def test_a_table_replaces_the_default_quota_as_a_whole(read: Load) -> None:
    config = read("[quotas.default]\nconcurrency = 2")
    assert config.quotas["default"] == Quota.per_minute("default", concurrency=2)


def test_sources(read: Load) -> None:
    config = read(FULL, HEADWAY_PRIORITY="high", HEADWAY_QUOTAS__GPU__REQUESTS_PER_MINUTE="9")
    assert config.priority is Priority.HIGH
    assert sources(config)["defaults.priority"] == "HEADWAY_PRIORITY"
    assert sources(config)["quotas.gpu.requests_per_minute"] == (
        "HEADWAY_QUOTAS__GPU__REQUESTS_PER_MINUTE"
    )
    assert sources(config)["database.path"] == "headway.toml"
    assert sources(config)["workflows.triage"] == "headway.toml"
    assert sources(config)['models."gpt-5.4".name'] == "default"
    assert sources(config)["quotas.gpu.burst_seconds"] == "default"


def test_rows_show_every_value_and_where_it_came_from(read: Load, tmp_path: Path) -> None:
    rows = read(FULL, HEADWAY_QUOTAS__OPENAI__CONCURRENCY="7").rows()
    assert rows[:3] == [
        ("database.path", str(tmp_path / "data/jobs.db"), "headway.toml"),
        ("defaults.priority", "low", "headway.toml"),
        ("defaults.model", "gpt-5.4", "headway.toml"),
    ]
    assert ("quotas.openai.concurrency", "7", "HEADWAY_QUOTAS__OPENAI__CONCURRENCY") in rows
    assert ("quotas.gpu.tokens_per_minute", "no limit", "default") in rows
    assert ("models.local.quotas", "gpu, openai", "headway.toml") in rows
    assert ("models.local.api_key_env", "LOCAL_KEY", "headway.toml") in rows
    tables = list(dict.fromkeys(key.split(".")[0] for key, _, _ in rows))
    assert tables == ["database", "defaults", "quotas", "models", "lanes", "workflows", "notify"]


def test_the_order_of_precedence_of_files(tmp_path: Path) -> None:
    for name, priority in (("headway.toml", "low"), ("b.toml", "high"), ("c.toml", "interactive")):
        (tmp_path / name).write_text(f'[defaults]\npriority = "{priority}"')
    environ = {"HEADWAY_CONFIG": "b.toml"}
    assert load(environ={}, cwd=tmp_path).priority is Priority.LOW
    assert load(environ=environ, cwd=tmp_path).priority is Priority.HIGH
    config = load("c.toml", environ, tmp_path)
    assert config.priority is Priority.INTERACTIVE
    assert sources(config)["defaults.priority"] == "c.toml"


def test_paths_of_a_file_start_at_its_folder_and_those_of_a_shell_at_its_own(
    tmp_path: Path,
) -> None:
    (tmp_path / "etc").mkdir()
    file = tmp_path / "etc/h.toml"
    file.write_text('[database]\npath = "a.db"\n[workflows]\nt = "t.json"')
    away = tmp_path / "away"
    assert load(file, {}, away).database == tmp_path / "etc/a.db"
    assert load(file, {}, away).workflows == {"t": str(tmp_path / "etc/t.json")}
    assert sources(load(file, {}, away))["database.path"] == str(file)
    assert load(file, {"HEADWAY_DATABASE": "b.db"}, away).database == away / "b.db"
    file.write_text("")
    assert load(file, {}, away).database == tmp_path / "etc/.headway/headway.db"


def test_the_url_of_a_database_is_left_alone(read: Load) -> None:
    url = "postgresql://db1/headway"
    assert read(f'[database]\npath = "{url}"').database == url
    assert read(HEADWAY_DATABASE=url).database == url


def test_a_home_folder_is_meant_by_a_tilde(read: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("USERPROFILE", "/home/someone")
    assert read('[database]\npath = "~/h.db"').database == Path("/home/someone/h.db")
    with pytest.raises(ConfigError, match=r"someone.h\.toml \(from HEADWAY_CONFIG\)"):
        read(HEADWAY_CONFIG="~/h.toml")


def test_names_of_quotas_in_variables(read: Load) -> None:
    text = '[quotas."azure-eu.west"]\nconcurrency = 1'
    config = read(text, HEADWAY_Quotas__Azure_EU_West__Concurrency="3")
    assert config.quotas["azure-eu.west"] == Quota.per_minute("azure-eu.west", concurrency=3)


def test_a_variable_can_be_the_only_limit_of_a_quota(read: Load) -> None:
    config = read("[quotas.a]", HEADWAY_QUOTAS__A__TOKENS_PER_MINUTE="1_000")
    assert config.quotas["a"] == Quota.per_minute("a", tokens=1000, burst_seconds=None)


@given(
    st.floats(min_value=1, max_value=1e15) | st.integers(min_value=1, max_value=10**15),
    st.floats(min_value=0, max_value=1e15, exclude_min=True),
)
def test_numbers_arrive_as_written(limit: float, seconds: float) -> None:
    environ = {
        "HEADWAY_QUOTAS__DEFAULT__TOKENS_PER_MINUTE": repr(limit),
        "HEADWAY_QUOTAS__DEFAULT__BURST_SECONDS": repr(seconds),
    }
    config = load(environ=environ, cwd=Path(__file__).parent)
    assert config.settings["quotas", "default", "tokens_per_minute"].value == limit
    assert config.settings["quotas", "default", "burst_seconds"].value == seconds


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    (tmp_path / "headway.toml").write_bytes(b'\xef\xbb\xbf[defaults]\r\npriority = "low"\r\n')
    assert load(environ={}, cwd=tmp_path).priority is Priority.LOW


def test_a_config_cannot_be_changed(read: Load) -> None:
    config = read()
    with pytest.raises(AttributeError):
        config.priority = Priority.LOW  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.quotas["x"] = Quota("x", ())  # type: ignore[index]


@pytest.mark.parametrize("word", ["interactive", "Background", " low "])
def test_parse_priority(word: str) -> None:
    assert parse_priority(word) is Priority[word.strip().upper()]


def test_importing_it_brings_in_nothing_slow() -> None:
    slow = "tomllib, difflib, asyncio, anyio, pydantic, yaml, autogen_core, openai"
    code = f"import sys, headway.config; print(*{{*'{slow}'.split(', ')}} & {{*sys.modules}})"
    folders = [str(Path(configuration.__file__).parents[2]), *sys.path]
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path[:] = {folders!r}\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []


def test_how_a_provider_counts_may_be_stated(read: Load) -> None:
    text = """
[quotas.a]
requests_per_minute = 360
tokens_per_day = 1000
window = "sliding"
window_seconds = 10
"""
    requests, tokens = read(text).quotas["a"].limits
    assert (requests.window, requests.window_seconds) == (Window.SLIDING, 10)
    assert tokens.window is None  # a day is a day
    requests, _ = read(text, HEADWAY_QUOTAS__A__WINDOW="fixed").quotas["a"].limits
    assert requests.window is Window.FIXED

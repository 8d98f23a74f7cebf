"""headway.toml and the environment, as one frozen Config that knows where each value came from.

Law of this package: a configuration is used whole and checked, or not at all. ``keys`` is the
table of settings, ``source`` finds and parses the file, ``reading`` merges and refuses. Importing
it takes milliseconds: every command does.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from headway_scheduler.model.calls import Priority
from headway_scheduler.model.quotas import Quota
from headway_scheduler.providers.local import Local

from .keys import DEFAULT_QUOTA, KEYS, LIMITS, ConfigError, KeyPath, dotted, parse_priority, pattern
from .reading import Reading, Setting
from .source import find
from .template import TEMPLATE

__all__ = ["TEMPLATE", "Config", "ConfigError", "ModelConfig", "load", "parse_priority"]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What a model asked for by workflows is. ``name`` is the provider's name for it.

    ``provider`` says whose rules hold; None: those of the client that is used.

    ``api_key_env`` names the variable that holds the key; the key itself is never read here.
    ``api_key_command`` prints it, if that is stated.
    ``idempotency_header`` names the header in which the server takes an idempotency key.
    ``deployments`` are models that are as good as this one, ``fallbacks`` those that are not.
    """

    name: str
    quotas: tuple[str, ...]
    provider: str | None = None
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    api_key_command: str | None = None
    idempotency_header: str | None = None
    deployments: tuple[str, ...] = ()
    fallbacks: tuple[str, ...] = ()
    usd_per_million_input_tokens: float | None = None
    usd_per_million_output_tokens: float | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """All settings. ``database`` is absolute; so are component files among ``workflows``.

    ``file`` is what was read, if any. ``priority`` is that of runs that do not say. ``tools`` says
    by name what becomes of a call that was cut off: pure, idempotent or once. ``weights`` are the
    shares of teams that have one stated, ``team_quotas`` the quotas of their own.
    """

    database: Path
    quotas: Mapping[str, Quota]
    models: Mapping[str, ModelConfig]
    workflows: Mapping[str, str]
    tools: Mapping[str, str]
    weights: Mapping[str, float]
    team_quotas: Mapping[str, tuple[str, ...]]
    priority: Priority
    default_model: str | None
    file: Path | None
    settings: Mapping[KeyPath, Setting]

    @property
    def sources(self) -> Mapping[str, str]:
        """Where each value came from: dotted key to ``headway.toml``, a variable or ``default``."""
        return {dotted(path): setting.source for path, setting in self.settings.items()}

    def model(self, name: str) -> ModelConfig:
        """What is meant by ``models(name)``.

        One that is not listed is reached and limited as the default model is. Without a default
        model it is OpenAI's, and draws on the quota ``default``.
        """
        if name in self.models:
            return self.models[name]
        if self.default_model is not None:
            return replace(self.models[self.default_model], name=name)
        return ModelConfig(name, (DEFAULT_QUOTA,))

    def quota_with(self, name: str, changes: Mapping[str, object]) -> Quota:
        """A configured quota with some settings changed. Raises ConfigError."""
        if name not in self.quotas:
            known = ", ".join(sorted(self.quotas))
            raise ConfigError(f"no quota {name!r}; configured: {known}")
        settings = self.settings.items()
        values = {path[2]: each.value for path, each in settings if path[:2] == ("quotas", name)}
        for key, value in changes.items():
            known_key = KEYS.get(("quotas", "*", key))
            if known_key is None:
                raise ConfigError(f"no setting {key!r} of a quota; there are {', '.join(values)}")
            try:
                values[key] = known_key.check(value)
            except ConfigError as error:
                raise ConfigError(f"{key} {error}") from None
        return _quota(name, values)

    def rows(self) -> list[tuple[str, str, str]]:
        """Key, value and source of every setting, for people. None of them is a secret."""
        return [
            (dotted(path), KEYS[pattern(path)].show(setting.value), setting.source)
            for path, setting in self.settings.items()
        ]


def load(
    path: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] = os.environ,
    cwd: Path | None = None,
) -> Config:
    """Read the file ``path``, else that of HEADWAY_CONFIG, else ./headway.toml, else defaults.

    Raises ConfigError: which file, line, key or variable, and what is permitted there.
    """
    cwd = (cwd or Path()).absolute()
    file = find(path, environ, cwd)
    reading = Reading(file)
    reading.take_file()
    reading.raise_problems()
    reading.check_names()
    reading.take_environment(environ)
    reading.raise_problems()
    reading.check_limits()
    reading.raise_problems()
    reading.resolve_paths(file.path.parent if file else cwd, cwd)
    return _build(reading.sorted_settings(), file.path if file else None)


def _build(settings: Mapping[KeyPath, Setting], file: Path | None) -> Config:
    models = {name: ModelConfig(**values) for name, values in _tables(settings, "models")}
    local = {model.quotas[0] for model in models.values() if model.provider == Local.name}
    quotas = {
        name: replace(_quota(name, values), is_local=name in local)
        for name, values in _tables(settings, "quotas")
    }
    teams = dict(_tables(settings, "teams"))
    workflows = {path[1]: s.value for path, s in settings.items() if path[0] == "workflows"}
    tools = {path[1]: s.value for path, s in settings.items() if path[0] == "tools"}
    return Config(
        database=settings["database", "path"].value,
        quotas=MappingProxyType(quotas),
        models=MappingProxyType(models),
        workflows=MappingProxyType(workflows),
        tools=MappingProxyType(tools),
        weights=MappingProxyType({name: each["weight"] for name, each in teams.items()}),
        team_quotas=MappingProxyType({name: each["quotas"] for name, each in teams.items()}),
        priority=parse_priority(settings["defaults", "priority"].value),
        default_model=settings["defaults", "model"].value,
        file=file,
        settings=MappingProxyType(dict(settings)),
    )


def _tables(
    settings: Mapping[KeyPath, Setting], table: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The named tables inside a table: each name with its keys and values."""
    for name in dict.fromkeys(path[1] for path in settings if path[0] == table):
        yield name, {p[2]: s.value for p, s in settings.items() if p[:2] == (table, name)}


def _quota(name: str, values: Mapping[str, Any]) -> Quota:
    hours, minutes = map(int, values["day_starts"].split(":"))
    return Quota.stated(
        name,
        {resource: values[key] for key, resource in LIMITS.items()},
        burst_seconds=values["burst_seconds"],
        day_starts=3600 * hours + 60 * minutes,
        is_guess=values["learn"],
    )

"""Loads headway.toml and the environment into one frozen Config that keeps each value's source.

Law of this package: a configuration is used whole and checked, or not at all. ``keys`` is the
table of settings, ``source`` finds and parses the file, ``reading`` merges and refuses. Importing
it takes milliseconds: every command does.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from msgspec import structs

from headway_scheduler.model.calls import Priority, ServiceLane
from headway_scheduler.model.quotas import GUESSED, Quota, Window
from headway_scheduler.providers.local import Local

from .clients import OPENAI
from .keys import DEFAULT_QUOTA, KEYS, LIMITS, KeyPath, dotted, parse_priority, pattern
from .reading import Reading, Setting
from .source import find
from .tables import NotifyConfig, ScheduleConfig
from .template import TEMPLATE
from .values import ConfigError

__all__ = [
    "TEMPLATE",
    "Config",
    "ConfigError",
    "ModelConfig",
    "NotifyConfig",
    "ScheduleConfig",
    "load",
    "parse_priority",
]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """How a model that workflows ask for is reached, limited and paid."""

    name: str
    """The provider's name for the model."""

    quotas: tuple[str, ...]
    """Quotas that each call draws on: all must have room."""

    provider: str | None = None
    """Whose charging and error rules hold. Default: those of the client that is used."""

    client: str = OPENAI
    """The client of AutoGen's that asks it: a word for one, or a class as ``module.Class``."""

    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What that client is built with, beside its model, address and key."""

    base_url: str | None = None
    """Address of the server. Default: the provider's own."""

    api_key_env: str | None = None
    """The environment variable that holds the key, which is never part of a Config. Default: the
    provider's variable, for its own address."""

    api_key_command: str | None = None
    """A command that prints the key; wins over ``api_key_env``."""

    keyless: bool = False
    """Whether its server is asked without a key."""

    idempotency_header: str | None = None
    """The header in which the server takes an idempotency key, if it takes one."""

    deployments: tuple[str, ...] = ()
    """Equivalent models: the one with most room takes the call."""

    fallbacks: tuple[str, ...] = ()
    """Lesser models, in order: they take calls while this model and its deployments cannot."""

    lanes: tuple[str, ...] = ()
    """Lanes that background calls may take, of runs that opt in."""

    priority_for: tuple[str, ...] = ()
    """The classes whose calls go by the provider's priority lane."""

    usd_per_million_input_tokens: float | None = None
    """Price in US dollars. Default: the list price, if there is one."""

    usd_per_million_output_tokens: float | None = None
    """Price in US dollars. Default: the list price, if there is one."""

    usd_per_million_cached_input_tokens: float | None = None
    """Price in US dollars of input that the provider has in its cache. Default: that of input."""

    usd_per_million_cache_write_tokens: float | None = None
    """Price in US dollars of input that it puts into its cache. Default: that of input."""

    usd_per_request: float | None = None
    """Price in US dollars of each request, beside its tokens. Default: none."""

    max_answer_mb: int = 32
    """MiB that an answer may have, packed and unpacked: 1 to 1024."""

    connect_timeout: float = 10
    """Seconds to connect."""

    first_byte_timeout: float = 600
    """Seconds from the request to the head of its answer."""

    idle_timeout: float = 300
    """Seconds without a chunk of a body, or a whole line of a stream."""

    call_timeout: float = 1800
    """Seconds for the whole of one attempt."""

    patience: str | None = None
    """How long a server that answers nobody is waited for. Default: ``2m`` if it never answered,
    else ``forever``."""


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of one process, checked."""

    database: Path | str
    """The database: the absolute path of a file, or a URL as it was stated."""

    quotas: Mapping[str, Quota]
    """Quotas by name."""

    models: Mapping[str, ModelConfig]
    """Models by the name that workflows ask for."""

    workflows: Mapping[str, str]
    """``module:factory``, or the absolute path of a component file, by the workflow's name."""

    tools: Mapping[str, str]
    """``pure``, ``idempotent`` or ``once`` by tool: whether a call that was cut off is repeated."""

    schedules: Mapping[str, ScheduleConfig]
    """Schedules by name."""

    notify: NotifyConfig
    """What is told to the world outside, and whom."""

    weights: Mapping[str, float]
    """Shares of teams by name. Default of a team that is not listed: 1."""

    team_quotas: Mapping[str, tuple[str, ...]]
    """Quotas of teams by name: their calls draw on these beside those of the model."""

    highest_of_teams: Mapping[str, Priority]
    """The most urgent class that a team may ask for, of teams that have their own."""

    highest_of_all: Priority
    """The most urgent class that anybody else may ask for."""

    priority_of_teams: Mapping[str, Priority]
    """The class of a team's runs that are started without a priority, of teams that have one."""

    priority: Priority
    """The class of all other runs that are started without a priority."""

    bypass: str
    """What becomes of requests to providers that a run's code makes itself: ``warn``, ``refuse`` or
    ``allow``."""

    waiting: int
    """How many calls may wait or be in flight before new ones are refused."""

    waiting_bytes: int
    """How many bytes of text such calls may have brought together."""

    flex_gives_up: float
    """Seconds that a call waits for a provider without capacity for flex."""

    flex_before: float
    """Seconds before a run's deadline from which on its calls do not go by flex."""

    batch_before: float
    """Seconds before a run's deadline from which on its calls do not go by batch."""

    batch_wait: float
    """Seconds for which requests are gathered until they are handed in as a batch."""

    batch_usd_factor: float
    """The price of a call by batch, as a share of that by the standard lane."""

    default_model: str | None
    """The model whose server and limits hold for models that are not listed."""

    file: Path | None
    """The file that was read, if any."""

    settings: Mapping[KeyPath, Setting]
    """Each value with its source, by key: what ``headway config show`` prints."""

    def model(self, name: str) -> ModelConfig:
        """Return the settings of ``models(name)``.

        A model that is not listed is reached and limited as the default model is. Without a
        default model it is OpenAI's, and draws on the quota ``default``.
        """
        if name in self.models:
            return self.models[name]
        if self.default_model is not None:
            return replace(self.models[self.default_model], name=name)
        return ModelConfig(name, (DEFAULT_QUOTA,))

    def lane_quota(self, name: str, lane: ServiceLane) -> str:
        """Return the quota of a lane of ``models(name)``."""
        listed = name if name in self.models else self.default_model
        return lane_quota_of(listed or name, lane.value)

    def counts_usd(self, quotas: Iterable[str]) -> bool:
        """Return whether any of these quotas limits dollars: its calls need a price."""
        known = (self.quotas[name] for name in quotas if name in self.quotas)
        return any(limit.resource.is_money for quota in known for limit in quota.limits)

    def highest(self, team: str) -> Priority:
        """Return the most urgent class that runs and calls of a team may ask for."""
        return self.highest_of_teams.get(team, self.highest_of_all)

    def quota_with(self, name: str, changes: Mapping[str, object]) -> Quota:
        """Return a configured quota with some settings changed. Raises ConfigError."""
        settings = self.settings.items()
        values = {path[2]: each.value for path, each in settings if path[:2] == ("quotas", name)}
        if not values and name.startswith(GUESSED):  # of an address that nobody configured
            values = {path[2]: key.default for path, key in KEYS.items() if path[0] == "quotas"}
        if not values:
            known = ", ".join(sorted(self.quotas))
            raise ConfigError(f"no quota {name!r}; configured: {known}")
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
        """Return key, value and source of every setting as text. No value is a secret."""
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
    reading.check_clients()
    reading.check_lanes()
    reading.check_schedules()
    reading.check_notify()
    reading.raise_problems()
    reading.resolve_paths(file.path.parent if file else cwd, cwd)
    return _build(reading.sorted_settings(), file.path if file else None)


def _build(settings: Mapping[KeyPath, Setting], file: Path | None) -> Config:
    models = {name: ModelConfig(**values) for name, values in _tables(settings, "models").items()}
    local = {model.quotas[0] for model in models.values() if model.provider == Local.name}
    quotas = {
        name: structs.replace(_quota(name, values), is_local=name in local)
        for name, values in _tables(settings, "quotas").items()
    }
    # A lane has a quota of its own, which pauses alone. Nobody knows its limits, unless they are
    # stated in a table of this name.
    for name in (lane_quota_of(n, lane) for n, each in models.items() for lane in each.lanes):
        quotas.setdefault(name, Quota(name, ()))
    teams = _tables(settings, "teams")
    workflows = {path[1]: s.value for path, s in settings.items() if path[0] == "workflows"}
    tools = {path[1]: s.value for path, s in settings.items() if path[0] == "tools"}
    return Config(
        database=settings["database", "path"].value,
        quotas=MappingProxyType(quotas),
        models=MappingProxyType(models),
        workflows=MappingProxyType(workflows),
        tools=MappingProxyType(tools),
        notify=NotifyConfig(
            **{path[1]: each.value for path, each in settings.items() if path[0] == "notify"}
        ),
        schedules=MappingProxyType(
            {name: ScheduleConfig(**each) for name, each in _tables(settings, "schedules").items()}
        ),
        weights=MappingProxyType({name: each["weight"] for name, each in teams.items()}),
        team_quotas=MappingProxyType({name: each["quotas"] for name, each in teams.items()}),
        highest_of_teams=_classes(teams, "highest"),
        highest_of_all=parse_priority(settings["defaults", "highest"].value),
        priority_of_teams=_classes(teams, "priority"),
        priority=parse_priority(settings["defaults", "priority"].value),
        bypass=settings["defaults", "bypass"].value,
        waiting=settings["defaults", "waiting"].value,
        waiting_bytes=settings["defaults", "waiting_bytes"].value,
        flex_gives_up=settings["lanes", "flex_gives_up"].value,
        flex_before=settings["lanes", "flex_before"].value,
        batch_before=settings["lanes", "batch_before"].value,
        batch_wait=settings["lanes", "batch_wait"].value,
        batch_usd_factor=settings["lanes", "batch_usd_factor"].value,
        default_model=settings["defaults", "model"].value,
        file=file,
        settings=MappingProxyType(dict(settings)),
    )


def lane_quota_of(listed: str, lane: str) -> str:
    """Return the quota of a lane of a model that is listed."""
    return f"{listed}/{lane}"


def _tables(settings: Mapping[KeyPath, Setting], table: str) -> dict[str, dict[str, Any]]:
    """Return the named tables inside a table: by name, keys and values."""
    tables: dict[str, dict[str, Any]] = {}
    for path, setting in settings.items():
        if path[0] == table:
            tables.setdefault(path[1], {})[path[2]] = setting.value
    return tables


def _classes(teams: Mapping[str, Mapping[str, Any]], key: str) -> Mapping[str, Priority]:
    """Return a priority that some teams have, by their names."""
    return MappingProxyType(
        {name: parse_priority(given) for name, each in teams.items() if (given := each[key])}
    )


def _quota(name: str, values: Mapping[str, Any]) -> Quota:
    hours, minutes = map(int, values["day_starts"].split(":"))
    return Quota.stated(
        name,
        {resource: values[key] for key, resource in LIMITS.items()},
        burst_seconds=values["burst_seconds"],
        day_starts=3600 * hours + 60 * minutes,
        is_guess=values["learn"],
        window=None if values["window"] is None else Window(values["window"]),
        window_seconds=values["window_seconds"],
    )

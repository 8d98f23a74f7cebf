"""The table of all settings. Law of this file: loader, template, docs and tests follow it.

A key is a path, as in ``("quotas", "*", "concurrency")``; ``*`` stands for a name that the user
chose. A check gets a value of any type, returns what is kept, and raises ConfigError with the end
of a sentence, ``must be …``; the caller puts the place in front. A message never repeats a value
that could be a secret in the wrong place.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from headway_scheduler.model.calls import Priority, ServiceLane
from headway_scheduler.model.notices import NoticeKind
from headway_scheduler.model.quotas import (
    DAY_SECONDS,
    GUESSED_PER_MINUTE,
    SHORTEST_PERIOD_SECONDS,
    Resource,
    Window,
)
from headway_scheduler.model.schedules import CATCHUP_SECONDS, Overlap
from headway_scheduler.providers import PROVIDERS

from .clients import OPENAI
from .values import (
    ConfigError,
    check_arguments,
    check_catchup_window,
    check_client,
    check_command,
    check_cron,
    check_duration,
    check_events,
    check_parameters,
    check_patience,
    check_text,
    check_zone,
    spoken,
)

KeyPath = tuple[str, ...]

DEFAULT_QUOTA = "default"
"""The quota of models that name none. It is built in, and a table of this name replaces it."""

DEFAULT_LIMITS: dict[str, int | bool] = {
    "requests_per_minute": GUESSED_PER_MINUTE[Resource.REQUESTS],
    "tokens_per_minute": GUESSED_PER_MINUTE[Resource.TOKENS],
    "learn": True,
}
"""The settings of the built-in quota."""

LIMITS = {
    "requests_per_minute": Resource.REQUESTS,
    "tokens_per_minute": Resource.TOKENS,
    "input_tokens_per_minute": Resource.INPUT_TOKENS,
    "output_tokens_per_minute": Resource.OUTPUT_TOKENS,
    "concurrency": Resource.CONCURRENCY,
    "requests_per_day": Resource.REQUESTS_PER_DAY,
    "tokens_per_day": Resource.TOKENS_PER_DAY,
    "usd_per_day": Resource.USD_PER_DAY,
    "enqueued_tokens": Resource.ENQUEUED_TOKENS,
}
COMPONENT_SUFFIXES = (".json", ".yaml", ".yml")
LANES = (ServiceLane.FLEX.value, ServiceLane.BATCH.value)
"""The lanes that a model may have for the background calls of runs that opt in."""
WITHOUT_LANES = ("anthropic", "bedrock", "gemini", "local")
"""Providers that take no service tier as OpenAI does."""
BYPASSES = ("warn", "refuse", "allow")
TOOL_KINDS = ("pure", "idempotent", "once")
_LISTED = "the list price"
_INPUTS = "that of input"
_LARGEST = 1e15  # buckets are floats: not far above it, taking 1 away changes nothing
_FACTORY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_TIME = re.compile(r"([01]\d|2[0-3]):[0-5]\d")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")  # upper case alone: keys of most providers do not pass
_HEADER = re.compile(r"[A-Za-z]+(-[A-Za-z]+)*")


@dataclass(frozen=True, slots=True)
class Key:
    """One setting."""

    value_type: str
    """The type of its values, for the docs."""

    check: Callable[[object], Any]
    """Returns the value to keep, or raises ConfigError."""

    default: Any = None
    """The value without file and environment."""

    unset: str = ""
    """The words for a value of None or an empty list."""

    variable: str = ""
    """The environment variable that overrides the file, if it has a name of its own."""

    def show(self, value: object) -> str:
        """Write a value for people."""
        if isinstance(value, tuple):
            return ", ".join(value) or self.unset
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, Mapping):
            return json.dumps(dict(value)) if value else self.unset
        return self.unset if value is None else str(value)


def dotted(path: KeyPath) -> str:
    """Write a path as TOML does: ``models."gpt-5.4".quotas``."""
    return ".".join(p if re.fullmatch(r"[A-Za-z0-9_-]+", p) else f'"{p}"' for p in path)


def parse_priority(text: str) -> Priority:
    """Read the word for a class of calls, in any case. Raises ConfigError."""
    for priority in Priority:
        if priority.label == text.strip().lower():
            return priority
    words = ", ".join(priority.label for priority in Priority)
    raise ConfigError(f"{text!r} is not a priority; permitted: {words}")


def _priority(value: object) -> str:
    text = check_text(value)
    try:
        return parse_priority(text).label
    except ConfigError as error:
        raise ConfigError(f"must be a priority: {error}") from None


def _provider(value: object) -> str:
    if check_text(value) not in PROVIDERS:
        raise ConfigError(f"must be one of {', '.join(PROVIDERS)}, not {value!r}")
    return str(value)


def _number(value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"must be a number, not {spoken(value)}")
    if not -_LARGEST <= value <= _LARGEST:
        raise ConfigError(f"must be a finite number of at most {_LARGEST:g}")
    return value


def _limit(value: object) -> int | float:
    number = _number(value)
    if number < 1:
        raise ConfigError(f"must be at least 1, not {number}; without a limit, leave the key out")
    return number


def _whole_limit(value: object) -> int:
    number = _limit(value)
    if not isinstance(number, int):
        raise ConfigError(f"must be a whole number, not {number}")
    return number


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"must be true or false, not {spoken(value)}")
    return value


def _one_of(permitted: Sequence[str]) -> Callable[[object], str]:
    def check(value: object) -> str:
        if value not in permitted:
            raise ConfigError(f"must be one of {', '.join(permitted)}, not {spoken(value)}")
        return str(value)

    return check


def _above_zero(value: object) -> int | float:
    number = _number(value)
    if number <= 0:
        raise ConfigError(f"must be above 0, not {number}")
    return number


def _window_seconds(value: object) -> int | float:
    number = _number(value)
    if not SHORTEST_PERIOD_SECONDS <= number <= DAY_SECONDS:
        raise ConfigError(f"must be from 0.1 to 86400, not {number}")
    return number


def _time_of_day(value: object) -> str:
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ConfigError(f'must be a time of day in UTC, as in "08:00", not {spoken(value)}')
    return value


def _quota_names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        said = "a list of other things" if isinstance(value, list) else spoken(value)
        raise ConfigError(f'must be a list of names, as in ["openai"], not {said}')
    if not value:
        raise ConfigError("must name at least one quota")
    if len(set(value)) < len(value):
        raise ConfigError("names a quota twice")
    return tuple(value)


def _model_names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        said = "a list of other things" if isinstance(value, list) else spoken(value)
        raise ConfigError(f'must be a list of models, as in ["gpt-5.4-mini"], not {said}')
    if len(set(value)) < len(value):
        raise ConfigError("names a model twice")
    return tuple(value)


def _url(value: object) -> str:
    refused = ConfigError(
        "must be an http:// or https:// address without user, password, query or fragment"
    )
    try:
        parts = urlsplit(check_text(value))
        # ``port`` parses only when asked; a bad one would surface at the first call.
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise refused from None
    extras = any(sign in str(value) for sign in "@?# ")
    if parts.scheme not in ("http", "https") or not is_whole or extras:
        raise refused
    return str(value)


def _variable_name(value: object) -> str:
    if not isinstance(value, str) or not _VARIABLE.fullmatch(value):
        raise ConfigError(
            "must be the name of an environment variable (A-Z, 0-9, _), never the key itself"
        )
    return value


def _header(value: object) -> str:
    # No digits, and so no key either. The client's own headers are not to be overwritten.
    is_own = str(value).lower() in ("authorization", "content-type", "content-length", "host")
    if not isinstance(value, str) or not _HEADER.fullmatch(value) or is_own:
        raise ConfigError("must be the name of a header that is yours to set (A-Z, a-z, -)")
    return value


def _workflow(value: object) -> str:
    if isinstance(value, str) and value.endswith(COMPONENT_SUFFIXES):
        return check_text(value)
    if isinstance(value, str) and _FACTORY.fullmatch(value):
        return value
    files = ", ".join(COMPONENT_SUFFIXES)
    raise ConfigError(f"must be module:factory or a component file ({files}), not {spoken(value)}")


def _price(value: object) -> int | float:
    number = _number(value)
    if number < 0:
        raise ConfigError(f"must be at least 0, not {number}")
    return number


def _answer_mb(value: object) -> int:
    number = _number(value)
    if not isinstance(number, int) or not 1 <= number <= 1024:
        raise ConfigError(f"must be a whole number from 1 to 1024, not {number}")
    return number


def _lanes(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(each in LANES for each in value):
        raise ConfigError(f"must be a list of lanes; permitted: {', '.join(LANES)}")
    return tuple(dict.fromkeys(value))


def _priorities(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        said = "a list of other things" if isinstance(value, list) else spoken(value)
        raise ConfigError(f'must be a list of priorities, as in ["interactive"], not {said}')
    return tuple(dict.fromkeys(map(_priority, value)))


def _quota_key(
    name: str,
    value_type: str,
    check: Callable[[object], Any],
    default: Any = None,
    unset: str = "no limit",
) -> Key:
    return Key(value_type, check, default, unset, f"HEADWAY_QUOTAS__*__{name.upper()}")


KEYS: dict[KeyPath, Key] = {
    ("database", "path"): Key(
        "path", check_text, ".headway/headway.db", variable="HEADWAY_DATABASE"
    ),
    ("defaults", "priority"): Key("priority", _priority, "normal", variable="HEADWAY_PRIORITY"),
    ("defaults", "model"): Key("model", check_text, unset="none"),
    ("defaults", "highest"): Key(
        "priority", _priority, "interactive", variable="HEADWAY_HIGHEST_PRIORITY"
    ),
    ("defaults", "bypass"): Key("warn, refuse or allow", _one_of(BYPASSES), "warn"),
    ("defaults", "waiting"): Key("whole number", _whole_limit, 100_000),
    ("defaults", "waiting_bytes"): Key("whole number", _whole_limit, 2**30),
    ("quotas", "*", "requests_per_minute"): _quota_key("requests_per_minute", "number", _limit),
    ("quotas", "*", "tokens_per_minute"): _quota_key("tokens_per_minute", "number", _limit),
    ("quotas", "*", "input_tokens_per_minute"): _quota_key(
        "input_tokens_per_minute", "number", _limit
    ),
    ("quotas", "*", "output_tokens_per_minute"): _quota_key(
        "output_tokens_per_minute", "number", _limit
    ),
    ("quotas", "*", "concurrency"): _quota_key("concurrency", "whole number", _whole_limit),
    ("quotas", "*", "requests_per_day"): _quota_key("requests_per_day", "number", _limit),
    ("quotas", "*", "tokens_per_day"): _quota_key("tokens_per_day", "number", _limit),
    ("quotas", "*", "usd_per_day"): _quota_key("usd_per_day", "number", _above_zero),
    ("quotas", "*", "enqueued_tokens"): _quota_key("enqueued_tokens", "number", _limit),
    ("quotas", "*", "day_starts"): _quota_key("day_starts", "time (UTC)", _time_of_day, "00:00"),
    ("quotas", "*", "burst_seconds"): _quota_key(
        "burst_seconds", "number", _above_zero, unset="learned"
    ),
    ("quotas", "*", "window"): _quota_key(
        "window", "kind of window", _one_of(tuple(Window)), unset="learned"
    ),
    ("quotas", "*", "window_seconds"): _quota_key("window_seconds", "number", _window_seconds, 60),
    ("quotas", "*", "learn"): Key("true or false", _truth, False),
    ("models", "*", "provider"): Key("provider", _provider, unset="the client's"),
    ("models", "*", "name"): Key("text", check_text, unset="NAME"),
    ("models", "*", "client"): Key("client", check_client, OPENAI),
    ("models", "*", "arguments"): Key("table", check_arguments, {}, "none"),
    ("models", "*", "quotas"): Key("list of quotas", _quota_names, (DEFAULT_QUOTA,)),
    ("models", "*", "base_url"): Key("http(s) address", _url, unset="the provider's"),
    ("models", "*", "api_key_env"): Key("variable", _variable_name, unset="the provider's"),
    ("models", "*", "api_key_command"): Key("command", check_command, unset="none"),
    ("models", "*", "keyless"): Key("true or false", _truth, False),
    ("models", "*", "idempotency_header"): Key("header", _header, unset="none"),
    ("models", "*", "deployments"): Key("list of models", _model_names, (), "none"),
    ("models", "*", "fallbacks"): Key("list of models", _model_names, (), "none"),
    ("models", "*", "lanes"): Key("list of lanes", _lanes, (), "none"),
    ("models", "*", "priority_for"): Key("list of priorities", _priorities, (), "none"),
    ("models", "*", "usd_per_million_input_tokens"): Key("number", _price, unset=_LISTED),
    ("models", "*", "usd_per_million_output_tokens"): Key("number", _price, unset=_LISTED),
    ("models", "*", "usd_per_million_cached_input_tokens"): Key("number", _price, unset=_INPUTS),
    ("models", "*", "usd_per_million_cache_write_tokens"): Key("number", _price, unset=_INPUTS),
    ("models", "*", "usd_per_request"): Key("number", _price, unset="none"),
    ("models", "*", "max_answer_mb"): Key("whole number", _answer_mb, 32),
    ("models", "*", "connect_timeout"): Key("seconds", _above_zero, 10),
    # As in the SDKs of OpenAI and Anthropic.
    ("models", "*", "first_byte_timeout"): Key("seconds", _above_zero, 600),
    ("models", "*", "idle_timeout"): Key("seconds", _above_zero, 300),
    ("models", "*", "call_timeout"): Key("seconds", _above_zero, 1800),
    ("lanes", "flex_gives_up"): Key("time", check_duration, 900),
    ("lanes", "flex_before"): Key("time", check_duration, 1800),
    ("lanes", "batch_before"): Key("time", check_duration, 21_600),
    ("lanes", "batch_wait"): Key("time", check_duration, 300),
    ("lanes", "batch_usd_factor"): Key("number", _above_zero, 0.5),
    ("models", "*", "patience"): Key("time", check_patience, unset="2m at first"),
    ("teams", "*", "weight"): Key("number", _above_zero, 1),
    ("teams", "*", "quotas"): Key("list of quotas", _quota_names, (), "none"),
    ("teams", "*", "priority"): Key("priority", _priority, unset="that of defaults"),
    ("teams", "*", "highest"): Key("priority", _priority, unset="that of defaults"),
    ("tools", "*"): Key("pure, idempotent or once", _one_of(TOOL_KINDS)),
    ("workflows", "*"): Key("module:factory or file", _workflow),
    ("schedules", "*", "cron"): Key("cron expression", check_cron, unset="required"),
    ("schedules", "*", "zone"): Key("time zone", check_zone, "UTC"),
    ("schedules", "*", "workflow"): Key("workflow", check_text, unset="required"),
    ("schedules", "*", "task"): Key("text", check_text, unset="required"),
    ("schedules", "*", "overlap"): Key("overlap policy", _one_of(tuple(Overlap)), "skip"),
    ("schedules", "*", "catchup_window"): Key("time", check_catchup_window, int(CATCHUP_SECONDS)),
    ("schedules", "*", "priority"): Key("priority", _priority, unset="that of defaults"),
    ("schedules", "*", "team"): Key("text", check_text, unset="its workflow"),
    ("schedules", "*", "parameters"): Key("table", check_parameters, {}, "none"),
    ("schedules", "*", "budget_usd"): Key("number", _above_zero, unset="no limit"),
    ("schedules", "*", "deadline"): Key("time", check_duration, unset="no limit"),
    ("schedules", "*", "lane"): Key("lane", _one_of(LANES), unset="standard"),
    ("notify", "url"): Key("http(s) address", _url, unset="none"),
    ("notify", "secret_env"): Key("variable", _variable_name, unset="none"),
    ("notify", "command"): Key("command", check_command, unset="none"),
    ("notify", "events"): Key("list of events", check_events, tuple(NoticeKind)),
}


_NAMED = {key[0] for key in KEYS if key[1] == "*"}
"""Tables whose keys, or tables in them, have names that the user chose."""


def pattern(path: KeyPath) -> KeyPath:
    """Return the path with ``*`` for the name that the user chose, if its table has such names."""
    return (path[0], "*", *path[2:]) if path[0] in _NAMED and len(path) > 1 else path


def variable(path: KeyPath) -> str:
    """Return the environment variable that overrides the key, or an empty string."""
    name = re.sub(r"\W", "_", path[1].upper())
    return KEYS[pattern(path)].variable.replace("*", name)

"""Checks values that have parts, or a grammar of their own. Law: as in ``keys``.

A check gets a value of any type, returns what is kept, and raises ConfigError with the end of a
sentence. A message never repeats a value that could be a secret in the wrong place.
"""

import json
import math
import re
import shlex
from collections.abc import Callable
from typing import Any, TypeVar

from headway_scheduler.errors import CallerError
from headway_scheduler.model.notices import NoticeKind

from .clients import CLIENTS, OURS

T = TypeVar("T")

FOREVER = "forever"
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhd]?)")
_UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_CLASS = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_SECRET = re.compile(
    r"(api|access|subscription)[-_]?key|(ad|access|auth|bearer|session)[-_]?token"
    r"|secret|passw|authorization|cookie|credential",
    re.IGNORECASE,
)
_VARIABLES = re.compile(r"((Bearer|Basic) )?\$\{[A-Za-z_][A-Za-z0-9_]*\}")


class ConfigError(CallerError):
    """The configuration cannot be used as it is: one line for each thing to mend."""


def spoken(value: object) -> str:
    """Describe a wrong value, with its type where that could be missed: ``the text '3'``."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    return "a date or time"


def check_text(value: object) -> str:
    """Check a text that is not empty."""
    if not isinstance(value, str):
        raise ConfigError(f"must be text in quotes, not {spoken(value)}")
    if not value.strip():
        raise ConfigError("must not be empty")
    if any(character < " " for character in value):
        raise ConfigError("must not hold control characters")
    return value


def check_command(value: object) -> str:
    """Check a command with its arguments, as a shell would split them."""
    text = check_text(value)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"must be a command that a shell could read: {error}") from None
    if not words:
        raise ConfigError("must not be empty")
    return text


def check_client(value: object) -> str:
    """Check the word, or the class, of a client of AutoGen's."""
    if check_text(value) not in CLIENTS and not _CLASS.fullmatch(str(value)):
        words = ", ".join(CLIENTS)
        raise ConfigError(f"must be one of {words}, or a class as module.Class, not {value!r}")
    return str(value)


def check_arguments(value: object) -> dict[str, Any]:
    """Check what a client is built with, as far as that holds for every client."""
    if not isinstance(value, dict):
        raise ConfigError(f"must be a table of arguments, not {spoken(value)}")
    for name in value:
        if name in OURS:
            raise ConfigError(
                f"must not set {name}: that is for name, base_url, api_key_env and Headway itself"
            )
    check_parameters(value)
    _refuse_secrets(value)
    return value


def check_parameters(value: object) -> dict[str, Any]:
    """Check a table of JSON values."""
    if not isinstance(value, dict):
        raise ConfigError(f"must be a table, not {spoken(value)}")
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        raise ConfigError("must hold no date or time") from None
    return value


def _refuse_secrets(value: object) -> None:
    """Raise ConfigError for a text that may be a secret, by the name of its field."""
    if isinstance(value, list):
        for each in value:
            _refuse_secrets(each)
    elif isinstance(value, dict):
        for name, inner in value.items():
            if isinstance(inner, str) and _SECRET.search(name) and not _VARIABLES.fullmatch(inner):
                raise ConfigError(
                    f"must not hold {name}: it would put a secret into a file; set it in the "
                    f'environment, and name that variable: {name} = "${{NAME}}"'
                )
            _refuse_secrets(inner)


def check_duration(value: object) -> int | float:
    """Check a time: seconds as a number, or a text as in ``90s``, ``15m``, ``2h``, ``1d``."""
    text = "" if isinstance(value, bool) else str(value)
    if (found := _DURATION.fullmatch(text)) is None or not float(found[1]):
        raise ConfigError(
            f'must be a time above 0, as seconds or as in "90s", "15m", "2h", not {spoken(value)}'
        )
    seconds = float(found[1]) * _UNIT_SECONDS[found[2]]
    return int(seconds) if seconds.is_integer() else seconds


def check_cron(value: object) -> str:
    """Check a cron expression."""
    from headway_scheduler.core import schedules  # most configurations have none

    return _checked(schedules.check_cron, value)


def check_zone(value: object) -> str:
    """Check the name of a time zone."""
    from headway_scheduler.core import schedules

    _checked(schedules.zone_of, value)
    return str(value)


def _checked(check: Callable[[str], T], value: object) -> T:
    """Check a text by a function that begins its error with the word for it."""
    try:
        return check(check_text(value))
    except ConfigError:
        raise
    except CallerError as error:
        raise ConfigError(str(error).split(" ", 1)[1]) from None


def check_catchup_window(value: object) -> int | float:
    """Check how old a missed time may be: as Temporal's, 10 s at least."""
    seconds = check_duration(value)
    if seconds < 10:
        raise ConfigError(f"must be at least 10 s, not {seconds}")
    return seconds


def check_events(value: object) -> tuple[str, ...]:
    """Check a list of what is told to the world outside."""
    permitted = tuple(NoticeKind)
    if not isinstance(value, list) or not value or not all(each in permitted for each in value):
        raise ConfigError(f"must be a list of events; permitted: {', '.join(permitted)}")
    return tuple(dict.fromkeys(value))


def check_patience(value: object) -> str:
    """Check how long somebody waits: a time, or ``forever``."""
    if value != FOREVER:
        try:
            check_duration(value)
        except ConfigError as error:
            raise ConfigError(f'{error}; or "forever"') from None
    return str(value)


def patience_seconds(text: str) -> float:
    """Return the seconds of what :func:`check_patience` let pass; infinity for ``forever``."""
    return math.inf if text == FOREVER else float(check_duration(text))

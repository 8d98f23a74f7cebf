"""Takes API keys out of text and data. Law of this file: no key gets into what is kept or shown.

A key has its place in the environment or in the file that the user wrote; the journal, error texts
and logs get the text without it. Three ways to find one: by its value, where this process read it
(:func:`remember`), plain, URL-coded and in base64; by the name of its field in a component; and by
its looks anywhere.
"""

import base64
import logging
import os
import re
from collections.abc import Iterable, Iterator
from traceback import format_exception
from typing import Any
from urllib.parse import quote, quote_plus, urlsplit, urlunsplit

from headway_scheduler.errors import CallerError

REDACTED = "[key]"
MASKED = frozenset({"", "**********"})
"""Values that AutoGen's dumps, and people, leave in the place of a key."""

_SECRET_FIELD = re.compile(
    r"(api[-_]?key|(azure_ad|access|auth|bearer)[-_]?token|secret|password|authorization)$",
    re.IGNORECASE,
)
SHORTEST_KEY = 8
"""The fewest characters of a value that is taken for a key: a shorter one is found anywhere."""

_MAY_BE_SECRET = re.compile(
    r"^auth|^cred|token(?!iz)|key(?!word|less|board)|secret|^pass|password|cookie|bearer|^conn"
    r"|connection|^dsn$|^hmac|^otp$|^pin$|^pat$|^salt$|^sas|^session(_?id)?$",
    re.IGNORECASE,
)
"""Fields of components whose texts are not kept, if they are as long as a key."""
_MAPS = re.compile(r"headers?$|^env(ironment)?$|cookies$|query$", re.IGNORECASE)
"""Fields whose values are not kept, but for the names in ``_PLAIN``."""
_PLAIN = frozenset(
    {"accept", "content-type", "user-agent", "http-referer", "x-title", "anthropic-version"}
    | {"anthropic-beta", "openai-beta", "openai-organization", "openai-project"}
    | {"path", "home", "lang", "lc_all", "tz", "pythonpath", "pythonunbuffered", "log_level"}
    | {"api-version"}
)
_REFERENCE = re.compile(r"((?:Bearer |Basic )?)\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""A text of a component that stands for a variable of the environment."""
_FLAG = re.compile(r"--?[\w-]*(key|token|secret|pass|auth|cred)[\w-]*", re.IGNORECASE)
_known: dict[str, None] = {}
"""Every form of every key that this process read, longest first."""

_KEYS = (
    (re.compile(r"\bsk-[\w-]{16,}"), REDACTED),
    (re.compile(r"\bAIza[\w-]{20,}"), REDACTED),
    (re.compile(r"\b(Bearer)\s+(?=\S*\d)[\w*.~+/=-]{8,}", re.IGNORECASE), rf"\1 {REDACTED}"),
)
_TRACES_OF_KEYS = (
    (re.compile(r"\bsk-[\w*.-]{4,}"), REDACTED),  # providers show a part and stars
    (re.compile(r"\b(api[-_ ]?key[^:=]{0,12}[:=]\s*)\S+", re.IGNORECASE), rf"\1{REDACTED}"),
)


def remember(*values: str | None) -> None:
    """Note keys that this process read: from here on no text and no log line has them."""
    new = {form for value in values if value for form in _forms(value.strip())}
    if new.issubset(_known):
        return
    forms = sorted({*_known, *new}, key=len, reverse=True)
    _known.clear()
    _known.update(dict.fromkeys(forms))
    logger = logging.getLogger("headway")
    if _scrub_record not in logger.filters:
        logger.addFilter(_scrub_record)


def without_known_keys(text: str) -> str:
    """Replace the keys that this process read."""
    for form in _known:
        if form in text:
            text = text.replace(form, REDACTED)
    return text


def scrubbed(text: str) -> str:
    """Replace everything in a message that is a key, or looks like one or like a part of one."""
    return _replaced(without_known_keys(text), _KEYS + _TRACES_OF_KEYS)


def without_whole_keys(text: str) -> str:
    """Replace what is certainly a key. Prose and source code stay as they are."""
    return _replaced(without_known_keys(text), _KEYS)


def without_secret_fields(data: Any) -> Any:
    """Return a component without any field that can hold a secret, and remember what it held.

    As :func:`without_keys`, and: values of headers and of environments, long texts in fields whose
    names speak of keys, what follows such a flag on a command line, user and query of addresses.
    What names a variable (:func:`with_variables`) is no secret, and stays.
    """
    if isinstance(data, str):
        return without_whole_keys(_without_credentials(data))
    if isinstance(data, list):
        return list(_without_secret_flags(data))
    if not isinstance(data, dict):
        return data
    kept: dict[Any, Any] = {}
    for name, value in data.items():
        if _names_variable(value):
            kept[name] = value
        elif _is_secret(name, value) or (
            isinstance(value, str)
            and len(value) >= SHORTEST_KEY
            and _MAY_BE_SECRET.search(str(name))
        ):
            remember(value if isinstance(value, str) else None)
        elif isinstance(value, dict) and _MAPS.search(str(name)):
            kept[name] = _plain_entries(value)
        elif isinstance(value, list) and _MAY_BE_SECRET.search(str(name)):
            _remember_likely(*value)
            kept[name] = [x for x in value if not isinstance(x, str) or _names_variable(x)]
        else:
            kept[name] = without_secret_fields(value)
    return kept


def _plain_entries(entries: dict[Any, Any]) -> dict[Any, Any]:
    kept = {}
    for name, value in entries.items():
        is_long = not isinstance(value, str) or len(value) >= SHORTEST_KEY
        is_kept = str(name).lower() in _PLAIN or _names_variable(value)
        if not is_kept and (is_long or _is_secret(name, value)):
            _remember_likely(value)
        else:
            kept[name] = without_secret_fields(value)
    return kept


def _remember_likely(*values: Any) -> None:
    """Note those that look like keys: words are found in every text."""
    texts = (value for value in values if isinstance(value, str))
    remember(*(each for each in texts if len(each) >= 16 or any(map(str.isdigit, each))))


def _without_secret_flags(items: list[Any]) -> Iterator[Any]:
    is_value = False
    for item in items:
        flag = _FLAG.match(item) if isinstance(item, str) else None
        if is_value and flag is None and isinstance(item, str) and not _names_variable(item):
            _remember_likely(item)
            yield REDACTED
        elif flag is not None and item[flag.end() :].startswith("="):
            _remember_likely(item[flag.end() + 1 :])
            yield f"{flag.group()}={REDACTED}"
        else:
            yield without_secret_fields(item)
        is_value = flag is not None and flag.end() == len(item)


def _without_credentials(text: str) -> str:
    """Return an address without its user and query; any other text as it is."""
    if "://" not in text or any(each.isspace() for each in text):
        return text
    try:
        parts = urlsplit(text)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return text
    if host == parts.netloc and not parts.query:
        return text
    remember(parts.username, parts.password)
    _remember_likely(*(each.partition("=")[2] for each in parts.query.split("&")))
    return urlunsplit((parts.scheme, host, parts.path, "", parts.fragment))


def _forms(value: str) -> set[str]:
    """Return a key as it may stand in a text; nothing for a value that is too short."""
    if len(value) < SHORTEST_KEY or value in MASKED:
        return set()
    coded = base64.b64encode(value.encode(errors="surrogatepass")).decode()
    safe = coded.replace("+", "-").replace("/", "_")
    forms = {value, quote(value, safe=""), quote_plus(value), coded, safe}
    return forms | {coded.rstrip("="), safe.rstrip("=")}


def _scrub_record(record: logging.LogRecord) -> bool:
    """Take keys out of a log line and its traceback. A filter: it lets every line pass."""
    text = record.getMessage()
    if (clean := without_known_keys(text)) != text:
        record.msg, record.args = clean, ()
    if record.exc_info and record.exc_info[1] is not None:
        record.exc_text = without_known_keys("".join(format_exception(record.exc_info[1])))
    return True


def with_variables(data: Any) -> Any:
    """Return a component with the values of the variables that its texts stand for.

    Such a text is ``${NAME}``, or that after ``Bearer`` or ``Basic``, and nothing else. Raises
    CallerError for a variable that is not set.
    """
    if isinstance(data, list):
        return [with_variables(item) for item in data]
    if isinstance(data, dict):
        return {name: with_variables(value) for name, value in data.items()}
    if not isinstance(data, str) or (reference := _REFERENCE.fullmatch(data)) is None:
        return data
    scheme, variable = reference.groups()
    if not (value := os.environ.get(variable)):
        raise CallerError(f"{data} is not set in the environment: export {variable}")
    remember(value)
    return scheme + value


def _names_variable(value: object) -> bool:
    return isinstance(value, str) and _REFERENCE.fullmatch(value) is not None


def without_masked_keys(data: Any) -> Any:
    """Drop key fields that hold no key, so that the SDK takes it from the environment."""
    if isinstance(data, list):
        return [without_masked_keys(item) for item in data]
    if not isinstance(data, dict):
        return data
    return {
        name: without_masked_keys(value)
        for name, value in data.items()
        if not (_is_secret(name, value) and isinstance(value, str) and value in MASKED)
    }


def without_keys(data: Any) -> Any:
    """Drop every key field, and replace keys inside all other texts."""
    if isinstance(data, str):
        return without_whole_keys(data)
    if isinstance(data, list):
        return [without_keys(item) for item in data]
    if not isinstance(data, dict):
        return data
    return {
        name: without_keys(value) for name, value in data.items() if not _is_secret(name, value)
    }


def _is_secret(name: object, value: object) -> bool:
    # A tool's JSON schema may have a parameter of such a name; its description is no key.
    return bool(_SECRET_FIELD.search(str(name))) and not isinstance(value, dict | list | bool)


def _replaced(text: str, patterns: Iterable[tuple[re.Pattern[str], str]]) -> str:
    for pattern, replacement in patterns:
        text = pattern.sub(replacement, text)
    return text

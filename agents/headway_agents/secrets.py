"""Takes API keys out of text and data. Law of this file: no key gets into what is kept or shown.

A key has its place in the environment or in the file that the user wrote; the journal, error texts
and logs get the text without it. Two ways to find one: by the name of its field in a component,
and by its looks anywhere.
"""

import re
from collections.abc import Iterable
from typing import Any

REDACTED = "[key]"
MASKED = frozenset({"", "**********"})
"""Values that AutoGen's dumps, and people, leave in the place of a key."""

_SECRET_FIELD = re.compile(
    r"(api[-_]?key|(azure_ad|access|auth|bearer)[-_]?token|secret|password|authorization)$",
    re.IGNORECASE,
)
_KEYS = (
    (re.compile(r"\bsk-[\w-]{16,}"), REDACTED),
    (re.compile(r"\bAIza[\w-]{20,}"), REDACTED),
    (re.compile(r"\b(Bearer)\s+(?=\S*\d)[\w*.~+/=-]{8,}", re.IGNORECASE), rf"\1 {REDACTED}"),
)
_TRACES_OF_KEYS = (
    (re.compile(r"\bsk-[\w*.-]{4,}"), REDACTED),  # providers show a part and stars
    (re.compile(r"\b(api[-_ ]?key[^:=]{0,12}[:=]\s*)\S+", re.IGNORECASE), rf"\1{REDACTED}"),
)


def scrubbed(text: str) -> str:
    """Replace everything in a message that looks like a key, or like a part of one."""
    return _replaced(text, _KEYS + _TRACES_OF_KEYS)


def without_whole_keys(text: str) -> str:
    """Replace what is certainly a key. Prose and source code stay as they are."""
    return _replaced(text, _KEYS)


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

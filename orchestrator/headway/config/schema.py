"""Describes ``headway.toml`` as JSON Schema, for editors. Law of this file: it follows ``KEYS``.

It is looser than the loader, which has the last word: a schema knows no relations between keys.
"""

from typing import Any

from headway_scheduler.model.calls import Priority, ServiceLane
from headway_scheduler.model.notices import NoticeKind
from headway_scheduler.model.quotas import Window
from headway_scheduler.model.schedules import Overlap
from headway_scheduler.providers import PROVIDERS

from .clients import CLIENTS
from .keys import BYPASSES, KEYS, LANES, TOOL_KINDS, Key

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_Schema = dict[str, Any]

_TEXT: _Schema = {"type": "string", "minLength": 1}
_TEXTS: _Schema = {"type": "array", "items": _TEXT, "uniqueItems": True}
_NUMBER: _Schema = {"type": "number", "minimum": 0}
_PRIORITIES = [priority.label for priority in Priority]

SHAPES: dict[str, _Schema] = {
    "path": _TEXT,
    "priority": {"enum": _PRIORITIES},
    "model": _TEXT,
    "warn, refuse or allow": {"enum": list(BYPASSES)},
    "whole number": {"type": "integer", "minimum": 1},
    "number": _NUMBER,
    "time (UTC)": {"type": "string", "pattern": "^([01]\\d|2[0-3]):[0-5]\\d$"},
    "kind of window": {"enum": [window.value for window in Window]},
    "true or false": {"type": "boolean"},
    "provider": {"enum": list(PROVIDERS)},
    "text": _TEXT,
    "client": {"anyOf": [{"enum": list(CLIENTS)}, {"type": "string", "pattern": "\\."}]},
    "table": {"type": "object"},
    "list of quotas": _TEXTS | {"minItems": 1},
    "http(s) address": {"type": "string", "pattern": "^https?://"},
    "variable": {"type": "string", "pattern": "^[A-Z_][A-Z0-9_]*$"},
    "command": _TEXT,
    "header": {"type": "string", "pattern": "^[A-Za-z]+(-[A-Za-z]+)*$"},
    "list of models": _TEXTS,
    "list of lanes": {"type": "array", "items": {"enum": list(LANES)}},
    "list of priorities": {"type": "array", "items": {"enum": _PRIORITIES}},
    "seconds": _NUMBER,
    "time": {"anyOf": [_NUMBER, _TEXT]},
    "pure, idempotent or once": {"enum": list(TOOL_KINDS)},
    "module:factory or file": _TEXT,
    "cron expression": _TEXT,
    "time zone": _TEXT,
    "workflow": _TEXT,
    "overlap policy": {"enum": [overlap.value for overlap in Overlap]},
    "lane": {"enum": [lane.value for lane in ServiceLane]},
    "list of events": {"type": "array", "items": {"enum": [kind.value for kind in NoticeKind]}},
}
"""What each ``Key.value_type`` permits."""


def schema() -> _Schema:
    """Return the schema of the whole file."""
    root = _table()
    root = {"$schema": DIALECT, "title": "headway.toml", **root}
    for path, key in KEYS.items():
        place = root
        for name in path[:-1]:
            place = _inside(place, name)
        _put(place, path[-1], _of(key))
    return root


def _of(key: Key) -> _Schema:
    default = list(key.default) if isinstance(key.default, tuple) else key.default
    known = {} if default is None else {"default": default}
    unset = f"; without it: {key.unset}" if key.unset else ""
    return SHAPES[key.value_type] | known | {"description": f"{key.value_type}{unset}"}


def _table() -> _Schema:
    return {"type": "object", "additionalProperties": False}


def _inside(place: _Schema, name: str) -> _Schema:
    """Return the table ``name`` of a table; ``*`` stands for any name."""
    if name == "*":
        if place["additionalProperties"] is False:
            place["additionalProperties"] = _table()
        inside: _Schema = place["additionalProperties"]
    else:
        inside = place.setdefault("properties", {}).setdefault(name, _table())
    return inside


def _put(place: _Schema, name: str, shape: _Schema) -> None:
    if name == "*":
        place["additionalProperties"] = shape
    else:
        place.setdefault("properties", {})[name] = shape

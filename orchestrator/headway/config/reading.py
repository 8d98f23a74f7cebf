"""Merges the file, the environment and the defaults. Law of this file: no value without a source.

Theory of operation. Each stage notes all of its problems before it raises them together: first
keys and values of the file; then names that refer to tables, and the environment, which both
need to know what the file configures; last what only the merged whole can show. The environment
wins over the file, and the file over the defaults.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..spelling import did_you_mean
from .clients import kind_of
from .keys import (
    COMPONENT_SUFFIXES,
    DEFAULT_LIMITS,
    DEFAULT_QUOTA,
    KEYS,
    LIMITS,
    WITHOUT_LANES,
    KeyPath,
    dotted,
    pattern,
    variable,
)
from .source import ConfigFile
from .values import ConfigError, spoken

DEFAULT = "default"
_FILE_VARIABLE = "HEADWAY_CONFIG"
_TABLES = tuple(dict.fromkeys(key[0] for key in KEYS))


@dataclass(frozen=True, slots=True)
class Setting:
    """A checked value and where it came from: a file, a variable or ``default``."""

    value: Any
    source: str


class Reading:
    """Collects settings stage by stage, and the problems of each stage."""

    def __init__(self, file: ConfigFile | None) -> None:
        fixed = {path: key for path, key in KEYS.items() if "*" not in path}
        self.settings: dict[KeyPath, Setting] = {
            path: Setting(key.default, DEFAULT) for path, key in fixed.items()
        }
        self._file = file
        self._problems: list[str] = []

    def names(self, table: str) -> list[str]:
        """Return the names that the user chose in a table, in the file's order."""
        return list(dict.fromkeys(path[1] for path in self.settings if path[0] == table))

    def raise_problems(self) -> None:
        """End a stage. Raises ConfigError with all that it found."""
        if self._problems:
            raise ConfigError("\n".join(dict.fromkeys(self._problems)))

    def take_file(self) -> None:
        """Check each key and value of the file, and fill in the rest of its tables."""
        if self._file is not None:
            for path, value in self._walk(self._file.document, ()):
                self._put(path, value, self._file.shown)
        if DEFAULT_QUOTA not in self.names("quotas") and DEFAULT_QUOTA in self._drawn_on():
            self._fill(("quotas", DEFAULT_QUOTA))
            for name, limit in DEFAULT_LIMITS.items():
                self.settings["quotas", DEFAULT_QUOTA, name] = Setting(limit, DEFAULT)

    def check_names(self) -> None:
        """Check that every quota, model and team that is named is configured."""
        quotas, models = self.names("quotas"), self.names("models")
        for path, setting in self.settings.items():
            if pattern(path)[0::2] in (("models", "quotas"), ("teams", "quotas")):
                for name in setting.value:
                    self._check_name(path, name, quotas)
            if pattern(path)[0::2] in (("models", "deployments"), ("models", "fallbacks")):
                for name in setting.value:
                    self._check_name(path, name, models)
                if path[1] in setting.value:
                    self._note(self._place(path), "names the model itself")
        default_model = self.settings["defaults", "model"].value
        if default_model is not None:
            self._check_name(("defaults", "model"), default_model, models)

    def take_environment(self, environ: Mapping[str, str]) -> None:
        """Let HEADWAY_* variables override, and refuse those that mean nothing."""
        known: dict[str, KeyPath] = {}
        for path in self.settings:
            if name := variable(path):
                if name in known:
                    other = dotted(known[name][:2])
                    self._note(
                        self._place(path[:2]), f"and {other} share {name}; rename one of them"
                    )
                known[name] = path
        for given in sorted(environ):
            name = given.upper()
            if name in known:
                value = environ[given]
                is_number = known[name][0] == "quotas"
                self._put(known[name], _numeric(value) if is_number else value, name, given)
            elif given.startswith("HEADWAY_") and name != _FILE_VARIABLE:
                self._note(given, f"is unknown; {_advice(name, [*known, _FILE_VARIABLE])}")

    def check_limits(self) -> None:
        """Refuse a quota without a limit: it is more likely a slip than a wish."""
        for name in self.names("quotas"):
            table = ("quotas", name)
            if all(self.settings[*table, limit].value is None for limit in LIMITS):
                choices = ", ".join(LIMITS)
                self._note(self._place(table), f"states no limit; set at least one of {choices}")

    def check_clients(self) -> None:
        """Check that each client has the arguments that a model sets, and those that it needs."""
        for name in self.names("models"):
            client = self.settings["models", name, "client"].value
            arguments = self.settings["models", name, "arguments"].value
            if (kind := kind_of(client)) is None:
                continue  # of a class of the user's own nobody knows them before it is imported
            for each in arguments:
                if each not in kind.arguments:
                    place = self._place(("models", name, "arguments", each))
                    self._note(place, f"is unknown; {_advice(each, sorted(kind.arguments))}")
            for each in kind.needs:
                if each not in arguments:
                    place = self._place(("models", name, "arguments"))
                    self._note(place, f"must set {each}: client {client!r} needs it")

    def check_lanes(self) -> None:
        """Refuse lanes of providers that take no service tier."""
        for path, setting in self.settings.items():
            if pattern(path)[0::2] in (("models", "lanes"), ("models", "priority_for")):
                provider = self.settings["models", path[1], "provider"].value
                if setting.value and provider in WITHOUT_LANES:
                    self._note(self._place(path), f"is for OpenAI's protocol, not for {provider}")

    def resolve_paths(self, folder: Path, cwd: Path) -> None:
        """Make paths absolute: those of the file from its folder, those of a shell from its own.

        The URL of a database stays as it is.
        """
        for path, setting in self.settings.items():
            if path == ("database", "path"):
                if "://" in setting.value:
                    continue
                base = cwd if setting.source == variable(path) else folder
                value: object = base / os.path.expanduser(setting.value)
            elif path[0] == "workflows" and setting.value.endswith(COMPONENT_SUFFIXES):
                value = str(folder / os.path.expanduser(setting.value))
            else:
                continue
            self.settings[path] = Setting(value, setting.source)

    def sorted_settings(self) -> dict[KeyPath, Setting]:
        """Return all settings, table by table in the order of the docs."""
        return dict(sorted(self.settings.items(), key=lambda item: _TABLES.index(item[0][0])))

    def _walk(self, node: Mapping[str, Any], path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
        """Yield the values of known keys. Notes unknown keys; fills tables of chosen names."""
        for name, value in node.items():
            here = (*path, name)
            known = pattern(here)
            if not name.strip():
                self._note(self._place(here), "must not be an empty name")
            elif known in KEYS:
                yield here, value
            elif not any(key[: len(known)] == known for key in KEYS):
                self._note(self._place(here), self._unknown(here, value))
            elif not isinstance(value, dict):
                self._note(self._place(here), f"must be a table, not {spoken(value)}")
            else:
                self._fill(here)
                yield from self._walk(value, here)

    def _fill(self, table: KeyPath) -> None:
        for key in KEYS:
            if len(key) == len(table) + 1 == 3 and key[:2] == pattern(table):
                self.settings[*table, key[2]] = Setting(KEYS[key].default, DEFAULT)
        if table[0] == "models" and len(table) == 2:
            self.settings[*table, "name"] = Setting(table[1], DEFAULT)

    def _unknown(self, path: KeyPath, value: object) -> str:
        if path[-1] == "api_key":
            return (
                "would put a secret into a file; set it in the environment, and name that "
                'variable: api_key_env = "OPENAI_API_KEY"'
            )
        if isinstance(value, dict) and len(path) > 2:
            return f'is unknown; a name with a dot needs quotes: [{path[0]}."{".".join(path[1:])}"]'
        around = pattern(path)[:-1]
        siblings = [key[len(path) - 1] for key in KEYS if key[: len(path) - 1] == around]
        return f"is unknown; {_advice(path[-1], siblings)}"

    def _drawn_on(self) -> set[str]:
        models = [self.settings["models", name, "quotas"].value for name in self.names("models")]
        if self.settings["defaults", "model"].value is None:
            models.append((DEFAULT_QUOTA,))
        return {quota for quotas in models for quota in quotas}

    def _check_name(self, path: KeyPath, name: str, configured: list[str]) -> None:
        if name not in configured:
            known = ", ".join(configured) or "none"
            self._note(
                self._place(path), f"names {name!r}, which is not configured; configured: {known}"
            )

    def _put(self, path: KeyPath, value: object, source: str, place: str = "") -> None:
        try:
            self.settings[path] = Setting(KEYS[pattern(path)].check(value), source)
        except ConfigError as error:
            self._note(place or self._place(path), str(error))

    def _place(self, path: KeyPath) -> str:
        return self._file.place(path) if self._file is not None else dotted(path)

    def _note(self, place: str, problem: str) -> None:
        self._problems.append(f"{place} {problem}")


def _numeric(text: str) -> object:
    """Return a number if the text is one; else the text, for the check to refuse."""
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


def _advice(word: str, permitted: Iterable[str]) -> str:
    choices = list(dict.fromkeys(permitted))
    return did_you_mean(word, choices) or f"permitted: {', '.join(choices)}"

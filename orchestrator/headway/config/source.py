"""Finds and parses headway.toml. Law of this file: whatever is wrong with it, say where.

TOML keeps no lines, so the line of a key is searched for, and only once it is needed: a search
misled by odd text costs a line number, never a value.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .keys import KeyPath, dotted
from .values import ConfigError

FILE_NAME = "headway.toml"


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A parsed file. ``shown`` is its name in messages and sources."""

    path: Path
    shown: str
    text: str
    document: Mapping[str, Any]

    def place(self, path: KeyPath) -> str:
        """Return file, line and key, for the beginning of a message."""
        line = line_of(self.text, path)
        return f"{self.shown}{f':{line}' if line else ''}: {dotted(path)}"


def find(
    path: str | os.PathLike[str] | None, environ: Mapping[str, str], cwd: Path
) -> ConfigFile | None:
    """Open the named file, else that of HEADWAY_CONFIG, else ./headway.toml, else none.

    Raises ConfigError if a named file is missing, or any found one cannot be used.
    """
    named = os.fspath(path) if path is not None else environ.get("HEADWAY_CONFIG")
    if named is None:
        # A dangling link is there: passing it over would run on limits that nobody chose.
        return open_file(cwd / FILE_NAME, cwd) if os.path.lexists(cwd / FILE_NAME) else None
    if not named.strip():
        asked = "the path of the configuration" if path is not None else "HEADWAY_CONFIG"
        raise ConfigError(f"{asked} is empty: name a file, or leave it out for ./{FILE_NAME}")
    named = os.path.expanduser(named)
    return open_file(cwd / named, cwd, "" if path is not None else " (from HEADWAY_CONFIG)")


def open_file(path: Path, cwd: Path, asked_by: str = "") -> ConfigFile:
    """Read and parse. Raises ConfigError that names the file, and the line of bad syntax."""
    import tomllib  # 5 ms that a command without a file need not spend

    shown = str(path.relative_to(cwd) if path.is_relative_to(cwd) else path)
    try:
        text = path.read_bytes().decode("utf-8-sig")  # Windows editors add a byte order mark
        return ConfigFile(path, shown, text, tomllib.loads(text))
    except FileNotFoundError:
        raise ConfigError(
            f"{shown}{asked_by}: no such file; `headway init` writes one, or name another"
        ) from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"{shown}{asked_by}: cannot be read: {reason}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{shown}: is not UTF-8 text; save it as UTF-8") from None
    except ValueError as error:
        raise ConfigError(_syntax_message(shown, str(error))) from None


def _syntax_message(shown: str, message: str) -> str:
    match = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", message, re.DOTALL)
    if match is None:
        return f"{shown}: is not valid TOML: {message}"
    return f"{shown}:{match[2]}: is not valid TOML: {match[1]} (column {match[3]})"


def line_of(text: str, path: KeyPath) -> int | None:
    """Return the line, from 1, of the key, or else of the innermost table around it."""
    table: KeyPath = ()
    best, line = 0, None
    for number, content in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+([^\]]+)\]", content):
            table = here = _parts(header[1])
        elif assigned := re.match(r"\s*([^#=]+?)\s*=", content):
            here = (*table, *_parts(assigned[1]))
        else:
            continue
        shared = max(n for n in range(len(path) + 1) if here[:n] == path[:n])
        if shared > best:
            best, line = shared, number
    return line


def _parts(key: str) -> KeyPath:
    found = re.findall(r"\"([^\"]*)\"|'([^']*)'|([\w-]+)", key)
    return tuple("".join(alternatives) for alternatives in found)

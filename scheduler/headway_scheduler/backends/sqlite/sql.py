"""Reads the statements of ``statements.sql`` and the migrations from the package."""

import re
import sqlite3
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from itertools import compress, groupby, repeat
from operator import is_not
from string import Template
from typing import Any, Final, cast

from .rows import COLUMNS, FIXED, TEXTS, Row

APPLICATION_ID: Final = 0x48445759
"""``HDWY`` in a file's header marks it as a database of Headway."""

_PACKAGE = files(__package__)
_PLACE = re.compile(r"(?:CAST\()?\?(?P<number>\d+)(?: AS TEXT\))?")


def named(cursor: sqlite3.Cursor) -> Iterator[Any]:
    """Return rows as tuples with the names that the statement gives its columns."""
    return map(_maker(tuple(name for name, *_ in cursor.description)), cursor)


@lru_cache(maxsize=256)
def _maker(columns: tuple[str, ...]) -> Callable[[Iterable[Any]], Any]:
    row: Any = namedtuple("Row", columns)  # type: ignore[misc] # only SQL knows the names
    return cast(Callable[[Iterable[Any]], Any], row._make)


def _statements() -> dict[str, str]:
    text = _PACKAGE.joinpath("statements.sql").read_text(encoding="utf-8")
    parts = re.split(r"^-- (\w+): .*\n", text, flags=re.MULTILINE)
    columns = {name: value for table in COLUMNS for name, value in _lists(table).items()}
    statements = (Template(part).substitute(columns) for part in parts[2::2])
    return dict(zip(parts[1::2], statements, strict=True))


def _lists(table: str) -> dict[str, str]:
    """Return a table's columns in the forms that statements need; ``?n`` is a row's n-th value."""
    columns = COLUMNS[table]
    places = {
        column: f"CAST(?{number} AS TEXT)" if column in TEXTS else f"?{number}"
        for number, column in enumerate(columns, start=1)
    }
    changed = (f"{column} = {place}" for column, place in places.items() if column not in FIXED)
    excluded = (f"{column} = excluded.{column}" for column in columns if column not in FIXED)
    return {
        table: ", ".join(columns),
        f"{table}_values": ", ".join(places.values()),
        f"{table}_changed": ", ".join(changed),
        f"{table}_excluded": ", ".join(excluded),
    }


def without_nulls(name: str, rows: Sequence[Row]) -> Iterator[tuple[str, Sequence[Row]]]:
    """Yield a statement with the rows to run it on, in their order; NULL stands in the statement.

    Python's sqlite3 looks for an adapter of each None that it binds, which takes five times as long
    as to bind a number, and half of a call's columns are NULL.
    """
    if name not in _NUMBERED:
        yield STATEMENTS[name], rows
        return
    for filled, group in groupby(rows, lambda row: tuple(map(is_not, row, repeat(None)))):
        yield _with_nulls(name, filled), [tuple(compress(row, filled)) for row in group]


@lru_cache(maxsize=256)
def _with_nulls(name: str, filled: tuple[bool, ...]) -> str:
    """Return a statement for rows that have a value only where ``filled`` is true."""

    def place(found: re.Match[str]) -> str:
        number = int(found["number"])
        if not filled[number - 1]:
            return "NULL"
        return found[0].replace(f"?{number}", f"?{sum(filled[:number])}")

    return _PLACE.sub(place, STATEMENTS[name])


def _migrations() -> dict[int, str]:
    scripts = (item for item in _PACKAGE.joinpath("migrations").iterdir() if item.is_file())
    texts = {int(item.name[:4]): item.read_text(encoding="utf-8") for item in scripts}
    return dict(sorted(texts.items()))


STATEMENTS: Final[Mapping[str, str]] = _statements()
_NUMBERED: Final = frozenset(name for name, text in STATEMENTS.items() if "?1" in text)
MIGRATIONS: Final[Mapping[int, str]] = _migrations()
"""Scripts in order, each by the version (``PRAGMA user_version``) that it leads to."""

NEWEST: Final = max(MIGRATIONS)

"""docs/schema.md has every table and column of the database, and its queries run."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/schema.md").read_text()
MIGRATIONS = ROOT / "scheduler/headway_scheduler/backends/sqlite/migrations"
QUERIES = re.findall(r"^```sql\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        for migration in sorted(MIGRATIONS.glob("*.sql")):
            connection.executescript(migration.read_text())
        yield connection


def described() -> dict[str, set[str]]:
    """The columns of each table: a section for each long one, a row for each short one."""
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    found = {
        section.split("\n", 1)[0]: set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
        for section in sections[:2]
    }
    for section in sections[2:]:
        for table, columns in re.findall(r"^\| `(\w+)`[^|]*\| (.*) \|$", section, re.MULTILINE):
            found[table] = set(re.findall(r"`(\w+)`", columns))
    return found


def test_every_table_and_column_is_there(database: sqlite3.Connection) -> None:
    rows = database.execute(
        "SELECT tables.name, columns.name FROM sqlite_schema AS tables, "
        "pragma_table_info(tables.name) AS columns "
        "WHERE tables.type = 'table' AND tables.name NOT LIKE 'sqlite_%'"
    )
    real: dict[str, set[str]] = {}
    for table, column in rows:
        real.setdefault(table, set()).add(column)
    assert described() == real


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_runs(query: str, database: sqlite3.Connection) -> None:
    assert database.execute(query).fetchall() == []


def test_there_are_queries() -> None:
    assert len(QUERIES) == 2

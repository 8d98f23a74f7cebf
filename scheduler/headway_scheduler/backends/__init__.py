"""Everything that knows a database engine, a path, a lock or a process id.

Law: a backend saves, loads and carries; it decides nothing. This file is the one place where an
engine is named; the rest of Headway knows ``ports`` alone.
"""

from pathlib import Path

from ..errors import CallerError
from ..ports import Backend
from . import log_lines as log_lines


def open_backend(database: Path | str) -> Backend:
    """Return the backend of a database: a path is an SQLite file, a URL names its engine.

    Opens nothing, but imports the engine. Raises CallerError for an engine that is not there.
    """
    if isinstance(database, str) and "://" in database:
        engine = database.partition("://")[0]
        # The rest of a URL may hold a password.
        raise CallerError(
            f"{engine}://…: there is no such database engine: use the path of an SQLite file "
            "([database] path, or HEADWAY_DATABASE)"
        )
    from .sqlite.backend import SqliteBackend

    return SqliteBackend(Path(database))


def empty_backend(name: str) -> Backend:
    """Return a database with nothing in it, in memory: one that is not there yet reads so."""
    from .memory.backend import MemoryBackend

    return MemoryBackend(name)

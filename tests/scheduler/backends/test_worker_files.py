"""Workers beside an SQLite file: what no other engine has."""

from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest

from headway_scheduler.backends.sqlite import reads, worker_files
from headway_scheduler.backends.sqlite.backend import SqliteBackend
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.backends.sqlite.worker_files import WorkerFile

pytestmark = pytest.mark.anyio


async def test_a_heartbeat_counts_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process may be stopped in the middle of one, until others have taken its runs."""
    path, now = tmp_path / "headway.db", 100.0

    def is_listed(*_: object, **__: object) -> bool:
        nonlocal now
        now += 60
        return True

    monkeypatch.setattr(worker_files, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(worker_files, "HEARTBEAT_SECONDS", 3600)
    monkeypatch.setattr(reads, "is_listed", is_listed)
    async with SqliteStore(path), WorkerFile(path, "w-me") as presence:
        now = 200.0
        await presence.confirm()
        assert (presence.contact_at, now) == (200.0, 260.0)


async def test_a_heartbeat_that_cannot_read_is_none_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "headway.db"
    async with WorkerFile(path, "w-me") as presence:  # there is no database yet
        opened = presence.contact_at
        presence._heartbeat()
        assert presence.contact_at == opened


def test_what_others_have_beside_the_file_stays(tmp_path: Path) -> None:
    """Another database may begin with the name of this one."""
    path = tmp_path / "headway.db"
    others = [tmp_path / name for name in ("headway.db.copy.lock", "headway.db.lock", "x.w-1.lock")]
    mine = [tmp_path / f"headway.db.w-1.{end}" for end in ("lock", "bell")]
    for file in (*others, *mine):
        file.touch()
    anyio.run(SqliteBackend(path).workers().tidy, [])
    assert sorted(tmp_path.iterdir()) == sorted(others)

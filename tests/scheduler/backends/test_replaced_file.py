"""The file of the database is removed, replaced or cut short while it is open."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from headway_scheduler.backends import open_backend
from headway_scheduler.backends.sqlite.mailbox import SqliteMailbox
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.errors import StoreReplaced
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import Priority
from headway_scheduler.model.data import replace
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import RunState
from headway_scheduler.ports import LEADER

pytestmark = pytest.mark.anyio

RUN = Run("r-1", "w", "t", Priority.NORMAL, RunState.QUEUED, 1.0)
ONE, TWO = (Batch(runs=(replace(RUN, id=name),)) for name in ("r-1", "r-2"))


def remove(path: Path) -> None:
    path.unlink()


def exists(path: Path) -> bool:
    return path.exists()


def size(path: Path) -> int:
    return path.stat().st_size


def move(path: Path, to: Path) -> None:
    path.rename(to)


def replace(path: Path) -> None:
    """By a database that is as good: a backup that somebody brings back."""
    other = path.with_name("other.db")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(other)) as target:
        source.backup(target)
    other.rename(path)


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(0)


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 8192)


WAYS = {"removed": remove, "replaced": replace, "cut short": truncate}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "headway.db"


@pytest.mark.parametrize(("words", "way"), [*WAYS.items(), ("cut short", cut)])
async def test_the_leader_tells_nothing_of_it(
    path: Path, words: str, way: Callable[[Path], None]
) -> None:
    async with SqliteStore(path) as store:
        await store.commit(ONE)
        way(path)
        for _ in range(2):
            with pytest.raises(StoreReplaced, match=f"{path}: the file was {words}"):
                await store.commit(TWO)
        with pytest.raises(StoreReplaced, match="see what happened"):
            await store.runs()
    assert exists(path) is (way is not remove)


@pytest.mark.parametrize(("words", "way"), WAYS.items())
async def test_a_follower_posts_nothing_to_it(
    path: Path, words: str, way: Callable[[Path], None]
) -> None:
    async with SqliteStore(path) as store:
        await store.commit(ONE)
        mailbox = SqliteMailbox(path)
        await mailbox.post("w-1", "before")
        way(path)
        with pytest.raises(StoreReplaced, match=words):
            await mailbox.post("w-1", "after", durable=True)
        with pytest.raises(StoreReplaced, match=words):
            await mailbox.notifications("w-1", 0)
        await mailbox.close()


async def test_what_was_taken_away_in_the_middle_of_a_commit_is_not_told_either(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headway_scheduler.backends.sqlite import reads

    async with SqliteStore(path) as store:
        await store.commit(ONE)
        asserted = reads.assert_epoch

        def late(*args: object) -> None:
            asserted(*args)  # type: ignore[arg-type]
            remove(path)  # the look before is over, and COMMIT comes next

        monkeypatch.setattr(reads, "assert_epoch", late)
        with pytest.raises(StoreReplaced):
            await store.commit(TWO)


async def test_a_process_makes_no_new_file_in_its_place(path: Path) -> None:
    backend = open_backend(path)
    async with await backend.leadership().campaign("w-1") as term:
        await term.store.commit(ONE)
    remove(path)
    with pytest.raises(StoreReplaced):
        await backend.leadership().campaign("w-1")
    assert not exists(path)
    # A process that starts anew does.
    async with await open_backend(path).leadership().campaign("w-1") as term:
        assert await term.store.runs() == []


@pytest.mark.timeout(30)
async def test_whoever_waits_for_it_is_woken(path: Path) -> None:
    """An idle leader, which commits nothing, ends too."""
    backend = open_backend(path)
    async with await backend.leadership().campaign("w-1") as term:
        mailbox, notifier = backend.mailbox(term.epoch), backend.notifier(LEADER)
        async with notifier:
            assert list(await mailbox.waiting(())) == []
            remove(path)
            await notifier.wait()
            with pytest.raises(StoreReplaced):
                await mailbox.waiting(())
        await mailbox.close()


async def test_space_that_is_given_back_while_nobody_leads_is_no_loss(path: Path) -> None:
    async with SqliteStore(path) as store:
        await store.commit(Batch(runs=(RUN,)))
    mailbox = SqliteMailbox(path)
    await mailbox.post("w-1", "x" * 1_000_000)
    with closing(sqlite3.connect(path)) as db:
        db.execute("DELETE FROM inbox")
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = size(path)
    await open_backend(path).maintenance().compact()
    assert size(path) < before
    await mailbox.post("w-1", "after")
    await mailbox.close()


async def test_a_copy_back_in_place_does_not_bring_it_back(path: Path) -> None:
    """Others may have written to another file meanwhile, so the process has to start again."""
    kept = path.with_name("kept.db")
    async with SqliteStore(path) as store:
        await store.commit(ONE)
        move(path, kept)
        with pytest.raises(StoreReplaced):
            await store.commit(TWO)
        move(kept, path)
        with pytest.raises(StoreReplaced):
            await store.commit(TWO)

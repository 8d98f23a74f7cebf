"""The database is taken away under processes that work on it: they stop, and say why."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.orchestrator.workers.processes import World, world_in


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    with world_in(tmp_path, base_seconds=20.0) as world:
        yield world


def remove(world: World) -> None:
    world.database.unlink()


def replace(world: World) -> None:
    backup = world.folder / "backup.db"
    world.headway("db", "backup", str(backup))
    backup.rename(world.database)


WAYS = {"removed": remove, "replaced by another one": replace}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("words", WAYS)
def test_the_leader_and_a_follower_stop_and_say_why(world: World, words: str) -> None:
    leader = world.worker()
    follower = world.start("work", "--forever")
    world.until(lambda: len(world.rows("SELECT 1 FROM workers")) == 2, leader, follower)
    for number in range(2):
        world.headway("submit", "agent", f"task {number}")
    in_flight = "SELECT 1 FROM calls WHERE state IN ('admitted', 'sent')"
    world.until(lambda: len(world.rows(in_flight)) == 2, leader, follower)
    WAYS[words](world)
    for process in (leader, follower):
        out, err = process.communicate()
        assert process.returncode == 3, err
        assert f"the file was {words} while it was open" in err
        assert "Traceback" not in err
        # Nothing that came after is told as if it held.
        assert "completed" not in out
    assert world.database.exists() is (words != "removed")

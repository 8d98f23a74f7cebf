"""A row or a request that cannot be read, met by real processes: others go on, and name it."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.orchestrator.workers.processes import World, world_in


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    with world_in(tmp_path) as world:
        yield world


def write(world: World, *statements: str) -> None:
    """Write as another program would."""
    with closing(sqlite3.connect(world.database)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


ABOUT_IT = (
    "INSERT INTO inbox (sender, event) VALUES"
    """ ('c-gone', '{{"type":"SetPriority","target":"{bad}","priority":1}}')"""
)
"""A command about a run that cannot be read: its answer is that error."""

SPOILED = (
    ABOUT_IT,
    "UPDATE runs SET created_at = 9e999 WHERE id = '{bad}'",
    "UPDATE calls SET quotas = 'x' WHERE run_id = '{bad}'",
    "INSERT INTO inbox (sender, event) VALUES ('w-gone', '{{broken')",
    "INSERT INTO inbox (sender, event) VALUES ('c-gone', '" + "[" * 200_000 + "')",
    "INSERT INTO inbox (sender, event) VALUES ('c-gone', CAST(x'ff' AS TEXT))",
    "INSERT INTO changes (at, kind, target, value)"
    " VALUES (1, 'gate', 'nothing', '[\"paused\", 0]')",
    "INSERT INTO changes (at, kind, target, value) VALUES (1, 'limits', 'small', '[7]')",
    "INSERT INTO lessons (kind, subject, value) VALUES ('tokens', '[\"sim\", \"writer\"]', '[1]')",
    "INSERT INTO lessons (kind, subject, value) VALUES ('run size', 'agent', '[\"x\"]')",
    "INSERT INTO lessons (kind, subject, value) VALUES ('breaker', 'small', '{{}}')",
    "INSERT INTO workers (id, pid, since, label, slots, takes_interrupted, workflows)"
    " VALUES ('w-bad', 1, 9e999, '', 4, 1, '[]')",
)


@pytest.mark.timeout(120)
def test_a_leader_starts_without_what_it_cannot_read_and_everyone_names_it(world: World) -> None:
    world.headway("queue", "pause")
    worker = world.worker()
    (bad, good) = (world.headway("submit", "agent", f"task {n}").strip() for n in range(2))
    world.until(lambda: len(world.rows("SELECT 1 FROM calls WHERE state = 'queued'")) == 2, worker)
    worker.kill()
    worker.wait()
    write(world, *(statement.format(bad=bad) for statement in SPOILED))
    for command in (["runs", "list"], ["queue", "list"], ["top", "--once"], ["costs"]):
        process = world.start(*command)
        out, err = process.communicate()
        assert process.returncode == 0, err
        if command[0] != "costs":
            assert "cannot be read" in out + err
    process = world.start("runs", "list")
    out, err = process.communicate()
    assert good in out
    assert f"run {bad} cannot be read" in err

    worker = world.worker()  # it leads, and has answered every request
    write(world, ABOUT_IT.format(bad=bad))
    more = world.headway("submit", "agent", "more").strip()
    world.headway("queue", "resume")
    for run_id in (good, more):
        world.until(lambda run_id=run_id: world.state(run_id) == "completed", worker)
    assert "while no process leads" in world.headway("db", "repair", status=3)
    worker.terminate()
    _, said = worker.communicate()
    assert f"run {bad} cannot be read" in said

    process = world.start("db", "check")
    out, _ = process.communicate()
    assert process.returncode == 1
    assert f"run {bad} cannot be read" in out
    repaired = world.headway("db", "repair")
    assert f"run {bad} cannot be read" in repaired
    assert f"run {bad} cannot be read" in world.headway("db", "repair", "--list")
    assert "all is well" in world.headway("db", "check")
    assert world.facts("db", "check")["problems"] == []
    listed = world.start("runs", "list")
    out, err = listed.communicate()
    assert (bad in out, "cannot be read" in err) == (False, False)

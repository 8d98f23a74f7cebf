"""Requests and starts that take the leader down. Real processes, real deaths."""

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from tests.orchestrator.workers.processes import World, world_in

from headway_scheduler.backends import open_backend
from headway_scheduler.model.runs import Worker
from headway_scheduler.protocol.codec import dump
from headway_scheduler.protocol.commands import RegisterWorker, SetWeight
from headway_scheduler.protocol.envelopes import MessageBatch
from headway_scheduler.protocol.messages import DropWorker

LEADER = """
import os, sys
from headway.workers.leader_commands import LeaderCommands
from headway_scheduler.runtime.workers import Workers

execute, deliver = LeaderCommands.execute, Workers.deliver

async def deadly(self, command, **more):
    if getattr(command, "team", "") == "deadly":
        os._exit(9)
    return await execute(self, command, **more)

def deadly_batch(self, request_id, batch, **more):
    if batch.messages:
        os._exit(9)
    return deliver(self, request_id, batch, **more)

LeaderCommands.execute, Workers.deliver = deadly, deadly_batch

from headway.cli import main
sys.exit(main(["work", *sys.argv[1:]]))
"""
DYING = """
import os, sys
from headway.workers.monitor import WorkerMonitor

async def die(self):
    os._exit(9)

WorkerMonitor.reap_dead_workers = die
from headway.cli import main
sys.exit(main(["work"]))
"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    with world_in(tmp_path) as world:
        world.headway("work")  # makes the database
        yield world


def post(world: World, *requests: tuple[str, str]) -> list[int]:
    """Post while nobody leads."""

    async def posted() -> list[int]:
        mailbox = open_backend(world.database).mailbox()
        try:
            return [await mailbox.post(sender, text) for sender, text in requests]
        finally:
            await mailbox.close()

    return anyio.run(posted)


def answer(world: World, request_id: int) -> str:
    return str(world.rows("SELECT answer FROM inbox WHERE id = ?", request_id)[0][0])


def test_a_command_that_takes_three_leaders_down_is_answered_and_set_aside(world: World) -> None:
    teams = ("first", "deadly", "last")
    requests = [(f"c-{team}", dump(SetWeight(team, 2.0))) for team in teams]
    first, deadly, last = post(world, *requests)
    assert [world.start("-c", LEADER).wait() for _ in range(4)] == [9, 9, 9, 0]
    assert '"Done"' in answer(world, first)
    assert '"Done"' in answer(world, last)
    assert "3 leaders in a row" in answer(world, deadly)
    assert [each for (each,) in world.rows("SELECT target FROM changes")] == ["first", "last"]
    listed = world.headway("db", "repair", "--list")
    assert f"request {deadly} of c-deadly" in listed
    ((row,),) = world.rows("SELECT row FROM set_aside")
    assert "deadly" in row


def test_a_batch_that_takes_three_leaders_down_is_set_aside_and_its_worker_told(
    world: World,
) -> None:
    batch = dump(MessageBatch("w-1", (DropWorker("w-2"),)))
    (deadly,) = post(world, ("w-1", batch))
    assert [world.start("-c", LEADER).wait() for _ in range(4)] == [9, 9, 9, 0]
    assert world.rows("SELECT 1 FROM inbox WHERE id = ?", deadly) == []
    assert f"request {deadly} of w-1" in world.headway("db", "repair", "--list")


def test_a_worker_that_no_file_can_be_named_after_is_refused_and_the_leader_goes_on(
    world: World,
) -> None:
    odd = ("w-\ud800", "w-/../x", "w-" + "x" * 300, "w-1\n", "")
    workers = [Worker(each, 1, 1e9, slots=1) for each in odd]
    commands = post(world, *(("c-1", dump(RegisterWorker(each))) for each in workers))
    batches = (MessageBatch(each.id, (), joins=each) for each in workers)
    post(world, *(("w-1", dump(each)) for each in batches))
    (last,) = post(world, ("c-1", dump(SetWeight("good", 2.0))))
    world.headway("submit", "agent", "Go.")
    world.headway("work")
    assert all('"Refused"' in answer(world, each) for each in commands)
    assert '"Done"' in answer(world, last)
    assert world.rows("SELECT state FROM runs") == [("completed",)]
    assert world.rows("SELECT id FROM workers") == []


def test_a_request_that_waits_while_leaders_end_in_order_is_carried_out(world: World) -> None:
    """Only a death while it is in hand counts, not one that it waited through."""
    (asked,) = post(world, ("c-1", dump(SetWeight("good", 2.0))))
    for _ in range(4):
        assert world.start("-c", "import os; os._exit(9)").wait() == 9
    world.headway("work")
    assert '"Done"' in answer(world, asked)


def test_after_three_starts_that_never_ended_the_next_one_says_how_to_go_on(world: World) -> None:
    for _ in range(3):
        assert world.start("-c", DYING).wait() == 9
    for is_first in (True, False):
        process = world.start("work")
        _, said = process.communicate()
        assert process.returncode == 0, said
        assert ("the last 3 processes that were to lead" in said) is is_first
        assert ("`headway db check`" in said) is is_first

"""Several processes on one database: one admits, the others ask it. Real processes, real kills."""

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.orchestrator.workers.processes import World, world_in
from tests.processes import Process
from tests.scheduler.backends.writers import WRITER, is_pending, is_stopped, needs_locks
from tests.sentences import SENTENCE
from tests.waiting import without_slowness


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    with world_in(tmp_path) as world:
        yield world


@pytest.fixture
def slow_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world where an answer never comes while a test looks."""
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    with world_in(tmp_path, base_seconds=60.0) as world:
        yield world


def changes(world: World) -> list[tuple[str, str]]:
    return world.rows("SELECT kind, target FROM changes ORDER BY id")  # type: ignore[return-value]


def in_flight(world: World) -> int:
    return len(world.rows("SELECT 1 FROM calls WHERE state IN ('admitted', 'sent')"))


def unanswered(world: World) -> int:
    return len(world.rows("SELECT 1 FROM inbox WHERE answer IS NULL"))


def test_a_run_submitted_beside_a_worker_is_taken_and_paid_once(world: World) -> None:
    worker = world.worker()
    ids = [world.headway("submit", "agent", f"task {n}").strip() for n in range(3)]
    for run_id in ids:
        world.until(lambda run_id=run_id: world.state(run_id) == "completed", worker)
    assert len(world.ledger.paid) == 3
    again = [world.headway("submit", "agent", "x", "--key", "k").strip() for _ in range(2)]
    assert again[0] == again[1]


def test_submitters_at_once_on_a_new_database_all_get_their_run(world: World) -> None:
    """The first one makes it and leads for a moment; others follow it, or each other."""
    commands = [world.start("submit", "agent", f"task {n}") for n in range(6)]
    commands += [world.start("submit", "agent", "once", "--key", "k") for _ in range(3)]
    said = [command.communicate() for command in commands]
    assert [command.returncode for command in commands] == [0] * 9, said
    ids = {out.strip() for out, _ in said}
    assert len(ids) == 7
    assert {row[0] for row in world.rows("SELECT id FROM runs")} == ids
    assert not any(without_slowness(err) for _, err in said)


def test_every_verb_works_beside_a_live_process(slow_world: World) -> None:
    world = slow_world
    worker = world.worker()
    for verb in ("pause", "drain", "resume"):
        (change,) = world.facts("queue", verb, "class:low")
        assert (change["kind"], change["target"]) == ("gate", "class:low")
    world.headway("queue", "pause")
    world.headway("limits", "set", "small", "requests_per_minute=60")
    world.headway("limits", "reset", "small")
    world.headway("limits", "weight", "team", "3")
    world.headway("limits", "resume", "small")
    kinds = [kind for kind, _ in changes(world)]
    assert kinds == ["gate"] * 4 + ["limits"] * 2 + ["weight", "resume"]

    run_id = world.headway("submit", "agent", "wait").strip()
    world.until(lambda: world.rows("SELECT 1 FROM calls WHERE state = 'queued'"), worker)
    world.headway("queue", "bump", run_id, "-p", "high")
    assert world.rows("SELECT priority FROM runs WHERE id = ?", run_id) == [(1,)]
    world.headway("queue", "bump", f"{run_id}.0", "-p", "interactive")
    assert world.rows("SELECT priority FROM calls") == [(0,)]
    # It pauses once its call has come back: meanwhile others are heard, and it can be cancelled.
    pausing = world.start("runs", "pause", run_id)
    world.until(lambda: unanswered(world), pausing)
    assert "cancelled" in world.headway("runs", "cancel", run_id)
    assert (pausing.wait(), world.state(run_id)) == (0, "cancelled")

    world.headway("queue", "resume")
    flying = world.headway("submit", "agent", "fly").strip()
    world.until(lambda: in_flight(world), worker)
    assert "cancelled" in world.headway("runs", "cancel", flying)
    assert world.state(flying) == "cancelled"
    assert worker.poll() is None
    assert unanswered(world) == 0


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["limits", "set", "none", "requests_per_minute=1"], "none"),
        (["limits", "resume", "none"], "none"),
        (["limits", "weight", "team", "-1"], "above 0"),
        (["queue", "pause", "class:none"], "none"),
        (["queue", "bump", "r-none", "-p", "low"], "no run 'r-none'"),
        (["runs", "cancel", "r-none"], "no run 'r-none'"),
    ],
)
def test_a_refusal_comes_back_in_the_same_words(
    world: World, command: list[str], said: str
) -> None:
    alone = world.headway(*command, status=2)
    assert said in alone
    worker = world.worker()
    assert world.headway(*command, status=2) == alone
    assert worker.poll() is None


def waiting_request(
    world: World, leader: subprocess.Popen[str], *command: str
) -> subprocess.Popen[str]:
    """Freeze the leader, and have a command wait for it."""
    world.freeze(leader)
    follower = world.start(*command)
    world.until(lambda: unanswered(world) == 1, follower)
    return follower


def test_when_the_leader_is_killed_whoever_waits_leads_and_goes_on(world: World) -> None:
    worker = world.worker()
    follower = waiting_request(world, worker, "queue", "pause", "class:low")
    worker.kill()
    _, err = follower.communicate()
    assert (follower.returncode, without_slowness(err)) == (0, "")
    assert changes(world) == [("gate", "class:low")]
    assert unanswered(world) == 0


def test_a_submitter_that_is_killed_while_it_waits_has_submitted(world: World) -> None:
    worker = world.worker()
    follower = waiting_request(world, worker, "submit", "agent", "task")
    follower.kill()
    follower.wait()
    worker.send_signal(signal.SIGCONT)
    world.until(lambda: world.rows("SELECT 1 FROM runs WHERE state = 'completed'"), worker)
    assert len(world.ledger.paid) == 1


def test_a_frozen_leader_is_replaced_and_its_runs_go_on_when_it_wakes_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    with world_in(tmp_path, base_seconds=4.0) as world:
        run_id = world.headway("submit", "agent", "fly").strip()
        worker = world.worker()
        world.until(lambda: in_flight(world), worker)
        world.freeze(worker)
        world.headway("queue", "pause", "class:low")
        assert changes(world) == [("gate", "class:low")]
        assert in_flight(world)  # its worker counts as dead after 10 s only
        worker.send_signal(signal.SIGCONT)
        world.until(lambda: world.state(run_id) == "completed", worker)
        later = world.headway("submit", "agent", "later").strip()
        world.until(lambda: world.state(later) == "completed", worker)
        worker.send_signal(signal.SIGTERM)
        _, err = worker.communicate()
        assert (worker.returncode, "another process leads" in err) == (0, True), err
        assert (len(world.ledger.paid), world.rows("SELECT sum(losses) FROM calls")) == (2, [(0,)])


BLOCKER = """
import time
from pathlib import Path
import anyio
from autogen_agentchat.agents import AssistantAgent
from headway import Headway

async def main():
    async with Headway() as headway:
        @headway.workflow("blocker")
        def blocker(models):
            Path("blocking").touch()
            while not Path("go").exists():
                time.sleep(0.02)
            return AssistantAgent("writer", models("sim"))
        print((await headway.run("blocker", task="x")).calls, headway.is_leader)

anyio.run(main)
"""


def test_a_leader_whose_loop_is_blocked_stops_no_other_process(
    world: World,
) -> None:
    leader = world.start("-c", BLOCKER)
    world.until((world.folder / "blocking").exists, leader)
    for _ in range(2):
        world.headway("run", "agent", "task")
    assert len(world.ledger.paid) == 2
    (world.folder / "go").touch()
    out, err = leader.communicate()
    assert (leader.returncode, out.split()) == (0, ["1", "False"]), err
    assert "blocker' of run r-" in err
    assert "another process leads" in err
    assert len(world.ledger.paid) == 3


# Says in which thread each of the packages that take seconds is imported.
IMPORTER = """
import sys, threading
import anyio
from headway import Headway

class Watch:
    def find_spec(self, name, path, target=None):
        if name in ("autogen_core", "autogen_ext.models.openai", "openai"):
            print(name, threading.current_thread() is threading.main_thread())

sys.meta_path.insert(0, Watch())

async def main():
    async with Headway() as headway:
        await headway.run("agent", task="x")

anyio.run(main)
"""


def test_no_loop_is_blocked_by_an_import_of_autogen_or_the_sdk(world: World) -> None:
    importer = world.start("-c", IMPORTER, kind=Process)
    out, err = importer.communicate()
    assert importer.returncode == 0, err
    assert sorted(out.splitlines()) == [
        "autogen_core False",
        "autogen_ext.models.openai False",
        "openai False",
    ]


def test_a_leader_that_is_frozen_for_long_loses_its_runs_as_well(slow_world: World) -> None:
    world = slow_world
    run_id = world.headway("submit", "agent", "fly").strip()
    worker = world.worker()
    world.until(lambda: in_flight(world), worker)
    world.freeze(worker)
    other = world.start("work", "--forever", "--slots", "1")
    world.until(lambda: world.rows("SELECT 1 FROM calls WHERE losses = 1"), other)
    world.until(lambda: in_flight(world), other)
    worker.send_signal(signal.SIGCONT)
    _, err = worker.communicate()
    assert (worker.returncode, "others took its runs" in err) == (3, True), err
    assert "Traceback" not in err
    assert world.rows("SELECT pid FROM workers") == [(other.pid,)]
    assert world.state(run_id) == "running"


def test_a_second_worker_takes_up_what_a_killed_one_left(world: World) -> None:
    first = world.worker()
    second = world.start("work", "--forever")  # waits for its turn meanwhile
    world.headway("queue", "pause", "class:low")
    held = world.headway("submit", "agent", "held", "-p", "low").strip()
    done = world.headway("submit", "agent", "done").strip()
    world.until(lambda: world.state(done) == "completed", first)
    world.until(lambda: world.state(held) == "running", first)
    first.kill()
    queued = world.headway("submit", "agent", "later").strip()
    world.headway("queue", "resume", "class:low")
    for run_id in (held, queued):
        world.until(lambda run_id=run_id: world.state(run_id) == "completed", second)
    assert world.state(done) == "completed"
    assert len(world.ledger.paid) == 3


def test_a_worker_drains_at_sigterm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    with world_in(tmp_path, base_seconds=2.0) as world:
        ids = [world.headway("submit", "agent", f"{n}").strip() for n in range(2)]
        worker = world.start("work", "--forever", "--slots", "1")
        world.until(lambda: in_flight(world), worker)
        worker.send_signal(signal.SIGTERM)
        out, err = worker.communicate()
        assert (worker.returncode, sorted(map(world.state, ids))) == (0, ["completed", "queued"]), (
            err
        )
        assert out.splitlines()[-2].startswith("1 completed")
        assert "no more runs are taken; 1 run ends first" in err


def test_a_worker_whose_drain_takes_too_long_interrupts_its_runs(world: World) -> None:
    world.headway("queue", "pause")
    run_id = world.headway("submit", "agent", "wait").strip()
    worker = world.start("work", "--forever", "--drain-timeout", "0.1")
    world.until(lambda: world.rows("SELECT 1 FROM calls WHERE state = 'queued'"), worker)
    worker.send_signal(signal.SIGTERM)
    _, err = worker.communicate()
    assert (worker.returncode, world.state(run_id)) == (130, "interrupted"), err
    assert f"`headway resume {run_id}` goes on" in err
    assert world.rows("SELECT lives_lost FROM runs") == [(0,)]
    # The next worker goes on with it, and says what that cost.
    world.headway("queue", "resume")
    worker = world.worker()
    world.until(lambda: world.state(run_id) == "completed", worker)
    worker.send_signal(signal.SIGTERM)
    out, _ = worker.communicate()
    assert f"{run_id}: calls replayed: 0 · " in out


def test_a_worker_stops_at_the_third_sigterm(slow_world: World) -> None:
    """The first takes no more runs, the second waits for calls in flight only."""
    world = slow_world
    run_id = world.headway("submit", "agent", "fly").strip()
    worker = world.worker()
    world.until(lambda: in_flight(world), worker)
    for _ in range(2):
        worker.send_signal(signal.SIGTERM)
        world.until(lambda: not is_pending(worker, signal.SIGTERM), worker)  # two at once are one
    worker.send_signal(signal.SIGTERM)
    _, err = worker.communicate()
    assert (worker.returncode, world.state(run_id)) == (130, "interrupted"), err


# Asks for one thing after the other, whoever leads.
ASKER = """
import sys, anyio
from headway import Headway

async def main():
    async with Headway() as headway:
        for number in range(int(sys.argv[1])):
            await headway.limits.weight(f"team-{number}", 2)
            await headway.submit("agent", task=f"task {number}")

anyio.run(main)
"""


def replace_leader(world: World, workers: list[subprocess.Popen[str]], end: signal.Signals) -> None:
    """Kill or freeze whichever worker leads, see another lead, and have it wake up, for a while."""
    world.until(lambda: world.leader() in {each.pid for each in workers})  # none that stands in
    leader = next(each for each in workers if each.pid == world.leader())
    leader.send_signal(end)
    workers.append(world.start("work", "--forever"))
    alive = [each for each in workers if each is not leader]
    world.until(lambda: world.leader() not in (None, leader.pid), *alive)
    leader.send_signal(signal.SIGCONT)
    with suppress(subprocess.TimeoutExpired):
        leader.wait(0.5)  # it works on
    leader.kill()
    leader.wait()
    workers.remove(leader)


def test_every_request_is_carried_out_once_whoever_is_killed_or_frozen(world: World) -> None:
    workers = [world.worker(), world.start("work", "--forever")]
    asker = world.start("-c", ASKER, "60")
    for number, end in enumerate((signal.SIGKILL, signal.SIGSTOP) * 3):
        enough = 8 * number
        world.until(lambda enough=enough: len(changes(world)) > enough, asker)
        replace_leader(world, workers, end)
    _, err = asker.communicate()
    assert asker.returncode == 0, err
    world.until(lambda: not world.rows("SELECT 1 FROM runs WHERE finished_at IS NULL"))
    # On a busy machine a run may be executed by three of the six that are killed, and nobody can
    # tell that from a run that kills them.
    for (quarantined,) in world.rows("SELECT id FROM runs WHERE lives_lost >= 3"):
        world.headway("runs", "retry", quarantined)
    assert len(world.rows("SELECT 1 FROM runs WHERE state = 'completed'")) == 60
    assert sorted(changes(world)) == sorted(("weight", f"team-{n}") for n in range(60))
    assert unanswered(world) == 0
    # What was paid twice is what a process had in flight when it ended.
    ((lost_attempts,),) = world.rows("SELECT sum(losses) FROM calls")
    assert 60 <= len(world.ledger.paid) <= 60 + lost_attempts


# A worker that is killed where its next answer would be written by itself: whatever the request
# changed is written then, and its answer too, if they are one commit.
KILLED = """
import os, signal, sys
from headway.cli import main
from headway_scheduler.runtime.local import LocalScheduler

async def killed(self, answer):
    os.kill(os.getpid(), signal.SIGKILL)

LocalScheduler.answer = killed
sys.exit(main(["work", "--forever"]))
"""


# A worker that is stopped in the middle of a commit, when told so and a run is submitted: it has
# SQLite's write lock then.
STOPPED = """
import signal, sys, threading
from pathlib import Path
from headway.cli import main
from headway_scheduler.backends.sqlite import reads

told, checked = Path("stop"), reads.assert_epoch

def stopped(db, path, epoch):
    checked(db, path, epoch)
    requests = "SELECT 1 FROM inbox WHERE answer IS NULL AND event LIKE '%QueueRun%'"
    if db.in_transaction and told.exists() and db.execute(requests).fetchall():
        told.unlink()
        # This thread, which commits: of a signal to the process it may be told too late, after
        # it has committed, and then nobody has a reason to continue the process.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

reads.assert_epoch = stopped
sys.exit(main(["work", "--forever"]))
"""


def stopped_in_commit(world: World, *beside: str) -> subprocess.Popen[str]:
    """A worker that leads, and is stopped while it queues a run; whoever submits it is killed."""
    leader = world.start("-c", STOPPED)
    world.until(lambda: world.rows("SELECT 1 FROM workers"), leader)
    if beside:
        second = world.start(*beside)
        world.until(lambda: len(world.rows("SELECT 1 FROM workers")) == 2, leader, second)
    assert world.leader() == leader.pid
    (world.folder / "stop").touch()
    sender = world.start("submit", "agent", "task")
    world.until(lambda: not (world.folder / "stop").exists(), leader, sender)
    sender.kill()
    sender.wait()
    return leader


@needs_locks
@pytest.mark.parametrize("beside", [[], ["work", "--forever"]])
def test_a_leader_that_is_stopped_in_a_commit_is_replaced(world: World, beside: list[str]) -> None:
    leader = stopped_in_commit(world, *beside)
    world.headway("queue", "pause", "class:low")
    # What it was carrying out is as good as done before, and done once.
    assert changes(world) == [("gate", "class:low")]
    # Not all requests: that worker goes on by now, and may have told something new.
    queued = "SELECT 1 FROM inbox WHERE answer IS NULL AND event LIKE '%QueueRun%'"
    assert not world.rows(queued)
    ((run_id,),) = world.rows("SELECT id FROM runs")
    world.until(lambda: world.state(run_id) == "completed", leader)
    ((lost_attempts,),) = world.rows("SELECT sum(losses) FROM calls")
    assert 1 <= len(world.ledger.paid) <= 1 + lost_attempts


# Executes no run: it has one call of its own.
CALLER = """
import anyio
from autogen_core.models import UserMessage
from headway import Headway

async def main():
    async with Headway() as headway:
        await headway.model("sim").create([UserMessage(content="hi", source="me")])

anyio.run(main)
"""


@needs_locks
def test_a_process_with_a_call_of_its_own_replaces_one_that_is_stopped(world: World) -> None:
    """Its call cannot even be posted, so nobody knows of this process."""
    leader = stopped_in_commit(world)
    caller = world.start("-c", CALLER)
    _, said = caller.communicate()
    assert caller.returncode == 0, said
    assert leader.poll() is None
    assert world.rows("SELECT 1 FROM calls WHERE run_id IN (SELECT id FROM runs WHERE task = '')")


@needs_locks
def test_nobody_waits_for_one_that_is_stopped_in_a_write_and_does_not_lead(world: World) -> None:
    worker = world.worker()
    writer = world.start("-c", WRITER, str(world.database), "stopped")
    world.until(lambda: is_stopped(writer), worker)
    world.headway("queue", "pause", "class:low")
    assert (writer.wait(), worker.poll()) == (0, None)
    assert changes(world) == [("gate", "class:low")]


def killed_worker(world: World) -> subprocess.Popen[str]:
    worker = world.start("-c", KILLED)
    world.until(lambda: world.leader() == worker.pid, worker)
    world.until(lambda: world.rows("SELECT 1 FROM leadership WHERE epoch > 0"), worker)
    return worker


@pytest.mark.parametrize(
    ("command", "table"),
    [
        (["queue", "drain"], "changes"),
        (["limits", "weight", "team", "2"], "changes"),
        (["submit", "agent", "task"], "runs"),
    ],
)
def test_what_a_request_changes_and_its_answer_are_one_commit(
    world: World, command: list[str], table: str
) -> None:
    worker = killed_worker(world)
    world.headway(*command)
    assert worker.wait() == -signal.SIGKILL
    assert len(world.rows(f"SELECT 1 FROM {table}")) == 1
    assert unanswered(world) == 0


def test_a_cancel_whose_leader_dies_between_end_and_answer_is_done(slow_world: World) -> None:
    world = slow_world
    run_id = world.headway("submit", "agent", "fly").strip()
    worker = killed_worker(world)
    world.until(lambda: in_flight(world), worker)
    assert "cancelled" in world.headway("runs", "cancel", run_id)
    assert worker.wait() == -signal.SIGKILL
    assert world.state(run_id) == "cancelled"
    assert len(world.rows("SELECT 1 FROM inbox")) == 1


def test_a_request_that_nobody_understands_is_answered_and_hurts_nobody(world: World) -> None:
    worker = world.worker()
    answers = world.answers(worker, "", '{"verb": "fly"}', '{"verb": "cancel"}')
    assert all("InternalError" in answer for answer in answers)
    world.headway("queue", "pause")
    assert worker.poll() is None


def test_a_process_that_follows_executes_and_the_leader_admits(world: World) -> None:
    leader = world.worker()
    assert "completed" in world.headway("run", "agent", "task")
    run_id = world.headway("submit", "agent", "later").strip()
    world.until(lambda: world.state(run_id) == "completed", leader)
    assert "no run is queued" in world.headway("work")
    assert len(world.ledger.paid) == 2
    assert world.rows("SELECT 1 FROM inbox WHERE answer IS NULL") == []


def test_run_with_the_key_of_a_run_that_is_executed_elsewhere_waits_for_it(world: World) -> None:
    leader = world.worker()
    world.headway("queue", "pause")
    run_id = world.headway("submit", "agent", "task", "--key", "k").strip()
    world.until(lambda: world.rows("SELECT 1 FROM calls WHERE state = 'queued'"), leader)
    waiting = [world.start("run", "agent", "task", "--key", "k") for _ in range(2)]
    world.until(lambda: len(world.rows("SELECT 1 FROM workers")) == 3, leader, *waiting)
    waiting[0].send_signal(signal.SIGINT)
    _, err = waiting[0].communicate()
    assert (waiting[0].returncode, "headway resume" in err) == (130, False), err
    world.headway("queue", "resume")
    out, err = waiting[1].communicate()
    assert waiting[1].returncode == 0, err
    assert re.search(rf"^writer: {SENTENCE}$", out, re.MULTILINE)
    assert f"`headway runs show {run_id}`" in out
    assert len(world.ledger.paid) == 1


def test_a_run_of_another_worker_is_cancelled_and_bumped_there(slow_world: World) -> None:
    world = slow_world
    world.headway("queue", "pause")
    leader = world.worker()
    follower = world.start("run", "agent", "fly")
    world.until(lambda: world.rows("SELECT 1 FROM calls WHERE state = 'queued'"), leader, follower)
    ((run_id, worker),) = world.rows("SELECT id, worker FROM runs")
    assert world.rows("SELECT pid FROM workers WHERE id = ?", worker) == [(follower.pid,)]
    world.headway("queue", "bump", run_id, "-p", "high")
    assert world.rows("SELECT priority FROM calls") == [(1,)]
    assert "it is running" in world.headway("resume", run_id, status=2)
    world.headway("queue", "resume")
    world.until(lambda: in_flight(world), leader, follower)
    assert "cancelled" in world.headway("runs", "cancel", run_id)
    _, err = follower.communicate()
    assert (follower.returncode, world.state(run_id)) == (1, "cancelled"), err
    assert world.rows("SELECT priority, worker FROM runs") == [(1, None)]


def test_old_runs_are_pruned_beside_whoever_works(world: World) -> None:
    worker = world.worker()
    runs = [world.headway("submit", "agent", f"task {n}").strip() for n in range(2)]
    for run_id in runs:
        world.until(lambda run_id=run_id: world.state(run_id) == "completed", worker)
    assert "deleted 2 runs; the file stays" in world.headway(
        "db", "prune", "--older-than", "0.001s"
    )
    assert world.rows("SELECT 1 FROM runs") == world.rows("SELECT 1 FROM calls") == []
    assert worker.poll() is None


def test_logs_follow_a_run_of_another_process_to_its_end(world: World) -> None:
    leader = world.worker()
    world.headway("queue", "pause")
    run_id = world.headway("submit", "agent", "task").strip()
    following = world.start("runs", "logs", run_id[:6], "-f")
    world.until(lambda: world.rows("SELECT 1 FROM calls WHERE state = 'queued'"), leader, following)
    world.headway("queue", "resume")
    out, err = following.communicate()
    assert (following.returncode, without_slowness(err)) == (0, "")
    call, end = out.splitlines()
    assert re.search(f"writer: {SENTENCE}", call)
    assert end == f"{run_id} completed"


def test_a_follower_drains_at_sigterm_and_others_work_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    with world_in(tmp_path, base_seconds=1.0) as world:
        leader = world.start("work", "--forever", "--slots", "1")
        world.until(lambda: world.rows("SELECT 1 FROM workers"), leader)
        follower = world.start("work", "--forever", "--slots", "1", "--label", "night")
        world.until(lambda: world.rows("SELECT 1 FROM workers WHERE label = 'night'"), follower)
        world.headway("queue", "pause")  # else they may all be over before anybody looks
        ids = [world.headway("submit", "agent", f"{n}").strip() for n in range(4)]
        mine = "SELECT runs.id FROM runs JOIN workers ON workers.id = worker WHERE label = 'night'"
        world.until(lambda: world.rows(mine), leader, follower)
        follower.send_signal(signal.SIGTERM)
        world.headway("queue", "resume")
        _, err = follower.communicate()
        assert follower.returncode == 0, err
        assert world.rows("SELECT pid FROM workers") == [(leader.pid,)]
        for run_id in ids:
            world.until(lambda run_id=run_id: world.state(run_id) == "completed", leader)
        assert len(world.ledger.paid) == 4


def test_a_frozen_worker_loses_its_runs_and_tells_nothing_more(slow_world: World) -> None:
    """What it had in flight may have been paid, and is asked again by whoever has the run now."""
    world = slow_world
    leader = world.worker()
    worker = world.start("run", "agent", "fly")
    world.until(lambda: in_flight(world), leader, worker)
    world.freeze(worker)
    world.until(lambda: world.rows("SELECT 1 FROM calls WHERE losses = 1"), leader)
    world.until(lambda: in_flight(world), leader)
    worker.send_signal(signal.SIGCONT)
    _, err = worker.communicate()
    assert (worker.returncode, "others took its runs" in err) == (3, True), err
    assert "Traceback" not in err
    assert world.rows("SELECT pid FROM workers") == [(leader.pid,)]
    assert [state for (state,) in world.rows("SELECT state FROM runs")] == ["running"]

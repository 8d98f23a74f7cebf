"""What happens is told to a real HTTP server and to a real command, whatever becomes of them."""

import base64
import hashlib
import hmac
import json
import logging
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from dataclasses import replace as changed
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent, UserProxyAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from tests.orchestrator.workers.processes import World, world_in
from tests.waiting import until

from headway import CallerError, Headway, Models, RunState
from headway.config import ConfigError, NotifyConfig, load
from headway.testing import MODEL, simulated_headway
from headway.workers import notices
from headway.workers.notices import NoticeSender, secret_of, signed
from headway_scheduler.backends.memory.store import MemoryStore
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.data import replace
from headway_scheduler.model.notices import Notice, NoticeKind
from headway_scheduler.runtime.local import LocalScheduler

pytestmark = pytest.mark.anyio

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
EVENTS = tuple(kind.value for kind in NoticeKind)


@dataclass
class Receiver:
    """A server on loopback. ``status`` is called with the number of each request, from 1."""

    status: Callable[[int], int] = lambda number: 204
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""

    @property
    def told(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.got]

    @property
    def ids(self) -> list[str]:
        return [each["id"] for each in self.told]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.got.append((headers, body))
            self.send_response(receiver.status(len(receiver.got)))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def verify(headers: dict[str, str], body: bytes) -> None:
    """As a receiver does, by Standard Webhooks."""
    said = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(KEY, said, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert headers["content-type"] == "application/json"
    assert headers["webhook-id"] == json.loads(body)["id"]


@asynccontextmanager
async def unopened(notify: NotifyConfig) -> AsyncIterator[Headway]:
    async with simulated_headway() as simulated:
        database = Path(simulated.config.database).with_name("other.db")
        headway = Headway(changed(simulated.config, notify=notify, database=database))
        headway.workflow("agent")(agent)
        headway.workflow("asks")(asks)
        yield headway


@asynccontextmanager
async def notifying(notify: NotifyConfig) -> AsyncIterator[Headway]:
    async with unopened(notify) as headway, headway:
        yield headway


def agent(models: Models) -> AssistantAgent:
    return AssistantAgent("writer", models(MODEL))


def asks(models: Models) -> RoundRobinGroupChat:
    team: list[Any] = [UserProxyAgent("person"), AssistantAgent("writer", models(MODEL))]
    return RoundRobinGroupChat(team, termination_condition=MaxMessageTermination(3))


def posting(receiver: Receiver, events: tuple[str, ...] = EVENTS) -> NotifyConfig:
    return NotifyConfig(receiver.url, "HOOK_SECRET", None, events)


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The example of its libraries."""
    key = secret_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signed(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert headers["webhook-timestamp"] == "1614265330"


@pytest.mark.parametrize(
    "text", ["", "secret", "whsec_", "whsec_c2hvcnQ=", "whsec_%%%", SECRET[6:]]
)
def test_a_secret_that_is_none_is_refused_with_how_to_make_one(text: str) -> None:
    with pytest.raises(CallerError, match="must hold whsec_ and then 24 to 64") as caught:
        secret_of(text)
    assert SECRET[6:] not in str(caught.value)


async def test_the_end_of_a_run_is_posted_and_signed_and_told_before_the_program_ends(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    # It answers when the program is about to end already.
    receiver.status = lambda number: 200 if threading.Event().wait(0.3) else 204
    async with unopened(posting(receiver)) as headway:
        async with headway:
            run = await headway.run("agent", task="Why?", key="k")
        with closing(sqlite3.connect(headway.config.database)) as db:
            assert db.execute("SELECT count(*) FROM notices").fetchone() == (0,)
    ((headers, body),) = receiver.got
    verify(headers, body)
    told = json.loads(body)
    assert told["type"] == "run.ended"
    assert told["data"] == {
        **{"run": run.run_id, "workflow": "agent", "team": "agent", "key": "k"},
        **{"state": "completed", "error": None},
    }


async def test_a_question_to_a_person_is_told_with_its_words(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    async with notifying(posting(receiver)) as headway:
        handle = await headway.start("asks", task="Ready?")
        await handle.ended()
        assert handle.run.state is RunState.WAITING
        await until(lambda: receiver.got)
        (told,) = receiver.told
        question = await headway.question(handle.id)
    assert question is not None
    assert (told["type"], told["data"]["run"]) == ("person.asked", handle.id)
    assert told["data"]["question"] == question[1]
    assert told["id"] == f"person.asked.{question[0].call.id}"


async def test_a_receiver_that_fails_is_told_again_under_the_same_id(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "headway")
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    monkeypatch.setattr(notices, "FIRST_PAUSE_SECONDS", 0.01)
    receiver.status = lambda number: (500, 302, 404, 200)[min(number, 4) - 1]
    async with notifying(posting(receiver)) as headway:
        await headway.run("agent", task="Why?")
        await until(lambda: len(receiver.got) == 4)
        assert len(set(receiver.ids)) == 1
        for headers, body in receiver.got:
            verify(headers, body)
        await headway.run("agent", task="And then?")
        await until(lambda: len(receiver.got) == 5)
    said = [record.getMessage() for record in caplog.records if "notify" in record.getMessage()]
    assert [words.split(": ")[-1] for words in said] == [
        "it answered 500; it is tried again",
        "what [notify] asks for is told again",
    ]
    assert "/hook" not in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("of", ["dead", "hung"])
async def test_a_receiver_that_is_dead_or_hangs_harms_nobody(
    of: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    monkeypatch.setattr(notices, "CLOSING_SECONDS", 0.05)
    free = threading.Event()
    notify = posting(receiver)
    if of == "dead":
        notify = changed(notify, url="http://127.0.0.1:1/hook")
    else:
        receiver.status = lambda number: 200 if free.wait(60) else 500
    try:
        async with notifying(notify) as headway:
            for number in range(6):
                assert (await headway.run("agent", task=f"{number}")).text
    finally:
        free.set()


async def test_without_its_secret_nothing_is_sent_and_everything_is_kept(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("HOOK_SECRET", raising=False)
    async with unopened(posting(receiver)) as headway:
        async with headway:
            await headway.run("agent", task="Why?")
            await until(lambda: "HOOK_SECRET must hold whsec_" in caplog.text)
        with closing(sqlite3.connect(headway.config.database)) as db:
            assert db.execute("SELECT count(*), max(attempts) FROM notices").fetchone() == (1, 0)
        assert receiver.got == []
        monkeypatch.setenv("HOOK_SECRET", SECRET)
        async with headway:
            await until(lambda: receiver.got)
        with closing(sqlite3.connect(headway.config.database)) as db:
            assert db.execute("SELECT count(*) FROM notices").fetchone() == (0,)
            assert SECRET not in "\n".join(db.iterdump())


async def test_the_end_of_a_leader_waits_for_what_happened_in_it_and_for_nothing_else(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command beside a receiver that hangs ends at once, whatever others left to be told."""
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    monkeypatch.setattr(notices, "CLOSING_SECONDS", 0.05)
    free = threading.Event()
    receiver.status = lambda number: 200 if free.wait(60) else 500
    async with unopened(posting(receiver)) as headway:
        async with headway:
            await headway.run("agent", task="Why?")
        monkeypatch.setattr(notices, "CLOSING_SECONDS", 3600.0)
        async with headway:
            await until(lambda: len(receiver.got) == 2)
        free.set()
        assert receiver.ids[0] == receiver.ids[1]


# Commands

WRITES = "import sys; print(sys.stdin.read(), file=open(sys.argv[1], 'a'))"
HANGS = """
import os, sys, time
if os.fork() == 0:
    print(os.getpid(), file=open(sys.argv[1], "a"), flush=True)
time.sleep(600)
"""


def command(folder: Path, code: str) -> tuple[NotifyConfig, Path]:
    script, out = folder / "told.py", folder / "told.txt"
    script.write_text(code)
    return NotifyConfig(None, None, f"'{sys.executable}' '{script}' '{out}'", EVENTS), out


async def test_a_command_gets_it_on_its_standard_input(tmp_path: Path) -> None:
    notify, out = command(tmp_path, WRITES)
    async with notifying(notify) as headway:
        run = await headway.run("agent", task="Why?")
        await until(out.exists)
        await until(out.read_text)
    (line,) = out.read_text().splitlines()
    assert json.loads(line)["data"]["run"] == run.run_id


async def test_a_command_that_hangs_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "TELLING_SECONDS", 3.0)
    notify, out = command(tmp_path, HANGS)
    async with notifying(notify) as headway:
        await headway.run("agent", task="Why?")
        await until(lambda: out.exists() and out.read_text())
        child = int(out.read_text())
        await until(lambda: not is_alive(child))
        row = "SELECT attempts FROM notices"
        with closing(sqlite3.connect(headway.config.database)) as db:
            await until(lambda: db.execute(row).fetchone() == (1,))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("words", ["false", "/there/is/no/such/command"])
async def test_a_command_that_fails_is_tried_again(
    words: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notices, "FIRST_PAUSE_SECONDS", 0.01)
    async with notifying(NotifyConfig(None, None, words, EVENTS)) as headway:
        await headway.run("agent", task="Why?")
        row = "SELECT attempts FROM notices"
        with closing(sqlite3.connect(headway.config.database)) as db:
            await until(lambda: db.execute(row).fetchone()[0] >= 2)
    assert caplog.text.count("the command of [notify] is not told") == 1


# What waits is bounded


async def test_what_waits_is_given_up_after_a_day_and_beyond_a_number(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notices, "MOST_NOTICES", 3)
    store = MemoryStore()
    async with LocalScheduler(store, ()) as scheduler:
        now = scheduler.now()
        old = now - notices.GIVES_UP_SECONDS - 1
        rows = [
            Notice(f"n{n}", NoticeKind.RUN_ENDED, at, "{}")
            for n, at in enumerate((now - 9, now - 8, now - 7, old, old + 0.5))
        ]
        await scheduler.write(Batch(notices=tuple(rows)))
        sender = NoticeSender(scheduler, store, NotifyConfig(None, None, "false", EVENTS))
        await sender._turn()
        assert sorted(store.tables.notices) == ["n0", "n1", "n2"]
        assert "2 notices are given up: too many" in caplog.text
        late = replace(store.tables.notices["n0"], at=old, not_before=0.0)
        await scheduler.write(Batch(notices=(late,)))
        await sender._turn()
        assert sorted(store.tables.notices) == ["n1", "n2"]
        assert "notice n0 is given up: it exited with 1" in caplog.text
        pauses = [store.tables.notices[key] for key in ("n1", "n2")]
        assert all(0 < each.not_before - now <= 60 for each in pauses)


async def test_an_odd_row_harms_no_other_and_is_given_up(tmp_path: Path) -> None:
    notify, out = command(tmp_path, WRITES)
    store = MemoryStore()
    async with LocalScheduler(store, ()) as scheduler:
        now = scheduler.now()
        rows = (
            Notice("no time", NoticeKind.RUN_ENDED, -2e11, "{}"),
            Notice("no run", NoticeKind.PERSON_ASKED, now, "{}", attempts=10**6),
            Notice("good", NoticeKind.RUN_ENDED, now, "{}"),
        )
        await scheduler.write(Batch(notices=rows))
        await NoticeSender(scheduler, store, notify)._turn()
        (left,) = store.tables.notices.values()
        assert (left.id, left.attempts) == ("no run", 10**6 + 1)
        assert left.not_before - now <= notices.LONGEST_PAUSE_SECONDS + 60
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["good"]


# The configuration

GOOD = '[notify]\nurl = "https://example.com/x"\nsecret_env = "HOOK_SECRET"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            GOOD.replace("secret_env", "secret"),
            r"notify.secret is unknown; did you mean secret_env",
        ),
        (GOOD.replace('"HOOK_SECRET"', f'"{SECRET}"'), "must be the name of an environment"),
        ('[notify]\nurl = "https://example.com"\n', r"headway.toml:1: notify must set secret_env"),
        (GOOD + 'command = "x"\n', "must not stand beside url"),
        (GOOD.replace("https://", "https://ada:pw@"), "without user, password"),
        (
            '[notify]\ncommand = "x"\nevents = ["run.began"]\n',
            r"permitted: run.ended, person.asked",
        ),
        ('[notify]\ncommand = "x"\nevents = []\n', r"must be a list of events"),
    ],
)
def test_a_bad_table_is_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "headway.toml").write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        load(environ={}, cwd=tmp_path)
    assert SECRET not in str(caught.value)


def test_without_a_receiver_nothing_is_written(tmp_path: Path) -> None:
    assert load(environ={}, cwd=tmp_path).notify.kinds == ()
    (tmp_path / "headway.toml").write_text(GOOD)
    assert load(environ={}, cwd=tmp_path).notify.kinds == tuple(NoticeKind)


# Killed

KILLED = """
import os, signal, sys
import anyio
from headway import Headway
from headway_scheduler.backends.sqlite.store import SqliteStore

what, commit = sys.argv[1], SqliteStore.commit

async def killed(self, batch):
    if what == "told" and batch.told:
        os.kill(os.getpid(), signal.SIGKILL)
    await commit(self, batch)
    if what == "ended" and batch.notices:
        os.kill(os.getpid(), signal.SIGKILL)

SqliteStore.commit = killed

async def main():
    async with Headway() as headway:
        await headway.run("agent", task="Why?")

anyio.run(main)
"""


@pytest.fixture
def world(tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    with world_in(tmp_path) as world:
        file = tmp_path / "headway.toml"
        table = f'\n[notify]\nurl = "{receiver.url}"\nsecret_env = "HOOK_SECRET"\n'
        file.write_text(file.read_text() + table)
        yield world


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("what", "times"), [("ended", 1), ("told", 2)])
def test_killed_around_the_telling_it_is_told_at_least_once_under_one_id(
    world: World, receiver: Receiver, what: str, times: int
) -> None:
    assert world.start("-c", KILLED, what).wait() == -9
    assert len(receiver.got) == times - 1
    leader = world.start("work", "--forever")
    world.until(lambda: len(receiver.got) == times, leader)
    world.until(lambda: not world.rows("SELECT 1 FROM notices"), leader)
    ((run_id,),) = world.rows("SELECT id FROM runs")
    assert receiver.ids == [f"run.ended.{run_id}.1.completed"] * times
    for headers, body in receiver.got:
        verify(headers, body)


def test_a_follower_has_the_leader_tell(world: World, receiver: Receiver) -> None:
    leader = world.worker()
    world.headway("run", "agent", "Why?")
    world.until(lambda: receiver.got, leader)
    assert receiver.told[0]["type"] == "run.ended"

"""The commands that need no model, in this process: what they print and how they refuse."""

import json
import os
import re
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import anyio
import pytest
from tests.processes import Process
from tests.waiting import without_slowness

import headway
from headway.cli import main
from headway.config import load
from headway.workers.long_waits import CONTRADICTED
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.core.limits.known import KnownLimits
from headway_scheduler.core.limits.quota import LIMITS
from headway_scheduler.errors import CallerError
from headway_scheduler.model.batch import Batch, Lesson
from headway_scheduler.model.calls import Call, CallRecord, Priority, Usage
from headway_scheduler.model.data import replace
from headway_scheduler.model.history import Try
from headway_scheduler.model.quotas import BucketState, Resource, Window
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import CallState, RunState

NOW = time.time()
RESULT = json.dumps({"messages": [{"source": "wri\x1b[31mter", "content": "one\ntwo\x07"}]})


def run(run_id: str, state: RunState, **changes: Any) -> Run:
    base = Run(run_id, "pair", "Say\nit\x1b[2J", Priority.NORMAL, state, NOW - 200)
    return replace(base, **changes)


def record(call_id: str, seq: int, state: CallState, **changes: Any) -> CallRecord:
    quota = changes.pop("quota", "q")
    priority = changes.pop("priority", Priority.NORMAL)
    run_id = call_id.split(".")[0]
    call = Call(call_id, run_id, "writer", "m", (quota,), priority, 12_345, NOW - 60)
    return CallRecord(call, seq, state, **changes)


BATCH = Batch(
    new=(
        record(
            "r-aaa.0",
            0,
            CallState.DONE,
            attempts=2,
            admitted_at=NOW - 50,
            finished_at=NOW - 49,
            usage=Usage(100, 20),
            answer=json.dumps({"content": "hello"}),
        ),
        record("r-aab.0", 1, CallState.QUEUED, error="RateLimitError: slow\x1b[0m down"),
        record("r-bbb.0", 2, CallState.QUEUED, priority=Priority.BACKGROUND),
        record("r-bbb.1", 3, CallState.SENT, quota="gone", admitted_at=NOW - 1),
        record("r-bbb.10", 4, CallState.QUEUED, priority=Priority.LOW),
    ),
    tries=(
        *(
            Try("r-aaa.0", "r-aaa", "q", NOW - 99, NOW - 90 + n, "failed", None, "")
            for n in range(5)
        ),
        Try("r-aaa.0", "r-aaa", "q", NOW - 80, NOW - 70, "refused", NOW - 68, "429:\x1b[0m slow"),
    ),
    buckets=(BucketState("q", Resource.REQUESTS, 0.4, NOW),),
    runs=(
        run("r-aaa", RunState.COMPLETED, result=RESULT, started_at=NOW - 90, finished_at=NOW),
        run("r-aab", RunState.INTERRUPTED, created_at=NOW - 7200),
        run(
            "r-bbb",
            RunState.RUNNING,
            priority=Priority.BACKGROUND,
            created_at=NOW - 5,
            error="x\x1b]0;t\x07",
        ),
    ),
)

CONFIG = """
[database]
path = "headway.db"
[quotas.q]
requests_per_minute = 2
[models.m]
quotas = ["q"]
api_key_env = "TEST_KEY"
[workflows]
lost = "lost.json"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("HEADWAY_CONFIG", "HEADWAY_DATABASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TEST_KEY", "sk-test-0123456789")
    monkeypatch.setattr(
        "headway_scheduler.backends.sqlite.boot_clock.Anchor.now", lambda anchor: NOW
    )
    return tmp_path


@pytest.fixture
def database(folder: Path) -> Path:
    (folder / "headway.toml").write_text(CONFIG)

    async def fill() -> None:
        async with SqliteStore(folder / "headway.db") as store:
            await store.commit(BATCH)

    anyio.run(fill)
    return folder / "headway.db"


@pytest.fixture
def held(database: Path) -> Iterator[None]:
    """Somebody has the database open for writing."""
    from headway_scheduler.backends.sqlite.lock_file import FileLock

    lock = FileLock(database, "", heartbeat_seconds=1.0)
    yield
    lock.release()


class Shown:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str, status: int = 0) -> str:
        assert main(arguments) == status
        out, err = self._capsys.readouterr()
        assert "sk-test" not in out + err
        assert "\x1b" not in out + err
        if status in (2, 3):
            assert out == ""
            assert all(line.startswith("headway: ") for line in err.splitlines())
            return err
        assert without_slowness(err) == ""
        return out

    def json(self, *arguments: str, status: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", status=status))


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Shown:
    return Shown(capsys)


# runs


def test_a_bare_noun_lists_and_a_run_without_a_process_is_interrupted(
    database: Path, shown: Shown
) -> None:
    lines = shown("runs").splitlines()
    assert lines[0].split() == ["ID", "STATE", "PRIORITY", "WORKFLOW", "SUBMITTED", "TASK"]
    assert [line.split()[0] for line in lines[1:]] == ["r-bbb", "r-aaa", "r-aab"]
    assert [line.split()[1] for line in lines[1:]] == ["interrupted", "completed", "interrupted"]
    assert "2h ago" in lines[3]
    assert r"Say\nit\x1b[2J" in lines[1]
    assert shown("runs", "list") == "\n".join(lines) + "\n"


@pytest.mark.usefixtures("held")
def test_beside_a_process_a_running_run_is_running(shown: Shown) -> None:
    assert [r["id"] for r in shown.json("runs", "--state", "running")] == ["r-bbb"]
    assert [r["id"] for r in shown.json("runs", "--state", "interrupted")] == ["r-aab"]


def test_runs_by_state_and_limit(database: Path, shown: Shown) -> None:
    interrupted = shown.json("runs", "list", "--state", "interrupted")
    assert [r["id"] for r in interrupted] == ["r-bbb", "r-aab"]
    assert shown.json("runs", "--state", "running") == []
    assert shown("runs", "--state", "failed") == "no run fits\n"
    assert shown("runs", "--limit", "1").endswith("there are more: --limit N\n")


@pytest.mark.usefixtures("database")
def test_a_list_in_json_that_is_not_all_is_said_to_be_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["runs", "--limit", "1", "--json"]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)) == 1
    assert "there are more: --limit N" in err


@pytest.mark.usefixtures("database")
def test_costs_of_a_dead_process_name_what_was_in_flight(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["costs"]) == 0
    assert "headway: 1 call was in flight when" in capsys.readouterr().err


@pytest.mark.usefixtures("held")
def test_costs_beside_a_live_process_name_nothing(shown: Shown) -> None:
    assert "total" in shown("costs")


def test_a_run_is_shown_with_its_calls_and_last_messages(database: Path, shown: Shown) -> None:
    out = shown("runs", "show", "r-aaa")
    assert "1 call · 120 tokens (100 in, 20 out) · waited 10.0 s" in out
    assert "sent again 1 time" in out
    tried = out.partition("SENT AGAIN")[2].splitlines()[1:7]
    assert re.fullmatch(r"r-aaa\.0 +\d\d:\d\d:\d\d +refused +q +429:\\x1b\[0m slow", tried[0])
    assert [line.split()[2] for line in tried[1:5]] == ["failed"] * 4
    assert tried[5] == "these are the last ones: --json has more"
    assert "took       1 min 30 s" in out
    assert "wri\\x1b[31mter: one\n  two\\x07" in out
    facts = shown.json("runs", "show", "r-aaa")
    assert facts["calls"][0]["waited_seconds"] == pytest.approx(10)
    assert [each["because"] for each in facts["calls"][0]["tries"]] == ["refused", *["failed"] * 5]
    assert facts["messages"] == json.loads(RESULT)["messages"]
    assert r"error      x\x1b]0;t\x07" in shown("runs", "show", "r-b")
    said = r"last try   r-aab.0: RateLimitError: slow\x1b[0m down"
    assert said in shown("runs", "show", "r-aab")


def test_an_id_that_is_ambiguous_unknown_or_empty(database: Path, shown: Shown) -> None:
    assert "r-aaa, r-aab" in shown("runs", "show", "r-a", status=2)
    assert "headway runs list" in shown("runs", "show", "r-zzz", status=2)
    assert "run_id must have 1 to 500 characters" in shown("runs", "show", "", status=2)
    assert "headway runs list" in shown("runs", "show", "r-bxy", status=2)
    for verb in ("show", "export", "logs", "cancel"):
        assert "no run 'r-bbc': did you mean r-bbb?" in shown("runs", verb, "r-bbc", status=2)


# queue


@pytest.mark.usefixtures("held")
def test_the_queue_is_explained_beside_a_live_process(shown: Shown) -> None:
    facts = shown.json("queue")
    assert (facts["is_held"], facts["queued"], facts["in_flight"]) == (True, 3, 1)
    by_id = {call["id"]: call for call in facts["calls"]}
    assert list(by_id) == ["r-bbb.10", "r-bbb.0", "r-aab.0"]
    assert by_id["r-bbb.10"]["waits_for"].startswith("requests: needs 1, 0.4 free, ")
    assert by_id["r-bbb.10"]["place"] == 1
    assert by_id["r-bbb.0"]["waits_for"].endswith("behind r-bbb.10")
    assert by_id["r-aab.0"]["waits_for"] == "its run is interrupted"
    lines = shown("queue", "list", "--limit", "1").splitlines()
    assert lines[0].split()[:3] == ["CALL", "PRIORITY", "AGENT"]
    assert lines[1].startswith("r-bbb.10")
    assert lines[2:] == ["2 more: --limit N", "3 calls queued, 1 in flight"]


@pytest.mark.usefixtures("held")
def test_why_finds_a_call_by_any_unique_start(shown: Shown) -> None:
    assert "place 1 of those on q; goes at " in shown("queue", "why", "r-bbb.10")
    assert shown.json("queue", "why", "r-bbb.1")["id"] == "r-bbb.1"
    assert shown.json("queue", "why", "r-aa", status=0)["id"] == "r-aab.0"
    assert shown.json("queue", "why", "r-b.0")["id"] == "r-bbb.0"
    assert "is done; it waited 10.0 s" in shown("queue", "why", "r-aaa.0")
    assert r"last try: RateLimitError: slow\x1b[0m down" in shown("queue", "why", "r-aab.0")
    assert "several calls: r-bbb.10, r-bbb.0" in shown("queue", "why", "r-bbb", status=2)
    assert "no call 'r-zzz.0'" in shown("queue", "why", "r-zzz.0", status=2)
    assert "no call ''" in shown("queue", "why", "", status=2)


def test_the_queue_of_a_dead_process_is_parked(database: Path, shown: Shown) -> None:
    calls = shown.json("queue")["calls"]
    assert {call["waits_for"] for call in calls} == {"its run is interrupted"}
    assert shown("queue").endswith("no process is working on them\n")
    assert not Path(f"{database}.lock").exists()


def test_a_hold_of_nothing_is_refused_and_names_what_was_meant(
    database: Path, shown: Shown
) -> None:
    assert "no class 'backgrxund': did you mean background?" in shown(
        "queue", "pause", "class:backgrxund", status=2
    )
    assert "there is no model 'n': known are m" in shown("queue", "drain", "model:n", status=2)
    assert "there is no model 'n'" in shown("queue", "resume", "model:n", status=2)
    assert "say all, class:CLASS or model:MODEL" in shown("queue", "pause", "everything", status=2)
    assert shown.json("limits", "log") == []
    shown("queue", "pause", "model:m")
    (database.parent / "headway.toml").write_text(CONFIG.replace("models.m", "models.k"))
    shown("queue", "resume", "model:m")  # it has calls, or a hold, though it is not configured


# the database


def test_a_database_that_cannot_be_used_is_told_in_a_line(folder: Path, shown: Shown) -> None:
    Path(".headway").mkdir()
    Path(".headway/headway.db").write_text("this is not SQLite, and longer than its header " * 9)
    assert "not a Headway database" in shown("runs", status=3)
    assert "not a Headway database" in shown("submit", "a:b", "x", status=3)


def test_submit_queues_and_prints_the_id(database: Path, shown: Shown) -> None:
    run_id = shown("submit", "a:b", "x", "--key", "k", "-p", "high").strip()
    again = shown.json("submit", "a:b", "x", "--key", "k")
    assert (again["id"], again["priority"], again["state"]) == (run_id, "high", "queued")


# configuration


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["submit", "nothing", "x"], "no workflow 'nothing'"),
        (["submit", "none.json", "x"], "no component file"),
        (["submit", "broken.json", "x"], "broken.json: no valid JSON"),
        (["submit", "a:b", "x", "-p", "urgent"], "'urgent' is not a priority"),
        (["run", "nothing", "x"], "no workflow 'nothing'"),
        (["submit", "lots", "x"], "no workflow 'lots': did you mean lost?"),
        (["runs", "--config", "none.toml"], "none.toml: no such file"),
        (["resume", "--all", "--config", "broken.json"], "broken.json:1: is not valid TOML"),
    ],
)
def test_bad_input_is_one_line_that_says_what_is_wrong(
    folder: Path, shown: Shown, arguments: list[str], said: str
) -> None:
    Path("broken.json").write_text('{"provider"')
    Path("headway.toml").write_text(CONFIG)
    err = shown(*arguments, status=2)
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("rnus", "there is no command headway rnus: did you mean runs?"),
        ("show r-abc", "did you mean headway config show or headway runs show?"),
        ("nonsense", "no command headway nonsense: `headway --help` shows what there is"),
        ("runs r-abc", "there is no command headway runs r-abc: `headway runs --help` shows"),
        ("runs resume r-abc", "there is no command headway runs resume: did you mean headway res"),
        ("runs cancxl r-abc", "no command headway runs cancxl: did you mean cancel?"),
        ("submit pair Go. --budget 3", "no option --budget: did you mean --budget-usd?"),
        ("submit pair Go. --budjet-usd=3", "no option --budjet-usd: did you mean --budget-usd?"),
        ("runs --state complete", "argument --state: there is no 'complete': did you mean compl"),
        ("costs --by x", "--by: there is no 'x': permitted are model, team, workflow, run, day"),
        ("runs --limit 0", "argument --limit: must be a whole number of at least 1, not '0'"),
        ("run pair", "the following arguments are required: TASK: `headway run --help` shows"),
    ],
)
def test_wrong_words_are_told_in_a_line_that_names_what_was_meant(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words.split())
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("headway: ")
    assert err.count("\n") == 1
    assert said in err


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([])
    assert "exit codes:" in capsys.readouterr().out


def test_a_task_may_begin_with_dashes(database: Path, shown: Shown) -> None:
    run_id = shown("submit", "a:b", "--what is this?").strip()
    assert shown.json("runs", "show", run_id)["task"] == "--what is this?"
    run_id = shown("submit", "a:b", "--", "--what").strip()
    assert shown.json("runs", "show", run_id)["task"] == "--what"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"headway {headway.__version__}\n"


def test_init_writes_once_and_what_it_writes_loads(folder: Path, shown: Shown) -> None:
    assert "headway doctor" in shown("init")
    written = Path("headway.toml").read_text()
    assert "is there already" in shown("init", status=2)
    assert Path("headway.toml").read_text() == written
    assert shown.json("init", "--config", "other.toml") == {
        "file": "other.toml",
        "files": ["other.toml"],
    }
    assert "cannot be written" in shown("init", "--config", "none/x.toml", status=2)
    assert "gpt-5.4" in shown("config")


def test_config_shows_where_values_come_from(
    database: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWAY_PRIORITY", "high")
    settings = {row["key"]: row for row in shown.json("config", "show")}
    assert settings["defaults.priority"]["value"] == "high"
    assert settings["defaults.priority"]["source"] == "HEADWAY_PRIORITY"
    assert settings["quotas.q.requests_per_minute"]["value"] == 2
    assert "TEST_KEY" in shown("config")


# doctor


def findings(shown: Shown, status: int) -> dict[str, tuple[bool, str]]:
    answer = shown.json("doctor", status=status)
    assert answer["ok"] is (status == 0)
    return {found["subject"]: (found["ok"], found["says"]) for found in answer["findings"]}


def test_doctor_says_what_is_wrong_and_what_to_do(
    database: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = findings(shown, status=1)
    assert found["workflow lost"][0] is False
    says = "https://api.openai.com/v1 (its own), openai, TEST_KEY is set, quota q, price unknown"
    assert found["model m"] == (True, says)
    assert found["database"] == (True, f"{database}: no process works on it")
    monkeypatch.delenv("TEST_KEY")
    assert "TEST_KEY is not set: export it" in shown("doctor", status=1)


def test_doctor_imports_the_factories_of_workflows(folder: Path, shown: Shown) -> None:
    (folder / "looked_at.py").write_text("def made(models): return models\n")
    (folder / "leaving.py").write_text("raise SystemExit(3)\n")
    (folder / "headway.toml").write_text("""
[workflows]
fine = "looked_at:made"
no_module = "lokked_at:made"
no_function = "looked_at:mode"
exits = "leaving:made"
""")
    found = findings(shown, status=1)
    assert found["workflow fine"] == (True, "looked_at:made")
    for name, text in {
        "no_module": "there is no module 'lokked_at': check the spelling",
        "no_function": "has no 'mode'",
        "exits": "importing leaving:made exits: 3",
    }.items():
        is_well, says = found[f"workflow {name}"]
        assert not is_well
        assert text in says


@pytest.mark.parametrize("value", ["", "whsec_c2VjcmV0"])
def test_doctor_says_who_is_told_and_whether_its_secret_is_there(
    folder: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HOOK_SECRET", value)
    table = '[notify]\nurl = "https://example.com/x"\nsecret_env = "HOOK_SECRET"\n'
    (folder / "headway.toml").write_text(table)
    is_well, says = findings(shown, status=1)["notify"]  # a key is missing, too
    assert is_well is bool(value)
    assert says.startswith("https://example.com/x")
    assert "c2VjcmV0" not in says


def test_what_the_file_says_of_schedules_and_teams_is_shown_before_anything_runs(
    folder: Path, shown: Shown
) -> None:
    (folder / "headway.toml").write_text(
        CONFIG
        + """
[teams]
nightly = { priority = "background", highest = "low", quotas = ["q"] }
triage = { weight = 2 }
[schedules.digest]
cron = "0 3 1 1 *"
zone = "Europe/Berlin"
workflow = "lost"
task = "Yesterday"
"""
    )
    found = findings(shown, status=1)
    says = "weight 1, background unless a run says otherwise, at most low, quota q"
    assert found["team nightly"] == (True, says)
    assert found["team triage"] == (True, "weight 2")
    assert re.fullmatch(r"next 20\d\d-01-01 03:00 Europe/Berlin, lost", found["schedule digest"][1])
    assert re.fullmatch(
        r"digest: next 20\d\d-01-01 03:00 Europe/Berlin, says .*headway.toml; "
        r"queued once a process that leads has opened\n",
        shown("schedules"),
    )


def test_doctor_says_the_price_of_an_ordinary_call(folder: Path, shown: Shown) -> None:
    """A call with a million tokens of input would cost twice as much for each."""
    (folder / "headway.toml").write_text('[models."gpt-5.4"]\napi_key_env = "TEST_KEY"\n')
    says = findings(shown, status=0)["model gpt-5.4"][1]
    assert says.endswith("$2.5 and $15 a million tokens (list)")


def test_doctor_says_which_servers_get_no_key(folder: Path, shown: Shown) -> None:
    (folder / "headway.toml").write_text("""
[models.far]
base_url = "https://llm.example.com/v1"
[models.free]
base_url = "https://llm.example.com/v1"
keyless = true
[models.here]
base_url = "http://127.0.0.1:8000/v1"
""")
    found = findings(shown, status=1)
    assert found["model far"] == (
        False,
        "model 'far' asks https://llm.example.com/v1, and no key is paired with it: "
        'set api_key_env in [models."far"], or keyless = true',
    )
    for name, url in (("free", "https://llm.example.com"), ("here", "http://127.0.0.1:8000")):
        says = f"{url}/v1 ([models]), openai, asked without a key, quota default, price unknown"
        assert found[f"model {name}"] == (True, says)


def test_doctor_says_which_classes_of_clients_there_are_not(folder: Path, shown: Shown) -> None:
    (folder / "own_clients.py").write_text("""
from autogen_ext.models.replay import ReplayChatCompletionClient as Client
""")
    names = {
        "misspelt": "autogen_ext.models.openai.NoSuchClient",
        "missing": "no_such_module.Client",
        "other": "pathlib.Path",
        "fine": "own_clients.Client",
    }
    tables = (f'[models.{name}]\nclient = "{path}"\n' for name, path in names.items())
    (folder / "headway.toml").write_text("".join(tables))
    found = findings(shown, status=1)
    assert found["model misspelt"] == (
        False,
        "model 'misspelt': models.misspelt.client: 'autogen_ext.models.openai.NoSuchClient' is no "
        "ChatCompletionClient of AutoGen's",
    )
    assert found["model missing"][0] is False
    assert "needs the module 'no_such_module', which is not there" in found["model missing"][1]
    assert found["model other"][0] is False
    assert found["model fine"][0] is True


class Listing(BaseHTTPRequestHandler):
    """Lists one model to whoever has the key."""

    def do_GET(self) -> None:
        is_known = self.headers.get("authorization") == "Bearer sk-listing-9876543210"
        is_list = self.path == "/v1/models"
        body = json.dumps({"data": [{"id": "m"}]} if is_list else {}).encode()
        self.send_response((200 if is_known else 401) if is_list else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def listing() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Listing) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_doctor_asks_each_server_for_its_models(
    folder: Path, shown: Shown, listing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What this process reads as a key is replaced wherever it stands from then on: no other test
    # may have a text that begins with it.
    monkeypatch.setenv("TEST_KEY", "sk-listing-9876543210")
    (folder / "headway.toml").write_text(f"""
[models.m]
base_url = "{listing}/v1"
api_key_env = "TEST_KEY"
[models.bare]
base_url = "{listing}"
[models.keyless]
base_url = "{listing}/v1"
keyless = true
[models.nobody]
base_url = "http://127.0.0.1:9/v1"
[models.deep]
base_url = "{listing}/v1/chat/completions"
""")
    answer = shown.json("doctor", "--ping", status=1)
    pings = [
        (each["subject"], each["ok"], each["says"])
        for each in answer["findings"]
        if each["subject"].startswith("ping")
    ]
    assert sorted(pings) == sorted(
        [
            (f"ping {listing}/v1", True, "answers, and lists 1 model, 'm' among them"),
            (f"ping {listing}/v1 without a key", False, "answers 401: it refuses the key"),
            (
                f"ping {listing} without a key",
                False,
                f"{listing} answers 404: does base_url need /v1? (`headway doctor --ping` asks it)",
            ),
            (
                f"ping {listing}/v1/chat/completions without a key",
                False,
                f"{listing}/v1/chat/completions answers 404: does base_url end too late? Clients "
                f"add /chat/completions themselves (`headway doctor --ping` asks it)",
            ),
            (
                "ping http://127.0.0.1:9/v1 without a key",
                False,
                "no answer: connection refused",
            ),
        ]
    )
    assert not [each for each in findings(shown, status=0) if each.startswith("ping")]


def test_doctor_says_how_the_clients_of_component_files_are_reached(
    folder: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-1")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    team = {
        "provider": "autogen_agentchat.teams.RoundRobinGroupChat",
        "config": {
            "participants": [
                {
                    "provider": "autogen_agentchat.agents.AssistantAgent",
                    "config": {
                        "model_client": {
                            "provider": "autogen_ext.models.openai.OpenAIChatCompletionClient",
                            "config": {"model": name, **({"base_url": url} if url else {})},
                        }
                    },
                }
                for name, url in (("gpt-4o", ""), ("far", "https://llm.example.com/v1"))
            ]
        },
    }
    (folder / "team.json").write_text(json.dumps(team))
    (folder / "headway.toml").write_text('[workflows]\nteam = "team.json"')
    found = findings(shown, status=1)
    assert found["model gpt-4o"] == (
        True,
        "https://api.openai.com/v1 (its own), openai, OPENAI_API_KEY is set, quota default, "
        "$2.5 and $10 a million tokens (list)",
    )
    assert found["model far"] == (
        False,
        "model 'far' of team.json asks https://llm.example.com/v1, and no key is paired with it: "
        'set base_url and api_key_env in [models."far"], or keyless = true',
    )


def test_a_window_that_is_stated_is_shown_as_stated(folder: Path, shown: Shown) -> None:
    """No end of a fixed window is known before the first answer."""
    windows = ("sliding", "fixed", "minute")
    (folder / "headway.toml").write_text(
        "".join(
            f'[quotas.{each}]\nrequests_per_minute = 60\nwindow = "{each}"\n' for each in windows
        )
    )
    known = {each["quota"]: each["counted"] for each in shown.json("limits", "list")}
    assert {each: known[each] for each in windows} == {each: each for each in windows}


def test_odd_numbers_of_a_provider_are_shown(database: Path, shown: Shown) -> None:
    odd = {"m: completion_tokens": 3, "m: x-ratelimit-limit-tokens": 40}

    async def learn() -> None:
        async with SqliteStore(database) as store:
            await store.commit(Batch(lessons=(Lesson("odd", "q", json.dumps(odd)),)))

    anyio.run(learn)
    assert [limit["odd"] for limit in shown.json("limits", "list")] == [odd, {}, {}]
    assert findings(shown, status=1)["quota q"] == (
        True,
        "out of range, counted as unknown: "
        "m: x-ratelimit-limit-tokens (40), m: completion_tokens (3)",
    )


def test_doctor_says_which_stated_windows_answers_contradict(folder: Path, shown: Shown) -> None:
    (folder / "headway.toml").write_text("""
[database]
path = "headway.db"
[quotas.q]
requests_per_minute = 60
window = "fixed"
[models.m]
api_key_env = "TEST_KEY"
quotas = ["q"]
""")
    known = KnownLimits(load(folder / "headway.toml").quotas["q"])
    known.windows[Resource.REQUESTS] = Window.BUCKET

    async def learn() -> None:
        async with SqliteStore(folder / "headway.db") as store:
            await store.commit(Batch(lessons=(Lesson(LIMITS, "q", known.dump()),)))

    anyio.run(learn)
    is_good, says = findings(shown, status=1)["quota q"]
    assert (is_good, says) == (False, CONTRADICTED)


@pytest.mark.parametrize("whose", ["model", "team"])
def test_doctor_says_which_prices_a_limit_in_dollars_lacks(
    folder: Path, shown: Shown, whose: str
) -> None:
    of_model, of_team = (
        ("money", "") if whose == "model" else ("q", '[teams.a]\nquotas = ["money"]')
    )
    (folder / "headway.toml").write_text(f"""
[quotas.money]
usd_per_day = 5
[quotas.q]
requests_per_minute = 60
[models.mine]
api_key_env = "TEST_KEY"
quotas = ["{of_model}"]
[models."gpt-5.4"]
api_key_env = "TEST_KEY"
quotas = ["{of_model}"]
{of_team}
""")
    found = shown.json("doctor", status=1)["findings"]
    lacking = [(each["subject"], each["says"]) for each in found if not each["ok"]]
    assert [subject for subject, _ in lacking] == ["model mine"]
    assert "usd_per_million_input_tokens" in lacking[0][1]


def test_doctor_is_content_before_the_first_run(
    folder: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-1")
    found = findings(shown, status=0)
    assert "the first run makes it" in found["database"][1]
    assert not Path(".headway").exists()


@pytest.mark.parametrize("text", ["[databas]\n", "[database]\npath = 3\n"])
def test_doctor_reports_a_bad_configuration(folder: Path, shown: Shown, text: str) -> None:
    Path("headway.toml").write_text(text)
    assert findings(shown, status=1)["configuration"][0] is False


def test_doctor_reports_a_database_of_another_program(folder: Path, shown: Shown) -> None:
    (folder / "headway.toml").write_text(CONFIG)
    other = sqlite3.connect("headway.db")
    other.execute("CREATE TABLE t (x)")
    other.close()
    assert "another program" in findings(shown, status=1)["database"][1]


def test_an_error_leaves_headway_as_it_was_raised_and_not_in_a_group(folder: Path) -> None:
    async def submit() -> None:
        async with headway.Headway() as opened:
            await opened.start("nothing", task="x")

    with pytest.raises(CallerError, match="no workflow 'nothing'"):
        anyio.run(submit)


# logs


def test_logs_of_a_run_tell_its_calls_and_how_it_ended(shown: Shown, database: Path) -> None:
    lines = shown("runs", "logs", "r-aaa").splitlines()
    assert [line.partition("  ")[2] for line in lines[:-1]] == ["writer: hello"]
    assert lines[-1] == "r-aaa completed"
    assert shown("runs", "logs", "r-aaa", "-f").splitlines() == lines
    (fact,) = map(json.loads, shown("runs", "logs", "r-aaa", "--json").splitlines())
    assert (fact["id"], json.loads(fact["answer"])) == ("r-aaa.0", {"content": "hello"})
    assert "no run 'r-none'" in shown("runs", "logs", "r-none", status=2)


# top


@pytest.mark.usefixtures("held")
def test_top_shows_the_whole_system_at_a_glance(shown: Shown) -> None:
    picture = shown("top", "--limit", "1")
    head, limits, waiting, calls, runs = picture.split("\n\n")
    assert " works on it" in head
    assert "1 in flight" in head
    assert limits.splitlines()[0].split()[:2] == ["QUOTA", "LIMIT"]
    assert waiting.splitlines()[0].split()[:2] == ["WAITING", "NOW"]
    assert len(calls.splitlines()) == len(runs.splitlines()) == 2
    facts = shown.json("top")
    assert facts["in_flight"] == 1
    assert sum(facts["waiting"].values()) + facts["parked"] == len(facts["calls"]) == 3
    assert {each["quota"] for each in facts["limits"]} >= {"q"}


def test_top_counts_every_run(database: Path, shown: Shown) -> None:
    async def fill() -> None:
        async with SqliteStore(database) as store:
            waiting = tuple(run(f"r-{number}", RunState.QUEUED) for number in range(2000))
            await store.commit(Batch(runs=waiting))

    anyio.run(fill)
    assert "· 2,001 runs ·" in shown("top", "--limit", "1")
    assert len(shown.json("top")["runs"]) == 2001


def test_a_database_that_is_not_there_yet_is_looked_at_as_an_empty_one(
    folder: Path, shown: Shown
) -> None:
    (folder / "headway.toml").write_text(CONFIG)
    assert shown("runs") == "no runs\n"
    assert shown("queue").startswith("0 calls queued, 0 in flight")
    assert "no process works on it" in shown("top")
    assert "\nq        requests" in shown("limits")
    assert "nothing was changed" in shown("limits", "log")
    assert shown("costs").splitlines()[-1].split() == [
        "total",
        "0",
        "0",
        "0",
        "0",
        "$0.0000",
        "-",
        "-",
    ]
    assert shown.json("runs") == shown.json("limits", "log") == []
    assert (shown.json("queue")["calls"], shown.json("top")["runs"]) == ([], [])
    assert shown.json("limits")[0]["quota"] == "q"
    assert [cost["calls"] for cost in shown.json("costs")] == [0]
    assert "no run 'r-abc'" in shown("runs", "show", "r-abc", status=2)
    assert not (folder / "headway.db").exists()


def test_top_on_a_terminal_lasts_until_it_is_interrupted(database: Path) -> None:
    """In a pseudo-terminal of its own."""
    command = [sys.executable, "-m", "headway", "top"]
    master, slave = os.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    terminal = {"stdin": slave, "stdout": slave, "stderr": slave}
    with Process(command, cwd=database.parent, env=environment, **terminal) as process:
        os.close(slave)
        seen = b""
        while b"in flight" not in seen:
            seen += os.read(master, 4096)
        process.send_signal(signal.SIGINT)
        while process.poll() is None:
            try:
                os.read(master, 4096)
            except OSError:
                break
    assert process.returncode == 130
    os.close(master)


@pytest.mark.parametrize("is_held", [True, False])
def test_calls_of_a_failed_run_wait_for_nothing(
    database: Path, shown: Shown, request: pytest.FixtureRequest, is_held: bool
) -> None:
    async def fail() -> None:
        async with SqliteStore(database) as store:
            failed = run("r-ccc", RunState.FAILED, error="no such factory")
            left = record("r-ccc.0", 9, CallState.QUEUED)
            await store.commit(Batch(new=(left,), runs=(failed,)))

    anyio.run(fail)
    if is_held:
        request.getfixturevalue("held")
    calls = shown.json("queue", "list")["calls"]
    assert {call["id"] for call in calls} == {"r-bbb.10", "r-bbb.0", "r-aab.0"}


def test_work_says_that_it_leaves_interrupted_runs(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def queue() -> None:
        async with SqliteStore(database) as store:
            await store.commit(Batch(runs=(run("r-ddd", RunState.QUEUED, workflow="answer"),)))

    anyio.run(queue)
    assert main(["work"]) == 0
    out, err = capsys.readouterr()
    assert out == "no run is queued: `headway submit` queues one\n"
    assert "2 runs are interrupted, and left so: `headway resume --all` goes on with them" in err
    assert "runs of workflow 'answer' stay queued: it is not in [workflows]" in err

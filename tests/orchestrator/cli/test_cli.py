"""The real command in processes of its own, against the simulated provider."""

import json
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from tests.orchestrator.cli.shell import KEY, ended, headway, read, started

from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.testing.provider import Body, Fault, FaultKind, Settings, simulated_provider

ESCAPES = "evil\x1b]0;title\x07\nheadway: I am the program\x9b2J"

TEAMS = f"""
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat

def team(models, model):
    agents = [AssistantAgent(name, models(model)) for name in ("writer", "critic")]
    return RoundRobinGroupChat(agents, termination_condition=MaxMessageTermination(3))

def pair(models): return team(models, "sim")
def slow(models): return team(models, "slow")
def evil(models): return team(models, "evil")
def locked(models): return team(models, "locked")
def keyless(models): return team(models, "keyless")
def buggy(models): raise ValueError("a bug beside {KEY}")
"""

CONFIG = """
[database]
path = "headway.db"
[quotas.roomy]
requests_per_minute = 6000
[quotas.other]
requests_per_minute = 6000
[quotas.tight]
requests_per_minute = 1
[workflows]
pair = "teams:pair"
"""

MODEL = '[models.{name}]\nquotas = ["{quota}"]\nbase_url = "{url}"\napi_key_env = "{variable}"\n'
# As `run` prints it for a team of one call at a time, none of which was asked again.
STATUS = re.compile(r"headway: waiting: (none|1 high) \| in flight: [01]( \| next [^|]*)?")


def reply(body: Body) -> str | None:
    return ESCAPES if body["model"] == "evil" else None


def faults(_: int, body: Body) -> Fault | None:
    return Fault(FaultKind.UNAUTHORIZED) if body["model"] == "locked" else None


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    settings = Settings(reply=reply, faults=faults)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(simulated_provider(settings)) as provider,
    ):
        yield provider.base_url


@pytest.fixture
def folder(tmp_path: Path, base_url: str) -> Path:
    quotas = {"sim": "roomy", "evil": "roomy", "locked": "other", "keyless": "roomy"}
    models = [
        MODEL.format(
            name=name,
            quota=quota,
            url=base_url,
            variable="NO_SUCH_KEY" if name == "keyless" else "TEST_KEY",
        )
        for name, quota in (quotas | {"slow": "tight"}).items()
    ]
    (tmp_path / "headway.toml").write_text(CONFIG + "".join(models))
    (tmp_path / "teams.py").write_text(TEAMS)
    return tmp_path


def told(folder: Path, *arguments: str) -> str:
    """The single line of an error."""
    _, out, err = headway(folder, *arguments)
    assert out == ""
    assert "Traceback" not in err
    assert err.startswith("headway: ")
    assert err.count("\n") == 1
    return err


def in_store(folder: Path, question: Callable[[SqliteStore], Any]) -> Any:
    async def ask() -> Any:
        async with SqliteStore(folder / "headway.db", read_only=True) as store:
            return await question(store)

    return anyio.run(ask)


def states(folder: Path) -> list[RunState]:
    return [run.state for run in in_store(folder, lambda store: store.runs())]


def wait_until_a_call_waits(folder: Path, process: subprocess.Popen[str]) -> str:
    """The first answer is there, and the second call has to wait for most of a minute."""
    assert process.stdout is not None
    while not (line := process.stdout.readline()).startswith("writer:"):
        assert line, process.communicate()
    while not (calls := in_store(folder, lambda s: s.calls(states={CallState.QUEUED}))):
        assert process.poll() is None
    return str(calls[0].call.id)


def test_run_prints_the_messages_and_a_summary_of_two_lines(folder: Path) -> None:
    began = time.monotonic()
    status, out, err = headway(folder, "run", "pair", "Write.\nTwo lines.", "-p", "high")
    # It says nothing else than how things stand, every 5 s (docs/cli.md), and nothing was retried.
    # asyncio's debug mode tells of each callback that a busy machine made slow.
    said = [line for line in err.splitlines() if "warning: Executing <" not in line]
    assert (status, [line for line in said if not STATUS.fullmatch(line)]) == (0, [])
    assert len(said) <= (time.monotonic() - began) / 5
    lines = out.splitlines()
    assert lines[:2] == ["user: Write.", "  Two lines."]
    assert [line.split(":")[0] for line in lines[2:4]] == ["writer", "critic"]
    assert lines[4].startswith("completed after ")
    assert "2 calls" in lines[4]
    assert len(lines) == 6

    status, out, _ = headway(folder, "runs", "show", "r-")
    assert status == 0
    assert lines[5].split(":")[0] in out
    assert "high" in out


def test_run_json_and_a_key_that_was_used_before(folder: Path) -> None:
    status, out, err = headway(folder, "run", "pair", "Write.", "--key", "k", "--json")
    first = [json.loads(line) for line in out.splitlines()]
    assert (status, err) == (0, "")
    kinds = [event["event"] for event in first]
    assert kinds[0] == "started"
    assert kinds[-2:] == ["ended", "result"]
    assert kinds.count("message") == 3
    assert kinds.count("finished") == 2
    assert first[-1]["state"] == "completed"
    assert first[-1]["calls"] == 2

    status, out, _ = headway(folder, "run", "pair", "Write.", "--key", "k", "--json")
    again = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert again[-1] == first[-1]
    assert [e["event"] for e in again] == ["message"] * 3 + ["ended", "result"]


def test_a_terminal_gets_a_status_line_and_no_escapes_of_a_model(folder: Path) -> None:
    ours, theirs = pty.openpty()
    with started(folder, "run", "teams:evil", "Write.", stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while piece := read(ours):
            shown += piece
    os.close(ours)
    assert process.returncode == 0
    text = shown.decode()
    assert "starting" in text
    assert r"evil\x1b]0;title\x07" in text
    assert "\x1b]" not in text
    assert "\x9b" not in text
    assert "\n  headway: I am the program" in text


def test_beside_a_live_process_one_may_look_and_ctrl_c_interrupts(
    folder: Path,
) -> None:
    with started(folder, "run", "teams:slow", "Write.") as process:
        call_id = wait_until_a_call_waits(folder, process)

        status, out, _ = headway(folder, "queue")
        assert status == 0
        assert "requests: needs 1, 0" in out
        status, out, _ = headway(folder, "queue", "why", call_id, "--json")
        why = json.loads(out)
        assert (status, why["place"], why["agent"]) == (0, 1, "critic")
        assert why["starts_at"] is not None
        status, out, _ = headway(folder, "runs", "--state", "running", "--json")
        assert [run["id"] for run in json.loads(out)] == [call_id.split(".")[0]]
        status, out, _ = headway(folder, "doctor")
        assert status == 1  # a key is missing
        assert f"process {process.pid} works on it" in out

        process.send_signal(signal.SIGINT)
        status, out, err = ended(process)
    assert status == 130
    run_id = call_id.split(".")[0]
    assert f"headway: interrupted {run_id}: `headway resume {run_id}` goes on" in err
    assert "Traceback" not in err
    assert out.splitlines()[-2].startswith("interrupted")
    assert states(folder) == [RunState.INTERRUPTED]


def test_after_kill_9_the_queue_says_that_the_run_is_interrupted(folder: Path) -> None:
    with started(folder, "run", "teams:slow", "Write.") as process:
        call_id = wait_until_a_call_waits(folder, process)
        process.kill()
    assert states(folder) == [RunState.RUNNING]

    _, out, _ = headway(folder, "queue")
    assert "its run is interrupted" in out
    assert "no process is working on them" in out
    _, out, _ = headway(folder, "queue", "why", call_id)
    assert "its run is interrupted" in out
    _, out, _ = headway(folder, "runs", "show", call_id.split(".")[0], "--json")
    run = json.loads(out)
    assert run["state"] == "interrupted"
    assert [message["source"] for message in run["messages"]] == ["writer"]


def test_submit_and_work_and_how_each_failure_is_told(folder: Path) -> None:
    teams = {
        "pair": RunState.COMPLETED,
        "teams:buggy": RunState.FAILED,
        "teams:locked": RunState.FAILED,
        "teams:keyless": RunState.FAILED,
        "nowhere:team": RunState.FAILED,
    }
    ids = {}
    for team in teams:
        status, out, err = headway(folder, "submit", team, "Write.")
        assert (status, err) == (0, "")
        ids[team] = out.strip()

    status, out, err = headway(folder, "work", "--slots", "3")
    assert status == 1
    assert out.splitlines()[-2].startswith(("1 completed, 4 failed", "4 failed, 1 completed"))
    assert f"{ids['pair']} writer: " in out
    assert "no module 'nowhere'" in err
    assert "NO_SUCH_KEY in the environment" in err
    assert "AuthenticationError" in err
    assert err.count("Traceback") == 1  # of the bug in the factory
    assert "a bug beside [key]" in err
    assert KEY.encode() not in (folder / "headway.db").read_bytes()
    for team, state in teams.items():
        _, out, _ = headway(folder, "runs", "show", ids[team], "--json")
        assert json.loads(out)["state"] == state


def test_a_bad_key_stops_its_quota_until_it_is_said_to_be_mended(folder: Path) -> None:
    status, _, err = headway(folder, "run", "teams:locked", "Write.")
    assert (status, "quota 'other' is stopped" in err) == (1, True)
    _, out, _ = headway(folder, "limits")
    lines = [line for line in out.splitlines() if line.startswith(("roomy", "other"))]
    assert ["stopped: AuthenticationError" in line for line in lines] == [False, True]
    status, out, _ = headway(folder, "doctor")
    assert "BAD  quota other" in out
    assert "`headway limits resume other`" in out
    assert headway(folder, "limits", "resume", "other")[0] == 0
    assert "stopped" not in headway(folder, "limits")[1]
    assert headway(folder, "limits", "resume", "none")[0] == 2


def test_a_worker_without_work_lets_others_submit(folder: Path) -> None:
    with started(folder, "work", "--forever", "--json") as process:
        while not (folder / "headway.db").exists():
            assert process.poll() is None
        run_id = ""
        while not run_id:  # refused for the moment in which the worker looks for itself
            status, out, _ = headway(folder, "submit", "pair", "Write.", "--json")
            run_id = json.loads(out)["id"] if status == 0 else ""
        assert process.stdout is not None
        while json.loads(process.stdout.readline())["event"] != "ended":
            pass
        process.send_signal(signal.SIGINT)
        status, out, err = ended(process)
    assert (status, err) == (130, "")
    assert json.loads(out.splitlines()[-1])["states"] == {"completed": 1}
    assert states(folder) == [RunState.COMPLETED]


def test_whoever_reads_the_output_may_leave(folder: Path) -> None:
    with started(folder, "config", "show") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode in (0, 130)

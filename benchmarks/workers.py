"""Eight workers, two hundred runs, one budget; every second one worker is killed or frozen.

    python -m benchmarks.workers [--seconds 120] [--runs 200] [--workers 8] [--seed 1]
    python -m benchmarks.workers --seconds 300 --runs 400 --blocking 40 --poison 6 --every 2

Every worker is a process of ``headway work --forever``. Each second (``--every``) one of them, or
whichever leads, is killed with SIGKILL and started anew, or frozen with SIGSTOP for a random time,
now and then for longer than it takes to count as dead; one that ends by itself is started anew too.
When the time is over, the workers are left alone until every run has ended. The provider, a process
of its own, enforces the limits and keeps a ledger of what was paid. Shown, and the exit status is 1
if one is not so: all runs completed, with the transcripts of runs that nobody disturbed; no request
over a limit; no call paid more often than once and once for each attempt that is listed as lost.

``--blocking`` so many of the runs stop the event loop of their worker with ``time.sleep``, for 2 to
5 s after their first answer; in each attempt, for a replay executes the same code. ``--poison`` so
many runs more end their process with ``os._exit``: half of them where they are built, half after
their first answer. All of those must be quarantined, and no other run.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio

from headway import Headway
from headway.config import load
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import RunState
from headway_scheduler.testing.provider import Ledger

MESSAGES = 12
RPM = 1200
BURST_SECONDS = 5
CONCURRENCY = 40
ENDED = (RunState.COMPLETED, RunState.FAILED, RunState.CANCELLED)
CONFIG = f"""
[database]
path = "headway.db"
[quotas.one]
requests_per_minute = {RPM}
burst_seconds = {BURST_SECONDS}
concurrency = {CONCURRENCY}
[models.sim]
quotas = ["one"]
idempotency_header = "x-headway-call"
base_url = "{{url}}"
[workflows]
team = "benchmarks.workers:team"
blocking = "benchmarks.workers:blocking"
poison = "benchmarks.workers:poison"
late_poison = "benchmarks.workers:late_poison"
"""
POISONED = 7
"""The exit status of a worker that a poison run ended."""
POISONS = ("poison", "late_poison")


def team(models: Any, look: Callable[[], None] = lambda: None) -> Any:
    """Three agents in turn. ``look``: called after each answer."""
    from autogen_agentchat.agents import AssistantAgent
    from autogen_agentchat.conditions import FunctionalTermination, MaxMessageTermination
    from autogen_agentchat.teams import RoundRobinGroupChat

    def is_over(messages: Sequence[Any]) -> bool:
        if any(message.source != "user" for message in messages):
            look()
        return False

    agents = [AssistantAgent(name, models("sim")) for name in ("writer", "critic", "editor")]
    over = MaxMessageTermination(MESSAGES + 1) | FunctionalTermination(is_over)
    return RoundRobinGroupChat(agents, termination_condition=over)


def blocking(models: Any) -> Any:
    """Stops the event loop of its process for 2 to 5 s, once in each attempt."""
    left = [random.uniform(2.0, 5.0)]
    return team(models, lambda: time.sleep(left.pop()) if left else None)


def poison(models: Any) -> Any:
    """Ends its process while it is built."""
    os._exit(POISONED)


def late_poison(models: Any) -> Any:
    """Ends its process after the first answer."""
    return team(models, lambda: os._exit(POISONED))


@dataclass
class Crowd:
    """The workers, and what was done to them."""

    folder: Path
    chooser: random.Random
    pids: list[int] = field(default_factory=list)
    frozen: dict[int, float] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)

    def add(self, number: int) -> None:
        """Fork a worker; AutoGen is imported already."""
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = work(self.folder, number)
            except BaseException:
                traceback.print_exc()  # into the log: the process ends before Python would
            finally:
                os._exit(status)
        self.pids.append(pid)

    def disturb(self) -> None:
        """Kill or freeze one worker, and wake up whose time has come."""
        self.wake()
        awake = [pid for pid in self.pids if pid not in self.frozen]
        if not awake:
            return
        pid = self.leader() if self.chooser.random() < 0.3 else self.chooser.choice(awake)
        if pid not in awake:
            pid = self.chooser.choice(awake)
        who = "leader" if pid == self.leader() else "follower"
        if self.chooser.random() < 0.5:
            os.kill(pid, signal.SIGKILL)
            self.done[f"{who} killed"] += 1
        else:
            os.kill(pid, signal.SIGSTOP)
            seconds = 12.0 if self.chooser.random() < 0.1 else self.chooser.uniform(0.1, 4.0)
            self.frozen[pid] = time.monotonic() + seconds
            self.done[f"{who} frozen{' for 12 s' if seconds == 12.0 else ''}"] += 1

    def wake(self, *, all_of_them: bool = False) -> None:
        for pid, until in list(self.frozen.items()):
            if all_of_them or time.monotonic() > until:
                os.kill(pid, signal.SIGCONT)
                del self.frozen[pid]

    def replace(self) -> None:
        """Start one for each that has ended."""
        for pid in list(self.pids):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self.pids.remove(pid)
                self.frozen.pop(pid, None)
                if not os.WIFSIGNALED(status):
                    self.done[f"ended with {os.waitstatus_to_exitcode(status)}"] += 1
                self.add(len(self.done))

    def leader(self) -> int:
        try:
            # The process id and the worker's id; empty while somebody is about to write them.
            return int((self.folder / "headway.db.lock").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return 0

    def end(self) -> None:
        self.wake(all_of_them=True)
        for pid in self.pids:
            os.kill(pid, signal.SIGTERM)
        for pid in self.pids:
            os.waitpid(pid, 0)


def work(folder: Path, number: int) -> int:
    from headway.cli import main as headway

    os.chdir(folder)
    with (folder / "workers.log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    return headway(["work", "--forever", "--slots", "8", "--label", f"worker {number}"])


async def submit(folder: Path, args: argparse.Namespace) -> None:
    """Submit all runs, in an order that the seed chooses."""
    workflows = ["blocking"] * args.blocking + ["team"] * (args.runs - args.blocking)
    tasks = [(workflow, f"Task {number}.") for number, workflow in enumerate(workflows)]
    tasks += [(POISONS[number % 2], f"Poison {number}.") for number in range(args.poison)]
    random.Random(args.seed).shuffle(tasks)
    async with Headway(load(folder / "headway.toml")) as headway:
        for workflow, task in tasks:
            await headway.submit(workflow, task=task)


async def rows(folder: Path) -> list[Run]:
    from headway_scheduler.backends.sqlite.store import SqliteStore

    async with SqliteStore(folder / "headway.db", read_only=True) as store:
        return list(await store.runs())


async def undisturbed(folder: Path, runs: int) -> dict[str, Any]:
    """What the same tasks come to in one process that is left alone, by task."""
    async with Headway(load(folder / "headway.toml")) as headway:
        handles = [await headway.start("team", task=f"Task {n}.") for n in range(runs)]
        results = [await handle.result() for handle in handles]
    return {
        handle.run.task: [message.content for message in result.task_result.messages]
        for handle, result in zip(handles, results, strict=True)
    }


async def transcripts(folder: Path) -> dict[str, Any]:
    """What the tasks came to, of runs that are completed."""
    found = {}
    async with Headway(load(folder / "headway.toml")) as headway:
        for run in await headway.list_runs([RunState.COMPLETED]):
            result = await (await headway.handle(run.id)).result()
            found[run.task] = [message.content for message in result.task_result.messages]
    return found


async def lost_attempts(folder: Path) -> dict[str, int]:
    async with Headway(load(folder / "headway.toml")) as headway:
        every = [c for run in await headway.list_runs() for c in await headway.list_calls(run.id)]
    return {record.call.id: record.lost_attempts for record in every}


def provider(folder: Path, *options: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "headway_scheduler.testing.provider"]
    command += ["--ledger", str(folder / "ledger.jsonl"), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def disturbed(folder: Path, args: argparse.Namespace) -> Crowd:
    """Let the workers work, and disturb them; then leave them alone until all is done."""
    crowd = Crowd(folder, random.Random(args.seed))
    for number in range(args.workers):
        crowd.add(number)
    start = time.monotonic()
    while time.monotonic() < start + args.seconds:
        time.sleep(args.every)
        crowd.replace()
        crowd.disturb()
    crowd.wake(all_of_them=True)
    give_up = time.monotonic() + args.patience
    while time.monotonic() < give_up:
        crowd.replace()
        states = Counter(run.state.value for run in anyio.run(rows, folder))
        if all(RunState(state) in ENDED for state in states):
            break
        time.sleep(1)
    crowd.done["seconds until all had ended"] = round(time.monotonic() - start)
    crowd.end()
    return crowd


def judged(folder: Path, expected: dict[str, Any]) -> dict[str, Any]:
    ledger = Ledger.read(folder / "ledger.jsonl")
    paid = Counter(entry.who for entry in ledger.paid)
    lost = anyio.run(lost_attempts, folder)
    found = anyio.run(transcripts, folder)
    refused = Counter(e.why for e in ledger.entries if e.status == 429)
    every = anyio.run(rows, folder)
    bad = [run for run in every if run.workflow in POISONS]
    honest = [run for run in every if run.workflow not in POISONS]
    return {
        "runs": dict(Counter(run.state.value for run in honest)),
        "poison runs": dict(Counter("quarantined" if r.is_quarantined else r.state for r in bad)),
        "honest runs quarantined": [
            f"{run.id}, {run.workflow}, attempts {run.attempts}"
            for run in honest
            if run.is_quarantined
        ],
        "errors of honest runs": dict(Counter(run.error for run in honest if run.error)),
        "attempts at runs": sum(run.attempts for run in every),
        "transcripts that differ": sum(found.get(task) != text for task, text in expected.items()),
        "calls": len(lost),
        "requests paid": sum(paid.values()),
        "attempts listed as lost": sum(lost.values()),
        "calls paid more often than once and once for each loss": sum(
            times > 1 + lost.get(call, 0) for call, times in paid.items()
        ),
        "requests over a limit": dict(refused),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=float, default=1, help="seconds between two disturbances")
    parser.add_argument("--blocking", type=int, default=0, help="how many runs block their loop")
    parser.add_argument("--poison", type=int, default=0, help="how many runs end their process")
    parser.add_argument("--patience", type=int, default=180, help="seconds to wait in the end")
    parser.add_argument("--keep", type=Path, help="leave the database and the log here")
    args = parser.parse_args()
    os.environ["OPENAI_API_KEY"] = "not-a-key"
    import autogen_ext.models.openai  # noqa: F401  imported once, before the forks

    with TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        quiet, chaos = folder / "quiet", folder / "chaos"
        for each in (quiet, chaos):
            each.mkdir(parents=True)
        limits = ["--requests-per-minute", str(RPM), "--burst-seconds", str(BURST_SECONDS)]
        limits += ["--concurrency", str(CONCURRENCY), "--base-seconds", "0.3"]
        free, url = provider(quiet)
        unlimited = CONFIG.format(url=url).replace(f"= {RPM}\n", "= 1000000\n")
        (quiet / "headway.toml").write_text(unlimited)
        expected = anyio.run(undisturbed, quiet, args.runs)
        free.terminate()
        strict, url = provider(chaos, *limits)
        (chaos / "headway.toml").write_text(CONFIG.format(url=url))
        anyio.run(submit, chaos, args)
        crowd = disturbed(chaos, args)
        strict.terminate()
        strict.wait()
        report = judged(chaos, expected)
        print(
            json.dumps({"seed": args.seed, "done to workers": dict(crowd.done), **report}, indent=1)
        )
        is_contained = report["poison runs"] == (
            {"quarantined": args.poison} if args.poison else {}
        )
        is_well = report["runs"] == {"completed": args.runs} and is_contained
        is_well = is_well and not (
            report["transcripts that differ"]
            or report["calls paid more often than once and once for each loss"]
            or report["requests over a limit"]
        )
        sys.exit(not is_well)


if __name__ == "__main__":
    main()

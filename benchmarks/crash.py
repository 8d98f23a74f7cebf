"""Twenty runs at once, and their process killed at random, again and again.

    python -m benchmarks.crash [--kills 200] [--seed 1]

A process opens the database, submits runs until twenty are on their way, resumes what was
interrupted, and is killed with SIGKILL after a random time; then the next one starts. In the end
one process is left to finish. The provider, which lives on in this process, keeps a ledger of what
was paid. Shown: that every run completed with the transcript of an uncut one, that nothing was paid
twice but what was in flight at a kill, and that no slot or reservation is left behind.
"""

import argparse
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio

from headway import Headway
from headway.config import load
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.testing.provider import Latency, Settings, SimulatedProvider
from headway_scheduler.testing.provider import simulated_provider as provided

AT_ONCE = 20
CALLS = 8


def team(models: Any) -> Any:
    from autogen_agentchat.agents import AssistantAgent
    from autogen_agentchat.conditions import MaxMessageTermination
    from autogen_agentchat.teams import RoundRobinGroupChat

    agents = [AssistantAgent(name, models("sim")) for name in ("writer", "critic")]
    return RoundRobinGroupChat(agents, termination_condition=MaxMessageTermination(CALLS + 1))


async def work(folder: Path, runs: int) -> None:
    """Keep twenty runs on their way until ``runs`` are completed."""
    async with Headway(load(folder / "headway.toml")) as headway:
        headway.workflow("team")(team)
        handles = await headway.resume_all()
        for number in range(runs):
            done = len(await headway.list_runs([RunState.COMPLETED]))
            if done >= runs:
                break
            under_way = [handle for handle in handles if handle.run.state not in _ENDS]
            if len(under_way) >= AT_ONCE:
                await under_way[0].ended()
            key = f"run-{number}"
            handles.append(await headway.start("team", task=f"Task {number}.", key=key))
        for handle in handles:
            await handle.ended()


_ENDS = (RunState.COMPLETED, RunState.FAILED, RunState.CANCELLED)


def child(folder: Path, runs: int) -> int:
    """Fork a process that works; AutoGen is imported already."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            anyio.run(work, folder, runs)
            status = 0
        finally:
            os._exit(status)
    return pid


def crash(folder: Path, kills: int, seed: int, runs: int) -> Counter[str]:
    """Kill ``kills`` processes at random times, and let the last one finish."""
    chooser = random.Random(seed)
    seen: Counter[str] = Counter()
    while seen["kills"] < kills:
        pid = child(folder, runs)
        time.sleep(chooser.uniform(0.02, 0.4))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        seen["kills" if os.WIFSIGNALED(status) else "finished"] += 1
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            break
    _, status = os.waitpid(child(folder, runs), 0)
    seen["last exit status"] = os.waitstatus_to_exitcode(status)
    return seen


async def judged(folder: Path, provider: SimulatedProvider, runs: int) -> dict[str, Any]:
    """Compare the journal with the ledger."""
    async with Headway(load(folder / "headway.toml")) as headway:
        every = await headway.list_runs()
        rows = [row for run in every for row in await headway.list_calls(run.id)]
        states = Counter(run.state.value for run in every)
        gauge = headway.scheduler.statistics()
        slots = [g for g in gauge.gauges if g.resource == "concurrency"]
        lost = sum(row.lost_attempts for row in rows)
        paid = len(provider.ledger.paid)
        return {
            "runs": dict(states),
            "quarantined, because three kills in a row found them": sum(
                run.is_quarantined for run in every
            ),
            "errors of others": [r.error for r in every if r.error and not r.is_quarantined],
            "calls done": sum(row.state is CallState.DONE for row in rows),
            "paid": paid,
            "possibly paid (cut off in flight)": lost,
            "paid twice beyond those": max(0, paid - len(rows) - lost),
            "rows not done": sum(row.state is not CallState.DONE for row in rows),
            "expected calls": runs * CALLS,
            "in flight at the end": gauge.in_flight,
            "slots free at the end": [(g.available, g.capacity) for g in slots],
        }


async def serve(folder: Path, kills: int, seed: int, runs: int) -> None:
    """Keep the provider in this process; the crashing goes on in a forked one, without a loop."""
    async with provided(Settings(latency=Latency(0.03))) as provider:
        (folder / "headway.toml").write_text(
            f"""
[database]
path = "headway.db"
[quotas.roomy]
concurrency = {AT_ONCE}
[models.sim]
quotas = ["roomy"]
base_url = "{provider.base_url}"
"""
        )
        command = [sys.executable, "-m", "benchmarks.crash", "--folder", str(folder)]
        command += ["--kills", str(kills), "--seed", str(seed), "--runs", str(runs)]
        process = await anyio.run_process(command, stderr=None, check=True)
        print(json.dumps(json.loads(process.stdout), indent=1))
        print(json.dumps(await judged(folder, provider, runs), indent=1))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ["OPENAI_API_KEY"] = "not-a-key"
    if args.folder is not None:
        # Imported once, before the forks: else most kills would find a process that only imports.
        import genai_prices.data_snapshot  # noqa: F401

        import headway_agents  # noqa: F401

        print(json.dumps(crash(args.folder, args.kills, args.seed, args.runs)))
        return
    with TemporaryDirectory() as folder:
        anyio.run(serve, Path(folder), args.kills, args.seed, args.runs)


if __name__ == "__main__":
    main()

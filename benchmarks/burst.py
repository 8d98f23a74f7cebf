"""Teams that start at once on a small budget: Headway beside stock AutoGen clients.

    python -m benchmarks.burst

Each team is a RoundRobinGroupChat of 3 calls. The simulated provider allows 20 requests per 10
seconds and answers in 0.2 s. Both contenders run at the same time, each against a provider of its
own, so that the machine's noise is shared. The floor is what the limits allow: the first 20
requests at once, the rest at 2 per second. The ledgers of the providers say what was refused.
"""

import argparse
import logging
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_ext.models.openai import OpenAIChatCompletionClient

from benchmarks.progress import Steps
from headway import Headway, RunFailed, RunHandle
from headway.config import Config, load
from headway_scheduler.testing.provider import Latency, Ledger, Limits, Settings, simulated_provider

CALLS_PER_TEAM = 3
LATENCY_SECONDS = 0.2
LIMITS = Limits(requests_per_minute=120, burst_seconds=10)
INFO: Any = {
    "vision": False,
    "function_calling": True,
    "json_output": True,
    "structured_output": True,
    "family": "unknown",
}


@dataclass
class Score:
    steps: Steps
    finished: int = 0
    wall_seconds: float = 0.0
    ledger: Ledger | None = None


def team(client: Any) -> RoundRobinGroupChat:
    agents = [AssistantAgent(name, client) for name in ("writer", "critic")]
    return RoundRobinGroupChat(
        agents, termination_condition=MaxMessageTermination(CALLS_PER_TEAM + 1)
    )


def configured(folder: str, base_url: str) -> Config:
    os.environ.setdefault("SIMULATED_KEY", "not-a-key")
    path = Path(folder) / "headway.toml"
    path.write_text(
        f"""
[quotas.small]
requests_per_minute = {LIMITS.requests_per_minute}
burst_seconds = {LIMITS.burst_seconds}

[models.sim]
base_url = "{base_url}"
api_key_env = "SIMULATED_KEY"
quotas = ["small"]
"""
    )
    return load(path)


async def ours(score: Score, teams: int) -> None:
    settings = Settings(limits=LIMITS, latency=Latency(base_seconds=LATENCY_SECONDS))
    with tempfile.TemporaryDirectory(dir=".") as folder:
        async with simulated_provider(settings) as provider:
            headway = Headway(configured(folder, provider.base_url))
            headway.workflow("pair")(lambda models: team(models("sim")))
            start = time.perf_counter()
            async with headway:
                handles = [await headway.start("pair", task=f"task {n}") for n in range(teams)]
                async with anyio.create_task_group() as group:
                    for handle in handles:
                        group.start_soon(count, handle, score)
            score.wall_seconds = time.perf_counter() - start
            score.ledger = provider.ledger


async def count(handle: RunHandle, score: Score) -> None:
    try:
        await handle.result()
    except RunFailed as error:
        print(error)
    else:
        score.finished += 1
    score.steps.step()


async def stock(score: Score, teams: int) -> None:
    settings = Settings(limits=LIMITS, latency=Latency(base_seconds=LATENCY_SECONDS))

    async def one(number: int) -> None:
        client = OpenAIChatCompletionClient(
            model="sim", base_url=provider.base_url, api_key="not-a-key", model_info=INFO
        )
        try:
            await team(client).run(task=f"task {number}")
        except Exception:  # of whatever type: the team has died, and that is what we count
            score.steps.step()
            return
        score.finished += 1
        score.steps.step()

    async with simulated_provider(settings) as provider:
        start = time.perf_counter()
        async with anyio.create_task_group() as group:
            for number in range(teams):
                group.start_soon(one, number)
        score.wall_seconds = time.perf_counter() - start
        score.ledger = provider.ledger


def show(name: str, score: Score, teams: int, floor_seconds: float) -> None:
    assert score.ledger is not None
    refused = sum(entry.status == 429 for entry in score.ledger.entries)
    excess = score.ledger.excess(LIMITS).requests
    print(
        f"{name:10}{score.finished:5} of {teams}{refused:8}{len(score.ledger.paid):8}"
        f"{score.wall_seconds:9.1f}{score.wall_seconds / floor_seconds:9.3f}{excess:9.1f}"
    )


async def main(teams: int) -> None:
    calls = teams * CALLS_PER_TEAM
    per_second = (LIMITS.requests_per_minute or 0) / 60
    floor_seconds = max(0.0, (calls - LIMITS.request_capacity) / per_second)
    floor_seconds = max(floor_seconds, CALLS_PER_TEAM * LATENCY_SECONDS)
    print(f"{teams} teams of {CALLS_PER_TEAM} calls; the limits allow {floor_seconds:.1f} s\n")
    logging.getLogger("autogen_core").setLevel(logging.CRITICAL)  # it prints each death at length
    steps = Steps(2 * teams, "teams")
    our_score, stock_score = Score(steps), Score(steps)
    async with anyio.create_task_group() as group:
        group.start_soon(ours, our_score, teams)
        group.start_soon(stock, stock_score, teams)
    print("           finished    429s    paid   wall s  / floor   excess")
    show("headway", our_score, teams, floor_seconds)
    show("stock", stock_score, teams, floor_seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teams", type=int, default=30)
    anyio.run(main, parser.parse_args().teams)

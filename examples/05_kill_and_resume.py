"""kill -9 a process in the middle of a run, and go on: what was answered is not paid again.

This script starts itself as a second process, which runs a team, and kills it after three answers.
Then it opens the same database and resumes the run. The receipt is computed from the journal.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat

from headway import Headway
from headway_scheduler.testing.provider import Latency, Settings, simulated_provider

CONFIG = """
[database]
path = "headway.db"
[quotas.small]
requests_per_minute = 600
[models.sim]
base_url = "{}"
quotas = ["small"]
api_key_env = "HOME"  # the simulated provider takes any key
"""


def talk(models):
    agents = [AssistantAgent(name, models("sim")) for name in ("writer", "critic")]
    return RoundRobinGroupChat(agents, termination_condition=MaxMessageTermination(7))


def opened(folder):
    headway = Headway(Path(folder) / "headway.toml")
    headway.workflow("talk")(talk)
    return headway  # on opening, it takes up what was interrupted


async def main(folder):
    async with simulated_provider(Settings(latency=Latency(0.3))) as provider:
        await anyio.Path(folder, "headway.toml").write_text(CONFIG.format(provider.base_url))
        async with await anyio.open_process([sys.executable, __file__, folder]) as process:
            while len(provider.ledger.paid) < 4:  # noqa: ASYNC110  another process is watched
                await anyio.sleep(0.01)
            process.kill()
        print(f"killed    {len(provider.ledger.paid)} calls were paid by then")
        async with opened(folder) as headway:
            (run,) = await headway.list_runs()
        async with opened(folder) as headway:
            print(f"{(await headway.get_run(run.id)).state}  {await headway.receipt(run.id)}")
        print(f"paid      {len(provider.ledger.paid)} calls in all, for 6 answers")


async def work(folder):
    async with opened(folder) as headway:
        await headway.run("talk", task="Explain the tides.")


if __name__ == "__main__":
    with TemporaryDirectory() as own:
        anyio.run(work, sys.argv[1]) if sys.argv[1:] else anyio.run(main, own)

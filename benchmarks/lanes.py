"""Interactive calls beside background calls for which the provider has no capacity.

    python -m benchmarks.lanes [--seconds 40]

The real thing over HTTP: 600 requests a minute, a bucket of half a second, and in each second nine
interactive calls within an instant. In the second round three background calls ask for flex as
well, and the simulated provider has no capacity for them as long as the round takes. Printed are
the waits of the interactive calls in both rounds, the requests by flex, and the refusals for the
rate. Bar: the mean within 10 % of that without.
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import anyio
from autogen_core.models import UserMessage
from autogen_ext.models.openai import OpenAIChatCompletionClient

from headway_agents import Model, RunScope, ScheduledClient
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.model.calls import Priority, ServiceLane
from headway_scheduler.model.quotas import Quota
from headway_scheduler.runtime.local import LocalScheduler
from headway_scheduler.testing.provider import (
    Fault,
    FaultKind,
    Limits,
    Settings,
    simulated_provider,
)

PER_SECOND = 9
BACKGROUND = 3
LIMITS = Limits(requests_per_minute=600, burst_seconds=2)
"""The provider lets more come at once than is stated: a refusal for the rate, which comes by chance
on a busy machine, would pause the quota and say nothing of lanes."""
CAPABLE: Any = {
    "vision": False,
    "function_calling": True,
    "json_output": True,
    "structured_output": True,
    "family": "unknown",
}


@dataclass
class Round:
    """One round: its background calls, and what was seen."""

    seconds: float
    background: int
    waits: list[float] = field(default_factory=list)
    by_flex: list[int] = field(default_factory=list)
    """The status of each request by flex."""
    refused: int = 0
    """How many requests were refused for their rate."""

    def fault(self, number: int, body: Any) -> Fault | None:
        """Refuse whatever asks for flex."""
        return Fault(FaultKind.NO_CAPACITY) if body.get("service_tier") == "flex" else None

    async def play(self) -> "Round":
        """Ask, second by second, until the round is over; then give the background calls up."""
        settings = Settings(limits=LIMITS, faults=self.fault)
        quotas = [Quota.per_minute("org", requests=600, burst_seconds=0.5), Quota("m/flex", ())]
        with TemporaryDirectory(prefix="headway-") as folder:
            async with (
                simulated_provider(settings) as provider,
                SqliteStore(Path(folder) / "headway.db") as store,
                LocalScheduler(store, quotas) as scheduler,
            ):
                inner = OpenAIChatCompletionClient(
                    model="m", api_key="no-key", base_url=provider.base_url, model_info=CAPABLE
                )
                await self._ask_all(ScheduledClient(inner, Model("m", ("org",))), scheduler)
                entries = provider.ledger.entries
                self.by_flex = [entry.status for entry in entries if entry.tier == "flex"]
                self.refused = sum(entry.why == "requests" for entry in entries)
                rows = [row for row in await store.calls("urgent") if row.admitted_at is not None]
                self.waits = [(row.admitted_at or 0) - row.call.submitted_at for row in rows]
                await inner.close()
        return self

    async def _ask_all(self, client: ScheduledClient, scheduler: LocalScheduler) -> None:
        flex = Model(
            "m",
            ("m/flex", "org"),
            lane=ServiceLane.FLEX,
            classes=(Priority.BACKGROUND,),
        )
        urgent = client.bound(RunScope(scheduler, "urgent", Priority.INTERACTIVE), "urgent")
        scope = RunScope(scheduler, "flex", Priority.BACKGROUND)
        scope.lane = ServiceLane.FLEX
        others = [(client.wrapped, flex, 0)]
        patient = ScheduledClient(client.wrapped, client.model, scope, path="w", others=others)
        async with anyio.create_task_group() as asked:
            async with anyio.create_task_group() as group:
                for number in range(self.background):
                    asked.start_soon(ask, patient, f"background {number}")
                for second in range(int(self.seconds)):
                    for number in range(PER_SECOND):
                        group.start_soon(ask, urgent, f"{second}.{number}")
                    await anyio.sleep(1)
            asked.cancel_scope.cancel()


async def ask(client: ScheduledClient, text: str) -> None:
    """Ask one question."""
    await client.create([UserMessage(content=text, source="user")])


def row(name: str, figures: Round) -> str:
    """Return a line of the table."""
    p50, p95 = (quantiles(figures.waits, n=20)[at] for at in (9, 18))
    worst, flex = max(figures.waits), len(figures.by_flex)
    return (
        f"{name:28}{len(figures.waits):9}{1000 * mean(figures.waits):9.1f}{1000 * p50:9.1f}"
        f"{1000 * p95:9.1f}{1000 * worst:9.1f}{flex:9}{figures.refused:9}"
    )


async def main() -> None:
    """Play both rounds and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=40.0)
    seconds = parser.parse_args().seconds
    alone = await Round(seconds, 0).play()
    beside = await Round(seconds, BACKGROUND).play()
    names = ("calls", "mean ms", "p50", "p95", "max", "by flex", "429s")
    print(f"{'waits of interactive calls':28}" + "".join(f"{name:>9}" for name in names))
    print(row("alone", alone))
    print(row(f"beside {BACKGROUND} without capacity", beside))
    print(f"mean beside / alone: {mean(beside.waits) / mean(alone.waits):.3f} (bar: 1.10)")


if __name__ == "__main__":
    anyio.run(main)

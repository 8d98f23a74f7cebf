"""Runs the plan on both sides at the same time, each against a simulated provider of its own.

The two sides share the noise of the machine, and nothing else: no provider and no limits.
"""

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import anyio

from headway_scheduler.testing.provider import Latency, Settings, simulated_provider

from ..testing import MODEL, SimulatedHeadway, simulated_headway
from .plan import URGENT, Arrival, Plan
from .report import Report, sum_up
from .side import Side
from .teams import answer, build, run_stock, stock_client

if TYPE_CHECKING:
    from autogen_core.models import ChatCompletionClient

PlayTeam = Callable[[Arrival], Awaitable[object]]
"""Runs one team to its end; raises if it dies."""


class Race:
    """Both sides. ``run`` once; the records can be read at any time.

    ``headway`` is set while it is open.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.ours: Side = Side("headway", plan)
        self.stock: Side = Side("stock", plan)
        self.headway: SimulatedHeadway | None = None

    async def run(self) -> None:
        """Play the plan on both sides, until the last team has finished or died."""
        plan = self.plan
        settings = Settings(plan.limits, Latency(plan.latency_seconds), answer)
        async with (
            simulated_headway(
                plan.limits, latency_seconds=plan.latency_seconds, reply=answer
            ) as self.headway,
            simulated_provider(settings) as provider,
            stock_client(provider.base_url) as client,
        ):
            self.ours.ledger = self.headway.provider.ledger
            self.stock.ledger = provider.ledger
            async with anyio.create_task_group() as group:
                group.start_soon(_play, self.ours, partial(self._play_ours, self.headway))
                group.start_soon(_play, self.stock, partial(self._play_stock, client))
            self.headway = None  # it is closing, and the screen must not ask it any more

    def report(self) -> Report:
        """Sum up, once the race is over."""
        return sum_up(self.plan.limits, self.ours, self.stock)

    async def _play_ours(self, headway: SimulatedHeadway, arrival: Arrival) -> None:
        recording = partial(self.ours.recording, arrival)
        headway.workflow(arrival.team)(
            lambda models: build(arrival.priority, models(MODEL), recording)
        )
        run = await headway.start(arrival.team, task=_task(arrival), priority=arrival.priority)
        await run.result()

    async def _play_stock(self, client: "ChatCompletionClient", arrival: Arrival) -> None:
        recording = partial(self.stock.recording, arrival)
        await run_stock(build(arrival.priority, client, recording), _task(arrival))


async def _play(side: Side, play_team: PlayTeam) -> None:
    """Start every team at its time, and wait until the last one has ended."""
    side.started_at = time.monotonic()
    async with anyio.create_task_group() as group:
        for arrival in side.plan.arrivals():
            group.start_soon(_play_one, side, arrival, play_team)


async def _play_one(side: Side, arrival: Arrival, play_team: PlayTeam) -> None:
    await anyio.sleep(arrival.at_seconds)
    record = side.arrive(arrival)
    try:
        await play_team(arrival)
    except Exception as error:  # of any type: the demo counts teams that died
        side.end(record, error)
    else:
        side.end(record, None)


def _task(arrival: Arrival) -> str:
    return "The shop is down." if arrival.priority is URGENT else f"Label page {arrival.team}."

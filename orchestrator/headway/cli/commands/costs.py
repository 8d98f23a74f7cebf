"""``headway costs``. Works beside a live process, and after it died."""

from argparse import Namespace
from dataclasses import asdict

import anyio

from headway_scheduler.model.formulas import dollars
from headway_scheduler.model.states import IN_FLIGHT

from ...config import Config, load
from ...pricing.costs import Cost, added_up
from ...pricing.prices import Prices
from ..database import reading
from ..output import complain, say, say_json, table
from ..text import counted


def show(args: Namespace) -> int:
    """Say what was spent."""
    costs = anyio.run(_read, load(args.config), args.by, args.since)
    if args.json:
        say_json([asdict(cost) for cost in costs])
        return 0
    headers = (args.by.upper(), "CALLS", "IN", "CACHED", "OUT", "COST", "SAVED", "POSSIBLY PAID")
    say(table(headers, [_row(cost) for cost in costs]))
    return 0


async def _read(config: Config, by: str, since_seconds: float | None) -> list[Cost]:
    async with reading(config) as reader:
        if not reader.is_held:
            calls = (await reader.store.snapshot()).calls
            if cut_off := sum(record.state in IN_FLIGHT for record in calls):
                were = "was" if cut_off == 1 else "were"
                complain(
                    f"{counted(cut_off, 'call')} {were} in flight when the last process died: "
                    "possibly paid, and counted so once Headway is started again"
                )
        since = 0.0 if since_seconds is None else reader.now - since_seconds
        return added_up(await reader.store.spent(by, since), Prices(config))


def _row(cost: Cost) -> tuple[str, ...]:
    lost = f"{cost.possibly_paid:,}" if cost.possibly_paid else "-"
    counts = (cost.input_tokens, cost.cached_tokens, cost.output_tokens)
    tokens = (f"{count:,}" for count in counts)
    saved = dollars(cost.saved_usd) if cost.saved_usd else "-"
    return cost.key or "(no run)", f"{cost.calls:,}", *tokens, _dollars(cost), saved, lost


def _dollars(cost: Cost) -> str:
    unknown = f"{cost.unpriced:,} of unknown price" if cost.unpriced else ""
    if cost.usd is None:
        return unknown
    bound = "at most " if cost.at_most else ""
    return f"{bound}{dollars(cost.usd)}{' and ' if unknown else ''}{unknown}"

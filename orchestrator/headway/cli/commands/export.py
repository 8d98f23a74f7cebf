"""``headway runs export``."""

import json
from argparse import Namespace
from typing import Any

import anyio

from ...config import Config, load
from ...pricing.prices import Prices
from ...runs.export import exported
from ...runs.stopped import find_run
from ..database import reading
from ..files import check_writable, write_private
from ..json_views import call_facts, run_facts
from ..output import say_json
from ..selection import selected


def export(args: Namespace) -> int:
    """Write a run as one JSON object, several as a list: transcript, calls, prompts, costs."""
    if args.output is not None:
        check_writable(args.output)
    config = load(args.config)
    found = [anyio.run(_read, config, run.id) for run in selected(args)]
    data = found[0] if len(args.ids) == 1 else found
    if args.output is None:
        say_json(data)
        return 0
    write_private(args.output, json.dumps(data, indent=2))
    return 0


async def _read(config: Config, run_id: str) -> dict[str, Any]:
    async with reading(config) as reader:
        run = await find_run(reader.store, run_id)
        run = reader.as_it_is(run)
        data = await exported(reader.store, run, Prices(config).usd_of)
        facts = [call_facts(record, reader.now) for record in data.records]
        answers = (record.answer for record in data.records)
        calls = [
            {
                **fact,
                "answer": None if text is None else json.loads(text),
                "prompt": prompt,
                "usd": usd,
            }
            for fact, text, prompt, usd in zip(
                facts, answers, data.prompts, data.costs, strict=True
            )
        ]
        return {
            "run": run_facts(run),
            "messages": data.messages,
            "chunks": data.chunks,
            "calls": calls,
            "receipt": data.receipt,
        }

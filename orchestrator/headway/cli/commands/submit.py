"""``headway submit``."""

from argparse import Namespace

import anyio

from headway_scheduler.model.runs import Run

from ...api import Headway
from ..files import given_task
from ..json_views import run_facts
from ..output import say, say_json
from .run import options_of


def submit(args: Namespace) -> int:
    """Queue a run and print its id: ``headway work`` takes it."""
    args.task = given_task(args.task)
    run = anyio.run(_submit, args)
    if args.json:
        say_json(run_facts(run))
    else:
        say(run.id)
    return 0


async def _submit(args: Namespace) -> Run:
    async with Headway(args.config) as headway:
        handle = await headway.submit(
            args.workflow,
            task=args.task,
            priority=args.priority,
            key=args.key,
            **options_of(args),
        )
        return handle.run

"""``headway top``: the whole system at a glance, beside whatever process works on it."""

import os
import sys
from argparse import Namespace
from typing import Any

import anyio

from headway_scheduler.model.calls import Priority
from headway_scheduler.model.data import asdict

from ...config import load
from ..json_views import call_facts, run_facts
from ..output import say, say_json
from ..top.look import Dashboard, look


def top(args: Namespace) -> int:
    """Show the dashboard, again and again on a terminal, else once."""
    config = load(args.config)
    if args.json:
        say_json(_facts(anyio.run(look, config)))
        return 0
    if not args.once and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        from ..top.app import watch

        anyio.run(watch, config, args.config, args.limit)
        return 0
    from ..top.parts import plain
    from ..top.picture import Selection, draw

    say(plain(draw(anyio.run(look, config), Selection(), None, None, args.limit).lines))
    return 0


def _facts(dashboard: Dashboard) -> dict[str, Any]:
    queue, now, past, counts = dashboard.queue, dashboard.now, dashboard.past, dashboard.statistics
    waiting = zip(Priority, counts.waiting, strict=True)
    return {
        "is_held": dashboard.leader is not None,
        "waiting": {each.label: count for each, count in waiting},
        "parked": counts.parked,
        "in_flight": queue.in_flight,
        "limits": [{**gauge._asdict(), "resource": str(gauge.resource)} for gauge in counts.gauges],
        "refused_last_minute": dict(past.refused),
        "ended_last_minute": {name: asdict(ended) for name, ended in past.ended.items()},
        "waited_p95_seconds": {each.label: seconds for each, seconds in past.p95.items()},
        "waiting_by_minute": {each.label: list(past.crowds.get(each, ())) for each in Priority},
        "holds": [
            {"target": each.target, "state": each.state, "since": each.since}
            for each in dashboard.holds
        ],
        "questions": [
            {"run_id": each.run.id, "call_id": each.call.call.id, "text": each.text}
            for each in dashboard.questions
        ],
        "calls": [call_facts(record, now) for record in queue.calls],
        "workers": [
            {
                **asdict(each.worker),
                "runs": each.runs,
                "leads": each.leads,
                "silent_seconds": each.silent_seconds,
            }
            for each in dashboard.workers
        ],
        "runs": [run_facts(run) for run in dashboard.runs],
        "unreadable": [row._asdict() for row in dashboard.unreadable],
    }

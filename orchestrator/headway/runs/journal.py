"""Reads the recorded answers of a run. Law of this file: it changes nothing.

A run that was forked from another, or continues it, begins with that run's answers. They are not
copied: ``Run.parent`` leads to them.
"""

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING

from headway_scheduler.model.calls import CallRecord
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import CallState
from headway_scheduler.ports import Store

if TYPE_CHECKING:
    from headway_agents import Journal


async def inherited_answers(store: Store, run: Run) -> list[CallRecord]:
    """Return the answers of the runs that ``run`` began as a copy of, in no order."""
    found: list[CallRecord] = []
    until = inf
    while run.parent is not None:
        until = min(until, inf if run.parent_until is None else run.parent_until)
        found += [row for row in await store.calls(run.parent) if _is_before(row, until)]
        parent = await store.run(run.parent)
        if parent is None:
            break
        run = parent
    return found


async def journal_of(
    store: Store, run: Run, *, retry_failed: bool = False, unknown_waits: bool = False
) -> "Journal":
    """Return the journal of ``run`` for its next attempt: see ``headway_agents.Journal``."""
    from headway_agents import Journal

    inherited = await inherited_answers(store, run)
    own = await store.calls(run.id)
    by_order = await _has_other_task(store, run)
    return Journal(
        own, inherited, retry_failed=retry_failed, unknown_waits=unknown_waits, by_order=by_order
    )


def answered(records: Sequence[CallRecord]) -> list[CallRecord]:
    """Return the calls and steps whose answers a replay gives back, by arrival."""
    done = [row for row in records if row.state is CallState.DONE and row.arrival is not None]
    return sorted(done, key=lambda row: row.arrival or 0)


async def _has_other_task(store: Store, run: Run) -> bool:
    """Whether a fork has a task of its own: then its prompts differ from its parent's."""
    if run.parent is None or run.parent_until is None:
        return False
    parent = await store.run(run.parent)
    return parent is not None and (parent.task, parent.history) != (run.task, run.history)


def _is_before(row: CallRecord, until: float) -> bool:
    return row.state is CallState.DONE and row.arrival is not None and row.arrival < until

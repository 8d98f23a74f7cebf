"""What the recorded answers of a run are for: its next attempt, and its result.

Law of this file: nothing is changed, and an answer's text is kept once.

A run that was forked from another, or continues it, begins with that run's answers. They are not
copied: ``Run.parent`` leads to them.

A result holds the team's messages, and most of them repeat an answer. Such a message is kept
without its content, and ``refs`` names the call that has it. References lead only to calls of the
run itself, which are deleted together with the run: neither pruning nor copies can part a reference
from its text. A result without ``refs`` is whole.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from math import inf
from typing import TYPE_CHECKING, Any

from headway_scheduler.errors import StoreCorrupt
from headway_scheduler.model.calls import CallRecord
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import CallState
from headway_scheduler.ports import Store

if TYPE_CHECKING:
    from headway_agents import Journal


SHORT_TEXT = 64
"""Texts of at most as many characters are kept twice: a reference is no shorter."""
_FIELDS = ("content", "thought")
Ref = tuple[int, str, str]
"""The message's index, the call that has its content, and in which field of its answer."""


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
    is_batched = any(record.state is CallState.BATCHED for record in own)
    return Journal(
        own,
        inherited,
        retry_failed=retry_failed,
        unknown_waits=unknown_waits,
        by_order=by_order,
        batch_answers=await store.batch_answers(run.id) if is_batched else {},
    )


def answered(records: Sequence[CallRecord]) -> list[CallRecord]:
    """Return the calls and steps whose answers a replay gives back, by arrival."""
    done = [row for row in records if row.state is CallState.DONE and row.arrival is not None]
    return sorted(done, key=lambda row: row.arrival or 0)


def packed(text: str, records: Iterable[CallRecord]) -> str:
    """Return a result without the texts that ``records``, calls of its run, have already."""
    data = json.loads(text)
    known = {said: (call_id, field) for call_id, field, said in _texts(records)}
    refs: list[Ref] = []
    for index, message in enumerate(data["messages"]):
        content = message.get("content")
        if isinstance(content, str) and content in known:
            refs.append((index, *known[content]))
            del message["content"]
    if refs:
        data["refs"] = refs
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def unpacked(text: str, records: Iterable[CallRecord]) -> dict[str, Any]:
    """Return the result as it was dumped: ``stop_reason`` and ``messages``. Raises StoreCorrupt."""
    data: dict[str, Any] = json.loads(text)
    refs: list[Ref] = data.pop("refs", [])
    known = {(call_id, field): said for call_id, field, said in _texts(records)} if refs else {}
    for index, call_id, field in refs:
        if (call_id, field) not in known:
            raise StoreCorrupt(
                f"call {call_id} has a text of its run's result, and is gone: bring back a backup"
            )
        data["messages"][index]["content"] = known[call_id, field]
    return data


async def _has_other_task(store: Store, run: Run) -> bool:
    """Whether a fork has a task of its own: then its prompts differ from its parent's."""
    if run.parent is None or run.parent_until is None:
        return False
    parent = await store.run(run.parent)
    return parent is not None and (parent.given, parent.history) != (run.given, run.history)


def _is_before(row: CallRecord, until: float) -> bool:
    return row.state is CallState.DONE and row.arrival is not None and row.arrival < until


def _texts(records: Iterable[CallRecord]) -> Iterator[tuple[str, str, str]]:
    """Yield every long text of an answer: call, field, text."""
    for record in records:
        if record.call.kind != "model" or record.state is not CallState.DONE:
            continue
        answer = json.loads(record.answer or "{}")
        for field in _FIELDS:
            said = answer.get(field)
            if isinstance(said, str) and len(said) > SHORT_TEXT:
                yield record.call.id, field, said

"""Packs the result of a run for its row. Law of this file: an answer's text is kept once.

Theory of operation. A result holds the team's messages, and most of them repeat an answer in the
run's journal. Such a message is kept without its content, and ``refs`` names the call that has it.
References lead only to calls of the run itself, which are deleted together with the run: neither
pruning nor copies can part a reference from its text. A result without ``refs`` is whole.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from headway_scheduler.errors import StoreCorrupt
from headway_scheduler.model.calls import CallRecord
from headway_scheduler.model.states import CallState

SHORT_TEXT = 64
"""Texts of at most as many characters are kept twice: a reference is no shorter."""
_FIELDS = ("content", "thought")
Ref = tuple[int, str, str]
"""The message's index, the call that has its content, and in which field of its answer."""


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

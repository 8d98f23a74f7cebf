"""What one process asks of another, as text and back. Law of this file: no I/O of its own.

A letter is the name of a verb of ``Steering`` and its values. The answer is ``done``, or the class
and the words of an error; whoever asked raises it as if it had happened there.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from typing import Any

from headway_scheduler.errors import CallerError, HeadwayError, InternalError, StoreError
from headway_scheduler.model import Priority, Run
from headway_scheduler.states import RunState

from .steering import Steering

DONE = json.dumps("done")

LASTING = frozenset({"cancel", "pause"})
"""Verbs that may wait for the end of a run: others are carried out meanwhile."""


def letter(verb: str, **values: Any) -> str:
    """Write down what is asked. Raises CallerError for what JSON does not have."""
    plain = {name: _plain(value) for name, value in values.items()}
    try:
        return json.dumps({"verb": verb, **plain})
    except (TypeError, ValueError) as error:
        raise CallerError(f"what another process is asked must be JSON: {error}") from None


def verb_of(event: str) -> str:
    """The verb of a letter; empty if it is none."""
    try:
        return str(json.loads(event)["verb"])
    except (ValueError, TypeError, KeyError):
        return ""


async def carry_out(event: str, steering: Steering) -> None:
    """Do what a letter asks. Raises what the verb does; InternalError for a letter that is none."""
    verb = verb_of(event)
    if verb not in _VERBS:
        raise InternalError(f"a letter asks for {verb!r}: another version of Headway wrote it")
    values = json.loads(event)
    del values["verb"]
    if "run" in values:
        values["run"] = _run(values["run"])
    if "priority" in values:
        values["priority"] = Priority(values["priority"])
    await getattr(steering, verb)(**values)


def refusal(error: Exception) -> str:
    """The answer that an error is."""
    return json.dumps([type(error).__name__, str(error)])


def error_of(answer: str) -> HeadwayError | None:
    """The error that an answer is; None if it is done."""
    if answer == DONE:
        return None
    name, text = json.loads(answer)
    return _ERRORS.get(name, HeadwayError)(text)


_VERBS = frozenset(name for name in vars(Steering) if not name.startswith("_"))


def _family(kind: type[HeadwayError]) -> Iterator[type[HeadwayError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _family(child)


_ERRORS: Mapping[str, type[HeadwayError]] = {
    kind.__name__: kind
    for root in (CallerError, StoreError, InternalError)
    for kind in _family(root)
}


def _plain(value: Any) -> Any:
    if isinstance(value, Run):
        return asdict(value)
    return dict(value) if isinstance(value, Mapping) else value


def _run(values: Mapping[str, Any]) -> Run:
    known = {each.name: values[each.name] for each in fields(Run) if each.name in values}
    known |= {"priority": Priority(values["priority"]), "state": RunState(values["state"])}
    return Run(**{**known, "history": tuple(values["history"])})

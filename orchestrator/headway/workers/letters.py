"""What one process asks of another, as text and back. Law of this file: no I/O of its own.

A letter is the name of a verb of ``Commands`` and its values. The answer is ``done``, or the change
that was made, or the class and the words of an error; whoever asked raises it as if it had happened
there.
"""

import json
from typing import Any, get_type_hints

import msgspec

from headway_scheduler.errors import CallerError, InternalError
from headway_scheduler.model.changes import Change
from headway_scheduler.protocol.codec import error_of, error_text

from .leader_commands import Commands

DONE = "done"

LASTING = frozenset({"cancel", "pause"})
"""Verbs that may wait for the end of a run: others are carried out meanwhile."""

_VERBS = frozenset(name for name in vars(Commands) if not name.startswith("_"))


def letter(verb: str, **values: Any) -> str:
    """Write down what is asked. Raises CallerError for what JSON does not have."""
    try:
        return json.dumps({"verb": verb, **msgspec.to_builtins(values)})
    except (TypeError, ValueError) as error:
        raise CallerError(f"what another process is asked must be JSON: {error}") from None


def verb_of(event: str) -> str:
    """The verb of a letter; empty if it is none."""
    try:
        return str(json.loads(event)["verb"])
    except (ValueError, TypeError, KeyError):
        return ""


async def carry_out(event: str, commands: Commands) -> Change | None:
    """Do what a letter asks, and return what an operator changed by it.

    Raises what the verb does; InternalError for a letter that is none.
    """
    verb = verb_of(event)
    if verb not in _VERBS:
        raise InternalError(f"a letter asks for {verb!r}: another version of Headway wrote it")
    values = json.loads(event)
    del values["verb"]
    types = get_type_hints(getattr(Commands, verb))
    change: Change | None = await getattr(commands, verb)(
        **{name: msgspec.convert(value, types[name]) for name, value in values.items()}
    )
    return change


def refusal(error: Exception) -> str:
    """The answer that an error is."""
    return json.dumps(error_text(error))


def done(change: Change | None = None) -> str:
    """The answer that a letter was carried out, and what an operator changed by it."""
    return json.dumps(DONE if change is None else msgspec.to_builtins(change))


def outcome_of(answer: str) -> Change | None:
    """What an operator changed, if an answer says so. Raises the error that it is."""
    written = json.loads(answer)
    if written == DONE:
        return None
    if isinstance(written, dict):
        return msgspec.convert(written, Change)
    raise error_of(written)

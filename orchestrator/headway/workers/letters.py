"""What one process asks of another, as text and back. Law of this file: no I/O of its own.

A letter is the name of a verb of ``Steering`` and its values. The answer is ``done``, or the class
and the words of an error; whoever asked raises it as if it had happened there.
"""

import json
from typing import Any, get_type_hints

import msgspec

from headway_scheduler.errors import CallerError, HeadwayError, InternalError
from headway_scheduler.protocol.codec import error_of as error_written
from headway_scheduler.protocol.codec import error_text

from .leader_commands import Steering

DONE = json.dumps("done")

LASTING = frozenset({"cancel", "pause"})
"""Verbs that may wait for the end of a run: others are carried out meanwhile."""

_VERBS = frozenset(name for name in vars(Steering) if not name.startswith("_"))


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


async def carry_out(event: str, steering: Steering) -> None:
    """Do what a letter asks. Raises what the verb does; InternalError for a letter that is none."""
    verb = verb_of(event)
    if verb not in _VERBS:
        raise InternalError(f"a letter asks for {verb!r}: another version of Headway wrote it")
    values = json.loads(event)
    del values["verb"]
    types = get_type_hints(getattr(Steering, verb))
    await getattr(steering, verb)(
        **{name: msgspec.convert(value, types[name]) for name, value in values.items()}
    )


def refusal(error: Exception) -> str:
    """The answer that an error is."""
    return json.dumps(error_text(error))


def error_of(answer: str) -> HeadwayError | None:
    """The error that an answer is; None if it is done."""
    return None if answer == DONE else error_written(json.loads(answer))

"""Checks what callers pass. Law of this file: a wrong value is refused where it comes in.

Behind this door values meet the scheduler of all runs, and a row that a database refuses. Each
check returns the value; it raises CallerError, which names the argument and what is permitted.
"""

import sys
from collections.abc import Mapping
from math import isfinite
from typing import Any

from headway_scheduler.errors import CallerError
from headway_scheduler.model.calls import Priority, ServiceLane
from headway_scheduler.model.runs import Task

from .config.keys import LANES, parse_priority

LONGEST_NAME = 500
"""The most characters of a key, and of the name of a team or a workflow."""

LONGEST_TEXT = 16_000_000
"""The most characters of a task, of a person's words, and of a run's parameters as JSON."""


def text(argument: str, value: object, *, most: int = LONGEST_NAME, least: int = 1) -> str:
    """Check a text of ``least`` to ``most`` characters, all of them whole."""
    if not isinstance(value, str):
        raise CallerError(f"{argument} must be a text, not {_spoken(value)}")
    if not least <= len(value) <= most:
        raise CallerError(
            f"{argument} must have {least:,} to {most:,} characters, not {len(value):,}"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise CallerError(
            f"{argument} has half of a surrogate pair at character {error.start}: "
            "text.encode('utf-8', 'replace').decode() removes it"
        ) from None
    return value


def long_text(argument: str, value: object) -> str:
    """Check a text for a model or of a person, which may be empty."""
    return text(argument, value, most=LONGEST_TEXT, least=0)


def task(value: object) -> Task:
    """Check a task: a text, one of AutoGen's messages, or a list of them."""
    if isinstance(value, str):
        return Task(long_text("task", value))
    if "autogen_agentchat.messages" not in sys.modules:  # then nobody can have made one
        permitted = "a text, one of AutoGen's messages, or a list of them"
        raise CallerError(f"task must be {permitted}, not {_spoken(value)}")
    from headway_agents import dump_task

    found = dump_task(value)
    long_text("task", found.text)
    long_text("the task's messages as JSON", found.messages)
    return found


def amount(argument: str, value: object, *, least: float | None = None) -> float:
    """Check a finite number above 0, or from ``least``: of seconds, dollars or shares."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = float("inf")
        if isfinite(number) and (number > 0 if least is None else number >= least):
            return number
    bound = "above 0" if least is None else f"from {least:g}"
    raise CallerError(f"{argument} must be a finite number {bound}, not {_spoken(value)}")


def mapping(argument: str, value: object) -> Mapping[str, Any]:
    """Check a mapping, such as a dict."""
    if isinstance(value, Mapping):
        return value
    raise CallerError(f"{argument} must be a mapping, not {_spoken(value)}")


def count(argument: str, value: object, *, least: int = 0) -> int:
    """Check a whole number of at least ``least``."""
    # A number above 2^63 - 1 is refused by SQL, and nothing here counts as far.
    if type(value) is int and least <= value < 2**63:
        return value
    raise CallerError(f"{argument} must be a whole number from {least}, not {_spoken(value)}")


def priority(value: object) -> Priority:
    """Check the class of calls, or read the word for it."""
    if isinstance(value, Priority):
        return value
    if isinstance(value, str):
        return parse_priority(value)
    words = ", ".join(repr(each.label) for each in Priority)
    raise CallerError(
        f"priority must be a headway.Priority or one of {words}, not {_spoken(value)}. Numbers "
        "mean different things elsewhere: LiteLLM's 0 is the most urgent, as 'interactive' is here"
    )


def lane(value: object) -> ServiceLane:
    """Check the lane of a run, or read the word for it."""
    permitted = (ServiceLane.STANDARD.value, *LANES)
    if isinstance(value, str) and value in permitted:
        return ServiceLane(value)
    raise CallerError(f"lane must be one of {', '.join(permitted)}, not {_spoken(value)}")


def _spoken(value: object) -> str:
    if value is None or isinstance(value, str | int | float):
        said = repr(value[:100]) if isinstance(value, str) else str(value)[:100]
        return f"the text {said}" if isinstance(value, str) else said
    return f"a {type(value).__name__}"

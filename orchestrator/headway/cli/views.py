"""Shows a watched run: as JSON lines, plain lines, or on a terminal with a status line.

Law of this file: no text of a model breaks a view: an object stays one line, a message has all its
lines but the first indented, and none has control characters.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, is_dataclass
from typing import Any, Protocol, Self

from msgspec import structs

from headway_scheduler.model.calls import Priority, Usage

from .output import complain, one_line, say, say_json
from .text import indented, is_message


class View(Protocol):
    """Shows events, while it is open. ``every_seconds`` is how often it wants a status."""

    every_seconds: float
    is_live: bool
    """Whether a status replaces the one before."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it was found."""

    def show(self, run_id: str, event: Any) -> None:
        """Take an event of Headway or a message of AutoGen."""

    def status(self, text: str) -> None:
        """Take a line that says how things stand."""

    def asking(self) -> AbstractContextManager[None]:
        """Keep out of the way while a person types."""


def new_view(*, as_json: bool, several_runs: bool, shows_messages: bool = True) -> View:
    """Make the view that fits the options and where stdout leads."""
    if as_json:
        return JsonLines()
    if not shows_messages:
        return PlainLines(several_runs=several_runs, shows_messages=False)
    is_plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    if is_plain or not sys.stdout.isatty():
        return PlainLines(several_runs=several_runs)
    from .terminal import Terminal

    return Terminal(several_runs=several_runs)


class JsonLines:
    """Prints every event and message as one JSON object a line."""

    every_seconds: float = 60.0
    is_live: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def show(self, run_id: str, event: Any) -> None:
        """Print an event or a message."""
        say_json(_as_object(run_id, event), indent=None)
        sys.stdout.flush()

    def status(self, text: str) -> None:
        """Do nothing: a reader of the events can count itself."""

    def asking(self) -> AbstractContextManager[None]:
        """Do nothing: the question is on stderr."""
        return nullcontext()


class PlainLines:
    """Prints the messages on stdout, if wanted, and the status now and then on stderr."""

    every_seconds: float = 5.0
    is_live: bool = False

    def __init__(self, *, several_runs: bool, shows_messages: bool = True) -> None:
        self._several_runs = several_runs
        self._shows_messages = shows_messages
        self._said = ""
        self._is_asking = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def show(self, run_id: str, event: Any) -> None:
        """Print a message."""
        if is_message(event) and self._shows_messages:
            prefix = f"{run_id} " if self._several_runs else ""
            say(f"{prefix}{one_line(event.source)}: {indented(event.to_text())}")
            sys.stdout.flush()

    def status(self, text: str) -> None:
        """Print the status if it has changed: a worker may have nothing to do for days."""
        if text != self._said and not self._is_asking:
            self._said = text
            complain(one_line(text), "info")

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Print no status while a person types."""
        self._is_asking = True
        try:
            yield
        finally:
            self._is_asking = False


def _as_object(run_id: str, event: Any) -> dict[str, Any]:
    if is_dataclass(event) and not isinstance(event, type):
        facts = asdict(event)
        if isinstance(facts.get("priority"), Priority):
            facts["priority"] = facts["priority"].label
        if isinstance(usage := facts.get("usage"), Usage):
            facts["usage"] = structs.asdict(usage)
        return {"event": type(event).__name__.lower(), **facts}
    # As AutoGen writes it: bytes, dates and images become text.
    message = json.loads(event.model_dump_json())
    return {"event": "message", "run_id": run_id, "message": message}

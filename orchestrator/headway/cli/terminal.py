"""Shows a run on a terminal: messages as they come, and one status line below them.

Theory of operation. An answer that a model streams is shown piece by piece, as AutoGen's Console
does. The status line is away meanwhile: the cursor stands in the middle of the answer. Agents that
speak at the same time must not mix in one line. So one answer is streamed at a time, and the
messages of the others are held back until it has ended.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from rich.console import Console
from rich.text import Text

from ..runs.events import Ended, Retrying
from .output import one_line
from .text import indented, is_chunk, is_message


class Terminal:
    """Messages scroll, the status line stays. Text is never read as markup."""

    every_seconds: float = 0.5
    is_live: bool = True

    def __init__(self, *, several_runs: bool) -> None:
        self._several_runs = several_runs
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._status = self._console.status(Text("starting"))
        self._streamed: _Streamed | None = None
        self._is_asking = False
        self._held: list[tuple[str, Any]] = []
        self._missed: set[str | None] = set()

    def __enter__(self) -> Self:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end_stream()
        self._status.stop()

    def show(self, run_id: str, event: Any) -> None:
        """Print a message above the status line, or a piece of one."""
        if is_chunk(event):
            if not self._several_runs:
                self._print_piece(run_id, event)
        elif isinstance(event, Ended):
            self._end_stream()
        elif not is_message(event):
            if isinstance(event, Retrying) and self._streamed is not None:
                self._streamed.is_cut_off |= event.agent.endswith(self._streamed.source)
        elif self._streamed is None:
            self._print_or_hold(run_id, event)
        elif event.source != self._streamed.source:
            self._held.append((run_id, event))
        else:
            is_shown = self._streamed.is_all_of(event)
            self._end_stream()
            if not is_shown:
                self._print_or_hold(run_id, event)

    def status(self, text: str) -> None:
        """Replace the status line."""
        self._status.update(Text(one_line(text), no_wrap=True, overflow="ellipsis"))

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Show nothing while a person types; what is said meanwhile follows."""
        self._end_stream()
        self._status.stop()
        self._is_asking = True
        try:
            yield
        finally:
            self._is_asking = False
            self._print_held()
            self._status.start()

    def _print_or_hold(self, run_id: str, message: Any) -> None:
        if self._is_asking:
            self._held.append((run_id, message))
        else:
            self._print(run_id, message)

    def _print(self, run_id: str, message: Any) -> None:
        self._missed.discard(message.id)
        text = Text.assemble(self._head(run_id, message), indented(message.to_text()))
        self._console.print(text, soft_wrap=True)

    def _print_piece(self, run_id: str, chunk: Any) -> None:
        is_other = self._streamed is not None and self._streamed.id != chunk.full_message_id
        if self._is_asking or is_other or chunk.full_message_id in self._missed:
            self._missed.add(chunk.full_message_id)  # it is shown when it has come whole
            return
        if self._streamed is not None and self._streamed.is_cut_off:
            self._end_stream()  # the call was sent again, and streams its answer anew
        if self._streamed is None:
            self._status.stop()
            self._streamed = _Streamed(chunk.source, chunk.full_message_id)
            self._console.print(Text.assemble(self._head(run_id, chunk)), end="", soft_wrap=True)
        piece = Text(indented(self._streamed.whole_lines(chunk.content)))
        self._console.print(piece, end="", soft_wrap=True)

    def _head(self, run_id: str, event: Any) -> tuple[str, str]:
        prefix = f"{run_id} " if self._several_runs else ""
        return f"{prefix}{one_line(event.source)}: ", "bold"

    def _end_stream(self) -> None:
        if self._streamed is None:
            return
        self._streamed = None
        self._console.print()
        self._print_held()
        self._status.start()

    def _print_held(self) -> None:
        held, self._held = self._held, []
        for run_id, message in held:
            self._print(run_id, message)


class _Streamed:
    """An answer of which pieces were printed."""

    def __init__(self, source: str, message_id: str | None) -> None:
        self.source = source
        self.id = message_id
        self.is_cut_off = False
        self._text = ""
        self._kept = ""

    def whole_lines(self, piece: str) -> str:
        r"""Take a piece in, and return what can be printed: the ``\r`` of a line end waits."""
        self._text += piece
        piece = self._kept + piece
        self._kept = "\r" if piece.endswith("\r") else ""
        return piece.removesuffix("\r")

    def is_all_of(self, message: Any) -> bool:
        """Whether a message has been printed: a thought of the agent has the same text."""
        is_same: bool = message.id == self.id or message.to_text().strip() == self._text.strip()
        return is_same

"""Shows a run on a terminal: messages as they come, and one status line below them."""

from typing import Any, Self

from rich.console import Console
from rich.text import Text

from .output import one_line
from .text import indented, is_message


class Terminal:
    """Messages scroll, the status line stays. Text is never read as markup."""

    every_seconds: float = 0.5
    is_live: bool = True

    def __init__(self, *, several_runs: bool) -> None:
        self._several_runs = several_runs
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._status = self._console.status(Text("starting"))

    def __enter__(self) -> Self:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def show(self, run_id: str, event: Any) -> None:
        """Print a message above the status line."""
        if is_message(event):
            prefix = f"{run_id} " if self._several_runs else ""
            head = f"{prefix}{one_line(event.source)}: "
            text = Text.assemble((head, "bold"), indented(event.to_text()))
            self._console.print(text, soft_wrap=True)

    def status(self, text: str) -> None:
        """Replace the status line."""
        self._status.update(Text(one_line(text), no_wrap=True, overflow="ellipsis"))

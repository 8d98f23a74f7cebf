"""Draws bars, sparklines and columns as pieces of text with styles. Law of this file: pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size

from ..output import one_line

Line = list[tuple[str, str]]
"""A line of the screen: texts, each with its style, which may be empty."""

EIGHTHS = " ▏▎▍▌▋▊▉█"
HEIGHTS = " ▁▂▃▄▅▆▇█"
WIDE_GAP, NARROW_GAP = "  ", " "
NARROW = 100
"""Screens narrower than this have no room to spare."""
LEAST_WIDTH = 6
"""No column becomes narrower than this."""


HEAD, DIM, BAD, ODD, GOOD = "bold", "dim", "bold red", "yellow", "green"
"""Styles: of heads, of what is said aside, of what is wrong, odd and well."""


class Cell(NamedTuple):
    """A text in a column, with its style."""

    text: str
    style: str = ""


@dataclass(slots=True)
class Section:
    """A table of the screen: its head, its rows, their ids, and how few of them are shown."""

    head: Line
    rows: list[Line]
    least: int
    turn: int
    """Its place among the sections when room is left: 0 for the one that grows first."""
    ids: list[str] = field(default_factory=list[str])


def bar(share: float, width: int) -> str:
    """Draw a ``share`` between 0 and 1 of ``width`` characters, to an eighth of a character."""
    eighths = round(min(1.0, max(0.0, share)) * width * 8)
    whole, rest = divmod(eighths, 8)
    drawn = "█" * whole + (EIGHTHS[rest] if rest else "")
    return drawn + "░" * (width - len(drawn))


def sparkline(values: Sequence[int], width: int) -> str:
    """Draw the last ``width`` values as columns; the highest fills its character, 0 is blank."""
    shown = values[-width:] if width > 0 else ()
    most = max(shown, default=0)
    return "".join(HEIGHTS[-(-8 * value // most) if most else 0] for value in shown)


def columns(
    rows: Sequence[Sequence[Cell]],
    width: int | None,
    *,
    right: Collection[int] = (),
    shrinks: Sequence[int] = (),
) -> list[Line]:
    """Align rows, the first of which is the head, to at most ``width``; None for as it comes.

    Columns named by ``right`` end together. Where there is too little room, columns named by
    ``shrinks`` are cut, in their order, and the last one at the end.
    """
    cells = [[Cell(one_line(cell.text), cell.style) for cell in row] for row in rows]
    widths = [max(cell_len(cell.text) for cell in column) for column in zip(*cells, strict=True)]
    gap = WIDE_GAP if width is None or width >= NARROW else NARROW_GAP
    if width is not None:
        excess = sum(widths) + len(gap) * (len(widths) - 1) - width
        for place in (*shrinks, len(widths) - 1):
            taken = max(0, min(excess, widths[place] - LEAST_WIDTH))
            widths[place], excess = widths[place] - taken, excess - taken
    return [
        [
            part
            for place, cell in enumerate(row)
            for part in (
                (gap if place else "", ""),
                (_fitted(cell.text, widths[place], place in right), cell.style),
            )
        ]
        for row in cells
    ]


def cut(text: str, width: int) -> str:
    """Cut a text to ``width`` characters, the last of which says that it was cut."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(0, width - 1)).rstrip() + "…"


def _fitted(text: str, width: int, is_right: bool) -> str:
    text = cut(text, width)
    space = " " * (width - cell_len(text))
    return space + text if is_right else text + space


def plain(lines: Sequence[Line]) -> str:
    """Return lines without their styles."""
    return "\n".join("".join(text for text, _ in line).rstrip() for line in lines)

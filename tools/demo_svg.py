"""Draws `headway demo` as an animated SVG: plays the race once, and keeps what the screen shows.

`python tools/demo_svg.py docs/demo.svg` makes the picture of README again; it takes half a minute.
The file asks for nothing outside: no font, no script. A viewer that does not animate shows the end.
"""

import argparse
import io
import logging
import time
from collections.abc import Iterator
from html import escape
from itertools import pairwise
from pathlib import Path

import anyio
from rich.color import Color
from rich.console import Console, RenderableType
from rich.segment import Segment
from rich.style import Style
from rich.terminal_theme import MONOKAI

from headway.demo.plan import Plan
from headway.demo.race import Race
from headway.demo.screen import frame
from headway.demo.summary import show

COLUMNS = 118
FRAME_SECONDS = 0.75
END_SECONDS = 8.0
"""How long the table at the end stays before the picture begins again."""
LINE_HEIGHT, CHARACTER_WIDTH, MARGIN = 17, 8.0, 12
BACKGROUND, FOREGROUND = "#1b1d23", "#d8d9da"
MOST_BYTES = 200_000

Line = tuple[tuple[str, Style | None], ...]
Frame = tuple[float, list[Line]]
"""Seconds from the beginning, and the lines of the screen."""


def console() -> Console:
    """Return a console that is a terminal of ``COLUMNS``, and writes nowhere."""
    return Console(
        width=COLUMNS,
        force_terminal=True,
        color_system="truecolor",
        file=io.StringIO(),
        record=True,
    )


async def recorded() -> list[Frame]:
    """Play the race, and return what was to be seen, with the table of its end as the last."""
    race, frames, screen = Race(Plan()), [], console()
    started_at = time.monotonic()

    async def look() -> None:
        while True:
            seconds = time.monotonic() - started_at
            frames.append((seconds, drawn(screen, frame(race, seconds))))
            await anyio.sleep(FRAME_SECONDS)

    async with anyio.create_task_group() as group:
        group.start_soon(look)
        await race.run()
        group.cancel_scope.cancel()
    report = race.report()
    print(report.sentence())
    end = console()
    show(report, end)
    # The buffer of what was printed is the only place where rich keeps its styles.
    lines = [clean(line) for line in Segment.split_lines(end._record_buffer)]
    footnotes = max(row for row, line in enumerate(lines) if not text_in(line))
    return [*frames, (time.monotonic() - started_at, lines[:footnotes])]


def drawn(screen: Console, shown: RenderableType) -> list[Line]:
    """Return the lines of a frame."""
    return [clean(line) for line in screen.render_lines(shown, pad=False)]


def clean(segments: list[Segment]) -> Line:
    """Return the texts of a line with their styles, without control codes and line ends."""
    return tuple((text.rstrip("\n"), style) for text, style, control in segments if not control)


def text_in(line: Line) -> str:
    """Return a line without its styles and the spaces around it."""
    return "".join(text for text, _ in line).strip()


def svg(frames: list[Frame]) -> str:
    """Draw the frames: each line of the screen is there once for each text that it has."""
    total = frames[-1][0] + END_SECONDS
    height = max(len(lines) for _, lines in frames)
    size = COLUMNS * CHARACTER_WIDTH + 2 * MARGIN, height * LINE_HEIGHT + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]:g} {size[1]:g}" '
        'role="img" aria-label="headway demo: the same teams with Headway and without">',
        f"<style>text{{font:13px ui-monospace,Menlo,Consolas,monospace;fill:{FOREGROUND};"
        "white-space:pre}</style>",
        f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>',
    ]
    for row in range(height):
        y = MARGIN + (row + 0.8) * LINE_HEIGHT
        for begin, end, line in variants(frames, row, total):
            parts.append(text_of(line, y, begin / total, end / total))
    return "\n".join([*parts, "</svg>\n"])


def variants(frames: list[Frame], row: int, total: float) -> Iterator[tuple[float, float, Line]]:
    """Yield each text that a line has, and from when to when it is to be seen."""
    seen = [(at, lines[row] if row < len(lines) else ()) for at, lines in frames]
    changes = [seen[0], *(after for before, after in pairwise(seen) if after[1] != before[1])]
    for (begin, line), (end, _) in pairwise([*changes, (total, ())]):
        if text_in(line):
            yield begin, end, line


def text_of(line: Line, y: float, begin: float, end: float) -> str:
    """Draw a line, to be seen from ``begin`` to ``end``, both parts of the whole time."""
    spans, column = [], 0
    for text, style in line:
        if text.strip():
            start = column + len(text) - len(text.lstrip())
            word = text.strip()
            spans.append(
                f'<tspan x="{MARGIN + start * CHARACTER_WIDTH:g}" '
                f'textLength="{len(word) * CHARACTER_WIDTH:g}"{look_of(style)}>'
                f"{escape(word)}</tspan>"
            )
        column += len(text)
    times = f"0;{begin:.4f};{end:.4f}" if end < 1 else f"0;{begin:.4f}"
    values = "0;1;0" if end < 1 else "0;1"
    shown = (
        ""
        if begin == 0 and end >= 1
        else (
            f'<animate attributeName="opacity" calcMode="discrete" values="{values}" '
            f'keyTimes="{times}" dur="DURATION" repeatCount="indefinite"/>'
        )
    )
    hidden = ' opacity="0"' if end < 1 else ""
    return f'<text y="{y:g}"{hidden}>{"".join(spans)}{shown}</text>'


def look_of(style: Style | None) -> str:
    """Return the attributes of a style: its colour, and whether it is bold."""
    if style is None:
        return ""
    bold = ' font-weight="bold"' if style.bold else ""
    return f' fill="{rgb(style.color)}"{bold}' if style.color else bold


def rgb(colour: Color) -> str:
    """Return a colour as SVG writes it."""
    return str(colour.get_truecolor(MONOKAI).hex)


def main() -> None:
    """Record and write. Exits with 1 if the file would be too large."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    file = parser.parse_args().file
    logging.disable()  # AutoGen logs a traceback for each team that dies
    frames = anyio.run(recorded)
    text = svg(frames).replace("DURATION", f"{frames[-1][0] + END_SECONDS:.1f}s")
    print(f"{len(frames)} frames, {len(text.encode()):,} bytes")
    if len(text.encode()) > MOST_BYTES:
        raise SystemExit(f"above {MOST_BYTES:,} bytes: fewer frames, or a shorter race")
    file.write_text(text)


if __name__ == "__main__":
    main()

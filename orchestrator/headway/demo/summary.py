"""Shows the end of the demo: both sides in one table, a sentence, and how it was measured."""

from collections.abc import Iterator

from openai import DEFAULT_MAX_RETRIES
from rich.console import Console
from rich.table import Table

from .plan import CLASSES
from .report import Report, SideReport
from .side import Waits

_FOOTNOTES = (
    "A wait is the time from an agent's asking until its provider received the request that it "
    "accepted, measured alike on both sides. A call that was never accepted has no wait: without "
    "Headway, short waits are those of the calls that got through.",
    "Used: accepted requests and their tokens, of what the limits allowed until the side's last "
    "team ended. A side whose teams die ends early.",
    f"Without: AutoGen's OpenAI client as it comes, with the SDK's {DEFAULT_MAX_RETRIES} retries.",
)


def show(report: Report, console: Console) -> None:
    """Print the end of the demo."""
    table = Table(title="The same work, the same limits", title_justify="left")
    table.add_column("")
    table.add_column("with Headway", justify="right")
    table.add_column("without", justify="right")
    for name, ours, stock in _rows(report):
        table.add_row(name, ours, stock)
    console.print()
    console.print(table)
    console.print(report.sentence(), style="bold", highlight=False)
    console.print()
    for footnote in _FOOTNOTES:
        console.print(footnote, style="grey62", highlight=False)


def _rows(report: Report) -> Iterator[tuple[str, str, str]]:
    names = _column(report.headway)
    for name, ours in names.items():
        yield name, ours, _column(report.stock)[name]


def _column(side: SideReport) -> dict[str, str]:
    end = "finished in" if side.urgent_finished else "died after"
    return {
        "teams finished": f"{side.finished} of {side.teams}",
        "urgent team": f"{end} {side.urgent_seconds:.1f} s",
        "calls asked, answered": f"{side.calls}, {side.answered}",
        "calls given up": str(side.given_up),
        "requests refused (429)": str(side.refused),
        **{
            f"{priority.label} wait, median / worst": _waits(side.waits[priority.label])
            for priority in CLASSES
        },
        "background calls passed": str(side.overtaken),
        "requests used": f"{side.requests_used:.0%}",
        "tokens used": f"{side.tokens_used:.0%}",
        "answers paid, team died": str(side.lost),
        "until the last team ended": f"{side.wall_seconds:.1f} s",
    }


def _waits(waits: Waits) -> str:
    if waits.median_seconds is None or waits.worst_seconds is None:
        return "none accepted"
    return f"{waits.median_seconds:.2f} / {waits.worst_seconds:.2f} s"

"""Draws one run, as ``headway top`` opens it. Law of this file: pure."""

from headway_scheduler.model.calls import BYPASS

from ..database import OneRun
from ..text import Totals, age, clock, duration, waited_seconds
from .parts import BAD, DIM, HEAD, ODD, Cell, Line, columns, cut
from .picture import CLASSES, STATES

KEYS = "↑ ↓ scroll · p pause · b bump · Esc back · q quit"


def draw_run(view: OneRun, width: int, height: int, scroll: int, message: str) -> list[Line]:
    """Draw a run on ``width`` by ``height`` characters, from line ``scroll`` on."""
    body = _body(view, width)
    scroll = max(0, min(scroll, len(body) - height + 1))
    shown = body[scroll : scroll + height - 1]
    shown += [[]] * (height - 1 - len(shown))
    return [*shown, [(cut(message or KEYS, width), DIM)]]


def _body(view: OneRun, width: int) -> list[Line]:
    run, now = view.run, view.now
    totals = Totals.of(view.calls, now)
    facts: list[tuple[str, str, str]] = [
        ("workflow", run.workflow, ""),
        ("task", run.task, ""),
        ("class", run.priority.label, CLASSES[run.priority]),
        ("submitted", age(run.created_at, now), ""),
        ("calls", str(totals), ""),
    ]
    if view.question is not None:
        facts.append(("asks", view.question, ODD))
    if run.error is not None:
        facts.append(("error", run.error, BAD))
    lines: list[Line] = [[(run.id, HEAD), ("  ", ""), (run.state.value, STATES.get(run.state, ""))]]
    lines += columns([[Cell(name, DIM), Cell(text, style)] for name, text, style in facts], width)
    rows = [[Cell(name, HEAD) for name in ("CALL", "KIND", "AGENT", "STATE", "WAITED", "TOKENS")]]
    for record in view.calls:
        call, usage = record.call, record.usage
        if call.kind != BYPASS:
            tokens = "" if usage is None else f"{usage.total:,}"
            waited = duration(waited_seconds(record, now))
            shown = (call.id, call.kind, call.path, record.state.value, waited, tokens)
            rows.append([Cell(text) for text in shown])
    lines += [[], *columns(rows, width, right=(4, 5), shrinks=(2,))]
    if view.tries:
        rows = [[Cell(name, HEAD) for name in ("SENT AGAIN", "AT", "BECAUSE", "OF", "ERROR")]]
        for each in view.tries:
            texts = (each.call_id, clock(each.ended_at, now), each.news, each.quota)
            rows.append([*map(Cell, texts), Cell(each.error or "", DIM)])
        lines += [[], *columns(rows, width)]
    return lines

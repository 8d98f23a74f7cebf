"""Draws what ``headway top`` shows. Law of this file: pure; no text of an agent is markup.

Theory of operation. The screen is a head, sections of rows, and a foot. Each section has a number
of rows below which it is not cut; what room is left goes to the sections in turn, the queue first.
With too little room even for that, the last sections are left out. Colour repeats what words say.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from textwrap import wrap

from headway_scheduler.core.inspection import explain_each
from headway_scheduler.model.calls import CallRecord, Priority
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import RunState

from ..text import age, clock, counted, duration, waited_seconds, waits_for
from .gauges import limits
from .look import Dashboard, Question
from .parts import (
    BAD,
    DIM,
    GOOD,
    HEAD,
    NARROW,
    ODD,
    Cell,
    Line,
    Section,
    columns,
    cut,
    sparkline,
)

CLASSES = {
    Priority.INTERACTIVE: "bold magenta",
    Priority.HIGH: "magenta",
    Priority.NORMAL: "",
    Priority.LOW: "cyan",
    Priority.BACKGROUND: "blue",
}
STATES = {RunState.RUNNING: GOOD, RunState.WAITING: ODD, RunState.INTERRUPTED: BAD}
WIDE = 120
"""From this width on there are more columns."""


class Sort(StrEnum):
    """In which order calls and runs are shown."""

    NEXT = "next"
    WAITED = "longest wait"
    NAME = "name"


@dataclass(slots=True)
class Selection:
    """What of it the user wants to see, and how."""

    sort: Sort = Sort.NEXT
    filter: str = ""
    selected: str | None = None
    """The id of the call or run under the cursor."""
    foot: str = ""


@dataclass(slots=True)
class Picture:
    """The lines of a screen, and the ids of the rows that the cursor can be on, in their order."""

    lines: list[Line]
    ids: list[str] = field(default_factory=list[str])


_NOTHING = Section([], [], 0, 0)


def draw(
    dashboard: Dashboard, view: Selection, width: int | None, height: int | None, limit: int
) -> Picture:
    """Draw on ``width`` by ``height`` characters; None: all there is. At most ``limit`` calls and
    runs each.
    """
    head, foot = _head(dashboard, width), _foot(view.foot, width)
    tail: list[Line] = [
        [(f"{row}: `headway db repair` sets it aside", BAD)] for row in dashboard.unreadable[:5]
    ]
    sections = [
        limits(dashboard, width),
        _classes(dashboard, width),
        _calls(dashboard, view, width, limit),
        _people(dashboard, view, width),
        _runs(dashboard, view, width, limit),
        _workers(dashboard, width),
    ]
    sections = [section for section in sections if section.rows]
    if height is None:
        lines = head
        for section in sections:
            lines += [[], section.head, *section.rows]
        return Picture(lines + ([[], *tail] if tail else []))
    room = height - len(head) - len(tail) - len(foot)
    wanted = [(section.least, len(section.rows), section.turn) for section in sections]
    shown = shared(wanted, room)
    lines, ids = head, dict[str, None]()  # a run that asks a person is in two sections
    for section, rows in zip(sections, shown, strict=False):
        lines += [_headed(section, rows), *_pointed(section, rows, view.selected)]
        ids |= dict.fromkeys(section.ids)
    lines += [[]] * (height - len(lines) - len(tail) - len(foot))
    return Picture([_cropped(line, width) for line in (*lines, *tail, *foot)][:height], list(ids))


def shared(wanted: Sequence[tuple[int, int, int]], room: int) -> list[int]:
    """Share ``room`` lines among sections of (least, all) rows, each with a line for its head.

    The third number is the section's turn to grow. Return how many rows each gets. Sections at the
    end that get no room are left out.
    """
    rows = [min(least, most) for least, most, _ in wanted]
    while rows and sum(rows) + len(rows) > room:
        longest = max(rows)
        if longest > 1:
            rows[len(rows) - 1 - rows[::-1].index(longest)] -= 1
        else:
            rows.pop()
    in_turn = sorted(range(len(rows)), key=lambda place: wanted[place][2])
    left = room - sum(rows) - len(rows)
    while growing := [place for place in in_turn if rows[place] < wanted[place][1]][: max(0, left)]:
        for place in growing:
            rows[place] += 1
        left -= len(growing)
    return rows


def _head(dashboard: Dashboard, width: int | None) -> list[Line]:
    leader = dashboard.leader
    works = "no process works on it" if leader is None else f"{leader} works on it"
    time = clock(dashboard.now, dashboard.now)
    name = dashboard.database
    if width is not None:
        room = width - len(works) - len(time) - 6
        name = name if len(name) <= room else f"…{name[1 - room :]}"
    counts = dashboard.statistics
    refused = sum(dashboard.past.refused.values())
    # A question is parked as well, and is no call that anybody forgot.
    parked = sum(each.parked and each.call.is_paid for each in dashboard.queue.calls)
    lines: list[Line] = [
        [(name, HEAD), (": ", ""), (works, ODD if leader is None else ""), ("  ", ""), (time, DIM)],
        [
            (f"{sum(counts.waiting):,} waiting", HEAD),
            (f" · {counts.in_flight:,} in flight · {parked:,} parked", ""),
            (f" · {counted(len(dashboard.runs), 'run')}", ""),
            (f" · {refused:,} refused in the last minute", BAD if refused else DIM),
        ],
    ]
    for hold in dashboard.holds:
        since = "" if hold.since is None else f" since {clock(hold.since, dashboard.now)}"
        words = f"{hold.target} is {hold.state}{since}: `headway queue resume {hold.target}`"
        lines.append([(words, ODD)])
    return lines


def _foot(words: str, width: int | None) -> list[Line]:
    """The keys, or an error of several lines."""
    wrapped = [] if width is None else wrap(words, width, max_lines=3, placeholder="…")
    return [[(line, DIM)] for line in wrapped]


# Sections


def _classes(dashboard: Dashboard, width: int | None) -> Section:
    counts, past = dashboard.statistics.waiting, dashboard.past
    minutes = 60 if width is None or width >= NARROW else 40
    rows = [[Cell(name, HEAD) for name in ("WAITING", "NOW", "P95 WAIT", f"LAST {minutes} MIN")]]
    for priority, count in zip(Priority, counts, strict=True):
        crowd = past.crowds.get(priority, ())
        p95 = past.p95.get(priority)
        if count or p95 is not None or any(crowd):
            rows.append(
                [
                    Cell(priority.label, CLASSES[priority]),
                    Cell(f"{count:,}"),
                    Cell("" if p95 is None else duration(p95)),
                    Cell(sparkline((*crowd, count), minutes), CLASSES[priority]),
                ]
            )
    if len(rows) == 1:
        return _NOTHING
    head, *lines = columns(rows, width, right=(1, 2))
    return Section(head, lines, 3, 4)


def _calls(dashboard: Dashboard, view: Selection, width: int | None, limit: int) -> Section:
    """The calls that wait for a provider. A question to a person is none of them."""
    queue, now = dashboard.queue, dashboard.now
    found = [each for each in queue.calls if each.call.is_paid and _is_call_meant(each, view)]
    match view.sort:
        case Sort.NEXT:
            pass
        case Sort.WAITED:
            found.sort(key=lambda record: record.call.submitted_at)
        case Sort.NAME:
            found.sort(key=lambda record: record.call.path)
    if not found:
        return _NOTHING
    names = ["CALL", "CLASS", "AGENT", *_wide("MODEL", "TOKENS", width=width), "WAITED"]
    shown = found[:limit]
    rows = [[Cell(name, HEAD) for name in (*names, _counted("WAITS FOR", len(found), limit))]]
    reasons = explain_each(queue.scheduler.state, [record.call.id for record in shown], now)
    for record in shown:
        call, why = record.call, reasons.get(record.call.id)
        raised = None if why is None else why.effective_priority
        priority = call.priority if raised is None else raised
        more = _wide(call.model, f"{call.tokens:,}", width=width)
        rows.append(
            [
                Cell(call.id),
                Cell(priority.label, CLASSES[priority]),
                Cell(call.path),
                *map(Cell, more),
                Cell(duration(waited_seconds(record, now))),
                Cell("" if why is None else waits_for(why, now)),
            ]
        )
    head, *lines = columns(rows, width, right=(len(names) - 1,), shrinks=(2,))
    return Section(head, lines, 3, 0, [record.call.id for record in shown])


def _wide(*names: str, width: int | None) -> list[str]:
    return list(names) if width is None or width >= WIDE else []


def _counted(name: str, count: int, limit: int) -> str:
    return name if count <= limit else f"{name} ({limit} of {count:,})"


def _people(dashboard: Dashboard, view: Selection, width: int | None) -> Section:
    asked = [each for each in dashboard.questions if _is_run_meant(each.run, view)]
    if not asked:
        return _NOTHING
    names = ("RUN", "ASKED", "A PERSON MUST ANSWER OR DECIDE", "HOW")
    rows = [[Cell(name, HEAD) for name in names]]
    for each in asked:
        since = age(each.call.call.submitted_at, dashboard.now)
        rows.append([Cell(each.run.id), Cell(since), Cell(each.text, ODD), Cell(_how(each), DIM)])
    if width is not None:
        rows = [row[:3] for row in rows]
    head, *lines = columns(rows, width)
    return Section(head, lines, 1, 2, [each.run.id for each in asked])


def _how(question: Question) -> str:
    words = '"WORDS"' if question.call.call.is_question else "--done RESULT|--again|--abort"
    return f"headway runs answer {question.run.id} {words}"


def _runs(dashboard: Dashboard, view: Selection, width: int | None, limit: int) -> Section:
    found = [run for run in dashboard.runs if _is_run_meant(run, view)]
    match view.sort:
        case Sort.NEXT:
            pass
        case Sort.WAITED:
            found.sort(key=lambda run: run.created_at)
        case Sort.NAME:
            found.sort(key=lambda run: run.workflow)
    if not found:
        return _NOTHING
    shown = found[:limit]
    names = ("RUN", "CLASS", "STATE", "SINCE", "WORKFLOW", _counted("TASK", len(found), limit))
    rows = [[Cell(name, HEAD) for name in names]]
    for run in shown:
        since = age(run.resumed_at or run.started_at or run.created_at, dashboard.now)
        rows.append(
            [
                Cell(run.id),
                Cell(run.priority.label, CLASSES[run.priority]),
                Cell(run.state.value, STATES.get(run.state, "")),
                Cell(since),
                Cell(run.workflow),
                Cell(run.task),
            ]
        )
    if width is None:
        rows = [row[:5] for row in rows]  # a task may be long: `headway runs show` has it
    head, *lines = columns(rows, width, shrinks=(5, 4))
    return Section(head, lines, 2, 3, [run.id for run in shown])


def _workers(dashboard: Dashboard, width: int | None) -> Section:
    names = ("WORKER", "PROCESS", "LABEL", "SINCE", "RUNS", "LIFE")
    rows = [[Cell(name, HEAD) for name in names]]
    for view in dashboard.workers:
        worker, silent = view.worker, view.silent_seconds
        life = Cell("gone", BAD) if silent is None else Cell(f"{silent:.1f} s ago")
        rows.append(
            [
                Cell(worker.id),
                Cell(f"{worker.pid} leads" if view.leads else str(worker.pid)),
                Cell(worker.label),
                Cell(age(worker.since, dashboard.now)),
                Cell(f"{view.runs} of {worker.slots}" if worker.slots else f"{view.runs}"),
                life,
            ]
        )
    head, *lines = columns(rows, width, shrinks=(2,))
    return Section(head, lines, 1, 5)


# The cursor, and what the filter lets through


def _is_call_meant(record: CallRecord, view: Selection) -> bool:
    call = record.call
    return _has(view.filter, call.id, call.path, call.model, call.priority.label)


def _is_run_meant(run: Run, view: Selection) -> bool:
    texts = (run.id, run.workflow, run.share, run.priority.label, run.state.value, run.task)
    return _has(view.filter, *texts)


def _has(sought: str, *texts: str) -> bool:
    return not sought or any(sought.casefold() in text.casefold() for text in texts)


def _headed(section: Section, rows: int) -> Line:
    if rows >= len(section.rows):
        return section.head
    *rest, (text, style) = section.head
    more = f"({rows} of {len(section.rows)})"
    return [*rest, (f"{text.rstrip()} {more}", style)]


def _pointed(section: Section, rows: int, selected: str | None) -> list[Line]:
    """Return as many rows, among them the selected one if it is of this section."""
    if selected not in section.ids:
        return section.rows[:rows]
    place = section.ids.index(selected)
    lines = list(section.rows)
    lines[place] = [(text, f"{style} reverse".strip()) for text, style in lines[place]]
    first = max(0, place - rows + 1)
    return lines[first : first + rows]


def _cropped(line: Line, width: int | None) -> Line:
    if width is None:
        return line
    found, left = list[tuple[str, str]](), width
    for text, style in line:
        if left <= 0:
            break
        text = cut(text, left)
        found.append((text, style))
        left -= len(text)
    return found

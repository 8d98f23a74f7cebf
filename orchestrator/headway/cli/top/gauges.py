"""Draws the limits in ``headway top``. Law of this file: pure."""

from collections.abc import Sequence

from headway_scheduler.core.views import Gauge
from headway_scheduler.model.history import Ended
from headway_scheduler.model.quotas import Resource

from ..text import clock
from .look import Dashboard
from .parts import BAD, DIM, GOOD, HEAD, NARROW, ODD, Cell, Section, bar, columns


def limits(dashboard: Dashboard, width: int | None) -> Section:
    """Draw a row for each limit that is used, or of all if none is."""
    every = dashboard.statistics.gauges
    gauges = [gauge for gauge in every if _is_used(dashboard, gauge)] or every
    bar_width = 10 if width is None or width < NARROW else 10 + (width - NARROW) // 2
    rows = [
        [
            Cell(name, HEAD)
            for name in ("QUOTA", "LIMIT", "IN USE", "FREE", "LAST MINUTE", "429", "STATE")
        ],
        *(_limit_row(dashboard, gauges, place, bar_width) for place in range(len(gauges))),
    ]
    head, *lines = columns(rows, width, right=(3, 4, 5), shrinks=(0,))
    return Section(head, lines, 4, 1)


def _is_used(dashboard: Dashboard, gauge: Gauge) -> bool:
    """Whether a limit is worth a line: the guessed ones of a quota that nobody uses are not."""
    past, is_free = dashboard.past, gauge.available >= gauge.capacity
    is_quiet = gauge.paused_until is None and gauge.quota not in {*past.ended, *past.refused}
    return not (gauge.source == "guess" and is_free and is_quiet)


def _limit_row(
    dashboard: Dashboard, gauges: Sequence[Gauge], place: int, bar_width: int
) -> list[Cell]:
    gauge, now = gauges[place], dashboard.now
    used = max(0.0, gauge.capacity - gauge.available)
    share = used / gauge.capacity if gauge.capacity else 1.0
    style = BAD if share >= 0.9 else ODD if share >= 0.7 else GOOD
    # What a provider refuses is told of the quota: once, and not for each of its limits.
    is_first = place == 0 or gauges[place - 1].quota != gauge.quota
    refused = dashboard.past.refused.get(gauge.quota, 0) if is_first else 0
    state = Cell(gauge.source, DIM)
    if gauge.stopped is not None:
        state = Cell(f"stopped: {gauge.stopped}", BAD)
    elif gauge.paused_until is not None:
        state = Cell(f"paused until {clock(gauge.paused_until, now)}", ODD)
    return [
        Cell(gauge.quota if is_first else ""),
        Cell(str(gauge.resource)),
        Cell(bar(share, bar_width), style),
        Cell(amount(max(0.0, gauge.available))),
        Cell(_rate(dashboard, gauge)),
        Cell(f"{refused}" if refused else "", BAD),
        state,
    ]


def _rate(dashboard: Dashboard, gauge: Gauge) -> str:
    """Say what the calls took that ended in the last minute, of what a minute permits."""
    ended = dashboard.past.ended.get(gauge.quota, Ended((), 0, 0, 0))
    match gauge.resource:
        case Resource.REQUESTS:
            took = ended.calls
        case Resource.TOKENS:
            took = ended.input_tokens + ended.output_tokens
        case Resource.INPUT_TOKENS:
            took = ended.input_tokens
        case Resource.OUTPUT_TOKENS:
            took = ended.output_tokens
        case _:
            return ""  # no rate: slots, and what is counted by the day
    return f"{amount(took)} of {amount(60 * gauge.per_second)}"


def amount(value: float) -> str:
    """Write a number in at most 5 characters: 388, 41.2k, 1.2M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= 10 * size or (value >= size and unit == "M"):
            return f"{value / size:.3g}{unit}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

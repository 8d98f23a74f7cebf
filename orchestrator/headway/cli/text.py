"""Words the sentences that all views share, and cleans what agents said for printing.

Law of this file: pure; the time is an argument. A message of an agent cannot pose as one of ours.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import is_dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from headway_scheduler.core.views import Blocker, Explanation, Statistics
from headway_scheduler.model.calls import CallRecord, Priority
from headway_scheduler.model.formulas import dollars
from headway_scheduler.model.quotas import Resource
from headway_scheduler.model.states import CallState

from .output import clean

_CHUNK = "ModelClientStreamingChunkEvent"
_ASKED = "UserInputRequestedEvent"  # it has no text; the question is shown where it is asked


class Totals(NamedTuple):
    """Sums over calls. ``waited_seconds`` adds up their times in the queue."""

    calls: int
    input_tokens: int
    output_tokens: int
    waited_seconds: float

    @classmethod
    def of(cls, records: Iterable[CallRecord], now: float) -> "Totals":
        """Add up those of ``records`` that asked a provider."""
        calls = [record for record in records if record.call.is_paid]
        usages = [record.usage for record in calls if record.usage is not None]
        return cls(
            len(calls),
            sum(usage.input_tokens for usage in usages),
            sum(usage.output_tokens for usage in usages),
            sum(waited_seconds(record, now) for record in calls),
        )

    def plus(self, other: "Totals") -> "Totals":
        """Add two sums."""
        return Totals(
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.waited_seconds + other.waited_seconds,
        )

    def __str__(self) -> str:
        tokens = self.input_tokens + self.output_tokens
        return (
            f"{counted(self.calls, 'call')} · {tokens:,} tokens ({self.input_tokens:,} in, "
            f"{self.output_tokens:,} out) · waited {duration(self.waited_seconds)}"
        )


def waits_for(why: Explanation, now: float) -> str:
    """Say what a queued call waits for."""
    if why.state is not CallState.QUEUED:
        return f"nothing: it is {why.state}"
    if why.parked:
        return "its run is interrupted"
    if (hold := why.operator_hold) is not None:
        return f"{hold}: `headway queue resume {hold.split()[0]}`"
    if why.not_before is not None:
        return f"sent again at {clock(why.not_before, now)}"
    several = len({blocker.quota for blocker in why.blockers}) > 1
    parts = [_blocked(blocker, now, several) for blocker in why.blockers]
    if why.behind is not None:
        parts.append(f"behind {why.behind}")
    return " · ".join(parts) or "nothing: it is next"


def next_to_go(reasons: Sequence[Explanation], now: float) -> Explanation | None:
    """Return the call that goes first, of waiting calls the most urgent first.

    One that only waits for the end of a call in flight may go at any moment; one that is held, or
    whose quota is stopped, goes last.
    """

    def goes_at(why: Explanation) -> float:
        is_stopped = any(each.stopped is not None for each in why.blockers)
        if why.operator_hold is not None or is_stopped:
            return math.inf
        return why.not_before or why.starts_at or now

    return min(reasons, key=goes_at, default=None)


def status_line(statistics: Statistics, head: Explanation | None, now: float) -> str:
    """Say how many calls wait and are in flight, and what the next call waits for."""
    waiting = ", ".join(
        f"{count} {priority.label}"
        for priority, count in zip(Priority, statistics.waiting, strict=True)
        if count
    )
    parts = [f"waiting: {waiting or 'none'}", f"in flight: {statistics.in_flight}"]
    if head is not None:
        parts.append(f"next {head.call_id}: {waits_for(head, now)}")
    return " | ".join(parts)


def waited_seconds(record: CallRecord, now: float) -> float:
    """Return how long a call stood in the queue, or has stood until now."""
    until = record.admitted_at or record.finished_at or now
    return max(0.0, until - record.call.submitted_at)


def clock(at: float, now: float) -> str:
    """Write the local time of day, with its date if that is another day."""
    moment, today = (datetime.fromtimestamp(time, UTC).astimezone() for time in (at, now))
    is_today = moment.date() == today.date()
    return moment.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M:%S")


def age(at: float, now: float) -> str:
    """Write how long ago a time was, in the largest unit that fits."""
    seconds = max(0, int(now - at))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit} ago"
    return f"{seconds}s ago"


def duration(seconds: float) -> str:
    """Write seconds with a tenth, or minutes and hours."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds) // 60
    if minutes < 60:
        return f"{minutes} min {int(seconds) % 60} s"
    return f"{minutes // 60} h {minutes % 60} min"


def counted(count: int, one: str, many: str = "") -> str:
    """Write a number and its noun."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def _blocked(blocker: Blocker, now: float, several: bool) -> str:
    quota = f"{blocker.quota} " if several else ""
    if blocker.resource is None:
        if blocker.stopped is not None:
            mend = f"`headway limits resume {blocker.quota}`"
            return f"{quota}stopped: {blocker.stopped}: mend that, then {mend}"
        if blocker.at is None:
            return f"{quota}waits for the provider to answer one call"
        return f"{quota}paused by the provider until {clock(blocker.at, now)}"
    when = "when a call in flight ends" if blocker.at is None else clock(blocker.at, now)
    if blocker.resource is Resource.USD and blocker.free >= blocker.need:
        return f"budget of the run: one call without an output cap at a time, {when}"
    if blocker.resource.is_money:
        of_run = blocker.resource is Resource.USD
        whose = "budget of the run" if of_run else f"{quota}{blocker.resource}"
        left = max(0.0, blocker.free)
        return f"{whose}: needs {dollars(blocker.need)}, {dollars(left)} free, {when}"
    need, free = _amount(blocker.need, math.ceil), _amount(blocker.free, math.floor)
    whose = ""
    if blocker.kept:
        whose = f", {_amount(blocker.kept, math.ceil)} kept for more urgent calls"
    elif blocker.free >= blocker.need:
        whose = " for calls before it"
    return f"{quota}{blocker.resource}: needs {need}, {free} free{whose}, {when}"


def _amount(value: float, rounded: Callable[[float], int]) -> str:
    """Write with one decimal: a need rounded up, free room rounded down."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if abs(value) >= 10 * size or abs(value) >= 1e6:
            return f"{rounded(value / size * 10) / 10:,g}{unit}"
    return f"{rounded(round(value, 6) * 10) / 10:,g}"


def is_message(event: Any) -> bool:
    """Whether an event is a whole message of AutoGen; events of Headway are dataclasses."""
    return not is_dataclass(event) and type(event).__name__ not in (_CHUNK, _ASKED)


def is_chunk(event: Any) -> bool:
    """Whether an event is a piece of an answer, which comes as a whole message as well."""
    return type(event).__name__ == _CHUNK


def indented(text: str) -> str:
    """Clean, and indent all lines but the first, so that none looks like one of Headway."""
    return clean(text).replace("\n", "\n  ")

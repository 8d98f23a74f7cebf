"""What goes over the wire, and when. Pure: an answer, a latency and a fault in, timed bytes out."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from .faults import Fault, FaultKind
from .refusals import Refusal
from .replies import Answer

_BROKEN_JSON = '{"choices": ['
_STREAM_ERROR = (
    b'data: {"error": {"message": "The server had an error", "type": "server_error", '
    b'"code": null}}\n\n'
)


@dataclass(frozen=True, slots=True)
class Latency:
    """How long an answer takes, in seconds; a stream spreads its output time over its chunks."""

    base_seconds: float = 0.0
    seconds_per_input_token: float = 0.0
    seconds_per_output_token: float = 0.0


class Ending(Enum):
    """What happens after the last part."""

    WHOLE = auto()
    CUT = auto()
    HANG = auto()


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes, and the seconds to wait before they are sent."""

    wait_seconds: float
    data: bytes


@dataclass(frozen=True, slots=True)
class Delivery:
    """A response. ``finish`` is told once why it ended: empty for as planned."""

    status: int
    headers: Mapping[str, str]
    parts: tuple[Part, ...]
    ending: Ending
    finish: Callable[[str], None]


def error_delivery(
    refusal: Refusal, headers: Mapping[str, str], finish: Callable[[str], None]
) -> Delivery:
    """A refusal or an error, sent at once."""
    data = json.dumps(refusal.body()).encode()
    told = {**headers, **refusal.headers(), **_json_headers(data)}
    return Delivery(refusal.status, told, (Part(0.0, data),), Ending.WHOLE, finish)


def answer_delivery(
    answer: Answer, latency: Latency, fault: Fault | None, finish: Callable[[str], None]
) -> Delivery:
    """An answer, as its latency and its fault let it arrive. Rate headers are the caller's."""
    if fault is not None and fault.kind is FaultKind.HANG:
        return Delivery(200, {}, (), Ending.HANG, finish)
    malformed = fault is not None and fault.kind is FaultKind.MALFORMED
    if answer.asked.streamed:
        parts, headers = _streamed(answer, latency, malformed=malformed)
    else:
        parts, headers = _single(answer, latency, malformed=malformed)
    if fault is None or fault.kind not in (FaultKind.CUT_STREAM, FaultKind.STREAM_ERROR):
        return Delivery(200, headers, parts, Ending.WHOLE, finish)
    if fault.kind is FaultKind.STREAM_ERROR and answer.asked.streamed:
        begun = (*_cut(parts, fault.after_chunks), Part(0.0, _STREAM_ERROR))
        return Delivery(200, headers, begun, Ending.WHOLE, finish)
    return Delivery(200, headers, _cut(parts, fault.after_chunks), Ending.CUT, finish)


def _single(
    answer: Answer, latency: Latency, *, malformed: bool
) -> tuple[tuple[Part, ...], dict[str, str]]:
    data = (_BROKEN_JSON if malformed else json.dumps(answer.completion())).encode()
    wait = _lead_seconds(answer, latency) + _output_seconds(answer, latency)
    return (Part(wait, data),), _json_headers(data)


def _streamed(
    answer: Answer, latency: Latency, *, malformed: bool
) -> tuple[tuple[Part, ...], dict[str, str]]:
    bodies = [_BROKEN_JSON] if malformed else [json.dumps(chunk) for chunk in answer.chunks()]
    first, *rest = [f"data: {body}\n\n".encode() for body in bodies]
    step = _output_seconds(answer, latency) / max(1, len(rest))
    parts = (
        Part(_lead_seconds(answer, latency), first),
        *(Part(step, event) for event in rest),
        Part(0.0, b"data: [DONE]\n\n"),
    )
    return parts, {"content-type": "text/event-stream; charset=utf-8"}


def _cut(parts: tuple[Part, ...], after_chunks: int) -> tuple[Part, ...]:
    """What is sent before the connection closes; never all of it."""
    if len(parts) > 1:
        return parts[: min(after_chunks, len(parts) - 1)]
    half = parts[0].data[: len(parts[0].data) // 2]
    return (Part(parts[0].wait_seconds, half),) if after_chunks else ()


def _lead_seconds(answer: Answer, latency: Latency) -> float:
    return latency.base_seconds + latency.seconds_per_input_token * answer.asked.prompt_tokens


def _output_seconds(answer: Answer, latency: Latency) -> float:
    return latency.seconds_per_output_token * answer.completion_tokens


def _json_headers(data: bytes) -> dict[str, str]:
    return {"content-type": "application/json", "content-length": str(len(data))}

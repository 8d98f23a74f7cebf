"""Turns an answer into bytes and times. Pure: answer, latency and fault in, a ``Delivery`` out."""

import gzip
import json
import re
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
    """The seconds that an answer takes. A stream spreads its output time over its chunks."""

    base_seconds: float = 0.0
    seconds_per_input_token: float = 0.0
    seconds_per_output_token: float = 0.0


class Ending(Enum):
    """What the server does after the last part."""

    WHOLE = auto()  # end the response
    CUT = auto()  # close the connection, although more was announced
    HANG = auto()  # send nothing until the client leaves


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes, and the seconds to wait before they are sent."""

    wait_seconds: float
    data: bytes


@dataclass(frozen=True, slots=True)
class Delivery:
    """A response. At its end the server calls ``finish`` with the reason, "" for as planned."""

    status: int
    headers: Mapping[str, str]
    parts: tuple[Part, ...]
    ending: Ending
    finish: Callable[[str], None]


def error_delivery(
    refusal: Refusal, headers: Mapping[str, str], finish: Callable[[str], None]
) -> Delivery:
    """Return the delivery of a refusal or an error, which is sent at once."""
    data = json.dumps(refusal.body()).encode()
    told = {**headers, **refusal.headers(), **_json_headers(data)}
    return Delivery(refusal.status, told, (Part(0.0, data),), Ending.WHOLE, finish)


def answer_delivery(
    answer: Answer, latency: Latency, fault: Fault | None, finish: Callable[[str], None]
) -> Delivery:
    """Return the delivery of an answer under a latency and a fault, without rate limit headers."""
    if fault is not None and fault.kind is FaultKind.HANG:
        return Delivery(200, {}, (), Ending.HANG, finish)
    if fault is not None and fault.kind is FaultKind.REDIRECT:
        there = {"location": fault.value, "content-length": "0"}
        return Delivery(307, there, (Part(0.0, b""),), Ending.WHOLE, finish)
    if fault is not None and fault.kind in _ODD_BODIES:
        return _odd_delivery(answer, fault, finish)
    malformed = fault is not None and fault.kind is FaultKind.MALFORMED
    if answer.asked.streamed:
        parts, headers = _streamed(answer, latency, malformed=malformed)
    else:
        parts, headers = _single(answer, latency, malformed=malformed)
    if fault is not None and fault.kind is FaultKind.ERROR_INSIDE:
        return _with_error(answer, parts, headers, fault, finish)
    if fault is not None and fault.kind is FaultKind.UNFINISHED and answer.asked.streamed:
        return Delivery(200, headers, _cut(parts, fault.after_chunks), Ending.WHOLE, finish)
    if fault is not None and fault.kind is FaultKind.CUT_AFTER_END:
        return Delivery(200, headers, parts, Ending.CUT, finish)
    if fault is None or fault.kind not in (FaultKind.CUT_STREAM, FaultKind.STREAM_ERROR):
        return Delivery(200, headers, parts, Ending.WHOLE, finish)
    if fault.kind is FaultKind.STREAM_ERROR and answer.asked.streamed:
        begun = (*_cut(parts, fault.after_chunks), Part(0.0, _STREAM_ERROR))
        return Delivery(200, headers, begun, Ending.WHOLE, finish)
    return Delivery(200, headers, _cut(parts, fault.after_chunks), Ending.CUT, finish)


def _with_error(
    answer: Answer,
    parts: tuple[Part, ...],
    headers: dict[str, str],
    fault: Fault,
    finish: Callable[[str], None],
) -> Delivery:
    """Return an answer that is an error, or a stream that comes to one."""
    error = json.dumps({"error": json.loads(fault.value)}).encode()
    if not answer.asked.streamed:
        return Delivery(200, _json_headers(error), (Part(0.0, error),), Ending.WHOLE, finish)
    begun = (*_cut(parts, fault.after_chunks), Part(0.0, b"data: " + error + b"\n\n"))
    return Delivery(200, headers, begun, Ending.WHOLE, finish)


_ODD_BODIES = {
    *(FaultKind.ODD_USAGE, FaultKind.DEEP, FaultKind.LARGE, FaultKind.PACKED),
    *(FaultKind.FOREIGN_PACKING, FaultKind.DRIP, FaultKind.STALL),
}
_MIB = 2**20


def _odd_delivery(answer: Answer, fault: Fault, finish: Callable[[str], None]) -> Delivery:
    """Return an answer whose body is odd, or arrives in an odd way."""
    make = _streamed if answer.asked.streamed else _single
    parts, headers = make(answer, Latency(), malformed=False)
    headers.pop("content-length", None)
    data, ending = b"".join(part.data for part in parts), Ending.WHOLE
    if fault.kind is FaultKind.ODD_USAGE:
        data = _with_usage(data, fault.value)
    elif fault.kind is FaultKind.DEEP:
        deep = b'{"a":' * 50_000 + b"1" + b"}" * 50_000
        data = b"data: " + deep + b"\n\n" + data if answer.asked.streamed else deep
    elif fault.kind in (FaultKind.LARGE, FaultKind.PACKED):
        data = b": " * answer.asked.streamed + b" " * (fault.size_mb * _MIB) + b"\n" + data
    elif fault.kind is FaultKind.FOREIGN_PACKING:
        headers["content-encoding"] = "zstd"
    portions = [data]
    if fault.kind is FaultKind.PACKED:
        headers["content-encoding"] = "gzip"
        portions = [gzip.compress(data)]
    elif fault.kind is FaultKind.DRIP:
        portions = [data[n : n + 1] for n in range(len(data))]
    elif fault.kind is FaultKind.STALL:
        portions, ending = [data[:1]], Ending.HANG
    wait = fault.every_seconds if fault.kind is FaultKind.DRIP else 0.0
    return Delivery(200, headers, tuple(Part(wait, each) for each in portions), ending, finish)


def _with_usage(data: bytes, count: str) -> bytes:
    """Replace both token counts of an answer by the text ``count``."""
    return re.sub(rb'("(?:prompt|completion)_tokens": )\d+', rb"\g<1>" + count.encode(), data)


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
    """Return the parts that are sent before the connection closes; never all of them."""
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

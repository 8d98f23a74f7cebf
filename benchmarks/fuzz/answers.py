"""Makes raw HTTP answers: good ones, of which head, body, stream or bytes are odd. Pure."""

import gzip
import zlib
from dataclasses import dataclass
from typing import Any

from .odd import RAW_NUMBERS, Random, Raw, json_value, mutated, spoiled, text, written

STATUSES = (
    *(200,) * 12,
    *(201, 204, 206, 301, 304, 307, 308, 400, 401, 402, 403, 404, 408, 409, 413, 422, 425),
    *(429, 429, 429, 500, 500, 502, 503, 504, 529, 599, 600, 999, 100, 102),
)
RATE_HEADERS = (
    *(
        f"x-ratelimit-{part}-{what}"
        for part in ("limit", "remaining", "reset")
        for what in ("requests", "tokens", "input-tokens", "requests-day")
    ),
    *(
        f"anthropic-ratelimit-{what}-{part}"
        for part in ("limit", "remaining", "reset")
        for what in ("requests", "tokens", "input-tokens", "output-tokens")
    ),
)
PAUSES = ("retry-after", "retry-after-ms", "x-ms-retry-after-ms", "x-should-retry", "date")
SPANS = (
    *("1", "0", "-1", "0.5", "1m30s", "6m0s", "1h", "20ms", "1d", "NaN", "inf", "1e9", "1e999"),
    *("", " ", "soon", "Wed, 21 Oct 2065 07:28:00 GMT", "2065-01-01T00:00:00Z", "1" * 64),
    *("1" * 5_000, "1h" * 3_000, "9" * 40 + "s", "1m1m1m", "٣s", "0x10", "1_000", "True", "-0"),
    *("Mon, 99 Foo 20xx 99:99:99 GMT", "2026-13-45T99:99:99Z", "1;" * 2_000, "\t1 \t", "1,2"),
)
TYPES = (
    *("application/json",) * 4,
    *("text/event-stream", "application/json; charset=utf-16", "text/html", "application/x-ndjson"),
    *("", "application/json; charset=bogus", "TEXT/EVENT-STREAM;;", "image/png"),
)
ERRORS = (
    *("rate_limit_exceeded", "insufficient_quota", "invalid_api_key", "server_error"),
    *("context_length_exceeded", "content_filter", "overloaded_error", "timeout_error", "bogus"),
)
MIB = 2**20


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """Bytes to write, part by part. ``stalls``: then nothing comes until the client leaves."""

    parts: tuple[bytes, ...]
    stalls: bool = False
    wait_seconds: float = 0.0
    """Before each part but the first."""


def completion(said: str = "fine") -> dict[str, Any]:
    """A good answer of OpenAI's."""
    return {
        "id": "c-1",
        "object": "chat.completion",
        "created": 1,
        "model": "odd",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": said, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 3,
            "total_tokens": 12,
            "prompt_tokens_details": {"cached_tokens": 1},
            "completion_tokens_details": {"reasoning_tokens": 1},
        },
    }


def embedding() -> dict[str, Any]:
    """A good answer to a request for a vector."""
    row = {"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}
    usage = {"prompt_tokens": 2, "total_tokens": 2}
    return {"object": "list", "data": [row], "model": "odd", "usage": usage}


def failure(rng: Random) -> dict[str, Any]:
    """An error's body."""
    code = rng.choice(ERRORS)
    hint = rng.choice(("", f" Please try again in {rng.choice(SPANS)}."))
    return {"error": {"message": f"No.{hint}", "type": code, "code": code, "param": None}}


def tool_calls(names: list[tuple[str, str]]) -> dict[str, Any]:
    """A good answer that asks for tools: (name, arguments as text) of each."""
    made = completion("")
    calls = [
        {"id": f"t-{n}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for n, (name, arguments) in enumerate(names)
    ]
    made["choices"][0]["message"] |= {"content": None, "tool_calls": calls}
    made["choices"][0]["finish_reason"] = "tool_calls"
    return made


def plain(body: dict[str, Any]) -> RawAnswer:
    """A whole, good answer."""
    data = written(body, Random(0)).encode()
    head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
    return RawAnswer((f"{head}content-length: {len(data)}\r\n\r\n".encode() + data,))


def odd_answer(rng: Random, *, streamed: bool, vectors: bool = False) -> RawAnswer:
    """An answer in which at least one thing is odd, as likely as not."""
    status = rng.choice(STATUSES)
    body = _body(rng, status, vectors=vectors)
    for _ in range(rng.choice((0, 0, 1, 1, 2, 5))):
        body = mutated(body, rng)
    if isinstance(body, dict) and "usage" in body and rng.random() < 0.3:
        names = ("prompt_tokens", "completion_tokens", "total_tokens", "cache_read_input_tokens")
        body["usage"] = {name: Raw(rng.choice(RAW_NUMBERS)) for name in names}
    is_stream = streamed and status < 300 and rng.random() < 0.9
    if is_stream:
        data, kind = _stream(rng, body), "text/event-stream"
    else:
        data, kind = written(body, rng).encode(errors="surrogatepass"), "application/json"
    if rng.random() < 0.25:
        data = spoiled(data, rng)
    if rng.random() < 0.01:
        data = b" " * rng.choice((MIB - 10, MIB + 1, 3 * MIB)) + data
    headers = [("content-type", rng.choice(TYPES) if rng.random() < 0.15 else kind)]
    data = _packed(rng, data, headers)
    headers += _headers(rng)
    if 300 <= status < 400:
        headers.append(("location", rng.choice(("http://127.0.0.1:9/", "", "//x", text(rng)))))
    return _assembled(rng, status, headers, data)


def _body(rng: Random, status: int, *, vectors: bool) -> Any:
    if status >= 400 or rng.random() < 0.05:
        body: Any = failure(rng)
        return [body] if rng.random() < 0.1 else body
    if vectors:
        return embedding()
    if rng.random() < 0.2:
        return tool_calls([(text(rng), written(json_value(rng), rng))])
    return completion(text(rng))


def _stream(rng: Random, body: Any) -> bytes:
    """Events; the pieces of a message, and what may go wrong between them."""
    choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    event = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "odd"}
    chunks: list[Any] = [
        event | {"choices": [choice | {"delta": {"content": text(rng)[:200]}}]}
        for _ in range(rng.randrange(1, 5))
    ]
    chunks.append(event | {"choices": [choice | {"delta": {}, "finish_reason": "stop"}]})
    usage = body.get("usage") if isinstance(body, dict) else None
    chunks.append(event | {"choices": [], "usage": usage})
    made = b""
    for chunk in chunks:
        odd = rng.random()
        if odd < 0.15:
            chunk = mutated(chunk, rng)
        said = written(chunk, rng).encode(errors="surrogatepass")
        if odd > 0.97:
            said = rng.choice((b"[DONE]", b"", b"{", written(failure(rng), rng).encode()))
        end = rng.choice((b"\n\n",) * 8 + (b"\r\n\r\n", b"\r\r", b"\n", b""))
        made += b"data: " + said + end
        if rng.random() < 0.05:
            lines = (
                b": x\n" * 1_500,
                b"event: error\n",
                b"retry: NaN\n",
                b"id: \x00\n",
                b"\n" * 99,
            )
            made += rng.choice(lines)
    return made + rng.choice((b"data: [DONE]\n\n",) * 6 + (b"", b"data: [DONE]", b"data: {"))


def _packed(rng: Random, data: bytes, headers: list[tuple[str, str]]) -> bytes:
    odd = rng.random()
    if odd < 0.05:
        headers.append(("content-encoding", "gzip"))
        return gzip.compress(data, mtime=0)
    if odd < 0.07:
        headers.append(("content-encoding", "deflate"))
        return zlib.compress(data)[rng.choice((0, 2)) :]
    if odd < 0.075:
        headers.append(("content-encoding", "gzip"))
        return gzip.compress(b" " * (8 * MIB) + data, mtime=0)
    if odd < 0.09:
        headers.append(("content-encoding", rng.choice(("br", "zstd", "gzip, gzip", "", "bogus"))))
    elif odd < 0.11:
        headers.append(("content-encoding", "gzip"))
        return spoiled(gzip.compress(data, mtime=0), rng)
    return data


def _headers(rng: Random) -> list[tuple[str, str]]:
    made = []
    for name in rng.sample(RATE_HEADERS, rng.choice((0, 0, 3, 9))):
        made.append((name, rng.choice(SPANS)))
    for name in rng.sample(PAUSES, rng.choice((0, 0, 1, 3))):
        made.append((name, rng.choice(SPANS)))
    if rng.random() < 0.05:
        made.append((rng.choice(("x-long", "set-cookie")), "y" * rng.choice((9_000, 70_000))))
    if rng.random() < 0.03:
        made += [(f"x-{n}", "1") for n in range(rng.choice((50, 300)))]
    return made


def _assembled(rng: Random, status: int, headers: list[tuple[str, str]], data: bytes) -> RawAnswer:
    """Put a head before a body, in parts."""
    is_chunked = rng.random() < 0.3
    if is_chunked:
        headers.append(("transfer-encoding", "chunked"))
        sizes = rng.choice(("%x", "%X", "%x;x=1")) if rng.random() < 0.9 else "-%x"
        pieces = [data[: len(data) // 2], data[len(data) // 2 :]]
        data = b"".join((sizes % len(p)).encode() + b"\r\n" + p + b"\r\n" for p in pieces if p)
        data += rng.choice((b"0\r\n\r\n",) * 5 + (b"", b"0\r\nx: y\r\n\r\n", b"zz\r\n"))
    elif rng.random() < 0.9:
        odd = rng.choice((0, 0, 0, 0, 0, 0, 0, 0, -1, 5, 10**19))
        headers.append(("content-length", str(max(0, len(data) + odd))))
    headers.append(("connection", "close"))
    line = f"HTTP/1.1 {status} X\r\n"
    if rng.random() < 0.02:
        line = rng.choice(("HTTP/9.9 200 OK\r\n", "HTTP/1.1 abc\r\n", "\r\n", "HTTP/1.0 200 \r\n"))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    head = (line + lines + "\r\n").encode("utf-8", "surrogatepass")
    if rng.random() < 0.04:
        head = spoiled(head, rng)
    whole = head + data
    if rng.random() < 0.1:
        whole = whole[: rng.randrange(len(whole) + 1)]
    cut = rng.randrange(len(whole) + 1)
    parts = (whole[:cut], whole[cut:]) if rng.random() < 0.2 else (whole,)
    return RawAnswer(parts, stalls=rng.random() < 0.01, wait_seconds=rng.choice((0.0, 0.01)))

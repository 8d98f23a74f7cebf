"""mocklimit: 60 requests a minute for each key, in a token bucket, a fixed or a sliding window.

It answers no streams and no tools. With ``has_headers`` it tells its limits in OpenAI's headers;
without, a refusal tells when to ask again (``retry-after-ms``), and nothing else.
"""

import json
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .flood import Books, Flood, Lines, free_port, installed, listening

VERSION = "0.6.0"
PER_MINUTE = 60
KINDS = {  # mocklimit's word, ours, and the earliest end of the flood
    "token_bucket": ("bucket", 100.0),
    "fixed_window": ("fixed", 120.0),
    "sliding_window": ("sliding", 120.0),
}
COUNTED = ("requests", "prompt_tokens", "completion_tokens", "total_tokens")
"""What the server counts, and names in the usage of its answers."""


@contextmanager
def served(folder: Path, *, has_headers: bool) -> Iterator[tuple[Lines, Books]]:
    """Start a server for each kind of window. Each flood has a key of its own."""
    command = installed("mocklimit", f"mocklimit=={VERSION}", "mocklimit")
    with ExitStack() as stack:
        lines, addresses = [], dict[str, str]()
        for kind in KINDS:
            port = free_port()
            place = folder / kind
            place.mkdir()
            (place / "spec").write_text(specification())
            (place / "rates").write_text(rates(kind, has_headers=has_headers))
            options = ["--spec", "spec", "--rate-config", "rates", "--port", str(port)]
            serve = [str(command), "serve", *options, "--log-level", "ERROR"]
            stack.enter_context(listening(serve, port, place / "log"))
            addresses[kind] = f"http://127.0.0.1:{port}"
            lines += [[each] for each in floods(kind, addresses[kind])]
        yield lines, lambda flood: books(addresses[flood.limit], flood.key)


def floods(kind: str, address: str) -> list[Flood]:
    window, floor = KINDS[kind]
    limit = f"requests_per_minute = {PER_MINUTE}"
    burst = "\nburst_seconds = 60" if window == "bucket" else ""
    quotas = {
        "right": f'{limit}\nwindow = "{window}"{burst}',
        "limit": limit,
        "nothing": "requests_per_minute = 500\nlearn = true",
    }
    return [
        Flood(kind, stated, quota, f"{address}/v1", f"key-{kind}-{stated}", floor)
        for stated, quota in quotas.items()
    ]


def specification() -> str:
    """What the server answers, as OpenAPI: it makes a value of each schema."""
    text = {"type": "string"}
    choice = {
        "type": "object",
        "properties": {
            "index": {"type": "integer"},
            "finish_reason": {"type": "string", "enum": ["stop"]},
            "message": {
                "type": "object",
                "properties": {
                    "role": {"type": "string", "enum": ["assistant"]},
                    "content": text,
                },
            },
        },
    }
    counts = {name: {"type": "integer"} for name in ("prompt_tokens", "completion_tokens")}
    answer = {
        "type": "object",
        "properties": {
            "id": text,
            "object": {"type": "string", "enum": ["chat.completion"]},
            "created": {"type": "integer"},
            "model": text,
            "choices": {"type": "array", "items": choice},
            "usage": {
                "type": "object",
                "properties": {**counts, "total_tokens": {"type": "integer", "enum": [2]}},
            },
        },
    }
    done = {"description": "done", "content": {"application/json": {"schema": answer}}}
    return json.dumps(
        {
            "openapi": "3.0.0",
            "info": {"title": "chat", "version": "1"},
            "paths": {"/v1/chat/completions": {"post": {"responses": {"200": done}}}},
        }
    )


def rates(strategy: str, *, has_headers: bool) -> str:
    """How the server counts, as its configuration (JSON is YAML)."""
    limit: dict[str, object] = {"dimension": "requests"}
    if strategy == "token_bucket":
        limit |= {"capacity": PER_MINUTE, "refill_rate": PER_MINUTE / 60}
    else:
        limit |= {"limit": PER_MINUTE, "window_seconds": 60}
    if has_headers:
        limit["headers"] = {
            what: f"x-ratelimit-{what}-requests" for what in ("limit", "remaining", "reset")
        }
    one, none = {"strategy": "fixed", "value": 1}, {"strategy": "fixed", "value": 0}
    policy = {
        "strategy": strategy,
        "limits": [limit],
        "scope": "api_key",
        "format": {
            "reset": "go_duration",
            "retry_after": {"header": "retry-after-ms", "unit": "milliseconds"},
        },
        "error_template": {"provider": "openai"},
    }
    endpoint = {
        "methods": ["POST"],
        "policy": "chat",
        "resources": {name: {"input": one, "output": none} for name in COUNTED},
        "timing": {"base_ms": [300, 1500]},
    }
    return json.dumps(
        {"policies": {"chat": policy}, "endpoints": {"/v1/chat/completions": endpoint}}
    )


def books(address: str, key: str) -> tuple[int, int]:
    """Return how many requests a server saw of a key, and how many it refused."""
    with urllib.request.urlopen(f"{address}/mocklimit/stats", timeout=10) as answer:
        stats = json.load(answer)
    for endpoint in stats.values():
        for name, counts in endpoint.items():
            if key in name:
                return counts["total_requests"], counts["total_429s"]
    raise SystemExit(f"the books know no {key}: {stats}")

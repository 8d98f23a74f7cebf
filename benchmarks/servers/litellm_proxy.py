"""LiteLLM's proxy: limits of a key in windows of 10 s, calls at once, and calendar minutes.

It runs without a database: a function makes the limits of a key out of the key's own text. A window
of a key begins with the first request after the last window, and ends on a whole second. A 429 of a
key says ``retry-after: 10``, however soon the window ends, and also for a slot; a 429 of a
deployment tells 60 s, in a header of another name. Each flood asks a model of its own, which stands
in the path, so the access log is its books.

The floods by key go one after the other: the proxy takes 20 ms of a core for a request, so that two
floods at once would measure each other.

What it costs itself: an answer of 0.35 s takes 0.38 to 0.41 s on two busy cores, so calls of *4 at
once* end after 15.3 to 16.3 s with the limit stated (the bar is 16.1). Forty requests at once are
looked at within a second; when the machine has no core left they take longer than the half second
that a request may travel, and count in the next window: seen in one of nine runs of *60 in 10 s*,
stated right (7 of 167 refused, 32 s).
"""

import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .flood import CALLS_OF_TEAM, TEAMS, Books, Flood, Lines, free_port, installed, listening

VERSION = "1.106.0"
WINDOW_SECONDS = 10
PER_WINDOW = 60
AT_ONCE = 4
ANSWER_SECONDS = 0.35
CALLS = CALLS_OF_TEAM * len(TEAMS)
GUESS = "requests_per_minute = 500\nlearn = true"
AUTH = '''
from litellm.proxy._types import UserAPIKeyAuth


async def by_key(request, api_key):
    """Read the limits of a key named NAME-REQUESTS-SLOTS; 0 is none."""
    _, requests, slots = api_key.rsplit("-", 2)
    return UserAPIKeyAuth(
        api_key=api_key, rpm_limit=int(requests) or None, max_parallel_requests=int(slots) or None
    )
'''
_REQUEST = re.compile(r'"POST /engines/(\S+)/chat/completions HTTP/1.1" (\d+)')


@contextmanager
def served(folder: Path, *, has_headers: bool) -> Iterator[tuple[Lines, Books]]:
    """Start the proxy. It tells the limits of keys always, and those of deployments never."""
    command = installed("litellm", f"litellm[proxy]=={VERSION}", "litellm")
    port, place = free_port(), folder / "litellm"
    place.mkdir()
    line = floods(f"http://127.0.0.1:{port}")
    (place / "keys.py").write_text(AUTH)
    (place / "config.yaml").write_text(configuration(line))
    options = ["--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
    serve = [str(command), *options, "--telemetry", "False"]
    environment = os.environ | {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MASTER_KEY": f"sk-{secrets.token_hex()}",
        "LITELLM_RATE_LIMIT_WINDOW_SIZE": str(WINDOW_SECONDS),
    }
    log = place / "log"
    with listening(serve, port, log, environment):
        by_key = [each for each in line if each.starts_with is None]
        others = [[each] for each in line if each.starts_with is not None]
        yield [by_key, *others], lambda flood: books(log, flood)


def floods(address: str) -> list[Flood]:
    """Return the floods in the order in which they are played."""
    a_minute = 60 * PER_WINDOW // WINDOW_SECONDS
    rate = f"requests_per_minute = {a_minute}"
    window = f'window = "fixed"\nwindow_seconds = {WINDOW_SECONDS}'
    windows, slots = float(2 * WINDOW_SECONDS), CALLS * ANSWER_SECONDS / AT_ONCE
    rows = [
        ("60 in 10 s", "right", f"{rate}\n{window}", f"{PER_WINDOW}-0", windows),
        ("60 in 10 s", "limit", rate, f"{PER_WINDOW}-0", windows),
        ("60 in 10 s", "nothing", GUESS, f"{PER_WINDOW}-0", windows),
        ("4 at once", "right", f"concurrency = {AT_ONCE}", f"0-{AT_ONCE}", slots),
        ("4 at once", "nothing", GUESS, f"0-{AT_ONCE}", slots),
    ]
    by_key = [
        Flood(limit, stated, quota, f"{address}/engines/{number}", f"key-{number}-{limits}", floor)
        for number, (limit, stated, quota, limits, floor) in enumerate(rows)
    ]
    # Of a minute that has begun there is less: so all begin with one.
    minute = Flood(
        "60 a minute", "nothing", GUESS, f"{address}/engines/minute", "key-0-0", 120.0, 60.0
    )
    return [*by_key, minute]


def configuration(line: list[Flood]) -> str:
    """Return the proxy's configuration (JSON is YAML)."""
    models = []
    for flood in line:
        name = flood.base_url.rpartition("/")[2]
        settings: dict[str, object] = {
            "model": f"openai/{name}",
            "api_key": "none",
            "mock_response": "Gone.",
            "mock_delay": ANSWER_SECONDS,
        }
        if flood.starts_with is not None:
            settings["rpm"] = PER_WINDOW
        models.append({"model_name": name, "litellm_params": settings})
    return json.dumps(
        {
            "model_list": models,
            "general_settings": {"custom_auth": "keys.by_key"},
            "litellm_settings": {"num_retries": 0},
            "router_settings": {
                "num_retries": 0,
                "disable_cooldowns": True,
                "optional_pre_call_checks": ["enforce_model_rate_limits"],
            },
        }
    )


def books(log: Path, flood: Flood) -> tuple[int, int]:
    """Return how many requests of a flood the proxy logged, and how many it refused."""
    name = flood.base_url.rpartition("/")[2]
    found = [int(status) for of, status in _REQUEST.findall(log.read_text()) if of == name]
    return len(found), found.count(429)

"""Servers that nobody here wrote: a flood of 40 teams against limits that others enforce.

    python -m benchmarks.servers [--headers]

Each team makes 4 calls, one after the other: 25 teams of class background, 10 normal, 5
interactive. The server is mocklimit, which counts 60 requests a minute for each key in a token
bucket, a fixed or a sliding window. It is installed into a virtual environment of its own below
build/ and listens on loopback. Each row has a key of its own, and they run side by side. *right*
states the limit and how it is counted, *limit* states the limit alone, and *nothing* leaves all to
be found out. With ``--headers`` the server tells its limits in OpenAI's headers; without, a refusal
tells when to ask again, and nothing else. *floor* is the earliest end that the limit allows;
*urgent* the median seconds from question to answer of interactive calls.
"""

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import anyio
from autogen_core.models import UserMessage

from headway import Headway
from headway.config import load

ROOT = Path(__file__).parent.parent
VENV = ROOT / "build/servers"
VERSION = "0.6.0"
PER_MINUTE = 60
TEAMS = ("background",) * 25 + ("normal",) * 10 + ("interactive",) * 5
CALLS_OF_TEAM = 4
KINDS = {  # mocklimit's word, ours, and the earliest end of the flood
    "token_bucket": ("bucket", 100.0),
    "fixed_window": ("fixed", 120.0),
    "sliding_window": ("sliding", 120.0),
}
STATED = ("right", "limit", "nothing")
COUNTED = ("requests", "prompt_tokens", "completion_tokens", "total_tokens")
"""What the server counts, and names in the usage of its answers."""
BARS = {"right": (1.15, 10.0), "limit": (1.5, 40.0), "nothing": (1.5, 40.0)}
"""How many floors a flood may take, and how many of 1,000 requests may be refused. Of who does not
know how the limit is counted, as of who knows nothing: it cannot be told."""


@dataclass
class Flood:
    """One row."""

    kind: str
    stated: str
    seconds: float = 0.0
    waits: list[float] = field(default_factory=list[float])
    """Seconds from question to answer, of interactive calls."""

    @property
    def key(self) -> str:
        return f"key-{self.kind}-{self.stated}"


def install() -> Path:
    """Return the server's command, after installing it if need be."""
    command = VENV / "bin/mocklimit"
    if not command.exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        pip = [str(VENV / "bin/python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, f"mocklimit=={VERSION}"], check=True, stderr=subprocess.DEVNULL)
    return command


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


def started(
    command: Path, folder: Path, kind: str, *, has_headers: bool
) -> tuple[str, subprocess.Popen[bytes]]:
    """Start a server; return its address and its process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    (folder / f"{kind}.spec").write_text(specification())
    (folder / f"{kind}.rates").write_text(rates(kind, has_headers=has_headers))
    options = ["--spec", str(folder / f"{kind}.spec")]
    options += ["--rate-config", str(folder / f"{kind}.rates"), "--port", str(port)]
    process = subprocess.Popen(
        [str(command), "serve", *options, "--log-level", "ERROR"], stdout=subprocess.DEVNULL
    )
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return f"http://127.0.0.1:{port}", process
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{command} does not answer")


def configuration(flood: Flood, address: str) -> str:
    """Return what a user writes who knows as much."""
    quota = "requests_per_minute = 500\nlearn = true"
    if flood.stated != "nothing":
        quota = f"requests_per_minute = {PER_MINUTE}"
    if flood.stated == "right":
        kind = KINDS[flood.kind][0]
        quota += f'\nwindow = "{kind}"' + ("\nburst_seconds = 60" if kind == "bucket" else "")
    return f"""
[database]
path = "headway.db"
[quotas.q]
{quota}
[models.m]
base_url = "{address}/v1"
api_key_command = "echo {flood.key}"
quotas = ["q"]
"""


def configured(flood: Flood, address: str, folder: Path) -> Headway:
    """Return a Headway whose user knows what the row says."""
    folder.mkdir()
    file = folder / "headway.toml"
    file.write_text(configuration(flood, address))
    return Headway(load(file))


async def run(flood: Flood, headway: Headway) -> None:
    """Play one row."""
    async with headway:
        clients = {name: headway.model("m", priority=name) for name in set(TEAMS)}
        began = anyio.current_time()

        async def team(name: str) -> None:
            for _ in range(CALLS_OF_TEAM):
                asked = anyio.current_time()
                await clients[name].create([UserMessage(content="Go.", source="user")])
                if name == "interactive":
                    flood.waits.append(anyio.current_time() - asked)

        async with anyio.create_task_group() as group:
            for name in TEAMS:
                group.start_soon(team, name)
        flood.seconds = anyio.current_time() - began


def books(address: str, key: str) -> tuple[int, int]:
    """Return how many requests a server saw of a key, and how many it refused."""
    with urllib.request.urlopen(f"{address}/mocklimit/stats", timeout=10) as answer:
        stats = json.load(answer)
    for endpoint in stats.values():
        for name, counts in endpoint.items():
            if key in name:
                return counts["total_requests"], counts["total_429s"]
    raise SystemExit(f"the books know no {key}: {stats}")


async def play(has_headers: bool) -> int:
    command, missed = install(), 0
    floods = [Flood(kind, stated) for kind in KINDS for stated in STATED]
    with tempfile.TemporaryDirectory() as folder:
        servers = {
            kind: started(command, Path(folder), kind, has_headers=has_headers) for kind in KINDS
        }
        try:
            async with AsyncExitStack() as stack:
                group = await stack.enter_async_context(anyio.create_task_group())
                for flood in floods:
                    place = Path(folder) / flood.key
                    headway = configured(flood, servers[flood.kind][0], place)
                    group.start_soon(run, flood, headway)
            head = f"{'60 a minute':16}{'stated':9}{'floor':>6}{'seconds':>9}"
            print(f"{head}{'refused':>10}{'urgent':>8}")
            for flood in floods:
                total, refused = books(servers[flood.kind][0], flood.key)
                floor = KINDS[flood.kind][1]
                times, most = BARS[flood.stated]
                is_bad = flood.seconds > times * floor or 1000 * refused / total > most
                missed += is_bad
                print(
                    f"{flood.kind:16}{flood.stated:9}{floor:6.0f}{flood.seconds:9.1f}"
                    f"{f'{refused}/{total}':>10}{median(flood.waits):8.2f}{' *' if is_bad else ''}"
                )
        finally:
            for _, process in servers.values():
                process.terminate()
    print(f"bars missed (*): {missed}")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--headers", action="store_true", help="let the server tell its limits")
    return int(anyio.run(play, parser.parse_args().headers) > 0)


if __name__ == "__main__":
    sys.exit(main())

"""aimock: no limit, but faults. A tenth of its connections is cut, a tenth of its answers is a 500,
a fifth a 429, and one in 20 is no JSON.

Its 429 has the same figures always: ``retry-after: 1``, nothing that remains, and a limit on tokens
that is whole again after six minutes.

The flood takes more than half an hour: its 429s tell a limit of 60 a minute, which is believed, and
with a fault in every fourth request the breaker of the quota stays half open, and pauses for up to
a minute after each. With pauses of 1 s instead it ended after 10 to 19 minutes and 250 to 285
requests, but more than a tenth of the calls of ``benchmarks.chaos`` went again in some seeds; with
16 s in one of 38 seeds, and with a pause that halves whenever one was answered after it in 3 of 40.
"""

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .flood import BUILD, Books, Flood, Lines, free_port, listening

VERSION = "1.43.0"
FAULTS = {"ratelimit": 0.2, "disconnect": 0.1, "drop": 0.1, "malformed": 0.05, "latency": 200}
ANSWER = {"fixtures": [{"match": {}, "response": {"content": "Gone."}}]}


@contextmanager
def served(folder: Path, *, has_headers: bool) -> Iterator[tuple[Lines, Books]]:
    """Start the server, after installing it if need be."""
    place = BUILD / "aimock"
    command = place / "node_modules/.bin/llmock"
    if not command.exists():
        npm = [
            "npm",
            "install",
            "--silent",
            "--prefix",
            str(place),
            f"@copilotkit/aimock@{VERSION}",
        ]
        subprocess.run(npm, check=True)
    port = free_port()
    here = folder / "aimock"
    here.mkdir()
    (here / "answers.json").write_text(json.dumps(ANSWER))
    options = ["--port", str(port), "--fixtures", "answers.json", "--log-level", "warn"]
    options += [part for name, value in FAULTS.items() for part in (f"--chaos-{name}", str(value))]
    quota = "requests_per_minute = 500\ntokens_per_minute = 100_000\nlearn = true"
    address = f"http://127.0.0.1:{port}"
    with listening([str(command), *options], port, here / "log"):
        flood = Flood("faults", "nothing", quota, f"{address}/v1", "not-a-key", None)
        yield [[flood]], lambda _: books(address)


def books(address: str) -> tuple[int, int]:
    """Return how many requests the server saw, and how many it answered with a 429."""
    with urllib.request.urlopen(f"{address}/__aimock/journal", timeout=10) as answer:
        entries = json.load(answer)
    found = [each["response"]["status"] for each in entries]
    return len(found), found.count(429)

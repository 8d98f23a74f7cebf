"""The real command in a process of its own, as the tests of this folder start it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from anyio.from_thread import start_blocking_portal
from tests.processes import WarmProcess
from tests.waiting import without_slowness

from headway_scheduler.testing.provider import Settings, simulated_provider

KEY = "sk-test-0123456789abcdef"
CONFIG = """
[database]
path = "headway.db"
[quotas.roomy]
concurrency = 9
[models.sim]
quotas = ["roomy"]
base_url = "{}"
api_key_env = "TEST_KEY"
"""
"""It leads to a provider at an address, with the key of :func:`environment`."""

PACKAGES = ("headway", "headway_agents", "headway_scheduler")


@contextmanager
def provided(settings: Settings | None = None) -> Iterator[str]:
    """Run a simulated provider in a thread; give its address."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(simulated_provider(settings)) as provider,
    ):
        yield provider.base_url


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADWAY_")}
    roots = {str(Path(spec.origin or "").parents[1]) for p in PACKAGES if (spec := find_spec(p))}
    return kept | {"PYTHONPATH": os.pathsep.join(sorted(roots)), "TEST_KEY": KEY, "TZ": "UTC"}


def started(folder: Path, *arguments: str, **options: Any) -> WarmProcess:
    # Without -P the folder would be on the path anyway, and hide that the command puts it there.
    command = [sys.executable, "-P", "-m", "headway", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return WarmProcess(command, cwd=folder, env=environment(), **pipes)


def ended(process: subprocess.Popen[str], given: str | None = None) -> tuple[int, str, str]:
    """Wait for its end, with ``given`` for its stdin."""
    out, err = process.communicate(given)
    assert KEY not in out + err
    return process.returncode, out, without_slowness(err)


def headway(folder: Path, *arguments: str, given: str | None = None) -> tuple[int, str, str]:
    stdin = subprocess.DEVNULL if given is None else subprocess.PIPE
    with started(folder, *arguments, stdin=stdin) as process:
        return ended(process, given)


def read(terminal: int) -> bytes:
    """Read what is there; nothing once the other end is closed."""
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that the other end is closed
        return b""

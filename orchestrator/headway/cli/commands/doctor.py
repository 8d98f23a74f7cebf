"""``headway doctor``. Law of this file: it reads, and no key's value is ever looked at or shown."""

import os
import platform
import shutil
import sqlite3
from argparse import Namespace
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import anyio

from headway_scheduler.backends.sqlite.leadership import holder
from headway_scheduler.backends.sqlite.network import refuse_network
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.core.inspection import statistics
from headway_scheduler.errors import StoreError

from ... import __version__
from ...config import Config, ConfigError, load
from ..database import load_queue, reading
from ..output import one_line, say, say_json
from ..parser import FAILED

PACKAGES = ("autogen-agentchat", "autogen-ext", "openai", "anyio", "aiosqlite")
LOW_DISK_BYTES = 256 * 2**20
"""Some tens of thousands of calls: enough to notice in time."""


class Finding(NamedTuple):
    """One thing that was looked at. ``says`` tells what to do if it is not ``ok``."""

    subject: str
    ok: bool
    says: str


def check(args: Namespace) -> int:
    """Look at everything, and fail if something is wrong."""
    findings = list(_findings(args.config))
    is_well = all(finding.ok for finding in findings)
    if args.json:
        say_json({"ok": is_well, "findings": [finding._asdict() for finding in findings]})
    else:
        width = max(len(finding.subject) for finding in findings)
        for subject, ok, says in findings:
            say(f"{'ok ' if ok else 'BAD'}  {subject.ljust(width)}  {one_line(says)}")
    return 0 if is_well else FAILED


def _findings(file: str | None) -> Iterator[Finding]:
    yield Finding("Python", True, platform.python_version())
    yield _versions()
    try:
        config = load(file)
    except ConfigError as error:
        for problem in str(error).splitlines():
            yield Finding("configuration", False, problem)
        return
    found = "none: defaults hold; `headway init` writes one"
    yield Finding("configuration", True, str(config.file or found))
    yield from _database(config)
    yield _disk(config.database)
    yield from _models(config)
    yield from _components(config)


def _versions() -> Finding:
    names = [f"headway {__version__}", f"SQLite {sqlite3.sqlite_version}"]
    missing = []
    for package in PACKAGES:
        try:
            names.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        return Finding("versions", False, f"not installed: pip install {' '.join(missing)}")
    return Finding("versions", True, ", ".join(names))


def _database(config: Config) -> Iterator[Finding]:
    path = config.database
    try:
        refuse_network(path)
        if os.path.lexists(path):
            anyio.run(_read, path)
    except StoreError as error:
        yield Finding("database", False, str(error))
        return
    place = path if path.exists() else _nearest(path)
    if not os.access(place, os.W_OK) or not os.access(_nearest(path.parent), os.W_OK):
        yield Finding("database", False, f"{place}: may not be written: see who owns it")
    elif not path.exists():
        yield Finding("database", True, f"{path}: not there yet; the first run makes it")
    else:
        process = holder(path)
        user = "no process works on it" if process is None else f"process {process} works on it"
        yield Finding("database", True, f"{path}: {user}")
        yield from anyio.run(_stopped, config)


async def _read(path: Path) -> None:
    async with SqliteStore(path, read_only=True) as store:
        await store.snapshot()


async def _stopped(config: Config) -> list[Finding]:
    async with reading(config) as reader:
        gauges = statistics((await load_queue(config, reader)).scheduler.state, reader.now).gauges
    stopped = {gauge.quota: gauge.stopped for gauge in gauges if gauge.stopped is not None}
    return [
        Finding(f"quota {name}", False, f"{why}: mend that, then `headway limits resume {name}`")
        for name, why in stopped.items()
    ]


def _nearest(path: Path) -> Path:
    """The path, or the folder around it that is there."""
    return next(place for place in (path, *path.parents) if place.exists())


def _disk(database: Path) -> Finding:
    folder = _nearest(database.parent)
    free = shutil.disk_usage(folder).free
    if free < LOW_DISK_BYTES:
        return Finding("disk", False, f"{free / 2**20:,.0f} MB free at {folder}: make room")
    return Finding("disk", True, f"{free / 2**30:,.1f} GB free at {folder}")


def _models(config: Config) -> Iterator[Finding]:
    names = list(config.models) or ["any"]
    for name in names:
        variable = config.model(name).api_key_env
        if config.model(name).api_key_command is not None:
            yield Finding(f"model {name}", True, "a command prints its key; it was not run")
        elif os.environ.get(variable):
            yield Finding(f"model {name}", True, f"{variable} is set")
        else:
            advice = "export it (`headway demo` runs without any key)"
            yield Finding(f"model {name}", False, f"{variable} is not set: {advice}")


def _components(config: Config) -> Iterator[Finding]:
    for name, target in config.workflows.items():
        if ":" in target and not os.path.isabs(target):
            yield Finding(f"workflow {name}", True, f"{target} (imported when it runs)")
        elif Path(target).is_file():
            yield Finding(f"workflow {name}", True, target)
        else:
            yield Finding(f"workflow {name}", False, f"{target}: no such file: check the path")

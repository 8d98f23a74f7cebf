"""``headway db``: the database itself, looked over, copied, made smaller, brought up to date."""

from argparse import Namespace
from pathlib import Path

import anyio

from headway_scheduler.backends.sqlite.maintenance import back_up, compact, problems
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.errors import CallerError, StoreBusy

from ...api import Headway
from ...config import load
from ..output import say, say_json
from ..parser import FAILED
from ..text import counted


def check(args: Namespace) -> int:
    """Look through all of it."""
    path = load(args.config).database
    found = problems(path)
    if args.json:
        say_json({"database": str(path), "problems": found})
    elif found:
        say("\n".join(found))
        say("stop what writes it and bring back a backup; `headway db backup` makes one")
    else:
        say(f"{path}: all is well")
    return FAILED if found else 0


def backup(args: Namespace) -> int:
    """Copy it, beside whoever writes it."""
    target = Path(args.file)
    back_up(load(args.config).database, target)
    if args.json:
        say_json({"backup": str(target), "bytes": target.stat().st_size})
    else:
        say(f"{target}: {target.stat().st_size / 2**20:,.1f} MB")
    return 0


def prune(args: Namespace) -> int:
    """Delete runs that ended long ago, but the last ones, and give their space back."""
    if args.older_than is None and args.keep is None:
        raise CallerError("say which runs: --older-than TIME, --keep N, or both")
    path = load(args.config).database
    before = path.stat().st_size if path.exists() else 0
    ids = anyio.run(_pruned, args)
    note = ""
    if ids and not args.dry_run:
        try:
            compact(path)
        except StoreBusy:
            note = "; the file stays as large while others use it, and has room for what comes"
    freed = max(0, before - path.stat().st_size)
    runs = counted(len(ids), "run")
    if args.json:
        say_json({"runs": ids, "freed_bytes": freed, "dry_run": args.dry_run})
    elif args.dry_run:
        say(f"would delete {runs}")
    else:
        say(f"deleted {runs}{note or f', {freed / 2**20:,.1f} MB freed'}")
    return 0


def migrate(args: Namespace) -> int:
    """Bring it to the format of this version; what it was is kept beside it."""
    path = load(args.config).database
    if not path.exists():
        raise CallerError(f"{path}: there is no such database: the first run makes it")
    anyio.run(_open, path)
    copies = sorted(str(each) for each in path.parent.glob(f"{path.name}.v*"))
    if args.json:
        say_json({"database": str(path), "older": copies})
    else:
        kept = f"; kept: {', '.join(copies)}" if copies else ""
        say(f"{path}: up to date{kept}")
    return 0


async def _open(path: Path) -> None:
    async with SqliteStore(path):
        pass


async def _pruned(args: Namespace) -> list[str]:
    async with Headway(args.config) as headway:
        return await headway.prune(
            older_than_seconds=args.older_than, keep=args.keep, is_dry=args.dry_run
        )

"""``headway db``: the database itself, looked over, copied, made smaller, brought up to date."""

from argparse import Namespace

import anyio

from headway_scheduler.backends import open_backend
from headway_scheduler.errors import CallerError, StoreBusy
from headway_scheduler.ports import Backend

from ...api import Headway
from ...config import load
from ..output import say, say_json
from ..parser import FAILED
from ..text import counted


def check(args: Namespace) -> int:
    """Look through all of it."""
    backend = _backend(args)
    found = anyio.run(backend.maintenance().problems)
    if args.json:
        say_json({"database": backend.name, "problems": list(found)})
    elif found:
        say("\n".join(found))
        say("stop what writes it and bring back a backup; `headway db backup` makes one")
    else:
        say(f"{backend.name}: all is well")
    return FAILED if found else 0


def backup(args: Namespace) -> int:
    """Copy it, beside whoever writes it."""
    size = anyio.run(_backend(args).maintenance().back_up, args.file)
    if args.json:
        say_json({"backup": args.file, "bytes": size})
    else:
        say(f"{args.file}: {size / 2**20:,.1f} MB")
    return 0


def prune(args: Namespace) -> int:
    """Delete runs that ended long ago, but the last ones, and give their space back."""
    if args.older_than is None and args.keep is None:
        raise CallerError("say which runs: --older-than TIME, --keep N, or both")
    ids = anyio.run(_pruned, args)
    freed, note = 0, ""
    if ids and not args.dry_run:
        try:
            freed = anyio.run(_backend(args).maintenance().compact)
        except StoreBusy:
            note = "; the file stays as large while others use it, and has room for what comes"
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
    backend = _backend(args)
    copies = anyio.run(backend.maintenance().migrate)
    if args.json:
        say_json({"database": backend.name, "older": list(copies)})
    else:
        kept = f"; kept: {', '.join(copies)}" if copies else ""
        say(f"{backend.name}: up to date{kept}")
    return 0


def _backend(args: Namespace) -> Backend:
    return open_backend(load(args.config).database)


async def _pruned(args: Namespace) -> list[str]:
    async with Headway(args.config) as headway:
        return await headway.prune(
            older_than_seconds=args.older_than, keep=args.keep, is_dry=args.dry_run
        )

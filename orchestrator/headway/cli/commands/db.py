"""``headway db``: the database itself, looked over, copied, made smaller, brought up to date."""

from argparse import Namespace
from collections.abc import Sequence

import anyio

from headway_scheduler.backends import open_backend
from headway_scheduler.errors import CallerError, StoreBusy
from headway_scheduler.ports import Backend, Maintenance, Report, UnreadableRow

from ...api import Headway
from ...config import load
from ..output import say, say_json
from ..parser import FAILED
from ..progress import progress
from ..text import counted


def check(args: Namespace) -> int:
    """Look through all of it."""
    backend = _backend(args)
    found, aside = anyio.run(_checked, backend.maintenance())
    if args.json:
        kept = [row._asdict() for row in aside]
        say_json({"database": backend.name, "problems": list(found), "set_aside": kept})
        return FAILED if found else 0
    if found:
        say("\n".join(found))
        say(
            "rows that cannot be read are set aside by `headway db repair`; for anything else stop "
            "what writes it and bring back a backup; `headway db backup` makes one"
        )
    else:
        say(f"{backend.name}: all is well")
    if aside:
        say(f"{counted(len(aside), 'row')} set aside: `headway db repair --list`")
    return FAILED if found else 0


async def _checked(maintenance: Maintenance) -> tuple[Sequence[str], Sequence[UnreadableRow]]:
    found = await maintenance.problems()
    return found, await maintenance.set_aside()


def repair(args: Namespace) -> int:
    """Set aside what cannot be read, or list what was."""
    maintenance = _backend(args).maintenance()
    rows = anyio.run(maintenance.set_aside if args.list else maintenance.repair)
    if args.json:
        say_json({"set_aside": [row._asdict() for row in rows]})
        return 0
    for row in rows:
        say(f"{row}: set aside{'' if args.list else _consequence(row)}")
    if not rows:
        say("nothing is set aside" if args.list else "every row can be read")
    return 0


def _consequence(row: UnreadableRow) -> str:
    match row.kind:
        case "run":
            return "; the run is gone, its queued calls are cancelled, its other calls stay"
        case "call":
            return "; its run asks it again when it goes on, and may pay for it again"
        case "request":
            return "; it was not carried out"
        case _:
            return ""


def backup(args: Namespace) -> int:
    """Copy it, beside whoever writes it."""
    with progress("copying", as_json=args.json) as report:
        size = anyio.run(_backend(args).maintenance().back_up, args.file, report)
    if args.json:
        say_json({"backup": args.file, "bytes": size})
    else:
        say(f"{args.file}: {size / 2**20:,.1f} MB")
    return 0


def prune(args: Namespace) -> int:
    """Delete runs that ended long ago, but the last ones, and give their space back."""
    if args.older_than is None and args.keep is None:
        raise CallerError("say which runs: --older-than TIME, --keep N, or both")
    with progress("deleting runs", as_json=args.json) as report:
        ids = anyio.run(_pruned, args, report)
    freed, note = 0, ""
    if ids and not args.dry_run:
        try:
            with progress("giving space back", as_json=args.json):
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


async def _pruned(args: Namespace, report: Report) -> list[str]:
    async with Headway(args.config) as headway:
        return await headway.prune(
            older_than_seconds=args.older_than, keep=args.keep, is_dry=args.dry_run, report=report
        )

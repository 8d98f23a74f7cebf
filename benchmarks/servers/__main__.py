"""Servers that nobody here wrote: a flood of 40 teams against limits that others enforce.

    python -m benchmarks.servers [--headers] [SERVER ...]

Each team makes 4 calls, one after the other: 25 teams of class background, 10 normal, 5
interactive. The servers are LiteLLM's proxy and mocklimit, which enforce limits, and aimock, which
only fails; their modules here say how. They are installed from the registries into places of their
own below build/, and listen on loopback. *right* states the limit and how it is counted, *limit*
states the limit alone, and *nothing* leaves all to be found out. With ``--headers`` mocklimit tells
its limits. aimock takes half an hour, so it is played only if it is named. *floor* is the earliest
end that the limit allows. The classes have their median seconds from question to admission.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import anyio

from . import aimock, litellm_proxy, mocklimit
from .flood import TEAMS, Books, Flood, play

SERVERS = {
    "litellm": litellm_proxy.served,
    "mocklimit": mocklimit.served,
    "aimock": aimock.served,
}
ENFORCING = ("litellm", "mocklimit")
BARS = {"right": (1.15, 10.0), "limit": (1.5, 40.0), "nothing": (1.5, 40.0)}
"""How many floors a flood may take, and how many of 1,000 requests may be refused. Of who does not
know how the limit is counted, as of who knows nothing: it cannot be told."""
URGENT_SECONDS = 0.3
"""How long interactive calls may wait, in the median: there is room for all of theirs."""
CLASSES = tuple(dict.fromkeys(reversed(TEAMS)))


def is_missed(flood: Flood, total: int, refused: int) -> bool:
    """Whether a flood misses a bar. One without a limit has none: it has ended."""
    if flood.floor is None:
        return False
    times, most = BARS[flood.stated]
    is_late = flood.seconds > times * flood.floor or flood.wait("interactive") > URGENT_SECONDS
    return is_late or 1000 * refused / total > most


def table(played: Iterable[tuple[str, Flood, Books]]) -> int:
    """Print a row for each flood; return how many of them miss a bar."""
    head = f"{'server':11}{'limit':16}{'stated':9}{'floor':>6}{'seconds':>9}{'refused':>10}"
    print(head + "".join(f"{name:>13}" for name in CLASSES))
    missed = 0
    for server, flood, books in played:
        total, refused = books(flood)
        is_bad = is_missed(flood, total, refused)
        missed += is_bad
        floor = "" if flood.floor is None else f"{flood.floor:.0f}"
        row = f"{server:11}{flood.limit:16}{flood.stated:9}{floor:>6}{flood.seconds:9.1f}"
        row += f"{f'{refused}/{total}':>10}"
        print(row + "".join(f"{flood.wait(name):13.2f}" for name in CLASSES) + " *" * is_bad)
    print(f"bars missed (*): {missed}")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--headers", action="store_true", help="let mocklimit tell its limits")
    parser.add_argument("server", nargs="*", help=f"of {', '.join(SERVERS)}")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder, lines = Path(name), list[Sequence[Flood]]()
        played = list[tuple[str, Flood, Books]]()
        for server in args.server or ENFORCING:
            served = SERVERS[server](folder, has_headers=args.headers)
            its_lines, books = stack.enter_context(served)
            lines += its_lines
            played += [(server, flood, books) for line in its_lines for flood in line]
        anyio.run(play, lines, folder)
        return int(table(played) > 0)


if __name__ == "__main__":
    sys.exit(main())

"""Gives odd inputs at random to guilty runs, beside four bystanders; a seed makes them again.

    python -m benchmarks.fuzz [--inputs 100000] [--seed S] [--first-block B] [--processes 1|2]
        [--seconds N]

Inputs are answers, streams and vectors with odd heads, bodies, bytes and packing (AutoGen's own
client and ``hw.openai``, real HTTP on loopback), faults of tools, agents and factories, arguments
of the Python API, rows and requests written into the database by hand. A bystander is harmed if its
transcript, or the number of its paid calls, differs from that of the same run alone. After each 80
blocks of 50 inputs the database is opened again, checked, repaired and checked, and the next blocks
get a fresh one.

The seed and the number of an input make the input, in any process, and a block has the same numbers
again. The real time that passes decides the rest: which requests are asked for while an odd answer
has paused their quota, and are not sent; which are sent a second time; which row of a guilty run a
statement meets. So the counts of two runs from one seed differ a little. Exit status 1 if a
bystander was harmed, anything hung, a caller got an error that is no caller's, or the journal
cannot be read.
"""

import argparse
import asyncio
import json
import logging
import os
import random
import resource
import sys
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from .world import BLOCK, BLOCKS_OF_CHAPTER, Chapter, Other, Report, take_part, watched


async def fuzz(args: argparse.Namespace) -> Report:
    """Play chapters until there were enough inputs."""
    report, block = Report(), args.first_block
    other = None
    if args.processes == 2:
        command = (sys.executable, "-m", "benchmarks.fuzz", "--beside", "--seed", str(args.seed))
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, limit=2**24
        )
        other = Other(process, report)
    began, printed = time.monotonic(), 0
    with watched(report):
        while (seen := report.inputs.total()) < args.inputs:
            if time.monotonic() - began > args.seconds:
                break
            left = -(-(args.inputs - seen) // BLOCK)
            many = min(left, BLOCKS_OF_CHAPTER)
            with TemporaryDirectory() as folder:
                chapter = Chapter(args.seed, Path(folder), report, latency_seconds=0.1)
                await chapter.play(list(range(block, block + many)), other)
            block += many
            found = [*report.harmed, *report.hangs, *report.faults]
            for each in found[printed:]:
                print(f"FAULT {each}")
            printed = len(found)
            print(
                f"{report.inputs.total():,} inputs to block {block}, "
                f"{time.monotonic() - began:,.0f} s, {len(report.harmed)} harmed, "
                f"{len(report.hangs)} hangs, {len(report.faults)} faults",
                file=sys.stderr,
                flush=True,
            )
    if other is not None:
        process.terminate()
        await process.wait()
    return report


def beside(seed: int) -> None:
    """Be the second process: a chapter a line."""
    for line in sys.stdin:
        print(anyio.run(take_part, seed, json.loads(line)).line(), flush=True)


def main() -> int:
    """Print the seed, faults as they are found, and what it came to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no more then")
    parser.add_argument("--first-block", type=int, default=0)
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1)
    parser.add_argument("--beside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ["OPENAI_API_KEY"] = "not-a-key"
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    if args.beside:
        beside(args.seed)
        return 0
    print(f"seed {args.seed}, {args.processes} process(es), from block {args.first_block}")
    sys.stdout.flush()
    began = time.monotonic()
    report = anyio.run(fuzz, args)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = max(peak, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    is_well = not (report.harmed or report.hangs or report.faults)
    kinds = ", ".join(f"{many:,} {kind}" for kind, many in sorted(report.inputs.items()))
    print(
        f"{report.inputs.total():,} inputs in {time.monotonic() - began:,.0f} s: "
        f"{kinds}; "
        f"{report.not_delivered:,} were asked for while their quota was paused, "
        f"{report.repeated:,} attempts after the first\n"
        f"bystanders {report.bystanders:,}, harmed {len(report.harmed)}; "
        f"hangs {len(report.hangs)}; "
        f"other faults {len(report.faults)}; rows set aside by `db repair` {report.broken_rows:,}, "
        f"then `db check` {'is clean' if is_well else 'and all else: see above'}\n"
        f"highest memory {peak / 1024:,.0f} MiB; longest pause of a loop "
        f"{report.longest_pause_seconds:.2f} s"
    )
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())

"""``headway completion``."""

import sys
from argparse import Namespace

import shtab

from ..parser import new_parser


def show(args: Namespace) -> int:
    """Print what a shell reads to complete the words of ``headway``."""
    parsers = [new_parser()]
    for parser in parsers:
        parsers += parser.verbs.values()
        for action in parser.files:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # so shtab wants it
    sys.stdout.write(shtab.complete(parsers[0], shell=args.shell))
    return 0

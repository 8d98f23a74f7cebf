"""The command line at a time that stands still: what it shows of a database is always the same."""

import sys

from headway.cli import main
from headway_scheduler.backends.sqlite.boot_clock import Anchor

NOW = 1_772_366_400.0
"""2026-03-01 12:00:00 UTC."""

if __name__ == "__main__":
    Anchor.now = lambda self: NOW  # type: ignore[method-assign]
    sys.exit(main())

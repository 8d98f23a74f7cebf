"""Keeps what handlers and filters of log lines raise away from the code that logs.

Law of this file: no log line ends the code that writes it.

Theory of operation. A handler or a filter is the program's own, or a tool's. Python reports what
``emit`` of a handler raises, but lets out what its ``handle`` or a filter raises. The pump, the
leader and the thread of the database log as well, and all runs wait for those.
"""

import logging


class _Guarded(logging.Logger):
    """A logger whose lines raise nothing: an error is reported on stderr, as Python does it."""

    def handle(self, record: logging.LogRecord) -> None:
        try:
            super().handle(record)
        except (Exception, SystemExit):
            logging.Handler().handleError(record)


def guard(name: str) -> None:
    """Let lines of the logger ``name`` raise nothing, whoever made that logger."""
    logger = logging.getLogger(name)
    if type(logger) is logging.Logger:
        logger.__class__ = _Guarded


guard("headway")
# Its thread, which writes every commit, logs what it writes before and after each: a line that
# raises would end it, and every commit after that would wait for ever.
guard("aiosqlite")

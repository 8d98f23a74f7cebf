"""Writes log lines, and what a command has to say, to stderr and to a log file.

Law of this file: what is written holds no key and no escape sequence.

Theory of operation. The handler of last resort is replaced: it gets the lines that no other handler
gets. So a workflow that sets up logging for itself still gets its lines as it wishes, unless the
command line says how or where to write them.
"""

import json
import logging
import os
import sys
import warnings
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from logging.handlers import RotatingFileHandler
from typing import TextIO

from headway_scheduler.errors import CallerError

from . import output
from .files import check_writable

LARGEST_FILE = 10 * 2**20
"""Bytes of a log file; then it is renamed FILE.1, which may be FILE.2 by then, up to FILE.3."""
OLDER_FILES = 3
_NOISY = ("autogen_core", "autogen_agentchat")
"""Loggers that print a traceback for every error of an agent, and every call that a Ctrl-C cancels.
Errors are printed by the command, once."""
_NOISY_MODULES = r"(autogen_\w+|pydantic\w*)(\.|$)"


@contextmanager
def begun(args: Namespace) -> Iterator[None]:
    """Write lines in the block as the options say. Raises CallerError for a file that cannot be."""
    options = vars(args)
    as_json, file = options.get("log_format") == "json", options.get("log_file")
    is_verbose = options.get("verbose", False)
    shape = JsonLine() if as_json else TextLine(has_time=options.get("has_time", False))
    with ExitStack() as stack:
        handlers: list[logging.Handler] = [_Stderr()]
        handlers[0].setLevel(logging.INFO if is_verbose else logging.WARNING)
        if file is not None:
            handlers.append(stack.enter_context(_opened(file)))
        for handler in handlers:
            handler.setFormatter(shape)
            if not is_verbose:
                handler.addFilter(_is_wanted)
        if as_json or file is not None:
            for handler in handlers:
                logging.root.addHandler(handler)
                stack.callback(logging.root.removeHandler, handler)
        stack.callback(setattr, logging, "lastResort", logging.lastResort)
        logging.lastResort = handlers[0]
        logger = logging.getLogger("headway")
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.INFO if is_verbose or file is not None else logging.NOTSET)
        stack.enter_context(warnings.catch_warnings())
        if not is_verbose:
            # What is lost (coroutines, files) is a RuntimeWarning or a ResourceWarning: it is told.
            for category in (UserWarning, DeprecationWarning, FutureWarning):
                warnings.filterwarnings("ignore", category=category, module=_NOISY_MODULES)
        warnings.showwarning = _log_warning
        stack.callback(setattr, output, "teller", output.teller)
        output.teller = Teller(handlers)
        yield


class Teller:
    """Writes what the command itself has to say: whatever level, it goes to stderr."""

    def __init__(self, handlers: list[logging.Handler]) -> None:
        self._handlers = handlers

    def __call__(self, level: str, line: str) -> None:
        """Write one line."""
        number = logging.getLevelNamesMapping()[level.upper()]
        record = logging.LogRecord(_SELF, number, "", 0, line, None, None)
        for handler in self._handlers:
            handler.handle(record)


_SELF = "headway.cli"


class TextLine(logging.Formatter):
    """``headway: line``, or with time and level; a record of others has its level and logger."""

    def __init__(self, *, has_time: bool) -> None:
        super().__init__()
        self._has_time = has_time

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and below it the traceback if there is one."""
        level, text = record.levelname.lower(), _text(record)
        if self._has_time:
            at = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="seconds")
            return f"{at} {level} {text}"
        return f"headway: {text}" if record.name == _SELF else f"headway: {level}: {text}"


class JsonLine(logging.Formatter):
    """One JSON object a line: ``at`` (epoch seconds), ``level``, ``logger``, ``message``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object."""
        return json.dumps(
            {
                "at": record.created,
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": _text(record),
            }
        )


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to the stderr of the moment: a live view has one of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _text(record: logging.LogRecord) -> str:
    text = record.getMessage().rstrip()
    if record.exc_info:
        text = f"{text}\n{logging.Formatter().formatException(record.exc_info)}"
    # Lines of other loggers, and errors, may quote a key. No key was read before this is imported.
    if (secrets := sys.modules.get("headway_agents.secrets")) is not None:
        text = secrets.scrubbed(text)
    return output.clean(text)


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Log a warning, as logging.captureWarnings does; that gives its logger a handler, however."""
    text = warnings.formatwarning(message, category, filename, lineno, line)
    logging.getLogger("py.warnings").warning("%s", text)


def _is_wanted(record: logging.LogRecord) -> bool:
    return not record.name.startswith(_NOISY)


@contextmanager
def _opened(file: str) -> Iterator[logging.Handler]:
    check_writable(file)
    try:
        # What agents said may be private. Kept open by its mode: the file that is there stays.
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        handler = RotatingFileHandler(
            file, maxBytes=LARGEST_FILE, backupCount=OLDER_FILES, encoding="utf-8"
        )
    except OSError as error:
        raise CallerError(f"{file} cannot be written: {error.strerror}") from None
    try:
        yield handler
    finally:
        handler.close()

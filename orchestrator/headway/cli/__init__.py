"""The command line. Law of this package: every failure is one line that says what to do.

Theory of operation. ``parser`` is the grammar. It names a function for each command, in a module
that is imported when the command runs; the function returns the exit code. :func:`main` prints what
it raises: an error of Headway in one line, any other with its traceback, because that is a bug.
"""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from io import TextIOWrapper

from headway_scheduler.errors import CallerError, HeadwayError, StoreError

from .output import complain, forget_reader
from .parser import BAD_DATABASE, BAD_INPUT, FAILED, INTERRUPTED, parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    _let_any_character_pass()
    args = parse(sys.argv[1:] if argv is None else argv)
    return _told(_logged, args)


def _logged(args: Namespace) -> int:
    from .log import begun  # `--help` needs none

    with begun(args):
        return _told(_carried_out, args)


def _carried_out(args: Namespace) -> int:
    module, _, function = args.target.partition(":")
    status: int = getattr(import_module(f".commands.{module}", __name__), function)(args)
    sys.stdout.flush()
    return status


def _told(act: Callable[[Namespace], int], args: Namespace) -> int:
    """Return the exit code of ``act``, and say why it failed if it did."""
    try:
        return act(args)
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except Exception as error:
        told = _tell(error)
        if told is None:
            raise
        return told


def _tell(error: Exception) -> int | None:
    """Say in a line what happened and return the exit code; None if it is a bug."""
    causes = list(_leaves(error))
    if any(isinstance(cause, BrokenPipeError) for cause in causes):
        forget_reader()
        return INTERRUPTED
    if not all(isinstance(cause, HeadwayError) for cause in causes):
        return None
    for text in dict.fromkeys(map(str, causes)):
        complain(text)
    return max(map(_status, causes))


def _status(error: BaseException) -> int:
    if isinstance(error, StoreError):
        return BAD_DATABASE
    return BAD_INPUT if isinstance(error, CallerError) else FAILED


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors inside the groups that task groups make."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _let_any_character_pass() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

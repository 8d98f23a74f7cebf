"""Reads the words of the command line. Law of this file: a wrong word is refused in one line.

The line names the word that was meant, where one is near, or else what is permitted.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from ...spelling import did_you_mean
from ..output import complain
from .examples import EXAMPLES


class Parser(argparse.ArgumentParser):
    """A parser that knows its verbs and its options by name. Options are never shortened."""

    def __init__(self, **options: Any) -> None:
        self.options: list[str] = []
        """Its long options, with their dashes."""
        self.verbs: Mapping[str, Parser] = {}
        """The parsers of its verbs, by name."""
        self.files: list[argparse.Action] = []
        """Its arguments that are files."""
        shape = argparse.RawDescriptionHelpFormatter
        super().__init__(formatter_class=shape, allow_abbrev=False, **options)

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """Add an argument, and note the name of an option."""
        self.options += [name for name in names if name.startswith("--")]
        added = super().add_argument(*names, **options)
        if added.metavar == "FILE":
            self.files.append(added)
        return added

    def format_help(self) -> str:
        """Return the help, with the examples before the epilog."""
        epilog, examples = self.epilog, EXAMPLES.get(self.prog)
        if examples is not None:
            lines = "\n".join(f"  {line}" for line in examples.splitlines())
            self.epilog = f"examples:\n{lines}" + (f"\n\n{epilog}" if epilog else "")
        try:
            return super().format_help()
        finally:
            self.epilog = epilog

    def add_subparsers(self, **options: Any) -> Any:
        """Add the place of a verb."""
        added = super().add_subparsers(**options)
        self.verbs = added.choices
        return added

    def error(self, message: str) -> NoReturn:
        """Say in one line what is wrong, and exit with 2."""
        advice = "" if message.endswith("?") else f": `{self.prog} --help` shows what there is"
        complain(f"{message}{advice}")
        sys.exit(2)

    def refuse_typos(self, words: Sequence[str], root: "Parser | None" = None) -> None:
        """Exit with 2 at the first verb or option that does not exist, and name the one meant.

        ``root``: the parser of the first verb; None: this one.
        """
        root = root or self
        for place, word in enumerate(words):
            if word == "--":
                return
            if word.startswith("--"):
                name = word.partition("=")[0]
                if name not in self.options and " " not in word:  # a text may begin with dashes
                    self.error(_refused(f"option {name}", did_you_mean(name, self.options)))
            elif self.verbs and not word.startswith("-"):
                if word not in self.verbs:
                    self.error(_refused(f"command {self.prog} {word}", self._meant(word, root)))
                return self.verbs[word].refuse_typos(words[place + 1 :], root)

    def _meant(self, word: str, root: "Parser") -> str:
        """Return the verb that was meant, of this parser or, by its exact name, of another."""
        if close := did_you_mean(word, self.verbs):
            return close
        if word in root.verbs:
            return f"did you mean {root.verbs[word].prog}?"
        elsewhere = [verb.prog for verb in root._all_verbs() if verb.prog.endswith(f" {word}")]
        return f"did you mean {' or '.join(elsewhere)}?" if elsewhere else ""

    def _all_verbs(self) -> "Iterator[Parser]":
        for verb in self.verbs.values():
            yield verb
            yield from verb._all_verbs()


def _refused(what: str, meant: str) -> str:
    return f"there is no {what}{': ' if meant else ''}{meant}"


def one_of(permitted: Sequence[str]) -> Callable[[str], str]:
    """Return a reader of a word that is one of some words."""

    def read(text: str) -> str:
        if text not in permitted:
            meant = did_you_mean(text, permitted) or f"permitted are {', '.join(permitted)}"
            raise argparse.ArgumentTypeError(_refused(repr(text), meant))
        return text

    return read


def count(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


def positive(text: str) -> float:
    """Read a finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return number


def duration(text: str) -> float:
    """Read seconds from a number with an optional unit."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    factor = units.get(text[-1:], 0)
    try:
        return positive(text[:-1] if factor else text) * (factor or 1)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"must be as 90s, 30m or 2h, not {text!r}") from None


def parameter(text: str) -> tuple[str, Any]:
    """Read a name and its value, which is JSON or else text."""
    name, equals, value = text.partition("=")
    if not name.isidentifier() or not equals:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, not {text!r}")
    import json  # `headway --help` needs none

    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value

"""Estimates the tokens of a call, from the usage of earlier calls. Law: pure arithmetic.

For each agent on each model it learns tokens per character of prompt, and the size of answers. A
new agent gets its model's averages; a new model gets 4 characters per token and the output cap.
Averages are exponential, over about the last 12 calls.
"""

import json
from dataclasses import asdict, dataclass, replace
from math import ceil, sqrt

from ...model.batch import Lesson
from ...model.calls import LARGEST_READ_COUNT, Usage
from ...model.formulas import CHARACTERS_PER_TOKEN

TOKENS = "tokens"
"""The kind of lessons that are learned here."""

UNKNOWN_OUTPUT = 1_000
"""Output tokens of a call of a new model, without an output cap."""
PROVEN = 3
"""After so many answers of an agent on a model, its averages bound the cost of its next call."""
_INPUT_MARGIN = 1.25
"""A bound on the tokens of a prompt is so many times the learned tokens."""
_SHARE = 1 / 12
"""The weight of a new call in the averages."""
_WORTH_KEEPING = 0.02
"""A lesson is written when an average has moved by more than this share since the last one."""


@dataclass(slots=True)
class _Seen:
    """Moving averages: tokens per character; output tokens, and their variance."""

    ratio: float
    output: float
    variance: float = 0.0
    count: int = 0
    """How many answers they come from, counted up to ``PROVEN``."""

    def add(self, ratio: float, output: float) -> None:
        self.count = min(PROVEN, self.count + 1)
        self.ratio += _SHARE * (ratio - self.ratio)
        difference = output - self.output
        self.output += _SHARE * difference
        self.variance = (1 - _SHARE) * (self.variance + _SHARE * difference**2)

    def differs(self, other: "_Seen") -> bool:
        if self.count != other.count:
            return True
        pairs = ((self.ratio, other.ratio), (self.output, other.output))
        return any(abs(new - old) > _WORTH_KEEPING * old for new, old in pairs)


class Estimates:
    """Learns what calls of an agent (``path``) to a model take."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._kept: dict[str, _Seen] = {}

    def of(self, path: str, model: str, characters: int, cap: int | None) -> Usage:
        """Estimate the usage of a call; its output is one standard deviation above the mean."""
        seen = self._seen.get(_subject(path, model)) or self._seen.get(_subject("", model))
        if seen is None:
            output = UNKNOWN_OUTPUT if cap is None else cap
            return _usage(characters / CHARACTERS_PER_TOKEN, output)
        output = ceil(seen.output + sqrt(seen.variance))
        output = output if cap is None else min(output, cap)
        return _usage(characters * seen.ratio, output)

    def most(
        self, path: str, model: str, characters: int, most_tokens: int, cap: int | None
    ) -> tuple[Usage, bool]:
        """Return the most that a call takes, and whether that is a bound.

        Output is the cap; without a cap, three standard deviations above the mean of at least three
        answers. Input is ``most_tokens`` of the prompt; after three answers, a quarter above what
        is learned, if that is less. With neither a cap nor three answers the output is only a
        guess, from fewer answers or those of other agents, else 0.
        """
        seen = self._seen.get(_subject(path, model))
        if seen is None or seen.count < PROVEN:
            if cap is not None:
                return Usage(most_tokens, cap), True
            seen = seen or self._seen.get(_subject("", model))
            return Usage(most_tokens, 0 if seen is None else ceil(seen.output)), False
        learned = ceil(_INPUT_MARGIN * seen.ratio * characters)
        output = ceil(seen.output + 3 * sqrt(seen.variance)) if cap is None else cap
        return Usage(min(most_tokens, max(1, learned)), output), True

    def is_proven(self, path: str, model: str) -> bool:
        """Whether enough answers of an agent on a model are known to bound the next one."""
        seen = self._seen.get(_subject(path, model))
        return seen is not None and seen.count >= PROVEN

    def learn(self, path: str, model: str, characters: int, usage: Usage) -> list[Lesson]:
        """Learn from the usage of a call. Return the lessons that are worth writing down."""
        if not (characters and usage.input_tokens):
            return []
        lessons = []
        for subject in (_subject(path, model), _subject("", model)):
            ratio, output = usage.input_tokens / characters, float(usage.output_tokens)
            seen = self._seen.setdefault(subject, _Seen(ratio, output))
            seen.add(ratio, output)
            kept = self._kept.get(subject)
            if kept is None or seen.differs(kept):
                self._kept[subject] = replace(seen)
                lessons.append(Lesson(TOKENS, subject, json.dumps(asdict(seen))))
        return lessons

    def load(self, lesson: Lesson) -> None:
        """Go on from a stored lesson. If the lesson is malformed, raises and changes nothing."""
        told = {name: float(number) for name, number in json.loads(lesson.value).items()}
        count = int(told.pop("count", 0))
        seen = _Seen(told.pop("ratio"), told.pop("output"), told.pop("variance", 0.0), count)
        if told:
            raise ValueError(f"unknown: {', '.join(told)}")
        if not (seen.ratio > 0 and seen.output >= 0 and seen.variance >= 0):
            raise ValueError("an estimate is below 0")
        self._seen[lesson.subject], self._kept[lesson.subject] = seen, replace(seen)


def _usage(given: float, made: int) -> Usage:
    """Return an estimate. Its counts are at most 10^9, as counts of answers are."""
    return Usage(max(1, ceil(min(given, LARGEST_READ_COUNT))), min(made, LARGEST_READ_COUNT))


def _subject(path: str, model: str) -> str:
    return json.dumps([model, path])

"""Estimates the tokens of a call, from the usage of earlier calls. Law: pure arithmetic.

Learned for each agent on each model: tokens per character of prompt, and the size of answers. A new
agent gets its model's averages; a new model, 4 characters per token and the output cap. Averages
are exponential, over about the last 12 calls.
"""

import json
from dataclasses import asdict, dataclass
from math import ceil, sqrt

from ...model.batch import Lesson
from ...model.calls import LARGEST_READ_COUNT, Usage
from ...model.formulas import CHARACTERS_PER_TOKEN

TOKENS = "tokens"
"""The kind of lessons that are learned here."""

UNKNOWN_OUTPUT = 1_000
"""Output tokens of a call of a new model, without an output cap."""
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

    def add(self, ratio: float, output: float) -> None:
        self.ratio += _SHARE * (ratio - self.ratio)
        difference = output - self.output
        self.output += _SHARE * difference
        self.variance = (1 - _SHARE) * (self.variance + _SHARE * difference**2)

    def differs(self, other: "_Seen") -> bool:
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

    def learn(self, path: str, model: str, characters: int, usage: Usage) -> list[Lesson]:
        """Learn from what a call took. Return the lessons that are worth writing down."""
        if not (characters and usage.input_tokens):
            return []
        lessons = []
        for subject in (_subject(path, model), _subject("", model)):
            ratio, output = usage.input_tokens / characters, float(usage.output_tokens)
            seen = self._seen.setdefault(subject, _Seen(ratio, output))
            seen.add(ratio, output)
            kept = self._kept.get(subject)
            if kept is None or seen.differs(kept):
                self._kept[subject] = _Seen(seen.ratio, seen.output, seen.variance)
                lessons.append(Lesson(TOKENS, subject, json.dumps(asdict(seen))))
        return lessons

    def load(self, lesson: Lesson) -> None:
        """Go on from what was written down. Raises ValueError or TypeError, and changes nothing."""
        told = {name: float(number) for name, number in json.loads(lesson.value).items()}
        seen = _Seen(**told)
        if not (seen.ratio > 0 and seen.output >= 0 and seen.variance >= 0):
            raise ValueError("an estimate is below 0")
        self._seen[lesson.subject], self._kept[lesson.subject] = seen, _Seen(**told)


def _usage(given: float, made: int) -> Usage:
    """An estimate: like a count that is read, at most 10^9."""
    return Usage(max(1, ceil(min(given, LARGEST_READ_COUNT))), min(made, LARGEST_READ_COUNT))


def _subject(path: str, model: str) -> str:
    return json.dumps([model, path])

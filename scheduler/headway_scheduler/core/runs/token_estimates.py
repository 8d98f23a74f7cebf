"""How many tokens a call will take, learned from the usage that came back. Law: pure arithmetic.

Of each agent on each model: tokens for a character of prompt, and the size of its answers; of an
agent that is new, what its model has shown; of a model that is new, four characters a token and
the output cap. Averages move with the last dozen of calls.
"""

import json
from dataclasses import asdict, dataclass
from math import ceil, sqrt

from ...model.batch import Lesson
from ...model.calls import Usage
from ...model.formulas import CHARACTERS_PER_TOKEN

TOKENS = "tokens"
"""The kind of lessons that are learned here."""

UNKNOWN_OUTPUT = 1_000
_SHARE = 1 / 12
_WORTH_KEEPING = 0.02


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
    """What calls of an agent (``path``) to a model take."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._kept: dict[str, _Seen] = {}

    def of(self, path: str, model: str, characters: int, cap: int | None) -> Usage:
        """Predict the usage of a call; its output a standard deviation above the mean."""
        seen = self._seen.get(_subject(path, model)) or self._seen.get(_subject("", model))
        if seen is None:
            output = UNKNOWN_OUTPUT if cap is None else cap
            return Usage(max(1, ceil(characters / CHARACTERS_PER_TOKEN)), output)
        output = ceil(seen.output + sqrt(seen.variance))
        output = output if cap is None else min(output, cap)
        return Usage(max(1, ceil(characters * seen.ratio)), output)

    def learn(self, path: str, model: str, characters: int, usage: Usage) -> list[Lesson]:
        """Take in what a call took. Return what is worth writing down."""
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
        """Go on from what was written down."""
        self._seen[lesson.subject] = _Seen(**json.loads(lesson.value))
        self._kept[lesson.subject] = _Seen(**json.loads(lesson.value))


def _subject(path: str, model: str) -> str:
    return json.dumps([model, path])

"""Knows what an operator holds back: a class, a model, or all. Law of this file: rules, no calls.

*Paused*: no call of the target is admitted. *Drained*: calls that wait already are admitted, later
ones are held. Calls in flight are not touched, and held calls keep their places.
"""

from typing import assert_never

from ...errors import CallerError
from ...model.calls import Call, Priority
from ...model.changes import ALL, HoldState


class OperatorHolds:
    """Decides whether an operator holds a call."""

    def __init__(self) -> None:
        self.rules: dict[str, tuple[HoldState, int]] = {}
        """The hold of each target, and the arrival number of the first call that it is about."""

    def set(self, target: str, state: HoldState, next_seq: int) -> None:
        """Open, pause or drain ``all``, ``class:NAME`` or ``model:NAME``. Raises CallerError.

        ``next_seq`` is the arrival number of the next call: a drain holds from there on.
        """
        kind, _, name = target.partition(":")
        is_class = kind == "class" and name in {each.label for each in Priority}
        if not (target == ALL or is_class or (kind == "model" and name)):
            raise CallerError(f"cannot hold {target!r}: say all, class:CLASS or model:MODEL")
        match state:
            case HoldState.OPEN:
                self.rules.pop(target, None)
            case HoldState.PAUSED:
                self.rules[target] = state, 0
            case HoldState.DRAINED:
                self.rules[target] = state, next_seq
            case _:
                assert_never(state)

    def holder(self, call: Call, seq: int, priority: Priority) -> str | None:
        """Return the hold of a call, as in ``class:background paused``; None if it is free."""
        for target in (ALL, f"class:{priority.label}", f"model:{call.model}"):
            rule = self.rules.get(target)
            if rule is not None and seq >= rule[1]:
                return f"{target} {rule[0]}"
        return None

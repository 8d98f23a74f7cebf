"""What the leader takes from workers. Law: no worker's clock is believed."""

from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import assert_never

from msgspec import structs

from ..model.calls import Outcome
from ..model.formulas import LONGEST_STATED_SECONDS
from ..model.quotas import Observation
from ..protocol.messages import (
    Amend,
    ApplyChange,
    AwaitRuns,
    Decide,
    DropWorker,
    ForgetRuns,
    Learn,
    MarkSent,
    Message,
    Observe,
    ProbeStopped,
    Resubmit,
    SaveRun,
    SetCallPriority,
    Settle,
    Submit,
)


def restamped(message: Message, now: float, age: float = inf) -> Message:
    """Return a worker's message with its times as the leader's clock allows them.

    A time that has passed lies between ``now - age`` and ``now``, where ``age`` is how old the
    request is, in seconds by the database's clock; unbounded where the engine has none. A time to
    come is at most ``LONGEST_STATED_SECONDS`` ahead. On one machine all processes have the same
    time, and nothing changes.
    """
    match message:
        case Submit(call=call):
            at = _past(call.submitted_at, now, age)
            if at == call.submitted_at:
                return message
            return structs.replace(message, call=replace(call, submitted_at=at))
        case MarkSent():
            at = _past(message.at, now, age)
            return message if at == message.at else MarkSent(message.call_id, at)
        case Observe():
            signals = _bounded(message.signals, now)
            return message if signals is None else Observe(message.call_id, signals)
        case Settle():
            outcome, signals = _sooner(message.outcome, now), _bounded(message.signals, now)
            if outcome is message.outcome and signals is None:
                return message
            return Settle(message.call_id, outcome, signals or message.signals)
        case (
            Resubmit()
            | Decide()
            | SetCallPriority()
            | AwaitRuns()
            | SaveRun()
            | ApplyChange()
            | DropWorker()
            | ProbeStopped()
            | Learn()
            | Amend()
            | ForgetRuns()
        ):
            return message  # the core compares none of their times with its own
        case _:
            assert_never(message)


def _past(told: float, now: float, age: float) -> float:
    return min(now, max(told, now - age))


def _sooner(outcome: Outcome, now: float) -> Outcome:
    latest = now + LONGEST_STATED_SECONDS
    if outcome.not_before is None or outcome.not_before <= latest:
        return outcome
    return replace(outcome, not_before=latest)


def _bounded(signals: Mapping[str, Observation], now: float) -> dict[str, Observation] | None:
    """The signals with pauses that are not too long; None if they are so already."""
    latest = now + LONGEST_STATED_SECONDS
    if all(each.pause_until is None or each.pause_until <= latest for each in signals.values()):
        return None
    return {
        quota: replace(each, pause_until=min(each.pause_until, latest))
        if each.pause_until is not None
        else each
        for quota, each in signals.items()
    }

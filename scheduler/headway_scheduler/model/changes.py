"""Writes and reads an operator's changes as rows. Law of this file: no effects.

Each change is a row with its time. The last one of an action and target overrides the
configuration, after a restart too, until it is taken back.
"""

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from ..errors import CallerError
from .data import Data, asdict
from .quotas import Limit, Quota, Resource, Window

ALL = "all"


class HoldState(StrEnum):
    """How much of a target an operator holds back."""

    OPEN = "open"  # nothing
    PAUSED = "paused"  # everything
    DRAINED = "drained"  # calls that arrive after the change


class Change(Data, frozen=True):
    """A change that an operator made while Headway was running.

    The last change of each action and target overrides the configuration until it is taken back.
    """

    at: float
    """When it was made; epoch seconds."""
    action: str
    """``limits``, ``weight``, ``gate`` (an operator's hold) or ``resume``: column ``kind``."""
    target: str
    """The quota whose limits change or that may try again; the team that is weighed; what is held:
    ``all``, ``class:NAME`` or ``model:NAME``."""
    value: str
    """JSON. Limits: a list of them, or null for the configured ones. Weight: a number, or null for
    the configured one. Gate: a ``HoldState`` and the arrival number of the first call that it is
    about. Resume: null."""


LIMITS, WEIGHT, HOLD, RESUME = "limits", "weight", "gate", "resume"
"""The actions of a change. A hold is stored as ``gate``."""


def limits(target: str, quota: Quota | None, at: float) -> Change:
    """Write down other limits for a quota; None: the configured ones again."""
    stated = None if quota is None else [asdict(limit) for limit in quota.limits]
    return Change(at, LIMITS, target, json.dumps(stated))


def weight(team: str, share: float | None, at: float) -> Change:
    """Write down another weight for a team; None: the configured one again.

    Raises CallerError unless ``share`` is above 0.
    """
    if share is not None and not share > 0:
        raise CallerError(f"the weight of team {team!r} must be above 0, not {share!r}")
    return Change(at, WEIGHT, team, json.dumps(share))


def hold(target: str, state: HoldState, next_seq: int, at: float) -> Change:
    """Write down a hold of ``target``, or that it is open again.

    ``next_seq`` is the arrival number of the next call: where a drain begins.
    """
    first = 0 if state is HoldState.OPEN else next_seq
    return Change(at, HOLD, target, json.dumps([state, first]))


def resume(target: str, at: float) -> Change:
    """Write down that one call may try a quota that has stopped."""
    return Change(at, RESUME, target, "null")


def quota_of(change: Change) -> Quota | None:
    """Return the limits that a change states; None: the configured ones."""
    stated = json.loads(change.value)
    if stated is None:
        return None
    return Quota(change.target, tuple(map(_limit_of, stated)))


def _limit_of(fields: Mapping[str, Any]) -> Limit:
    window = fields.get("window")
    kinds = {
        "resource": Resource(fields["resource"]),
        "window": None if window is None else Window(window),
    }
    return Limit(**{**fields, **kinds})


def weight_of(change: Change) -> float | None:
    """Return the weight that a change states; None: the configured one."""
    share: float | None = json.loads(change.value)
    return share


def hold_of(change: Change) -> tuple[HoldState, int]:
    """Return the hold that a change states, and the arrival number of the first held call."""
    state, first = json.loads(change.value)
    return HoldState(state), first

"""What an operator may change while everything runs, written down. Law of this file: no effects.

Each change is a row with its time. The last of a kind and target holds over the configuration,
after a restart too, until it is taken back.
"""

import json
from dataclasses import asdict, dataclass
from enum import StrEnum

from ..errors import CallerError
from .quotas import Limit, Quota, Resource

ALL = "all"


class HoldState(StrEnum):
    """What an operator holds back."""

    OPEN = "open"  # nothing
    PAUSED = "paused"  # everything
    DRAINED = "drained"  # what comes after the change


@dataclass(frozen=True, slots=True)
class Change:
    """What an operator changed while Headway was running, and when.

    ``kind`` limits, weight or gate; ``target`` the quota, team, or what is held; ``value`` JSON.
    The last one of each kind and target holds, over the configuration, until it is taken back.
    """

    at: float
    kind: str
    target: str
    value: str


LIMITS, WEIGHT, GATE, RESUME = "limits", "weight", "gate", "resume"


def limits(target: str, quota: Quota | None, at: float) -> Change:
    """Other limits for a quota; None: the configured ones again."""
    stated = None if quota is None else [asdict(limit) for limit in quota.limits]
    return Change(at, LIMITS, target, json.dumps(stated))


def weight(team: str, share: float | None, at: float) -> Change:
    """Another share for a team; None: the configured one again. Raises CallerError."""
    if share is not None and not share > 0:
        raise CallerError(f"the weight of team {team!r} must be above 0, not {share!r}")
    return Change(at, WEIGHT, team, json.dumps(share))


def gate(target: str, state: HoldState, next_seq: int, at: float) -> Change:
    """Hold back what comes from ``next_seq`` on, or open again."""
    first = 0 if state is HoldState.OPEN else next_seq
    return Change(at, GATE, target, json.dumps([state, first]))


def resume(target: str, at: float) -> Change:
    """Let one call of a quota try again that is stopped."""
    return Change(at, RESUME, target, "null")


def quota_of(change: Change) -> Quota | None:
    """The limits that a change states."""
    stated = json.loads(change.value)
    if stated is None:
        return None
    limits = (Limit(**{**each, "resource": Resource(each["resource"])}) for each in stated)
    return Quota(change.target, tuple(limits))


def weight_of(change: Change) -> float | None:
    """The weight that a change states."""
    share: float | None = json.loads(change.value)
    return share


def gate_of(change: Change) -> tuple[HoldState, int]:
    """The state that a change states, and the first call that it means."""
    state, first = json.loads(change.value)
    return HoldState(state), first

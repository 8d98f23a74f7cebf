"""Defines the scheduler's answers to questions about its state. Law of this file: frozen data."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from ..model.calls import Priority
from ..model.quotas import Resource
from ..model.states import CallState


@dataclass(frozen=True, slots=True)
class Blocker:
    """One reason why a call waits. Amounts are in the resource's unit."""

    quota: str
    """The name of the quota that blocks it."""
    resource: Resource | None
    """The limit that is short. None: the quota is paused until ``at``, or ``stopped``, or waits
    for the answer to a probe."""
    need: float
    """The amount that the call takes."""
    free: float
    """The amount that is available now."""
    at: float | None
    """When this ends, if the calls before it go first; epoch seconds. None: only the end of a call
    in flight can tell."""
    kept: float = 0.0
    """The headroom: the amount that the call must leave to more urgent classes."""
    stopped: str | None = None
    """The provider's words, if the account is locked out."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a call waits, its place among those that draw on the same quotas, and when it should go.

    ``place`` and all after it but ``operator_hold`` are of calls that stand in a line.
    """

    call_id: str
    """The call."""
    state: CallState
    """How far it has come."""
    parked: bool = False
    """See ``CallRecord.parked``."""
    not_before: float | None = None
    """It is not tried before this time; epoch seconds."""
    place: int | None = None
    """1 if it goes next."""
    behind: str | None = None
    """The id of the call that goes next; None if this one does."""
    blockers: tuple[Blocker, ...] = ()
    """Everything that it waits for."""
    starts_at: float | None = None
    """Forecast of its admission, epoch seconds; later arrivals of a higher class move it. None:
    only the end of a call in flight can tell."""
    operator_hold: str | None = None
    """The operator's hold that it waits for, as in ``class:background paused``."""
    effective_priority: Priority | None = None
    """The class in which it stands: that of the most urgent run that waits for it."""


_NOTHING_ODD: Mapping[str, int] = MappingProxyType({})


class Gauge(NamedTuple):
    """One limit of one quota at one moment."""

    quota: str
    resource: Resource
    capacity: float  #: what a full bucket holds
    available: float  #: what a new call may take; below 0 in debt
    per_second: float  #: refill; 0 for concurrency
    paused_until: float | None  #: nothing is sent before this time
    stopped: str | None = None  #: nothing is sent until ``headway limits resume``: why
    odd: Mapping[str, int] = _NOTHING_ODD  #: how often a ``MODEL: FIELD`` was out of range
    source: str = "stated"  #: from what it is known: stated, told, learned, guess
    counted: str = ""  #: how, of a rate: bucket, paced, sliding, fixed, minute
    window_seconds: float | None = None  #: the length of the window, if it is counted in windows
    is_contradicted: bool = False  #: a fixed window is stated, and answers show a bucket


class Statistics(NamedTuple):
    """The scheduler at one moment."""

    waiting: tuple[int, ...]  #: queued calls by class, interactive first
    in_flight: int  #: admitted and not settled
    parked: int  #: queued calls whose process died
    gauges: tuple[Gauge, ...]  #: every limit
    batched: int = 0  #: calls in a batch of the provider, or waiting for one


class ProviderHealth(NamedTuple):
    """Names of the quotas whose providers do not answer as they should."""

    probing: tuple[str, ...]  #: calls go only to try, one after the other
    unanswered: tuple[str, ...]  #: nobody got an answer since the last fault
    one_fails: tuple[str, ...]  #: since its last answer all faults were of one call
    locked_out: tuple[str, ...]  #: the account is refused: a bad key, no money

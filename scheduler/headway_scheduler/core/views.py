"""What the scheduler answers when it is asked how things stand. Law of this file: frozen data."""

from dataclasses import dataclass
from typing import NamedTuple

from ..model.calls import Priority
from ..model.quotas import Resource
from ..model.states import CallState


@dataclass(frozen=True, slots=True)
class Blocker:
    """One reason why a call waits. Without ``resource``, its quota is paused until ``at``, or
    ``stopped`` with the provider's words, or else waits for the answer to one call that tries.

    ``need`` is what the call itself takes, ``kept`` what it must leave to more urgent ones, and
    ``free`` what is available now; ``at`` counts the calls before it too, and is None when only the
    end of a call in flight can tell.
    """

    quota: str
    resource: Resource | None
    need: float
    free: float
    at: float | None
    kept: float = 0.0
    stopped: str | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a call waits, its place among those that draw on the same quotas, and when it should go.

    ``behind`` is the call that goes next. ``starts_at`` is a forecast: later arrivals of a higher
    class move it. ``effective_priority`` is the class it stands in, that of the most urgent run
    that waits for it. ``operator_hold``: what an operator holds it by, as in ``class:background
    paused``.
    """

    call_id: str
    state: CallState
    parked: bool = False
    not_before: float | None = None
    place: int | None = None
    behind: str | None = None
    blockers: tuple[Blocker, ...] = ()
    starts_at: float | None = None
    operator_hold: str | None = None
    effective_priority: Priority | None = None


class Gauge(NamedTuple):
    """One limit of one quota, as it stands."""

    quota: str
    resource: Resource
    capacity: float  #: what a full bucket holds
    available: float  #: what a new call may take; below 0 in debt
    per_second: float  #: refill; 0 for concurrency
    paused_until: float | None  #: nothing is sent before this time
    stopped: str | None = None  #: nothing is sent until ``headway limits resume``: why


class Statistics(NamedTuple):
    """The scheduler at one moment."""

    waiting: tuple[int, ...]  #: queued calls by class, interactive first
    in_flight: int  #: admitted and not settled
    parked: int  #: queued calls whose process died
    gauges: tuple[Gauge, ...]  #: every limit


class ProviderHealth(NamedTuple):
    """Names of the quotas whose providers do not answer as they should."""

    probing: tuple[str, ...]  #: calls go only to try, one after the other
    unanswered: tuple[str, ...]  #: nobody got an answer since the last fault
    locked_out: tuple[str, ...]  #: the account is refused: a bad key, no money

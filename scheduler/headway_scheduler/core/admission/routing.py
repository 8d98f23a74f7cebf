"""Chooses the route of a call. Law of this file: it compares, and changes nothing.

Routes that would answer come first, then those that would answer before the run's deadline, then
the lower rank, then the shorter queue in budget-seconds, then the larger free share of the limits.
"""

from ...model.calls import Call, Route
from ..runs.registry import RunRegistry
from .lanes import Lanes


def routed(
    call: Call, routes: tuple[Route, ...], lanes: Lanes, registry: RunRegistry, now: float
) -> Call:
    """Return the call on the best of its ``routes``, or unchanged without routes.

    Raises UnknownQuota.
    """
    if not routes:
        return call
    candidates = [route.taken_by(call) for route in routes]
    deadline = registry.deadline(call)

    def outlook(index: int) -> tuple[bool, bool, int, float, float]:
        return _outlook(candidates[index], routes[index].rank, lanes, deadline, now)

    return candidates[min(range(len(candidates)), key=outlook)]


def _outlook(
    call: Call, rank: int, lanes: Lanes, deadline: float | None, now: float
) -> tuple[bool, bool, int, float, float]:
    """Return what speaks against a route, the weightiest first."""
    lane = lanes.of(call.quotas, now)
    is_out = any(quota.breaker.is_open for quota in lane.quotas) or not lane.fits(call)
    waits = sum(waiter.cost for waiter in lane.line)
    is_late = deadline is not None and now + waits > deadline
    return is_out, is_late, rank, waits, -lane.free_share(now)

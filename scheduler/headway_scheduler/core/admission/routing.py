"""Chooses the route of a call. Law of this file: it compares, and changes nothing.

Routes that would answer come first, then those that would answer before the run's deadline, then
the lower rank, then a lane of its own, then the shorter queue in budget-seconds, then the larger
free share of the limits.

A lane may be closed to a call: it stands in a class that the lane does not take, or it has waited
long enough for flex, or its deadline is near. Flex is left then for the standard route.
"""

from math import inf
from typing import assert_never

from ...model.calls import Call, Priority, Route, ServiceLane
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

    def outlook(index: int) -> tuple[bool, bool, bool, int, bool, float, float]:
        route, candidate = routes[index], candidates[index]
        is_open = _is_open(candidate, route, lanes, registry, now)
        return not is_open, *_outlook(candidate, route, lanes, deadline, now)

    return candidates[min(range(len(candidates)), key=outlook)]


def takes_flex(call: Call, lanes: Lanes, registry: RunRegistry, now: float) -> bool:
    """Whether a call that goes by flex may go on so."""
    is_background = registry.effective_priority(call) is Priority.BACKGROUND
    return is_background and now < flex_until(call, lanes, registry)


def flex_until(call: Call, lanes: Lanes, registry: RunRegistry) -> float:
    """Return until when a call by flex may go on so, epoch seconds; infinite if nothing ends it.

    It gives up once the provider has had no capacity for long enough while it waited.
    """
    policy, deadline = lanes.policy, registry.deadline(call)
    until = inf if deadline is None else deadline - policy.flex_before_seconds
    since = lanes.quota(call.quotas[0]).breaker.short_since
    if since is None:
        return until
    return min(until, max(since, call.submitted_at) + policy.flex_gives_up_seconds)


def _is_open(call: Call, route: Route, lanes: Lanes, registry: RunRegistry, now: float) -> bool:
    """Whether a call may take a route now."""
    if route.classes and registry.effective_priority(call) not in route.classes:
        return False
    match route.lane:
        case ServiceLane.FLEX:
            return now < flex_until(call, lanes, registry)
        case ServiceLane.BATCH:
            deadline = registry.deadline(call)
            return deadline is None or now < deadline - lanes.policy.batch_before_seconds
        case ServiceLane.STANDARD | ServiceLane.PRIORITY:
            return True
        case _:
            assert_never(route.lane)


def _outlook(
    call: Call, route: Route, lanes: Lanes, deadline: float | None, now: float
) -> tuple[bool, bool, int, bool, float, float]:
    """Return what speaks against a route, the weightiest first."""
    lane = lanes.of(call.quotas, now)
    is_standard = route.lane is ServiceLane.STANDARD
    faulty = [quota.breaker for quota in lane.quotas if quota.breaker.is_faulty]
    # Only a call can find out that a provider answers again, so after each pause one goes there.
    # The others do not wait for what it finds.
    is_awaited = lane.line.waiting > 0
    is_out = any(is_awaited or breaker.is_shut(now) for breaker in faulty) or not lane.fits(call)
    waits = lane.line.waiting_cost
    is_late = deadline is not None and now + waits > deadline
    return is_out, is_late, route.rank, is_standard, waits, -lane.free_share(now)

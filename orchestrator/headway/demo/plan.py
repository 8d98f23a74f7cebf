"""Plans the demo: arrivals of teams, limits of the providers. Pure data."""

from collections.abc import Iterator
from dataclasses import dataclass

from headway_scheduler.model.calls import Priority
from headway_scheduler.testing.provider import Limits

URGENT, BACKGROUND = Priority.INTERACTIVE, Priority.BACKGROUND
CLASSES = (URGENT, BACKGROUND)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A team, its class, and when its user starts it, in seconds after the beginning."""

    team: str
    priority: Priority
    at_seconds: float


_LIMITS = Limits(requests_per_minute=240, tokens_per_minute=40_000, burst_seconds=5)


@dataclass(frozen=True, slots=True)
class Plan:
    """The same work for both sides, and the limits of the provider that each side has.

    Background teams of 3 calls arrive evenly over ``flood_seconds``, faster than the limits let
    them through; the urgent team of 4 calls arrives in the middle of them.
    """

    limits: Limits = _LIMITS
    latency_seconds: float = 0.4
    background_teams: int = 48
    flood_seconds: float = 9.0
    urgent_at_seconds: float = 6.0

    def arrivals(self) -> Iterator[Arrival]:
        """Yield the arrival of every team."""
        gap = self.flood_seconds / self.background_teams
        for number in range(self.background_teams):
            yield Arrival(f"label-{number + 1:02}", BACKGROUND, number * gap)
        yield Arrival("outage-triage", URGENT, self.urgent_at_seconds)

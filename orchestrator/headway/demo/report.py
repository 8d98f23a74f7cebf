"""Sums up the race, in numbers and in a sentence. Pure: from the records of both sides."""

from dataclasses import asdict, dataclass
from typing import Any

from headway_scheduler.testing.provider import Limits

from .plan import CLASSES, URGENT
from .side import Side, TeamState, Waits


@dataclass(frozen=True, slots=True)
class SideReport:
    """One side. Fractions are of what the limits allowed from the start to its last team's end.

    ``refused`` counts 429s, ``given_up`` calls that were never accepted, ``lost`` paid answers of
    teams that died, ``overtaken`` background calls that urgent calls passed. ``excess`` is by how
    much the worst window passed the limits.
    """

    teams: int
    finished: int
    urgent_finished: bool
    urgent_seconds: float
    urgent_error: str
    calls: int
    answered: int
    refused: int
    given_up: int
    lost: int
    overtaken: int
    wall_seconds: float
    requests_used: float
    tokens_used: float
    excess_requests: float
    excess_tokens: float
    waits: dict[str, Waits]


@dataclass(frozen=True, slots=True)
class Report:
    """Both sides, and the limits that each of them had."""

    limits: Limits
    headway: SideReport
    stock: SideReport

    def as_json(self) -> dict[str, Any]:
        """Return all numbers as JSON values, and the sentence."""
        sides = {"headway": _side_json(self.headway), "stock": _side_json(self.stock)}
        return {"limits": asdict(self.limits), **sides, "seen": self.sentence()}

    def sentence(self) -> str:
        """Say in a sentence how the race went."""
        ours, stock = self.headway, self.stock
        died = f"{stock.teams - stock.finished} of {stock.teams} teams died"
        if stock.lost:
            died += f" and took {stock.lost} paid answers with them"
        return (
            f"With Headway the urgent team passed {ours.overtaken} background calls that had asked "
            f"before it, {_fate(ours)}; {ours.finished} of {ours.teams} teams finished. "
            f"Without it the urgent team {_fate(stock)}; {died}."
        )


def sum_up(limits: Limits, ours: Side, stock: Side) -> Report:
    """Report on two sides that are over."""
    return Report(limits, _report(ours, limits), _report(stock, limits))


def _report(side: Side, limits: Limits) -> SideReport:
    urgent = next(team for team in side.teams.values() if team.priority is URGENT)
    accepted = side.ledger.accepted
    tokens = sum(entry.charged_tokens for entry in accepted)
    excess = side.ledger.excess(limits)
    return SideReport(
        teams=len(side.teams),
        finished=side.count(TeamState.FINISHED),
        urgent_finished=urgent.state is TeamState.FINISHED,
        urgent_seconds=urgent.lived_seconds,
        urgent_error=urgent.error,
        calls=side.calls,
        answered=len(side.ledger.paid),
        refused=side.refused,
        given_up=side.given_up(),
        lost=side.lost(),
        overtaken=side.overtaken(),
        wall_seconds=side.wall_seconds,
        requests_used=_used(
            len(accepted), limits.requests_per_minute, limits.request_capacity, side.wall_seconds
        ),
        tokens_used=_used(
            tokens, limits.tokens_per_minute, limits.token_capacity, side.wall_seconds
        ),
        excess_requests=excess.requests,
        excess_tokens=excess.tokens,
        waits={priority.label: side.waits(priority) for priority in CLASSES},
    )


def _used(amount: float, per_minute: float | None, capacity: float, seconds: float) -> float:
    """Return the fraction taken of a token bucket's allowance: a full bucket, and its refill."""
    return 0.0 if per_minute is None else amount / (capacity + per_minute / 60 * seconds)


def _fate(side: SideReport) -> str:
    worst = side.waits[URGENT.label].worst_seconds
    waited = "" if worst is None else f"waited at most {worst:.2f} s for a call and "
    end = "finished in" if side.urgent_finished else "died after"
    return f"{waited}{end} {side.urgent_seconds:.1f} s"


def _side_json(side: SideReport) -> dict[str, Any]:
    return asdict(side) | {"waits": {name: waits._asdict() for name, waits in side.waits.items()}}

"""Sums up an attempt at a run. Law of this file: it is computed from the journal alone."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from headway_scheduler.model.calls import BYPASS, CallRecord
from headway_scheduler.model.formulas import dollars
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import CallState
from headway_scheduler.ports import Store

from .journal import inherited_answers

UsdOf = Callable[[CallRecord], float | None]
"""Dollars of a row with a usage; None for an unknown price."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """Sums up how much the last attempt at a run replayed, paid and saved."""

    run_id: str
    """The run's id."""

    replayed: int
    """Calls that were answered before the attempt began, and cost nothing in it."""

    steps_replayed: int
    """Steps that were recorded before the attempt began."""

    paid: int
    """Calls that were answered since."""

    possibly_paid: tuple[str, ...]
    """Ids of calls that were cut off in flight: the provider may have charged for what was lost."""

    seconds_saved: float
    """How long the replayed calls and steps took when they were made."""

    usd_saved: float | None
    """US dollars of the replayed calls; None if the price of one is unknown."""

    usd_paid: float | None
    """US dollars of the paid calls; None if the price of one is unknown."""

    bypassed: int = 0
    """Requests of all attempts that the run's code made past the scheduler: none is given back."""

    def __str__(self) -> str:
        lost = self.possibly_paid
        cut = f"{len(lost)} ({', '.join(lost)})" if lost else "0"
        saved = f"{self.seconds_saved:.1f} s"
        if self.usd_saved is not None:
            saved += f" and {dollars(self.usd_saved)}"
        paid = "" if self.usd_paid is None else f" for {dollars(self.usd_paid)}"
        past = f" · past the scheduler: {self.bypassed}" if self.bypassed else ""
        return (
            f"calls replayed: {self.replayed} · steps replayed: {self.steps_replayed} · "
            f"calls paid: {self.paid}{paid} · cut off, possibly paid: {cut} · saved: {saved}{past}"
        )


async def receipt_of(store: Store, run: Run, usd_of: UsdOf) -> Receipt:
    """Read and sum up the last attempt at ``run``."""
    inherited = await inherited_answers(store, run)
    return receipt(run, await store.calls(run.id), inherited, usd_of)


def receipt(
    run: Run, records: Sequence[CallRecord], inherited: Sequence[CallRecord], usd_of: UsdOf
) -> Receipt:
    """Sum up the last attempt at ``run`` from its rows and those that it inherited."""
    since = run.resumed_at or run.created_at
    done = [row for row in records if row.state is CallState.DONE]
    old = [*inherited, *(row for row in done if (row.finished_at or 0) < since)]
    new = [row for row in done if (row.finished_at or 0) >= since and _is_paid(row)]
    return Receipt(
        run_id=run.id,
        replayed=sum(map(_is_paid, old)),
        steps_replayed=sum(row.call.is_step for row in old),
        paid=len(new),
        possibly_paid=tuple(r.call.id for r in records if r.lost_attempts and _is_paid(r)),
        seconds_saved=sum(map(_seconds, old)),
        usd_saved=total_usd(old, usd_of),
        usd_paid=total_usd(new, usd_of),
        bypassed=sum(bypasses(records).values()),
    )


def bypasses(records: Iterable[CallRecord]) -> Counter[tuple[str, str]]:
    """Count the requests past the scheduler, by host and agent."""
    return Counter((r.call.model, r.call.path) for r in records if r.call.kind == BYPASS)


def total_usd(records: Iterable[CallRecord], usd_of: UsdOf) -> float | None:
    """Return the dollars of all calls with a usage; None if the price of one is unknown."""
    costs = [usd_of(row) for row in records if _is_paid(row) and row.usage is not None]
    known = [usd for usd in costs if usd is not None]
    return sum(known) if len(known) == len(costs) else None


def _is_paid(row: CallRecord) -> bool:
    return row.call.is_paid


def _seconds(row: CallRecord) -> float:
    sent_at = row.sent_at or row.admitted_at
    return 0.0 if sent_at is None or row.finished_at is None else row.finished_at - sent_at

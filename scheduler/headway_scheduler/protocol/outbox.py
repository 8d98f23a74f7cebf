"""The notifications of one commit, gathered while it is made. Law: no I/O.

Theory of operation. A grant to another process is a notification in the commit that grants: what
was committed and not read yet is found by its worker whoever leads by then.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from ..model.batch import OutboxRow
from ..model.calls import CallRecord, Route
from .codec import dump
from .commands import Order
from .envelopes import CallRefusal, Grant, Handled, Notification, Refused


@dataclass(slots=True)
class _Gathered:
    """The parts of a notification to one worker."""

    grants: list[Grant] = field(default_factory=list[Grant])
    handled: list[Handled] = field(default_factory=list[Handled])
    preempt: list[str] = field(default_factory=list[str])
    refused: list[CallRefusal] = field(default_factory=list[CallRefusal])
    orders: list[Order] = field(default_factory=list[Order])
    evicted: bool = False


class OutboxBuilder:
    """Collects what a commit tells each worker."""

    def __init__(self) -> None:
        self._workers: dict[str, _Gathered] = defaultdict(_Gathered)

    def order(self, worker: str, order: Order) -> None:
        """Tell a worker what to do with a run."""
        self._workers[worker].orders.append(order)

    def handled(self, worker: str, handled: Handled, *, evicted: bool = False) -> None:
        """Tell a worker what became of its batch, and whether others took its runs."""
        gathered = self._workers[worker]
        gathered.handled.append(handled)
        gathered.evicted |= evicted

    def grant(self, record: CallRecord) -> None:
        """Tell the worker of a call that it may be sent, and by which route."""
        call = record.call
        usage = (call.tokens, call.input_tokens, call.output_tokens, call.usd)
        route = Route(call.model, call.quotas, *usage, unbounded=call.unbounded, lane=call.lane)
        grant = Grant(call.id, record.admitted_at or 0.0, record.attempts, route)
        self._of(record).grants.append(grant)

    def preempt(self, record: CallRecord) -> None:
        """Tell the worker of a call to cancel its request, and to queue it again."""
        self._of(record).preempt.append(record.call.id)

    def refuse(self, record: CallRecord, error: Refused) -> None:
        """Tell the worker of a call that waited that it can never be sent, and why."""
        self._of(record).refused.append(CallRefusal(record.call.id, error))

    def _of(self, record: CallRecord) -> _Gathered:
        assert record.worker is not None, "a call of the leader's own process"
        return self._workers[record.worker]

    def rows(
        self,
        unanswered: tuple[str, ...],
        locked_out: tuple[str, ...],
        one_fails: tuple[str, ...],
    ) -> tuple[OutboxRow, ...]:
        """The notification of each worker, with how the providers stand."""
        return tuple(
            OutboxRow(
                worker,
                dump(
                    Notification(
                        tuple(told.grants),
                        tuple(told.handled),
                        tuple(told.preempt),
                        tuple(told.orders),
                        unanswered,
                        locked_out,
                        told.evicted,
                        tuple(told.refused),
                        one_fails,
                    )
                ),
            )
            for worker, told in self._workers.items()
        )

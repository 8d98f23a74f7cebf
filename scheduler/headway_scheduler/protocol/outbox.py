"""What a commit tells workers, gathered while it is made. Law: no I/O.

Theory of operation. A grant to another process is a notice in the commit that grants: what was
committed and not read yet is found by its worker whoever leads by then.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import HeadwayError
from ..model.batch import Mail
from ..model.calls import CallRecord, Route
from ..model.runs import Order
from .codec import Grant, Notice, Refusal, dump, error_text


@dataclass(slots=True)
class _Notice:
    grants: list[Grant] = field(default_factory=list[Grant])
    told: list[tuple[int, tuple[Refusal, ...]]] = field(
        default_factory=list[tuple[int, tuple[Refusal, ...]]]
    )
    preempt: list[str] = field(default_factory=list[str])
    orders: list[Order] = field(default_factory=list[Order])
    is_lost: bool = False


class OutboxBuilder:
    """The notices of one commit, by worker."""

    def __init__(self) -> None:
        self.notices: dict[str, _Notice] = defaultdict(_Notice)

    def order(self, worker: str, order: Order) -> None:
        """Tell a worker what is to become of a run."""
        self.notices[worker].orders.append(order)

    def handled(
        self,
        worker: str,
        request_id: int,
        refused: Mapping[int, HeadwayError],
        *,
        is_lost: bool = False,
    ) -> None:
        """Tell a worker what became of its request; that its runs were taken, if it ``is_lost``."""
        refusals = (Refusal(n, error_text(error)) for n, error in refused.items())
        notice = self.notices[worker]
        notice.told.append((request_id, tuple(refusals)))
        notice.is_lost |= is_lost

    def grant(self, worker: str, record: CallRecord) -> None:
        """Tell a worker that its call may be sent, and the way that it goes."""
        call = record.call
        usage = (call.tokens, call.input_tokens, call.output_tokens, call.usd)
        route = Route(call.model, call.quotas, *usage)
        grant = Grant(call.id, record.admitted_at or 0.0, record.attempts, route)
        self.notices[worker].grants.append(grant)

    def preempt(self, worker: str, call_id: str) -> None:
        """Tell a worker to cancel the request of a call, to be queued again."""
        self.notices[worker].preempt.append(call_id)

    def mail(self, alone: tuple[str, ...], stopped: tuple[str, ...]) -> tuple[Mail, ...]:
        """Every notice as it is written, with how the providers stand."""
        return tuple(
            Mail(worker, self._text(each, alone, stopped)) for worker, each in self.notices.items()
        )

    @staticmethod
    def _text(each: _Notice, alone: tuple[str, ...], stopped: tuple[str, ...]) -> str:
        lists = (tuple(each.grants), tuple(each.told), tuple(each.preempt), tuple(each.orders))
        return dump(Notice(*lists, alone, stopped, each.is_lost))

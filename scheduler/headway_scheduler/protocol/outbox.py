"""What other processes are told. Law of this file: no I/O.

Theory of operation. A grant to another process is a notice in the commit that grants: what was
committed and not read yet is found by its worker whoever leads by then.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..core.scheduler import Scheduler
from ..model.batch import Mail
from ..model.calls import CallRecord, Route
from ..model.runs import Order
from ..runtime.pending import Event
from .codec import Grant, Notice, Refusal, dump, error_text


@dataclass(slots=True)
class _OutboxBuilder:
    grants: list[Grant] = field(default_factory=list[Grant])
    told: list[tuple[int, tuple[Refusal, ...]]] = field(
        default_factory=list[tuple[int, tuple[Refusal, ...]]]
    )
    preempt: list[str] = field(default_factory=list[str])
    orders: list[Order] = field(default_factory=list[Order])
    is_lost: bool = False

    def written(self, alone: tuple[str, ...], stopped: tuple[str, ...]) -> str:
        lists = (tuple(self.grants), tuple(self.told), tuple(self.preempt), tuple(self.orders))
        return dump(Notice(*lists, alone, stopped, self.is_lost))


def mail(
    events: Sequence[Event],
    grants: Sequence[CallRecord],
    preempted: Sequence[CallRecord],
    core: Scheduler,
) -> tuple[Mail, ...]:
    """What a commit tells workers: what became of what they told, and what they may send."""
    drafts: dict[str, _OutboxBuilder] = defaultdict(_OutboxBuilder)
    for event in events:
        for worker, order in event.orders:
            drafts[worker].orders.append(order)
        if event.sender is not None:
            refusals = (Refusal(n, error_text(error)) for n, error in event.refused.items())
            draft = drafts[event.sender]
            draft.told.append((event.letter_id, tuple(refusals)))
            draft.is_lost |= event.is_of_nobody
    for record in grants:
        if record.worker is not None:
            drafts[record.worker].grants.append(_grant(record))
    for record in preempted:
        if record.worker is not None:
            drafts[record.worker].preempt.append(record.call.id)
    if not drafts:
        return ()
    quotas = core.left_alone(), core.stopped()
    return tuple(Mail(worker, draft.written(*quotas)) for worker, draft in drafts.items())


def _grant(record: CallRecord) -> Grant:
    call = record.call
    usage = (call.tokens, call.input_tokens, call.output_tokens, call.usd)
    route = Route(call.model, call.quotas, *usage)
    return Grant(call.id, record.admitted_at or 0.0, record.attempts, route)

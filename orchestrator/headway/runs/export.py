"""Exports a run with its calls. Law of this file: each text once, however many prompts hold it."""

from dataclasses import asdict, dataclass
from typing import Any

from headway_scheduler.model.calls import CallRecord
from headway_scheduler.model.runs import Run
from headway_scheduler.ports import Store

from .journal import inherited_answers, unpacked
from .receipt import UsdOf, receipt


@dataclass(frozen=True, slots=True)
class Export:
    """All that is recorded of a run."""

    records: tuple[CallRecord, ...]
    """Calls and steps by arrival, those of parents first."""

    prompts: tuple[tuple[int, ...], ...]
    """For each record the indexes of its texts in ``chunks``."""

    chunks: tuple[str, ...]
    """Every text of a prompt, once."""

    costs: tuple[float | None, ...]
    """For each record its US dollars; None if they are unknown."""

    messages: list[Any]
    """The messages of the result, as AutoGen dumps them; empty without a result."""

    receipt: dict[str, Any]
    """The fields of the Receipt of the last attempt."""


async def exported(store: Store, run: Run, usd_of: UsdOf) -> Export:
    """Read a run, its calls and what they asked."""
    inherited = sorted(await inherited_answers(store, run), key=lambda record: record.seq)
    own = list(await store.calls(run.id))
    records = (*inherited, *own)
    indexes: dict[str, int] = {}
    prompts = []
    for record in records:
        chunks = await store.prompt(record.call.request_hash) or ()
        prompts.append(tuple(indexes.setdefault(chunk, len(indexes)) for chunk in chunks))
    return Export(
        records=records,
        prompts=tuple(prompts),
        chunks=tuple(indexes),
        costs=tuple(_usd(record, usd_of) for record in records),
        messages=[] if run.result is None else unpacked(run.result, own)["messages"],
        receipt=asdict(receipt(run, own, inherited, usd_of)),
    )


def _usd(record: CallRecord, usd_of: UsdOf) -> float | None:
    return usd_of(record) if record.call.is_paid and record.usage is not None else None

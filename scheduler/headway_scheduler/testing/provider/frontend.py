"""Decides whether a request gets a refusal, a fault or an answer, and enters it in the ledger.

It decides in this order: a malformed request is refused, then a fault may refuse, then the limits,
and then any other fault applies. It does no I/O but the ledger's file: it returns a ``Delivery``,
which the server sends.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from .batches import BATCH_TIER, Batches, BatchFault
from .delivery import Delivery, Latency, answer_delivery, error_delivery
from .faults import FAULT_HEADER, Fault, FaultKind
from .gate import Gate, Gates
from .ledger import Entry, Ledger
from .limits import Limits
from .refusals import Refusal, bad_request
from .replies import ReplyFunction, answer
from .request import Asked, Body, read_chat

FaultSchedule = Callable[[int, Body], Fault | None]
"""Gets the request's number, from 1, and its body; returns its fault, or None for none."""
ODD_HEADERS = tuple(
    f"x-ratelimit-{part}-{what}"
    for part in ("limit", "remaining", "reset")
    for what in ("requests", "tokens")
)
"""The headers that ``FaultKind.ODD_HEADER`` sets."""
Read = Callable[[bytes, Mapping[str, str]], Asked]
"""Reads a request from its body and headers; raises ValueError if it is malformed."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a provider behaves. By default it has no limits, answers at once and never fails.

    ``limits``: of all models together, or of each by name (``"*"`` for any other).
    ``reply``: returns the text of an answer; without it, or for None, the provider answers.
    ``faults``: returns what goes wrong; a header ``x-simulate-fault`` goes before it.
    ``hold``: awaited with the body of a request of a chat before its answer is sent.
    ``batch_seconds``: how long a batch takes. ``batch_reply_seconds``: how long the provider, which
    has taken a file or begun a batch, takes to say so. ``takes_batches``: whether it has any.
    ``batch_fault``: what goes wrong with all of them. ``batch_refusals``: gets the method and path
    of a request about files or batches (``GET /v1/batches``), and returns the fault that refuses
    it. ``moved_to``: where requests with files are redirected to.
    """

    limits: Limits | Mapping[str, Limits] = field(default_factory=Limits)
    latency: Latency = field(default_factory=Latency)
    reply: ReplyFunction | None = None
    faults: FaultSchedule | None = None
    hold: Callable[[Body], Awaitable[None]] | None = None
    batch_seconds: float = 0.0
    batch_reply_seconds: float = 0.0
    takes_batches: bool = True
    batch_fault: BatchFault | None = None
    batch_refusals: Callable[[str], Fault | None] | None = None
    moved_to: str | None = None


class Frontend:
    """The provider without its network: requests in, deliveries out."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self.ledger = ledger
        self._settings = settings
        now = time.monotonic()
        self._gates = Gates(settings.limits, now, time.time() - now)
        self.hold: Callable[[Body], Awaitable[None]] | None = settings.hold
        self.batches: Batches = Batches(settings.batch_seconds, self._answer_line)
        self.batch_reply_seconds: float = settings.batch_reply_seconds
        self.takes_batches: bool = settings.takes_batches
        self.batch_fault: BatchFault | None = settings.batch_fault
        self.moved_to: str | None = settings.moved_to

    def batch_refusal(self, request: str) -> Refusal | None:
        """Return what a request about files or batches is refused with; None if it is taken."""
        refusals = self._settings.batch_refusals
        fault = None if refusals is None else refusals(request)
        return None if fault is None else fault.refusal("")

    def models(self) -> tuple[str, ...]:
        """Names of the models that have limits of their own."""
        return self._gates.names()

    def take(self, raw: bytes, headers: Mapping[str, str], read: Read) -> Delivery:
        """Decide about one request, which ``read`` reads, and enter it in the ledger."""
        entry = self._blank_entry()
        try:
            asked = read(raw, headers)
            fault = self._fault(entry.index, asked, headers)
        except ValueError as problem:
            return self._refuse(entry, bad_request(str(problem)), None)
        entry = _described(entry, asked)
        now = entry.received_monotonic
        gate = self._gates.of(asked.model, now)
        error = None if fault is None else fault.refusal(asked.model)
        if error is not None and error.status < 500:
            gate.count_refused(now)
            return self._refuse(entry, error, gate)
        charge = gate.charge(asked.prompt_tokens, asked.output_cap)
        refusal = gate.admit(asked.model, charge, now)
        if refusal is not None:
            return self._refuse(entry, refusal, gate)
        charged = replace(entry, accepted=True, charged_tokens=charge)
        if error is not None:
            return self._fail(charged, error, gate)
        return self._serve(charged, asked, gate, fault)

    def _answer_line(self, raw: bytes, custom_id: str) -> tuple[int, dict[str, Any]] | None:
        """Answer a request of a batch, and enter it in the ledger."""
        entry = self._blank_entry()
        asked = read_chat(raw, {"x-headway-call": custom_id})
        entry = replace(_described(entry, asked), tier=BATCH_TIER)
        fault = self._fault(entry.index, asked, {})
        error = None if fault is None else fault.refusal(asked.model)
        if fault is not None:
            status = 0 if error is None else error.status
            self.ledger.open(replace(entry, status=status, why=fault.kind.value))
            self._finish(entry.index, None, "")
            return None if error is None else (error.status, error.body())
        said = answer(asked, entry.index, int(entry.received_at), self._settings.reply)
        tokens = said.completion_tokens
        paid = replace(entry, status=200, accepted=True, paid=True, completion_tokens=tokens)
        self.ledger.open(paid)
        self._finish(entry.index, None, "")
        return 200, said.completion()

    def _fault(self, index: int, asked: Asked, headers: Mapping[str, str]) -> Fault | None:
        if FAULT_HEADER in headers:
            return Fault.parse(headers[FAULT_HEADER])
        schedule = self._settings.faults
        return None if schedule is None else schedule(index, asked.body)

    def _blank_entry(self) -> Entry:
        return Entry(
            index=len(self.ledger) + 1,
            received_at=time.time(),
            received_monotonic=time.monotonic(),
            model="",
            status=400,
            accepted=False,
            paid=False,
        )

    def _refuse(self, entry: Entry, refusal: Refusal, gate: Gate | None) -> Delivery:
        """Answer with an error and charge nothing."""
        self.ledger.open(replace(entry, status=refusal.status, why=refusal.why))
        headers = self._headers(entry, gate)
        return error_delivery(refusal, headers, partial(self._finish, entry.index, None))

    def _fail(self, entry: Entry, error: Refusal, gate: Gate) -> Delivery:
        """Answer an admitted, and thus charged, request with an error of the server."""
        self.ledger.open(replace(entry, status=error.status, why=error.why))
        finish = partial(self._finish, entry.index, gate)
        return error_delivery(error, self._headers(entry, gate), finish)

    def _serve(self, entry: Entry, asked: Asked, gate: Gate, fault: Fault | None) -> Delivery:
        """Answer a request that was admitted."""
        why = "" if fault is None else fault.kind.value
        try:
            said = answer(asked, entry.index, int(entry.received_at), self._settings.reply)
        except Exception as error:  # of the test's: a 500 would be asked again for ever
            text = f"reply raised {type(error).__name__}: {error}"
            return self._refuse(replace(entry, accepted=False), bad_request(text), gate)
        paid = fault is None or fault.kind not in (FaultKind.HANG, FaultKind.REDIRECT)
        tokens = said.completion_tokens if paid else 0
        entry = replace(entry, status=200, paid=paid, why=why, completion_tokens=tokens)
        self.ledger.open(entry)
        finish = partial(self._settle, entry, gate)
        delivery = answer_delivery(said, self._settings.latency, fault, finish)
        rates = self._headers(entry, gate)
        if fault is not None and fault.kind is FaultKind.ODD_HEADER:
            rates |= dict.fromkeys(ODD_HEADERS, fault.value)
        return replace(delivery, headers={**delivery.headers, **rates})

    def _headers(self, entry: Entry, gate: Gate | None) -> dict[str, str]:
        rates = {} if gate is None else gate.headers(entry.received_monotonic)
        return {"x-request-id": f"req_{entry.index}", **rates}

    def _settle(self, entry: Entry, gate: Gate, why: str) -> None:
        """Settle the charge of an answer that ended: only now is its output known."""
        if entry.paid:
            output, now = entry.completion_tokens, time.monotonic()
            gate.settle(entry.charged_tokens, entry.prompt_tokens, output, now)
        self._finish(entry.index, gate, why)

    def _finish(self, index: int, gate: Gate | None, why: str) -> None:
        """Close the entry of a delivery that ended, and give its slot back to ``gate``."""
        if gate is not None:
            gate.leave()
        self.ledger.finish(index, why, wall=time.time(), monotonic=time.monotonic())


def _described(entry: Entry, asked: Asked) -> Entry:
    return replace(
        entry,
        model=asked.model,
        who=asked.who,
        digest=asked.digest,
        prompt_tokens=asked.prompt_tokens,
        streamed=asked.streamed,
        tier=asked.tier or "",
    )

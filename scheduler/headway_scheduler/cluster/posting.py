"""What this process hands over to the leader, and who waits for what becomes of it.

Law: a caller goes on when the leader has written what it said; or, for the end of a call, when the
request that says so is durable.
"""

import logging
import secrets
from collections.abc import Callable, Sequence

from ..errors import HeadwayError, InternalError
from ..model.calls import Outcome
from ..model.states import LIVE_CALLS, CallState
from ..protocol.codec import dump, error_of, load_request
from ..protocol.envelopes import ASKER, Handled, MessageBatch
from ..protocol.messages import Message, Settle, Submit
from ..runtime.pending import Pending

_log = logging.getLogger("headway")


def new_asker() -> str:
    """The name of somebody who posts commands. A worker's batches are posted in its own name."""
    return f"{ASKER}{secrets.token_hex(6)}"


def is_end(message: Message) -> bool:
    """Whether a message ends a call: its answer must not be lost, and nobody can refuse it."""
    return isinstance(message, Settle) and message.outcome.state not in LIVE_CALLS


def readable(
    pendings: list[Pending], batch_of: Callable[[Sequence[Pending]], MessageBatch]
) -> tuple[list[Pending], MessageBatch, str]:
    """Return the batch, and its text, of those pendings that the leader will be able to read.

    The agents of calls that end in it go on at once, so what cannot be read is found here. It is
    raised at its own caller; an end is told as a failure, so that what the call holds comes back.
    """
    batch = batch_of(pendings)
    try:
        text = dump(batch)
        load_request(text)
    except HeadwayError:
        pendings = [kept for each in pendings if (kept := _kept(each, batch_of)) is not None]
        batch = batch_of(pendings)
        text = dump(batch)
    return pendings, batch, text


def _kept(
    pending: Pending, batch_of: Callable[[Sequence[Pending]], MessageBatch]
) -> Pending | None:
    try:
        load_request(dump(batch_of([pending])))
    except HeadwayError as error:
        pending.complete(error)
        told = pending.messages[0]
        if not isinstance(told, Settle):
            return None
        failed = Outcome(CallState.FAILED, error=str(error))
        return Pending((Settle(told.call_id, failed),))
    return pending


def unreadable(why: str) -> InternalError:
    """The error of everybody who waits, once the leader could read nothing of a batch."""
    return InternalError(
        f"the leader could not read what this process told it ({why}): nothing of it is recorded"
    )


class Outstanding:
    """Messages that are posted and that the leader has not written yet."""

    def __init__(self) -> None:
        self._requests: dict[int, dict[int, Pending]] = {}

    def add(self, request_id: int, pendings: Sequence[Pending]) -> None:
        """Take in what was posted. Whoever ended a call need not wait for the leader."""
        awaiting: dict[int, Pending] = {}
        for number, pending in enumerate(pendings):  # of this process: one message each
            if is_end(pending.messages[0]):
                pending.complete()
            elif pending.completion is not None:
                awaiting[number] = pending
        if awaiting:
            self._requests[request_id] = awaiting

    def handled(self, handled: Handled) -> list[str]:
        """Let those go on who wait for a request; return the ids of calls that were not taken."""
        awaiting = self._requests.pop(handled.request_id, {})
        errors: dict[int, HeadwayError] = {
            refusal.index: error_of(refusal.error) for refusal in handled.refusals
        }
        if handled.unreadable:
            errors = dict.fromkeys(awaiting, unreadable(handled.unreadable))
        not_taken = []
        for index, error in errors.items():
            if (pending := awaiting.pop(index, None)) is None:
                _log.error("the leader refused what nobody waits for: %s", error)
                continue
            if isinstance(told := pending.messages[0], Submit):
                not_taken.append(told.call.id)
            pending.complete(error)
        for pending in awaiting.values():
            pending.stands = True
            if not pending.until_granted:
                pending.complete()
        return not_taken

    def complete_all(self, error: Exception) -> None:
        """Let nobody wait any more."""
        for awaiting in self._requests.values():
            for pending in awaiting.values():
                pending.complete(error)

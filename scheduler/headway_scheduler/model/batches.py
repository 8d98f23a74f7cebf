"""Defines the provider's batches, and the requests in them. Data only. Times are epoch seconds."""

from enum import StrEnum
from typing import NamedTuple

from ..errors import IllegalTransition
from .data import Data


class BatchState(StrEnum):
    """How far a batch has come."""

    PLANNED = "planned"  # its requests are chosen
    UPLOADED = "uploaded"  # the provider has the file of them
    SUBMITTED = "submitted"  # the provider works on it
    ENDED = "ended"  # every answer is on disk


_S = BatchState
BATCH_TRANSITIONS = {
    _S.PLANNED: frozenset({_S.UPLOADED, _S.ENDED}),
    _S.UPLOADED: frozenset({_S.SUBMITTED, _S.ENDED}),
    _S.SUBMITTED: frozenset({_S.ENDED}),
    _S.ENDED: frozenset[BatchState](),
}


class ProviderBatch(Data, frozen=True):
    """Requests that are handed to the provider as one file."""

    id: str
    """Unique in the database; the provider knows it as ``metadata.headway``."""
    model: str
    """The model as the configuration names it: its server and its key."""
    endpoint: str
    """The path of the requests below the server's address, as in ``/v1/chat/completions``."""
    state: BatchState
    """Changes only along ``BATCH_TRANSITIONS``."""
    created_at: float
    """When it was planned; once it is submitted, when that was."""
    file_id: str | None = None
    """The provider's name for the file; None until it has it."""
    provider_id: str | None = None
    """The provider's name for the batch; None until it has it."""

    def check(self, state: BatchState) -> None:
        """Raise IllegalTransition unless the batch may go from its state to ``state``."""
        if state not in BATCH_TRANSITIONS[self.state]:
            raise IllegalTransition(
                f"batch {self.id}: {self.state} to {state} is not a step of its life"
            )


class BatchedRequest(Data, frozen=True):
    """The request of a call that goes by batch."""

    call_id: str
    """The call, which is *batched*; the provider knows it as ``custom_id``."""
    model: str
    """As ``ProviderBatch.model``."""
    endpoint: str
    """As ``ProviderBatch.endpoint``."""
    body: str
    """The JSON that its client would send."""
    created_at: float
    """When it was made."""
    batch_id: str | None = None
    """The batch that it is in; None until one is planned."""
    answer: str | None = None
    """The provider's response, a JSON object of ``status_code`` and ``body``; None until it came.
    The body above is empty then."""


class Gathered(NamedTuple):
    """Requests of one model and endpoint that are in no batch yet."""

    model: str
    endpoint: str
    calls: int  #: how many there are
    bytes: int  #: how long they are together
    since: float  #: when the first of them was made; epoch seconds

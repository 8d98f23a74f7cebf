"""Defines what is told to the world outside: a command, or an HTTP server. Data only."""

from enum import StrEnum

from .data import Data


class NoticeKind(StrEnum):
    """What happened."""

    RUN_ENDED = "run.ended"  # it completed, failed or was cancelled
    PERSON_ASKED = "person.asked"  # a run waits for a person
    QUOTA_STOPPED = "quota.stopped"  # the provider refuses the account: nothing more is sent
    BUDGET_LOW = "budget.low"  # most of the dollars of a run, or of a quota's day, are spent


class Notice(Data, frozen=True):
    """Something to be told, as a row of table ``notices``: it is deleted once it is told."""

    id: str
    """Unique for what happened. It is told again under this id after a crash or a fault."""
    kind: NoticeKind
    """What happened."""
    at: float
    """When it happened; epoch seconds."""
    data: str
    """The particulars, as a JSON object."""
    attempts: int = 0
    """How often it was tried to tell it."""
    not_before: float = 0.0
    """It is not tried before this time; epoch seconds."""

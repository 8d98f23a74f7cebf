"""How an attempt ended from inside, for reasons that are no error of an agent. Data only."""

from dataclasses import dataclass

from headway_scheduler.model.calls import CallRecord


@dataclass(frozen=True, slots=True)
class NeedsInput:
    """A person must answer, or decide, the call with this id."""

    call_id: str


@dataclass(frozen=True, slots=True)
class Paused:
    """Somebody asked for a pause, and everything that was in flight has come back."""


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """The run's deadline has passed."""


@dataclass(frozen=True, slots=True)
class WouldCall:
    """A check came to the first request that would go out. ``record`` is its row, if it has one."""

    path: str
    kind: str
    record: CallRecord | None


@dataclass(frozen=True, slots=True)
class NonDeterminism:
    """The workflow does not ask what it asked before.

    ``path``, ``kind`` and ``asked``, the chunks of its text, are of the request that has no row;
    None and empty if the workflow just ended. ``nearest`` is the recorded call that it most likely
    was, ``replayed`` counts the answers given back by then, and ``next_arrival`` is the number of
    the first answer that was not.
    """

    path: str | None
    kind: str | None
    asked: tuple[str, ...]
    nearest: CallRecord | None
    replayed: int
    next_arrival: int | None


AttemptOutcome = NeedsInput | Paused | DeadlinePassed | WouldCall | NonDeterminism

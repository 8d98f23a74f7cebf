"""Why an attempt was ended from inside. Law of this file: data, for the runner to act on."""

from dataclasses import dataclass

from headway_scheduler.model.calls import CallRecord


@dataclass(frozen=True, slots=True)
class Stop:
    """A reason that is no error of an agent."""


@dataclass(frozen=True, slots=True)
class Waits(Stop):
    """A person must answer, or decide, the call with this id."""

    call_id: str


@dataclass(frozen=True, slots=True)
class Paused(Stop):
    """Somebody asked for it, and everything that was in flight has come back."""


@dataclass(frozen=True, slots=True)
class Late(Stop):
    """The run's deadline has passed."""


@dataclass(frozen=True, slots=True)
class WouldAsk(Stop):
    """A check has come to the first request that would go out; ``record`` is its row, if any."""

    path: str
    kind: str
    record: CallRecord | None


@dataclass(frozen=True, slots=True)
class Changed(Stop):
    """The workflow does not ask what it asked before.

    ``asked`` are the pieces of the request that has no row (none if the workflow just ended),
    ``nearest`` is the recorded one that it most likely was, and ``next_arrival`` the number of the
    first answer that was not delivered.
    """

    path: str | None
    kind: str | None
    asked: tuple[str, ...]
    nearest: CallRecord | None
    replayed: int
    next_arrival: int | None

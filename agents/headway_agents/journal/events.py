"""The events, effects and states of the replay machine. Data only.

All of them speak of a :class:`JournalSlot`: a request of the run, found in its journal or new.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headway_scheduler.model.calls import CallRecord

from .outcomes import AttemptOutcome


@dataclass(frozen=True, slots=True)
class JournalSlot:
    """A request's place in the journal.

    ``id`` is its call's, ``run_id.n``. ``kind``, ``path``, ``request_hash`` and ``occurrence`` are
    its key. ``record`` is its row, None if the run never asked this; ``is_answered`` says that the
    row's answer is given back instead of asked for, ``was_cut_off`` that an earlier attempt died
    while the call was in flight. ``is_unordered``: its answer is delivered when it comes, because a
    step asks while it acts, or no run does. ``agent`` is the path without the steps in it.
    ``chunks`` tells the text of the request, to be compared with what was recorded.
    """

    id: str
    kind: str
    path: str
    request_hash: str
    occurrence: int
    record: CallRecord | None
    is_answered: bool
    was_cut_off: bool
    is_unordered: bool
    agent: str
    chunks: Callable[[], Sequence[str]]


# States


@dataclass(frozen=True, slots=True)
class Replaying:
    """The next answer to be delivered is a recorded one: nothing new is asked."""


@dataclass(frozen=True, slots=True)
class Live:
    """Every recorded answer was delivered."""


@dataclass(frozen=True, slots=True)
class Closed:
    """Nothing more may be asked. ``outcome``: why, if the attempt was ended from inside.

    ``interrupted``: it was closed before its run was over.
    """

    outcome: AttemptOutcome | None
    interrupted: bool


ReplayState = Replaying | Live | Closed


# Events


@dataclass(frozen=True, slots=True)
class Requested:
    """An agent, or a step, asks something. Yields ``Opened``; raises RunClosed when Closed."""

    kind: str
    path: str
    request_hash: str
    chunks: Callable[[], Sequence[str]]


@dataclass(frozen=True, slots=True)
class ReachedBarrier:
    """A request without a recorded answer is about to go out. Yields ``Pass``, or it waits.

    Told again when the barrier opens.
    """

    slot: JournalSlot


@dataclass(frozen=True, slots=True)
class LeftBarrier:
    """A request that waited at the barrier was cancelled."""

    slot: JournalSlot


@dataclass(frozen=True, slots=True)
class WorkBegan:
    """Something is in flight: a call is queued or sent, a step acts, a person is asked."""


@dataclass(frozen=True, slots=True)
class WorkEnded:
    """It is in flight no more."""


@dataclass(frozen=True, slots=True)
class AnswerCame:
    """A new answer is there. Yields ``Numbered``."""


@dataclass(frozen=True, slots=True)
class Ready:
    """An answer, recorded or on disk by now, waits to be delivered."""

    arrival: int


@dataclass(frozen=True, slots=True)
class Delivered:
    """The agent has got the answer that ``Deliver`` let go."""

    arrival: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """An answer will not be delivered: it could not be recorded, or its agent was cancelled."""

    arrival: int


@dataclass(frozen=True, slots=True)
class Settled:
    """The consequences of the last delivery have settled, as ``Settle`` asked."""


@dataclass(frozen=True, slots=True)
class PersonNeeded:
    """A call waits for a person who is not there."""

    slot: JournalSlot


@dataclass(frozen=True, slots=True)
class PauseAsked:
    """The attempt is to end at its next call, when what is in flight has come back."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """Nothing has happened since ``StartTimer`` of the same ``activity``, for its seconds."""

    activity: int


@dataclass(frozen=True, slots=True)
class TeamEnded:
    """The team has nothing more to say."""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """The attempt is to end at once, as with a deadline."""

    outcome: AttemptOutcome


@dataclass(frozen=True, slots=True)
class CloseAsked:
    """The attempt is over. ``interrupted``: before its run was."""

    interrupted: bool


ReplayEvent = (
    Requested
    | ReachedBarrier
    | LeftBarrier
    | WorkBegan
    | WorkEnded
    | AnswerCame
    | Ready
    | Delivered
    | Skipped
    | Settled
    | PersonNeeded
    | PauseAsked
    | Quiet
    | TeamEnded
    | StopAsked
    | CloseAsked
)


# ReplayEffects


@dataclass(frozen=True, slots=True)
class Opened:
    """The slot of what was ``Requested``."""

    slot: JournalSlot


@dataclass(frozen=True, slots=True)
class Pass:
    """The request that ``ReachedBarrier`` told of may go out now."""


@dataclass(frozen=True, slots=True)
class Numbered:
    """The arrival number of an answer that came."""

    arrival: int


@dataclass(frozen=True, slots=True)
class Deliver:
    """Let the answer go to its agent; then tell ``Delivered``."""

    arrival: int


@dataclass(frozen=True, slots=True)
class Settle:
    """Let the consequences of a delivery settle; then tell ``Settled``."""


@dataclass(frozen=True, slots=True)
class OpenBarrier:
    """Have everyone who waits at the barrier tell ``ReachedBarrier`` again."""


@dataclass(frozen=True, slots=True)
class StartTimer:
    """Tell ``Quiet`` with this ``activity`` after ``seconds``. Only the last timer matters."""

    seconds: float
    activity: int


@dataclass(frozen=True, slots=True)
class CancelCalls:
    """Cancel every call of the attempt that lives."""


@dataclass(frozen=True, slots=True)
class End:
    """End the team: the attempt has come to ``outcome``."""

    outcome: AttemptOutcome


ReplayEffect = (
    Opened | Pass | Numbered | Deliver | Settle | OpenBarrier | StartTimer | CancelCalls | End
)

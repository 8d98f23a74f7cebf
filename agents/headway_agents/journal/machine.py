"""The replay of a run as a state machine: which answer comes next, and when the run may ask anew.

Law of this file: events in, effects out. An illegal event raises and changes nothing.

Theory of operation. Each answer of a run has an arrival number. Live and in a replay, the machine
delivers answers in the order of these numbers, one at a time, and lets the consequences of each
settle before the next, so branches that run side by side resume as they ran. While the next due
number is that of a recorded answer, it is *replaying*, and a request without a recorded answer
waits at the *barrier*. After the last one it is *live*: live answers keep their order, but never
shut the barrier.

The machine cannot know whether an agent that has asked nothing yet will still ask. So it counts
every event that shows life as *activity*, and asks for a timer. If nothing happened by then and
nothing is in flight, the run is *quiescent*. In a replay that means that nobody wants the answers
which are left: the workflow changed. Live it means that the last branch waits, for a person or for
a pause. One change shows at once: a path writes its rows in the order in which it asks, so it
cannot have lost the row of this request and kept that of a later one.

The shell (``scope.py``) tells the events and carries out the effects. It owns the futures that
agents await, the loop iterations in which consequences settle, and the timers.
"""

from collections import Counter, deque
from collections.abc import Sequence
from typing import assert_never

from headway_scheduler.errors import IllegalTransition, RunClosed
from headway_scheduler.model.calls import CallRecord
from headway_scheduler.model.states import CallState

from .events import (
    AnswerCame,
    CancelCalls,
    CloseAsked,
    Closed,
    Deliver,
    Delivered,
    End,
    JournalSlot,
    LeftBarrier,
    Live,
    Numbered,
    OpenBarrier,
    Opened,
    Pass,
    PauseAsked,
    PersonNeeded,
    Quiet,
    ReachedBarrier,
    Ready,
    ReplayEffect,
    ReplayEvent,
    Replaying,
    ReplayState,
    Requested,
    Settle,
    Settled,
    Skipped,
    StartTimer,
    StopAsked,
    TeamEnded,
    WorkBegan,
    WorkEnded,
)
from .outcomes import AttemptOutcome, NeedsInput, NonDeterminism, Paused, WouldCall
from .recorded import NESTED, Journal, Replay

QUIET_SECONDS = 2.0
"""How long nothing may happen in a replay before its workflow counts as changed."""
WAITING_SECONDS = 0.2
"""How long nothing may happen before a run that waits for a person ends its attempt. What an agent
does longer than that, outside of the journal, is cut off and done again when the run goes on."""

ReplayEffects = tuple[ReplayEffect, ...]


class ReplayMachine:
    """Replays the run ``run_id`` from ``journal``.

    ``is_check``: it ends where something new would be asked. ``in_flight``: how many calls are
    queued or sent, steps act, people are asked. ``at_barrier``: slots that wait there, or for a
    person, by id. ``needs_person``: the call that waits for one. ``activity``: how many events
    showed life. ``replayed``: how many recorded answers were delivered.
    """

    def __init__(self, run_id: str, journal: Journal) -> None:
        self.is_check = False
        self.pause_asked: bool = False
        self.needs_person: str | None = None
        self.in_flight: int = 0
        self.at_barrier: dict[str, JournalSlot] = {}
        self.activity: int = 0
        self.replayed: int = 0
        self._run_id = run_id
        self._journal = journal
        self._next_call = self._first_live = 0
        self._replay: Replay | None = None  # a run that begins has nothing to replay
        self._occurrences: Counter[tuple[str, str, str]] = Counter()
        # Arrival numbers: not delivered yet, in order; ready to be; let go to their agent.
        self._due: deque[int] = deque()
        self._ready: set[int] = set()
        self._let_go: int | None = None
        self._is_settling = False
        if journal.records or journal.inherited:
            self._next_call, self._first_live = journal.first_call(), journal.first_arrival()
            self._replay = Replay(journal)
            answers = self._replay.answers()
            self._due.extend(row.arrival for row in answers if row.arrival is not None)
        self._next_arrival = self._first_live
        self.state: ReplayState = Replaying() if self._due else Live()

    @property
    def is_interrupted(self) -> bool:
        """Whether it was closed before its run was over."""
        return isinstance(self.state, Closed) and self.state.interrupted

    def handle(self, event: ReplayEvent) -> ReplayEffects:  # noqa: C901 - one match over all events
        """Take an event in, and return what the shell must do about it, in this order.

        A closed machine ignores every event but a request, for which it raises RunClosed. Raises
        IllegalTransition for an event that cannot happen in this state; nothing has changed then.
        """
        if isinstance(self.state, Closed):
            if isinstance(event, Requested):
                raise run_closed(self._run_id)
            return ()
        match event:
            case Requested():
                return self._requested(event)
            case ReachedBarrier(slot):
                return self._reached_barrier(slot)
            case LeftBarrier(slot):
                self._require(slot.id in self.at_barrier, event)
                del self.at_barrier[slot.id]
                return self._touch()
            case WorkBegan():
                self.in_flight += 1
                return self._touch()
            case WorkEnded():
                self._require(self.in_flight > 0, event)
                self.in_flight -= 1
                return self._touch()
            case AnswerCame():
                return self._numbered()
            case Ready(arrival):
                self._require(arrival in self._due and not self._is_ready(arrival), event)
                self._ready.add(arrival)
                return (*self._next_delivery(), *self._touch())
            case Delivered(arrival):
                self._require(arrival == self._let_go, event)
                self.replayed += arrival < self._first_live
                return self._left_order(arrival)
            case Skipped(arrival):
                self._require(arrival in self._due, event)
                return self._left_order(arrival)
            case Settled():
                self._require(self._is_settling, event)
                self._is_settling = False
                return self._next_delivery()
            case PersonNeeded(slot):
                self.needs_person = self.needs_person or slot.id
                self.at_barrier[slot.id] = slot
                return self._touch()
            case PauseAsked():
                self.pause_asked = True
                return self._touch()
            case Quiet(activity):
                return self._quiescent() if activity == self.activity and not self.in_flight else ()
            case TeamEnded():
                return self._changed(None) if self._unasked() else ()
            case StopAsked(outcome):
                return self._end(outcome)
            case CloseAsked(interrupted):
                self.state = Closed(None, interrupted)
                return (CancelCalls(),)
            case _:
                assert_never(event)

    def _requested(self, event: Requested) -> ReplayEffects:
        key = (event.kind, event.path, event.request_hash)
        occurrence = self._occurrences[key]
        self._occurrences[key] += 1
        record, is_answered = None, False
        if self._replay is not None:
            record = self._replay.take((*key, occurrence))
            is_answered = record is not None and self._replay.is_answer(record)
        if record is None:
            call_id = f"{self._run_id}.{self._next_call}"
            self._next_call += 1
        else:
            call_id = record.call.id
        agent, nested, _ = event.path.partition(NESTED)
        slot = JournalSlot(
            id=call_id,
            kind=event.kind,
            path=event.path,
            request_hash=event.request_hash,
            occurrence=occurrence,
            record=record,
            is_answered=is_answered,
            was_cut_off=record is not None and record.state is CallState.UNKNOWN,
            is_unordered=bool(nested),
            agent=agent,
            chunks=event.chunks,
        )
        return (Opened(slot), *self._touch())

    # The barrier

    def _reached_barrier(self, slot: JournalSlot) -> ReplayEffects:
        self._require(not slot.is_unordered, slot)
        if isinstance(self.state, Replaying):
            if slot.record is None and self._has_lost(slot):
                return self._changed(slot)
        elif self.is_check:
            return self._end(WouldCall(slot.path, slot.kind, slot.record))
        elif not self.pause_asked:
            waited = self.at_barrier.pop(slot.id, None)
            return (Pass(), *(self._touch() if waited else ()))
        self.at_barrier[slot.id] = slot
        return self._touch()

    def _has_lost(self, slot: JournalSlot) -> bool:
        """Whether an answer of the same kind and path is unasked, which was asked after this."""
        if self._journal.by_order:
            return False
        key = (slot.kind, slot.path)
        return any((row.call.kind, row.call.path) == key for row in self._unasked())

    def _unasked(self) -> Sequence[CallRecord]:
        return () if self._replay is None else self._replay.unasked()

    # Deliveries

    def _numbered(self) -> ReplayEffects:
        arrival = self._next_arrival
        self._next_arrival += 1
        self._due.append(arrival)
        return (Numbered(arrival),)

    def _is_ready(self, arrival: int) -> bool:
        return arrival in self._ready or arrival == self._let_go

    def _next_delivery(self) -> ReplayEffects:
        """Let the first due answer go, if it is ready and the last delivery has settled."""
        if self._is_settling or not self._due or self._due[0] not in self._ready:
            return ()
        self._let_go = self._due[0]
        self._ready.remove(self._let_go)
        return (Deliver(self._let_go),)

    def _left_order(self, arrival: int) -> ReplayEffects:
        """Take a number out of the order. If it was the first, its consequences settle now."""
        was_first = self._due[0] == arrival
        self._due.remove(arrival)
        self._ready.discard(arrival)
        if self._let_go == arrival:
            self._let_go = None
        settle: ReplayEffects = ()
        if was_first and not self._is_settling:
            self._is_settling = True
            settle = (Settle(),)
        return (*settle, *self._after_replay(), *self._touch())

    def _after_replay(self) -> ReplayEffects:
        if not isinstance(self.state, Replaying) or (self._due and self._is_recorded(self._due[0])):
            return ()
        self.state = Live()
        waiting = [slot for slot in self.at_barrier.values() if not slot.is_unordered]
        if self.is_check and waiting:
            return self._end(WouldCall(waiting[0].path, waiting[0].kind, waiting[0].record))
        return () if self.pause_asked or self.is_check else (OpenBarrier(),)

    def _is_recorded(self, arrival: int) -> bool:
        return arrival < self._first_live

    # Life, and its end

    def _touch(self) -> ReplayEffects:
        """Count activity; start the timer anew if anybody waits for something to happen."""
        self.activity += 1
        if isinstance(self.state, Closed) or not (self.at_barrier or self._ready):
            return ()
        seconds = QUIET_SECONDS if isinstance(self.state, Replaying) else WAITING_SECONDS
        return (StartTimer(seconds, self.activity),)

    def _quiescent(self) -> ReplayEffects:
        if isinstance(self.state, Replaying):
            return self._changed(next(iter(self.at_barrier.values()), None))
        if self.needs_person is not None:
            return self._end(NeedsInput(self.needs_person))
        return self._end(Paused()) if self.pause_asked else ()

    def _changed(self, slot: JournalSlot | None) -> ReplayEffects:
        """End because the workflow changed. ``slot`` was asked anew; None if the team ended."""
        unasked = self._unasked()
        near = [row for row in unasked if slot is None or row.call.path == slot.path]
        return self._end(
            NonDeterminism(
                path=None if slot is None else slot.path,
                kind=None if slot is None else slot.kind,
                asked=() if slot is None else tuple(slot.chunks()),
                nearest=next(iter(near or unasked), None),
                replayed=self.replayed,
                next_arrival=self._due[0] if self._due else None,
            )
        )

    def _end(self, outcome: AttemptOutcome) -> ReplayEffects:
        self.state = Closed(outcome, interrupted=True)
        return (End(outcome), CancelCalls())

    def _require(self, is_legal: bool, event: object) -> None:
        if not is_legal:
            raise IllegalTransition(f"run {self._run_id}: {event} while {self.state}")


def run_closed(run_id: str) -> RunClosed:
    """Return the error for whoever asks something of a run that has ended."""
    return RunClosed(
        f"run {run_id} has ended: its agents may ask for nothing more; "
        "resume it or submit a new one"
    )

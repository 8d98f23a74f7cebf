"""Properties that the replay machine keeps for all events in any order."""

from collections import Counter
from copy import copy
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from headway_agents.journal.events import (
    AnswerCame,
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
    ReplayEvent,
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
from headway_agents.journal.machine import ReplayMachine
from headway_agents.journal.outcomes import DeadlinePassed
from headway_agents.journal.recorded import Journal
from headway_scheduler.errors import IllegalTransition, RunClosed
from headway_scheduler.model.calls import Call, CallRecord, Priority
from headway_scheduler.model.states import CallState

PATHS = ("w", "v", "w#run.0")
HASHES = ("a", "b")
STATES = (CallState.DONE, CallState.DONE, CallState.FAILED, CallState.UNKNOWN, CallState.QUEUED)


def row(number: int, key: tuple[str, str, int], state: CallState, arrival: int | None) -> Any:
    path, request_hash, occurrence = key
    call = Call(
        id=f"run.{number}",
        run_id="run",
        path=path,
        model="m",
        quotas=(),
        priority=Priority.NORMAL,
        tokens=1,
        submitted_at=0.0,
        request_hash=request_hash,
        occurrence=occurrence,
    )
    return CallRecord(call, number, state, answer="{}", arrival=arrival)


@st.composite
def journals(draw: st.DrawFn, most: int = 5) -> Journal:
    asked: Counter[tuple[str, str]] = Counter()
    rows = []
    for number, arrival in enumerate(draw(st.permutations(range(draw(st.integers(0, most)))))):
        words = draw(st.sampled_from(PATHS)), draw(st.sampled_from(HASHES))
        state = draw(st.sampled_from(STATES))
        is_numbered = state in (CallState.DONE, CallState.FAILED) and "#" not in words[0]
        rows.append(row(number, (*words, asked[words]), state, arrival if is_numbered else None))
        asked[words] += 1
    if draw(st.booleans()):
        return Journal((), rows, by_order=True)
    return Journal(rows, retry_failed=draw(st.booleans()))


class Watched:
    """A machine, and what was seen of it: enough to say what may come next, and what may not."""

    def __init__(self, journal: Journal, *, is_check: bool = False) -> None:
        self.machine = ReplayMachine("run", journal)
        self.machine.is_check = is_check
        self.recorded = {n for n in self.machine._due if n < journal.first_arrival()}
        self.slots: list[JournalSlot] = []
        self.delivered: list[int] = []
        self.ends = 0
        self.timer = 0
        self.may_deliver = True

    def tell(self, event: ReplayEvent) -> bool:
        """Tell an event and check what must hold. Whether it was legal."""
        was_closed, before = isinstance(self.machine.state, Closed), self.snapshot()
        try:
            effects = self.machine.handle(event)
        except IllegalTransition:
            assert self.snapshot() == before
            return False
        except RunClosed:
            assert was_closed
            assert isinstance(event, Requested)
            assert self.snapshot() == before
            return False
        if was_closed:
            assert effects == ()
            assert self.snapshot() == before
            return True
        if isinstance(event, Delivered | Skipped):
            self.recorded.discard(event.arrival)
        if isinstance(event, Settled):
            self.may_deliver = True
        for effect in effects:
            self.see(effect)
        is_waited = self.machine.at_barrier or self.machine._ready
        if is_waited and not isinstance(self.machine.state, Closed):
            assert self.timer == self.machine.activity, "nobody would notice that it is quiet"
        return True

    def see(self, effect: object) -> None:
        if isinstance(effect, Opened):
            self.slots.append(effect.slot)
        elif isinstance(effect, Deliver):
            assert self.may_deliver, "the last one has not settled"
            self.delivered.append(effect.arrival)
        elif isinstance(effect, Settle):
            self.may_deliver = False
        elif isinstance(effect, Pass | OpenBarrier):
            assert not self.recorded, "a recorded answer is due"
            assert isinstance(self.machine.state, Live)
            assert not self.machine.pause_asked
            assert not self.machine.is_check
        elif isinstance(effect, End):
            self.ends += 1
        elif isinstance(effect, StartTimer):
            self.timer = effect.activity

    def snapshot(self) -> dict[str, object]:
        known = vars(self.machine).copy()
        if (replay := known.pop("_replay")) is not None:
            known |= {f"_replay{name}": value for name, value in vars(replay).items()}
        return {name: copy(value) for name, value in known.items()}


SOMETIMES: list[ReplayEvent] = [StopAsked(DeadlinePassed()), CloseAsked(True), CloseAsked(False)]
"""Most sequences go on without an end."""


@st.composite
def events(draw: st.DrawFn, watched: Watched) -> ReplayEvent:
    """Any event; those about slots and answers mostly about some that there are."""
    arrival = draw(st.integers(0, 9))
    activity = watched.machine.activity - draw(st.sampled_from((0, 0, 0, 1)))
    words = draw(st.sampled_from(PATHS)), draw(st.sampled_from(HASHES))
    choices: list[ReplayEvent] = [
        Requested("model", *words, tuple),
        AnswerCame(),
        *(make(n) for n in (arrival, *watched.machine._due) for make in (Ready, Skipped)),
        *(Delivered(n) for n in (arrival, *watched.delivered[-1:])),
        Settled(),
        WorkBegan(),
        WorkEnded(),
        PauseAsked(),
        Quiet(activity),
        TeamEnded(),
    ]
    if watched.slots:
        slot = draw(st.sampled_from(watched.slots))
        choices += [ReachedBarrier(slot), LeftBarrier(slot), PersonNeeded(slot)]
    if draw(st.integers(0, 9)) == 0:
        choices += SOMETIMES
    return draw(st.sampled_from(choices))


@settings(max_examples=100, deadline=None)
@given(journals(), st.booleans(), st.data())
def test_whatever_comes_in_any_order(journal: Journal, is_check: bool, data: DataObject) -> None:
    watched = Watched(journal, is_check=is_check)
    for _ in range(data.draw(st.integers(1, 40))):
        watched.tell(data.draw(events(watched)))
    assert all(a < b for a, b in pairwise(watched.delivered)), "each once, in order of arrival"
    assert watched.ends <= 1


@settings(max_examples=100, deadline=None)
@given(journals(most=8), st.integers(0, 4), st.data())
def test_a_run_that_asks_everything_again_gets_it_in_order_and_goes_on(
    journal: Journal, new: int, data: DataObject
) -> None:
    """Agents ask in any order, and what the shell owes the machine comes in any order."""
    watched = Watched(journal)
    expected = sorted(watched.recorded)
    calls = [each.call for each in (*journal.inherited, *journal.records)]
    for call in data.draw(st.permutations(calls)):
        watched.tell(Requested("model", call.path, call.request_hash, tuple))
    assert {slot.id for slot in watched.slots} == {call.id for call in calls}
    owed: list[ReplayEvent] = []
    for slot in watched.slots:
        if slot.is_answered and not slot.is_unordered:
            assert slot.record is not None
            assert slot.record.arrival is not None
            owed.append(Ready(slot.record.arrival))
    while owed:
        event = owed.pop(data.draw(st.integers(0, len(owed) - 1)))
        before = len(watched.delivered)
        assert watched.tell(event)
        owed += [Delivered(number) for number in watched.delivered[before:]]
        owed += [Settled()] if isinstance(event, Delivered) else []
    assert watched.delivered == expected
    assert watched.machine.replayed == len(expected)
    assert isinstance(watched.machine.state, Live)
    for number in range(new):
        watched.tell(Requested("model", "new", f"{number}", tuple))
        assert Pass() in watched.machine.handle(ReachedBarrier(watched.slots[-1]))
    assert watched.machine.handle(AnswerCame()) == (Numbered(journal.first_arrival()),)

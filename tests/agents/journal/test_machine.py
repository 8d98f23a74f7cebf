"""The table of the replay machine, cell by cell: every event in every state."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any, get_args

import pytest

from headway_agents.journal.events import (
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
from headway_agents.journal.machine import QUIET_SECONDS, WAITING_SECONDS, ReplayMachine
from headway_agents.journal.outcomes import (
    DeadlinePassed,
    NeedsInput,
    NonDeterminism,
    Paused,
    WouldCall,
)
from headway_agents.journal.recorded import Journal
from headway_scheduler.errors import IllegalTransition, RunClosed
from headway_scheduler.model.calls import Call, CallRecord, Priority
from headway_scheduler.model.states import CallState

REPLAYING, LIVE, CLOSED = Replaying(), Live(), Closed(None, interrupted=False)


def row(
    number: int,
    path: str = "w",
    *,
    arrival: int | None = None,
    state: CallState = CallState.DONE,
    request_hash: str | None = None,
) -> CallRecord:
    call = Call(
        id=f"run.{number}",
        run_id="run",
        path=path,
        model="m",
        quotas=(),
        priority=Priority.NORMAL,
        tokens=1,
        submitted_at=0.0,
        request_hash=f"h{number}" if request_hash is None else request_hash,
    )
    return CallRecord(call, number, state, answer="{}", arrival=arrival)


def words() -> tuple[str, ...]:
    return ("what is asked",)


def asked(request_hash: str, path: str = "w") -> Requested:
    return Requested("model", path, request_hash, words)


def machine(*records: CallRecord, **options: Any) -> ReplayMachine:
    return ReplayMachine("run", Journal(records, **options))


def slot_of(made: ReplayMachine, event: Requested) -> JournalSlot:
    (opened, *_) = made.handle(event)
    assert isinstance(opened, Opened)
    return opened.slot


def snapshot(made: ReplayMachine) -> Any:
    """All that a machine knows, for comparison."""
    state = {name: value for name, value in vars(made).items() if name != "_replay"}
    return repr((state, made._replay and vars(made._replay)))


def ended(outcome: Any) -> tuple[ReplayEffect, ...]:
    return (End(outcome), CancelCalls())


# The machines of the table: two recorded answers, or none; and the slots that they know of.


@dataclass(frozen=True)
class Given:
    """A machine, and the slot of a request that is not recorded."""

    machine: ReplayMachine
    new: JournalSlot


def replaying(*told: ReplayEvent, is_check: bool = False) -> Given:
    """Answers 0 of w and 1 of v are recorded; neither was asked for. x asks something new."""
    made = machine(row(0, "w", arrival=0), row(1, "v", arrival=1))
    made.is_check = is_check
    new = slot_of(made, asked("new", "x"))
    for event in told:
        made.handle(event)
    assert made.state == REPLAYING
    return Given(made, new)


def live(*told: ReplayEvent, is_check: bool = False) -> Given:
    made = machine()
    made.is_check = is_check
    new = slot_of(made, asked("new", "x"))
    for event in told:
        made.handle(event)
    assert made.state == LIVE
    return Given(made, new)


def closed() -> Given:
    made = machine(row(0, "w", arrival=0))
    new = slot_of(made, asked("new", "x"))
    made.handle(CloseAsked(interrupted=False))
    assert made.state == CLOSED
    return Given(made, new)


@dataclass(frozen=True)
class Cell:
    """The effects of an event in a state. ``event`` may depend on the slots that are known."""

    given: Callable[[], Given]
    event: Callable[[Given], ReplayEvent]
    effects: Callable[[Given], Any]
    state: ReplayState
    why: str = ""

    @property
    def name(self) -> str:
        given = self.given()
        what = type(self.event(given)).__name__
        return f"{what}-{type(given.machine.state).__name__}-{self.why}".rstrip("-")


def timer(seconds: float) -> Callable[[Given], Any]:
    return lambda given: (StartTimer(seconds, given.machine.activity),)


def nothing(_: Given) -> Any:
    return ()


def at(event: ReplayEvent) -> Callable[[Given], ReplayEvent]:
    return lambda _: event


def changed(path: str | None, nearest: int, replayed: int = 0, due: int = 0) -> Any:
    return ended(
        NonDeterminism(
            path=path,
            kind=None if path is None else "model",
            asked=() if path is None else words(),
            nearest=row(nearest, "w" if nearest == 0 else "v", arrival=nearest),
            replayed=replayed,
            next_arrival=due,
        )
    )


DELIVERED_0 = (Ready(0), Delivered(0))
"""The first of two recorded answers went to its agent."""


def waiting(given: Given) -> Given:
    given.machine.handle(ReachedBarrier(given.new))
    return given


def needing(given: Given) -> Given:
    given.machine.handle(PersonNeeded(given.new))
    return given


def checked_twice() -> Given:
    """A check that waits at the barrier, and has one more answer to deliver."""
    given = waiting(replaying(*DELIVERED_0, Settled(), is_check=True))
    given.machine.handle(Ready(1))
    return given


def last_is_let_go() -> Given:
    given = waiting(replaying(*DELIVERED_0, Settled()))
    given.machine.handle(Ready(1))
    return given


TABLE = [
    # Requested
    Cell(replaying, at(asked("h0")), lambda g: ["run.0"], REPLAYING, "a row"),
    Cell(replaying, at(asked("other", "x")), lambda g: ["run.3"], REPLAYING, "none"),
    Cell(live, at(asked("other", "x")), lambda g: ["run.1"], LIVE),
    Cell(closed, at(asked("h0")), nothing, CLOSED),
    # AnswerCame
    Cell(replaying, at(AnswerCame()), lambda g: (Numbered(2),), REPLAYING),
    Cell(live, at(AnswerCame()), lambda g: (Numbered(0),), LIVE),
    Cell(closed, at(AnswerCame()), nothing, CLOSED),
    # Ready
    Cell(replaying, at(Ready(0)), lambda g: (Deliver(0),), REPLAYING, "first"),
    Cell(replaying, at(Ready(1)), timer(QUIET_SECONDS), REPLAYING, "not yet"),
    Cell(
        lambda: replaying(*DELIVERED_0), at(Ready(1)), timer(QUIET_SECONDS), REPLAYING, "settling"
    ),
    Cell(lambda: live(AnswerCame()), at(Ready(0)), lambda g: (Deliver(0),), LIVE, "first"),
    Cell(
        lambda: live(AnswerCame(), AnswerCame()), at(Ready(1)), timer(WAITING_SECONDS), LIVE, "next"
    ),
    Cell(closed, at(Ready(0)), nothing, CLOSED),
    # Delivered
    Cell(lambda: replaying(Ready(0)), at(Delivered(0)), lambda g: (Settle(),), REPLAYING),
    Cell(
        last_is_let_go,
        at(Delivered(1)),
        lambda g: (Settle(), OpenBarrier(), *timer(WAITING_SECONDS)(g)),
        LIVE,
        "last",
    ),
    Cell(
        checked_twice,
        at(Delivered(1)),
        lambda g: (Settle(), *ended(WouldCall("x", "model", None))),
        Closed(WouldCall("x", "model", None), interrupted=True),
        "last of a check",
    ),
    Cell(
        lambda: replaying(*DELIVERED_0, Settled(), PauseAsked(), Ready(1)),
        at(Delivered(1)),
        lambda g: (Settle(),),
        LIVE,
        "last of a pause",
    ),
    Cell(lambda: live(AnswerCame(), Ready(0)), at(Delivered(0)), lambda g: (Settle(),), LIVE),
    Cell(closed, at(Delivered(0)), nothing, CLOSED),
    # Skipped
    Cell(replaying, at(Skipped(0)), lambda g: (Settle(),), REPLAYING, "first"),
    Cell(replaying, at(Skipped(1)), nothing, REPLAYING, "another"),
    Cell(
        lambda: replaying(Skipped(0), Settled()),
        at(Skipped(1)),
        lambda g: (Settle(), OpenBarrier()),
        LIVE,
        "last",
    ),
    Cell(lambda: live(AnswerCame()), at(Skipped(0)), lambda g: (Settle(),), LIVE, "first"),
    Cell(lambda: live(AnswerCame(), AnswerCame()), at(Skipped(1)), nothing, LIVE, "another"),
    Cell(closed, at(Skipped(0)), nothing, CLOSED),
    # Settled
    Cell(
        lambda: replaying(*DELIVERED_0, Ready(1)), at(Settled()), lambda g: (Deliver(1),), REPLAYING
    ),
    Cell(lambda: replaying(*DELIVERED_0), at(Settled()), nothing, REPLAYING, "nobody is there"),
    Cell(
        lambda: live(AnswerCame(), AnswerCame(), Ready(1), *DELIVERED_0),
        at(Settled()),
        lambda g: (Deliver(1),),
        LIVE,
    ),
    Cell(closed, at(Settled()), nothing, CLOSED),
    # ReachedBarrier
    Cell(replaying, lambda g: ReachedBarrier(g.new), timer(QUIET_SECONDS), REPLAYING),
    Cell(live, lambda g: ReachedBarrier(g.new), lambda g: (Pass(),), LIVE, "free"),
    Cell(
        lambda: live(PauseAsked()),
        lambda g: ReachedBarrier(g.new),
        timer(WAITING_SECONDS),
        LIVE,
        "paused",
    ),
    Cell(
        lambda: live(is_check=True),
        lambda g: ReachedBarrier(g.new),
        lambda g: ended(WouldCall("x", "model", None)),
        Closed(WouldCall("x", "model", None), interrupted=True),
        "check",
    ),
    Cell(closed, lambda g: ReachedBarrier(g.new), nothing, CLOSED),
    # LeftBarrier
    Cell(lambda: waiting(replaying()), lambda g: LeftBarrier(g.new), nothing, REPLAYING),
    Cell(lambda: waiting(live(PauseAsked())), lambda g: LeftBarrier(g.new), nothing, LIVE),
    Cell(closed, lambda g: LeftBarrier(g.new), nothing, CLOSED),
    # WorkBegan, WorkEnded
    Cell(replaying, at(WorkBegan()), nothing, REPLAYING),
    Cell(lambda: waiting(replaying()), at(WorkBegan()), timer(QUIET_SECONDS), REPLAYING, "waited"),
    Cell(live, at(WorkBegan()), nothing, LIVE),
    Cell(closed, at(WorkBegan()), nothing, CLOSED),
    Cell(lambda: replaying(WorkBegan()), at(WorkEnded()), nothing, REPLAYING),
    Cell(
        lambda: needing(live(WorkBegan())), at(WorkEnded()), timer(WAITING_SECONDS), LIVE, "waited"
    ),
    Cell(lambda: live(WorkBegan()), at(WorkEnded()), nothing, LIVE),
    Cell(closed, at(WorkEnded()), nothing, CLOSED),
    # PersonNeeded, PauseAsked
    Cell(replaying, lambda g: PersonNeeded(g.new), timer(QUIET_SECONDS), REPLAYING),
    Cell(live, lambda g: PersonNeeded(g.new), timer(WAITING_SECONDS), LIVE),
    Cell(closed, lambda g: PersonNeeded(g.new), nothing, CLOSED),
    Cell(replaying, at(PauseAsked()), nothing, REPLAYING),
    Cell(live, at(PauseAsked()), nothing, LIVE),
    Cell(lambda: needing(live()), at(PauseAsked()), timer(WAITING_SECONDS), LIVE, "waited"),
    Cell(closed, at(PauseAsked()), nothing, CLOSED),
    # Quiet
    Cell(
        lambda: waiting(replaying()),
        lambda g: Quiet(g.machine.activity),
        lambda g: changed("x", nearest=0),
        Closed(changed("x", nearest=0)[0].outcome, interrupted=True),
        "at the barrier",
    ),
    Cell(
        lambda: replaying(Ready(1)),
        lambda g: Quiet(g.machine.activity),
        lambda g: changed(None, nearest=0),
        Closed(changed(None, nearest=0)[0].outcome, interrupted=True),
        "in the order",
    ),
    Cell(
        lambda: waiting(replaying()),
        lambda g: Quiet(g.machine.activity - 1),
        nothing,
        REPLAYING,
        "long ago",
    ),
    Cell(
        lambda: waiting(replaying(WorkBegan())),
        lambda g: Quiet(g.machine.activity),
        nothing,
        REPLAYING,
        "in flight",
    ),
    Cell(
        lambda: needing(live()),
        lambda g: Quiet(g.machine.activity),
        lambda g: ended(NeedsInput("run.0")),
        Closed(NeedsInput("run.0"), interrupted=True),
        "a person",
    ),
    Cell(
        lambda: waiting(live(PauseAsked())),
        lambda g: Quiet(g.machine.activity),
        lambda g: ended(Paused()),
        Closed(Paused(), interrupted=True),
        "a pause",
    ),
    Cell(
        lambda: needing(live(PauseAsked())),
        lambda g: Quiet(g.machine.activity),
        lambda g: ended(NeedsInput("run.0")),
        Closed(NeedsInput("run.0"), interrupted=True),
        "both",
    ),
    Cell(
        lambda: needing(live(WorkBegan())),
        lambda g: Quiet(g.machine.activity),
        nothing,
        LIVE,
        "in flight",
    ),
    Cell(live, lambda g: Quiet(g.machine.activity), nothing, LIVE, "nobody waits"),
    Cell(closed, at(Quiet(0)), nothing, CLOSED),
    # TeamEnded
    Cell(
        lambda: replaying(asked("h0"), *DELIVERED_0),
        at(TeamEnded()),
        lambda g: changed(None, nearest=1, replayed=1, due=1),
        Closed(changed(None, 1, 1, 1)[0].outcome, interrupted=True),
    ),
    Cell(
        lambda: replaying(asked("h0"), asked("h1", "v")),
        at(TeamEnded()),
        nothing,
        REPLAYING,
        "all asked",
    ),
    Cell(live, at(TeamEnded()), nothing, LIVE),
    Cell(closed, at(TeamEnded()), nothing, CLOSED),
    # StopAsked, CloseAsked
    *(
        Cell(
            given,
            at(StopAsked(DeadlinePassed())),
            lambda g: ended(DeadlinePassed()),
            Closed(DeadlinePassed(), interrupted=True),
        )
        for given in (replaying, live)
    ),
    Cell(closed, at(StopAsked(DeadlinePassed())), nothing, CLOSED),
    *(
        Cell(
            given,
            at(CloseAsked(interrupted)),
            lambda g: (CancelCalls(),),
            Closed(None, interrupted),
            f"interrupted {interrupted}",
        )
        for given in (replaying, live)
        for interrupted in (True, False)
    ),
    Cell(closed, at(CloseAsked(interrupted=True)), nothing, CLOSED),
]


def test_the_table_has_every_event_in_every_state() -> None:
    cells = {(type(c.event(g)), type(g.machine.state)) for c in TABLE for g in [c.given()]}
    assert cells == set(product(get_args(ReplayEvent), get_args(ReplayState)))


@pytest.mark.parametrize("cell", TABLE, ids=lambda cell: cell.name)
def test_a_cell_of_the_table(cell: Cell) -> None:
    given = cell.given()
    event = cell.event(given)
    if cell.given is closed:
        before = snapshot(given.machine)
        if isinstance(event, Requested):
            with pytest.raises(RunClosed, match="run run has ended"):
                given.machine.handle(event)
        else:
            assert given.machine.handle(event) == ()
        assert snapshot(given.machine) == before
        return
    effects = given.machine.handle(event)
    shown = [each.slot.id if isinstance(each, Opened) else each for each in effects]
    assert shown == list(cell.effects(given))
    assert given.machine.state == cell.state


ILLEGAL: dict[str, tuple[Callable[[], Given], Callable[[Given], ReplayEvent]]] = {
    "delivered unasked": (replaying, at(Delivered(0))),
    "delivered twice": (lambda: replaying(*DELIVERED_0), at(Delivered(0))),
    "delivered out of order": (lambda: replaying(Ready(0), Ready(1)), at(Delivered(1))),
    "ready twice": (lambda: replaying(Ready(1)), at(Ready(1))),
    "ready after it was let go": (lambda: replaying(Ready(0)), at(Ready(0))),
    "ready without a number": (live, at(Ready(0))),
    "skipped without a number": (live, at(Skipped(0))),
    "skipped after it was delivered": (lambda: replaying(*DELIVERED_0), at(Skipped(0))),
    "settled without a delivery": (replaying, at(Settled())),
    "ended without a beginning": (live, at(WorkEnded())),
    "left where it was not": (live, lambda g: LeftBarrier(g.new)),
    "left twice": (lambda: left(waiting(replaying())), lambda g: LeftBarrier(g.new)),
    "at the barrier inside a step": (live, lambda g: ReachedBarrier(nested_slot())),
}


def left(given: Given) -> Given:
    given.machine.handle(LeftBarrier(given.new))
    return given


def nested_slot() -> JournalSlot:
    return slot_of(machine(), asked("inner", "w#run.0"))


@pytest.mark.parametrize("what", ILLEGAL)
def test_an_illegal_event_raises_and_changes_nothing(what: str) -> None:
    make, event = ILLEGAL[what]
    given = make()
    before = snapshot(given.machine)
    with pytest.raises(IllegalTransition):
        given.machine.handle(event(given))
    assert snapshot(given.machine) == before


# What slots say


def test_a_slot_has_the_row_of_its_request_once() -> None:
    made = machine(row(0, arrival=0, request_hash="h"))
    first, second = (slot_of(made, asked("h")) for _ in range(2))
    assert (first.id, first.occurrence, first.is_answered) == ("run.0", 0, True)
    assert (second.id, second.occurrence, second.record) == ("run.1", 1, None)


@pytest.mark.parametrize(
    ("state", "arrival", "is_answered"),
    [
        (CallState.DONE, 0, True),
        (CallState.FAILED, 0, True),
        (CallState.FAILED, None, False),
        (CallState.UNKNOWN, None, False),
        (CallState.QUEUED, None, False),
        (CallState.CANCELLED, None, False),
    ],
)
def test_a_row_is_given_back_or_asked_again(
    state: CallState, arrival: int | None, is_answered: bool
) -> None:
    slot = slot_of(machine(row(0, arrival=arrival, state=state)), asked("h0"))
    assert slot.record is not None
    assert slot.is_answered is is_answered


def test_a_failure_that_nothing_followed_is_asked_again_by_a_retry() -> None:
    failed = row(0, "w", arrival=0, state=CallState.FAILED)
    after = row(1, "w", arrival=1)
    assert not slot_of(machine(failed, retry_failed=True), asked("h0")).is_answered
    assert slot_of(machine(failed, after, retry_failed=True), asked("h0")).is_answered


def test_a_row_that_was_set_aside_is_not_found() -> None:
    made = machine(row(0, arrival=None))
    assert slot_of(made, asked("h0")).record is None
    assert made.state == LIVE


def test_what_a_step_asks_is_nested_and_belongs_to_its_agent() -> None:
    slot = slot_of(machine(), asked("h", "team/w#run.3#run.4"))
    assert (slot.agent, slot.is_unordered) == ("team/w", True)
    assert slot_of(machine(), asked("h", "team/w")).is_unordered is False


def test_inherited_answers_are_matched_by_order_in_a_fork_with_a_task_of_its_own() -> None:
    inherited = [row(0, "w", arrival=0), row(1, "w", arrival=1)]
    made = ReplayMachine("copy", Journal((), inherited, by_order=True))
    slots = [slot_of(made, asked("other words")) for _ in range(3)]
    assert [slot.id for slot in slots] == ["run.0", "run.1", "copy.0"]
    assert made.handle(ReachedBarrier(slots[2])) == (StartTimer(QUIET_SECONDS, made.activity),)


def test_numbers_of_new_answers_are_above_those_of_every_row() -> None:
    """A row that is asked again may have one, and another row that is not must keep its own."""
    failed = [row(number, arrival=number, state=CallState.FAILED) for number in (5, 7)]
    made = machine(row(0, arrival=6), *failed, retry_failed=True)
    assert made.handle(AnswerCame()) == (Numbered(8),)


# The way from one state to the next


def test_a_path_that_lost_a_row_and_kept_a_later_one_changed() -> None:
    made = machine(row(0, "w", arrival=0))
    slot = slot_of(made, asked("other", "w"))
    assert made.handle(ReachedBarrier(slot)) == changed("w", nearest=0)


def test_a_row_that_is_asked_again_waits_at_the_barrier() -> None:
    cut_off = row(1, "v", state=CallState.UNKNOWN)
    made = machine(row(0, "v", arrival=0), cut_off)
    slot = slot_of(made, asked("h1", "v"))
    assert slot.record is cut_off
    assert made.handle(ReachedBarrier(slot)) == (StartTimer(QUIET_SECONDS, made.activity),)
    made.handle(Ready(0))
    assert OpenBarrier() in made.handle(Delivered(0))
    assert Pass() in made.handle(ReachedBarrier(slot))
    assert not made.at_barrier


def test_a_pause_that_comes_when_the_barrier_has_opened_shuts_it() -> None:
    given = last_is_let_go()
    assert OpenBarrier() in given.machine.handle(Delivered(1))
    given.machine.handle(PauseAsked())
    assert Pass() not in given.machine.handle(ReachedBarrier(given.new))
    assert given.machine.handle(Quiet(given.machine.activity)) == ended(Paused())


def test_only_recorded_answers_that_were_delivered_count_as_replayed() -> None:
    made = machine(*(row(number, "w", arrival=number) for number in range(3)))
    for event in (*DELIVERED_0, Settled(), Skipped(1), Settled(), Ready(2), Delivered(2)):
        made.handle(event)
    made.handle(Settled())
    for event in (AnswerCame(), Ready(3), Delivered(3)):
        made.handle(event)
    assert made.replayed == 2


def test_the_first_call_that_needs_a_person_is_the_one_that_is_waited_for() -> None:
    given = needing(live())
    given.machine.handle(PersonNeeded(slot_of(given.machine, asked("another", "y"))))
    assert given.machine.needs_person == given.new.id


def test_a_person_needed_inside_a_step_does_not_end_a_check_as_a_call() -> None:
    made = machine(row(0, "w", arrival=0))
    made.is_check = True
    made.handle(PersonNeeded(slot_of(made, asked("inner", "w#run.0"))))
    made.handle(Ready(0))
    assert made.handle(Delivered(0)) == (Settle(), StartTimer(WAITING_SECONDS, made.activity))
    assert made.handle(Quiet(made.activity)) == ended(NeedsInput("run.1"))

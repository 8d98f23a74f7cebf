"""Rows of a run that are no part of its journal."""

from headway_agents.journal.recorded import Journal, Replay
from headway_scheduler.model.calls import BYPASS, Call, CallRecord, Priority
from headway_scheduler.model.states import CallState


def row(number: str, kind: str, state: CallState, seq: int) -> CallRecord:
    call = Call(
        f"r.{number}",
        *("r", "writer", "m", (), Priority.NORMAL, 0, 1.0),
        kind=kind,
        occurrence=seq,
    )
    arrival = 0 if state is CallState.FAILED else None
    return CallRecord(call, seq, state, arrival=arrival)


def test_a_request_past_the_scheduler_is_nothing_that_an_agent_asked_after_a_failure() -> None:
    """A failure after which its agent asked again is given back; else a retry asks again."""
    failed = row("0", "model", CallState.FAILED, 0)
    past = row("past.0", BYPASS, CallState.CANCELLED, 1)
    again = row("1", "model", CallState.CANCELLED, 2)
    for rows, is_given_back in (([failed, past], False), ([failed, past, again], True)):
        journal = Journal(rows, retry_failed=True)
        assert bool(Replay(journal).answers()) is is_given_back
        assert journal.first_call() == (1 if len(rows) == 2 else 2)

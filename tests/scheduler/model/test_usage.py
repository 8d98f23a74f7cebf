"""The second wall: what a provider told is checked again where it becomes an object of the model.

``tests/scheduler/providers/test_readings.py`` has the door where it enters.
"""

from typing import Any

import pytest
from tests.odd import unchecked

from headway_scheduler.errors import InternalError
from headway_scheduler.model.calls import (
    LARGEST_COUNT,
    Call,
    CallRecord,
    Outcome,
    Priority,
    Usage,
)
from headway_scheduler.model.quotas import (
    MOST_ODD_FIELDS,
    Observation,
    RateLimitHeader,
    Resource,
)
from headway_scheduler.model.states import CallState
from headway_scheduler.protocol.codec import dump, load_request
from headway_scheduler.protocol.envelopes import MessageBatch
from headway_scheduler.protocol.messages import Observe, Settle


@pytest.mark.parametrize(
    "count", [-1, 1.5, 2.0, float("nan"), float("inf"), 2**63, LARGEST_COUNT + 1, "3", True, None]
)
def test_what_is_no_count_is_not_counted(count: Any) -> None:
    with pytest.raises(ValueError, match="tokens: not a whole number"):
        Usage(count, 1)
    with pytest.raises(ValueError, match="tokens: not a whole number"):
        Usage(1, count)
    assert Usage(0, LARGEST_COUNT).total == LARGEST_COUNT


@pytest.mark.parametrize(
    "parts",
    [
        {"cache_read_tokens": 11},
        {"cache_read_tokens": 6, "cache_write_tokens": 5},
        {"cache_write_1h_tokens": 1},
        {"output_reasoning_tokens": 4},
        {"input_image_tokens": -1},
        {"output_audio_tokens": 1.0},
        {"output_audio_tokens": 0.0},
        {"cache_write_tokens": False},
    ],
)
def test_a_part_lies_in_its_total(parts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no part of them"):
        Usage(10, 3, **parts)


def test_two_answers_together_have_the_parts_of_both() -> None:
    first = Usage(10, 3, cache_read_tokens=4, output_reasoning_tokens=1)
    second = Usage(5, 2, cache_read_tokens=1, has_odd_parts=True)
    both = first.plus(second)
    assert both == Usage(15, 5, cache_read_tokens=5, output_reasoning_tokens=1, has_odd_parts=True)
    assert both.parts() == {
        "cache_read_tokens": 5,
        "output_reasoning_tokens": 1,
        "has_odd_parts": 1,
    }
    assert Usage(1, 1).parts() == {}


def settled(*outcomes: Outcome) -> CallRecord:
    call = Call("r.0", "r", "w", "m", (), Priority.NORMAL, 1, 0.0)
    record = CallRecord(call, 0)
    for outcome in outcomes:
        record.admit(1.0)
        record.settle(outcome, 2.0)
    return record


def test_a_row_adds_up_all_its_answers_that_were_paid() -> None:
    refused = Outcome(
        CallState.QUEUED, Usage(10, 5), error="no", usd=0.5, usd_source="stated", tier="flex"
    )
    done = Outcome(CallState.DONE, Usage(10, 1), "{}", usd=0.25, usd_source="stated")
    record = settled(refused, Outcome(CallState.QUEUED, error="500", usd=0.0), done)
    assert (record.usage, record.usd, record.usd_source) == (Usage(20, 6), 0.75, "stated")
    assert record.tier is None
    unknown = settled(refused, Outcome(CallState.DONE, Usage(1, 1), "{}"))
    assert (unknown.usd, unknown.usd_source) == (None, "unknown")
    unpaid = settled(Outcome(CallState.FAILED, error="400", usd=0.0))
    assert (unpaid.usage, unpaid.usd, unpaid.usd_source) == (None, None, None)


def told(**header: float) -> dict[str, Observation]:
    return {"q": Observation(headers={Resource.TOKENS: RateLimitHeader(**header)})}


def ended(**fields: Any) -> Settle:
    return Settle("r.1", Outcome(CallState.QUEUED, **fields))


@pytest.mark.parametrize(
    "message",
    [
        ended(usage=unchecked(Usage, input_tokens=2**63, output_tokens=4)),
        ended(usage=unchecked(Usage, input_tokens=3, output_tokens=-4)),
        ended(usage=unchecked(Usage, input_tokens=1.5, output_tokens=4)),
        ended(used_tokens=-1),
        ended(used_tokens=2**62),
        ended(usd=-1.0),
        ended(usd=1e300),
        ended(not_before=1e300),
        Observe("r.1", told(limit=1e300)),
        Observe("r.1", told(limit=0.5)),
        Observe("r.1", told(remaining=-1.0)),
        Observe("r.1", told(reset_seconds=1e9)),
        Observe("r.1", {"q": Observation(pause_until=1e300)}),
        Observe("r.1", {"q": Observation(odd=("m: x",) * (MOST_ODD_FIELDS + 1))}),
        Settle("r.1", Outcome(CallState.DONE), told(limit=1e300)),
    ],
    ids=repr,
)
def test_an_odd_number_of_another_process_is_refused_when_it_is_read(message: Any) -> None:
    good = MessageBatch("w-1", (ended(usage=Usage(3, 4), usd=1.0), Observe("r.1", told(limit=5.0))))
    assert load_request(dump(good)) == good
    with pytest.raises(InternalError, match="another version"):
        load_request(dump(MessageBatch("w-1", (message,))))

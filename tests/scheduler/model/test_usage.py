"""The second wall: what a provider told is checked again where it becomes an object of the model.

``tests/scheduler/providers/test_readings.py`` has the door where it enters.
"""

from typing import Any

import pytest
from tests.odd import unchecked

from headway_scheduler.errors import InternalError
from headway_scheduler.model.calls import LARGEST_COUNT, Outcome, Usage
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

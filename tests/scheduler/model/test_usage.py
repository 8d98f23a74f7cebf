"""The second wall: what a provider told is checked again where it becomes an object of the model.

``tests/scheduler/providers/test_readings.py`` has the door where it enters.
"""

import math
from typing import Any

import pytest

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


@pytest.mark.parametrize(
    "field", [{"used_tokens": -1}, {"usd": math.nan}, {"usd": -1.0}, {"not_before": math.inf}]
)
def test_an_end_of_an_attempt_has_no_odd_number(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not"):
        Outcome(CallState.QUEUED, **field)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, 1e13])
@pytest.mark.parametrize("field", ["limit", "remaining", "reset_seconds"])
def test_a_header_has_no_odd_number(field: str, value: float) -> None:
    with pytest.raises(ValueError, match="a rate limit header"):
        RateLimitHeader(**{field: value})


def test_an_observation_has_no_odd_number() -> None:
    with pytest.raises(ValueError, match="not a time"):
        Observation(pause_until=math.nan)
    with pytest.raises(ValueError, match="at most"):
        Observation(odd=("m: x",) * (MOST_ODD_FIELDS + 1))


ODD = [
    Settle("r.1", Outcome(CallState.DONE, Usage(3, 4))),
    Observe("r.1", {"q": Observation(headers={Resource.TOKENS: RateLimitHeader(5.0)})}),
]


@pytest.mark.parametrize(
    ("message", "good", "bad"),
    [
        (ODD[0], '"input_tokens":3', f'"input_tokens":{2**63}'),
        (ODD[0], '"output_tokens":4', '"output_tokens":-4'),
        (ODD[1], '"limit":5.0', '"limit":1e300'),
    ],
)
def test_an_odd_number_of_another_process_is_refused_when_it_is_read(
    message: Any, good: str, bad: str
) -> None:
    text = dump(MessageBatch("w-1", (message,)))
    assert load_request(text) == MessageBatch("w-1", (message,))
    assert good in text
    with pytest.raises(InternalError):
        load_request(text.replace(good, bad))

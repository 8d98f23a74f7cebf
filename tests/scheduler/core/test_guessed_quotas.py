"""Quotas that nobody configured: one for each address, and not without end."""

import pytest

from headway_scheduler.core.admission import lanes
from headway_scheduler.core.scheduler import Scheduler
from headway_scheduler.errors import UnknownQuota
from headway_scheduler.model.batch import Snapshot
from headway_scheduler.model.calls import Call, CallRecord, Priority
from headway_scheduler.model.quotas import Quota, Resource
from headway_scheduler.protocol.messages import Submit

NOW = 1_000.0


def call(number: int, quota: str) -> Call:
    return Call(f"r.{number}", "r", "w", "m", (quota,), Priority.NORMAL, 10, NOW)


def test_an_address_has_a_quota_of_its_own_from_its_first_call_on() -> None:
    core = Scheduler([Quota.per_minute("q", requests=1)], NOW)
    core.handle(Submit(call(0, "at llm.example.com")), NOW)
    core.handle(Submit(call(1, "q")), NOW)
    assert len(core.admit(NOW)) == 2
    assert {bucket.quota for bucket in core.take_batch(NOW).buckets} == {"at llm.example.com", "q"}
    learned = core.state.lanes.quotas["at llm.example.com"].learned
    assert learned.known.stated.is_guess
    assert {each.resource for each in learned.known.stated.limits} == {
        Resource.REQUESTS,
        Resource.TOKENS,
    }
    with pytest.raises(UnknownQuota):
        core.handle(Submit(call(2, "atlas")), NOW)


def test_a_call_that_waited_at_an_address_goes_on_in_the_next_process() -> None:
    core = Scheduler([], NOW)
    waits = CallRecord(call(0, "at llm.example.com"), 0)
    core.restore(Snapshot(calls=(waits,), next_seq=1), NOW, lambda record: True)
    assert [record.call.id for record in core.admit(NOW)] == ["r.0"]


def test_there_are_not_more_of_them_than_can_be_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "MOST_GUESSED", 2)
    core = Scheduler([], NOW)
    for number in range(2):
        core.handle(Submit(call(number, f"at h{number}")), NOW)
    with pytest.raises(UnknownQuota):
        core.handle(Submit(call(2, "at h2")), NOW)

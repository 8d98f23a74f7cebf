"""The ledger judges from its entries alone; no clock is read."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway_scheduler.testing.provider import Entry, Ledger, Limits
from headway_scheduler.testing.provider.gate import Gate
from headway_scheduler.testing.provider.ledger import worst_excess

MODEL = "gpt-4o"


def _entry(index: int, second: float, tokens: int = 1, **changes: object) -> Entry:
    stated: dict[str, object] = {
        "index": index,
        "received_at": second,
        "received_monotonic": second,
        "model": MODEL,
        "status": 200,
        "accepted": True,
        "paid": True,
        "charged_tokens": tokens,
        "digest": f"d{index}",
        "finished_monotonic": second + 1,
    }
    return Entry(**{**stated, **changes})  # type: ignore[arg-type]


def test_the_worst_window_is_half_open_and_counts_accepted_requests_only() -> None:
    ledger = Ledger(
        [
            _entry(1, 0, 10),
            _entry(2, 59, 10),
            _entry(3, 60, 30),
            _entry(4, 60, 99, accepted=False, paid=False, status=429),
            _entry(5, 200, 25),
        ]
    )
    assert ledger.worst_window(60) == (2, 40)
    assert ledger.worst_window(1000) == (4, 75)
    assert len(ledger.accepted) == 4
    assert len(ledger.refused) == 1


def test_the_ledger_finds_requests_that_were_paid_twice() -> None:
    entries = [_entry(1, 0), _entry(2, 1, digest="d1"), _entry(3, 2, digest="d1", paid=False)]
    assert Ledger(entries).duplicates() == {"d1": 2}
    assert Ledger(entries[1:]).duplicates() == {}


def test_the_ledger_knows_how_many_ran_at_once() -> None:
    assert Ledger([_entry(1, 0), _entry(2, 0.5), _entry(3, 1.0)]).most_at_once() == 2
    hanging = _entry(1, 0, finished_monotonic=None)
    assert Ledger([hanging, _entry(2, 5), _entry(3, 5.5)]).most_at_once() == 3


def test_excess_is_what_a_window_holds_above_its_line() -> None:
    entries = [_entry(n, second=n - 1, tokens=100) for n in range(1, 5)]
    assert Ledger(entries).excess(Limits(60, 6000, burst_seconds=1)) == (0, 0)
    assert Ledger(entries).excess(Limits(30, 3000, burst_seconds=2)) == (1.5, 150)
    assert Ledger(entries).excess(Limits(30, burst_seconds=2), model="other") == (0, 0)


charges = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 12)), min_size=1, max_size=12).map(
    lambda steps: list(
        zip(itertools.accumulate(s for s, _ in steps), (a for _, a in steps), strict=True)
    )
)


@given(charges, st.integers(1, 10), st.sampled_from([0.25, 0.5, 1.0, 2.0]))
def test_one_pass_finds_what_all_windows_together_find(
    found: list[tuple[float, float]], capacity: float, per_second: float
) -> None:
    by_definition = max(
        sum(amount for _, amount in found[first : last + 1])
        - per_second * (found[last][0] - found[first][0])
        - max(capacity, found[last][1])
        for last in range(len(found))
        for first in range(last + 1)
    )
    assert worst_excess(found, capacity, per_second) == pytest.approx(max(0.0, by_definition))


@given(
    st.lists(st.tuples(st.floats(0, 3), st.integers(1, 700)), max_size=60),
    st.sampled_from([1.0, 10.0, 60.0]),
)
def test_what_the_gate_lets_in_never_exceeds_its_limits(
    steps: list[tuple[float, int]], burst_seconds: float
) -> None:
    limits, second = Limits(30, 600, burst_seconds=burst_seconds), 0.0
    entries: list[Entry] = []
    gate = Gate(limits, now=0)
    for wait, tokens in steps:
        second += wait
        if gate.admit(MODEL, tokens, second) is None:
            entries.append(_entry(len(entries) + 1, second, tokens))
    assert Ledger(entries).excess(limits) == (0, 0)


def test_a_ledger_file_holds_finished_requests_and_reads_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path=path)
    for number in (1, 2, 3):
        ledger.open(_entry(number, number))
    ledger.finish(2, "", wall=9, monotonic=9)
    assert [json.loads(line)["index"] for line in path.read_text().splitlines()] == [2]
    ledger.finish(1, "client_left", wall=9, monotonic=9)
    ledger.close()
    back = Ledger.read(path)
    assert [(entry.index, entry.why) for entry in back.entries] == [(1, "client_left"), (2, "")]
    assert back.entries == ledger.entries[:2]

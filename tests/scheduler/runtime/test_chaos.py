"""Twenty minutes of every fault at random, with crashes in between: the laws of the benchmark."""

import pytest
from benchmarks.chaos import Chaos


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_run_completes_or_fails_for_what_no_wait_mends(seed: int) -> None:
    report = Chaos(seed, minutes=20).simulate()
    assert report.broken == []
    assert report.runs.keys() == {"completed", "a bad request"}
    assert min(report.runs["completed"], report.calls, report.crashes, len(report.faults)) > 3

import time

import pytest

from headway_scheduler.clock import system_clock


def test_it_starts_at_the_wall_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_000.0)
    monkeypatch.setattr(time, "monotonic", lambda: 7.0)
    assert system_clock()() == 1_000.0


@pytest.mark.parametrize("wall", [0.0, 999.0, 5_000_000.0])
def test_a_step_of_the_wall_clock_does_not_move_it(
    monkeypatch: pytest.MonkeyPatch, wall: float
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_000.0)
    monkeypatch.setattr(time, "monotonic", lambda: 7.0)
    clock = system_clock()
    monkeypatch.setattr(time, "time", lambda: wall)
    assert clock() == 1_000.0


def test_it_goes_on_with_the_monotonic_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_000.0)
    monkeypatch.setattr(time, "monotonic", lambda: 7.0)
    clock = system_clock()
    monkeypatch.setattr(time, "monotonic", lambda: 9.5)
    assert clock() == 1_002.5


def test_it_never_goes_back() -> None:
    clock = system_clock()
    times = [clock() for _ in range(1_000)]
    assert times == sorted(times)

"""Refusals by chance are told from those of a limit: the rate falls, and their share does not."""

import random
from collections.abc import Callable, Iterator

import pytest

from headway_scheduler.core.limits.refused_share import HALF, RefusedShare

NOW = 1_772_366_400.0
Share = Callable[[float], float]
"""Which share of requests is refused at a rate, in requests a second."""


def found(share: Share, seed: int, rates: tuple[float, ...]) -> Iterator[bool]:
    """Ask at one rate after the other; yield at each refusal whether it is taken for chance."""
    rng, refusals, now = random.Random(seed), RefusedShare(), NOW
    for rate in rates:
        for _ in range(HALF):
            now += 1 / rate
            if rng.random() < share(rate):
                refusals.record_refusal(now)
                yield refusals.is_by_chance
            else:
                refusals.record_answer(now)


FALLING = (8.0, 6.0, 4.0, 2.0, 1.0, 0.5, 0.25)


@pytest.mark.parametrize("seed", range(20))
def test_a_share_that_stays_while_the_rate_falls_is_chance(seed: int) -> None:
    assert any(found(lambda _: 0.2, seed, FALLING))


@pytest.mark.parametrize("limit", [0.01, 1.0, 3.0, 7.0])
@pytest.mark.parametrize("seed", range(20))
def test_a_share_that_falls_with_the_rate_is_a_limit(seed: int, limit: float) -> None:
    assert not any(found(lambda rate: 1 - limit / rate, seed, FALLING))


@pytest.mark.parametrize("share", [0, 1])
def test_it_is_taken_for_a_limit_again_once_none_or_many_are_refused(share: int) -> None:
    refusals = RefusedShare()
    for n in range(2 * HALF):
        now = NOW + n + (n > HALF) * (n - HALF)
        (refusals.record_answer if n % 5 else refusals.record_refusal)(now)
    refusals.record_refusal(now)
    assert refusals.is_by_chance
    for _ in range(HALF):
        (refusals.record_refusal if share else refusals.record_answer)(now)
    refusals.record_refusal(now)
    assert not refusals.is_by_chance

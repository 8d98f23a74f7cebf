"""Amounts in words."""

import pytest

from headway_scheduler.model.formulas import dollars


@pytest.mark.parametrize(
    ("usd", "words"),
    [
        (0.0, "$0.0000"),
        (12_345.678, "$12,345.6780"),
        (0.25, "$0.2500"),
        (0.0031, "$0.0031"),
        (0.00025, "$0.00025"),
        (0.0000021, "$0.0000021"),
        (1e-30, "$0.000000000000"),
        (-0.5, "$-0.5000"),
    ],
)
def test_dollars_show_two_digits_of_small_amounts(usd: float, words: str) -> None:
    assert dollars(usd) == words

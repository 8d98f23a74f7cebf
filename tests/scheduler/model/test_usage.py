"""What a provider says that it counted is checked where it enters."""

import pytest

from headway_scheduler.model.calls import LARGEST_COUNT, Usage


@pytest.mark.parametrize(
    "count", [-1, 1.5, 2.0, float("nan"), float("inf"), 2**63, LARGEST_COUNT + 1, "3", True, None]
)
def test_what_is_no_count_is_not_counted(count: object) -> None:
    assert Usage.counted(count, 1) is None
    assert Usage.counted(1, count) is None


def test_a_count_is_taken_as_it_is() -> None:
    assert Usage.counted(3, 0) == Usage(3, 0)
    assert Usage.counted(0, LARGEST_COUNT) == Usage(0, LARGEST_COUNT)
    assert Usage.counted(0, 0) is None

"""What is packed: the wheel's own tests run against the wheel, not against the checkout."""

import os
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import headway


def test_version_is_the_distributions() -> None:
    assert headway.__version__ == version("headway")


@pytest.mark.skipif(
    "TEST_INSTALLED_WHEEL" not in os.environ, reason="only `make wheel-test` installs the wheel"
)
def test_tests_run_against_the_installed_wheel() -> None:
    site = Path(sys.prefix).resolve()
    for name in ("headway", "headway_agents", "headway_scheduler"):
        module = __import__(name)
        assert Path(module.__file__ or "").resolve().is_relative_to(site / "lib"), name

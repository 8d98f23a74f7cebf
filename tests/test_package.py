"""The wheel is complete: `make wheel-test` runs these tests, and those of commands, on it."""

import os
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import headway

CHECKOUT = Path(__file__).parent.parent


def test_version_is_the_distributions() -> None:
    assert headway.__version__ == version("headway-agents")


@pytest.mark.skipif(
    "TEST_INSTALLED_WHEEL" not in os.environ, reason="only `make wheel-test` installs the wheel"
)
@pytest.mark.parametrize(
    "package",
    ["agents/headway_agents", "orchestrator/headway", "scheduler/headway_scheduler"],
)
def test_the_installed_wheel_has_every_file_of_a_package_and_no_other(package: str) -> None:
    source = CHECKOUT / package
    installed = Path(import_module(source.name).__file__ or "").resolve().parent
    assert installed.is_relative_to(Path(sys.prefix).resolve() / "lib")
    assert contents(installed) == contents(source)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }

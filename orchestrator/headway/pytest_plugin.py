"""The fixture ``simulated_headway``, in every project of pytest that has Headway installed.

pytest finds this file by its entry point. It imports Headway only for a test that asks for it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .testing import SimulatedHeadway

MARKER = "simulated_headway"


class _TestOver(Exception):
    """What is left of the test's runs is interrupted; without an error they would be waited for."""


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, for projects that have typos in markers refused."""
    config.addinivalue_line(
        "markers", f"{MARKER}(**arguments): what the fixture gives headway.testing.{MARKER}."
    )


@pytest.fixture
def simulated_headway(request: pytest.FixtureRequest) -> "SimulatedHeadway":
    """Open a Headway for one test, whose models a simulated provider in the process answers.

    The test is anyio's or pytest-asyncio's, on asyncio. ``@pytest.mark.simulated_headway(…)`` gives
    arguments of :func:`headway.testing.simulated_headway`.
    """
    # An async fixture is run by one plugin, in the loop of the tests that this plugin runs.
    if "anyio_backend" in request.fixturenames:
        found: SimulatedHeadway = request.getfixturevalue("_headway_of_anyio")
    elif request.config.pluginmanager.has_plugin("asyncio"):
        found = request.getfixturevalue("_headway_of_asyncio")
    else:
        raise pytest.UsageError(
            "the fixture simulated_headway is for async tests: mark the test with "
            "@pytest.mark.anyio, or install pytest-asyncio"
        )
    return found


@pytest.fixture
async def _headway_of_anyio(request: pytest.FixtureRequest) -> "AsyncIterator[SimulatedHeadway]":
    async with _opened(request) as headway:
        yield headway


# anyio's plugin comes with anyio, which Headway needs; pytest-asyncio is the user's.
if find_spec("pytest_asyncio") is not None:
    import pytest_asyncio

    @pytest_asyncio.fixture
    async def _headway_of_asyncio(
        request: pytest.FixtureRequest,
    ) -> "AsyncIterator[SimulatedHeadway]":
        async with _opened(request) as headway:
            yield headway


@asynccontextmanager
async def _opened(request: pytest.FixtureRequest) -> "AsyncIterator[SimulatedHeadway]":
    from . import testing

    marker = request.node.get_closest_marker(MARKER)
    if marker and marker.args:
        raise pytest.UsageError(f"{MARKER} takes arguments by name, as reply=, not {marker.args!r}")
    with suppress(_TestOver):
        async with testing.simulated_headway(**(marker.kwargs if marker else {})) as headway:
            yield headway
            raise _TestOver

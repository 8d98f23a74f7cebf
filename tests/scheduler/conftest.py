from pathlib import Path

import pytest
from tests.scheduler.backends.engines import DEAF, ENGINES, Engine


@pytest.fixture(params=ENGINES)
def engine(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Engine:
    return ENGINES[request.param](tmp_path, monkeypatch)


@pytest.fixture(params=[*ENGINES, *DEAF])
def engine_or_deaf(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Engine:
    """Rings may be lost as well."""
    return (ENGINES | DEAF)[request.param](tmp_path, monkeypatch)

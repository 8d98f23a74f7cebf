import pytest


@pytest.fixture
def anyio_backend() -> str:
    """AutoGen runs on asyncio only."""
    return "asyncio"

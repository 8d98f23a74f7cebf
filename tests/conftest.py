import os
from collections.abc import Generator
from inspect import iscoroutinefunction

import pytest
from hypothesis import HealthCheck, settings
from tests.waiting import bounded

# A shell that forbids it would have each process that a test starts compile Headway again: a third
# of what a command costs.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Nothing here is asked over TLS, and to read a machine's certificates costs every client that is
# made 40 ms of CPU. A folder is looked into only when a server shows a certificate.
os.environ.pop("SSL_CERT_FILE", None)
os.environ["SSL_CERT_DIR"] = os.path.dirname(__file__)

# How long an example takes, or is thought up, says how busy the machine is and not what holds.
settings.register_profile(
    "busy machine",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,  # a failure says how to have the same examples again
)
settings.load_profile("busy machine")


@pytest.fixture
def anyio_backend() -> str:
    """AutoGen runs on asyncio only."""
    return "asyncio"


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Bound every async test, before anyio's plugin runs it."""
    if iscoroutinefunction(pyfuncitem.obj):
        pyfuncitem.obj = bounded(pyfuncitem.obj)
    return (yield)

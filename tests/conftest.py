import logging
import os
import signal
import sys
import tempfile
from collections.abc import Generator
from inspect import iscoroutinefunction
from types import SimpleNamespace
from typing import Any

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

# A shell starts jobs in the background with SIGINT ignored, and what tests start would inherit it:
# some tests press Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes, or is thought up, says how busy the machine is and not what holds.
settings.register_profile(
    "busy machine",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,  # a failure says how to have the same examples again
)
settings.load_profile("busy machine")


class Unraised(logging.Handler):
    """Hands over to pytest, as exceptions of destructors, what asyncio can only log.

    That is exceptions of tasks that nobody retrieved, and tasks that were destroyed while they were
    pending. The test in which it is noticed fails; the cause may be in an earlier one.
    """

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        told: Any = SimpleNamespace(
            exc_type=type(error),
            exc_value=error,
            exc_traceback=error and error.__traceback__,
            err_msg=f"{record.name}: {record.getMessage()}",
            object=None,
        )
        sys.unraisablehook(told)


def pytest_configure() -> None:
    logging.getLogger("asyncio").addHandler(Unraised(logging.ERROR))


@pytest.fixture(scope="session", autouse=True)
def own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep files of other suites on this machine away from those of this process.

    AutoGen names a file of code after its text, and removes it: two suites would share it.
    """
    tempfile.tempdir = os.environ["TMPDIR"] = str(tmp_path_factory.getbasetemp())


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

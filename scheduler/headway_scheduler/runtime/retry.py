"""Services that run beside the pump. Law: an error in one ends neither the process nor its runs."""

import logging
from collections.abc import Awaitable, Callable

import anyio

from ..errors import HeadwayError, SchedulerClosed, StoreError, StoreReplaced, StoreTakenOver

RETRY_SECONDS = 1.0
"""How long to wait before the same is tried again."""

LOST = (StoreTakenOver, StoreReplaced)
"""Errors after which this process leads no more: nothing is tried again."""

BUG = "an error that is nobody's: please report it; Headway goes on"

_log = logging.getLogger("headway")


async def keep_serving(serve: Callable[[], Awaitable[None]]) -> None:
    """Serve until cancelled, or until the scheduler is closed; begin anew after an error.

    An error of the store is mended by time. Any other one is a bug, and is reported. Raises what is
    in LOST.
    """
    while True:
        try:
            await serve()
            return
        except SchedulerClosed:
            return
        except LOST:
            raise
        except StoreError:
            pass
        except Exception as error:
            if isinstance(error, ExceptionGroup) and error.subgroup(HeadwayError):
                raise
            _log.exception(BUG)
        await anyio.sleep(RETRY_SECONDS)

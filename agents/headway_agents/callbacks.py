"""Keeps callbacks of a run from ending the event loop. Law: no callback of a run ends it.

Theory of operation. asyncio logs what a callback raises and goes on, but after SystemExit or
KeyboardInterrupt it leaves the loop, and with it all runs of the process; ``stop`` does the same.
Each callback is scheduled by one of three methods of the loop: those of ``call_later``, of futures
and of tasks too. So these are replaced on the loop itself, and guard what the context of a run
schedules. All else passes: Ctrl-C is no callback of a run.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import Any
from weakref import WeakSet

from headway_scheduler.errors import WorkflowExited

from .scope import current_scope

Callback = Callable[..., object]

_guarded: "WeakSet[asyncio.AbstractEventLoop]" = WeakSet()


def contain_callbacks(loop: asyncio.AbstractEventLoop) -> None:
    """Guard, from here on, callbacks that code of a run schedules on this loop, and ``stop``."""
    if loop in _guarded:
        return
    _guarded.add(loop)
    soon, threadsafe, at, stop = loop.call_soon, loop.call_soon_threadsafe, loop.call_at, loop.stop

    def of_run(callback: Callback, context: Context | None) -> Callback:
        scope = current_scope.get() if context is None else context.get(current_scope)
        return callback if scope is None else partial(_contained, loop, callback)

    def call_soon(callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:
        return soon(of_run(callback, context), *args, context=context)

    def call_threadsafe(callback: Any, *args: Any, context: Context | None = None) -> Any:
        return threadsafe(of_run(callback, context), *args, context=context)

    def call_at(when: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        return at(when, of_run(callback, context), *args, context=context)

    def stop_loop() -> None:
        if current_scope.get() is not None:
            raise RuntimeError("code of a run cannot stop the event loop: other runs use it")
        stop()

    vars(loop).update(
        call_soon=call_soon, call_soon_threadsafe=call_threadsafe, call_at=call_at, stop=stop_loop
    )


def _contained(loop: asyncio.AbstractEventLoop, callback: Callback, *args: Any) -> None:
    try:
        callback(*args)
    except (SystemExit, KeyboardInterrupt) as error:
        exited = WorkflowExited(f"{type(error).__name__}: {error}")
        exited.__cause__ = error
        scope = current_scope.get()
        loop.call_exception_handler(
            {
                "message": f"a callback of run {scope and scope.run_id} ends no event loop",
                "exception": exited,
            }
        )

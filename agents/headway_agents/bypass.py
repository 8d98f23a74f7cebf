"""Sees what the code of a run asks of providers by itself, past the scheduler.

Law of this file: a request is counted, charged and said, or refused; it is never changed.

Theory of operation. A raw client in a tool, a closure or a memory sends by httpx. While a Headway
watches, ``send`` of the clients of httpx and httpx2 looks whether the request belongs to an
exchange; ``exchange.py`` has that part, because each request of a call comes by there too. One that
does not, from the context of a run, to a server that the run's :class:`Watch` knows, is a *bypass*.
The watch is in the scope, so several Headways differ in what they do. The classes are given back
when the last one has closed.

Not seen: other HTTP libraries, child processes, and threads that AutoGen did not start.
"""

import logging
import threading
from asyncio import AbstractEventLoop, get_running_loop
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from importlib import import_module
from typing import Any

from headway_scheduler.errors import CallerError
from headway_scheduler.model.calls import BYPASS, Call

from .calls.exchange import in_exchange, telling
from .calls.models import Origin
from .scope import RunScope, acting_agent, current_scope

LIBRARIES = ("httpx", "httpx2")
MOST_SAID = 1_000
"""How many pairs of an agent and a host this process warns of."""

_log = logging.getLogger("headway")
_said: set[tuple[str, str]] = set()
_lock = threading.Lock()
_watching = 0
_originals: dict[type, Any] = {}
"""What ``send`` was, by class of clients."""


@dataclass(frozen=True, slots=True)
class Watch:
    """The rules for requests of a run that go past the scheduler.

    ``quotas_of`` returns the quotas of a server, None for one that is no provider. ``refuses``:
    such a request is not sent. ``loop``: that of the scheduler.
    """

    quotas_of: Callable[[Origin], tuple[str, ...] | None]
    refuses: bool
    loop: AbstractEventLoop

    def take(self, scope: RunScope, request: Any) -> None:
        """Charge and count a request if it is a bypass. Raises CallerError if that is refused."""
        url = request.url
        quotas = self.quotas_of((url.scheme, url.host, url.port))
        if quotas is None or request.method != "POST":
            return
        agent = acting_agent()
        advice = "use models(…) or hw.openai (docs/providers.md)"
        what = f"agent {agent!r} of run {scope.run_id} asks {url.host} past the scheduler: {advice}"
        if self.refuses:
            raise CallerError(f'{what}; `[defaults] bypass` is "refuse"')
        if (agent, url.host) not in _said and len(_said) < MOST_SAID:
            _said.add((agent, url.host))
            _log.warning("%s", what)
        note = partial(_note, scope, agent, url.host, quotas)
        if _is_running(self.loop):
            note()
        else:
            self.loop.call_soon_threadsafe(note)


def watch() -> None:
    """Watch what is sent, until :func:`unwatch` has been called as often."""
    global _watching
    with _lock:
        _watching += 1
        for name in LIBRARIES:
            try:
                library = import_module(name)
            except ImportError:
                continue
            for kind, tell in ((library.AsyncClient, telling), (library.Client, _telling)):
                if kind not in _originals:
                    _originals[kind] = kind.send
                    kind.send = tell(kind.send, _past)


def unwatch() -> None:
    """Give the classes back, once nobody watches any more and nobody else has wrapped them."""
    global _watching
    with _lock:
        _watching -= 1
        if _watching:
            return
        for kind, original in list(_originals.items()):
            if getattr(kind.send, "__wrapped__", None) is original:  # type: ignore[attr-defined]
                kind.send = original  # type: ignore[attr-defined]
                del _originals[kind]


def _past(client: Any, request: Any) -> None:
    """Take in a request that no exchange sends."""
    scope = current_scope.get()
    if scope is None or scope.watch is None or not _watching:
        return
    if not getattr(client, "sends_scheduled", False):
        scope.watch(request)


def _telling(send: Callable[..., Any], past: Callable[[Any, Any], None]) -> Callable[..., Any]:
    """Return ``send`` of a client that blocks, with ``past`` told of requests of no exchange."""

    @wraps(send)
    def sending(client: Any, request: Any, *args: Any, **options: Any) -> Any:
        if not in_exchange():
            past(client, request)
        return send(client, request, *args, **options)

    return sending


def _note(scope: RunScope, agent: str, host: str, quotas: tuple[str, ...]) -> None:
    now = scope.scheduler.now()
    number, scope.bypassed = scope.bypassed, scope.bypassed + 1
    call = Call(
        f"{scope.run_id}.past.{number}",
        *(scope.run_id, agent, host, quotas, scope.priority, 0, now),
        kind=BYPASS,
    )
    scope.scheduler.charge_request(quotas, call)


def _is_running(loop: AbstractEventLoop) -> bool:
    """Whether this is the thread of a loop."""
    try:
        return get_running_loop() is loop
    except RuntimeError:
        return False

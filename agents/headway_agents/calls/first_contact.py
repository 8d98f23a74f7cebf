"""Says why a server does not answer, and gives a call up whose server never did.

Law of this file: a server that has answered once is waited for; one that never was is not waited
for without end, for nobody knows whether there is one.

Theory of operation. The scheduler's client keeps the addresses that have answered (a lesson), and
those that calls wait for and that may be *silent*: nobody gets an answer there since some time. A
call to an address that never answered, or of a model whose patience is stated, has a timer while it
waits. It looks whether the address is silent for longer than the patience, and gives it up then: a
call that may go to another address does that, any other ends. A call that tries again at such an
address, in vain, ends as well. Once no call waits there any more, the silence is forgotten: the
next call finds out for itself.
"""

import asyncio
import math
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from headway_scheduler.errors import ProviderError
from headway_scheduler.providers import ErrorClass, Failure, Verdict
from headway_scheduler.runtime.client import SchedulerClient

from .errors import NoAnswer, causes, text_of

FIRST_PATIENCE_SECONDS = 120.0
"""How long a server that never answered is waited for, unless its model's patience is stated."""
_WRONG_PATH = (404, 405)
_ENDPOINTS = ("/chat/completions", "/completions", "/responses", "/messages")
"""What the clients put behind an address."""


@dataclass(eq=False, slots=True)
class Silence:
    """An address that calls wait for, and since when nobody gets an answer there."""

    since: float | None = None
    """Since when; epoch seconds. None: nobody was refused yet."""
    cause: str = ""
    """Why, as of the last attempt."""
    waiting: set[str] = field(default_factory=set[str])
    """Ids of the calls that wait for an answer there."""


class Patience:
    """The timer of one call that waits for a server which may never answer.

    ``stated``: the patience of its model, if that is stated, in seconds. ``give_up`` has the call
    go elsewhere, or ends it, if it waits.
    """

    def __init__(
        self,
        scheduler: SchedulerClient,
        address: str,
        call_id: str,
        stated: float | None,
        give_up: Callable[[NoAnswer], None],
    ) -> None:
        self._scheduler = scheduler
        self.address: str = address
        """The server's address."""
        self._call_id = call_id
        self._stated = stated
        self._give_up = give_up
        self._began_at = scheduler.now()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def _limit_seconds(self) -> float:
        """How long the call waits; infinite once the server has answered, unless it is stated."""
        has_answered = self.address in self._scheduler.answered
        return patience_for(self._stated, has_answered=has_answered)

    def begin(self) -> None:
        """Look again when the call would have waited for too long."""
        self._cancel_timer()
        limit, now = self._limit_seconds, self._scheduler.now()
        if limit == math.inf:
            return
        silence = self._scheduler.silent.setdefault(self.address, Silence())
        silence.waiting.add(self._call_id)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0.0, self._since(silence) + limit - now), self._look)

    def stop(self) -> None:
        """End the timer: the call has ended. The last one forgets the silence."""
        self._cancel_timer()
        silence = self._scheduler.silent.get(self.address)
        if silence is not None:
            silence.waiting.discard(self._call_id)
            if not silence.waiting:
                del self._scheduler.silent[self.address]

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _since(self, silence: Silence) -> float:
        """Since when this call has waited for an answer that nobody gets."""
        if silence.since is None:
            return self._scheduler.now()
        return max(silence.since, self._began_at)

    async def judged(
        self,
        error: Exception,
        verdict: Verdict,
        said: Failure | None,
        *,
        has_head: bool,
        has_others: bool,
    ) -> tuple[Exception, Verdict]:
        """Return what a failed attempt means, at a server that is not waited for without end.

        ``verdict`` is that of any server; ``said``: what this one answered, if it did.
        ``has_others``: the call may go to another server, and will when its timer looks.
        """
        address = self.address
        if not await self._scheduler.has_answered(address):
            if (wrong := wrong_path(address, said)) is not None:
                wrong.__cause__ = error
                return wrong, Verdict(ErrorClass.ACCOUNT)
            if said is not None and said.body is not None:
                self._scheduler.note_answer(address)
        is_silent = said is None and not has_head and verdict.error_class is ErrorClass.TRANSIENT
        if is_silent and (given_up := self._failed(error)) is not None and not has_others:
            given_up.__cause__ = error
            return given_up, Verdict(ErrorClass.FINAL)
        return error, verdict

    def _failed(self, error: Exception) -> NoAnswer | None:
        """Take in that no answer came; return the error if the call is given up for that."""
        limit, now = self._limit_seconds, self._scheduler.now()
        if limit == math.inf:
            return None
        silence = self._scheduler.silent.setdefault(self.address, Silence())
        silence.waiting.add(self._call_id)
        silence.cause = cause_of(error)
        if silence.since is None:
            silence.since = now
        return self._given_up(silence) if now - silence.since >= limit else None

    def _look(self) -> None:
        silence, now = self._scheduler.silent.get(self.address), self._scheduler.now()
        if silence is None or silence.since is None:
            self.begin()
        elif now - self._since(silence) >= self._limit_seconds:
            self._give_up(self._given_up(silence))
        else:
            self.begin()

    def _given_up(self, silence: Silence) -> NoAnswer:
        return NoAnswer(self.address, self._limit_seconds, silence.cause)


def patience_for(stated: float | None, *, has_answered: bool) -> float:
    """Return how many seconds a server that answers nobody is waited for; infinite without end."""
    if stated is not None:
        return stated
    return math.inf if has_answered else FIRST_PATIENCE_SECONDS


def wrong_path(address: str, failure: Failure | None) -> ProviderError | None:
    """Return the error for what an address answers that is none of an API; None for any other."""
    if failure is None or failure.status not in _WRONG_PATH:
        return None
    if isinstance(failure.body, Mapping) and failure.body.get("error"):
        return None
    path = urlsplit(address).path
    if (endpoint := endpoint_of(address)) is not None:
        advice = f"does base_url end too late? Clients add {endpoint} themselves"
    elif "/v1" in path:
        advice = "is that the path of its API?"
    else:
        advice = "does base_url need /v1?"
    text = f"{address} answers {failure.status}: {advice} (`headway doctor --ping` asks it)"
    return ProviderError(text, status=failure.status)


def endpoint_of(address: str) -> str | None:
    """Return the path of an endpoint that an address ends in by mistake; None for any other."""
    path = urlsplit(address).path.rstrip("/")
    return next((each for each in _ENDPOINTS if path.endswith(each)), None)


def cause_of(error: BaseException) -> str:
    """Say why no answer came, in words: the innermost cause that is known."""
    found = list(causes(error, is_any=True))
    for each in reversed(found):
        if isinstance(each, socket.gaierror):
            return "no such host"
        if isinstance(each, ConnectionRefusedError):
            return "connection refused"
        if isinstance(each, ssl.SSLError):
            return f"TLS: {getattr(each, 'reason', None) or text_of(each)}"
        if isinstance(each, TimeoutError) or "Timeout" in type(each).__name__:
            return "no answer in time"
    texts = [text for each in found if (text := text_of(each).strip())]
    return texts[-1][:200] if texts else type(error).__name__

"""Owns the HTTP of each attempt at a call: its time, its head, its body. Law: counted before read.

Theory of operation. AutoGen's clients take no ``extra_headers`` and return no headers, so an
:class:`Exchange` goes through hooks of the HTTP client below the SDK, and a context variable tells
them whose request it is. What a provider sends passes here before a client reads it, so one answer
can cost no more than its limits:

* the hook for requests offers gzip and deflate alone, and shortens the time to connect;
* the hook for responses refuses redirects, and puts a :class:`BodyReader` in front of the body. It
  unpacks in pieces, counts before and after, and gives on whole lines of a stream alone: whoever
  gathers a long line from many small pieces copies it each time.
* a :class:`Watch` ends an exchange whose time is over. It cancels what the call awaits, as a
  preemption does, so the slot is free at once.

What was refused here is what counts (``Exchange.refusal``), whatever the client makes of it.
"""

import asyncio
import re
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import cache
from typing import Any, TypeVar

from headway_scheduler.providers.readings import LONGEST_MODEL_NAME, count, word

from ..autogen_private import http_client
from .errors import AnswerRefused, TimedOut
from .live_call import LiveCall
from .models import Model

T = TypeVar("T")

MIB = 2**20
LONGEST_LINE = 16 * MIB
"""The longest line, and event, of a stream, in bytes."""
MOST_LINES = 1_000
"""The most lines of one event of a stream. Real ones have three."""
PIECE = 65_536
"""How many bytes of a body are unpacked, and given on, at once."""

OFFERED = "gzip, deflate"
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_RAW_DEFLATE = -15
_LINES = ("text/event-stream", "application/x-ndjson", "application/jsonl")
"""Content types whose readers want whole lines."""
_EVENTS = _LINES[0]
_EVENT_END = re.compile(rb"\n\n|\r\r|\r\n\r\n")


class TooMuch(Exception):
    """A body is beyond a limit; the text says which."""


class BodyReader:
    """Counts and unpacks a body, piece by piece. No I/O.

    ``encoding`` is the header's, empty for none. With ``content_type`` of a stream whole lines are
    given on; of any other body, pieces that are not small.
    """

    def __init__(self, encoding: str, content_type: str, most: int) -> None:
        self._encoding = encoding
        self._inflate = _decompressor(_WINDOW_BITS[encoding]) if encoding else None
        self.has_lines = content_type.startswith(_LINES)
        self._has_events = content_type.startswith(_EVENTS)
        self._packed_left = self._left = most
        self._held = bytearray()
        self._event_bytes = self._event_lines = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take the next bytes as they came; yield what may be given on.

        Raises TooMuch, or ValueError for what is not packed as it says.
        """
        self._packed_left -= len(data)
        if self._packed_left < 0:
            raise TooMuch
        for part in self._unpacked(data):
            self._left -= len(part)
            if self._left < 0:
                raise TooMuch
            if given := self._given(part):
                yield given

    def finish(self) -> bytes:
        """Return what is left at the end: a last line without an end."""
        return bytes(self._held)

    def _unpacked(self, data: bytes) -> Iterator[bytes]:
        if self._inflate is None:
            yield data
            return
        while True:
            part = self._decompressed(data)
            if not part:
                return
            yield part
            data = self._inflate.unconsumed_tail

    def _decompressed(self, data: bytes) -> bytes:
        assert self._inflate is not None
        if self._inflate.eof:
            return b""
        is_first = self._encoding == "deflate"
        self._encoding = ""
        try:
            part: bytes = self._inflate.decompress(data, PIECE)
        except zlib.error as error:
            if is_first:  # some servers send deflate without its header
                self._inflate = _decompressor(_RAW_DEFLATE)
                return self._decompressed(data)
            raise ValueError(f"the body is not packed as it says: {error}") from None
        return part

    def _given(self, part: bytes) -> bytes:
        """Return what may be given on now, and hold the rest."""
        if not self.has_lines:
            self._held += part
            if len(self._held) < PIECE:
                return b""
            given, self._held = bytes(self._held), bytearray()
            return given
        end = max(part.rfind(b"\n"), part.rfind(b"\r")) + 1
        if not end:
            self._held += part
            if len(self._held) > LONGEST_LINE:
                raise TooMuch("a line of the stream")
            return b""
        given = bytes(self._held) + part[:end]
        self._held = bytearray(part[end:])
        if self._has_events:
            self._count_events(given)
        return given

    def _count_events(self, lines: bytes) -> None:
        """Raise TooMuch for an event of too many lines or bytes."""
        first, *others = _EVENT_END.split(lines)
        self._event_lines += first.count(b"\n") + first.count(b"\r")
        self._event_bytes += len(first)
        for each in (first, *others):
            if each is not first:
                self._event_lines = each.count(b"\n") + each.count(b"\r")
                self._event_bytes = len(each)
            if self._event_lines > MOST_LINES or self._event_bytes > LONGEST_LINE:
                raise TooMuch("an event of the stream")


def _decompressor(window_bits: int) -> Any:
    return zlib.decompressobj(window_bits)


class Watch:
    """Ends an exchange whose time is over: until its head, between bytes, or as a whole.

    One timer, set to the earliest end; when it fires, it looks what is due, and else sleeps on.
    So a chunk that comes costs an assignment.
    """

    def __init__(self, model: Model, expire: Callable[[TimedOut], None]) -> None:
        self._model = model
        self._expire = expire
        self._loop = asyncio.get_running_loop()
        self._started_at = 0.0
        self._asked_at: float | None = None
        self._waits_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """The exchange begins, if it has not begun."""
        if self._timer is None:
            self._started_at = self._loop.time()
            self._sleep()

    def ask(self) -> None:
        """A request leaves now: its head is awaited."""
        self._asked_at, self._waits_since = self._loop.time(), None
        self._sleep()

    def wait(self) -> None:
        """Something of the answer came, and more of it is awaited from now on."""
        self._asked_at, self._waits_since = None, self._loop.time()
        assert self._timer is not None
        if self._timer.when() > self._waits_since + self._model.limits.idle_timeout:
            self._sleep()

    def rest(self) -> None:
        """Nothing is awaited: whoever reads the body is busy with what came."""
        self._asked_at = self._waits_since = None

    def stop(self) -> None:
        """The exchange is over."""
        if self._timer is not None:
            self._timer.cancel()

    def _ends(self) -> list[tuple[float, str, float]]:
        """The times at which the exchange ends, with the setting of each; the first comes first."""
        limits = self._model.limits
        ends = [(self._started_at + limits.call_timeout, "call_timeout", limits.call_timeout)]
        if self._asked_at is not None:
            first = limits.first_byte_timeout
            ends.append((self._asked_at + first, "first_byte_timeout", first))
        if self._waits_since is not None:
            idle = limits.idle_timeout
            ends.append((self._waits_since + idle, "idle_timeout", idle))
        return sorted(ends)

    def _sleep(self) -> None:
        self.stop()
        self._timer = self._loop.call_at(self._ends()[0][0], self._look)

    def _look(self) -> None:
        at, setting, seconds = self._ends()[0]
        if self._loop.time() < at:
            self._sleep()
        else:
            self._expire(TimedOut(self._model.name, setting, seconds))


class Exchange:
    """The HTTP of one attempt: adds headers to its requests, and takes in its answers.

    Its clock runs from the first :meth:`during` to :meth:`close`.
    ``refusal``: why an answer was refused here; it goes before what the client raised.

    A client that is cancelled between two chunks drops the SDK's stream without closing it, and the
    stream is a reference cycle: the provider would go on writing until the garbage collector runs.
    So the exchange closes it.
    """

    def __init__(self, live: LiveCall) -> None:
        self.refusal: AnswerRefused | None = None
        self._live = live
        self._model = live.candidate.model
        self._responses: list[Any] = []
        self._watch = Watch(self._model, live.expire)

    async def during(self, step: Callable[[], Awaitable[T]]) -> T:
        """Await ``step()``, with its HTTP requests seen as those of this attempt."""
        self._watch.start()
        token = _exchange.set(self)
        try:
            return await step()
        finally:
            _exchange.reset(token)

    async def whole(self, step: Callable[[], Awaitable[T]]) -> T:
        """Await ``step()`` as :meth:`during` does; it is all of the exchange."""
        try:
            return await self.during(step)
        finally:
            self.stop()

    def stop(self) -> None:
        """Stop the clock: the answer is whole, or nobody waits for it any more."""
        self._watch.stop()

    async def close(self) -> None:
        """Stop the clock, and close every response that is open."""
        self.stop()
        for response in self._responses:
            await response.aclose()

    def refused(self, why: str) -> AnswerRefused:
        """Note that the answer is refused, and return the error to raise."""
        self.refusal = AnswerRefused(f"model {self._model.name!r}: {why}")
        return self.refusal

    def too_much(self, what: str) -> AnswerRefused:
        """Return the error for an answer that is too large, or of which ``what`` is."""
        if what:
            return self.refused(f"{what} is above {LONGEST_LINE // MIB} MiB or {MOST_LINES} lines")
        most, name = self._model.limits.max_answer_mb, self._model.name
        return self.refused(f"answer above {most} MiB: see models.{name}.max_answer_mb")

    def send(self, request: Any) -> None:
        """Prepare an HTTP request that leaves now."""
        request.headers.update(idempotency_headers(self._model, self._live.slot.id))
        request.headers["accept-encoding"] = OFFERED
        timeouts = dict(request.extensions.get("timeout") or {})
        own, ours = timeouts.get("connect"), self._model.limits.connect_timeout
        timeouts["connect"] = ours if own is None else min(own, ours)
        request.extensions = {**request.extensions, "timeout": timeouts}
        self._watch.ask()

    def receive(self, response: Any) -> None:
        """Take in an HTTP response whose body has not been read. Raises AnswerRefused."""
        self._responses.append(response)
        headers = dict(response.headers)
        self._watch.wait()
        self._live.record_head(response.status_code, headers)
        if response.has_redirect_location:
            raise self._redirected(response)
        most = self._model.limits.max_answer_mb * MIB
        encoding = headers.get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity", *_WINDOW_BITS):
            raise self.refused(f"answer in encoding {word(encoding)!r}; offered was {OFFERED}")
        if (count(headers.get("content-length")) or 0) > most:
            raise self.too_much("")
        packed = encoding if encoding in _WINDOW_BITS else ""
        reader = BodyReader(packed, headers.get("content-type", ""), most)
        # Its decoder is chosen by this header when the body is first read.
        response.headers.pop("content-encoding", None)
        library_name = type(response).__module__.partition(".")[0]
        response.stream = _body_class(library_name)(response.stream, reader, self)

    def _redirected(self, response: Any) -> AnswerRefused:
        """Name the target, without the user, the query and whatever else it may carry."""
        target = response.headers["location"].partition("?")[0].partition("#")[0]
        scheme, separator, rest = target.partition("://")
        place = f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else target
        shown = word(place, LONGEST_MODEL_NAME) or "an address that cannot be shown"
        return self.refused(
            f"HTTP {response.status_code} redirects to {shown}, and no redirect is followed: "
            f"set models.{self._model.name}.base_url"
        )

    async def body(self, raw: Any, reader: BodyReader, broken: type[Exception]) -> Any:
        """Yield what may be given on of a body, of which ``raw`` is what comes.

        Raises AnswerRefused, or ``broken`` for a body that is not packed as its head says.
        """
        watch = self._watch
        try:
            async for data in raw:
                is_alive = not reader.has_lines  # of a stream, only a whole line is a sign of life
                for given in self._read(reader, data, broken):
                    watch.rest()
                    yield given
                    is_alive = True
                if is_alive:
                    watch.wait()
            if rest := reader.finish():
                watch.rest()
                yield rest
        finally:
            watch.rest()

    def _read(self, reader: BodyReader, data: bytes, broken: type[Exception]) -> Iterator[bytes]:
        try:
            yield from reader.feed(data)
        except TooMuch as error:
            raise self.too_much(str(error)) from None
        except ValueError as error:
            raise broken(str(error)) from None


@cache
def _body_class(library_name: str) -> Any:
    """The class of counted bodies for an HTTP library: httpx or httpx2."""
    library: Any = sys.modules[library_name]

    class Body(library.AsyncByteStream):  # type: ignore[misc]  # of whichever library it is
        """A body that is counted on its way to its reader."""

        def __init__(self, raw: Any, reader: BodyReader, exchange: Exchange) -> None:
            self._raw = raw
            self._parts = exchange.body(raw, reader, library.RemoteProtocolError)

        def __aiter__(self) -> AsyncIterator[bytes]:
            parts: AsyncIterator[bytes] = self._parts
            return parts

        async def aclose(self) -> None:
            await self._raw.aclose()

    return Body


_exchange: ContextVar[Exchange] = ContextVar("headway_exchange")


def observe(sdk: Any) -> None:
    """Install the hooks through which exchanges see what an SDK sends and gets. Idempotent.

    Redirects are not followed any more: the prompt would go to an address that nobody chose.
    """
    http = http_client(sdk)
    http.follow_redirects = False
    hooks = http.event_hooks
    for event, hook in (("request", _on_request), ("response", _on_response)):
        if hook not in hooks[event]:
            hooks[event].append(hook)


def idempotency_headers(model: Model, call_id: str) -> Mapping[str, str]:
    """Return the header that carries a call's id, if the server of its model knows one."""
    return {model.idempotency_header: call_id} if model.idempotency_header else {}


async def _on_request(request: Any) -> None:
    if (exchange := _exchange.get(None)) is not None:
        exchange.send(request)


async def _on_response(response: Any) -> None:
    if (exchange := _exchange.get(None)) is not None:
        exchange.receive(response)

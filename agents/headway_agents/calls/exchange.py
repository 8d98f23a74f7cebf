"""Owns the HTTP of each attempt at a call: its time, its head, its body. Law: counted before read.

Theory of operation. AutoGen's clients take no ``extra_headers`` and return no headers, so an
:class:`Exchange` goes through hooks of the HTTP client below the SDK, and a context variable tells
them whose request it is. What a provider sends passes here before a client reads it, so one answer
can cost no more than its limits:

* the hook for requests offers gzip and deflate alone, and shortens the time to connect;
* the hook for responses refuses redirects, and puts a :class:`BodyReader` in front of the body. It
  unpacks in pieces, counts before and after, and gives on whole lines of a stream alone: whoever
  gathers a long line from many small pieces copies it each time.
* a clock ends an exchange whose time is over. It cancels what the call awaits, as a preemption
  does, so the slot is free at once.

What was refused here is what counts (``Exchange.refusal``), whatever the client makes of it.
"""

import asyncio
import json
import re
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache, wraps
from typing import Any, TypeVar

from headway_scheduler.model.calls import Served, ServiceLane
from headway_scheduler.providers import Failure, readings
from headway_scheduler.providers.readings import LONGEST_MODEL_NAME, Odd, word

from .errors import AnswerRefused, TimedOut
from .live_call import LiveCall

T = TypeVar("T")

MIB = 2**20
LONGEST_LINE = 16 * MIB
"""The longest line, and event, of a stream, in bytes."""
MOST_LINES = 1_000
"""The most lines of one event of a stream. Real ones have three."""
PART_BYTES = 65_536
"""How many bytes of a body are unpacked, and given on, at once."""

SDK_READ_SECONDS = 600
"""How long OpenAI's SDK waits for bytes where its user states nothing."""

OFFERED = "gzip, deflate"
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_RAW_DEFLATE = -15
_LINES = ("text/event-stream", "application/x-ndjson", "application/jsonl")
"""Content types whose readers want whole lines."""
_WHOLE = "application/json"
"""The content type of bodies that nobody reads before their end. A stream of any other, which some
servers send, is given on as it comes."""
_EVENTS = _LINES[0]
LONGEST_READ = 4 * MIB
"""The longest body that is read for its usage, in bytes. Of a longer one the client's counts do."""
MOST_USAGE_EVENTS = 8
"""The most events of a stream that are kept for their usage."""
_FINISHED = re.compile(
    rb'"(?:finish_reason|stop_reason)"\s*:\s*"|"done"\s*:\s*true|\[DONE\]'
    rb'|"type"\s*:\s*"(?:message_stop|response\.(?:completed|incomplete))"'
)
"""What the last events of a stream have: of OpenAI's two APIs, Anthropic's, Ollama's. Quotes inside
of a text are escaped, so no text of an answer looks so."""
_FAILED = re.compile(rb'"error"\s*:\s*[{"]|"type"\s*:\s*"error"')
"""What an event has that is an error."""
_ANSWERING = ("choices", "output", "content", "data", "message", "embeddings")
"""Fields of whole answers, of each API."""
_USAGE_WORDS = (b"usage", b"eval_count")
_NO_USAGE = re.compile(rb'"usage" ?: ?null')
_EVENT_END = re.compile(rb"\n\n|\r\r|\r\n\r\n")


class TooMuch(Exception):
    """A body is beyond a limit; the text says which."""


@dataclass(slots=True)
class BodyReader:
    """Counts and unpacks a body, piece by piece. No I/O.

    ``encoding`` is the header's, empty for none. With ``content_type`` of a stream, in lower case,
    whole lines are given on; of JSON, pieces that are not small.
    """

    encoding: str
    content_type: str
    most: int
    """Bytes that the body may have, packed and unpacked."""
    unread: bytearray = field(default_factory=bytearray)
    """Bytes that came and were not given on yet: in the end, a last line without a line break."""
    _inflate: Any = None
    _head: bytes = b""
    _packed: int = 0
    _unpacked: int = 0
    _event_bytes: int = 0
    _event_lines: int = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take the next bytes as they came; yield what may be given on.

        Raises TooMuch, or ValueError for what is not packed as it says.
        """
        self._packed += len(data)
        if self._packed > self.most:
            raise TooMuch
        for part in self._parts(data) if self.encoding else (data,):
            self._unpacked += len(part)
            if self._unpacked > self.most:
                raise TooMuch
            self.unread += part
            if self.content_type.startswith(_LINES):
                yield from self._lines(len(part))
            elif len(self.unread) >= PART_BYTES or not self.content_type.startswith(_WHOLE):
                yield bytes(self.unread)
                self.unread.clear()

    def _parts(self, data: bytes) -> Iterator[bytes]:
        """Unpack in pieces."""
        if self._inflate is None:
            self._head += data
            if len(self._head) < 2:
                return
            data = self._head
            # Some servers send deflate without its header, of which two bytes tell (RFC 1950).
            has_header = data[0] & 15 == 8 and int.from_bytes(data[:2], "big") % 31 == 0
            is_bare = self.encoding == "deflate" and not has_header
            bits = _RAW_DEFLATE if is_bare else _WINDOW_BITS[self.encoding]
            self._inflate = zlib.decompressobj(bits)
        while not self._inflate.eof:
            try:
                part = self._inflate.decompress(data, PART_BYTES)
            except zlib.error as error:
                raise ValueError(f"the body is not packed as it says: {error}") from None
            if not part:
                return
            yield part
            data = self._inflate.unconsumed_tail

    def _lines(self, new: int) -> Iterator[bytes]:
        """Yield whole lines of what is held, of which the last ``new`` bytes just came."""
        start = len(self.unread) - new
        end = max(self.unread.rfind(b"\n", start), self.unread.rfind(b"\r", start)) + 1
        if end:
            given = bytes(memoryview(self.unread)[:end])
            del self.unread[:end]
            if self.content_type.startswith(_EVENTS):
                self._count_events(given)
            yield given
        if len(self.unread) > LONGEST_LINE:
            raise TooMuch("a line of the stream")

    def _count_events(self, lines: bytes) -> None:
        """Raise TooMuch for an event of too many lines or bytes."""
        for number, event in enumerate(_EVENT_END.split(lines)):
            if number:  # before it is the end of another one
                self._event_lines = self._event_bytes = 0
            self._event_lines += event.count(b"\n") + event.count(b"\r")
            self._event_bytes += len(event)
            if self._event_lines > MOST_LINES or self._event_bytes > LONGEST_LINE:
                raise TooMuch("an event of the stream")


@dataclass(eq=False, slots=True)
class Exchange:
    """The HTTP of one attempt: adds headers to its requests, and takes in its answers.

    A client that is cancelled between two chunks drops the SDK's stream without closing it, and the
    stream is a reference cycle: the provider would go on writing until the garbage collector runs.
    So the exchange closes it.

    Its clock runs from the first :meth:`during` until :meth:`stop`: until a head comes, between
    bytes while more of a body is awaited, and as a whole. A chunk that comes costs an assignment:
    there is one timer, and it looks what is due. It need not be set anew for what begins later,
    because it never sleeps for longer than the shortest limit.
    """

    live: LiveCall
    """The call that the attempt is of. It has a candidate."""
    refusal: AnswerRefused | None = None
    """Why an answer was refused here. It goes before what the client raised."""
    usage_events: list[bytes] = field(default_factory=list[bytes])
    """Of the last answer that is a stream: events that tell its usage."""
    whole: bytearray = field(default_factory=bytearray)
    """The last answer that is none, as far as it is looked at."""
    is_finished: bool = False
    """Whether the end of the last answer came, if it is a stream."""
    error: bytes = b""
    """Of the last answer that is a stream: an event that is an error."""
    responses: list[Any] = field(default_factory=list[Any])
    """Every response of this attempt, open or closed."""
    requests: int = 0
    """How many requests of this attempt left."""
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    has_lines: bool = False
    """Whether the last answer is a stream."""
    _timer: asyncio.TimerHandle | None = None
    _began_at: float = 0.0
    _asked_at: float | None = None
    """When the request left whose head is awaited; None: no head is."""
    _waits_since: float | None = None
    """When the last sign of life of a body came that is awaited; None: no body is."""

    async def during(self, step: Callable[[], Awaitable[T]]) -> T:
        """Await ``step()``, with its HTTP requests seen as those of this attempt."""
        if self._timer is None:
            self._began_at = self.loop.time()
            self._look()
        token = _exchange.set(self)
        try:
            return await step()
        finally:
            _exchange.reset(token)

    def stop(self) -> None:
        """Stop the clock: the answer is whole, or nobody waits for it any more."""
        if self._timer is not None:
            self._timer.cancel()

    async def close(self) -> None:
        """Stop the clock, and close every response that is open."""
        self.stop()
        for response in self.responses:
            await response.aclose()

    def _look(self) -> None:
        """End the attempt if its time is over, else look again when it may be."""
        model, now = self.live.candidate.model, self.loop.time()
        limits = model.limits
        ends = [(self._began_at + limits.call_timeout, "call_timeout", limits.call_timeout)]
        if self._asked_at is not None:
            seconds = limits.first_byte_timeout
            ends.append((self._asked_at + seconds, "first_byte_timeout", seconds))
        if self._waits_since is not None:
            seconds = limits.idle_timeout
            ends.append((self._waits_since + seconds, "idle_timeout", seconds))
        at, setting, seconds = min(ends)
        if now >= at:
            self.live.expire(TimedOut(model.name, setting, seconds))
            return
        at = min(at, now + limits.first_byte_timeout, now + limits.idle_timeout)
        self._timer = self.loop.call_at(at, self._look)

    def refused(self, why: str) -> AnswerRefused:
        """Note that the answer is refused, and return the error to raise."""
        self.refusal = AnswerRefused(f"model {self.live.candidate.model.name!r}: {why}")
        return self.refusal

    def too_much(self, what: str) -> AnswerRefused:
        """Return the error for an answer that is too large, or of which ``what`` is."""
        if what:
            return self.refused(f"{what} is above {LONGEST_LINE // MIB} MiB or {MOST_LINES} lines")
        model = self.live.candidate.model
        most = model.limits.max_answer_mb
        return self.refused(f"answer above {most} MiB: see models.{model.name}.max_answer_mb")

    def send(self, request: Any) -> None:
        """Prepare an HTTP request that leaves now. Raises AnswerRefused if it goes elsewhere."""
        model, origins = self.live.candidate.model, self.live.candidate.origins
        if origins and (request.url.scheme, request.url.host, request.url.port) not in origins:
            raise self.refused(
                f"a request was to go to {request.url.scheme}://{request.url.netloc.decode()}, and "
                f"its key belongs to {model.address or 'another server'}: nothing was sent"
            )
        self.requests += 1
        if self.requests > 1:
            last = self.responses[-1] if self.responses else None
            head = None if last is None else (last.status_code, dict(last.headers))
            self.live.record_repeat(head)
        if model.idempotency_header:
            # The call's id, the same at every attempt, if the server of its model knows a header.
            request.headers[model.idempotency_header] = self.live.slot.id
        request.headers["accept-encoding"] = OFFERED
        timeouts = dict(request.extensions.get("timeout") or {})
        own, ours = timeouts.get("connect"), model.limits.connect_timeout
        timeouts["connect"] = ours if own is None else min(own, ours)
        if model.lane is ServiceLane.FLEX and timeouts.get("read") == SDK_READ_SECONDS:
            # Nobody chose it: it is the SDK's own, and shorter than flex may take.
            timeouts["read"] = max(SDK_READ_SECONDS, model.limits.first_byte_timeout)
        request.extensions = {**request.extensions, "timeout": timeouts}
        self._asked_at, self._waits_since = self.loop.time(), None

    def receive(self, response: Any) -> None:
        """Take in an HTTP response whose body has not been read. Raises AnswerRefused."""
        self.responses.append(response)
        headers = dict(response.headers)
        self._asked_at, self._waits_since = None, self.loop.time()
        self.live.record_head(response.status_code, headers)
        if response.has_redirect_location:
            # The hooks come before a redirect is followed: the prompt would go to an address that
            # nobody chose.
            raise self._redirected(response)
        most = self.live.candidate.model.limits.max_answer_mb * MIB
        encoding = headers.get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity", *_WINDOW_BITS):
            raise self.refused(f"answer in encoding {word(encoding)!r}; offered was {OFFERED}")
        length = headers.get("content-length", "")
        if length.isdecimal() and (len(length) > 18 or int(length) > most):
            raise self.too_much("")
        if encoding:
            # The client's own decoder is chosen by this header when the body is first read.
            response.headers.pop("content-encoding", None)
        packed = encoding if encoding in _WINDOW_BITS else ""
        reader = BodyReader(packed, headers.get("content-type", "").lower(), most)
        library = type(response).__module__.partition(".")[0]
        make, raw = _body_class(library), response.stream
        broken = sys.modules[library].RemoteProtocolError
        response.stream = make(aclose=raw.aclose, parts=self.body(raw, reader, broken))

    def _redirected(self, response: Any) -> AnswerRefused:
        """Name the target, without the user, the query and whatever else it may carry."""
        target = response.headers["location"].partition("?")[0].partition("#")[0]
        scheme, separator, rest = target.partition("://")
        place = f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else target
        shown = word(place, LONGEST_MODEL_NAME) or "an address that cannot be shown"
        return self.refused(
            f"HTTP {response.status_code} redirects to {shown}, and no redirect is followed: "
            f"set models.{self.live.candidate.model.name}.base_url"
        )

    def served(self, odd: list[Odd], *, has_output: bool = True) -> Served:
        """Read what the last answer told of itself. Fields out of range are added to ``odd``."""
        bodies: list[Any] = []
        texts: list[bytes | bytearray] = [*self.usage_events]
        if len(self.whole) <= LONGEST_READ:
            texts.append(self.whole)
        for text in texts:
            with suppress(ValueError, RecursionError):  # the client reads it, and judges it
                bodies.append(json.loads(text))
        return readings.served(bodies, odd, has_output=has_output)

    @property
    def is_cut(self) -> bool:
        """Whether the last answer is a stream that ended without its end."""
        return self.has_lines and not self.is_finished

    def failure(self, text: str) -> Failure | None:
        """Return what came over the wire instead of an answer that the client takes.

        ``text`` is that of the client's error. None: nothing came, or it is too long to be read.
        """
        if not self.responses or len(self.whole) > LONGEST_READ:
            return None
        response = self.responses[-1]
        headers = {name.lower(): value for name, value in response.headers.items()}
        body = _parsed(self.error or self.whole)
        if response.status_code >= 400:
            return Failure(response.status_code, headers, body, text)
        fields = body if isinstance(body, dict) else {}
        is_error = bool(self.error or fields.get("error"))
        is_answer = not is_error and any(fields.get(name) for name in _ANSWERING)
        if self.is_finished or is_answer:
            return Failure(200, headers, None, text)
        return Failure(None, headers, body if is_error else None, text)

    def _note(self, given: bytes, *, has_lines: bool) -> None:
        """Keep what may tell the usage of the answer, and what became of it; no more than that."""
        if not has_lines:
            if len(self.whole) <= LONGEST_READ:
                self.whole += given
            return
        if not self.is_finished:
            self.is_finished = _FINISHED.search(given) is not None
        if not self.error and _FAILED.search(given) is not None:
            lines = given.splitlines()
            self.error = next((x for x in lines if _FAILED.search(x)), b"").removeprefix(b"data:")
        if not any(name in given for name in _USAGE_WORDS):
            return
        for line in given.splitlines():
            if any(name in line for name in _USAGE_WORDS) and _NO_USAGE.search(line) is None:
                self.usage_events.append(line.removeprefix(b"data:"))
        # Some servers count anew with each chunk. The first event tells input, the last one all.
        del self.usage_events[MOST_USAGE_EVENTS // 2 : -MOST_USAGE_EVENTS // 2]

    async def body(self, raw: Any, reader: BodyReader, broken: type[Exception]) -> Any:
        """Yield what may be given on of a body, of which ``raw`` is what comes.

        Raises AnswerRefused, or ``broken`` for a body that is not packed as its head says.
        """
        has_lines = reader.content_type.startswith(_LINES)
        self.usage_events.clear()
        self.whole.clear()
        self.has_lines, self.is_finished, self.error = has_lines, False, b""
        try:
            async for data in raw:
                if not has_lines:  # of a stream, only a whole line is a sign of life
                    self._waits_since = self.loop.time()
                for given in reader.feed(data):
                    self._waits_since = None  # whoever reads it is busy with what came
                    self._note(given, has_lines=has_lines)
                    yield given
                    self._waits_since = self.loop.time()
            self._waits_since = None
            if reader.unread:
                self._note(rest := bytes(reader.unread), has_lines=has_lines)
                yield rest
        except TooMuch as error:
            raise self.too_much(str(error)) from None
        except ValueError as error:
            raise broken(str(error)) from None
        except Exception:
            if not self.is_finished:
                raise  # else all of the answer is here, however its connection ended
        finally:
            self._waits_since = None


def _parsed(text: bytes | bytearray) -> Any:
    """Return the object or list of a JSON text; None for anything else."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict | list) else None


@cache
def _body_class(library_name: str) -> Any:
    """The class of counted bodies for an HTTP library: httpx or httpx2."""
    library: Any = sys.modules[library_name]

    @dataclass(eq=False, kw_only=True)
    class Body(library.AsyncByteStream):  # type: ignore[misc]  # of whichever library it is
        """A body that is counted on its way to its reader."""

        aclose: Callable[[], Awaitable[None]]
        parts: AsyncIterator[bytes]

        def __aiter__(self) -> AsyncIterator[bytes]:
            return self.parts

    return Body


_exchange: ContextVar[Exchange] = ContextVar("headway_exchange")


def in_exchange() -> bool:
    """Whether what is sent now belongs to an attempt at a call."""
    return _exchange.get(None) is not None


def telling(send: Callable[..., Any], past: Callable[[Any, Any], None]) -> Callable[..., Any]:
    """Return ``send`` of a client of httpx, with ``past`` told of requests of no exchange."""

    @wraps(send)
    async def sending(client: Any, request: Any, *args: Any, **options: Any) -> Any:
        if _exchange.get(None) is None:
            past(client, request)
        return await send(client, request, *args, **options)

    return sending


def observe(http: Any) -> None:
    """Install the hooks through which exchanges see what a client of httpx sends. Idempotent.

    A request of nobody's exchange passes as it is: the HTTP client may be the user's own.
    """
    hooks = http.event_hooks
    for event, hook in (("request", _on_request), ("response", _on_response)):
        if hook not in hooks[event]:
            hooks[event].append(hook)


async def _on_request(request: Any) -> None:
    if (exchange := _exchange.get(None)) is not None:
        exchange.send(request)


async def _on_response(response: Any) -> None:
    if (exchange := _exchange.get(None)) is not None:
        exchange.receive(response)

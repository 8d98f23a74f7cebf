"""Reads exceptions of model clients: what each means, and whether its call goes again.

Law of this file: no SDK is imported; its errors are known by their looks.

Every SDK has its own classes, but their HTTP errors look alike: ``status_code``, a ``response``
with ``headers``, a ``code`` or a ``body``; Amazon's has a dict. An adapter may raise its own error
``from`` the SDK's, so the causes of an error are looked at too. An error that is no answer of the
provider, no broken connection and no broken JSON is a mistake of the request or of the client:
asking again would not mend it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from json import JSONDecodeError
from typing import Any

from msgspec import structs

from headway_scheduler.errors import ProviderError
from headway_scheduler.model.calls import Outcome, Route, Usage
from headway_scheduler.model.quotas import Observation, ProviderEvent
from headway_scheduler.model.states import CallState
from headway_scheduler.providers import ErrorClass, Failure, Provider, Verdict, readings
from headway_scheduler.providers.readings import Odd

from ..secrets import scrubbed

LONGEST_ERROR_CHARACTERS = 2000
LONGEST_LOOKED_AT = 20_000
"""How much of an error's text is searched for keys and words; the body of one may be the text."""

MOST_CAUSES = 20
"""How many causes of an error are looked at: a chain may lead back to its beginning."""

MAX_ATTEMPTS = 8
"""Faults of one call before its error goes to the agent, while the provider answers other calls.
A call waits as long as it takes for a provider that answers nobody, or that limits its rate."""

SAME_FAULT_SECONDS = 900.0
"""How long a server may say the same error to several calls, and answer none, before those that
heard it ``MAX_ATTEMPTS`` times are given up."""

_BROKEN_CONNECTION = frozenset(
    {"APIConnectionError", "TransportError", "ClientConnectionError"}
    | {"ServiceRequestError", "ServiceResponseError"}
)
"""Classes of openai and anthropic; httpx and httpx2; aiohttp; azure-core. Their subclasses are
timeouts too."""

# Nested too deep to be parsed, or no text, is no JSON, as cut JSON is none.
_BROKEN_BUILT_IN = (
    *(ConnectionError, TimeoutError),
    *(JSONDecodeError, RecursionError, UnicodeDecodeError),
)

_NOTHING_SENT = frozenset(
    {"ConnectError", "ConnectTimeout", "PoolTimeout", "ClientConnectorError"}
    | {"ConnectionRefusedError", "gaierror", "ServiceRequestError"}
)
"""Classes of httpx and httpx2, of aiohttp, Python and azure-core: no connection came about."""


EVENTS = {
    ErrorClass.RATE_LIMITED: ProviderEvent.REFUSED,
    ErrorClass.AT_ONCE: ProviderEvent.CROWDED,
    ErrorClass.SPENT: ProviderEvent.SPENT,
    ErrorClass.OVERLOADED: ProviderEvent.OVERLOADED,
    ErrorClass.TRANSIENT: ProviderEvent.FAILED,
    ErrorClass.ACCOUNT: ProviderEvent.LOCKED_OUT,
}

_REFUSALS = (ProviderEvent.REFUSED, ProviderEvent.SPENT)


class AnswerRefused(ProviderError):
    """An answer is beyond a limit of ours, or leads elsewhere: asking again would not mend it."""


class TimedOut(ProviderError):
    """A limit of ours on the time of an attempt is over. ``setting`` names it.

    ``is_final``: it was over before, and a third attempt would only take as long.
    """

    def __init__(self, model: str, setting: str, seconds: float, *, is_final: bool = False) -> None:
        what = _OVERDUE[setting]
        times = ", twice" if is_final else ""
        super().__init__(f"{what} in {seconds:,.6g} s{times}: see models.{model}.{setting}")
        self.model, self.setting, self.seconds, self.is_final = model, setting, seconds, is_final


class NoAnswer(ProviderError):
    """Nobody got an answer from a server for as long as the patience of its model lasts."""

    def __init__(self, address: str, seconds: float, cause: str) -> None:
        whole = f"{seconds:g} s" if seconds < 60 else f"{seconds / 60:g} min"
        super().__init__(
            f"no answer from {address} for {whole}: {cause}: see `headway doctor --ping`"
        )
        self.address, self.seconds, self.cause = address, seconds, cause


_OVERDUE = {
    "first_byte_timeout": "no head of an answer",
    "idle_timeout": "no more of the answer",
    "call_timeout": "no whole answer",
}


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The head of an HTTP answer. ``is_garbled``: 200, but neither JSON nor a stream follows."""

    is_garbled: bool


@dataclass(frozen=True, slots=True)
class Retry:
    """Queue the call again, with ``outcome`` of this attempt."""

    outcome: Outcome
    observation: Observation


@dataclass(frozen=True, slots=True)
class Refuse:
    """Give the error to the agent. ``observation``: what it says of the quota, if anything."""

    observation: Observation | None


@dataclass(frozen=True, slots=True)
class LockOut:
    """Give the error to the agent and stop the quota: the provider refuses the whole account."""

    observation: Observation


NextStep = Retry | Refuse | LockOut


def judged(
    error: Exception,
    provider: Provider,
    attempt: int,
    *,
    now: float,
    head: ResponseHead | None = None,
    failure: Failure | None = None,
    is_flex: bool = False,
) -> Verdict:
    """Judge a failed attempt, the ``attempt``-th of its call from 1.

    ``is_flex``: it asked for flex. What came over the wire (``failure``) goes before what the
    client made of it. Each client stumbles in its own way over a page that is neither JSON nor a
    stream: such an answer (``head``) counts as one that did not come.
    """
    is_over = isinstance(error, TimedOut) and error.is_final
    if is_over or isinstance(error, AnswerRefused | NoAnswer):
        return Verdict(ErrorClass.FINAL)
    if isinstance(error, TimedOut):
        return provider.judge(Failure(), attempt, now)
    if failure is not None:
        return provider.judge(replace(failure, is_flex=is_flex), attempt, now)
    for cause in causes(error):
        raised = replace(_failure(cause), is_flex=is_flex)
        if raised.status is not None or raised.body is not None or _is_broken(cause):
            verdict = provider.judge(raised, attempt, now)
            break
    else:
        verdict = Verdict(ErrorClass.FINAL)
    if verdict.error_class is ErrorClass.FINAL and head is not None and head.is_garbled:
        return provider.judge(Failure(), attempt, now)
    return verdict


def next_step(
    verdict: Verdict,
    text: str,
    now: float,
    *,
    head: ResponseHead | None,
    quota: str | None,
    routes: Sequence[Route],
    faults: int,
    is_own: bool = False,
    has_lane: bool = False,
) -> NextStep:
    """Return what becomes of a call whose attempt failed with ``text``. Pure.

    ``head`` is None if no answer came at all. ``quota``: the one that the answer speaks of.
    ``routes``: the models that may be asked instead, empty if there are none. ``faults``: of this
    call, while the provider answered others. ``is_own``: a server that works has said the same so
    often that the request must be to blame. ``has_lane``: ``quota`` is that of a lane.
    """
    if verdict.error_class is ErrorClass.CAPACITY:
        return _without_capacity(verdict, text, now, has_lane=has_lane)
    if verdict.error_class is ErrorClass.FINAL:
        return Refuse(None if head is None else Observation(event=ProviderEvent.ANSWERED))
    event = EVENTS[verdict.error_class]
    if event is ProviderEvent.LOCKED_OUT and not routes:
        return LockOut(Observation(event=event, error=text))
    if faults >= MAX_ATTEMPTS or is_own:
        return Refuse(Observation(event=event))
    until = now + verdict.pause_seconds
    if event in _REFUSALS and quota is not None:
        # The quota pauses, and with it every call that would be refused as well. The provider
        # has counted the request, but not the tokens.
        outcome = Outcome(CallState.QUEUED, error=text, refused=True)
        told, is_told = verdict.told, verdict.is_told
        about = verdict.about
        observation = Observation(until, event, told, is_pause_told=is_told, about=about)
        return Retry(outcome, observation)
    if event is ProviderEvent.CROWDED and quota is not None:
        # It goes when a call in flight ends; if those are another client's, nobody tells that.
        outcome = Outcome(CallState.QUEUED, error=text, not_before=until, refused=True)
        return Retry(outcome, Observation(event=event, headers=verdict.told))
    outcome = Outcome(CallState.QUEUED, error=text, not_before=until)
    return Retry(outcome, Observation(event=event, error=text))


def _without_capacity(verdict: Verdict, text: str, now: float, *, has_lane: bool) -> Retry:
    """Have the lane pause; or the call alone, whose user asked for flex without a lane for it."""
    # The provider may have counted the request, but did nothing for it.
    outcome = Outcome(CallState.QUEUED, error=text, refused=True, uncounted=True)
    if has_lane:
        return Retry(outcome, Observation(event=ProviderEvent.NO_CAPACITY))
    outcome = structs.replace(outcome, not_before=now + verdict.pause_seconds)
    return Retry(outcome, Observation(event=ProviderEvent.ANSWERED))


def heard(error: Exception, failure: Failure | None) -> Failure | None:
    """Return what a server said in a failed attempt: over the wire, else as its client tells it."""
    if failure is not None and failure.status is not None:
        return failure
    raised = (_failure(cause) for cause in causes(error))
    said = next((each for each in raised if each.status is not None), None)
    if said is not None and isinstance(said.body, Mapping) and "message" in said.body:
        return replace(said, body={"error": said.body})  # SDKs give the inner object
    return said


def error_inside(model: str, failure: Failure) -> ProviderError:
    """Return the error that came with HTTP 200 instead of an answer, in the provider's words."""
    parts = list(failure.parts())
    texts = (part.get(name) for name in ("message", "error") for part in parts)
    words = next((text for text in texts if text and isinstance(text, str)), "it has no words")
    number = failure.meant_status
    shown = words if number is None else f"{number}: {words}"
    text = f"model {model!r} answers 200 with an error inside: {shown}"
    return ProviderError(text, status=number)


def is_unsent(error: BaseException) -> bool:
    """Whether no connection came about, so that no byte of the request left."""
    kinds = (kind.__name__ for cause in causes(error) for kind in type(cause).__mro__)
    return not _NOTHING_SENT.isdisjoint(kinds)


def described(error: Exception) -> str:
    """Return ``Type: message`` for the journal, without keys and at most 2,000 characters long.

    Half of a surrogate pair, which no terminal shows, becomes its escape.
    """
    text = f"{type(error).__name__}: {text_of(error)}".encode(errors="backslashreplace").decode()
    return scrubbed(text[:LONGEST_LOOKED_AT])[:LONGEST_ERROR_CHARACTERS]


def text_of(error: BaseException) -> str:
    """Return the text of an error, whose own ``__str__`` may be a user's, and raise."""
    try:
        return str(error)
    except Exception as problem:
        return f"its text raised {type(problem).__name__}"


def is_free(error: BaseException) -> bool:
    """Whether an attempt that failed so cost no money: an HTTP error, or nothing was sent.

    After a timeout or a cut the provider may have written the answer, and bill it.
    """
    return is_unsent(error) or any(_failure(cause).status is not None for cause in causes(error))


def paid_usage(error: Exception, odd: list[Odd] | None = None) -> Usage | None:
    """Return what an answer cost that the client refused, as one that was cut off at its cap."""
    usage = getattr(getattr(error, "completion", None), "usage", None)
    if usage is None:
        return None
    counts = {name: getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")}
    return readings.usage(counts, [] if odd is None else odd)


def causes(error: BaseException | None, *, is_any: bool = False) -> Iterator[BaseException]:
    """Yield an error and what it was raised from; of a group, the first one, and so on.

    What an error means is read from stated causes alone: what a client was handling when it raised
    may be an earlier attempt of its own. ``is_any``: that too, for words, where it is the only one
    that says why; some clients raise ``from None``.
    """
    for _ in range(MOST_CAUSES):
        if error is None:
            return
        yield error
        inner = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else None
        error = inner or error.__cause__ or (error.__context__ if is_any else None)


def _is_broken(error: BaseException) -> bool:
    """Whether no answer came, or only a part."""
    names = {kind.__name__ for kind in type(error).__mro__}
    # openai raises its bare APIError for an error event inside a stream that had begun.
    is_stream_error = type(error).__name__ == "APIError"
    is_built_in = isinstance(error, _BROKEN_BUILT_IN)
    return is_built_in or is_stream_error or not names.isdisjoint(_BROKEN_CONNECTION)


def _failure(error: BaseException) -> Failure:
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore
        metadata, body = response.get("ResponseMetadata", {}), response.get("Error")
        body = {str(name).lower(): value for name, value in (body or {}).items()}
        return Failure(metadata.get("HTTPStatusCode"), {}, body, _text(error))
    status = getattr(error, "status_code", None)
    body = getattr(error, "body", None)
    if not isinstance(body, Mapping | list) and isinstance(getattr(error, "code", None), str):
        body = {"code": vars(error)["code"]}
    headers = {str(name).lower(): str(value) for name, value in _items(response)}
    is_json = isinstance(body, Mapping | list)
    return Failure(
        # Anthropic's SDK gives an error inside a stream the status of the stream, 200.
        status if isinstance(status, int) and status >= 400 else None,
        headers,
        body if is_json else None,
        _text(error),
    )


def _text(error: BaseException) -> str:
    return str(error)[:LONGEST_LOOKED_AT]


def _items(response: Any) -> Iterable[tuple[Any, Any]]:
    return dict(getattr(response, "headers", None) or {}).items()

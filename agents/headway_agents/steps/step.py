"""Anything that a run asks of the outside world beside models, as a journaled step.

Law of this file: a step is on disk as begun before it acts, and as done before its result is seen.

Theory of operation. A step is a row of the journal as a call is, but has no quotas, so it is
admitted at once. Its author declares what becomes of one that was cut off while it acted: *pure*
and *idempotent* steps are done again, the latter with the same key; a step that may happen *once*
waits for a person, who says what came of it.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from headway_scheduler.errors import CallerError
from headway_scheduler.model.calls import PERSON, QUESTION, Call, Outcome
from headway_scheduler.model.states import CallState

from ..calls.live_call import attached, recorded
from ..containment import contain
from ..journal.events import JournalSlot
from ..requests.prompts import RequestDigest, text_digest
from ..scope import RunScope, inside_step
from .effects import Effect

LONGEST_ANSWER = 16_000_000
"""The most characters of a step's answer, as JSON. All runs of the process wait while it is written
and put into a prompt, for about 0.1 s a megabyte."""
Act = Callable[[str], Awaitable[str]]
"""Acts: takes an idempotency key, the same at every attempt at the step, and returns JSON."""


@dataclass(frozen=True, slots=True)
class Step:
    """The request of a step. ``kind``: tool, person or input; ``request``: all of it, as text."""

    kind: str
    path: str
    name: str
    request: str
    effect: Effect = Effect.ONCE


async def perform(scope: RunScope, step: Step, act: Act) -> str:
    """Return the recorded answer; without one, act, record the answer, and return it.

    An error of ``act`` is recorded and raised, as is an answer that is too long. An answer is JSON;
    it is ``{"person": text}`` if a person gave it for a step that was cut off. Raises as
    :meth:`LiveCall.acquire`.
    """
    async with attached(scope, *_slot(scope, step)) as live:
        if (answered := await recorded(live)) is not None:
            return answered
        if live.slot.was_cut_off and (step.effect is Effect.ONCE or scope.journal.unknown_waits):
            await live.for_person()
        await live.acquire(_row(scope, step, live.slot))
        await live.record_sent()
        try:
            with inside_step(scope, live.slot, f"{step.kind} {step.name!r}"):
                answer = await live.wait(lambda: contain(act(live.slot.id)))
            _check_size(step, answer)
        except Exception as error:
            await live.refused(error)
        await live.done(answer)
        return answer


def _check_size(step: Step, answer: str) -> None:
    if len(answer) > LONGEST_ANSWER:
        raise CallerError(
            f"{step.kind} {step.name!r} did its work, and gave {len(answer):,} characters: at most "
            f"{LONGEST_ANSWER:,} are kept. Give a part of them, or the name of a file"
        )


async def ask_person(scope: RunScope, path: str, question: str) -> str:
    """Ask a person, and return their words. If nobody is there, the attempt ends and waits."""
    step = Step(PERSON, path, QUESTION, json.dumps(question))
    async with attached(scope, *_slot(scope, step)) as live:
        if (answered := await recorded(live)) is not None:
            return _words(answered)
        await live.wait(partial(scope.replay_barrier, live.slot))
        if live.slot.record is None:
            await scope.scheduler.ask(_row(scope, step, live.slot), live.digest.missing(set()))
        if scope.person is None:
            await live.for_person()
        live.begin()
        try:
            words = await live.wait(partial(scope.person, question))
        except EOFError:  # as input() says that nobody is there
            await live.for_another_person()
        await live.settle(Outcome(CallState.DONE, answer=person_answer(words)))
        return words


def by_person(answer: str) -> str | None:
    """Return the words that a person gave for a step; None if the step gave the answer itself."""
    data = json.loads(answer)
    return data["person"] if isinstance(data, dict) and data.keys() == {"person"} else None


def person_answer(words: str) -> str:
    """Return a person's words as the JSON of a step's answer."""
    return json.dumps({"person": words})


def _words(answer: str) -> str:
    words = by_person(answer)
    assert words is not None
    return words


def _slot(scope: RunScope, step: Step) -> tuple[JournalSlot, RequestDigest]:
    digest = text_digest(json.dumps([step.name, step.request]))
    return scope.open_slot(step.kind, step.path, digest), digest


def _row(scope: RunScope, step: Step, slot: JournalSlot) -> Call:
    return Call(
        id=slot.id,
        run_id=scope.run_id,
        path=slot.path,
        model=step.name,
        quotas=(),
        priority=scope.priority,
        tokens=0,
        submitted_at=scope.scheduler.now(),
        request_hash=slot.request_hash,
        occurrence=slot.occurrence,
        kind=step.kind,
    )

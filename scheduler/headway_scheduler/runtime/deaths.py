"""What the death of a worker costs its runs. Law: it is judged by what is on disk alone.

So every leader judges alike, also one that leads because the last one died with the run, and so
does a process that only reads.

Lives are lost in a row: a run that got further since it was last resumed has lost one only. A run
that most likely is not to blame is *spared*: it loses a life only the third time. Its own code was
at rest, because it waited for a model's answer; or workers that did not execute it die as well, and
nothing on them is suspected, so somebody kills workers.
"""

from collections.abc import Iterable, Sequence

import msgspec

from ..errors import StoreError
from ..model.batch import Lesson
from ..model.data import Data, replace
from ..model.runs import LIVES, Run
from ..model.states import LIVE_CALLS, CallState, RunState
from ..ports import Store

DEATHS = "deaths"
"""The kind of the lesson of recent deaths."""

DEATHS_SECONDS = 60.0
"""For how long the death of a worker speaks for runs of others."""

MOST_DEATHS = 10
"""How many such deaths are kept, the last ones."""


class Death(Data, frozen=True):
    """The death of a worker that no suspect explains."""

    at: float
    """When the leader found it; epoch seconds."""
    runs: tuple[str, ...]
    """The runs that the worker executed."""


async def recent_deaths(store: Store, now: float) -> list[Death]:
    """Load the deaths that still speak for runs of other workers. Raises StoreError."""
    texts = (each.value for each in await store.lessons() if each.kind == DEATHS)
    try:
        deaths = msgspec.json.decode(next(texts, "[]"), type=list[Death])
    except msgspec.DecodeError:  # a row of another version, or damaged: nobody is spared for it
        return []
    return [each for each in deaths if abs(now - each.at) < DEATHS_SECONDS]


def lesson_of(deaths: Sequence[Death]) -> Lesson:
    """Return the deaths as they are written, in the commit that releases the runs."""
    return Lesson(DEATHS, "workers", msgspec.json.encode(deaths[-MOST_DEATHS:]).decode())


def released(run: Run) -> Run:
    """Return a run without its worker: interrupted, if it was running."""
    state = RunState.INTERRUPTED if run.state is RunState.RUNNING else run.state
    return replace(run, state=state, worker=None)


async def after_death(
    store: Store, runs: Sequence[Run], deaths: Sequence[Death], now: float
) -> tuple[list[Run], list[Death]]:
    """Return the runs of one worker as they are once it has died, and the recent deaths with it.

    If several of the runs that it executed are suspects, either may be to blame, and none loses its
    last life.
    """
    executed = [run for run in runs if run.state is RunState.RUNNING]
    further, spared = await _told_by_calls(store, executed)
    for run in executed:
        if any(run.id not in death.runs for death in deaths):
            spared.add(run.id)
    suspects = [run for run in executed if run.is_suspect and run.id not in further]
    most = LIVES if len(suspects) == 1 else LIVES - 1
    left = list[Run]()
    for run in runs:
        if run.state is RunState.RUNNING:
            before = replace(run, lives_lost=0) if run.id in further else run
            left.append(_blamed(before, most, now, is_spared=run.id in spared))
        else:
            left.append(released(run))
    if len(suspects) == 1:
        return left, [*deaths]
    return left, [*deaths, Death(now, tuple(run.id for run in executed))]


async def _told_by_calls(store: Store, executed: Iterable[Run]) -> tuple[set[str], set[str]]:
    """Return the runs that got a new answer since they were resumed, and those that waited."""
    further, waiting = set[str](), set[str]()
    for run in executed:
        if run.resumed_at is None:
            continue
        try:
            calls = await store.calls(run.id, {CallState.DONE, *LIVE_CALLS})
        except StoreError:
            continue  # unreadable rows of one run must not keep the others from being released
        if any((each.finished_at or 0.0) >= run.resumed_at for each in calls):
            further.add(run.id)
        if any(each.state in LIVE_CALLS and each.call.is_paid for each in calls):
            waiting.add(run.id)
    return further, waiting


def _blamed(run: Run, most: int, now: float, *, is_spared: bool) -> Run:
    """Take a life from a run whose worker died; ``most`` is how many it may have lost then."""
    lost_spared = run.lost_spared + 1 if is_spared else 0
    if 0 < lost_spared < LIVES:
        # No life is lost but the first, by which the run becomes a suspect: executed alone until it
        # gets further.
        lives_lost = max(1, run.lives_lost)
    else:
        lives_lost, lost_spared = min(run.lives_lost + 1, most), 0
    left = replace(released(run), lives_lost=lives_lost, lost_spared=lost_spared)
    if lives_lost < LIVES:
        return left
    return replace(
        left,
        state=RunState.FAILED,
        finished_at=now,
        error=f"Quarantined: {LIVES} workers in a row died while they executed it, the last one "
        f"{run.worker}: see what it does to its process; `headway runs retry {run.id}` tries again",
    )

"""Messages, which tell the scheduler's core what happened.

Law: data only. A message does not say who tells it; its envelope does, so no worker can speak for
another. A message is taken whole or refused whole.

Theory of operation. ``Scheduler.handle`` takes every type in one ``match``. A new type is added to
``Message``, to that ``match``, to those of ``Mirror`` and ``restamped``, and to
``docs/protocol.md``; mypy and a test name the place that is forgotten. A new field has a default:
the text of an older process lacks it.
"""

from collections.abc import Mapping

from ..model.batch import Lesson
from ..model.batches import BatchedRequest
from ..model.calls import Call, CallRecord, Outcome, Priority, Route
from ..model.changes import Change
from ..model.prompts import Prompt
from ..model.quotas import Observation
from ..model.runs import Run
from .tagged import Tagged


class Submit(Tagged, frozen=True, tag=True, omit_defaults=True):
    """A new call: queue it, and write its row and its prompt."""

    call: Call
    prompt: Prompt | None = None
    """The part of its prompt that may not be on disk yet. Default: none."""
    routes: tuple[Route, ...] = ()
    """The models that may answer it. Default: only the one that ``call`` names."""
    parked: bool = False
    """Whether it is a question to a person, which is never admitted."""


class Resubmit(Tagged, frozen=True, tag=True, omit_defaults=True):
    """A call of an earlier attempt that has no answer: queue it again at its old place."""

    record: CallRecord
    """Its row, as it was read: parked, unknown, failed or cancelled."""
    routes: tuple[Route, ...] = ()
    """As in :class:`Submit`."""


class MarkSent(Tagged, frozen=True, tag=True, omit_defaults=True):
    """The request of an admitted call leaves."""

    call_id: str
    at: float
    """When, in epoch seconds."""


class EnterBatch(Tagged, frozen=True, tag=True, omit_defaults=True):
    """The request of an admitted call is to go with the next batch: keep it, and hold the call."""

    request: BatchedRequest


class LeaveBatch(Tagged, frozen=True, tag=True, omit_defaults=True):
    """A batched call was not answered: queue it again, for when its run goes on."""

    call_id: str
    error: str
    """Why, in words."""


class Observe(Tagged, frozen=True, tag=True, omit_defaults=True):
    """An attempt at a call showed something of its quotas, and the call has not ended yet."""

    call_id: str
    signals: Mapping[str, Observation]
    """By the name of the quota."""


class Settle(Tagged, frozen=True, tag=True, omit_defaults=True):
    """An attempt at a call is over. The core takes ``signals`` first, then ``outcome``."""

    call_id: str
    outcome: Outcome
    signals: Mapping[str, Observation] = {}
    """By the name of the quota. Default: the attempt told nothing."""


class Decide(Tagged, frozen=True, tag=True, omit_defaults=True):
    """A person's decision on a call that is parked or unknown."""

    record: CallRecord
    """Its row, as it was read."""
    outcome: Outcome
    """Done, failed or cancelled; queued parks the call until its run goes on."""


class SetCallPriority(Tagged, frozen=True, tag=True, omit_defaults=True):
    """A queued call changes its class."""

    call_id: str
    priority: Priority


class Reestimate(Tagged, frozen=True, tag=True, omit_defaults=True):
    """A queued call takes other amounts than estimated: more is known of its agent's calls."""

    call_id: str
    routes: tuple[Route, ...]
    """As in :class:`Submit`; a single one for a call that has no choice."""


class AwaitRuns(Tagged, frozen=True, tag=True, omit_defaults=True):
    """A run waits for other runs, and for no others: they inherit its priority."""

    run_id: str
    on: frozenset[str]
    """Their ids. Empty: it waits for none any more."""


class SaveRun(Tagged, frozen=True, tag=True, omit_defaults=True):
    """A run as it is now: write its row, and schedule its calls by it."""

    run: Run
    spent_usd: float = 0.0
    """US dollars of its budget that its rows show to be spent: at least so many count."""


class ApplyChange(Tagged, frozen=True, tag=True, omit_defaults=True):
    """An operator's change of limits, a weight, a hold, or a quota that is to be tried again."""

    change: Change


class DropWorker(Tagged, frozen=True, tag=True, omit_defaults=True):
    """A worker is dead: park its queued calls; those in flight become unknown."""

    worker_id: str


class ProbeStopped(Tagged, frozen=True, tag=True, omit_defaults=True):
    """Let one call of each quota try whose account was locked out: somebody may have paid."""


class Learn(Tagged, frozen=True, tag=True, omit_defaults=True):
    """A process learned something: write it. The core decides nothing by it."""

    lessons: tuple[Lesson, ...]


class ChargeRequest(Tagged, frozen=True, tag=True, omit_defaults=True):
    """A request left that nobody admitted: charge one request to each of its quotas."""

    quotas: tuple[str, ...]
    call: Call | None = None
    """What counts it, of kind *bypass*: it is written as a row. Default: nothing does."""


class Amend(Tagged, frozen=True, tag=True, omit_defaults=True):
    """Rows of ended calls, to be written anew. Nothing is decided."""

    records: tuple[CallRecord, ...]


class ForgetRuns(Tagged, frozen=True, tag=True, omit_defaults=True):
    """Ended runs, to be deleted with their calls. Nothing is decided."""

    run_ids: tuple[str, ...]


Message = (
    Submit
    | Resubmit
    | MarkSent
    | EnterBatch
    | LeaveBatch
    | Observe
    | Settle
    | Decide
    | SetCallPriority
    | Reestimate
    | AwaitRuns
    | SaveRun
    | ApplyChange
    | DropWorker
    | ProbeStopped
    | Learn
    | ChargeRequest
    | Amend
    | ForgetRuns
)

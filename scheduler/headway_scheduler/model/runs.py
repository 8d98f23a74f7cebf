"""Defines a run, and the worker that executes it. Data only."""

from typing import Annotated

from msgspec import Meta

from ..errors import IllegalTransition
from .calls import Priority, ServiceLane
from .data import Data
from .states import RUN_TRANSITIONS, RunState

AD_HOC = "(ad hoc)"
"""The workflow of runs of calls that belong to no run. They take no slot of their worker."""

LIVES = 3
"""How many workers in a row a run may lose, without a new answer in between, until it fails."""

WORKER_ID_PATTERN = r"^[0-9A-Za-z_-]{1,64}\Z"
WorkerId = Annotated[str, Meta(pattern=WORKER_ID_PATTERN)]
"""The id of a worker as text of a process that may be anybody's: backends name files after it."""


class Task(Data, frozen=True):
    """What a team is given to do."""

    text: str
    """It in words."""
    messages: str | None = None
    """It as AutoGen's messages, a JSON list; None if it is the text alone."""


class Run(Data, frozen=True):
    """One execution of a workflow on a task. Times are epoch seconds."""

    id: str
    """Unique in the database; made by Headway, as in ``r-7f3k2m9q``."""
    workflow: str
    """How the team is built again: a name, ``module:factory``, or the path of a component file."""
    task: str
    """The task of the team, in words."""
    priority: Priority
    """The class of its calls, unless a call has a class of its own."""
    state: RunState
    """How far the run has come."""
    created_at: float
    """When it was submitted."""
    key: str | None = None
    """The idempotency key under which it was submitted; the database has each key once."""
    component: str | None = None
    """The text of the component file, without keys; None if ``workflow`` names a factory."""
    started_at: float | None = None
    """When its first attempt began; None until then."""
    finished_at: float | None = None
    """When it completed, failed or was cancelled; None until then."""
    result: str | None = None
    """The team's messages and stop reason, as JSON; None if it has no result."""
    error: str | None = None
    """Why its last attempt failed or stopped, in words; None while it runs, and if all is well."""
    parameters: str | None = None
    """Arguments for the factory, as a JSON object; None for none."""
    version: str | None = None
    """A hash of the source that its first attempt was built from, to find later that the workflow
    changed; None if the source is unknown."""
    history: tuple[Task, ...] = ()
    """Tasks that the team was given before ``task``, oldest first: those of a continued run."""
    parent: str | None = None
    """The run with whose recorded answers this one begins: it is a copy of it."""
    parent_until: int | None = None
    """Only the parent's answers whose arrival number is below this are taken; None: all."""
    deadline: float | None = None
    """When the run must have ended, or it fails; None: never."""
    budget_usd: float | None = None
    """US dollars that its calls may cost together; None: no limit."""
    waits_for: str | None = None
    """The id of the call that a person must answer or decide; None if the run waits for nobody."""
    attempts: int = 0
    """How often its team was started."""
    resumed_at: float | None = None
    """When the last of its attempts began; None until the first."""
    team: str | None = None
    """The team whose share of the quotas its calls draw on; None: the workflow's name."""
    worker: str | None = None
    """The id of the worker that executes the run, or is about to; None if nobody does."""
    lives_lost: int = 0
    """How many workers in a row died while they executed it, and left no new answer of it."""
    lost_spared: int = 0
    """How many workers died with it since it last lost a life, when most likely something else was
    to blame: so ``LIVES`` of them count as one life."""
    lane: ServiceLane = ServiceLane.STANDARD
    """The lane that its background calls may take, where their model has it."""
    messages: str | None = None
    """The task as AutoGen's messages, a JSON list; None if it is the text ``task`` alone."""

    @property
    def given(self) -> Task:
        """The task, as the team is given it."""
        return Task(self.task, self.messages)

    def check(self, state: RunState) -> None:
        """Raise IllegalTransition unless a run may go from its state to ``state``."""
        if state not in RUN_TRANSITIONS[self.state]:
            raise IllegalTransition(
                f"run {self.id}: {self.state} to {state} is not a step of its life"
            )

    @property
    def share(self) -> str:
        """The team whose share of the quotas its calls draw on."""
        return self.workflow if self.team is None else self.team

    @property
    def is_suspect(self) -> bool:
        """Whether a worker died with it, perhaps because of it: a worker executes it alone."""
        return 0 < self.lives_lost < LIVES

    @property
    def has_last_life(self) -> bool:
        """Whether the next worker that dies with it will be blamed on it."""
        return self.lives_lost == LIVES - 1

    @property
    def is_quarantined(self) -> bool:
        """Whether it has failed because it took down one worker after the other."""
        return self.state is RunState.FAILED and self.lives_lost >= LIVES

    @property
    def is_whole(self) -> bool:
        """Whether one attempt paid for all of it, from its first call to its last."""
        return self.state is RunState.COMPLETED and self.attempts <= 1 and self.parent is None


class Worker(Data, frozen=True):
    """A process that executes runs."""

    id: WorkerId
    """Names this life of the process: a process that starts again has another id."""
    pid: int
    """Its process id, for people to read."""
    since: float
    """When it joined; epoch seconds."""
    label: str = ""
    """The name that its user gave it; empty for none."""
    slots: int = 0
    """The worker takes queued runs while it executes fewer than this; 0: it takes none."""
    takes_interrupted: bool = False
    """Whether it takes interrupted runs as well as queued ones."""
    workflows: tuple[str, ...] = ()
    """The workflows that it has by name. A run of any other workflow it takes only if every process
    can build it: from a component file, or as ``module:factory``."""

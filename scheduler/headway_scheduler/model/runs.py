"""A run, and the worker that executes it. Data only."""

from dataclasses import dataclass

from .calls import Priority
from .states import RunState


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a workflow on a task.

    ``source`` says how to build the team again: a name, ``module:factory`` or a component file,
    with ``component`` the text of that file. Result and error are JSON and plain text.

    ``parameters`` is a JSON object for the factory, ``version`` a hash of what built the run.
    ``history``: tasks that the team was given before. A run with a ``parent`` begins with its
    parent's answers, those that arrived before ``parent_until`` or all. ``deadline`` is a time,
    ``waits_for`` the call that a person must decide, ``resumed_at`` the start of the last of its
    ``attempts``. ``team`` is whose share of the quotas it draws on; the workflow's, if None.
    ``worker`` is the process that executes it, or is about to.
    """

    id: str
    workflow: str
    task: str
    priority: Priority
    state: RunState
    created_at: float
    key: str | None = None
    component: str | None = None
    started_at: float | None = None
    finished_at: float | None = None
    result: str | None = None
    error: str | None = None
    parameters: str | None = None
    version: str | None = None
    history: tuple[str, ...] = ()
    parent: str | None = None
    parent_until: int | None = None
    deadline: float | None = None
    budget_usd: float | None = None
    waits_for: str | None = None
    attempts: int = 0
    resumed_at: float | None = None
    team: str | None = None
    worker: str | None = None

    @property
    def share(self) -> str:
        """The team whose share of the quotas its calls draw on."""
        return self.workflow if self.team is None else self.team

    @property
    def is_whole(self) -> bool:
        """Whether it was paid for from its first call to its last in one attempt."""
        return self.state is RunState.COMPLETED and self.attempts <= 1 and self.parent is None


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that executes runs. ``id`` is of this life of it alone; ``label`` is its user's.

    It takes queued runs while it has fewer than ``slots``; interrupted ones too, if it
    ``takes_interrupted``; of workflows that are registered by name only those of ``workflows``.
    """

    id: str
    pid: int
    since: float
    label: str = ""
    slots: int = 0
    takes_interrupted: bool = False
    workflows: tuple[str, ...] = ()

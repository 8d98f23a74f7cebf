"""The scheduler's own core, in simulated time, with any policy.

Law of this file: it alone knows how the core is driven and what its policy is called. It is the
core that is imported, never a copy: what is measured here is what decides in production.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from msgspec import structs

from headway_scheduler.core.policy import STRICT, Policy
from headway_scheduler.core.scheduler import Scheduler
from headway_scheduler.model.calls import Call, Outcome, Usage
from headway_scheduler.model.quotas import Observation, ProviderEvent, Quota
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.protocol.messages import MarkSent, Observe, SaveRun, Settle, Submit

from .provider import Budget
from .rivals import counted
from .world import Request, Running, World

QUOTA = "simulated"

FULL = Policy()
_SHORT_FIRST = replace(FULL, promised_share=STRICT.promised_share)
VARIANTS: Mapping[str, tuple[str, tuple[Policy, bool]]] = {
    "c": ("strict priority", (STRICT, False)),
    "ours": ("Headway", (FULL, True)),
    "e": ("c, short runs first", (replace(_SHORT_FIRST, headroom=STRICT.headroom), False)),
    "g": ("c, headroom", (replace(STRICT, headroom=FULL.headroom), False)),
    "g4": ("c, headroom, short runs first", (_SHORT_FIRST, False)),
    "g5": ("c, headroom, short runs first, promised_share", (FULL, False)),
    "fair": ("c, headroom, promised_share, teams", (replace(FULL, patience_seconds=0.0), True)),
}
"""The whole policy and parts of it, and whether it is told of teams."""


def quota_of(budget: Budget) -> Quota:
    """The quota that mirrors a provider's limits. Output apart is not mirrored."""
    stated = Quota.per_minute(
        QUOTA,
        requests=budget.requests_per_minute,
        tokens=budget.tokens_per_minute,
        burst_seconds=budget.burst_seconds,
    )
    return structs.replace(stated, is_guess=budget.is_guess)


class Core:
    """Headway. ``has_teams``: whether it is told of teams; if not, all calls are of one."""

    def __init__(self, world: World, budget: Budget, policy: Policy, has_teams: bool) -> None:
        self._world = world
        self._budget = budget
        self._core = Scheduler([quota_of(budget)], world.now, policy)
        self._has_teams = has_teams
        self._requests: dict[str, Request] = {}
        self._timer: float | None = None

    def began(self, run: Running) -> None:
        self._core.handle(SaveRun(self._run(run, RunState.RUNNING)), self._world.now)

    def ready(self, request: Request) -> None:
        self._requests[request.id] = request
        job, now = request.run.job, self._world.now
        call = Call(
            id=request.id,
            run_id=job.id,
            path=request.step.agent,
            model=QUOTA,
            quotas=(QUOTA,),
            priority=job.priority,
            tokens=counted(self._budget, request),
            submitted_at=now,
        )
        self._core.handle(Submit(call), now)
        self._decide()

    def refused(self, request: Request, retry_after: float) -> None:
        # A refused request costs no tokens, and a request only where refused ones count.
        signals = Observation(self._world.now + retry_after, ProviderEvent.REFUSED)
        self._core.handle(Observe(request.id, {QUOTA: signals}), self._world.now)
        is_charged = self._budget.refused_count
        outcome = Outcome(CallState.QUEUED, sent=is_charged, refused=True)
        self._core.handle(Settle(request.id, outcome), self._world.now)
        self._decide()

    def answered(self, request: Request) -> None:
        step = request.step
        used = self._budget.settled(step.input_tokens, step.output_tokens)
        usage = Usage(step.input_tokens, step.output_tokens)
        outcome = Outcome(CallState.DONE, usage=usage, used_tokens=used)
        self._core.handle(
            Observe(request.id, {QUOTA: Observation(event=ProviderEvent.ANSWERED)}), self._world.now
        )
        self._core.handle(Settle(request.id, outcome), self._world.now)
        del self._requests[request.id]
        self._decide()

    def ended(self, run: Running) -> None:
        self._core.handle(SaveRun(self._run(run, RunState.COMPLETED)), self._world.now)

    def _decide(self) -> None:
        now = self._world.now
        for record in self._core.admit(now):
            self._core.handle(MarkSent(record.call.id, now), now)
            self._world.send(self._requests[record.call.id])
        self._core.take_batch(now)
        ask_at = self._core.next_event(now)
        if ask_at is not None and (self._timer is None or ask_at < self._timer):
            self._timer = ask_at
            self._world.at(ask_at, self._ring)

    def _ring(self) -> None:
        if self._timer is not None and self._timer <= self._world.now:
            self._timer = None
            self._decide()

    def _run(self, run: Running, state: RunState) -> Run:
        job = run.job
        team = job.team if self._has_teams else "all"
        return Run(
            job.id, job.workflow, "", job.priority, state, job.arrives_at, attempts=1, team=team
        )


def variants() -> Mapping[str, tuple[str, Callable[[World, Budget], Core]]]:
    """Each of ``VARIANTS`` as a contender."""
    return {name: (about, partial(_core, how)) for name, (about, how) in VARIANTS.items()}


def _core(how: tuple[Policy, bool], world: World, budget: Budget) -> Core:
    return Core(world, budget, *how)

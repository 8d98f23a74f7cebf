"""Decides what is told to the world outside. Law: it is told of in the commit that makes it so.

A notice is a row of that commit, so a crash loses none. What was told of is remembered only as long
as this core lives; the id of a notice says what happened, and after a crash it may be told again.
"""

import json
from collections.abc import Iterable, Iterator, Mapping

from ..model.batch import Batch
from ..model.calls import ServiceLane
from ..model.notices import Notice, NoticeKind
from ..model.quotas import DAY_SECONDS, Resource
from ..model.runs import AD_HOC, Run
from ..model.states import ENDED_RUNS, CallState, RunState
from .change_log import ChangeLog
from .limits.quota import BREAKER
from .state import SchedulerState

LOW_SHARE = 0.2
"""Dollars are low once this share of them, or less, is left."""

LONGEST_WORDS = 1_000
"""The most characters of an error, or of a provider's words."""


class Notices:
    """Finds what a commit makes so that is to be told."""

    def __init__(self, kinds: Iterable[NoticeKind]) -> None:
        self._kinds = frozenset(kinds)
        self._told: set[str] = set()
        """Quotas that have stopped, and whose dollars are low, as far as they were told of."""

    def know(self, state: SchedulerState) -> None:
        """Take what is so already as told: it was, in the commit that made it so."""
        for _ in self._stopped(state, state.lanes.quotas, 0.0):
            pass
        for _ in self._low(state, state.budgets.by_run, state.lanes.quotas, 0.0):
            pass

    def of_commit(
        self, state: SchedulerState, log: ChangeLog, batch: Batch, now: float
    ) -> tuple[Notice, ...]:
        """Return what the next commit makes so: ``batch``, which was made of ``log``."""
        stopped = [lesson.subject for lesson in batch.lessons if lesson.kind == BREAKER]
        touched = {name for names in log.touched for name in names}
        found = (
            *self._of_runs(state, batch.runs, now),
            *self._stopped(state, stopped, now),
            *self._low(state, log.budgets, touched, now),
        )
        return tuple(notice for notice in found if notice.kind in self._kinds)

    def _of_runs(self, state: SchedulerState, runs: Iterable[Run], now: float) -> Iterator[Notice]:
        for run in runs:
            if run.workflow == AD_HOC:
                continue
            facts = {
                "run": run.id,
                "workflow": run.workflow,
                "team": run.share,
                "key": run.key,
                "state": run.state.value,
            }
            if run.state in ENDED_RUNS:
                facts |= {"error": run.error and run.error[:LONGEST_WORDS]}
                key = f"{run.id}.{run.attempts}.{run.state.value}"
                yield _notice(NoticeKind.RUN_ENDED, key, now, facts)
            elif run.state is RunState.WAITING and run.waits_for is not None:
                live = state.live.get(run.waits_for)
                is_batched = live is not None and (
                    live.record.state is CallState.BATCHED
                    or live.record.call.lane is ServiceLane.BATCH
                )
                if not is_batched:
                    facts |= {"call": run.waits_for}
                    yield _notice(NoticeKind.PERSON_ASKED, run.waits_for, now, facts)

    def _stopped(
        self, state: SchedulerState, quotas: Iterable[str], now: float
    ) -> Iterator[Notice]:
        for name in quotas:
            quota = state.lanes.quotas.get(name)
            words = None if quota is None else quota.breaker.stopped
            if self._is_new(f"stopped {name}", words is not None):
                facts = {"quota": name, "error": (words or "")[:LONGEST_WORDS]}
                yield _notice(NoticeKind.QUOTA_STOPPED, f"{name}.{now:.0f}", now, facts)

    def _low(
        self, state: SchedulerState, runs: Iterable[str], quotas: Iterable[str], now: float
    ) -> Iterator[Notice]:
        """Yield budgets of runs, and days of quotas, that are nearly spent."""
        for run_id in sorted(runs):
            budget = state.budgets.by_run.get(run_id)
            if budget is None or budget.limit_usd is None:
                continue
            was_low = budget.is_low
            budget.is_low = budget.spent_usd >= (1 - LOW_SHARE) * budget.limit_usd
            if budget.is_low and not was_low:
                usd = budget.limit_usd
                facts = {"run": run_id, "spent_usd": round(budget.spent_usd, 6), "usd": usd}
                yield _notice(NoticeKind.BUDGET_LOW, f"{run_id}.{usd:g}", now, facts)
        for name in sorted(quotas):
            quota = state.lanes.quotas.get(name)
            for bucket in () if quota is None else quota.buckets:
                usd = bucket.limit.capacity
                if bucket.limit.resource is not Resource.USD_PER_DAY:
                    continue
                if self._is_new(f"low {name}", bucket.fill <= LOW_SHARE * usd):
                    spent = round(usd - bucket.fill, 6)
                    day = int((now - bucket.limit.day_starts) // DAY_SECONDS)
                    facts = {"quota": name, "spent_usd": spent, "usd": usd}
                    yield _notice(NoticeKind.BUDGET_LOW, f"{name}.{day}", now, facts)

    def _is_new(self, subject: str, is_so: bool) -> bool:
        """Whether something is so, and was not told of since it became so."""
        if not is_so:
            self._told.discard(subject)
            return False
        was_told = subject in self._told
        self._told.add(subject)
        return not was_told


def _notice(kind: NoticeKind, key: str, now: float, facts: Mapping[str, object]) -> Notice:
    return Notice(f"{kind.value}.{key}", kind, now, json.dumps(facts))

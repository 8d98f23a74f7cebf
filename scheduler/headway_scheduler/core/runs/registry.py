"""Runs that are under way: whose they are, how long they are, and who waits for whom.

Law of this file: it knows no queue. A call's class is that of the most urgent run that waits for
it: its own run, those that wait for that run, and so on; its own, if that is more urgent.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from ...model.calls import Call, Priority
from ...model.runs import Run
from ..policy import Policy
from .sizes import Sizes


@dataclass(slots=True)
class _Entry:
    """A run, as far as it is known. ``attained``: budget-seconds that its calls have taken."""

    run: Run | None = None
    team: str = ""
    attained: float = 0.0
    calls: dict[str, None] = field(default_factory=dict)
    waits_on: frozenset[str] = frozenset()
    awaited_by: set[str] = field(default_factory=set)


class RunRegistry:
    """What the ordering must know of runs. Calls of a run that nobody told of are of no team."""

    def __init__(self) -> None:
        self.sizes: Sizes = Sizes()
        self._entries: dict[str, _Entry] = {}

    def track(self, run: Run) -> Run | None:
        """Take in a run that is under way. Return what was known of it."""
        entry = self._entry(run.id)
        before, entry.run, entry.team = entry.run, run, run.share
        return before

    def end(self, run: Run) -> str | None:
        """Forget a run. Return its workflow if its size was learned.

        Only of a whole run: one that was resumed has had answers that cost it nothing.
        """
        entry = self._entries.get(run.id)
        if entry is None:
            return None
        self.wait(run.id, frozenset())
        entry.run, entry.team = None, ""
        self._tidy(run.id)
        if not (run.is_whole and entry.attained):
            return None
        self.sizes.learn(run.workflow, entry.attained)
        return run.workflow

    def add(self, call: Call) -> None:
        """Count in a call that is live."""
        self._entry(call.run_id).calls[call.id] = None

    def remove(self, call: Call) -> None:
        """Count out a call that has ended."""
        if (entry := self._entries.get(call.run_id)) is not None:
            entry.calls.pop(call.id, None)
            self._tidy(call.run_id)

    def charge(self, call: Call, cost: float) -> None:
        """Note what a call took that went."""
        if (entry := self._entries.get(call.run_id)) is not None:
            entry.attained += cost

    def wait(self, run_id: str, on: frozenset[str]) -> set[str]:
        """A run waits for other runs now, and for no more than these.

        Return the runs for whose calls that may make a difference.
        """
        before = self._entries[run_id].waits_on if run_id in self._entries else frozenset[str]()
        for other in before - on:
            self._entry(other).awaited_by.discard(run_id)
            self._tidy(other)
        for other in on:
            self._entry(other).awaited_by.add(run_id)
        self._entry(run_id).waits_on = on
        self._tidy(run_id)
        return {each for other in before ^ on for each in self._reached(other, "waits_on")}

    def dependents(self, run_id: str) -> set[str]:
        """A run and all that it waits for: whose calls its class makes urgent."""
        return set(self._reached(run_id, "waits_on"))

    def calls(self, run_id: str) -> list[str]:
        """The ids of a run's live calls."""
        entry = self._entries.get(run_id)
        return [] if entry is None else list(entry.calls)

    def effective_priority(self, call: Call) -> Priority:
        """The class in which a call stands."""
        priority = call.priority
        for run_id in self._reached(call.run_id, "awaited_by"):
            run = self._entries[run_id].run
            if run is not None and run.priority < priority:
                priority = run.priority
        return priority

    def team(self, call: Call) -> str:
        """Whose share of the quotas a call draws on."""
        entry = self._entries.get(call.run_id)
        return "" if entry is None else entry.team

    def deadline(self, call: Call) -> float | None:
        """When the run of a call must have ended, if it must."""
        entry = self._entries.get(call.run_id)
        return None if entry is None or entry.run is None else entry.run.deadline

    def due(self, call: Call, policy: Policy) -> float:
        """When a call counts as having come: calls of long runs later, of urgent ones earlier."""
        entry = self._entries[call.run_id]
        run, remaining = entry.run, entry.attained
        if run is not None and run.workflow in self.sizes.known:
            remaining = self.sizes.remaining(run.workflow, remaining)
        due = call.submitted_at + min(policy.patience_seconds, policy.size_factor * remaining)
        if run is not None and run.deadline is not None:
            due = min(due, run.deadline - remaining)
        return due

    def _entry(self, run_id: str) -> _Entry:
        return self._entries.setdefault(run_id, _Entry())

    def _tidy(self, run_id: str) -> None:
        entry = self._entries.get(run_id)
        if entry and not (entry.run or entry.calls or entry.waits_on or entry.awaited_by):
            del self._entries[run_id]

    def _reached(self, run_id: str, along: str) -> Iterator[str]:
        """A run and those that are linked to it, each once, even if they wait in a circle."""
        seen, found = {run_id}, [run_id]
        while found:
            each = found.pop()
            if (entry := self._entries.get(each)) is None:
                continue
            yield each
            others: frozenset[str] | set[str] = getattr(entry, along)
            found.extend(others - seen)
            seen.update(others)

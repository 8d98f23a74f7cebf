"""Keeps the runs under way: their teams, their sizes, and which run waits for which.

Law of this file: it knows no queue. Priority inheritance: a call stands in the most urgent of the
class that it asks for, and those of all other runs that wait for its run, directly or through
others. It asks for its run's class, which changes with that, unless its agent has another one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from ...model.calls import Call, Priority
from ...model.runs import Run
from ..policy import Policy
from .sizes import Sizes


@dataclass(slots=True)
class _Entry:
    """A run as the scheduler knows it."""

    run: Run | None = None
    """Its row; None if only its calls, or its waits, were told."""
    team: str = ""
    """The team whose share its calls draw on."""
    attained: float = 0.0
    """Budget-seconds that its calls have taken."""
    calls: dict[str, None] = field(default_factory=dict)
    """Ids of its live calls, in order of arrival."""
    waits_on: frozenset[str] = frozenset()
    """The runs that it waits for."""
    awaited_by: set[str] = field(default_factory=set)
    """The runs that wait for it."""


class RunRegistry:
    """Answers what the ordering asks about runs. Calls of an untracked run belong to no team."""

    def __init__(self) -> None:
        self.sizes: Sizes = Sizes()
        self._entries: dict[str, _Entry] = {}

    def track(self, run: Run) -> Run | None:
        """Note a run under way. Return the row that was known before; None for none."""
        entry = self._entry(run.id)
        before, entry.run, entry.team = entry.run, run, run.share
        return before

    def end(self, run: Run) -> str | None:
        """Forget a run. Return its workflow if its size was learned.

        Sizes are learned of whole runs only: recorded answers cost a resumed run nothing.
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
        """Note a live call."""
        self._entry(call.run_id).calls[call.id] = None

    def remove(self, call: Call) -> str:
        """Forget a call that has ended. Return the team whose share it drew on; empty for none."""
        if (entry := self._entries.get(call.run_id)) is None:
            return ""
        entry.calls.pop(call.id, None)
        self._tidy(call.run_id)
        return entry.team

    def charge(self, call: Call, cost: float) -> None:
        """Add the budget-seconds of an admitted call to its run."""
        if (entry := self._entries.get(call.run_id)) is not None:
            entry.attained += cost

    def wait(self, run_id: str, on: frozenset[str]) -> set[str]:
        """Note that a run waits for the runs ``on`` now, and for no others.

        Return the runs whose calls may change their class for that.
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
        """Return a run and all runs that it waits for: their calls inherit its class."""
        return set(self._reached(run_id, "waits_on"))

    def calls(self, run_id: str) -> list[str]:
        """Return the ids of a run's live calls."""
        entry = self._entries.get(run_id)
        return [] if entry is None else list(entry.calls)

    def effective_priority(self, call: Call) -> Priority:
        """Return the class in which a call stands, with priority inheritance."""
        priority = call.priority
        for run_id in self._reached(call.run_id, "awaited_by"):
            run = self._entries[run_id].run
            if run_id != call.run_id and run is not None and run.priority < priority:
                priority = run.priority
        return priority

    def team(self, call: Call) -> str:
        """Return the team whose share of the quotas a call draws on; empty for none."""
        entry = self._entries.get(call.run_id)
        return "" if entry is None else entry.team

    def deadline(self, call: Call) -> float | None:
        """Return the deadline of a call's run, epoch seconds; None without one."""
        entry = self._entries.get(call.run_id)
        return None if entry is None or entry.run is None else entry.run.deadline

    def resumed_at(self, call: Call) -> float:
        """Return when the last attempt of a call's run began, epoch seconds; 0 if unknown."""
        entry = self._entries.get(call.run_id)
        return 0.0 if entry is None or entry.run is None else entry.run.resumed_at or 0.0

    def due(self, call: Call, policy: Policy) -> float:
        """Return when a call counts as having come, epoch seconds.

        Later in long runs, earlier before a deadline.
        """
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
        """Yield a run and the runs linked to it, each once, even if they wait in a circle."""
        seen, found = {run_id}, [run_id]
        while found:
            each = found.pop()
            if (entry := self._entries.get(each)) is None:
                continue
            yield each
            others: frozenset[str] | set[str] = getattr(entry, along)
            found.extend(others - seen)
            seen.update(others)

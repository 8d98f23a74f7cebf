"""What the next commit must write of the core's decisions. Law: it collects, it decides nothing."""

from dataclasses import dataclass, field
from itertools import chain

from ..model.batch import Batch, Lesson
from ..model.calls import CallRecord
from ..model.changes import Change
from ..model.prompts import ChainNode, Chunk
from ..model.runs import Run
from .admission.lanes import Lanes


@dataclass(slots=True)
class ChangeLog:
    """Everything that changed since the last commit. The scheduler fills its fields directly."""

    new: dict[str, CallRecord] = field(default_factory=dict[str, CallRecord])
    """Rows of calls that are not on disk yet, by id."""
    changed: dict[str, CallRecord] = field(default_factory=dict[str, CallRecord])
    """Rows of calls that changed, by id; a new one may be among them."""
    amended: list[CallRecord] = field(default_factory=list[CallRecord])
    """Rows of ended calls that are written anew. The scheduler does not know these calls."""
    touched: set[tuple[str, ...]] = field(default_factory=set[tuple[str, ...]])
    """Names of quotas whose buckets changed, by the sets in which calls draw on them."""
    runs: list[Run] = field(default_factory=list[Run])
    chunks: list[Chunk] = field(default_factory=list[Chunk])
    nodes: list[ChainNode] = field(default_factory=list[ChainNode])
    changes: list[Change] = field(default_factory=list[Change])
    lessons: dict[tuple[str, str], Lesson] = field(default_factory=dict[tuple[str, str], Lesson])
    """By kind and subject: the last one overwrites what was learned before it."""
    forget: list[str] = field(default_factory=list[str])
    """Ids of runs to delete."""

    def learn(self, lesson: Lesson) -> None:
        """Write a lesson, in place of an older one of its kind about its subject."""
        self.lessons[lesson.kind, lesson.subject] = lesson

    def batch(self, lanes: Lanes, now: float) -> Batch:
        """Everything as one batch, with the buckets of touched quotas as they stand."""
        changed = (record for key, record in self.changed.items() if key not in self.new)
        # A call may have outlived a quota in the configuration.
        names = sorted({each for names in self.touched for each in names if each in lanes.quotas})
        quotas = [lanes.quotas[name] for name in names]
        buckets = [
            bucket.state(now, quota.breaker.paused_until)
            for quota in quotas
            for bucket in quota.buckets
        ]
        for quota in quotas:
            for lesson in quota.take_lessons():
                self.learn(lesson)
        return Batch(
            new=tuple(self.new.values()),
            changed=tuple(chain(changed, self.amended)),
            buckets=tuple(buckets),
            runs=tuple(self.runs),
            pieces=tuple(self.chunks),
            links=tuple(self.nodes),
            forget=tuple(self.forget),
            changes=tuple(self.changes),
            lessons=tuple(self.lessons.values()),
        )

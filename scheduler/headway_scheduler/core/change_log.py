"""Collects what the next commit must write. Law of this file: it decides nothing."""

from msgspec import Struct

from ..model.batch import Lesson
from ..model.batches import BatchedRequest
from ..model.calls import CallRecord
from ..model.changes import Change
from ..model.history import Try
from ..model.prompts import ChainNode, Chunk
from ..model.runs import Run


class ChangeLog(Struct):
    """Everything that changed since the last commit. The scheduler fills its fields directly."""

    new: dict[str, CallRecord] = {}
    """Rows of calls that are not on disk yet, by id."""
    changed: dict[str, CallRecord] = {}
    """Rows of calls that changed, by id; a new one may be among them."""
    amended: list[CallRecord] = []
    """Rows of ended calls that are written anew. The scheduler does not know these calls."""
    touched: set[tuple[str, ...]] = set()
    """Names of quotas whose buckets changed, by the sets in which calls draw on them."""
    budgets: set[str] = set()
    """Ids of runs whose budgets changed."""
    runs: list[Run] = []
    chunks: list[Chunk] = []
    nodes: list[ChainNode] = []
    changes: list[Change] = []
    lessons: dict[tuple[str, str], Lesson] = {}
    """By kind and subject: the last one overwrites what was learned before it."""
    requests: list[BatchedRequest] = []
    tries: list[Try] = []
    waits: dict[tuple[int, int, str, int], int] = {}
    """How many calls ended, by minute, number of their class, team and bucket of their wait."""
    forget: list[str] = []
    """Ids of runs to delete."""

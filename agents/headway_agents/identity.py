"""Which run and which agent is asking. Law of this file: no answer is guessed when one is known.

Theory of operation. A :class:`RunScope` is one attempt of one run. When a team is bound, every
holder of a client gets a handle of its own that knows its scope and path: that is the rule, and it
holds whatever task, runtime or thread of control asks. A client that nobody bound (one in a
closure, say) falls back on the context: the runner sets ``current_scope`` before ``run_stream``,
whose runtime copies the context once, and AutoGen says whose message is being handled.
"""

import re
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar

from autogen_core import MessageHandlerContext

from headway_scheduler.errors import CallerError, RunClosed
from headway_scheduler.model import Priority
from headway_scheduler.service import Service

UNKNOWN_AGENT = "caller"
"""The path of a request that no agent made: a script that asks a model by itself."""

_TEAM_SUFFIX = re.compile(r"_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


class RunScope:
    """One attempt of a run: numbers its calls, and ends them all when it is closed.

    Call ids are ``run_id.n`` with n from ``first_call``: a later attempt starts after the last
    one's. ``error`` is the last error that went to an agent: AutoGen loses its type on the way.
    """

    def __init__(
        self, service: Service, run_id: str, priority: Priority, first_call: int = 0
    ) -> None:
        self.service = service
        self.run_id = run_id
        self.priority = priority
        self.error: Exception | None = None
        self._next_call = first_call
        self._occurrences: Counter[tuple[str, str]] = Counter()
        self._live: dict[str, Callable[[BaseException], None]] = {}
        self._closed = False

    def number(self, path: str, request_hash: str) -> tuple[str, int]:
        """Return the id of a new call, and how often its agent asked the same before.

        Raises RunClosed.
        """
        if self._closed:
            raise self._ended()
        call_id = f"{self.run_id}.{self._next_call}"
        self._next_call += 1
        occurrence = self._occurrences[path, request_hash]
        self._occurrences[path, request_hash] += 1
        return call_id, occurrence

    def attach(self, call_id: str, cancel: Callable[[BaseException], None]) -> None:
        """Have ``cancel`` called with the reason if the scope is closed while the call lives."""
        self._live[call_id] = cancel

    def failed(self, error: Exception) -> None:
        """Keep what a call raised; what closing makes of the others is not why the run failed."""
        if not self._closed:
            self.error = error

    def detach(self, call_id: str) -> None:
        """Forget a call that has ended."""
        self._live.pop(call_id, None)

    def close(self) -> None:
        """End every live call, queued or in flight, and let no other begin. May be repeated.

        AutoGen alone would go on: a team that is not listened to any more keeps asking.
        """
        self._closed = True
        for cancel in list(self._live.values()):
            cancel(self._ended())

    def _ended(self) -> RunClosed:
        return RunClosed(
            f"run {self.run_id} has ended: its agents may ask for nothing more; "
            "resume it or submit a new one"
        )


current_scope: ContextVar[RunScope] = ContextVar("headway_current_scope")
"""The scope of clients that nobody bound."""


def scope_of_context(model: str) -> RunScope:
    """Return the scope that the runner set. Raises CallerError without one."""
    try:
        return current_scope.get()
    except LookupError:
        raise CallerError(
            f"the client of model {model!r} belongs to no run: have Headway run the team that "
            "holds it, or set headway_agents.current_scope before asking it"
        ) from None


def asking_agent() -> str:
    """Return the name of the agent whose message AutoGen is handling, else ``UNKNOWN_AGENT``.

    In nested teams that is the innermost, so it is no full path.
    """
    try:
        agent = MessageHandlerContext.agent_id().type
    except RuntimeError:
        return UNKNOWN_AGENT
    return _TEAM_SUFFIX.sub("", agent)

"""Names background calls that make room for urgent ones. Law of this file: it cancels nothing.

Only slots of local servers are taken back: a provider that charges for requests would be paid for
nothing. Only calls of the last 5 s are named, because they lose little work, and each at most
twice.
"""

from collections import deque
from collections.abc import Iterable

from ...model.calls import Priority

YOUNG_SECONDS = 5.0
"""A call that was admitted longer ago than this keeps its slot."""
MOST_TIMES = 2
"""How often one call may have to make room."""
URGENT = (Priority.INTERACTIVE, Priority.HIGH)
"""The classes that room is made for."""


class Preemption:
    """Keeps the background calls that were admitted in the last 5 s, in their order."""

    def __init__(self) -> None:
        self._young: deque[tuple[float, str, frozenset[str]]] = deque()
        self.times: dict[str, int] = {}
        """How often calls that have not ended have made room, by id."""
        self.named: list[str] = []
        """Calls that are to make room and have not been handed over."""

    def admitted(
        self, call_id: str, priority: Priority, quotas: frozenset[str], now: float
    ) -> None:
        """Note the admission of a call that takes slots of local ``quotas``."""
        if priority is Priority.BACKGROUND and self.times.get(call_id, 0) < MOST_TIMES:
            self._young.append((now, call_id, quotas))

    def ended(self, call_id: str) -> None:
        """Forget a call that is over."""
        self.times.pop(call_id, None)

    def make_room(self, quota: str, flying: Iterable[str], now: float) -> None:
        """Name the youngest call in flight that holds a slot of ``quota``, if any is young."""
        while self._young and self._young[0][0] < now - YOUNG_SECONDS:
            self._young.popleft()
        in_flight = set(flying)
        for entry in reversed(self._young):
            _, call_id, quotas = entry
            if quota in quotas and call_id in in_flight:
                self._young.remove(entry)
                self.times[call_id] = self.times.get(call_id, 0) + 1
                self.named.append(call_id)
                return

    def take(self) -> list[str]:
        """Return the calls that were named since the last time, and forget them."""
        named, self.named = self.named, []
        return named

"""Records every request that the provider saw. Law of this file: no bucket code.

The ledger is the oracle of the tests, so it judges by its entries alone, and not by the buckets
that admitted them. It forgets nothing: it grows by some hundred bytes with each request.
"""

import json
import math
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, NamedTuple

from .limits import Limits

# Requests or tokens: the error that float arithmetic on a clock may add up to.
_NOISE = 1e-3


@dataclass(frozen=True, slots=True)
class Entry:
    """One request. ``*_at`` are seconds since the epoch, ``*_monotonic`` of the provider's clock.

    ``accepted``: it passed the gate and was charged. ``paid``: its answer was generated, whether or
    not the client saw it. ``why`` is empty for a complete answer, else what refused or broke it:
    requests, tokens, too_large, concurrency, bad_request, client_left or the name of a fault.
    ``finished_*`` is None while in flight. ``who`` is ``x-headway-call``, else the body's ``user``.
    ``tier`` is the service tier that was asked for.
    """

    index: int
    received_at: float
    received_monotonic: float
    model: str
    status: int
    accepted: bool
    paid: bool
    why: str = ""
    who: str = ""
    charged_tokens: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    digest: str = ""
    streamed: bool = False
    tier: str = ""
    finished_at: float | None = None
    finished_monotonic: float | None = None


class Load(NamedTuple):
    """The largest number of requests, and of tokens: each may be of another window."""

    requests: float
    tokens: float


class Ledger:
    """The entries in order of arrival; ``index`` counts from 1."""

    def __init__(self, entries: Iterable[Entry] = (), *, path: Path | None = None) -> None:
        """With ``path``, append each finished entry there as a JSON line, and flush it."""
        self._entries = list(entries)
        self._file: IO[str] | None = None if path is None else path.open("a", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Ledger":
        """Read the file of another process's ledger: its finished entries, in order of arrival."""
        lines = path.read_text(encoding="utf-8").splitlines()
        return cls(sorted((Entry(**json.loads(line)) for line in lines), key=lambda e: e.index))

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All requests, also those in flight."""
        return tuple(self._entries)

    @property
    def accepted(self) -> tuple[Entry, ...]:
        """Requests that passed the gate and were charged."""
        return tuple(entry for entry in self._entries if entry.accepted)

    @property
    def refused(self) -> tuple[Entry, ...]:
        """Requests that did not pass the gate."""
        return tuple(entry for entry in self._entries if not entry.accepted)

    @property
    def paid(self) -> tuple[Entry, ...]:
        """Requests whose answer was generated."""
        return tuple(entry for entry in self._entries if entry.paid)

    def duplicates(self) -> dict[str, int]:
        """Return the digests of requests that were paid more than once, and how often each was."""
        times = Counter(entry.digest for entry in self.paid)
        return {digest: count for digest, count in times.items() if count > 1}

    def worst_window(self, seconds: float) -> Load:
        """Return the most accepted requests, and tokens, in any half-open window of ``seconds``."""
        window: deque[Entry] = deque()
        requests, tokens, charged = 0, 0, 0
        for entry in self.accepted:
            window.append(entry)
            charged += entry.charged_tokens
            while entry.received_monotonic - window[0].received_monotonic >= seconds:
                charged -= window.popleft().charged_tokens
            requests, tokens = max(requests, len(window)), max(tokens, charged)
        return Load(requests, tokens)

    def most_at_once(self) -> int:
        """Return the most accepted requests that were in flight at the same time."""
        starts = [(entry.received_monotonic, 1) for entry in self.accepted]
        ends = [
            (entry.finished_monotonic, -1)
            for entry in self.accepted
            if entry.finished_monotonic is not None
        ]
        running = most = 0
        for _, step in sorted(starts + ends):
            running += step
            most = max(most, running)
        return most

    def excess(self, limits: Limits, model: str | None = None) -> Load:
        """Return by how much the worst window is above ``limits``; 0.0 if none is.

        It counts requests for ``model``, or all. See ``worst_excess`` for what a window may hold.
        """
        chosen = [entry for entry in self.accepted if model in (None, entry.model)]
        requests = [(entry.received_monotonic, 1.0) for entry in chosen]
        tokens = [(entry.received_monotonic, float(entry.charged_tokens)) for entry in chosen]
        rpm, tpm = limits.requests_per_minute, limits.tokens_per_minute
        return Load(
            0.0 if rpm is None else worst_excess(requests, limits.request_capacity, rpm / 60),
            0.0 if tpm is None else worst_excess(tokens, limits.token_capacity, tpm / 60),
        )

    def open(self, entry: Entry) -> None:
        """Add a request at its arrival."""
        assert entry.index == len(self._entries) + 1
        self._entries.append(entry)

    def finish(self, index: int, why: str, *, wall: float, monotonic: float) -> None:
        """Close the entry of a request that is over. An empty ``why`` leaves the entry's reason."""
        entry = self._entries[index - 1]
        done = replace(entry, why=why or entry.why, finished_at=wall, finished_monotonic=monotonic)
        self._entries[index - 1] = done
        if self._file is not None:
            self._file.write(json.dumps(asdict(done)) + "\n")
            self._file.flush()

    def as_json(self) -> dict[str, Any]:
        """Return the body of ``GET /ledger``."""
        return {"entries": [asdict(entry) for entry in self._entries]}

    def close(self) -> None:
        """Close the file; the entries stay readable."""
        if self._file is not None:
            self._file.close()


def worst_excess(
    charges: Iterable[tuple[float, float]], capacity: float, per_second: float
) -> float:
    """Return by how much the worst window of charges is above its allowance; 0.0 if none is.

    ``charges`` are ``(second, amount)`` in order of time.

    A window from charge j to charge i may hold ``capacity + per_second * (t_i - t_j)``; charge i
    alone may be above the capacity if all before it is paid back. The largest sum over all j at i
    is Lindley's recursion, ``v_i = max(0, v_{i-1} - per_second * (t_i - t_{i-1})) + a_i``, so one
    pass decides all windows (Cruz 1991: conforming to a bucket = no window above its line).
    """
    worst, owed, last = 0.0, 0.0, -math.inf
    for second, amount in charges:
        owed = max(0.0, owed - per_second * (second - last)) + amount
        last = second
        worst = max(worst, owed - max(capacity, amount))
    return worst if worst > _NOISE else 0.0

"""Requests of followers to the leader, and what it tells them. Law: none is changed once posted.

Theory of operation. A sender appends its request in a short transaction; the leader writes the
answer with the commit that carries the request out. What was posted is carried out, whether its
sender lives or not; if it dies in the middle of posting, there is no request. The leader takes what
has no answer and is not in hand: ids say nothing about the order in which requests appear.

Two connections, each used by one thread at a time: a post that waits for other writers must not
delay a reader. The reader may be the thread that listens (``notifier``): it reads ahead, and the
loop then takes what is there without another hop to a thread.
"""

import json
import sqlite3
import threading
import time
from collections import defaultdict, deque
from collections.abc import Collection, MutableMapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import islice
from pathlib import Path

import anyio
from anyio import to_thread

from ...errors import StoreBusy, StoreError
from ...model.batch import Letter
from ...ports import LEADER, READ_AT_ONCE
from .errors import explained
from .lock_file import LOOK_SECONDS
from .notifier import pipe_of, ring
from .reads import assert_epoch, connect, probe, read
from .sql import STATEMENTS, named
from .stopped_writer import wake_writer

BUSY_SECONDS = 0.1
"""How long one attempt to post waits for other writers. It cannot be cancelled meanwhile."""

POST_SECONDS = 60.0
"""How long others may keep the database locked until that is an error."""

STOPPED_SECONDS = 3.0
"""How long one of them may who is stopped. By then it does not lead any more, if it did."""


class SqliteMailbox:
    """The requests in the database at ``path``. ``epoch`` is that of the leader that takes them.

    ``readers``: which mailbox of this process its listener reads ahead for, by owner. It opens the
    database when it is first asked something. Raises StoreError if there is none, or if it is of
    another version.
    """

    def __init__(
        self,
        path: Path,
        epoch: int | None = None,
        readers: "MutableMapping[str, SqliteMailbox] | None" = None,
    ) -> None:
        self._path = path
        self._leader = pipe_of(path, LEADER)
        self._epoch = epoch
        self._readers = {} if readers is None else readers
        self._posting, self._reading = threading.Lock(), threading.Lock()
        self._outgoing: sqlite3.Connection | None = None
        self._incoming: sqlite3.Connection | None = None
        self._is_syncing = False
        self._in_hand: frozenset[int] = frozenset()
        self._requests: deque[Letter] = deque()
        self._told: defaultdict[str, deque[tuple[int, str]]] = defaultdict(deque)
        self._read: dict[str, int] = {}

    async def close(self) -> None:
        """Close the connections. What was posted stays."""
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(self._close)

    def _close(self) -> None:
        for owner in [owner for owner, reader in self._readers.items() if reader is self]:
            del self._readers[owner]
        with self._posting, self._reading:
            for connection in (self._outgoing, self._incoming):
                if connection is not None:
                    connection.close()

    # What a sender asks

    async def post(self, sender: str, text: str, *, durable: bool = False) -> int:
        """Append a request as soon as other writers let, and return its id. Raises StoreError."""
        attempt = partial(self._post, sender, text, durable)
        waited, looked_at = 0.0, time.monotonic()
        while True:
            try:
                return await to_thread.run_sync(attempt)
            except StoreBusy:
                # Counted as a lease is: on a machine so busy that nobody has seen the leader's
                # silence yet, continuing it now would have it lead on.
                now = time.monotonic()
                waited, looked_at = waited + min(now - looked_at, LOOK_SECONDS), now
                if waited > POST_SECONDS:
                    raise
                if waited > STOPPED_SECONDS:
                    await to_thread.run_sync(wake_writer, self._path)

    def _post(self, sender: str, text: str, durable: bool) -> int:
        with self._posting, explained(self._path):
            self._outgoing = db = self._outgoing or self._connect()
            if durable != self._is_syncing:
                # The commit of the answer syncs the request too; without one, nothing was promised.
                db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._is_syncing = durable
            # One statement: it begins with the write lock, or not at all.
            request_id = db.execute(STATEMENTS["post_request"], (sender, text)).lastrowid
        # After the commit: rung before it, the leader would look, find nothing, and wait to poll.
        ring(self._leader)
        return request_id or 0

    async def answer(self, request_id: int) -> str | None:
        """The answer to a request, None as long as there is none. Raises StoreError."""
        return await to_thread.run_sync(self._answer, request_id)

    def _answer(self, request_id: int) -> str | None:
        with self._posting, explained(self._path):
            self._outgoing = db = self._outgoing or self._connect()
            rows = list(named(db.execute(STATEMENTS["request_answer"], {"id": request_id})))
        if not rows:
            raise StoreError(
                f"{self._path}: the answer was given, and is kept no longer: see what became of it"
            )
        answer: str | None = rows[0].answer
        return answer

    # What a reader is told

    async def waiting(
        self, in_hand: Collection[int], limit: int = READ_AT_ONCE
    ) -> Sequence[Letter]:
        """Requests that have no answer and are not in hand, oldest first.

        Raises StoreTakenOver if they are another leader's to take.
        """
        self._readers[LEADER] = self
        self._in_hand = frozenset(in_hand)
        if not self._requests:
            await to_thread.run_sync(self.read_ahead, LEADER)
        requests = list(islice(self._requests, limit))
        # In hand before they are no longer ahead: the listener reads at any time what is neither.
        self._in_hand |= {request.id for request in requests}
        for _ in requests:
            self._requests.popleft()
        return requests

    async def notifications(self, worker_id: str, after: int) -> Sequence[tuple[int, str]]:
        """What a worker was told after notification ``after``, in order. Raises StoreError."""
        # Once, and before the listener knows of it: from then on the reading thread keeps it.
        self._read.setdefault(worker_id, after)
        told = self._told[worker_id]
        self._readers[worker_id] = self
        if not told:
            await to_thread.run_sync(self.read_ahead, worker_id)
        return [told.popleft() for _ in range(len(told))]

    def read_ahead(self, owner: str) -> bool:
        """Read what waits for ``owner``; whether there is anything. Called in threads.

        Raises StoreError; StoreTakenOver if it is another leader's to read.
        """
        # Not twice at once: what one read has found, the next one must not find again.
        with self._reading, explained(self._path):
            self._incoming = db = self._incoming or self._connect()
            if owner == LEADER:
                self._read_requests(db)
                return bool(self._requests)
            self._read_notifications(db, owner)
            return bool(self._told[owner])

    def _read_requests(self, db: sqlite3.Connection) -> None:
        if self._epoch is not None:
            assert_epoch(db, self._path, self._epoch)
        # Collected before the database is asked: a request leaves this set only after the commit
        # that answers it, so whatever is missing here is seen answered there. (Copied first: the
        # loop takes requests meanwhile.)
        ahead = {request.id for request in tuple(self._requests)}
        known = {
            "in_hand": json.dumps(list(self._in_hand | ahead)),
            "limit": READ_AT_ONCE - len(ahead),
        }
        rows = named(db.execute(STATEMENTS["waiting_requests"], known))
        self._requests.extend(Letter(row.id, row.sender, row.event) for row in rows)

    def _read_notifications(self, db: sqlite3.Connection, worker_id: str) -> None:
        while True:
            values = {"worker": worker_id, "after": self._read[worker_id], "limit": READ_AT_ONCE}
            rows = [
                (row.id, row.text) for row in named(db.execute(STATEMENTS["notifications"], values))
            ]
            if not rows:
                return
            # One leader writes them, fenced by its epoch: their ids appear in order.
            self._read[worker_id] = rows[-1][0]
            self._told[worker_id].extend(rows)

    def _connect(self) -> sqlite3.Connection:
        read(self._path, probe)
        with ExitStack() as undo:
            db = undo.enter_context(closing(connect(self._path, "mode=rw")))
            db.execute(f"PRAGMA busy_timeout = {round(1000 * BUSY_SECONDS)}")
            db.execute("PRAGMA wal_autocheckpoint = 0")  # the leader does that
            db.execute("PRAGMA synchronous = NORMAL")
            # Without it, fsync on macOS leaves a request that is synced in the cache of the drive.
            db.execute("PRAGMA fullfsync = ON")
            undo.pop_all()
        return db

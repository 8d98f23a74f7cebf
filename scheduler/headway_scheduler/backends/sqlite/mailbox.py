"""Carries requests to the leader and notifications to workers. Law: no row is changed once posted.

Theory of operation. A sender appends its request in a short transaction; the leader writes the
answer in the commit that carries the request out. A posted request is carried out whether its
sender lives or not; if the sender dies while it posts, there is no request. The leader takes
requests that have no answer and are not in hand: ids say nothing about the order in which requests
appear.

Two connections, each used by one thread at a time: a post that waits for other writers must not
delay a reader. The listener's thread (``notifier``) reads ahead, and the loop then takes the rows
without another hop to a thread.
"""

import json
import threading
import time
from collections import defaultdict, deque
from collections.abc import Collection, MutableMapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import anyio
from anyio import to_thread

from ...errors import StoreBusy, StoreError
from ...model.batch import Letter
from ...ports import LEADER, READ_AT_ONCE
from .errors import explained
from .lock_file import LOOK_SECONDS
from .notifier import pipe_of, ring
from .reads import Connection, OpenedFile, assert_epoch, connect, own_threads, probe, read
from .sql import STATEMENTS, named
from .stopped_writer import wake_writer

BUSY_SECONDS = 0.1
"""How long one attempt to post waits for other writers. It cannot be cancelled meanwhile, so this
is also how late a cancellation may be."""

POST_SECONDS = 60.0
"""How long other writers may keep the database locked before ``post`` raises StoreBusy."""

STOPPED_SECONDS = 3.0
"""How long ``post`` waits before it has a stopped writer continued. By then that process has lost
the leadership, if it led."""


class SqliteMailbox:
    """The requests in the database at ``path``. ``epoch`` is that of the leader that takes them.

    ``readers``: by owner, the mailbox for which the listener of this process reads ahead. The
    database is opened at the first question. Methods raise StoreError if there is none, or if it is
    of another version.
    """

    def __init__(
        self,
        path: Path,
        epoch: int | None = None,
        readers: "MutableMapping[str, SqliteMailbox] | None" = None,
        file: OpenedFile | None = None,
    ) -> None:
        self._path = path
        self._threads = own_threads()
        self._file = OpenedFile(path) if file is None else file
        self._leader = pipe_of(path, LEADER)
        self._epoch = epoch
        self._readers = {} if readers is None else readers
        self._posting, self._reading = threading.Lock(), threading.Lock()
        self._taking = threading.Lock()
        self._outgoing: Connection | None = None
        self._incoming: Connection | None = None
        self._is_syncing = False
        self._in_hand: frozenset[int] = frozenset()
        self._requests: deque[Letter] = deque()
        self._told: defaultdict[str, deque[tuple[int, str]]] = defaultdict(deque)
        self._read: dict[str, int] = {}

    async def connect(self) -> None:
        """Open both connections, so that the first call of a process need not wait for them."""
        await to_thread.run_sync(self._open, limiter=self._threads)

    def _open(self) -> None:
        with self._posting, self._reading, explained(self._path):
            self._outgoing = self._outgoing or self._connect()
            self._incoming = self._incoming or self._connect()

    async def close(self) -> None:
        """Close the connections. What was posted stays."""
        for owner in [owner for owner, reader in self._readers.items() if reader is self]:
            del self._readers[owner]
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(self._close, limiter=self._threads)

    def _close(self) -> None:
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
                return await to_thread.run_sync(attempt, limiter=self._threads)
            except StoreBusy:
                # Counted like a lease, at most 0.2 s per attempt. On a machine so busy that no
                # process has seen the leader's silence yet, a stopped leader that is continued now
                # would lead on.
                now = time.monotonic()
                waited, looked_at = waited + min(now - looked_at, LOOK_SECONDS), now
                if waited > POST_SECONDS:
                    raise
                if waited > STOPPED_SECONDS:
                    await to_thread.run_sync(wake_writer, self._path, limiter=self._threads)

    def _post(self, sender: str, text: str, durable: bool) -> int:
        with self._posting, explained(self._path):
            self._outgoing = db = self._outgoing or self._connect()
            if durable != self._is_syncing:
                # The leader's commit of the answer syncs the request too. A power cut before that
                # loses the request, and its sender was promised nothing.
                db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._is_syncing = durable
            self._file.check()
            # One statement is its own transaction: it takes the write lock and commits, or raises
            # StoreBusy and has written nothing.
            request_id = db.execute(STATEMENTS["post_request"], (sender, text)).lastrowid
            self._file.check()
        # After the commit: a leader that is rung before it would find nothing and sleep until it
        # polls. A crash in between loses only the ring.
        ring(self._leader)
        return request_id or 0

    async def answer(self, request_id: int) -> str | None:
        """Return the answer to a request, None as long as there is none. Raises StoreError."""
        return await to_thread.run_sync(self._answer, request_id, limiter=self._threads)

    def _answer(self, request_id: int) -> str | None:
        answers = self._answers(request_id)
        if not answers:
            raise StoreError(
                f"{self._path}: the answer was given, and is kept no longer: see what became of it"
            )
        return answers[0]

    async def is_waiting(self, request_id: int) -> bool:
        """Whether no leader has taken a request yet. Raises StoreError."""
        return await to_thread.run_sync(self._answers, request_id, limiter=self._threads) == [None]

    def _answers(self, request_id: int) -> list[str | None]:
        """The answer to a request, None as long as there is none; empty if it is not kept."""
        with self._posting, explained(self._path):
            self._outgoing = db = self._outgoing or self._connect()
            rows = named(db.execute(STATEMENTS["request_answer"], {"id": request_id}))
            return [row.answer for row in rows]

    # What a reader is told

    async def waiting(
        self, in_hand: Collection[int], limit: int = READ_AT_ONCE
    ) -> Sequence[Letter]:
        """Return requests that have no answer and are not in hand, oldest first.

        Raises StoreTakenOver if they are another leader's to take.
        """
        self._readers[LEADER] = self
        self._in_hand = frozenset(in_hand)
        if not self._requests:
            await to_thread.run_sync(self.read_ahead, LEADER, limiter=self._threads)
        # Out of the queue and into the set as one: the listener's thread reads meanwhile, and would
        # take a request that is in neither a second time.
        with self._taking:
            many = min(limit, len(self._requests))
            requests = [self._requests.popleft() for _ in range(many)]
            self._in_hand |= {request.id for request in requests}
        return requests

    async def notifications(self, worker_id: str, after: int) -> Sequence[tuple[int, str]]:
        """Return the notifications after ``after``, in order. Raises StoreError."""
        # Once, and before the listener knows this mailbox: from then on the thread that reads moves
        # it on.
        self._read.setdefault(worker_id, after)
        told = self._told[worker_id]
        self._readers[worker_id] = self
        if not told:
            await to_thread.run_sync(self.read_ahead, worker_id, limiter=self._threads)
        return [told.popleft() for _ in range(len(told))]

    def read_ahead(self, owner: str) -> bool:
        """Read what waits for ``owner``; return whether there is anything. Called in threads.

        Raises StoreError; StoreTakenOver if it is another leader's to read.
        """
        # The loop's thread and the listener's may both be here. One at a time: the second read must
        # know what the first one found.
        with self._reading, explained(self._path):
            self._incoming = db = self._incoming or self._connect()
            self._file.check()
            if owner == LEADER:
                self._read_requests(db)
                return bool(self._requests)
            self._read_notifications(db, owner)
            return bool(self._told[owner])

    def _read_requests(self, db: Connection) -> None:
        if self._epoch is not None:
            assert_epoch(db, self._path, self._epoch)
        # Collected before the database is asked. A request leaves these sets only after the commit
        # that answers it, so the query below sees a request that is missing here as answered.
        with self._taking:
            ahead = {request.id for request in self._requests}
            known = self._in_hand | ahead
        asked = {"in_hand": json.dumps(list(known)), "limit": READ_AT_ONCE - len(ahead)}
        rows = named(db.execute(STATEMENTS["waiting_requests"], asked))
        # Bytes that are no text are no request either; of nobody, if it is the sender that is none.
        self._requests.extend(
            Letter(row.id, _text(row.sender), _text(row.event), row.tries) for row in rows
        )

    def _read_notifications(self, db: Connection, worker_id: str) -> None:
        while True:
            values = {"worker": worker_id, "after": self._read[worker_id], "limit": READ_AT_ONCE}
            rows = [
                (row.id, _text(row.text))
                for row in named(db.execute(STATEMENTS["notifications"], values))
            ]
            if not rows:
                return
            # One leader writes them, fenced by its epoch: their ids appear in order.
            self._read[worker_id] = rows[-1][0]
            self._told[worker_id].extend(rows)

    def _connect(self) -> Connection:
        self._file.check()
        read(self._path, probe)
        self._file.keep()
        with ExitStack() as undo:
            db = undo.enter_context(closing(connect(self._path, "mode=rw")))
            db.execute(f"PRAGMA busy_timeout = {round(1000 * BUSY_SECONDS)}")
            db.execute("PRAGMA wal_autocheckpoint = 0")  # the leader does that
            db.execute("PRAGMA synchronous = NORMAL")
            # Without it, fsync on macOS leaves a request that is synced in the cache of the drive.
            db.execute("PRAGMA fullfsync = ON")
            undo.pop_all()
        return db


def _text(value: object) -> str:
    """Return a text as it was read; an empty one, in which is no request, for anything else."""
    return value if isinstance(value, str) else ""

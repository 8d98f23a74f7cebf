"""Letters from processes that do not admit to the one that does. Law: none is changed once posted.

Theory of operation. A sender appends its letter in a short transaction, rings the leader's bell,
and then looks for the answer. The leader looks too when nobody has rung: it sees by ``PRAGMA
data_version`` that anything was committed by anyone, which costs no disk, and only then asks for
letters. It writes the answer with the
commit that carries the letter out. What was posted is carried out, whether its sender lives or
not; if it dies in the middle of posting, there is no letter.

Everything here blocks: what may wait for another writer is called in a thread.
"""

from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from ...errors import StoreError
from ...model.batch import Letter
from .errors import explained
from .notifier import bell_of, ring
from .reads import assert_epoch, connect, probe, read
from .sql import STATEMENTS, named

BUSY_SECONDS = 0.1
"""How long one attempt waits for other writers. It cannot be cancelled meanwhile."""

LETTERS = 100
"""How many letters the leader takes at once."""


class Inbox:
    """The letters in the database at ``path``, on a connection of its own. Close it after use.

    ``epoch`` is the leader's. Raises StoreError if there is no such database, or if it is of
    another version.
    """

    def __init__(self, path: Path, epoch: int | None = None) -> None:
        self.path = path
        self._epoch = epoch
        self._seen: int | None = None
        self._is_syncing = False
        read(path, probe)
        with explained(path), ExitStack() as undo:
            self._db = undo.enter_context(closing(connect(path, "mode=rw")))
            self._db.execute(f"PRAGMA busy_timeout = {round(1000 * BUSY_SECONDS)}")
            self._db.execute("PRAGMA wal_autocheckpoint = 0")  # the leader does that
            # The commit of the answer syncs the letter too; without one, nothing was promised.
            self._db.execute("PRAGMA synchronous = NORMAL")
            # Without it, fsync on macOS leaves a letter that is synced in the cache of the drive.
            self._db.execute("PRAGMA fullfsync = ON")
            undo.pop_all()

    def close(self) -> None:
        """Close the connection. What was posted stays."""
        self._db.close()

    def post(self, sender: str, event: str, *, synced: bool = False) -> int:
        """Append a letter and return its id. Raises StoreError; there is no letter then.

        StoreBusy, if others keep it locked: post it again. ``synced``: it outlives a power cut from
        here on, answered or not.
        """
        with explained(self.path):
            if synced != self._is_syncing:
                self._db.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
                self._is_syncing = synced
            # One statement: it begins with the write lock, or not at all.
            letter_id = self._db.execute(STATEMENTS["post_letter"], (sender, event)).lastrowid
        ring(bell_of(self.path))
        return letter_id or 0

    def answer(self, letter_id: int) -> str | None:
        """The answer to a letter, None as long as there is none. Raises StoreError."""
        with explained(self.path):
            row = self._db.execute(STATEMENTS["letter_answer"], {"id": letter_id}).fetchone()
        if row is None:
            raise StoreError(
                f"{self.path}: the answer was given, and is kept no longer: see what became of it"
            )
        answer: str | None = row[0]
        return answer

    def mail(self, worker: str, after: int) -> Sequence[tuple[int, str]]:
        """What a worker was told after ``after``: ids and texts, in order. Raises StoreError."""
        with explained(self.path):
            values = {"worker": worker, "after": after, "limit": LETTERS}
            rows = named(self._db.execute(STATEMENTS["mail"], values))
            return [(row.id, row.text) for row in rows]

    def is_listed(self, worker: str) -> bool:
        """Whether a worker is known; not, if others took it for dead. Raises StoreError."""
        with explained(self.path):
            rows = named(self._db.execute(STATEMENTS["workers"]))
            return any(row.id == worker for row in rows)

    def has_changed(self) -> bool:
        """Whether anyone has committed anything since this was last asked; at first, yes."""
        with explained(self.path):
            (version,) = self._db.execute("PRAGMA data_version").fetchone()
        before, self._seen = self._seen, version
        return bool(before != version)

    def look_again(self) -> None:
        """Have :meth:`has_changed` say yes once more: what it led to came to nothing."""
        self._seen = None

    def waiting(self, after: int = 0) -> Sequence[Letter]:
        """Letters without an answer, oldest first, of those that came after letter ``after``.

        Raises StoreTakenOver if it is another leader's to take them.
        """
        with explained(self.path):
            if self._epoch is not None:
                assert_epoch(self._db, self.path, self._epoch)
            rows = named(
                self._db.execute(STATEMENTS["letters"], {"after": after, "limit": LETTERS})
            )
            return [Letter(row.id, row.sender, row.event) for row in rows]

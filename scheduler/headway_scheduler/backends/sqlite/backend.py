"""SQLite as a backend: one file on a local disk, with lock files and pipes beside it."""

from pathlib import Path

from ...ports import Leadership, Mailbox, Maintenance, Notifier, Store, WorkerRegistry
from .leadership import SqliteLeadership
from .mailbox import SqliteMailbox
from .maintenance import SqliteMaintenance
from .notifier import SqliteNotifier
from .store import SqliteStore
from .worker_files import WorkerFiles


class SqliteBackend:
    """The database in the file at ``path``."""

    def __init__(self, path: Path) -> None:
        # Resolved: two names of one file must not have two locks.
        self._path = path.resolve()
        self._readers: dict[str, SqliteMailbox] = {}

    @property
    def name(self) -> str:
        """The path."""
        return str(self._path)

    def reader(self) -> Store:
        """The journal, to be read."""
        return SqliteStore(self._path, read_only=True)

    def leadership(self) -> Leadership:
        """Who leads, and how to."""
        return SqliteLeadership(self._path)

    def workers(self) -> WorkerRegistry:
        """Which workers are alive."""
        return WorkerFiles(self._path)

    def mailbox(self, epoch: int | None = None) -> Mailbox:
        """Requests and notifications."""
        return SqliteMailbox(self._path, epoch, self._readers)

    def notifier(self, owner: str) -> Notifier:
        """Rings for ``owner``, and reads ahead for the mailbox that reads for it."""
        return SqliteNotifier(self._path, owner, self._read_ahead)

    def maintenance(self) -> Maintenance:
        """The file as a thing to look after."""
        return SqliteMaintenance(self._path)

    def _read_ahead(self, owner: str) -> bool:
        # Called in the listener's thread. Without a mailbox nothing can be read, so look yourself.
        mailbox = self._readers.get(owner)
        return mailbox is None or mailbox.read_ahead(owner)

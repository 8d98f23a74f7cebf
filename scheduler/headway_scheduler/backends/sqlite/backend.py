"""SQLite as a backend: one file on a local disk, with lock files and pipes beside it."""

from pathlib import Path

from ...ports import History, Leadership, Mailbox, Maintenance, Notifier, Store, WorkerRegistry
from .leadership import SqliteLeadership
from .mailbox import SqliteMailbox
from .maintenance import SqliteMaintenance
from .notifier import SqliteNotifier
from .reads import OpenedFile
from .store import SqliteStore
from .worker_files import WorkerFiles


class SqliteBackend:
    """The database in the file at ``path``."""

    def __init__(self, path: Path) -> None:
        # Resolved: two names of one file must not have two locks.
        self._path = path.resolve()
        self._file = OpenedFile(self._path)
        self._readers: dict[str, SqliteMailbox] = {}

    @property
    def name(self) -> str:
        """The path."""
        return str(self._path)

    def reader(self) -> Store:
        """Return the journal for reading."""
        return SqliteStore(self._path, read_only=True, file=self._file)

    def history(self) -> History:
        """Return what is asked about the past."""
        return SqliteStore(self._path, read_only=True, file=self._file)

    def leadership(self) -> Leadership:
        """Return a watcher of the leader."""
        return SqliteLeadership(self._path, self._file)

    def workers(self) -> WorkerRegistry:
        """Return a watcher of the workers."""
        return WorkerFiles(self._path)

    def mailbox(self, epoch: int | None = None) -> Mailbox:
        """Return requests and notifications."""
        return SqliteMailbox(self._path, epoch, self._readers, self._file)

    def notifier(self, owner: str) -> Notifier:
        """Return what rings for ``owner``, and reads ahead for the owner's mailbox."""
        return SqliteNotifier(self._path, owner, self._read_ahead, self._file)

    def maintenance(self) -> Maintenance:
        """Return the means to check, copy, shrink and migrate the file."""
        return SqliteMaintenance(self._path)

    def _read_ahead(self, owner: str) -> bool:
        # Called in the listener's thread. Without a mailbox nothing can be read ahead: say that
        # there may be something, so that the owner looks itself.
        mailbox = self._readers.get(owner)
        return mailbox is None or mailbox.read_ahead(owner)

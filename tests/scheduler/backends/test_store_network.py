"""The SQLite store refuses network file systems."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headway_scheduler.backends.sqlite import network
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.errors import StoreError, StoreOnNetwork
from headway_scheduler.model.batch import Batch

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "headway.db"


def on_disk(folder: Path) -> dict[str, bytes]:
    """All names below ``folder`` with their bytes."""
    return {
        str(file.relative_to(folder)): b"" if file.is_dir() else file.read_bytes()
        for file in sorted(folder.rglob("*"))
    }


@contextmanager
def refused(path: Path, kind: type[StoreError], words: str) -> Iterator[None]:
    """The block raises ``kind``, in one line that names the file, and leaves the disk as it was."""
    before = on_disk(path.parent)
    with pytest.raises(kind, match=words) as caught:
        yield
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert on_disk(path.parent) == before


async def make(path: Path, *batches: Batch, read_only: bool = False) -> None:
    """Open and close; what opens against expectation must not stay open."""
    async with SqliteStore(path, read_only=read_only) as made:
        for each in batches:
            await made.commit(each)


# Network file systems

MOUNTS = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw
40 27 0:35 / /home rw,relatime shared:20 - nfs4 server:/home rw,vers=4.2
41 40 0:36 / /home/me/local\040disk rw - xfs /dev/vdb rw
42 27 0:37 / /mnt/share rw - cifs //server/share rw
43 27 0:38 / /mnt/over rw - ext4 /dev/vdc rw
44 27 0:39 / /mnt/over rw - fuse.sshfs me@host: rw
a line that means nothing
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    {
        "/var/lib/headway.db": "ext4",
        "/home/me/headway.db": "nfs4",
        "/home/me/local disk/headway.db": "xfs",
        "/homework/headway.db": "ext4",
        "/mnt/share/headway.db": "cifs",
        "/mnt/over/headway.db": "fuse.sshfs",
    }.items(),
)
async def test_a_path_lies_on_its_longest_mount(path: str, kind: str) -> None:
    assert network.file_system(Path(path), MOUNTS) == kind


async def test_without_mounts_nothing_is_known() -> None:
    assert network.file_system(Path("/x"), "") is None


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs", "ceph"])
async def test_a_network_file_system_is_refused(
    path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = path.with_name("mountinfo")
    mounts.write_text(f"27 1 0:1 / / rw - {kind} server:/ rw\n")
    monkeypatch.setattr(network, "_MOUNTS", mounts)
    for read_only in (False, True):
        with refused(path, StoreOnNetwork, rf"network file system \({kind}\).* use a local disk"):
            await make(path, read_only=read_only)


async def test_a_system_without_a_list_of_mounts_is_not_checked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "_MOUNTS", path.with_name("nowhere"))
    await make(path)

"""Refuses files on network file systems, where SQLite's locks and shared memory do not hold."""

from pathlib import Path

from ...errors import StoreOnNetwork

_MOUNTS = Path("/proc/self/mountinfo")

# fmt: off
_NETWORK = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse.cephfs", "fuse.glusterfs",
    "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs",
    "nfs4", "orangefs", "pvfs2", "smb2", "smb3", "smbfs",
})
# fmt: on


def refuse_network(path: Path) -> None:
    """Raise StoreOnNetwork if ``path`` lies on a network file system.

    Only Linux tells (``/proc/self/mountinfo``); on other systems nothing is checked.
    """
    try:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return
    kind = file_system(path, mounts)
    if kind in _NETWORK:
        raise StoreOnNetwork(
            f"{path}: lies on a network file system ({kind}), where SQLite's locks do not hold: "
            "use a local disk"
        )


def file_system(path: Path, mountinfo: str) -> str | None:
    """Return the type of the file system with the absolute ``path``, as proc(5) lists mounts."""
    found, depth = None, 0
    for line in mountinfo.splitlines():
        # Any number of optional fields stands before the " - ".
        place, _, source = line.partition(" - ")
        fields, kind = place.split(" "), source.partition(" ")[0]
        if len(fields) < 6 or not kind:
            continue
        mount = Path(_unescape(fields[4]))
        # Of two mounts on one folder, the later one lies on top.
        if path.is_relative_to(mount) and len(mount.parts) >= depth:
            found, depth = kind, len(mount.parts)
    return found


def _unescape(field: str) -> str:
    for octal, character in (("040", " "), ("011", "\t"), ("012", "\n"), ("134", "\\")):
        field = field.replace(f"\\{octal}", character)
    return field

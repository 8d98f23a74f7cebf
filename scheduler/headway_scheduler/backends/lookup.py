"""Finds runs and prompts by what people write, in the same way in every store."""

from collections.abc import Sequence

from ..errors import RunNotFound
from ..model.runs import Run

CANDIDATES = 5
"""How many runs the error about an ambiguous start of an id names."""


def only_run(prefix: str, found: Sequence[Run]) -> Run | None:
    """Pick from the first ``CANDIDATES + 1`` runs that start with ``prefix``, ordered by id.

    The exact id wins. Raises RunNotFound if several are left.
    """
    if len(found) > 1 and found[0].id != prefix:
        names = ", ".join(run.id for run in found[:CANDIDATES])
        more = ", …" if len(found) > CANDIDATES else ""
        raise RunNotFound(
            f"{prefix!r} is the start of several runs: {names}{more}: write more of it"
        )
    return found[0] if found else None


def node_hash(request_hash: str) -> bytes:
    """Return the hash of a request's last chain node; an empty one for a text that is no hash."""
    try:
        return bytes.fromhex(request_hash)
    except ValueError:
        return b""

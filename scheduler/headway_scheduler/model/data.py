"""The base of what is stored and what processes tell each other."""

from msgspec import Struct, field
from msgspec.structs import asdict, astuple, replace

__all__ = ["Data", "asdict", "astuple", "field", "replace"]


class Data(Struct, frozen=True, omit_defaults=True, gc=False):
    """Values with names that do not change. What has its default is left out of its text.

    Data is a tree and never refers back to what holds it, so the garbage collector need not look at
    it: with 100,000 calls that wait, that look would cost more than the calls.
    """

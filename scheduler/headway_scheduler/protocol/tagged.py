"""The base of everything that processes say to each other. Law: data only."""

from typing import ClassVar

from msgspec import Struct


class Tagged(Struct, frozen=True, gc=False):
    """Said with the name of its class as ``type``, by which its reader knows it."""

    type: ClassVar[str]

    def __init_subclass__(cls) -> None:
        cls.type = cls.__name__

"""Objects that no wall has checked: as another version of Headway could have made them."""

from typing import Any, TypeVar

from msgspec import Struct, structs

T = TypeVar("T", bound=Struct)


def unchecked(kind: type[T], **fields: Any) -> T:
    """Make frozen data of a class without its check; ``fields`` are all whole numbers."""
    made = kind(**dict.fromkeys(fields, 0))
    for name, value in fields.items():
        structs.force_setattr(made, name, value)
    return made

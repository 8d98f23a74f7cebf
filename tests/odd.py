"""Objects that no wall has checked: as another version of Headway could have made them."""

import dataclasses
from typing import Any, TypeVar, cast

T = TypeVar("T")


def unchecked(kind: type[T], **fields: Any) -> T:
    """Make a frozen dataclass of a class without its check."""
    made: Any = object.__new__(kind)
    known = {each.name: each.default for each in dataclasses.fields(made)}
    for name, value in {**known, **fields}.items():
        object.__setattr__(made, name, value)
    return cast(T, made)

"""The part of a bucket that one call holds. Law of this file: data only."""

from msgspec import Struct


class Reservation(Struct, eq=False, gc=False):
    """The part of a bucket that one call holds. Amounts are in the resource's unit."""

    amount: float
    """The amount that is reserved for the call."""
    charge_at: float | None
    """When it becomes a charge; epoch seconds. None where nothing is ever charged, and until the
    request was sent."""
    charged: bool = False
    """Whether it was charged to the fill, instead of counting as reserved."""
    settled: bool = False
    """Whether its attempt has ended."""
    room: float = 0.0
    """The most that can come back of it once it is charged."""
    after: float | None = None
    """The available amount when it was sent, without its own, less the amounts reserved for other
    calls until it became a charge: those may have arrived before it. None: its answer is not
    compared."""
    level: float | None = None
    """The available amount when it was sent, without its own. None: it was not sent from here."""
    lost: float = 0.0
    """The sum of all that the bucket had lost by then."""
    unbounded: bool = False
    """Whether it is of money, and the call may cost more."""

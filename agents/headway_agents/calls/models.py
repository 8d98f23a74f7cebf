"""Models as workflows name them, and who answers for them. Data only."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from autogen_core.models import ChatCompletionClient

from headway_scheduler.model.calls import Charge, Priority, Served, ServiceLane, Usage
from headway_scheduler.providers import OTHER, Provider

Origin = tuple[str, str, int | None]
"""Scheme, host and port of a server; no port for the scheme's own. A key that belongs to a server
goes to no other."""

Price = Callable[[Usage], float]
"""Dollars for usage."""

ChargeOf = Callable[[Served, float], Charge]
"""Charges an answer: takes its Served, and when it was asked for, in epoch seconds."""


@dataclass(frozen=True, slots=True)
class CallLimits:
    """The limits of one attempt at a call: its seconds, and the size of its answer.

    Named as the settings of ``models.NAME``, which have the same defaults. A shorter time of the
    client's own holds.
    """

    max_answer_mb: int = 32
    """MiB of an answer, packed and unpacked."""
    connect_timeout: float = 10.0
    """Seconds to connect."""
    first_byte_timeout: float = 600.0
    """Seconds from the request to the head of the answer: as in OpenAI's and Anthropic's SDKs."""
    idle_timeout: float = 300.0
    """Seconds without a chunk of a body, or a whole line of a stream."""
    call_timeout: float = 1_800.0
    """Seconds for all of it."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the configuration: its name in workflows, and the quotas that its calls draw on.

    ``idempotency_header``: its name, if the server knows one; it carries the call's id, the same at
    every attempt. ``price``: dollars for usage, asked where a quota of this model (``counts_usd``)
    or of the run is of dollars; ``write_price``: the same with all input written to the provider's
    cache; ``charge_of``: what an answer cost, None if none has a price. ``provider``: how calls are
    charged and answers read; None: as the class of the client tells. ``limits``: what one attempt
    may take. ``address``: that of its server; None if no client of it shows one. ``lane``: by which
    it is asked; a model with several lanes is a Model for each. Only calls that stand in one of
    ``classes`` go by it; empty for any. ``patience``: how many seconds a server that answers nobody
    is waited for; None: as ``calls/first_contact.py`` says.
    """

    name: str
    quotas: tuple[str, ...]
    idempotency_header: str | None = None
    price: Price | None = None
    provider: Provider | None = None
    counts_usd: bool = False
    limits: CallLimits = CallLimits()
    write_price: Price | None = None
    charge_of: ChargeOf | None = None
    address: str | None = None
    lane: ServiceLane = ServiceLane.STANDARD
    classes: tuple[Priority, ...] = ()
    patience: float | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that a call may go to.

    ``provider`` says how it charges and what its answers mean. ``client`` sends, None where that is
    OpenAI's SDK. ``rank`` as of a Route: 0 is as good as the model that was asked for. ``origins``:
    the servers that it may ask, empty if the client shows none. ``stated``: what the client's user
    has it add to every request, as it is later too.
    """

    model: Model
    provider: Provider
    client: ChatCompletionClient | None = None
    rank: int = 0
    origins: frozenset[Origin] = frozenset()
    stated: Mapping[str, Any] = field(default_factory=dict[str, Any])


NO_CANDIDATE = Candidate(Model("", ()), OTHER)
"""Where a step goes: to no model."""

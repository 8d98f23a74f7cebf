"""Prices answers. Law: an unknown price is unknown, never 0, and nothing is fetched.

The first of these that applies: the prices that the configuration states; 0 for a server of the
user's own (``provider = "local"``); the list price (genai-prices) of the seller at the model's
address, at the time of the request, in the tier that the answer names.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from headway_scheduler.errors import CallerError
from headway_scheduler.model.calls import (
    UNPRICED,
    CallRecord,
    Charge,
    Served,
    ServiceLane,
    Usage,
)
from headway_scheduler.model.data import replace

from ..config import Config, ModelConfig
from ..paired_keys import is_loopback
from ..reached import Reached, of_model

if TYPE_CHECKING:
    import genai_prices.types

_MILLION = 1_000_000
FREE = Charge(0.0, "local")
"""The charge of each answer of a server of the user's own."""
_SELLERS = {
    **{"openai": "openai", "azure": "azure", "anthropic": "anthropic"},
    **{"gemini": "google", "bedrock": "aws"},
}
"""By provider: the seller at its own address, as genai-prices names it."""
_STANDARD = frozenset({"auto", "default", "standard"})
"""Service tiers that have the model's ordinary price."""


class Prices:
    """Prices usage of what a client reached; of a row, by the model's name in the configuration."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def charge(self, model: str, served: Served, at: float) -> Charge:
        """Return the charge of an answer. ``at``: when it was asked for, in epoch seconds."""
        return charge(of_model(self.config, model), served, at)

    def cost(self, model: str, usage: Usage, at: float) -> float | None:
        """Return the dollars for ``usage`` in the model's standard tier; None without a price."""
        return self.charge(model, Served(usage), at).usd

    def usd_of(self, record: CallRecord) -> float | None:
        """Return the dollars of a call with a usage; None for an unknown price.

        Rows from before charges were kept are priced as of the call's end.
        """
        if record.usd_source is not None or record.usage is None:
            return record.usd
        return self.cost(record.call.model, record.usage, record.finished_at or 0.0)

    def saved(self, model: str, usage: Usage, at: float) -> float:
        """Return how many dollars less ``usage`` cost because of the provider's cache."""
        if not usage.cache_read_tokens:
            return 0.0
        less, full = self.cost(model, usage, at), self.cost(model, _uncached(usage), at)
        return 0.0 if less is None or full is None else full - less


def charge_of(
    reached: Reached, share: float | None = None
) -> Callable[[Served, float], Charge] | None:
    """Return the function that charges an answer; None if no answer of the model has a price.

    It takes what the answer tells of itself, and when it was asked for, in epoch seconds.
    ``share``: as of :func:`charge`.
    """
    if not (_is_stated(reached.settings) or reached.provider == "local"):
        seller = _seller(reached)
        # A deployment may have any name: its answers tell which model it is.
        if seller is None or (seller != "azure" and _listed(seller, reached.name) is None):
            return None
    return partial(charge, reached, share=share)


def charge(reached: Reached, served: Served, at: float, *, share: float | None = None) -> Charge:
    """Return the charge of an answer. ``at``: when it was asked for, in epoch seconds.

    ``share``: of the standard price, for an answer by batch, which names no tier that is billed.
    """
    if share is not None:
        standard = charge(reached, replace(served, tier=None), at)
        if standard.usd is None:
            return standard
        return Charge(standard.usd * share, f"{standard.source} by batch")
    usage = served.usage
    if usage is None:
        return UNPRICED
    if _is_stated(reached.settings):
        return Charge(_stated(reached.settings, usage), "stated")
    if reached.provider == "local":
        return FREE
    return _list_charge(reached, served, usage, at)


def stated_cost(
    reached: Reached,
    usage: Usage,
    *,
    lane: ServiceLane = ServiceLane.STANDARD,
    share: float | None = None,
) -> float:
    """Return the dollars to reserve for ``usage`` by a lane: the most that it may be billed.

    A provider may serve a call by the standard lane all the same, so one by flex reserves as much
    as by that. Raises CallerError without a price.
    """
    usd = _cost_now(reached, usage, lane, share)
    if usd is None:
        raise CallerError(
            f"dollars are limited for model {reached.model!r} (a quota of it, or the budget of the "
            "run), and no price is known for it: "
            f"state usd_per_million_input_tokens and usd_per_million_output_tokens in "
            f'[models."{reached.model}"]'
        )
    return usd


def write_cost(
    reached: Reached,
    usage: Usage,
    *,
    lane: ServiceLane = ServiceLane.STANDARD,
    share: float | None = None,
) -> float:
    """Return the dollars for ``usage`` if all its input is written to the provider's cache.

    0 without a price.
    """
    written = replace(_uncached(usage), cache_write_tokens=usage.input_tokens)
    return _cost_now(reached, written, lane, share) or 0.0


def _cost_now(
    reached: Reached, usage: Usage, lane: ServiceLane, share: float | None
) -> float | None:
    tier = lane.value if lane is ServiceLane.PRIORITY else None
    now = datetime.now(UTC).timestamp()
    return charge(reached, Served(usage, tier), now, share=share).usd


def _uncached(usage: Usage) -> Usage:
    return replace(usage, cache_read_tokens=0)


# Stated


def _is_stated(model: ModelConfig) -> bool:
    prices = (model.usd_per_million_input_tokens, model.usd_per_million_output_tokens)
    return None not in prices or model.usd_per_request is not None


def _stated(model: ModelConfig, usage: Usage) -> float:
    given = model.usd_per_million_input_tokens or 0.0
    made = model.usd_per_million_output_tokens or 0.0
    read = model.usd_per_million_cached_input_tokens
    written = model.usd_per_million_cache_write_tokens
    plain = usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens
    usd = plain * given + usage.output_tokens * made
    usd += usage.cache_read_tokens * (given if read is None else read)
    usd += usage.cache_write_tokens * (given if written is None else written)
    return usd / _MILLION + (model.usd_per_request or 0.0)


# Listed


def _seller(reached: Reached) -> str | None:
    """Return the seller at an address, as genai-prices names it; None if it lists none.

    Where no address shows, the seller is the provider's own.
    """
    if reached.address is None:
        return _SELLERS.get(reached.provider)
    if is_loopback(reached.address):
        return None
    from genai_prices.data_snapshot import get_snapshot  # takes a fifth of a second

    try:
        seller = get_snapshot().find_provider(None, None, reached.address)
    except LookupError:
        return None
    return seller.id if _is_whole_host(seller.api_pattern, reached.address) else None


def _is_whole_host(pattern: str, address: str) -> bool:
    """Whether a seller's pattern, which states how addresses begin, is about all of a host.

    ``https://api.openai.com.example.org`` begins as an address of OpenAI does.
    """
    if (found := re.match(pattern, address)) is None:
        return False
    if found[0].endswith("/"):
        return True
    rest = re.split("[/:]", address[found.end() :], maxsplit=1)[0]
    # Some patterns leave the last part of the host open: https://api.moonshot.
    return not rest or (found[0].endswith(".") and "." not in rest)


@lru_cache(maxsize=1024)
def _listed(seller: str, name: str) -> "genai_prices.types.ModelInfo | None":
    """Return a model on a seller's list, by a name that the seller knows; None if it has none."""
    from genai_prices.data_snapshot import get_snapshot

    try:
        return get_snapshot().find_provider_model(name, None, seller, None)[1]
    except LookupError:
        return None


def _list_charge(reached: Reached, served: Served, usage: Usage, at: float) -> Charge:
    import genai_prices

    listed, when, conditions = _listed_of(reached, served), datetime.fromtimestamp(at, UTC), None
    if listed is None:
        return UNPRICED
    tier = "standard" if served.tier is None else served.tier.lower()
    if tier not in _STANDARD:
        conditions = _conditions_of(tier, listed, when)
        if conditions is None:  # the list would give the price of the standard tier
            return UNPRICED
    prices = listed.get_prices(when, conditions)
    parts = {name: value for name, value in usage.parts().items() if name != "has_odd_parts"}
    tokens = genai_prices.Usage(
        input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, **parts
    )
    usd = float(prices.calc_price(tokens)["total_price"])
    bound = " at most" if usage.has_odd_parts else ""
    return Charge(usd, f"list {genai_prices.__version__}{bound}")


def _listed_of(reached: Reached, served: Served) -> "genai_prices.types.ModelInfo | None":
    """Return a model on its seller's list, by the name that was sent, else that of its answer."""
    seller = _seller(reached)
    if seller is None:
        return None
    names = (name for name in (reached.name, served.model) if name is not None)
    found = (_listed(seller, name) for name in names)
    return next((each for each in found if each is not None), None)


def _conditions_of(
    tier: str, listed: "genai_prices.types.ModelInfo", when: datetime
) -> Mapping[str, Any] | None:
    """Return the conditions of the price that a tier had at ``when``; None if it had none."""
    found = [
        variant.when
        for variant in listed.price_variants or ()
        if variant.when.get("service_tier") == tier
        and (variant.constraint is None or variant.constraint.active(when))
    ]
    return found[-1] if found else None

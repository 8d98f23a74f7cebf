"""Prices calls. Law: an unknown price is unknown, never 0, and nothing is fetched."""

from headway_scheduler.errors import CallerError
from headway_scheduler.model.calls import Usage

from ..config import Config, ModelConfig

_MILLION = 1_000_000


class Prices:
    """Knows dollars by model: stated in the configuration, else the list price of genai-prices."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def cost(self, model: str, usage: Usage) -> float | None:
        """Return dollars for ``usage`` of a model, by its name here; None without a known price."""
        configured = self._config.model(model)
        stated = _stated(configured, usage)
        return _listed(configured.name, usage) if stated is None else stated

    def stated_cost(self, model: str, usage: Usage) -> float:
        """As :meth:`cost`. Raises CallerError if no price is known."""
        usd = self.cost(model, usage)
        if usd is None:
            raise CallerError(
                f"dollars are limited for model {model!r} (a quota of it, or the budget of the "
                "run), and no price is known for it: "
                f"state usd_per_million_input_tokens and usd_per_million_output_tokens in "
                f"[models.{model}]"
            )
        return usd

    def write_cost(self, model: str, usage: Usage) -> float:
        """As :meth:`cost`, with all input written to the provider's cache; 0 if that is unknown."""
        configured = self._config.model(model)
        if _stated(configured, usage) is not None:
            return 0.0
        return _listed(configured.name, usage, written=usage.input_tokens) or 0.0


def _stated(model: ModelConfig, usage: Usage) -> float | None:
    prices = (model.usd_per_million_input_tokens, model.usd_per_million_output_tokens)
    if prices[0] is None or prices[1] is None:
        return None
    return (usage.input_tokens * prices[0] + usage.output_tokens * prices[1]) / _MILLION


def _listed(name: str, usage: Usage, written: int = 0) -> float | None:
    import genai_prices  # takes a fifth of a second

    tokens = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_write_tokens=written or None,
    )
    try:
        return float(genai_prices.calc_price(tokens, model_ref=name).total_price)
    except LookupError:
        return None

"""The price of an answer, against the list itself."""

from datetime import UTC, datetime
from pathlib import Path

import genai_prices
import pytest

from headway.config import load
from headway.pricing.prices import Prices, charge_of
from headway.reached import of_model
from headway_scheduler.model.calls import UNPRICED, Charge, Served, Usage

CONFIG = """
[quotas.q]
requests_per_minute = 6000
[models.stated]
usd_per_million_input_tokens = 2
usd_per_million_output_tokens = 10
usd_per_million_cached_input_tokens = 0.5
usd_per_million_cache_write_tokens = 4
usd_per_request = 1
[models.flat]
usd_per_request = 0.25
[models.own]
provider = "local"
name = "gpt-4o"
base_url = "http://127.0.0.1:1/v1"
[models.here]
name = "gpt-4o"
base_url = "http://127.0.0.1:1/v1"
[models.nobodys]
name = "gpt-4o"
base_url = "https://llm.example.com/v1"
[models.nearly]
name = "gpt-4o"
base_url = "https://api.openai.com.example.org/v1"
[models.router]
name = "openai/gpt-4o"
base_url = "https://openrouter.ai/api/v1"
[models."my deployment"]
provider = "azure"
base_url = "https://me.openai.azure.com"
[models.deepseek-chat]
base_url = "https://api.deepseek.com"
[models."claude-sonnet-4-5"]
provider = "anthropic"
[models."gemini-2.5-pro"]
provider = "gemini"
"""
AT = datetime(2026, 11, 1, 12, tzinfo=UTC).timestamp()
EARLIER = datetime(2026, 6, 1, 12, tzinfo=UTC).timestamp()
CACHED = Usage(12_000, 300, cache_read_tokens=11_000)


@pytest.fixture
def prices(tmp_path: Path) -> Prices:
    (tmp_path / "headway.toml").write_text(CONFIG)
    return Prices(load(tmp_path / "headway.toml"))


def listed(provider: str, name: str, usage: Usage, at: float = AT) -> float:
    parts = {part: value for part, value in usage.parts().items() if part != "has_odd_parts"}
    tokens = genai_prices.Usage(
        input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, **parts
    )
    when = datetime.fromtimestamp(at, UTC)
    found = genai_prices.calc_price(
        tokens, name, provider_id=provider, genai_request_timestamp=when
    )
    return float(found.total_price)


@pytest.mark.parametrize(
    ("model", "seller", "name"),
    [
        ("gpt-5.4", "openai", "gpt-5.4"),
        ("gpt-4o", "openai", "gpt-4o"),
        ("claude-sonnet-4-5", "anthropic", "claude-sonnet-4-5"),
        ("gemini-2.5-pro", "google", "gemini-2.5-pro"),
        ("router", "openrouter", "openai/gpt-4o"),
        ("deepseek-chat", "deepseek", "deepseek-chat"),
    ],
)
@pytest.mark.parametrize(
    "usage",
    [
        Usage(12_000, 300),
        CACHED,
        Usage(500_000, 300, cache_read_tokens=400_000),
        Usage(12_000, 300, output_reasoning_tokens=200),
        Usage(3_000, 10, cache_read_tokens=1_000, cache_write_tokens=1_500),
    ],
)
def test_an_answer_costs_what_the_list_says(
    prices: Prices, model: str, seller: str, name: str, usage: Usage
) -> None:
    charge = prices.charge(model, Served(usage), AT)
    assert charge.usd == pytest.approx(listed(seller, name, usage))
    assert charge.source == f"list {genai_prices.__version__}"


def test_cached_input_is_not_priced_in_full(prices: Prices) -> None:
    full, less = (prices.cost("gpt-5.4", usage, AT) for usage in (Usage(12_000, 300), CACHED))
    assert full is not None
    assert less is not None
    assert less < 0.4 * full
    assert prices.saved("gpt-5.4", CACHED, AT) == pytest.approx(full - less)
    assert prices.saved("gpt-5.4", Usage(12_000, 300), AT) == 0


def test_a_stated_price_goes_before_the_list(prices: Prices) -> None:
    usage = Usage(1_000_000, 100_000, cache_read_tokens=500_000, cache_write_tokens=100_000)
    charge = prices.charge("stated", Served(usage), AT)
    assert charge == Charge(pytest.approx(0.8 + 0.25 + 0.4 + 1 + 1), "stated")
    assert prices.charge("flat", Served(usage), AT) == Charge(0.25, "stated")


def test_the_seller_is_the_one_at_the_address(prices: Prices) -> None:
    assert prices.charge("own", Served(CACHED), AT) == Charge(0.0, "local")
    for model in ("here", "nobodys", "nearly"):
        assert prices.charge(model, Served(CACHED), AT) == UNPRICED
        assert charge_of(of_model(prices.config, model)) is None
    assert charge_of(of_model(prices.config, "own")) is not None
    assert charge_of(of_model(prices.config, "gpt-4o")) is not None


def test_a_deployment_is_priced_as_the_model_that_answers(prices: Prices) -> None:
    assert prices.charge("my deployment", Served(CACHED), AT) == UNPRICED
    charge = prices.charge("my deployment", Served(CACHED, None, "gpt-4o-2024-08-06"), AT)
    assert charge.usd == pytest.approx(listed("azure", "gpt-4o-2024-08-06", CACHED))


def test_the_tier_is_the_one_that_the_answer_names(prices: Prices) -> None:
    def usd(tier: str | None) -> float | None:
        return prices.charge("gpt-5.4", Served(CACHED, tier), AT).usd

    standard = usd(None)
    assert standard is not None
    assert usd("default") == usd("auto") == usd("standard") == standard
    assert usd("flex") == pytest.approx(standard / 2, rel=0.02)
    priority = usd("priority")
    assert priority is not None
    assert priority > 1.5 * standard
    assert usd("warp") is None
    # Before the list had it, the price of the tier is unknown, not the standard one.
    assert prices.charge("gpt-5.4", Served(CACHED, "flex"), EARLIER) == UNPRICED
    assert prices.charge("gpt-4o", Served(CACHED, "flex"), AT) == UNPRICED  # it has none


def test_odd_parts_make_the_price_a_bound(prices: Prices) -> None:
    charge = prices.charge("gpt-5.4", Served(Usage(12_000, 300, has_odd_parts=True)), AT)
    assert charge.usd == prices.cost("gpt-5.4", Usage(12_000, 300), AT)
    assert charge.source.endswith("at most")


def test_no_usage_has_no_price(prices: Prices) -> None:
    assert prices.charge("stated", Served(), AT) == UNPRICED

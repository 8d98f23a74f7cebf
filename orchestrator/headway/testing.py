"""Opens a Headway that needs no key: a simulated provider in this process answers its models.

For tests, examples, the demo and benchmarks. Law of this file: it reads nothing of the user's (no
headway.toml, no HEADWAY_* variable, no key) and leaves nothing behind (no database).
"""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from headway_scheduler.errors import CallerError
from headway_scheduler.testing.provider import (
    FaultSchedule,
    Latency,
    Limits,
    ReplyFunction,
    Settings,
    SimulatedProvider,
    simulated_provider,
)

from .api import Headway
from .config import Config, load

MODEL = "sim"
"""The configured model. Other names lead to the same provider, on the same quota."""

QUOTA = "small"
"""The name of the only quota. It has the limits of the provider."""

_ROOMY = Limits(requests_per_minute=6000, tokens_per_minute=1_000_000, concurrency=32)


class SimulatedHeadway(Headway):
    """A Headway with its simulated provider: ``provider.ledger`` has every request."""

    def __init__(self, config: Config, provider: SimulatedProvider) -> None:
        super().__init__(config)
        self.provider = provider
        self.workflows.only_server = provider.base_url


@asynccontextmanager
async def simulated_headway(
    limits: Limits | None = None,
    *,
    latency_seconds: float = 0.0,
    reply: ReplyFunction | None = None,
    faults: FaultSchedule | None = None,
    usd_per_million: float | None = None,
) -> AsyncIterator[SimulatedHeadway]:
    """Open a Headway on a temporary database, with a simulated provider behind model ``sim``.

    ``limits`` are the provider's and the quota's; by default there is room for any call.
    ``latency_seconds``: how long each answer takes. ``reply``: returns the text of an answer to a
    request; None leaves it to the provider, and an error fails the call. ``faults``: gets the
    request's number, from 1, and its body, and returns what goes wrong. ``usd_per_million``: the
    price of tokens, input and output alike, which runs with a budget need. While it is open,
    OPENAI_BASE_URL and OPENAI_API_KEY lead to the provider, so that clients of component files
    never reach a real account. Raises CallerError for a ``reply`` that is no function.
    """
    if reply is not None and not callable(reply):
        raise CallerError(
            f"reply must be a function of the request, such as lambda request: {reply!r:.100}"
        )
    limits = limits or _ROOMY
    latency = Latency(latency_seconds)
    settings = Settings(limits=limits, latency=latency, reply=reply, faults=faults)
    async with simulated_provider(settings) as provider:
        address = {"OPENAI_BASE_URL": provider.base_url, "OPENAI_API_KEY": "not-a-key"}
        with TemporaryDirectory(prefix="headway-") as folder, _environment(address):
            config = _config(Path(folder), limits, provider.base_url, usd_per_million)
            async with SimulatedHeadway(config, provider) as headway:
                yield headway


def _config(folder: Path, limits: Limits, base_url: str, usd_per_million: float | None) -> Config:
    price = "" if usd_per_million is None else f"usd_per_million_{{}}_tokens = {usd_per_million}"
    stated = {
        "requests_per_minute": limits.requests_per_minute,
        "tokens_per_minute": limits.tokens_per_minute,
        "concurrency": limits.concurrency,
        "burst_seconds": limits.burst_seconds,
    }
    file = folder / "headway.toml"
    file.write_text(
        f"""
[database]
path = "headway.db"
[defaults]
model = "{MODEL}"
[models.{MODEL}]
base_url = "{base_url}"
quotas = ["{QUOTA}"]
{price.format("input")}
{price.format("output")}
[quotas.{QUOTA}]
"""
        + "\n".join(f"{name} = {value}" for name, value in stated.items() if value is not None)
    )
    return load(file, environ={})


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables of this process, and put back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

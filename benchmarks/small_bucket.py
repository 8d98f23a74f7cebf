"""How much of a small bucket is used: 600 requests a minute, of which one second may pile up.

    python -m benchmarks.small_bucket [--seconds 60]

Four contenders at once, each against a simulated provider of its own that answers in 0.8 s: Headway
with the provider's headers and without, a paced priority queue (one request each 0.1 s, the most
urgent first), and aiolimiter, if it is installed. Each has 60 callers who ask again and again, 15
of them interactive. The ledgers of the providers say what was let through and what was refused.
The bar of Headway: 0.97 of what the bucket gives, and no refusal.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from statistics import median

import anyio
import openai
from autogen_core.models import UserMessage

from headway import Headway
from headway.config import load
from headway_scheduler.testing.provider import Latency, Ledger, Limits, Settings, simulated_provider

PER_MINUTE, BURST_SECONDS = 600, 1
CALLERS, INTERACTIVE = 60, 15
BAR = 0.97
SETTINGS = Settings(
    Limits(requests_per_minute=PER_MINUTE, burst_seconds=BURST_SECONDS), Latency(0.8)
)
Ask = Callable[[bool], Awaitable[object]]
"""Makes one call, urgent or not."""


@dataclass
class Contender:
    """One of those who share the machine."""

    name: str
    ledger: Ledger
    ask: Ask
    waits: list[float] = field(default_factory=list[float])
    """Seconds from question to answer, of the interactive callers."""
    failed: int = 0


async def headway_client(stack: AsyncExitStack, base_url: str, provider: str) -> Ask:
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    file = Path(folder) / "headway.toml"
    file.write_text(
        f"""
[database]
path = "headway.db"
[quotas.q]
requests_per_minute = {PER_MINUTE}
burst_seconds = {BURST_SECONDS}
[models.m]
provider = "{provider}"
base_url = "{base_url}"
quotas = ["q"]
api_key_env = "SIMULATED_KEY"
"""
    )
    headway = await stack.enter_async_context(Headway(load(file)))
    clients = [headway.model("m", priority=word) for word in ("background", "interactive")]

    async def ask(is_urgent: bool) -> object:
        return await clients[is_urgent].create([UserMessage(content="Go.", source="user")])

    return ask


def sdk_call(base_url: str) -> Callable[[], Awaitable[object]]:
    sdk = openai.AsyncOpenAI(api_key="not-a-key", base_url=base_url, max_retries=0)

    async def call() -> object:
        return await sdk.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "Go."}]
        )

    return call


async def paced_queue(group: anyio.abc.TaskGroup, base_url: str) -> Ask:
    call, waiting, count = sdk_call(base_url), list[tuple[bool, int, anyio.Event]](), 0

    async def release() -> None:
        at = anyio.current_time()
        while True:
            at += 60 / PER_MINUTE
            await anyio.sleep_until(at)
            if waiting:
                heappop(waiting)[2].set()

    async def ask(is_urgent: bool) -> object:
        nonlocal count
        count += 1
        turn = anyio.Event()
        heappush(waiting, (not is_urgent, count, turn))
        await turn.wait()
        return await call()

    group.start_soon(release)
    return ask


def limited(base_url: str) -> Ask | None:
    try:
        from aiolimiter import AsyncLimiter
    except ImportError:
        return None
    limiter = AsyncLimiter(PER_MINUTE / 60 * BURST_SECONDS, BURST_SECONDS)
    call = sdk_call(base_url)

    async def ask(is_urgent: bool) -> object:
        async with limiter:
            return await call()

    return ask


async def keep_asking(contender: Contender, is_urgent: bool, until: float) -> None:
    while time.monotonic() < until:
        began = time.monotonic()
        try:
            await contender.ask(is_urgent)
        except openai.RateLimitError:
            contender.failed += 1
            await anyio.sleep(0.1)
            continue
        if is_urgent:
            contender.waits.append(time.monotonic() - began)


async def run(seconds: float) -> list[Contender]:
    os.environ["SIMULATED_KEY"] = "not-a-key"
    contenders: list[Contender] = []
    async with AsyncExitStack() as stack:
        group = await stack.enter_async_context(anyio.create_task_group())

        async def add(name: str, make: Callable[[str], Awaitable[Ask | None]]) -> None:
            provider = await stack.enter_async_context(simulated_provider(SETTINGS))
            if (ask := await make(provider.base_url)) is not None:
                contenders.append(Contender(name, provider.ledger, ask))

        await add("Headway, headers", lambda url: headway_client(stack, url, "openai"))
        await add("Headway, no headers", lambda url: headway_client(stack, url, "other"))
        await add("paced priority queue", lambda url: paced_queue(group, url))

        async def aiolimiter(url: str) -> Ask | None:
            return limited(url)

        await add("aiolimiter", aiolimiter)
        until = time.monotonic() + seconds
        async with anyio.create_task_group() as callers:
            for contender in contenders:
                for number in range(CALLERS):
                    callers.start_soon(keep_asking, contender, number < INTERACTIVE, until)
        group.cancel_scope.cancel()
    return contenders


def report(contender: Contender, seconds: float) -> bool:
    """Print a line; return whether a bar is missed."""
    entries = contender.ledger.entries
    began = min(entry.received_monotonic for entry in entries)
    inside = [each for each in entries if each.received_monotonic <= began + seconds]
    accepted = sum(each.accepted for each in inside)
    refused = len(inside) - accepted
    share = accepted / (PER_MINUTE / 60 * (BURST_SECONDS + seconds))
    wait = f"{median(contender.waits):6.2f}" if contender.waits else "     -"
    print(f"{contender.name:22}{share:8.3f}{refused:8}{contender.failed:8}{wait:>10}")
    return contender.name.startswith("Headway") and (share < BAR or refused > 0)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    seconds = parser.parse_args().seconds
    contenders = anyio.run(run, seconds)
    print(f"{'':22}{'share':>8}{'429s':>8}{'failed':>8}{'urgent p50, s':>15}")
    missed = [report(contender, seconds) for contender in contenders]
    return int(any(missed))


if __name__ == "__main__":
    sys.exit(main())

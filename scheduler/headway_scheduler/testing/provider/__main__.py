"""``python -m headway_scheduler.testing.provider``: the provider as a process of its own.

It prints its base URL on one line when it is ready, and ends at SIGINT or SIGTERM.
"""

import argparse
import signal
import sys
from pathlib import Path

import anyio

from .delivery import Latency
from .frontend import Settings
from .limits import Limits
from .server import simulated_provider


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m headway_scheduler.testing.provider")
    parser.add_argument("--port", type=int, default=0, help="0 takes any free port")
    parser.add_argument("--ledger", type=Path, help="append finished requests as JSON lines here")
    parser.add_argument("--requests-per-minute", type=float)
    parser.add_argument("--tokens-per-minute", type=float)
    parser.add_argument("--burst-seconds", type=float, default=60.0)
    parser.add_argument("--concurrency", type=int)
    parser.add_argument("--refused-count", action="store_true", help="refusals take a request too")
    parser.add_argument("--base-seconds", type=float, default=0.0)
    parser.add_argument("--seconds-per-input-token", type=float, default=0.0)
    parser.add_argument("--seconds-per-output-token", type=float, default=0.0)
    parser.add_argument("--batch-seconds", type=float, default=0.0)
    parser.add_argument("--batch-reply-seconds", type=float, default=0.0)
    return parser.parse_args()


def _settings(arguments: argparse.Namespace) -> Settings:
    limits = Limits(
        requests_per_minute=arguments.requests_per_minute,
        tokens_per_minute=arguments.tokens_per_minute,
        burst_seconds=arguments.burst_seconds,
        concurrency=arguments.concurrency,
        refused_count=arguments.refused_count,
    )
    latency = Latency(
        arguments.base_seconds,
        arguments.seconds_per_input_token,
        arguments.seconds_per_output_token,
    )
    return Settings(
        limits=limits,
        latency=latency,
        batch_seconds=arguments.batch_seconds,
        batch_reply_seconds=arguments.batch_reply_seconds,
    )


async def _run(arguments: argparse.Namespace) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with simulated_provider(
            _settings(arguments), port=arguments.port, ledger_path=arguments.ledger
        ) as provider:
            sys.stdout.write(f"{provider.base_url}\n")
            sys.stdout.flush()
            async for _ in signals:
                return


anyio.run(_run, _arguments())

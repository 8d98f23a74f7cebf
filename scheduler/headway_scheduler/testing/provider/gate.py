"""Admits or refuses requests: a gate has the buckets and the requests in flight of one scope.

A request is charged at its admission: 1 request, and tokens as ``Charging`` counts them. A provider
that counts output apart, or settles, does so at the end of the answer.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from .limits import Bucket, Charging, Counter, HeaderStyle, Limits, format_duration
from .refusals import Refusal, Shortage, rate_limited, throttled, too_large, too_many_at_once

ANY_MODEL = "*"


class Gate:
    """The state of one ``Limits``. Times are seconds of one monotonic clock."""

    def __init__(self, limits: Limits, now: float, clock_offset: float = 0.0) -> None:
        self._limits = limits
        self._in_flight = 0
        self._buckets: dict[str, Counter] = {}
        if limits.requests_per_minute is not None:
            full = limits.full(limits.requests_per_minute, now, clock_offset)
            self._buckets["requests"] = full
        if limits.tokens_per_minute is not None:
            full = limits.full(limits.tokens_per_minute, now, clock_offset)
            self._buckets["tokens"] = full
        self._output: Bucket | None = None
        if limits.output_per_minute is not None:
            capacity = limits.output_per_minute * limits.burst_seconds / 60
            self._output = Bucket.full(limits.output_per_minute, capacity, now)

    def charge(self, prompt: int, cap: int | None) -> int:
        """Return the tokens that a request is charged at its admission."""
        return self._limits.charging.admitted(prompt, cap)

    def settle(self, charged: int, prompt: int, output: int, now: float) -> None:
        """Settle an answer that ended: charge its output, or correct what was charged for it."""
        charging, tokens = self._limits.charging, self._buckets.get("tokens")
        if charging is Charging.BEDROCK and tokens is not None:
            self._buckets["tokens"] = tokens.taken(prompt + output - charged, now)
        if charging is Charging.ANTHROPIC and self._output is not None:
            self._output = self._output.taken(output, now)

    def admit(self, model: str, tokens: int, now: float) -> Refusal | None:
        """Charge the request and count it in flight, or return why it is refused."""
        if self._refusal(model, tokens, now) is not None:
            self.count_refused(now)
            return self._refusal(model, tokens, now)  # its wait, now that the refusal was charged
        for resource, cost in _costs(tokens).items():
            if resource in self._buckets:
                self._buckets[resource] = self._buckets[resource].taken(cost, now)
        self._in_flight += 1
        return None

    def leave(self) -> None:
        """Give back the slot of an admitted request."""
        self._in_flight -= 1

    def count_refused(self, now: float) -> None:
        """Charge a refused request, where refused requests are charged."""
        if self._limits.refused_count and "requests" in self._buckets:
            self._buckets["requests"] = self._buckets["requests"].spilled(now)

    def headers(self, now: float) -> dict[str, str]:
        """Return the rate limit headers of an answer: ``x-ratelimit-*``, or Anthropic's."""
        match self._limits.headers:
            case HeaderStyle.NONE:
                return {}
            case HeaderStyle.AZURE:
                return self._short_headers(now)
            case HeaderStyle.REMAINING:
                told = self._short_headers(now)
                return {name: value for name, value in told.items() if "remaining" in name}
            case HeaderStyle.LITELLM:
                return self._scoped_headers(now)
        if self._limits.charging is Charging.ANTHROPIC:
            return self._dated_headers(now)
        found: dict[str, str] = {}
        if self._limits.headers is None and not self._limits.charging.has_headers:
            return found
        for resource, bucket in self._buckets.items():
            found[f"x-ratelimit-limit-{resource}"] = f"{bucket.per_minute:.0f}"
            found[f"x-ratelimit-remaining-{resource}"] = str(bucket.remaining(now))
            found[f"x-ratelimit-reset-{resource}"] = format_duration(bucket.reset_seconds(now))
        return found

    def _short_headers(self, now: float) -> dict[str, str]:
        """Return Azure's: of requests, the limit is that of a short window."""
        found: dict[str, str] = {}
        for resource, bucket in self._buckets.items():
            limit = bucket.capacity if resource == "requests" else bucket.per_minute
            found[f"x-ratelimit-limit-{resource}"] = f"{limit:.0f}"
            found[f"x-ratelimit-remaining-{resource}"] = str(bucket.remaining(now))
        return found

    def _scoped_headers(self, now: float) -> dict[str, str]:
        """Return those of LiteLLM's proxy for a key with limits."""
        found: dict[str, str] = {}
        for resource, bucket in self._buckets.items():
            found[f"x-ratelimit-api_key-limit-{resource}"] = f"{bucket.capacity:.0f}"
            found[f"x-ratelimit-api_key-remaining-{resource}"] = str(bucket.remaining(now))
        if (slots := self._limits.concurrency) is not None:
            left = max(0, slots - self._in_flight)
            found["x-ratelimit-api_key-limit-max_parallel_requests"] = str(slots)
            found["x-ratelimit-api_key-remaining-max_parallel_requests"] = str(left)
        return found

    def _dated_headers(self, now: float) -> dict[str, str]:
        named = {"requests": "requests", "tokens": "input-tokens"}
        buckets = {named[name]: bucket for name, bucket in self._buckets.items()}
        if self._output is not None:
            buckets["output-tokens"] = self._output
        found: dict[str, str] = {}
        for name, bucket in buckets.items():
            reset = datetime.now(UTC) + timedelta(seconds=bucket.reset_seconds(now))
            found[f"anthropic-ratelimit-{name}-limit"] = f"{bucket.per_minute:.0f}"
            found[f"anthropic-ratelimit-{name}-remaining"] = str(bucket.remaining(now))
            found[f"anthropic-ratelimit-{name}-reset"] = reset.isoformat()
        return found

    def _refusal(self, model: str, tokens: int, now: float) -> Refusal | None:
        limit, slots = self._limits.tokens_per_minute, self._limits.concurrency
        if limit is not None and tokens > limit:
            return too_large(model, limit, tokens)
        window, is_proxy = self._limits.window_seconds, self._limits.headers is HeaderStyle.LITELLM
        if slots is not None and self._in_flight >= slots:
            if is_proxy:
                return throttled("max_parallel_requests", slots, window)
            return too_many_at_once(model, slots)
        short = self._shortage(tokens, now)
        if short is not None and is_proxy:
            return throttled(short.resource, self._buckets[short.resource].capacity, window)
        return None if short is None else rate_limited(model, short)

    def _shortage(self, tokens: int, now: float) -> Shortage | None:
        """Return the bucket that makes the request wait longest; None if it may go."""
        found = [
            Shortage(
                resource,
                limit=bucket.per_minute,
                used=max(0, bucket.per_minute - bucket.remaining(now)),
                requested=_costs(tokens)[resource],
                wait_seconds=bucket.wait_seconds(_costs(tokens)[resource], now),
            )
            for resource, bucket in self._buckets.items()
        ]
        if self._output is not None:  # the answer's output is not known yet: 1 token must be there
            wait = self._output.wait_seconds(1, now)
            limit = self._output.per_minute
            found.append(Shortage("tokens", limit, limit, 1, wait))
        waiting = [short for short in found if short.wait_seconds > 0]
        return max(waiting, key=lambda short: short.wait_seconds, default=None)


def _costs(tokens: int) -> dict[str, int]:
    return {"requests": 1, "tokens": tokens}


class Gates:
    """The gate of each model.

    One ``Limits`` is one gate for all models. A mapping gives each model a gate of its own:
    ``"*"`` has the limits of each model that it does not name; without ``"*"`` those have none.
    """

    def __init__(
        self, limits: Limits | Mapping[str, Limits], now: float, clock_offset: float = 0.0
    ) -> None:
        self._limits = limits
        self._clock_offset = clock_offset
        self._shared: Gate | None = None
        if isinstance(limits, Limits):
            self._shared = Gate(limits, now, clock_offset)
        self._gates: dict[str, Gate] = {}

    def of(self, model: str, now: float) -> Gate:
        """Return the gate of ``model``. The buckets of a new gate are full."""
        if self._shared is not None:
            return self._shared
        if model not in self._gates:
            self._gates[model] = Gate(self._limits_of(model), now, self._clock_offset)
        return self._gates[model]

    def names(self) -> tuple[str, ...]:
        """Return the models that have limits of their own, in the order of the settings."""
        if isinstance(self._limits, Limits):
            return ()
        return tuple(name for name in self._limits if name != ANY_MODEL)

    def _limits_of(self, model: str) -> Limits:
        assert not isinstance(self._limits, Limits)
        return self._limits.get(model) or self._limits.get(ANY_MODEL) or Limits()

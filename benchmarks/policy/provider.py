"""A provider that charges and refuses, in simulated time.

Law of this file: it sees only what a provider sees: requests that arrive, and answers that end.

Theory of operation. Every limit is a token bucket with continuous refill. A request is accepted if
each of its amounts is there, or its bucket is full: an amount above the capacity goes into debt. A
refused request takes nothing, or, where refused requests count, one request if there is one: this
is the reading that is kindest to clients that retry.

What a call is charged depends on the provider:

- ``openai``: at admission, the larger of output cap and prompt
- ``azure``: at admission, prompt and output cap
- ``anthropic``: the prompt at admission; output, from a bucket of its own, as it comes out
- ``bedrock``: prompt and output cap at admission; settled to what was used at the end
"""

from dataclasses import dataclass, replace
from enum import StrEnum

SLICE_SECONDS = 1.0
"""Output that is charged as it comes out is charged in slices of this length."""


class Charging(StrEnum):
    """What a provider counts, and when."""

    OPENAI = "openai"
    AZURE = "azure"
    ANTHROPIC = "anthropic"
    BEDROCK = "bedrock"


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits as a provider states them. ``output_per_minute``: only where output is apart.

    ``is_guess``: they are not stated, but what somebody takes them for.
    """

    requests_per_minute: float = 500
    tokens_per_minute: float = 450_000
    output_per_minute: float | None = None
    burst_seconds: float = 60.0
    charging: Charging = Charging.OPENAI
    output_cap: int = 0
    refused_count: bool = False
    is_guess: bool = False

    def times(self, factor: float) -> "Budget":
        """The same with other limits."""
        return replace(
            self,
            requests_per_minute=self.requests_per_minute * factor,
            tokens_per_minute=self.tokens_per_minute * factor,
        )

    def charge(self, input_tokens: int, output_tokens: int) -> int:
        """The tokens of a call that are taken at admission."""
        cap = max(self.output_cap, output_tokens) if self.output_cap else output_tokens
        match self.charging:
            case Charging.OPENAI:
                return max(self.output_cap, input_tokens)
            case Charging.ANTHROPIC:
                return input_tokens
            case _:
                return input_tokens + cap

    def settled(self, input_tokens: int, output_tokens: int) -> int:
        """The tokens of a call that stay taken after its end."""
        if self.charging is Charging.BEDROCK:
            return input_tokens + output_tokens
        return self.charge(input_tokens, output_tokens)


class Meter:
    """A token bucket that knows how much refill it lost by being full, and whether that matters.

    ``lost_idle`` was lost while no call waited: nobody could have used it. ``lost_waiting`` was
    lost while one did.
    """

    __slots__ = ("as_of", "capacity", "fill", "lost_idle", "lost_waiting", "per_second", "taken")

    def __init__(self, per_minute: float, burst_seconds: float) -> None:
        self.per_second = per_minute / 60
        self.capacity = max(1.0, self.per_second * burst_seconds)
        self.fill = self.capacity
        self.as_of = self.taken = self.lost_idle = self.lost_waiting = 0.0

    def advance(self, now: float, is_waited_for: bool) -> None:
        fill = self.fill + (now - self.as_of) * self.per_second
        lost = max(0.0, fill - self.capacity)
        if is_waited_for:
            self.lost_waiting += lost
        else:
            self.lost_idle += lost
        self.fill, self.as_of = fill - lost, now

    def wait_for(self, amount: float) -> float:
        """Seconds until ``amount`` is there; 0 if it is."""
        return max(0.0, min(amount, self.capacity) - self.fill) / self.per_second

    def take(self, amount: float) -> None:
        self.fill -= amount
        self.taken += amount


class Provider:
    """Accepts or refuses. Times never go back."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.requests = Meter(budget.requests_per_minute, budget.burst_seconds)
        self.tokens = Meter(budget.tokens_per_minute, budget.burst_seconds)
        self.output: Meter | None = None
        if budget.charging is Charging.ANTHROPIC:
            per_minute = budget.output_per_minute or budget.tokens_per_minute / 5
            self.output = Meter(per_minute, budget.burst_seconds)
        self.accepted = self.refused = 0
        self._is_waited_for = False

    @property
    def meters(self) -> tuple[Meter, ...]:
        both = (self.requests, self.tokens)
        return both if self.output is None else (*both, self.output)

    def advance(self, now: float) -> None:
        for meter in self.meters:
            meter.advance(now, self._is_waited_for)

    def waited_for(self, is_waited_for: bool, now: float) -> None:
        """Note whether any call waits to be accepted."""
        if is_waited_for != self._is_waited_for:
            self.advance(now)
            self._is_waited_for = is_waited_for

    def request(self, input_tokens: int, output_tokens: int, now: float) -> float | None:
        """Take in a request. None: accepted; a number: refused, try again after these seconds."""
        self.advance(now)
        amount = self.budget.charge(input_tokens, output_tokens)
        wait = max(self.requests.wait_for(1), self.tokens.wait_for(amount))
        if self.output is not None:
            wait = max(wait, self.output.wait_for(1))
        if wait > 1e-9:
            self.refused += 1
            if self.budget.refused_count and self.requests.fill >= 1:
                self.requests.fill -= 1  # where there is none left, none can be taken
            return wait
        self.accepted += 1
        self.requests.take(1)
        self.tokens.take(amount)
        return None

    def emitted(self, output_tokens: float, now: float) -> None:
        """Charge output that came out, where output is charged by itself."""
        if self.output is not None:
            self.advance(now)
            self.output.take(output_tokens)

    def ended(self, input_tokens: int, output_tokens: int, now: float) -> None:
        """Give back what an answer did not use, where that is done."""
        reserved = self.budget.charge(input_tokens, output_tokens)
        unused = reserved - self.budget.settled(input_tokens, output_tokens)
        if unused:
            self.advance(now)
            self.tokens.take(-unused)
            self.tokens.fill = min(self.tokens.fill, self.tokens.capacity)

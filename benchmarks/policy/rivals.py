"""What people do instead. Law of this file: a rival is as good as its kind can be.

- *a1* and *a2*: every call for itself, as if nobody else drew on the budget
- *b*: one limiter for all, first come, first served, over a window of 60 s

A rival counts tokens with the same error as we do.
"""

from collections import deque
from functools import partial

from .provider import Budget
from .world import Request, Running, World

WINDOW_SECONDS = 60.0
SDK_RETRIES = 2
SDK_LONGEST_RETRY_AFTER = 60.0
"""openai-python obeys a ``retry-after`` of up to a minute (``_calculate_retry_timeout``)."""

LONGEST_BACKOFF = 60.0


class Alone:
    """Every call for itself. Sent at once; what is refused is tried again later."""

    def __init__(self, world: World) -> None:
        self._world = world

    def began(self, run: Running) -> None:
        pass

    def ready(self, request: Request) -> None:
        self._world.send(request)

    def refused(self, request: Request, retry_after: float) -> None:
        raise NotImplementedError

    def answered(self, request: Request) -> None:
        pass

    def ended(self, run: Running) -> None:
        pass


class SdkDefault(Alone):
    """a1: two retries, as openai-python makes them; then the call fails, and the run with it."""

    def refused(self, request: Request, retry_after: float) -> None:
        retries = request.refusals - 1
        if retries >= SDK_RETRIES:
            self._world.give_up(request)
            return
        backoff = min(0.5 * 2.0**retries, 8.0) * (1 - 0.25 * self._world.rng.random())
        seconds = retry_after if retry_after <= SDK_LONGEST_RETRY_AFTER else backoff
        self._world.after(seconds, partial(self._world.send, request))


class Patient(Alone):
    """a2: tries for ever; waits as long as it was told, or a random share of its backoff."""

    def refused(self, request: Request, retry_after: float) -> None:
        self._world.after(
            patience(self._world, request, retry_after), partial(self._world.send, request)
        )


def patience(world: World, request: Request, retry_after: float) -> float:
    """Exponential backoff with full jitter, never less than the provider asks for."""
    longest = min(LONGEST_BACKOFF, 0.5 * 2.0 ** min(request.refusals, 10))
    return max(retry_after, longest * world.rng.random())


class Window:
    """b: first come, first served; what went in the last 60 s stays below the limits.

    What is refused all the same goes back to its client, who is patient: the limiter has counted
    it and does not hear of it again.
    """

    def __init__(self, world: World, budget: Budget) -> None:
        self._world = world
        self._budget = budget
        self._queue: deque[Request] = deque()
        self._gone: deque[tuple[float, int]] = deque()
        self._tokens = 0

    def began(self, run: Running) -> None:
        pass

    def ready(self, request: Request) -> None:
        self._queue.append(request)
        if len(self._queue) == 1:
            self._serve()

    def refused(self, request: Request, retry_after: float) -> None:
        self._world.after(
            patience(self._world, request, retry_after), partial(self._world.send, request)
        )

    def answered(self, request: Request) -> None:
        pass

    def ended(self, run: Running) -> None:
        pass

    def _serve(self) -> None:
        """Send from the head of the queue; asked again when the oldest leaves the window."""
        now = self._world.now
        while self._gone and self._gone[0][0] <= now:
            self._tokens -= self._gone.popleft()[1]
        while self._queue:
            tokens = counted(self._budget, self._queue[0])
            fits = self._tokens + tokens <= self._budget.tokens_per_minute
            if self._gone and not (fits and len(self._gone) < self._budget.requests_per_minute):
                self._world.at(self._gone[0][0], self._serve)
                return
            self._tokens += tokens
            self._gone.append((now + WINDOW_SECONDS, tokens))
            self._world.send(self._queue.popleft())


def counted(budget: Budget, request: Request) -> int:
    """What we take a call to cost before it is sent."""
    step = request.step
    charge = budget.charge(step.input_tokens, step.output_tokens)
    return max(1, round(charge * step.error))

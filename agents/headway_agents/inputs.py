"""The time, chance and fetched data as journaled steps, for agents and tools that users write.

Law of this file: what a workflow is told once, it is told again when it resumes.

TimeoutTermination is no step: it counts real time, in the queue as well, and differs in a replay.
Bound a run by its deadline or by messages instead.
"""

import inspect
import json
import random as _random
import time
from collections.abc import Callable
from typing import Any

from .identity import asking_agent, scope_of_context
from .kinds import current_key
from .steps import Again, Step, perform

INPUT = "input"


async def step(
    name: str, function: Callable[..., Any], *args: Any, again: Again = Again.PURE
) -> Any:
    """Return ``function(*args)``, sync or async, or what it returned when the run first asked.

    Arguments and result are JSON values. Raises CallerError outside of a run.
    """
    scope = scope_of_context(name)

    async def act(key: str) -> str:
        token = current_key.set(key)
        try:
            result = function(*args)
            return json.dumps(await result if inspect.isawaitable(result) else result)
        finally:
            current_key.reset(token)

    request = json.dumps(args, sort_keys=True)
    asked = Step(INPUT, asking_agent(), name, request, Again(again))
    return json.loads(await perform(scope, asked, act))


async def now() -> float:
    """Return the time, epoch seconds, as a step."""
    moment: float = await step("now", time.time)
    return moment


async def random() -> float:
    """Return a random number from [0, 1) as a step."""
    number: float = await step("random", _random.random)
    return number

"""Time, chance and fetched data as journaled steps, for agents and tools that users write.

Law of this file: a resumed workflow is told what it was told before.
"""

import inspect
import json
import random as _random
import time
from collections.abc import Callable
from typing import Any

from headway_scheduler.errors import CallerError

from ..scope import RunScope, asking_agent, current_scope
from .effects import Effect, keyed
from .step import Step, by_person, perform

INPUT = "input"


async def step(
    name: str, function: Callable[..., Any], *args: Any, effect: Effect = Effect.PURE
) -> Any:
    """Return ``function(*args)``, sync or async, or what it returned when the run first asked.

    Arguments and result are JSON values; a result comes back as JSON makes it, a tuple as a list.
    Returns a person's words if the step was cut off and they said what came of it. ``effect``: what
    ``function`` does to the world. Raises CallerError outside of a run, and for what is no JSON.
    """
    scope = _scope(name)

    async def act(key: str) -> str:
        with keyed(key):
            result = function(*args)
            result = await result if inspect.isawaitable(result) else result
        return _json(result, f"the result of step {name!r}")

    request = _json(args, f"what step {name!r} is called with")
    answer = await perform(scope, Step(INPUT, asking_agent(), name, request, Effect(effect)), act)
    words = by_person(answer)
    return json.loads(answer) if words is None else words


async def now() -> float:
    """Return the time, epoch seconds, as a step.

    AutoGen's TimeoutTermination is no step: it counts real time, also in the queue, and so may end
    a team elsewhere in a replay. Bound a run by its deadline or by messages instead.
    """
    moment: float = await step("now", time.time)
    return moment


async def random() -> float:
    """Return a random number from [0, 1) as a step."""
    number: float = await step("random", _random.random)
    return number


def _scope(name: str) -> RunScope:
    if (scope := current_scope.get()) is None:
        raise CallerError(
            f"step {name!r} belongs to no run: have Headway run the team whose agent asks for it"
        )
    return scope


def _json(value: Any, what: str) -> str:
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise CallerError(f"{what} cannot be kept as JSON ({error}): give plain data") from None

"""Calls of the Python API with odd arguments. What is valid by chance may be done."""

from collections.abc import Awaitable, Callable
from typing import Any

from headway import Headway

from .odd import Random, python_value, text

OPTIONS = ("task", "key", "team", "priority", "budget_usd", "deadline_seconds", "parameters")
LIMITS = ("requests_per_minute", "tokens_per_minute", "concurrency", "burst_seconds", "learn", "x")

Verb = Callable[[Headway, Any, Random], Awaitable[object]]


def _options(value: Any, rng: Random) -> dict[str, Any]:
    return {"task": "odd", rng.choice(OPTIONS): value}


VERBS: dict[str, Verb] = {
    "start": lambda hw, v, r: hw.start("quick", **_options(v, r)),
    "submit": lambda hw, v, r: hw.submit("nobody:quick", **_options(v, r)),
    "run": lambda hw, v, r: hw.run("quick", **_options(v, r)),
    "start of": lambda hw, v, r: hw.start(v, task="odd"),
    "handle": lambda hw, v, r: hw.handle(v),
    "get_run": lambda hw, v, r: hw.get_run(v),
    "list_runs": lambda hw, v, r: hw.list_runs(limit=v),
    "list_calls": lambda hw, v, r: hw.list_calls(v),
    "resume": lambda hw, v, r: hw.resume(v),
    "check": lambda hw, v, r: hw.check(v),
    "retry": lambda hw, v, r: hw.retry(v),
    "fork": lambda hw, v, r: hw.fork("r-zzzz", at=v),
    "continue_run": lambda hw, v, r: hw.continue_run("r-zzzz", v),
    "cancel": lambda hw, v, r: hw.cancel(v),
    "pause": lambda hw, v, r: hw.pause(v),
    "question": lambda hw, v, r: hw.question(v),
    "answer": lambda hw, v, r: hw.answer("r-zzzz", v),
    "answer of": lambda hw, v, r: hw.answer(v, "x"),
    "receipt": lambda hw, v, r: hw.receipt(v),
    "prune older": lambda hw, v, r: hw.prune(older_than_seconds=v, is_dry=True),
    "prune keep": lambda hw, v, r: hw.prune(keep=v, is_dry=True),
    "costs by": lambda hw, v, r: hw.costs(v),
    "costs since": lambda hw, v, r: hw.costs(since_seconds=v),
    "bump": lambda hw, v, r: hw.queue.bump(v, "low"),
    "bump to": lambda hw, v, r: hw.queue.bump("r-zzzz", v),
    "queue pause": lambda hw, v, r: hw.queue.pause(v),
    "queue drain": lambda hw, v, r: hw.queue.drain(v),
    "queue resume": lambda hw, v, r: hw.queue.resume(v),
    "limits set": lambda hw, v, r: hw.limits.set("g0", {r.choice(LIMITS): v}),
    "limits set all": lambda hw, v, r: hw.limits.set("g1", v),
    "limits set of": lambda hw, v, r: hw.limits.set(v, {"concurrency": 3}),
    "limits reset": lambda hw, v, r: hw.limits.reset(v),
    "limits resume": lambda hw, v, r: hw.limits.resume(v),
    "weight": lambda hw, v, r: hw.limits.weight("odd", v),
    "weight of": lambda hw, v, r: hw.limits.weight(v, 1.0),
    "log": lambda hw, v, r: hw.limits.log(limit=v),
}


async def use(headway: Headway, rng: Random) -> str:
    """Call one verb with one odd value; return which."""
    name = rng.choice(list(VERBS))
    value = text(rng) if rng.random() < 0.2 else python_value(rng)
    try:
        await VERBS[name](headway, value, rng)
    except BaseException as error:
        error.add_note(f"fuzz: {name} with a {type(value).__name__}")
        raise
    return name

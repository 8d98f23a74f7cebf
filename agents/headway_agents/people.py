"""People as journaled steps. Law of this file: a question is on disk before anybody is asked."""

import asyncio
import json
from typing import Any

from autogen_agentchat.agents import UserProxyAgent
from autogen_agentchat.base import ChatAgent, TaskResult, Team
from autogen_agentchat.messages import HandoffMessage
from autogen_core import CancellationToken

from .identity import RunScope
from .steps import PERSON, Again, Step, ask_person, perform


def ask_through(agent: UserProxyAgent, scope: RunScope, path: str) -> None:
    """Have the agent's questions journaled. An ``input_func`` of the user's still answers them."""
    own, is_async = agent.input_func, agent._is_async
    is_given = getattr(own, "__name__", "") != "cancellable_input"

    async def asked(prompt: str, cancellation_token: CancellationToken | None = None) -> str:
        if not is_given:
            return await ask_person(scope, path, prompt)

        async def act(key: str) -> str:
            return json.dumps(await _words(own, is_async, prompt, cancellation_token))

        # Whoever was asked may be asked again.
        step = Step(PERSON, path, "input", json.dumps(prompt), Again.PURE)
        words: str = json.loads(await perform(scope, step, act))
        return words

    agent.input_func = asked
    agent._is_async = True


async def answer_handoff(
    scope: RunScope, team: Team | ChatAgent, result: TaskResult
) -> HandoffMessage | None:
    """If a team ended with a handoff to nobody of its own, ask that person: the next task."""
    last = result.messages[-1] if result.messages else None
    if not isinstance(last, HandoffMessage) or last.target in _names(team):
        return None
    words = await ask_person(scope, last.target, last.content)
    return HandoffMessage(source=last.target, target=last.source, content=words)


def _names(team: Team | ChatAgent) -> set[str]:
    names = getattr(team, "_participant_names", ())
    return {*names, getattr(team, "name", "")}


async def _words(own: Any, is_async: bool, prompt: str, token: CancellationToken | None) -> str:
    if is_async:
        return str(await own(prompt, token))
    return str(await asyncio.get_running_loop().run_in_executor(None, own, prompt))

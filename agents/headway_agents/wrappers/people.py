"""People as journaled steps. Law of this file: a question is on disk before anybody is asked it."""

import asyncio
import builtins
import json
from inspect import isawaitable
from typing import Any

from autogen_agentchat.agents import (
    ApprovalRequest,
    ApprovalResponse,
    CodeExecutorAgent,
    UserProxyAgent,
)
from autogen_agentchat.base import ChatAgent, TaskResult, Team
from autogen_agentchat.messages import HandoffMessage
from autogen_core import CancellationToken

from headway_scheduler.model.calls import PERSON

from ..autogen_private import (
    approval_of,
    approve_with,
    cancellable_input,
    input_of,
    participant_names,
    read_with,
)
from ..scope import RunScope
from ..steps.effects import Effect, keyed
from ..steps.step import Step, ask_person, by_person, perform

_TERMINALS = (cancellable_input, builtins.input)
"""What AutoGen reads by default: standard input, which a resumed run may not have."""
_YES = frozenset({"y", "yes", "ok", "approve", "approved"})


def ask_through(agent: UserProxyAgent, scope: RunScope, path: str) -> None:
    """Journal the questions of an agent. An ``input_func`` of the user's still answers them."""
    own, is_async = getattr(agent.input_func, "own", input_of(agent))

    async def asked(prompt: str, cancellation_token: CancellationToken | None = None) -> str:
        if own in _TERMINALS:
            return await ask_person(scope, path, prompt)

        async def act(key: str) -> str:
            with keyed(key):
                return json.dumps(await _words(own, is_async, prompt, token=cancellation_token))

        # A person who was asked may be asked again.
        step = Step(PERSON, path, "input", json.dumps(prompt), Effect.PURE)
        answer = await perform(scope, step, act)
        words = by_person(answer)
        return str(json.loads(answer)) if words is None else words

    asked.own = (own, is_async)  # type: ignore[attr-defined]  # for the next binding
    read_with(agent, asked)


def approve_through(agent: CodeExecutorAgent, scope: RunScope, path: str) -> None:
    """Journal what the user's ``approval_func`` says of a piece of code."""
    approval = approval_of(agent)
    own = getattr(approval, "own", approval)
    if own is None:
        return

    async def asked(request: ApprovalRequest) -> ApprovalResponse:
        async def act(key: str) -> str:
            with keyed(key):
                response = own(request)
                response = await response if isawaitable(response) else response
                return str(response.model_dump_json())

        step = Step(PERSON, path, "approval", json.dumps(request.code), Effect.PURE)
        answer = await perform(scope, step, act)
        if (words := by_person(answer)) is not None:
            return ApprovalResponse(approved=words.strip().lower() in _YES, reason=words)
        return ApprovalResponse.model_validate_json(answer)

    asked.own = own  # type: ignore[attr-defined]  # for the next binding
    approve_with(agent, asked)


async def answer_handoff(
    scope: RunScope, team: Team | ChatAgent, result: TaskResult
) -> HandoffMessage | None:
    """Ask the person to whom a team handed off at its end; return the team's next task, or None.

    A team that a limit ended is left alone: it would begin to count anew.
    """
    last = result.messages[-1] if result.messages else None
    if (
        not isinstance(last, HandoffMessage)
        or not last.target
        or last.target in (*participant_names(team), team.name)
    ):
        return None
    # So HandoffTermination words it; an agent that runs by itself gives no reason.
    if result.stop_reason and f"Handoff to {last.target} " not in result.stop_reason:
        return None
    words = await ask_person(scope, last.target, last.content)
    return HandoffMessage(source=last.target, target=last.source, content=words)


async def _words(own: Any, is_async: bool, prompt: str, *, token: CancellationToken | None) -> str:
    if is_async:
        return str(await own(prompt, token))
    return str(await asyncio.get_running_loop().run_in_executor(None, own, prompt))

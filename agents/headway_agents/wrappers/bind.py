"""Binds a team to a run: gives every holder of a client its own handle, and journals the rest.

Law of this file: nothing else of the team changes, but that no agent can end the process.

Theory of operation. AutoGen keeps clients in attributes of teams, agents, contexts, workbenches and
tools, and keeps those in one another. The walk follows attributes of these kinds, in lists and
dicts too, and puts a handle that knows scope and path where a client was. It knows abstract
classes, not concrete ones, so it walks agents that users wrote as well. It cannot reach a client in
a closure: a scheduled one falls back on the context, any other spends past the scheduler.

On the way it replaces what else agents ask of the world by journaled wrappers: workbenches and code
executors, external memories, and what asks people. It leaves what these consist of alone: a step
inside a step could wait for a person in its place.

A path says where a holder is: names from the team's participants down. A team inside a team, a
participant and a tool add their names; what an agent or a tool consists of adds none. Where two
holders would have one path (an agent that holds two teams), the later ones are numbered,
``writer~2``.
"""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

from autogen_agentchat.agents import AssistantAgent, CodeExecutorAgent, UserProxyAgent
from autogen_agentchat.base import ChatAgent, Team, TerminationCondition
from autogen_agentchat.teams import MagenticOneGroupChat, SelectorGroupChat
from autogen_core.code_executor import CodeExecutor
from autogen_core.memory import Memory
from autogen_core.model_context import ChatCompletionContext
from autogen_core.models import ChatCompletionClient
from autogen_core.tools import BaseTool, StaticStreamWorkbench, StaticWorkbench, Workbench

from headway_scheduler.errors import CallerError

from ..autogen_private import has_run
from ..calls.client import ScheduledClient
from ..containment import contain_agent, contain_tool_calls
from ..journal.recorded import NESTED
from ..scope import RunScope
from ..steps.effects import Effects
from .code_executor import JournaledExecutor
from .memory import JournaledMemory, is_external
from .people import approve_through, ask_through
from .tool_list import journaled_workbench
from .wrapper import Wrapper

Path = tuple[str, ...]
_HOLDERS = (Team, ChatAgent, BaseTool, Workbench, ChatCompletionContext, TerminationCondition)
_FIXED_LISTS = (StaticWorkbench, StaticStreamWorkbench)
_MANAGERS: dict[type[Team], str] = {
    SelectorGroupChat: "selector",
    MagenticOneGroupChat: "orchestrator",
}


def bind(
    team: Team | ChatAgent,
    scope: RunScope,
    models: Callable[[ChatCompletionClient], ScheduledClient],
    *,
    effects: Effects | None = None,
) -> None:
    """Replace every client in ``team`` by a handle that knows ``scope`` and its holder's path.

    ``models`` makes a ScheduledClient of any other client. Tools, code, people and memories become
    journaled steps; ``effects`` declares tools by name. Raises CallerError for what is no team or
    agent, and for a team that has run: build a fresh one for every attempt.
    """
    if not isinstance(team, Team | ChatAgent):
        raise CallerError(f"a {type(team).__name__} is neither a Team nor a ChatAgent of AutoGen")
    binder = _Binder(scope, models, effects or {})
    binder.walk(team, () if isinstance(team, Team) else (team.name,))


class _Binder:
    def __init__(
        self,
        scope: RunScope,
        models: Callable[[ChatCompletionClient], ScheduledClient],
        effects: Effects,
    ) -> None:
        self._scope = scope
        self._models = models
        self._effects = effects
        # By id. It keeps what it has seen alive, for the id of something dead may be used again.
        self._seen: dict[int, object] = {}
        self._wrappers: dict[tuple[int, str], object] = {}
        self._owners: dict[Path, object] = {}
        self._workbenches: Counter[str] = Counter()

    def walk(self, holder: object, path: Path) -> None:
        if id(holder) in self._seen:
            return
        self._seen[id(holder)] = holder
        _check_fresh(holder)
        for name, value in list(getattr(holder, "__dict__", {}).items()):
            swapped = self._swapped(value, holder, path)
            if swapped is not value:
                setattr(holder, name, swapped)
        if isinstance(holder, ChatAgent):
            contain_agent(holder)
        if isinstance(holder, AssistantAgent):
            contain_tool_calls(holder)
        if isinstance(holder, UserProxyAgent):
            ask_through(holder, self._scope, "/".join(path))
        if isinstance(holder, CodeExecutorAgent):
            approve_through(holder, self._scope, "/".join(path))

    def _swapped(self, value: Any, holder: object, path: Path) -> Any:
        """Return what takes the place of ``value``: itself, if it asks nothing of the world."""
        if isinstance(value, ChatCompletionClient):
            return self._handle(value, "/".join(self._place(holder, value, path)))
        if isinstance(value, Wrapper):
            value = value.wrapped
        if isinstance(value, _HOLDERS):
            self.walk(value, self._place(holder, value, path))
        if isinstance(holder, ChatAgent) and isinstance(value, Workbench | CodeExecutor | Memory):
            return self._wrapper(value, "/".join(path))
        if type(value) is list:
            items = [self._swapped(item, holder, path) for item in value]
            return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
        if type(value) is dict:
            fields = {key: self._swapped(item, holder, path) for key, item in value.items()}
            return fields if any(fields[key] is not value[key] for key in value) else value
        return value

    def _wrapper(self, value: Workbench | CodeExecutor | Memory, path: str) -> object:
        """Return the wrapper of ``value`` for the agent at ``path``, one for all its attributes."""
        key = (id(value), path)
        if key not in self._wrappers:
            self._seen[id(value)] = value
            self._wrappers[key] = self._journaled(value, path)
        return self._wrappers[key]

    def _journaled(self, value: Workbench | CodeExecutor | Memory, path: str) -> object:
        if isinstance(value, CodeExecutor):
            return JournaledExecutor(value, self._scope, path, effects=self._effects)
        if isinstance(value, Memory):
            is_asked = is_external(value)
            return (
                JournaledMemory(value, self._scope, path, effects=self._effects)
                if is_asked
                else value
            )
        number = self._workbenches[path]
        self._workbenches[path] += 1
        if type(value) in _FIXED_LISTS and not _has_tools(value):
            return value  # an agent without tools has one, and can call nothing of it
        return journaled_workbench(value, self._scope, path, effects=self._effects, number=number)

    def _place(self, holder: object, child: object, path: Path) -> Path:
        """Return the path of ``child``, numbered if another one has it already."""
        own = plain = _step(holder, child, path)
        if own == path:
            return path
        # All that a team or a workbench consists of has one path.
        owner = child if isinstance(child, Team | ChatAgent | BaseTool) else holder
        number = 1
        while self._owners.setdefault(own, owner) is not owner:
            number += 1
            own = (*plain[:-1], f"{plain[-1]}~{number}")
        return own

    def _handle(self, client: ChatCompletionClient, path: str) -> ChatCompletionClient:
        def handle(client: ChatCompletionClient) -> ChatCompletionClient:
            if isinstance(client, ScheduledClient):
                return client.bound(self._scope, path)
            return self._models(client).bound(self._scope, path)

        return around(client, handle)


def around(
    client: ChatCompletionClient, handle: Callable[[ChatCompletionClient], ChatCompletionClient]
) -> ChatCompletionClient:
    """Return what ``handle`` makes of a client; of a cache, a cache around that.

    A hit costs nothing and is no call. The store of the cache stays shared. Raises CallerError for
    what is no client.
    """
    if not isinstance(client, ChatCompletionClient):
        raise CallerError(
            f"a {type(client).__name__} is no model: give the name of a model, or one of AutoGen's "
            "clients, such as OpenAIChatCompletionClient"
        )
    if not isinstance(wrapped := getattr(client, "client", None), ChatCompletionClient):
        return handle(client)
    wrapper = copy.copy(client)
    wrapper.__dict__["client"] = around(wrapped, handle)
    return wrapper


def _step(holder: object, child: object, path: Path) -> Path:
    """Return the path of ``child`` if that of ``holder`` is ``path``."""
    if isinstance(child, Team):
        return (*path, child.name) if isinstance(holder, Team) else path
    if isinstance(child, ChatAgent):
        return path if isinstance(holder, BaseTool) else (*path, child.name)
    if isinstance(child, BaseTool):
        return (*path, child.name)
    if isinstance(holder, Workbench) and isinstance(child, ChatCompletionClient):
        return (*path, f"{NESTED}sampling")  # an MCP server asks while a tool of it acts
    return (*path, _manager(holder)) if isinstance(holder, Team) else path


def _manager(team: Team) -> str:
    words = (word for kind, word in _MANAGERS.items() if isinstance(team, kind))
    return next(words, "manager")


def _has_tools(workbench: Workbench) -> bool:
    lists = (value for value in vars(workbench).values() if isinstance(value, list))
    return any(isinstance(tool, BaseTool) for tools in lists for tool in tools)


def _check_fresh(holder: object) -> None:
    # AutoGen made its manager with the old client, and a failed run leaves stale speakers in it.
    if isinstance(holder, Team) and has_run(holder):
        raise CallerError(
            f"team {holder.name!r} has run, or loaded a state, before it was bound to a run: "
            "build a fresh team for every run, and load states after binding"
        )

"""Give every holder of a client in a team its own handle. Law of this file: nothing else changes.

Theory of operation. AutoGen keeps clients in attributes of teams, agents, contexts, workbenches and
tools, and those in one another. The walk follows attributes of these effects, lists and dicts of
them included, and puts a handle bound to (scope, path) where a client was. It knows effects, not
classes, so agents that users wrote are walked too. A client inside a closure is out of its reach:
if it is ours it falls back on the context; if it is not, it spends past the scheduler.

On the way, what else agents ask of the world is journaled: their workbenches and code executors
(``tools``), people (``people``) and external memories (``memory``). What these consist of is not:
a step inside a step could wait for a person in its place.

A path says where a holder stands: names from the team's participants down. A team inside a team, a
participant and a tool add their names; what an agent or a tool consists of adds none. Where two
would stand at one path (an agent that holds two teams), the later ones are numbered, ``writer~2``.
"""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

from autogen_agentchat.agents import CodeExecutorAgent, UserProxyAgent
from autogen_agentchat.base import ChatAgent, Team, TerminationCondition
from autogen_agentchat.teams import MagenticOneGroupChat, SelectorGroupChat
from autogen_core.code_executor import CodeExecutor
from autogen_core.memory import Memory
from autogen_core.model_context import ChatCompletionContext
from autogen_core.models import ChatCompletionClient
from autogen_core.tools import BaseTool, Workbench

from headway_scheduler.errors import CallerError

from ..autogen_private import has_run
from ..calls.client import ScheduledClient
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
_MANAGERS: dict[type[Team], str] = {
    SelectorGroupChat: "selector",
    MagenticOneGroupChat: "orchestrator",
}


def bind(
    team: Team | ChatAgent,
    scope: RunScope,
    models: Callable[[ChatCompletionClient], ScheduledClient],
    effects: Effects | None = None,
) -> None:
    """Replace every client in ``team`` by a handle that knows ``scope`` and its holder's path.

    A client that is not ours yet goes through ``models``. Tools, code, people and memories become
    journaled steps; ``effects`` declares tools by name. Raises CallerError for anything that is
    no team or agent, and for a team that has run: build a fresh one for every attempt.
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
        # Keeps what it has seen alive: an id could be given out again.
        self._seen: dict[int, object] = {}
        self._stand_ins: dict[tuple[int, str], object] = {}
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
        if isinstance(holder, UserProxyAgent):
            ask_through(holder, self._scope, "/".join(path))
        if isinstance(holder, CodeExecutorAgent):
            approve_through(holder, self._scope, "/".join(path))

    def _swapped(self, value: Any, holder: object, path: Path) -> Any:
        """Return what stands in for ``value``: itself, if it asks nothing of the world."""
        if isinstance(value, ChatCompletionClient):
            return self._handle(value, "/".join(self._place(holder, value, path)))
        if isinstance(value, Wrapper):
            value = value.wrapped
        if isinstance(value, _HOLDERS):
            self.walk(value, self._place(holder, value, path))
        if isinstance(holder, ChatAgent) and isinstance(value, Workbench | CodeExecutor | Memory):
            return self._stand_in(value, "/".join(path))
        if type(value) is list:
            items = [self._swapped(item, holder, path) for item in value]
            return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
        if type(value) is dict:
            fields = {key: self._swapped(item, holder, path) for key, item in value.items()}
            return fields if any(fields[key] is not value[key] for key in value) else value
        return value

    def _stand_in(self, value: Workbench | CodeExecutor | Memory, path: str) -> object:
        """Return what journals ``value``, the same one wherever a holder keeps it."""
        key = (id(value), path)
        if key not in self._stand_ins:
            self._seen[id(value)] = value
            self._stand_ins[key] = self._journaled(value, path)
        return self._stand_ins[key]

    def _journaled(self, value: Workbench | CodeExecutor | Memory, path: str) -> object:
        if isinstance(value, CodeExecutor):
            return JournaledExecutor(value, self._scope, path, self._effects)
        if isinstance(value, Memory):
            is_asked = is_external(value)
            return JournaledMemory(value, self._scope, path, self._effects) if is_asked else value
        number = self._workbenches[path]
        self._workbenches[path] += 1
        return journaled_workbench(value, self._scope, path, self._effects, number)

    def _place(self, holder: object, child: object, path: Path) -> Path:
        """Return where ``child`` stands, numbered if another one stands there already."""
        own = plain = _step(holder, child, path)
        if own == path:
            return path
        # All that a team or a workbench consists of stands at one place.
        owner = child if isinstance(child, Team | ChatAgent | BaseTool) else holder
        number = 1
        while self._owners.setdefault(own, owner) is not owner:
            number += 1
            own = (*plain[:-1], f"{plain[-1]}~{number}")
        return own

    def _handle(self, client: ChatCompletionClient, path: str) -> ChatCompletionClient:
        if isinstance(client, ScheduledClient):
            return client.bound(self._scope, path)
        if isinstance(wrapped := getattr(client, "client", None), ChatCompletionClient):
            # A cache: outside of the budget, for a hit costs nothing. Its store stays shared.
            wrapper = copy.copy(client)
            wrapper.__dict__["client"] = self._handle(wrapped, path)
            return wrapper
        return self._models(client).bound(self._scope, path)


def _step(holder: object, child: object, path: Path) -> Path:
    """Return where ``child`` stands if ``holder`` stands at ``path``."""
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


def _check_fresh(holder: object) -> None:
    # Its manager was made with the old client, and a failed run leaves stale turns behind.
    if isinstance(holder, Team) and has_run(holder):
        raise CallerError(
            f"team {holder.name!r} has run, or loaded a state, before it was bound to a run: "
            "build a fresh team for every run, and load states after binding"
        )

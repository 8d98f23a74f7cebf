"""Resolves names of workflows, and builds their teams.

Law of this file: a run can be built again from its row alone: by the name of a registered factory,
by ``module:factory``, or from the text of a component file, which the row holds without its keys.
"""

import asyncio
import gc
import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, assert_never, cast

from anyio import to_thread

from headway_scheduler.errors import CallerError
from headway_scheduler.model.calls import Priority, ServiceLane, Usage
from headway_scheduler.model.runs import Run
from headway_scheduler.providers import PROVIDERS
from headway_scheduler.runtime.client import SchedulerClient

from . import arguments
from .config import Config
from .config.clients import OPENAI
from .config.keys import COMPONENT_SUFFIXES
from .config.reading import DEFAULT
from .config.values import patience_seconds
from .pricing.prices import charge_of, stated_cost, write_cost
from .provider_clients import built
from .reached import (
    Reached,
    completed,
    is_at,
    key_of,
    of_client,
    of_model,
    quotas_past,
    replaced,
)
from .spelling import did_you_mean

if TYPE_CHECKING:
    from autogen_core.models import ChatCompletionClient
    from openai import AsyncOpenAI

    from headway_agents import Attempt, CallLimits, Journal, Model, RunScope, ScheduledClient
    from headway_agents.bypass import Watch

_BATCH = ServiceLane.BATCH
_OF_AGENTS = frozenset({"messages", "tools", "tool_choice", "json_output"})
"""Arguments of AutoGen's ``create`` that go past its ``extra_create_args``."""
Factory = TypeVar("Factory", bound=Callable[..., Any])


class Models(Protocol):
    """The argument of a factory: makes a client for a model of the configuration.

    The client is bound to the run, and to the agent that holds it. Its calls have its ``priority``,
    which may be more urgent than the run's or less, else the run's.
    """

    def __call__(
        self,
        model: "str | ChatCompletionClient",
        *,
        priority: Priority | str | None = None,
        **arguments: Any,
    ) -> "ChatCompletionClient":
        """Make a client, by the name of a model or around your own client.

        ``arguments`` go with each of its requests, such as ``temperature=0.2`` or
        ``max_tokens=500``: what AutoGen's client of the model takes as ``extra_create_args``.

        Raises CallerError for a model without a key, or without a price.
        """


class Workflows:
    """The workflows of this process, and the provider clients that their runs share."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._factories: dict[str, Callable[..., Any]] = {}
        self._wrapped: dict[str, ChatCompletionClient] = {}
        self._clients: dict[str, ScheduledClient] = {}
        self._run_clients: dict[str, list[ChatCompletionClient]] = {}
        self._sdks: dict[str, AsyncOpenAI] = {}
        self._watch: Watch | None = None
        self.on_change: Callable[[], None] = lambda: None
        """Called when a workflow has been registered."""
        self.only_server: str | None = None
        """The address of the only server that a client made in code may ask; None: any."""

    def register(self, name: str, factory: Factory) -> Factory:
        """Name a factory, and return it. A function that is defined anew replaces itself.

        Raises CallerError for what is no factory, and for a name that another one has.
        """
        before = self._factories.get(name)
        is_other = before is not None and _place(before) != _place(factory)
        if name in self._config.workflows:
            raise CallerError(
                f"workflow {name!r} stands in [workflows] of the configuration: leave out the one "
                "there, or the registration here"
            )
        if is_other:
            raise CallerError(f"workflow {name!r} is registered already: choose another name")
        self._factories[name] = _checked_factory(name, factory)
        self.on_change()
        return factory

    def describe(self, reference: str) -> tuple[str, str | None]:
        """Resolve the reference of a user to what a row keeps: (workflow, component text or None).

        Raises CallerError if it names no workflow.
        """
        if reference in self._factories:
            return reference, None
        target = self._config.workflows.get(reference, reference)
        if target.endswith(COMPONENT_SUFFIXES):
            return reference, self._component_text(target)
        if ":" in target:
            return reference, None
        names = sorted({*self._factories, *self._config.workflows})
        advice = did_you_mean(reference, names) or (
            f"this process knows {', '.join(names) or 'none'}; or give module:factory, or a "
            f"component file ({', '.join(COMPONENT_SUFFIXES)})"
        )
        raise CallerError(f"no workflow {reference!r}: {advice}")

    async def build(self, run: Run, scheduler: SchedulerClient, journal: "Journal") -> "Attempt":
        """Build a fresh team for ``run``, its clients bound to the run."""
        from headway_agents import (
            Attempt,
            Effect,
            RunScope,
            bind,
            build,
            current_scope,
            load_component,
        )
        from headway_agents.containment import contain_tasks

        contain_tasks()
        scope = RunScope(scheduler, run.id, run.priority, journal=journal)
        config = self._config
        scope.highest = config.highest_of_teams.get(run.share, config.highest_of_all)
        if (quotas := config.team_quotas.get(run.share)) is not None:
            scope.quotas, scope.money_quotas = quotas, self._money_quotas(quotas)
            scope.counts_usd = config.counts_usd(quotas)
        if run.budget_usd is not None:
            scope.counts_usd = True
        scope.lane = run.lane
        if self._watch is None and config.bypass != "allow":
            self._watch = self._watched()
        if self._watch is not None:
            scope.watch = partial(self._watch.take, scope)
        current_scope.set(scope)  # a factory may take the time as a step
        if run.component is not None:
            reach = partial(replaced, self._config)
            team = load_component(run.component, name=run.workflow, reach=reach)
        else:
            parameters = json.loads(run.parameters or "{}")
            team = await build(partial(self._factory(run.workflow), **parameters), self.made)
        models = self.wrap if run.component is None else partial(self._wrap_made, run.id)
        effects = {name: Effect(effect) for name, effect in self._config.tools.items()}
        bind(team, scope, models, effects=effects)
        return Attempt(team, scope)

    def version(self, run: Run) -> str | None:
        """Hash the source of the run's team: the component, or the module of its factory.

        None if the source is unknown. Raises CallerError if there is no such factory.
        """
        if run.component is not None:
            return _hash(run.component)
        factory = inspect.unwrap(self._factory(run.workflow))
        try:
            return _hash(Path(inspect.getfile(factory)).read_text(encoding="utf-8"))
        except (TypeError, OSError, UnicodeDecodeError):
            return None  # typed into a shell, or built in

    def is_imported(self, run: Run) -> bool:
        """Whether the code of the run's team is imported, if it has any."""
        target = self._config.workflows.get(run.workflow, run.workflow)
        is_known = run.component is not None or run.workflow in self._factories
        return is_known or target.partition(":")[0] in sys.modules

    def knows(self, run: Run) -> bool:
        """Whether the run's workflow was registered in this process."""
        return run.workflow in self._factories

    def can_build(self, run: Run) -> bool:
        """Whether this process can build a run: any process can, or its workflow is known here."""
        return is_portable(run) or run.workflow in self.names

    @property
    def names(self) -> tuple[str, ...]:
        """Names of workflows in this process, registered or configured."""
        return (*self._factories, *self._config.workflows)

    async def release(self, run_id: str) -> None:
        """Close the provider clients that a run's component file made; no other run has them."""
        for client in self._run_clients.pop(run_id, ()):
            await client.close()

    def client(
        self,
        model: "str | ChatCompletionClient",
        scope: "RunScope",
        *,
        priority: Priority | str | None = None,
        **arguments: Any,
    ) -> "ChatCompletionClient":
        """Make a client of a scope by the name of a model, or around the user's own."""
        from headway_agents import around

        made = self.made(model, priority=priority, **arguments)
        return around(made, lambda each: cast("ScheduledClient", each).bound(scope))

    def made(
        self,
        model: "str | ChatCompletionClient",
        *,
        priority: Priority | str | None = None,
        **arguments: Any,
    ) -> "ChatCompletionClient":
        """Make a client for a factory, not yet bound to the run. This is its ``models``."""
        for name in _OF_AGENTS.intersection(arguments):
            raise CallerError(
                f"{name} cannot be given to models(…): each agent gives its own with every request"
            )
        if isinstance(model, str):
            return self.model(model).asking(_priority(priority), arguments)
        from headway_agents import around

        return around(model, lambda each: self.wrap(each).asking(_priority(priority), arguments))

    def model(self, name: str) -> "ScheduledClient":
        """Make a client for a model of the configuration, not yet bound to a run."""
        from headway_agents import ScheduledClient

        if name not in self._clients:
            found = of_model(self._config, name)
            wrapped = self._wrapped_client(found)
            model, others = self._model(completed(found, wrapped)), self._others(found, wrapped)
            self._clients[name] = ScheduledClient(wrapped, model, others=others)
        return self._clients[name]

    def wrap(self, client: "ChatCompletionClient") -> "ScheduledClient":
        """Make a client around the user's own, on the quotas of the server that it asks."""
        from headway_agents import ScheduledClient

        found = of_client(self._config, client)
        if self.only_server is not None and not is_at(found, self.only_server):
            raise CallerError(
                f"this Headway is simulated, and a client asks {found.shown}: leave out its "
                f'address, or name the model, as in models("{found.name}")'
            )
        model, others = self._model(found), self._others(found, client)
        return ScheduledClient(client, model, others=others)

    def openai(
        self, name: str, scope: "Callable[[], RunScope]", *, priority: Priority | str | None = None
    ) -> "AsyncOpenAI":
        """Make OpenAI's own client for a configured model; its calls belong to ``scope()``."""
        from headway_agents.openai_sdk.client import openai_sdk, scheduled

        found = of_model(self._config, name)
        if found.settings.client != OPENAI:
            raise CallerError(
                f"model {name!r} is asked through client {found.settings.client!r}, and hw.openai "
                'speaks OpenAI\'s protocol: use hw.model, or a model of client "openai"'
            )
        if name not in self._sdks:
            self._sdks[name] = openai_sdk(key_of(found), found.address)
        return scheduled(
            self._sdks[name],
            self._model(found),
            scope,
            priority=_priority(priority),
            lanes=[self._model(found, lane) for lane in _lanes(found) if lane is not _BATCH],
        )

    def _others(
        self, reached: Reached, client: "ChatCompletionClient"
    ) -> "list[tuple[ChatCompletionClient, Model, int]]":
        """List what may answer for a model, with its rank: lanes, deployments, fallbacks."""
        from headway_agents import takes_tiers

        settings = reached.settings
        ranked = [(other, 0) for other in settings.deployments]
        ranked += [(other, rank) for rank, other in enumerate(settings.fallbacks, start=1)]
        own = _lanes(reached) if takes_tiers(client) else ()
        # The process that leads hands batches in, at the address and with the key of the table.
        if _BATCH in own and of_model(self._config, reached.model).address != reached.address:
            own = [lane for lane in own if lane is not _BATCH]
        others = [(client, self._model(completed(reached, client), lane), 0) for lane in own]
        for other, rank in ranked:
            found = of_model(self._config, other)
            wrapped = self._wrapped_client(found)
            lanes = _lanes(found) if takes_tiers(wrapped) else ()
            for lane in (ServiceLane.STANDARD, *lanes):
                others.append((wrapped, self._model(completed(found, wrapped), lane), rank))
        return others

    def _model(self, reached: Reached, lane: ServiceLane = ServiceLane.STANDARD) -> "Model":
        """Return how calls of a model are scheduled by a lane.

        Raises CallerError if one of its quotas is in dollars and the model has no price.
        """
        from headway_agents import CallLimits, Model

        settings = reached.settings
        share = self._config.batch_usd_factor if lane is ServiceLane.BATCH else None
        price = partial(stated_cost, reached, lane=lane, share=share)
        counts_usd = self._config.counts_usd(reached.quotas)
        if counts_usd:
            price(Usage(1, 1))
        limits = CallLimits(
            settings.max_answer_mb,
            settings.connect_timeout,
            settings.first_byte_timeout,
            settings.idle_timeout,
            settings.call_timeout,
        )
        quotas = reached.quotas
        classes: tuple[Priority, ...] = ()
        match lane:
            case ServiceLane.STANDARD:
                pass
            case ServiceLane.FLEX:
                quotas = (self._config.lane_quota(reached.model, lane), *quotas)
                limits = self._flex_limits(reached.model, limits)
                classes = (Priority.BACKGROUND,)
            case ServiceLane.BATCH:
                # Nothing of a batch counts against the limits of requests and tokens a minute.
                own = self._config.lane_quota(reached.model, lane)
                quotas = (own, *self._money_quotas(quotas))
                classes = (Priority.BACKGROUND,)
            case ServiceLane.PRIORITY:
                classes = tuple(map(arguments.priority, settings.priority_for))
            case _:
                assert_never(lane)
        return Model(
            reached.model,
            quotas,
            settings.idempotency_header,
            price=price,
            provider=PROVIDERS[reached.provider],
            counts_usd=counts_usd,
            limits=limits,
            write_price=partial(write_cost, reached, lane=lane, share=share),
            charge_of=charge_of(reached, share),
            address=None if reached.address is None else reached.shown,
            lane=lane,
            classes=classes,
            patience=None if settings.patience is None else patience_seconds(settings.patience),
        )

    def _money_quotas(self, quotas: Iterable[str]) -> tuple[str, ...]:
        """Return those of some quotas that limit dollars, and nothing else."""
        limits = {name: self._config.quotas[name].limits for name in quotas}
        return tuple(k for k, v in limits.items() if all(each.resource.is_money for each in v))

    def _flex_limits(self, name: str, limits: "CallLimits") -> "CallLimits":
        """Return the time limits of flex, which is slower: longer ones where none is stated."""
        # OpenAI's advice for flex is 15 min.
        longer: dict[str, Any] = {"first_byte_timeout": 900.0, "call_timeout": 3600.0}
        settings = self._config.settings
        unset = {
            key: seconds
            for key, seconds in longer.items()
            if (found := settings.get(("models", name, key))) is None or found.source == DEFAULT
        }
        return replace(limits, **unset)

    def _watched(self) -> "Watch":
        """Watch what goes past the scheduler, until :meth:`close`."""
        from headway_agents.bypass import Watch, watch

        watch()
        quotas_of = lru_cache(maxsize=256)(partial(quotas_past, self._config))
        is_refused = self._config.bypass == "refuse"
        return Watch(quotas_of, is_refused, asyncio.get_running_loop())

    async def close(self) -> None:
        """Close the provider clients that this process made, and watch no more."""
        if self._watch is not None:
            from headway_agents.bypass import unwatch

            self._watch = None
            unwatch()
        for client in self._wrapped.values():
            await client.close()
        self._wrapped.clear()
        self._clients.clear()
        for sdk in self._sdks.values():
            await sdk.close()
        self._sdks.clear()

    def _wrap_made(self, run_id: str, client: "ChatCompletionClient") -> "ScheduledClient":
        self._run_clients.setdefault(run_id, []).append(client)
        return self.wrap(client)

    def _factory(self, workflow: str) -> Callable[..., Any]:
        from headway_agents import load_factory

        target = self._config.workflows.get(workflow, workflow)
        return self._factories.get(workflow) or load_factory(target)

    def _component_text(self, file: str) -> str:
        from headway_agents import redacted

        path = Path(file)
        if not path.is_absolute() and self._config.file is not None and not path.exists():
            path = self._config.file.parent / path
        try:
            return redacted(path.read_text(encoding="utf-8"), name=str(path))
        except FileNotFoundError:
            raise CallerError(f"no component file {path}: check the path") from None
        except (OSError, UnicodeDecodeError) as error:
            raise CallerError(f"component file {path} cannot be read: {error}") from error

    def _wrapped_client(self, reached: Reached) -> "ChatCompletionClient":
        """Return the one provider client of a model: each is heavy, and holds connections."""
        if reached.model not in self._wrapped:
            self._wrapped[reached.model] = built(reached)
        return self._wrapped[reached.model]


def _place(factory: Callable[..., Any]) -> tuple[object, object]:
    """Return where a function is defined: a notebook's cell that is run again defines it anew."""
    return getattr(factory, "__module__", None), getattr(factory, "__qualname__", factory)


def _checked_factory(name: str, factory: object) -> Callable[..., Any]:
    """Check that it can be called with ``models``. Raises CallerError, which says what to do."""
    advice = (
        f"hw.workflow({name!r}) takes a function that makes a fresh team for each run: "
        "def make(models): return RoundRobinGroupChat(…)"
    )
    if not callable(factory):
        raise CallerError(f"a {type(factory).__name__} is no factory: {advice}")
    try:
        inspect.signature(factory).bind_partial(None)
    except TypeError:
        raise CallerError(f"{_place(factory)[1]} takes no argument: {advice}") from None
    except ValueError:  # a built-in: it does not say what it takes
        pass
    return factory


def _lanes(reached: Reached) -> list[ServiceLane]:
    """List the lanes of a model beside the standard one."""
    lanes = [ServiceLane(lane) for lane in reached.settings.lanes]
    return [*lanes, ServiceLane.PRIORITY] if reached.settings.priority_for else lanes


def is_portable(run: Run) -> bool:
    """Whether any process that has the code can build a run: no registered factory is named."""
    return run.component is not None or ":" in run.workflow


async def import_autogen() -> None:
    """Import what every team needs, if it is not."""
    # It takes seconds. A leader whose loop is blocked for so long is replaced. A second run waits
    # in a thread too: while the first imports it, the module is there without its classes.
    module = sys.modules.get("autogen_ext.models.openai")
    if not hasattr(module, "OpenAIChatCompletionClient"):
        await to_thread.run_sync(_import_autogen)


def asking_scope() -> "RunScope | None":
    """Return the scope of the run whose code asks; None outside of runs."""
    # While this module is not there, no run has begun; to import it here would block the loop.
    context = getattr(sys.modules.get("headway_agents.scope"), "current_scope", None)
    scope: RunScope | None = None if context is None else context.get()
    return scope


def _import_autogen() -> None:
    """Import what every team needs, and what prices its answers."""
    # All that is imported stays: looking for garbage meanwhile takes a quarter of the time.
    is_collecting = gc.isenabled()
    gc.disable()
    try:
        import genai_prices.data_snapshot  # noqa: F401

        import headway_agents.bypass  # noqa: F401
    finally:
        if is_collecting:
            gc.enable()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _priority(given: Priority | str | None) -> Priority | None:
    return None if given is None else arguments.priority(given)

"""Options of a run, beside its workflow and its task: keywords of several verbs."""

import json
import logging
import secrets
from collections.abc import Mapping
from typing import Any, TypedDict

from headway_scheduler.errors import CallerError
from headway_scheduler.model.calls import Priority, ServiceLane
from headway_scheduler.model.data import replace
from headway_scheduler.model.runs import Run, Task
from headway_scheduler.model.states import RunState

from .. import arguments
from ..config import Config
from ..workflows import Workflows

_log = logging.getLogger("headway")
_ID_ALPHABET = "23456789abcdefghjkmnpqrstvwxyz"  # no letters that are read as others


class RunOptions(TypedDict, total=False):
    """Keywords of ``Headway.retry``; None is as good as left out: the run keeps what it had."""

    team: str | None
    """Whose share of the quotas the run draws on, beside other teams. Default: its workflow's."""

    parameters: Mapping[str, Any] | None
    """Keyword arguments for the workflow's factory: JSON values. Default: none."""

    budget_usd: float | None
    """Cap on the cost of all calls of the run together, in US dollars. Default: no limit."""

    deadline_seconds: float | None
    """How long the run may take, from when it is submitted or retried. Default: no limit."""

    lane: ServiceLane | str | None
    """``flex`` or ``batch``: its background calls go by that lane of their model, if it has it.
    Default: ``standard``."""


class StartOptions(RunOptions, total=False):
    """Keywords of ``Headway.run``, ``start`` and ``submit``; None is as good as left out."""

    priority: Priority | str | None
    """The class of its calls, or the word for it. Default: the configured one."""

    key: str | None
    """An idempotency key: if a run has it already, that run counts. Default: none."""


def new_run(
    workflows: Workflows,
    config: Config,
    now: float,
    workflow: str,
    task: object,
    options: StartOptions,
) -> tuple[Run, Priority]:
    """Return a run in a class that is permitted, and the class that was asked for.

    Raises CallerError for what cannot be a run.
    """
    name, component = workflows.describe(arguments.text("workflow", workflow))
    return described_run(config, now, name, component, arguments.task(task), options)


def described_run(
    config: Config,
    now: float,
    name: str,
    component: str | None,
    given: Task,
    options: StartOptions,
) -> tuple[Run, Priority]:
    """Return the run of a workflow that is known by what its row keeps, as :func:`new_run`."""
    run = Run(
        new_run_id(),
        name,
        given.text,
        config.priority,
        RunState.QUEUED,
        now,
        component=component,
        messages=given.messages,
    )
    asked = with_options(run, now, **options)
    if options.get("priority") is None:
        team = name if asked.team is None else asked.team
        own = config.priority_of_teams.get(team, config.priority)
        asked = replace(asked, priority=own)
    run = permitted(asked, config)
    check_lane(run, config)
    return run, asked.priority


def permitted(run: Run, config: Config) -> Run:
    """Return a run in the most urgent class that its team may ask for, if it asks for more."""
    highest = config.highest_of_teams.get(run.share, config.highest_of_all)
    if run.priority >= highest:
        return run
    _log.warning(
        "run %s is %s: it asks for %s, and that is the most urgent class that team %r may ask for "
        "(teams.NAME.highest, defaults.highest)",
        run.id,
        highest.label,
        run.priority.label,
        run.share,
    )
    return replace(run, priority=highest)


def check_lane(run: Run, config: Config) -> None:
    """Raise CallerError if no model has the lane of a run; warn if no call of it may take it."""
    if run.lane is ServiceLane.STANDARD:
        return
    if not any(run.lane in each.lanes for each in config.models.values()):
        raise CallerError(
            f"no model has the lane {run.lane.value!r}: write "
            f'lanes = ["{run.lane.value}"] into its table, [models.NAME]'
        )
    if run.priority is not Priority.BACKGROUND:
        _log.warning(
            "run %s is %s: only background calls go by %s",
            run.id,
            run.priority.label,
            run.lane.value,
        )


def new_run_id() -> str:
    """Return a fresh id, short enough to be read out."""
    return "r-" + "".join(secrets.choice(_ID_ALPHABET) for _ in range(8))


def with_options(
    run: Run,
    now: float,
    *,
    priority: Priority | str | None = None,
    key: str | None = None,
    team: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    budget_usd: float | None = None,
    deadline_seconds: float | None = None,
    lane: ServiceLane | str | None = None,
) -> Run:
    """Return ``run`` with its :class:`StartOptions`. Raises CallerError for a wrong value."""
    changes: dict[str, Any] = {}
    if priority is not None:
        changes["priority"] = arguments.priority(priority)
    if key is not None:
        changes["key"] = arguments.text("key", key)
    if parameters is not None:
        changes["parameters"] = _json(parameters)
    if deadline_seconds is not None:
        changes["deadline"] = now + arguments.amount("deadline_seconds", deadline_seconds)
    if budget_usd is not None:
        changes["budget_usd"] = arguments.amount("budget_usd", budget_usd)
    if team is not None:
        changes["team"] = arguments.text("team", team)
    if lane is not None:
        changes["lane"] = arguments.lane(lane)
    return replace(run, **changes)


def _json(parameters: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(dict(arguments.mapping("parameters", parameters)), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise CallerError(f"parameters of a run must be JSON values: {error}") from None
    return arguments.long_text("parameters as JSON", text)

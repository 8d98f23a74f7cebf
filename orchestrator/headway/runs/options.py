"""What a run may be given beside its workflow and its task: keywords of several verbs."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypedDict

from headway_scheduler.errors import CallerError
from headway_scheduler.model.runs import Run


class RunOptions(TypedDict, total=False):
    """Keywords of ``Headway.run``, ``start``, ``submit`` and ``retry``.

    None is as good as left out; a retried run keeps what it had.
    """

    team: str | None
    """Whose share of the quotas the run draws on, beside other teams. Default: its workflow's."""

    parameters: Mapping[str, Any] | None
    """Keyword arguments for the workflow's factory: JSON values. Default: none."""

    budget_usd: float | None
    """What all calls of the run may cost together, in US dollars. Default: no limit."""

    deadline_seconds: float | None
    """How long the run may take, from when it is submitted or retried. Default: no limit."""


def with_options(
    run: Run,
    now: float,
    *,
    team: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    budget_usd: float | None = None,
    deadline_seconds: float | None = None,
) -> Run:
    """Return ``run`` with its :class:`RunOptions`. Raises CallerError for what JSON has not."""
    changes: dict[str, Any] = {}
    if parameters is not None:
        changes["parameters"] = _json(parameters)
    if deadline_seconds is not None:
        changes["deadline"] = now + deadline_seconds
    if budget_usd is not None:
        changes["budget_usd"] = budget_usd
    if team is not None:
        changes["team"] = team
    return replace(run, **changes)


def _json(parameters: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(parameters))
    except (TypeError, ValueError) as error:
        raise CallerError(f"parameters of a run must be JSON values: {error}") from None

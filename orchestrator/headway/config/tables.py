"""Tables of the configuration, as others read them. Law of this file: data only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headway_scheduler.model.notices import NoticeKind


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    """A run that is queued again and again."""

    cron: str
    """Minute, hour, day of the month, month, day of the week."""

    zone: str
    """The time zone that ``cron`` is of."""

    workflow: str
    """As for ``headway submit``, or the name of a workflow that a program registers."""

    task: str
    """What its team is to do."""

    overlap: str
    """``skip``, ``buffer_one`` or ``allow_all``: what becomes of a time that comes too early."""

    catchup_window: float
    """How old a missed time may be when it is caught up, in seconds."""

    priority: str | None
    """The class of its calls. Default: the configured one."""

    team: str | None
    """Whose share it draws on. Default: its workflow's."""

    parameters: Mapping[str, Any]
    """Keyword arguments for the factory."""

    budget_usd: float | None
    """Cap on the cost of each run, in US dollars. Default: no limit."""

    deadline: float | None
    """How long a run may take, in seconds from when it is queued. Default: no limit."""

    lane: str | None
    """The lane of its background calls. Default: the standard one."""


@dataclass(frozen=True, slots=True)
class NotifyConfig:
    """What is told to the world outside, and whom: ``url`` or ``command``, one of them."""

    url: str | None
    """The address to which it is posted."""

    secret_env: str | None
    """The variable that holds the secret of the signature, which is never part of a Config."""

    command: str | None
    """The command that gets it on its standard input."""

    events: tuple[str, ...]
    """What is told."""

    @property
    def kinds(self) -> tuple[NoticeKind, ...]:
        """What is told; nothing, if nobody is named to be told."""
        is_told = self.url is not None or self.command is not None
        return tuple(map(NoticeKind, self.events)) if is_told else ()

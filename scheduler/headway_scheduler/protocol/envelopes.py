"""The rows between a follower and the leader: batches of messages, answers, notifications.

Law: data only. Each is one row: a request in table ``inbox``, its answer beside it, a notification
in table ``outbox``.

Theory of operation. A worker sends *message batches* and reads *notifications*; the commit that
carries a batch out also writes the notification of it. Whoever asks a *command* looks for its
answer. An error travels as the name of its class and its words, and is raised where it was asked,
as if it had happened there.
"""

from ..model.calls import Route
from ..model.changes import Change
from ..model.runs import Worker, WorkerId
from .commands import Command, Order
from .messages import Message
from .tagged import Tagged


class MessageBatch(Tagged, frozen=True, tag=True, omit_defaults=True):
    """All messages that a worker sends the leader at once, in order."""

    worker_id: WorkerId
    messages: tuple[Message, ...]
    seen: int = 0
    """The id of the last notification that the worker has read: older ones are deleted."""
    joins: Worker | None = None
    """The worker's row, in its first batch. Default: the leader knows it."""


Request = MessageBatch | Command
"""A request to the leader."""

WORKER, ASKER = "w-", "c-"
"""How the sender of a request begins: of a batch the id of the worker, of a command another one."""


class Refused(Tagged, frozen=True, tag=True, omit_defaults=True):
    """An error: what was asked was not done."""

    error: str
    """The name of its class."""
    text: str
    """Its words."""


class Done(Tagged, frozen=True, tag=True, omit_defaults=True):
    """A command was carried out."""

    change: Change | None = None
    """The change that it made. Default: it was no command of limits, weights or holds."""


Answer = Done | Refused
"""The answer to a command."""


class Grant(Tagged, frozen=True, tag=True, omit_defaults=True):
    """A call may be sent now."""

    call_id: str
    admitted_at: float
    """Epoch seconds."""
    attempts: int
    """How often it was admitted, this time included."""
    route: Route
    """The model that it goes to, and what it holds there."""


class Refusal(Tagged, frozen=True, tag=True, omit_defaults=True):
    """A message of a batch was not taken."""

    index: int
    """Its place in the batch, from 0."""
    error: Refused


class CallRefusal(Tagged, frozen=True, tag=True, omit_defaults=True):
    """A call that waited can never be sent: it has failed."""

    call_id: str
    error: Refused


class Handled(Tagged, frozen=True, tag=True, omit_defaults=True):
    """A batch was carried out, and is on disk with all that followed of it."""

    request_id: int
    refusals: tuple[Refusal, ...] = ()
    unreadable: str = ""
    """Why nothing of it could be read. Default: it was read."""


class Notification(Tagged, frozen=True, tag=True, omit_defaults=True):
    """All that the leader tells a worker at once."""

    grants: tuple[Grant, ...] = ()
    handled: tuple[Handled, ...] = ()
    preempt: tuple[str, ...] = ()
    """Ids of calls whose requests are to be cancelled and queued again."""
    orders: tuple[Order, ...] = ()
    unanswered: tuple[str, ...] = ()
    """All the quotas whose providers have answered nobody since their last fault."""
    locked_out: tuple[str, ...] = ()
    """All the quotas whose accounts are locked out: a bad key, no money."""
    evicted: bool = False
    """Whether others took the worker's runs, because it showed no life."""
    refused: tuple[CallRefusal, ...] = ()
    """Calls that waited and can never be sent."""
    one_fails: tuple[str, ...] = ()
    """All the quotas whose faults since the provider's last answer were of one call."""

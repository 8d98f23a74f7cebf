"""OpenAI's own SDK, scheduled: for memory stores, tools and embeddings.

Law of this file: the SDK works as ever; only when it sends is decided here.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import openai

from headway_scheduler.errors import HeadwayError
from headway_scheduler.model.calls import Priority

from ..calls.models import Model
from ..scope import RunScope
from .transport import Transport


class _Client(openai.AsyncOpenAI):
    """Raises what the transport raised. Before version 3 the SDK calls it a lost connection."""

    async def request(self, *args: Any, **kwargs: Any) -> Any:
        """Ask as the SDK does."""
        try:
            return await super().request(*args, **kwargs)
        except openai.APIConnectionError as error:
            if not isinstance(error.__cause__, HeadwayError | openai.OpenAIError):
                raise
            raised = error.__cause__
        raise raised  # outside of the handler, else it would be the context of its own cause


class ScheduledHttpClient(openai.DefaultAsyncHttpxClient):
    """The HTTP client of a scheduled SDK: what it sends goes through the scheduler."""

    sends_scheduled: ClassVar[bool] = True


def openai_sdk(key: str, base_url: str | None) -> openai.AsyncOpenAI:
    """Make the SDK's client for OpenAI, or for the server at ``base_url``, not yet scheduled.

    Its own retries are off: they would spend budget that nobody admitted.
    """
    return _Client(api_key=key, base_url=base_url, max_retries=0)


def scheduled(
    sdk: openai.AsyncOpenAI,
    model: Model,
    scope: Callable[[], RunScope],
    *,
    priority: Priority | None = None,
    lanes: Sequence[Model] = (),
) -> openai.AsyncOpenAI:
    """Return a client whose calls are scheduled, and sent by the HTTP client of ``sdk``.

    They draw on the quotas of ``model``, whatever model they name, and belong to the run that
    ``scope`` returns at the time. ``lanes``: ``model`` by other lanes of its provider. Closing it
    leaves ``sdk`` open.
    """
    transport = Transport(sdk, model, scope, priority=priority, lanes=lanes)
    return sdk.copy(http_client=ScheduledHttpClient(transport=transport))

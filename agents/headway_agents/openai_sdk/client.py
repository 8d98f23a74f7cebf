"""OpenAI's own SDK, scheduled. Law of this file: the SDK keeps its ways, but for who sends.

For what does not ask through AutoGen's model clients: memory stores, tools, embeddings.
"""

from collections.abc import Callable
from typing import Any

import openai

from headway_scheduler.errors import HeadwayError
from headway_scheduler.model.calls import Priority

from ..calls.models import Model
from ..scope import RunScope
from .transport import Transport


class _Client(openai.AsyncOpenAI):
    """Before its version 3 the SDK takes whatever a transport raises for a lost connection."""

    async def request(self, *args: Any, **kwargs: Any) -> Any:
        """Ask as ever; what the transport raised comes out as it is."""
        try:
            return await super().request(*args, **kwargs)
        except openai.APIConnectionError as error:
            if not isinstance(error.__cause__, HeadwayError | openai.OpenAIError):
                raise
            raised = error.__cause__
        raise raised  # out here it does not become the context of its own cause


def openai_sdk(key: str, base_url: str | None) -> openai.AsyncOpenAI:
    """Make the SDK's client for OpenAI, or for the server at ``base_url``: it is not scheduled.

    Without retries of its own: they would spend budget that nobody admitted.
    """
    return _Client(api_key=key, base_url=base_url, max_retries=0)


def scheduled(
    sdk: openai.AsyncOpenAI,
    model: Model,
    scope: Callable[[], RunScope],
    priority: Priority | None = None,
) -> openai.AsyncOpenAI:
    """Return a client whose calls are scheduled, and go out through that of ``sdk``.

    They draw on the quotas of ``model``, whatever model they name, and belong to the run that
    ``scope`` returns at the time. Closing it leaves ``sdk`` open.
    """
    transport = Transport(sdk, model, scope, priority)
    return sdk.copy(http_client=openai.DefaultAsyncHttpxClient(transport=transport))

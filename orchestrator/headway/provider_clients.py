"""Builds the clients of configured models. Law of this file: what is built is what was reached."""

from typing import TYPE_CHECKING

from .config.clients import kind_of
from .paired_keys import NO_KEY, OWN, KeySource
from .reached import Reached, key_of

if TYPE_CHECKING:
    from autogen_core.models import ChatCompletionClient

_ADDRESS_OF = {"azure": "azure_endpoint", "local": "host"}
"""The argument of a class of clients that takes the address, by its provider; else base_url."""


def class_of(reached: Reached) -> "type[ChatCompletionClient]":
    """Import the class of the client of a model of the configuration. Raises CallerError."""
    from headway_agents import client_class

    kind = kind_of(client := reached.settings.client)
    path, package = (client, "") if kind is None else (kind.path, kind.package)
    return client_class(path, reached.model, package)


def built(reached: Reached) -> "ChatCompletionClient":
    """Build the client of a model of the configuration. Raises CallerError."""
    from headway_agents import build_client, provider_of

    settings, kind, address = reached.settings, kind_of(reached.settings.client), {}
    made = class_of(reached)
    provider = provider_of(made)
    if reached.address is not None:
        field = _ADDRESS_OF.get(provider, "base_url") if kind is None else kind.address
        address = {field: reached.address}
    key = None if reached.key_from is KeySource.CLIENT else key_of(reached)
    if key == NO_KEY and provider not in OWN:
        key = None  # only the SDKs that take keys insist on one
    return build_client(
        made,
        reached.model,
        settings.arguments,
        name=reached.name,
        address=address,
        key=key,
    )

"""Says which server, key and quotas a client gets. The one place that knows.

Law of this file: whatever asks how a client is reached asks here; ``paired_keys.py`` says which key
may go to which address.

Theory of operation. A client is made by the configuration, by a component file or in code. For each
there is one :class:`Reached`, and building, quotas, prices, verdicts, ``doctor`` and errors read
that. A table ``[models.NAME]`` holds for every client of that name, unless it states another
server than the client asks. A client of a server that no table names draws on a quota of that
address alone, ``at HOST``.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, assert_never
from urllib.parse import urlsplit

from headway_scheduler.errors import CallerError
from headway_scheduler.model.quotas import GUESSED
from headway_scheduler.providers import OTHER, PROVIDERS, of_host

from .config import Config, ModelConfig
from .config.clients import CLIENTS, OPENAI, kind_of
from .paired_keys import (
    NO_KEY,
    OWN,
    KeySource,
    Own,
    key_of_component,
    key_of_model,
    origin,
    printed_key,
)

if TYPE_CHECKING:
    from autogen_core.models import ChatCompletionClient


_OF_A_NAME = {"gemini-": "gemini", "claude-": "anthropic", "Llama-": "llama"}
"""Models that AutoGen's client for OpenAI asks of others by itself, by how their names begin."""

_SERVERLESS = frozenset({"azure", "local", "bedrock"})
"""Providers without a server that is everybody's."""

_VARIABLES = {whose: own.address_variable for whose, own in OWN.items()} | {"local": "OLLAMA_HOST"}
"""The variables from which SDKs take an address, by provider."""

_NATIVE = {"anthropic": "https://api.anthropic.com", "ollama": "http://127.0.0.1:11434"}
"""The addresses of servers in their own protocols, by client."""

_ADDRESSES = ("base_url", "azure_endpoint", "host")
"""The fields of a client's config that say where it asks."""


@dataclass(frozen=True, slots=True)
class Reached:
    """How one client's server is reached, limited and paid."""

    model: str
    """The model as calls name it: by its table; of a client, as it shows it, else its class."""
    name: str
    """The model as its server names it."""
    provider: str
    """Whose charges, headers and errors these are, as in ``providers/``."""
    address: str | None
    """The address of the server; None if the client shows none."""
    said_by: str
    """Who says that address, for people: ``[models]``, a variable, a file, the provider."""
    key_from: KeySource
    """Where its key comes from."""
    key_name: str
    """The variable, or the command, that has the key; else empty."""
    quotas: tuple[str, ...]
    """The quotas that its calls draw on; answers speak of the first."""
    settings: ModelConfig
    """The settings that hold for it: limits of a call, prices, other routes."""
    file: str = ""
    """The component file that it is of, for messages; else empty."""

    @property
    def shown(self) -> str:
        """The address for messages: without user and query, and never empty."""
        return "an unknown address" if self.address is None else shown(self.address)


def of_model(config: Config, name: str) -> Reached:
    """Return how a model of the configuration is reached, by its name there."""
    configured = config.model(name)
    provider, address, said_by = _server(configured)
    key_from, key_name = key_of_model(configured, address)
    if key_from is KeySource.UNPAIRED and _needs_no_key(configured):
        key_from = KeySource.NONE if address else KeySource.CLIENT
    return Reached(
        name,
        configured.name,
        provider,
        address,
        said_by,
        key_from,
        key_name,
        configured.quotas,
        configured,
    )


def of_client(config: Config, client: "ChatCompletionClient") -> Reached:
    """Return how a client is reached that was made in code, or of a component file."""
    from headway_agents import provider_name, senders, shown_name

    name, found = shown_name(client), senders(client)
    settings, quotas = _settings_of(config, name, found.address)
    provider = settings.provider or _provider_at(found.address, provider_name(client))
    said_by, source = "the client", KeySource.CLIENT
    return Reached(name, name, provider, found.address, said_by, source, "", quotas, settings)


def of_component(config: Config, provider: str, client: Mapping[str, Any], file: str) -> Reached:
    """Return how a client of a component file is reached: ``provider`` is that of its class.

    What ``[models.NAME]`` says goes before the file.
    """
    model = str(client.get("model") or "")
    listed = config.models.get(model)
    stated = None if listed is None else listed.base_url
    own = OWN.get(provider)
    own_address = None if own is None else _own_address(own, model)
    in_file = next((str(client[each]) for each in _ADDRESSES if client.get(each)), None)
    address = stated or in_file or own_address
    variable = "" if own is None else own.address_variable
    of_variable = variable if own_address == os.environ.get(variable) else "its own"
    said_by = "[models]" if stated else file if in_file else of_variable
    settings, quotas = _settings_of(config, model, address)
    provider = settings.provider or _provider_at(address, provider)
    source, name = KeySource.NONE, ""
    if own is not None:
        source, name = key_of_component(listed, own, own_address, in_file)
    return Reached(
        model, model, provider, address, said_by, source, name, quotas, settings, file=file
    )


def replaced(config: Config, provider: str, client: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Return what of a component's client is other than its file says: its server, its key.

    Raises CallerError if nobody paired a key with the address.
    """
    found = of_component(config, provider, client, file)
    listed, fields = config.models.get(found.name), dict[str, Any]()
    if listed is not None and listed.base_url is not None:
        field = {"azure": "azure_endpoint", "local": "host"}.get(provider, "base_url")
        fields["azure_endpoint" if "azure_endpoint" in client else field] = listed.base_url
    if provider not in OWN:
        return fields if provider == "local" else {}
    if found.key_from is KeySource.UNPAIRED:
        raise unpaired(found)
    is_default = found.key_name == OWN[provider].key_variable and not fields
    if found.key_from is KeySource.VARIABLE and is_default:
        _remember(found.key_name)  # the SDK takes it from there itself
        return {}
    return {**fields, "api_key": key_of(found)}


def models_request(reached: Reached) -> tuple[str, dict[str, str]]:
    """Return the URL that lists a server's models, and the headers to ask it with: its key.

    Raises CallerError without a key. An ``api_key_command`` is run.
    """
    assert reached.address is not None
    address, key = reached.address.rstrip("/"), key_of(reached)
    headers = {} if key == NO_KEY else {"authorization": f"Bearer {key}"}
    if reached.provider == "azure" and "api_version" in reached.settings.arguments:
        version = reached.settings.arguments["api_version"]
        return f"{address}/openai/models?api-version={version}", {"api-key": key}
    if reached.provider == "anthropic":
        own = {"anthropic-version": "2023-06-01"} | ({} if key == NO_KEY else {"x-api-key": key})
        return f"{address.removesuffix('/v1')}/v1/models", own
    is_ollama = kind_of(reached.settings.client) is CLIENTS["ollama"]
    is_ollama |= bool(reached.file) and reached.provider == CLIENTS["ollama"].provider
    return (f"{address}/api/tags" if is_ollama else f"{address}/models"), headers


def quotas_past(config: Config, server: tuple[str, str, int | None]) -> tuple[str, ...] | None:
    """Return the quota that a request past the scheduler is charged to; None for no provider.

    ``server``: scheme, host and port, None for the scheme's own port.
    """
    scheme, host, port = server
    address = f"{scheme}://{host}" if port is None else f"{scheme}://{host}:{port}"
    servers = (_server(each)[1] for each in config.models.values())
    if of_host(host) is None and not any(each and _is_same(each, address) for each in servers):
        return None
    return _settings_of(config, "", address)[1][:1]


# Servers


def _server(model: ModelConfig) -> tuple[str, str | None, str]:
    """Return provider, address and who says it, of a model of the configuration."""
    kind = kind_of(model.client)
    if (address := model.base_url) is not None:
        otherwise = "other" if kind is None else kind.provider
        return model.provider or _provider_at(address, otherwise), address, "[models]"
    if kind is None:
        return model.provider or "other", None, ""
    whose = kind.provider
    if kind is CLIENTS[OPENAI]:
        whose = _named_after(model.name) or model.provider or whose
        if whose in _SERVERLESS:
            return whose, None, ""
    variable = _VARIABLES.get(kind.provider, "")
    if whose == kind.provider and (stated := os.environ.get(variable)):
        address = stated if "://" in stated else f"http://{stated}"
        return model.provider or whose, address, variable
    own = OWN.get(whose, OWN[OPENAI])
    address = _NATIVE.get(model.client, own.address) or None
    otherwise = whose if whose in PROVIDERS else OTHER.name
    return model.provider or _provider_at(address, otherwise), address, "its own"


def _provider_at(address: str | None, otherwise: str) -> str:
    """Return the provider whose own server has an address."""
    found = None if address is None else of_host(origin(address)[1])
    return otherwise if found is None else found.name


def _named_after(model: str) -> str | None:
    """Return whom AutoGen's client for OpenAI asks for a model, if that is not OpenAI."""
    found = (whose for prefix, whose in _OF_A_NAME.items() if model.startswith(prefix))
    return next(found, None)


def _own_address(own: Own, model: str) -> str | None:
    """Return the address that a client of AutoGen's asks if nobody states one."""
    if own is OWN["openai"] and (other := _named_after(model)) is not None:
        return OWN[other].address
    return os.environ.get(own.address_variable) or own.address or None


def _settings_of(
    config: Config, name: str, address: str | None
) -> tuple[ModelConfig, tuple[str, ...]]:
    """Return the settings and quotas of a client by the model and the address that it shows.

    A table of the model's name holds unless it states another server. A model that is not listed
    has those of the default model at its server; elsewhere, the quotas of a model that is
    configured for that server, or else a quota of that address alone.
    """
    listed = config.models.get(name)
    default = listed or config.model(name)
    home = default.base_url if listed is not None else _server(default)[1]
    is_anywhere = listed is not None and home is None
    if address is None or is_anywhere or (home is not None and _is_same(home, address)):
        return default, default.quotas
    blank = ModelConfig(name, ())
    for other in config.models.values():
        if other.base_url is not None and _is_same(other.base_url, address):
            return replace(blank, provider=other.provider), other.quotas
    return blank, (guessed_quota(address),)


def _needs_no_key(model: ModelConfig) -> bool:
    """Whether a client gets none of us: Ollama knows none, and other classes may have their own."""
    kind = kind_of(model.client)
    return kind is CLIENTS["ollama"] or (kind is None and model.base_url is None)


def completed(reached: Reached, client: "ChatCompletionClient") -> Reached:
    """Return how a model is reached whose client is of a class that only its object tells of."""
    if kind_of(reached.settings.client) is not None:
        return reached
    from headway_agents import provider_name, senders

    address = reached.address or senders(client).address
    provider = reached.settings.provider or _provider_at(address, provider_name(client))
    return replace(reached, address=address, provider=provider)


def guessed_quota(address: str) -> str:
    """Return the name of the quota of an address that nobody configured."""
    scheme, host, port = origin(address)
    is_plain = port in (None, {"https": 443, "http": 80}.get(scheme))
    return f"{GUESSED}{host}" if is_plain else f"{GUESSED}{host}:{port}"


# Keys


def key_of(reached: Reached) -> str:
    """Return the key of a client that is built here. Raises CallerError if there is none."""
    from headway_agents import remember

    model = reached.model
    match reached.key_from:
        case KeySource.NONE | KeySource.CLIENT:
            return NO_KEY
        case KeySource.COMMAND:
            key = printed_key(model, reached.key_name)
        case KeySource.VARIABLE:
            if not (key := os.environ.get(reached.key_name, "")):
                raise CallerError(
                    f"model {model!r} needs {reached.key_name} in the environment: "
                    f"export it (`headway demo` runs without any key)"
                )
        case KeySource.UNPAIRED:
            raise unpaired(reached)
        case _:
            assert_never(reached.key_from)
    remember(key)
    if not (key.isascii() and key.isprintable() and " " not in key):
        # The HTTP library would say so, with the key in its words.
        is_printed = reached.key_from is KeySource.COMMAND
        where = "its api_key_command prints" if is_printed else f"{reached.key_name} holds"
        raise CallerError(
            f"model {model!r}: {where} no key, but a text with a line end, a space or another "
            f"character that no HTTP header takes: set it anew"
        )
    return key


def unpaired(reached: Reached) -> CallerError:
    """Return the error of a client whose address has no key."""
    name = reached.model
    if reached.address is None:
        return CallerError(
            f"model {name!r} names no server, and {reached.provider} has none of its own: set "
            f'base_url in [models."{name}"]'
        )
    whose = f"model {name!r} of {reached.file}" if reached.file else f"model {name!r}"
    lines = "base_url and api_key_env" if reached.file else "api_key_env"
    return CallerError(
        f"{whose} asks {reached.shown}, and no key is paired with it: set {lines} in "
        f'[models."{name}"], or keyless = true'
    )


def is_at(reached: Reached, address: str) -> bool:
    """Whether a client asks the server of an address, or none at all, as a replayed one."""
    return reached.address is None or _is_same(address, reached.address)


def _is_same(address: str, other: str | None) -> bool:
    return other is not None and origin(address) == origin(other)


def shown(address: str) -> str:
    """Return an address for messages: without user, query, fragment and last slash."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "an address that is none"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


def _remember(variable: str) -> None:
    from headway_agents import remember

    remember(os.environ.get(variable))

"""Says which server, key and quotas a client gets. The one place that knows.

Law of this file: a key goes only to an address that the user paired it with. A component file may
come from anybody, and its address too; so it names no key, and its address gets none by default. A
server of the configuration gets the key that its own table names, and no other provider's.

Theory of operation. A client is made by the configuration, by a component file or in code. For each
there is one :class:`Reached`, and building, quotas, prices, verdicts, ``doctor`` and errors read
that. A table ``[models.NAME]`` holds for every client of that name, unless it states another
server than the client asks. A client of a server that no table names draws on a quota of that
address alone, ``at HOST``.
"""

import os
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NamedTuple, assert_never
from urllib.parse import urlsplit

from headway_scheduler.errors import CallerError
from headway_scheduler.model.quotas import GUESSED
from headway_scheduler.providers import of_host

from .config import Config, ModelConfig

if TYPE_CHECKING:
    from autogen_core.models import ChatCompletionClient


class _Own(NamedTuple):
    """A provider's own address, and the variables that pair a key with an address."""

    address: str
    key_variable: str
    address_variable: str = "-"


_OWN = {
    "openai": _Own("https://api.openai.com/v1", "OPENAI_API_KEY", "OPENAI_BASE_URL"),
    "azure": _Own("", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT"),
    "anthropic": _Own("https://api.anthropic.com/v1/", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"),
    "gemini": _Own("https://generativelanguage.googleapis.com/v1beta/openai/", "GEMINI_API_KEY"),
    "llama": _Own("https://api.llama.com/compat/v1/", "LLAMA_API_KEY"),
}
"""Providers whose SDKs, or AutoGen's clients, take a key from the environment by themselves. The
addresses are those where they speak OpenAI's protocol."""

_OF_A_NAME = {"gemini-": "gemini", "claude-": "anthropic", "Llama-": "llama"}
"""Models that AutoGen's client for OpenAI asks of others by itself, by how their names begin."""

_SERVERLESS = frozenset({"azure", "local", "bedrock"})
"""Providers without a server that is everybody's."""

_ADDRESSES = ("base_url", "azure_endpoint")
"""The fields of a client's config that say where it asks."""

NO_KEY = "no-key"
"""The key for a server that needs none: SDKs insist on a key."""

KEY_COMMAND_SECONDS = 30.0
"""How long a command may take to print a key; a password manager may ask a person first."""


class KeySource(StrEnum):
    """Where a client's key comes from."""

    VARIABLE = "variable"  # of the environment
    COMMAND = "command"  # that prints it
    NONE = "none"  # its server is asked without one
    CLIENT = "client"  # made in code, with its key
    UNPAIRED = "unpaired"  # nobody paired a key with the address


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

    @property
    def shown(self) -> str:
        """The address for messages: without user and query, and never empty."""
        return "an unknown address" if self.address is None else shown(self.address)


def of_model(config: Config, name: str) -> Reached:
    """Return how a model of the configuration is reached, by its name there."""
    configured = config.model(name)
    provider, address, said_by = _server(configured)
    key_from, key_name = _key_of_model(configured, address)
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
    own = _OWN.get(provider)
    own_address = None if own is None else _own_address(own, model)
    in_file = next((str(client[each]) for each in _ADDRESSES if client.get(each)), None)
    address = stated or in_file or own_address
    said_by = "[models]" if stated else file if in_file else "its own"
    settings, quotas = _settings_of(config, model, address)
    provider = settings.provider or _provider_at(address, provider)
    source, name = KeySource.NONE, ""
    if own is not None:
        source, name = _key_of_component(config, model, own, in_file)
    return Reached(model, model, provider, address, said_by, source, name, quotas, settings)


def replaced(config: Config, provider: str, client: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Return what of a component's client is other than its file says: its server, its key.

    Raises CallerError if nobody paired a key with the address.
    """
    if provider not in _OWN:
        return {}
    found = of_component(config, provider, client, file)
    listed, fields = config.models.get(found.name), dict[str, Any]()
    if listed is not None and listed.base_url is not None:
        fields["azure_endpoint" if "azure_endpoint" in client else "base_url"] = listed.base_url
    if found.key_from is KeySource.UNPAIRED:
        raise CallerError(
            f"model {client.get('model')!r} of {file} asks {found.shown}, and no key is paired "
            f'with it: set base_url and api_key_env in [models."{found.name}"], or keyless = true'
        )
    is_default = found.key_name == _OWN[provider].key_variable and not fields
    if found.key_from is KeySource.VARIABLE and is_default:
        _remember(found.key_name)  # the SDK takes it from there itself
        return {}
    return {**fields, "api_key": key_of(found)}


def quotas_at(config: Config, address: str) -> tuple[str, ...]:
    """Return the quotas that a request to an address draws on, of whatever model it is."""
    return _settings_of(config, "", address)[1]


def addresses(config: Config) -> list[str]:
    """Return the addresses of all models of the configuration."""
    servers = (_server(each)[1] for each in config.models.values())
    return [address for address in servers if address is not None]


# Servers


def _server(model: ModelConfig) -> tuple[str, str | None, str]:
    """Return provider, address and who says it, of a model of the configuration."""
    if (address := model.base_url) is not None:
        return model.provider or _provider_at(address, "openai"), address, "[models]"
    whose = _named_after(model.name) or model.provider or "openai"
    if whose in _SERVERLESS:
        return whose, None, ""
    own = _OWN.get(whose, _OWN["openai"])
    if stated := os.environ.get(own.address_variable):
        return model.provider or whose, stated, own.address_variable
    return model.provider or _provider_at(own.address, "other"), own.address, "its own"


def _provider_at(address: str | None, otherwise: str) -> str:
    """Return the provider whose own server has an address."""
    found = None if address is None else of_host(_origin(address)[1])
    return otherwise if found is None else found.name


def _named_after(model: str) -> str | None:
    """Return whom AutoGen's client for OpenAI asks for a model, if that is not OpenAI."""
    found = (whose for prefix, whose in _OF_A_NAME.items() if model.startswith(prefix))
    return next(found, None)


def _own_address(own: _Own, model: str) -> str | None:
    """Return the address that a client of AutoGen's asks if nobody states one."""
    if own is _OWN["openai"] and (other := _named_after(model)) is not None:
        return _OWN[other].address
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
    if listed is not None and (listed.base_url is None or _is_same(listed.base_url, address)):
        return listed, listed.quotas
    default = config.model("" if listed is not None else name)
    home = _server(default)[1]
    if listed is None and (address is None or home is None or _is_same(home, address)):
        return default, default.quotas
    blank = ModelConfig(name, ())
    for other in config.models.values():
        if other.base_url is not None and _is_same(other.base_url, address):
            return replace(blank, provider=other.provider), other.quotas
    return blank, (guessed_quota(address or ""),)


def guessed_quota(address: str) -> str:
    """Return the name of the quota of an address that nobody configured."""
    scheme, host, port = _origin(address)
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
            key = _printed_key(model, reached.key_name)
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
    return key


def unpaired(reached: Reached) -> CallerError:
    """Return the error of a model of the configuration whose address has no key."""
    name = reached.model
    if reached.address is None:
        return CallerError(
            f"model {name!r} names no server, and {reached.provider} has none of its own: set "
            f'base_url in [models."{name}"]'
        )
    return CallerError(
        f"model {name!r} asks {reached.shown}, and no key is paired with it: set api_key_env in "
        f'[models."{name}"], or keyless = true'
    )


def _key_of_model(model: ModelConfig, address: str | None) -> tuple[KeySource, str]:
    if model.api_key_command is not None:
        return KeySource.COMMAND, model.api_key_command
    if model.keyless:
        return KeySource.NONE, ""
    if address is None:
        return KeySource.UNPAIRED, ""
    if model.api_key_env is not None:
        return KeySource.VARIABLE, model.api_key_env
    for own in _OWN.values():
        if _is_paired(address, own):
            return KeySource.VARIABLE, own.key_variable
    if is_loopback(address):
        return KeySource.NONE, ""
    if model.base_url is None:  # the address is that of a variable, whose key is not set
        return KeySource.VARIABLE, _OWN["openai"].key_variable
    return KeySource.UNPAIRED, ""


def _key_of_component(
    config: Config, model: str, own: _Own, in_file: str | None
) -> tuple[KeySource, str]:
    listed = config.models.get(model)
    if listed is not None and listed.base_url is not None:
        return _key_of_model(listed, listed.base_url)
    states_key = listed is not None and (listed.api_key_env or listed.api_key_command)
    if listed is not None and in_file is None and states_key:
        return _key_of_model(listed, own.address or "")
    if in_file is None:
        address = _own_address(own, model)
        paired = (each for each in _OWN.values() if address and _is_paired(address, each))
        return KeySource.VARIABLE, next(paired, own).key_variable
    if _is_paired(in_file, own):
        return KeySource.VARIABLE, own.key_variable
    if is_loopback(in_file) or (listed is not None and listed.keyless):
        return KeySource.NONE, ""
    return KeySource.UNPAIRED, ""


def _is_paired(address: str, own: _Own) -> bool:
    stated = os.environ.get(own.address_variable)
    if stated and os.environ.get(own.key_variable):
        return _origin(stated) == _origin(address)
    return bool(own.address) and _origin(own.address) == _origin(address)


def _is_same(address: str, other: str | None) -> bool:
    return other is not None and _origin(address) == _origin(other)


def _origin(address: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port; of an address that is none, what nothing equals."""
    try:
        parts = urlsplit(address)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
        return parts.scheme, parts.hostname or "", port
    except ValueError:
        return "", address, None


def is_loopback(address: str) -> bool:
    """Whether an address is on this machine."""
    host = _origin(address)[1]
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def shown(address: str) -> str:
    """Return an address for messages: without user, query and fragment."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "an address that is none"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _remember(variable: str) -> None:
    from headway_agents import remember

    remember(os.environ.get(variable))


def _printed_key(model: str, command: str) -> str:
    """Run a command that prints a key. No message repeats its output, which may be the key."""
    try:
        done = subprocess.run(  # the command is the user's own configuration
            shlex.split(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=KEY_COMMAND_SECONDS,
            check=False,
        )
        problem = "" if done.returncode == 0 else f"ended with status {done.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = f"cannot be run: {type(error).__name__}"
    else:
        if not problem and (key := done.stdout.strip()):
            return key
    raise CallerError(
        f"model {model!r}: its api_key_command {problem or 'printed nothing'}: "
        f"run it by hand to see why"
    )

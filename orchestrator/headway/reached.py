"""Says which server and which key a client gets.

Law of this file: a key goes only to an address that the user paired it with. A component file may
come from anybody, and its address too; so it names no key, and its address gets none by default. A
server of the configuration gets the key that its own table names, and no other provider's.
"""

import os
import shlex
import subprocess
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from headway_scheduler.errors import CallerError

from .config import Config


class _Own(NamedTuple):
    """A provider's own host, and the variables that pair a key with an address."""

    host: str
    key_variable: str
    address_variable: str


_OWN = {
    "openai": _Own("api.openai.com", "OPENAI_API_KEY", "OPENAI_BASE_URL"),
    "azure": _Own("", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT"),
    "anthropic": _Own("api.anthropic.com", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"),
}
"""Providers whose SDKs take a key from the environment by themselves."""

_ADDRESSES = ("base_url", "azure_endpoint")
"""The fields of a client's config that say where it asks."""

NO_KEY = "no-key"
"""The key for a server that needs none: SDKs insist on a key."""

KEY_COMMAND_SECONDS = 30.0
"""How long a command may take to print a key; a password manager may ask a person first."""


def reached(
    config: Config,
    provider: str,
    client: Mapping[str, Any],
    file: str,
) -> dict[str, Any]:
    """Return what of a component's client is other than its file says: its server, its key.

    What ``[models.NAME]`` says goes before the file. Raises CallerError if nobody paired a key with
    the address of the file.
    """
    if (own := _OWN.get(provider)) is None:
        return {}
    model = client.get("model")
    configured = config.models.get(model) if isinstance(model, str) else None
    if configured is not None and configured.base_url is not None:
        assert isinstance(model, str)
        field = "azure_endpoint" if "azure_endpoint" in client else "base_url"
        return {field: configured.base_url, "api_key": key_of(config, model)}
    address = next((client[name] for name in _ADDRESSES if client.get(name)), None)
    if configured is not None and address is None and _states_key(config, str(model)):
        return {"api_key": key_of(config, str(model))}
    if address is None or _is_paired(str(address), own):
        _remember(own.key_variable)
        return {}
    if is_loopback(str(address)) or (configured is not None and configured.keyless):
        return {"api_key": NO_KEY}
    raise CallerError(
        f"model {model!r} of {file} asks {_shown(str(address))}, and no key is paired with it: set "
        f'base_url and api_key_env in [models."{model}"], or keyless = true'
    )


def key_of(config: Config, name: str) -> str:
    """Return the key of a model of the configuration. Raises CallerError if there is none."""
    from headway_agents import remember

    command = config.model(name).api_key_command
    if command is not None:
        key = _printed_key(name, command)
    elif (variable := key_variable(config, name)) is None:
        return NO_KEY
    elif not (key := os.environ.get(variable, "")):
        raise CallerError(
            f"model {name!r} needs {variable} in the environment: "
            f"export it (`headway demo` runs without any key)"
        )
    remember(key)
    return key


def key_variable(config: Config, name: str) -> str | None:
    """Return the variable that holds a model's key; None if its server is asked without one.

    Raises CallerError if the configuration names another server and says nothing of a key.
    """
    configured = config.model(name)
    address = configured.base_url
    if configured.keyless:
        return None
    if address is None or _states_key(config, name) or _is_paired(address, _OWN["openai"]):
        return configured.api_key_env
    if is_loopback(address):
        return None
    raise CallerError(
        f"model {name!r} asks {_shown(address)}, and no key is paired with it: set api_key_env in "
        f'[models."{name}"], or keyless = true'
    )


def _states_key(config: Config, model: str) -> bool:
    """Whether the configuration says itself which key a model has."""
    names = ("api_key_env", "api_key_command")
    settings = (config.settings.get(("models", model, name)) for name in names)
    return any(each is not None and each.source != "default" for each in settings)


def _is_paired(address: str, own: _Own) -> bool:
    stated = os.environ.get(own.address_variable)
    if stated and os.environ.get(own.key_variable):
        return _origin(stated) == _origin(address)
    scheme, host, _ = _origin(address)
    return bool(own.host) and (scheme, host) == ("https", own.host)


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


def _shown(address: str) -> str:
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

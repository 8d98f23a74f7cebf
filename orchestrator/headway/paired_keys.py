"""Says which key goes to which address.

Law of this file: a key goes only to an address that the user paired it with. A component file may
come from anybody, and its address too; so it names no key, and its address gets none by default. A
server of the configuration gets the key that its own table names, and no other provider's.
"""

import os
import shlex
import subprocess
from enum import StrEnum
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from headway_scheduler.errors import CallerError

from .config import ModelConfig

NO_KEY = "no-key"
"""The key for a server that needs none: SDKs insist on a key."""

KEY_COMMAND_SECONDS = 30.0
"""How long a command may take to print a key; a password manager may ask a person first."""


class Own(NamedTuple):
    """A provider's own address, and the variables that pair a key with an address."""

    address: str
    key_variable: str
    address_variable: str = "-"


OWN = {
    "openai": Own("https://api.openai.com/v1", "OPENAI_API_KEY", "OPENAI_BASE_URL"),
    "azure": Own("", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT"),
    "anthropic": Own("https://api.anthropic.com/v1/", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"),
    "gemini": Own("https://generativelanguage.googleapis.com/v1beta/openai/", "GEMINI_API_KEY"),
    "llama": Own("https://api.llama.com/compat/v1/", "LLAMA_API_KEY"),
}
"""Providers whose SDKs, or AutoGen's clients, take a key from the environment by themselves. The
addresses are those where they speak OpenAI's protocol."""


class KeySource(StrEnum):
    """Where a client's key comes from."""

    VARIABLE = "variable"  # of the environment
    COMMAND = "command"  # that prints it
    NONE = "none"  # its server is asked without one
    CLIENT = "client"  # made in code, with its key
    UNPAIRED = "unpaired"  # nobody paired a key with the address


def key_of_model(model: ModelConfig, address: str | None) -> tuple[KeySource, str]:
    """Return where the key of a model of the configuration comes from, and its name there."""
    if model.api_key_command is not None:
        return KeySource.COMMAND, model.api_key_command
    if model.keyless:
        return KeySource.NONE, ""
    if address is None:
        return KeySource.UNPAIRED, ""
    if model.api_key_env is not None:
        return KeySource.VARIABLE, model.api_key_env
    for own in OWN.values():
        if is_paired(address, own):
            return KeySource.VARIABLE, own.key_variable
    if is_loopback(address):
        return KeySource.NONE, ""
    if model.base_url is None:  # the address is that of a variable, whose key is not set
        stated = (each for each in OWN.values() if os.environ.get(each.address_variable) == address)
        return KeySource.VARIABLE, next(stated, OWN["openai"]).key_variable
    return KeySource.UNPAIRED, ""


def key_of_component(
    listed: ModelConfig | None, own: Own, own_address: str | None, in_file: str | None
) -> tuple[KeySource, str]:
    """Return where the key of a client of a component file comes from, and its name there.

    ``listed`` is the table of its model, ``own`` is of the provider that its class speaks with, and
    ``in_file`` is the address that its file states.
    """
    if listed is not None and listed.base_url is not None:
        return key_of_model(listed, listed.base_url)
    if in_file is None:
        if listed is not None and (listed.api_key_env or listed.api_key_command):
            return key_of_model(listed, own_address or "")
        paired = (each for each in OWN.values() if own_address and is_paired(own_address, each))
        return KeySource.VARIABLE, next(paired, own).key_variable
    if is_paired(in_file, own):
        return KeySource.VARIABLE, own.key_variable
    if is_loopback(in_file) or (listed is not None and listed.keyless):
        return KeySource.NONE, ""
    return KeySource.UNPAIRED, ""


def is_paired(address: str, own: Own) -> bool:
    """Whether a provider's key belongs to an address: its own, or that of its variable."""
    stated = os.environ.get(own.address_variable)
    if stated and os.environ.get(own.key_variable):
        return origin(stated) == origin(address)
    return bool(own.address) and origin(own.address) == origin(address)


def origin(address: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port; of an address that is none, what nothing equals."""
    try:
        parts = urlsplit(address)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
        return parts.scheme, parts.hostname or "", port
    except ValueError:
        return "", address, None


def is_loopback(address: str) -> bool:
    """Whether an address is on this machine."""
    host = origin(address)[1]
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def printed_key(model: str, command: str) -> str:
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

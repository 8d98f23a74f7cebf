"""Builds the client of a configured model, of whatever class of AutoGen's.

Law of this file: an error says which line of the configuration to change, and holds no key.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

# It takes most of a second. Whoever imports this package does that in a thread, so it comes along.
import autogen_ext.models.openai  # noqa: F401
from autogen_core import ComponentLoader
from autogen_core.models import ChatCompletionClient

from headway_scheduler.errors import CallerError

from ..autogen_private import listed_model_info
from ..secrets import scrubbed, with_variables
from .wrapped_client import NEW_MODEL, provider_of

KEYED = frozenset({"openai", "azure", "anthropic"})
"""Providers whose SDKs take a key from the environment if they are given none."""


def client_class(path: str, model: str, package: str = "") -> type[ChatCompletionClient]:
    """Import a class of clients by its dotted name. Raises CallerError.

    ``package``: what pip installs for it, for messages.
    """
    where = f"model {model!r}: models.{model}.client"
    module, _, name = path.rpartition(".")
    try:
        kind = getattr(import_module(module), name, None)
    except ModuleNotFoundError as error:
        advice = f"pip install '{package}'" if package else "check the spelling, or install it"
        raise CallerError(
            f"{where} needs the module {error.name!r}, which is not there: {advice}"
        ) from None
    except Exception as error:  # a module may raise anything while it is imported
        text = f"{where}: importing {module!r} failed: {type(error).__name__}: {error}"
        raise CallerError(scrubbed(text)) from error
    if not (isinstance(kind, type) and issubclass(kind, ChatCompletionClient)):
        raise CallerError(f"{where}: {path!r} is no ChatCompletionClient of AutoGen's")
    return kind


def build_client(
    kind: type[ChatCompletionClient],
    model: str,
    arguments: Mapping[str, Any],
    *,
    name: str,
    address: Mapping[str, str],
    key: str | None,
) -> ChatCompletionClient:
    """Make a client for ``model``, which its server calls ``name``. Raises CallerError.

    ``address``: the argument that takes it, and its value; empty for the provider's own. ``key``
    None: the class has its own way to get one. Arguments that are components become what they
    describe. Texts ``${NAME}`` are filled in from the environment.
    """
    given = {each: _loaded(value) for each, value in with_variables(dict(arguments)).items()}
    given |= {"model": name, **address}
    if key is not None:
        given["api_key"] = key
    if provider_of(kind) in KEYED:
        stated = given.get("model_info") or {}
        given["model_info"] = {**(listed_model_info(name) or NEW_MODEL), **stated}
    try:
        return kind(**given)
    except Exception as error:  # a class may raise anything from its constructor
        text = f"model {model!r}: {kind.__name__}: {type(error).__name__}: {error}"
        raise CallerError(
            scrubbed(f'{text}: see client and arguments in [models."{model}"]')
        ) from error


def _loaded(value: Any) -> Any:
    """Return what a component describes; any other value as it is."""
    is_component = isinstance(value, dict) and isinstance(value.get("provider"), str)
    if is_component and "config" in value:
        return ComponentLoader.load_component(value, object)
    return value

"""Builds teams from component files and factories. Law of this file: an error says what to do.

A component file is code: AutoGen imports any module that a provider names and executes the source
of function tools. Load only what the user named.
"""

import importlib
import json
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

import yaml
from autogen_agentchat.base import ChatAgent, Team
from autogen_core import ComponentLoader, ComponentModel
from autogen_core.models import ChatCompletionClient
from pydantic import BaseModel, ValidationError

from headway_scheduler.errors import CallerError

from .autogen_private import WELL_KNOWN_PROVIDERS
from .calls.wrapped_client import provider_of
from .containment import Factory, checked_team
from .secrets import (
    scrubbed,
    with_variables,
    without_masked_keys,
    without_secret_fields,
    without_whole_keys,
)

_AUTOGEN = ("autogen_agentchat.", "autogen_core.", "autogen_ext.")
Reach = Callable[[str, Mapping[str, Any], str], Mapping[str, Any]]
"""Says what a client of a component file is to be built with instead of what its config says, from
its provider (as in ``providers/``), its config and the file's name. Raises CallerError."""


def load_component(text: str, *, name: str, reach: Reach | None = None) -> Team | ChatAgent:
    """Build the team or agent that a component file (JSON or YAML) describes.

    This imports modules and may execute source in it: the text is code. Keys that are masked or
    empty are left to the environment. ``name`` is for messages; ``reach`` decides which server and
    key each client of it gets. Raises CallerError.
    """
    try:
        data = with_variables(without_masked_keys(_parsed(text, name)))
    except CallerError as error:
        raise CallerError(f"{name}: {error}") from None
    for place, component in _components(data, ""):
        where = f"{name}: {place or 'the component'}"
        kind = _check_provider(component["provider"], where)
        config = component["config"]
        if reach is not None and isinstance(config, dict) and _is_client(kind):
            component["config"] = {**config, **reach(provider_of(kind), config, name)}
    try:
        team = ComponentLoader.load_component(data, object)
    except ValidationError as error:
        raise CallerError(f"{name}: {_first_mistakes(error)}") from error
    except Exception as error:  # a component may raise anything from its constructor
        raise CallerError(scrubbed(f"{name}: {type(error).__name__}: {error}")) from error
    return checked_team(team, name)


def clients_of_component(text: str, *, name: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Return provider and config of every client in a component file, without building any.

    This imports modules that the file names. Raises CallerError.
    """
    found: list[tuple[str, Mapping[str, Any]]] = []
    for place, component in _components(_parsed(text, name), ""):
        kind = _check_provider(component["provider"], f"{name}: {place or 'the component'}")
        if _is_client(kind) and isinstance(component["config"], dict):
            found.append((provider_of(kind), component["config"]))
    return found


def redacted(text: str, *, name: str = "component") -> str:
    """Return a component file's text without any key, as it may be kept. Raises CallerError.

    Of a component of AutoGen only the fields that its class declares are kept: AutoGen reads no
    other, and what a field that nobody declared holds cannot be known.
    """
    data = _parsed(text, name)
    clean = without_secret_fields(data)
    for _, component in _components(clean, ""):
        provider = WELL_KNOWN_PROVIDERS.get(component["provider"], component["provider"])
        if (
            isinstance(component["config"], dict)
            and (declared := _declared_fields(provider)) is not None
        ):
            _keep(component, ComponentModel.model_fields)
            _keep(component["config"], declared)
    if clean != data:
        text = (
            json.dumps(clean, indent=2)
            if _is_json(text, name)
            else yaml.safe_dump(clean, sort_keys=False, allow_unicode=True)
        )
    # A key may be left in a comment.
    return without_whole_keys(text)


def load_factory(reference: str) -> Factory:
    """Import the factory that ``module:attribute`` names. Raises CallerError."""
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise CallerError(f"{reference!r} is no factory: write it as module:attribute")
    module = _imported(module_name, repr(reference))
    try:
        factory = getattr(module, attribute)
    except AttributeError:
        raise CallerError(
            f"{reference!r}: module {module_name!r} ({module.__file__}) has no {attribute!r}"
        ) from None
    if not callable(factory):
        raise CallerError(f"{reference!r} is a {type(factory).__name__}, not a function")
    return factory  # type: ignore[no-any-return]


def _is_json(text: str, name: str) -> bool:
    return text.lstrip().startswith("{") and not name.endswith((".yaml", ".yml"))


def _parsed(text: str, name: str) -> dict[str, Any]:
    try:
        data = json.loads(text) if _is_json(text, name) else yaml.safe_load(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise CallerError(f"{name}: no valid JSON at {place}: {error.msg}") from None
    except yaml.YAMLError as error:
        raise CallerError(f"{name}: no valid YAML{_yaml_place(error)}") from None
    if not isinstance(data, dict) or not isinstance(data.get("provider"), str):
        raise CallerError(
            f"{name}: no 'provider' at the top level: is it a component file, "
            "as dump_component() of AutoGen writes it?"
        )
    return data


def _yaml_place(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f": {error}"
    mark = error.problem_mark
    return f" at line {mark.line + 1}, column {mark.column + 1}: {error.problem}"


def _components(data: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place of every component in ``data``, and the component."""
    if isinstance(data, dict):
        if isinstance(data.get("provider"), str) and "config" in data:
            yield place, data
        for key, value in data.items():
            yield from _components(value, f"{place}.{key}" if place else str(key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _components(value, f"{place}[{index}]")


def _keep(fields: dict[str, Any], names: Container[str]) -> None:
    for name in [each for each in fields if each not in names]:
        del fields[name]


def _declared_fields(provider: str) -> frozenset[str] | None:
    """Return the names that a component of AutoGen reads; None if they cannot be told.

    Modules of others are not imported here: text is redacted where a run is submitted, and that
    program may lack what the workers have.
    """
    module_name, _, attribute = provider.rpartition(".")
    if not module_name.startswith(_AUTOGEN):
        return None
    try:
        schema = getattr(importlib.import_module(module_name), attribute).component_config_schema
    except Exception:  # an extra of AutoGen is missing: a module raises what it likes
        return None
    if not issubclass(schema, BaseModel) or schema.model_config.get("extra") == "allow":
        return None
    fields = schema.model_fields
    aliases = (each.alias for each in fields.values() if each.alias is not None)
    return frozenset({*fields, *aliases})


def _is_client(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, ChatCompletionClient)


def _check_provider(provider: str, place: str) -> Any:
    """Return the class that a component names. Raises CallerError if there is none."""
    module_name, _, attribute = WELL_KNOWN_PROVIDERS.get(provider, provider).rpartition(".")
    if not module_name:
        raise CallerError(f"{place}: provider {provider!r} is no dotted name of a class")
    module = _imported(module_name, f"{place}: provider {provider!r}")
    if not hasattr(module, attribute):
        raise CallerError(
            f"{place}: provider {provider!r}: module {module_name!r} has no {attribute!r}"
        )
    return getattr(module, attribute)


def _imported(name: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise CallerError(
                f"{what}: there is no module {error.name!r}: check the spelling, "
                "that it is installed, and the directory you are in"
            ) from None
        raise CallerError(f"{what}: {name!r} needs the module {error.name!r}") from error
    except Exception as error:  # a module may raise anything while it is imported
        text = scrubbed(f"{what}: importing {name!r} failed: {type(error).__name__}: {error}")
        raise CallerError(text) from error


def _first_mistakes(error: ValidationError) -> str:
    mistakes = error.errors(include_input=False, include_url=False)[:3]
    return "; ".join(f"{'.'.join(map(str, m['loc'])) or 'it'}: {m['msg']}" for m in mistakes)

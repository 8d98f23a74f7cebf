"""``headway doctor``. Law of this file: it reads, and no key's value is ever looked at or shown."""

import os
import platform
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import assert_never

import anyio

from headway_scheduler.backends import open_backend
from headway_scheduler.core.inspection import statistics
from headway_scheduler.errors import CallerError, StoreError
from headway_scheduler.model.calls import Served, Usage
from headway_scheduler.ports import Finding

from ... import __version__
from ...config import Config, ConfigError, load
from ...config.clients import OPENAI
from ...paired_keys import KeySource
from ...pricing.prices import charge, stated_cost
from ...provider_clients import class_of
from ...reached import Reached, models_request, of_component, of_model, unpaired
from ...workers.long_waits import CONTRADICTED
from ..database import load_queue, reading
from ..output import one_line, say, say_json
from ..parser import FAILED
from ..watch import see_workflows
from .schedules import coming

MOST_LISTED = 5
"""How many odd fields of a quota are named."""

PACKAGES = ("autogen-agentchat", "autogen-ext", "openai", "anyio")


def check(args: Namespace) -> int:
    """Look at everything, and fail if something is wrong."""
    findings = list(_findings(args.config, pings=args.ping))
    is_well = all(finding.ok for finding in findings)
    if args.json:
        say_json({"ok": is_well, "findings": [finding._asdict() for finding in findings]})
    else:
        width = max(len(finding.subject) for finding in findings)
        for subject, ok, says in findings:
            say(f"{'ok ' if ok else 'BAD'}  {subject.ljust(width)}  {one_line(says)}")
    return 0 if is_well else FAILED


def _findings(file: str | None, *, pings: bool) -> Iterator[Finding]:
    yield Finding("Python", True, platform.python_version())
    yield _versions()
    try:
        config = load(file)
    except ConfigError as error:
        for problem in str(error).splitlines():
            yield Finding("configuration", False, problem)
        return
    found = "none: defaults hold; `headway init` writes one"
    yield Finding("configuration", True, str(config.file or found))
    see_workflows()
    yield from _database(config)
    reached = [*_models(config), *_clients(config)]
    yield from (finding for _, finding in reached)
    yield from _unpriced(config)
    yield from _components(config)
    yield from _teams(config)
    for name, schedule in config.schedules.items():
        yield Finding(f"schedule {name}", True, f"{coming(schedule)}, {schedule.workflow}")
    yield from _notify(config)
    if pings:
        yield from anyio.run(_pings, [found for found, _ in reached])


def _versions() -> Finding:
    names = [f"headway {__version__}"]
    missing = []
    for package in PACKAGES:
        try:
            names.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        return Finding("versions", False, f"not installed: pip install {' '.join(missing)}")
    return Finding("versions", True, ", ".join(names))


def _database(config: Config) -> Iterator[Finding]:
    try:
        yield from anyio.run(open_backend(config.database).maintenance().findings)
        yield from anyio.run(_quotas, config)
    except StoreError:
        pass  # not there yet, or a finding above says what is wrong
    except CallerError as error:
        yield Finding("database", False, str(error))


async def _quotas(config: Config) -> list[Finding]:
    """Quotas that are stopped, and those whose providers told odd numbers."""
    async with reading(config) as reader:
        state = (await load_queue(config, reader)).scheduler.state
    gauges = statistics(state, reader.now).gauges
    # A lane may have no limit, and so no gauge.
    whys = {name: quota.breaker.stopped for name, quota in state.lanes.quotas.items()}
    stopped = {name: why for name, why in whys.items() if why is not None}
    odd = {gauge.quota: gauge.odd for gauge in gauges if gauge.odd}
    contradicted = dict.fromkeys(gauge.quota for gauge in gauges if gauge.is_contradicted)
    return (
        [
            Finding(
                f"quota {name}", False, f"{why}: mend that, then `headway limits resume {name}`"
            )
            for name, why in stopped.items()
        ]
        + [Finding(f"quota {name}", False, CONTRADICTED) for name in contradicted]
        + [
            Finding(f"quota {name}", True, f"out of range, counted as unknown: {_listed(fields)}")
            for name, fields in odd.items()
        ]
    )


def _listed(fields: Mapping[str, int]) -> str:
    """List odd fields with how often they were, the most frequent ones first."""
    often = sorted(fields.items(), key=lambda item: -item[1])
    more = ", …" if len(often) > MOST_LISTED else ""
    return ", ".join(f"{field} ({times})" for field, times in often[:MOST_LISTED]) + more


def _models(config: Config) -> Iterator[tuple[Reached, Finding]]:
    for name in list(config.models) or ["any"]:
        found = of_model(config, name)
        yield found, _without_class(found) or _reached(found)


def _unpriced(config: Config) -> Iterator[Finding]:
    """Models without a price that a limit in dollars is for: their calls, or a team's, fail."""
    is_of_a_team = any(map(config.counts_usd, config.team_quotas.values()))
    for name in config.models:
        found = of_model(config, name)
        if is_of_a_team or config.counts_usd(found.quotas):
            try:
                stated_cost(found, Usage(1, 1))
            except CallerError as error:
                yield Finding(f"model {name}", False, str(error))


def _without_class(found: Reached) -> Finding | None:
    """Say why there is no class of a model's client; None if there is one, or for the usual one."""
    if found.settings.client == OPENAI:
        return None  # it comes with Headway, and takes a second to import
    try:
        class_of(found)
    except CallerError as error:
        return Finding(f"model {found.model}", False, str(error))
    return None


def _clients(config: Config) -> Iterator[tuple[Reached, Finding]]:
    """The clients of component files."""
    files = [(name, each) for name, each in config.workflows.items() if Path(each).is_file()]
    if not files:
        return
    from headway_agents import clients_of_component

    for name, file in files:
        try:
            text = Path(file).read_text(encoding="utf-8")
            clients = clients_of_component(text, name=Path(file).name)
        except (CallerError, OSError, UnicodeDecodeError) as error:
            yield (
                replace(of_model(config, name), address=None),
                Finding(f"workflow {name}", False, str(error)),
            )
            continue
        for provider, asked in clients:
            found = of_component(config, provider, asked, Path(file).name)
            yield found, _reached(found)


def _reached(found: Reached) -> Finding:
    """How a model is reached, and whether its key is there; no command is run for that."""
    is_well, key = _key(found)
    if found.key_from is KeySource.UNPAIRED:
        return Finding(f"model {found.model}", False, key)
    quotas, price = _named(found.quotas), _price(found)
    says = f"{found.shown} ({found.said_by}), {found.provider}, {key}, {quotas}, {price}"
    return Finding(f"model {found.model}", is_well, says)


def _named(quotas: Sequence[str]) -> str:
    return f"quota{'s' if len(quotas) > 1 else ''} {' and '.join(quotas)}"


def _teams(config: Config) -> Iterator[Finding]:
    """What the configuration says of each team."""
    for name, weight in config.weights.items():
        quotas = config.team_quotas[name]
        own, highest = config.priority_of_teams.get(name), config.highest_of_teams.get(name)
        said = [
            f"weight {weight:g}",
            *([f"{own.label} unless a run says otherwise"] if own is not None else []),
            *([f"at most {highest.label}"] if highest is not None else []),
            *([_named(quotas)] if quotas else []),
        ]
        yield Finding(f"team {name}", True, ", ".join(said))


async def _pings(reached: list[Reached]) -> list[Finding]:
    """Ask every server once for its models, all at the same time."""
    from headway_agents import ping

    known = (each for each in reached if each.key_from is not KeySource.UNPAIRED)
    asked = {(each.address, each.key_name): each for each in known if each.address is not None}
    found: dict[str, Finding] = {}

    async def ask(each: Reached) -> None:
        without = " without a key" if each.key_from is KeySource.NONE else ""
        subject = f"ping {each.shown}{without}"
        try:
            url, headers = models_request(each)
            found[subject] = Finding(subject, *await ping(url, headers, each.name, each.shown))
        except CallerError as error:
            found[subject] = Finding(subject, False, str(error))

    async with anyio.create_task_group() as group:
        for each in asked.values():
            group.start_soon(ask, each)
    return [found[subject] for subject in sorted(found)]


def _key(found: Reached) -> tuple[bool, str]:
    match found.key_from:
        case KeySource.COMMAND:
            return True, "a command prints its key; it was not run"
        case KeySource.NONE:
            return True, "asked without a key"
        case KeySource.CLIENT:
            return True, "its own key"
        case KeySource.UNPAIRED:
            return False, str(unpaired(found))
        case KeySource.VARIABLE:
            if os.environ.get(found.key_name):
                return True, f"{found.key_name} is set"
            advice = "export it (`headway demo` runs without any key)"
            return False, f"{found.key_name} is not set: {advice}"
        case _:
            assert_never(found.key_from)


def _price(found: Reached) -> str:
    """Say what a million tokens of input and of output cost, a thousand in each call.

    Calls with very much input have a higher price for each token.
    """
    now = datetime.now(UTC).timestamp()
    usages = (Usage(1000, 0), Usage(0, 1000))
    prices = [charge(found, Served(usage), now) for usage in usages]
    if prices[0].usd is None or prices[1].usd is None:
        return "price unknown"
    source = prices[0].source.partition(" ")[0]
    dollars = [f"${1000 * each.usd:g}" for each in prices if each.usd is not None]
    return f"{' and '.join(dollars)} a million tokens ({source})"


def _notify(config: Config) -> Iterator[Finding]:
    notify = config.notify
    events = ", ".join(notify.events)
    if notify.command is not None:
        yield Finding("notify", True, f"{notify.command} (not run): {events}")
    elif notify.url is not None and notify.secret_env is not None:
        if os.environ.get(notify.secret_env):
            yield Finding("notify", True, f"{notify.url}, {notify.secret_env} is set: {events}")
        else:
            yield Finding("notify", False, f"{notify.url}: {notify.secret_env} is not set")


def _components(config: Config) -> Iterator[Finding]:
    for name, target in config.workflows.items():
        if ":" in target and not os.path.isabs(target):
            yield _factory(name, target)
        elif Path(target).is_file():
            yield Finding(f"workflow {name}", True, target)
        else:
            yield Finding(f"workflow {name}", False, f"{target}: no such file: check the path")


def _factory(name: str, target: str) -> Finding:
    """Import a factory, as a worker that is started here would."""
    from headway_agents import load_factory

    try:
        load_factory(target)
    except CallerError as error:
        return Finding(f"workflow {name}", False, str(error))
    except SystemExit as error:
        return Finding(f"workflow {name}", False, f"importing {target} exits: {error}")
    return Finding(f"workflow {name}", True, target)

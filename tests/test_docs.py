"""The docs say what is there: README's code runs, its commands parse, its links lead somewhere."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from tests.sentences import SENTENCE

from headway import Models, __version__
from headway.cli.parser import parse
from headway.testing import simulated_headway

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/*.md")])
README = (ROOT / "README.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language; the odd pieces between fences are blocks."""
    pieces = re.split(r"^```", text, flags=re.MULTILINE)[1::2]
    split = (piece.split("\n", 1) for piece in pieces)
    return [code for tag, code in split if tag == language]


async def test_the_readmes_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """As printed, but on a simulated provider: its Headway stands in for ``Headway()``."""
    (code,) = blocks(README, "python")
    code = code.replace("anyio.run(main)", "").replace("async with hw:", "async with _open(hw):")
    async with simulated_headway() as simulated:
        names: dict[str, Any] = {"__name__": "readme", "_open": _Opened, "_simulated": simulated}
        code = code.replace("hw = Headway()", "hw = _simulated")
        exec(compile(code, "README.md", "exec"), names)
        await names["main"]()
    printed = capsys.readouterr().out
    assert "Queued(" in printed
    assert re.search(SENTENCE, printed)


class _Opened:
    """The simulated Headway is open already: entering it again would open a second one."""

    def __init__(self, headway: Any) -> None:
        self._headway = headway

    async def __aenter__(self) -> Any:
        return self._headway

    async def __aexit__(self, *_: object) -> None:
        return None


async def test_the_readmes_transcript_is_what_the_simulated_provider_says() -> None:
    (block,) = blocks(README, "console")
    said = dict.fromkeys(re.findall(r"^(?:user|writer|critic): .*$", block, re.MULTILINE))
    (task,) = {shlex.split(line)[4] for line in block.splitlines() if " run report " in line}
    async with simulated_headway() as headway:
        headway.workflow("report")(report)
        result = await headway.run("report", task=task)
    messages = result.task_result.messages
    lines = [f"{message.source}: {message.to_text()}" for message in messages]
    assert list(said) == [*lines[:6], lines[-1]]


def report(models: Models) -> RoundRobinGroupChat:
    """The team of the README's transcript, which is the tutorial's."""
    agents: list[Any] = [AssistantAgent(name, models("sim")) for name in ("writer", "critic")]
    return RoundRobinGroupChat(agents, termination_condition=MaxMessageTermination(9))


def commands() -> list[str]:
    """Every complete ``headway …`` line of the README's blocks, without its comment."""
    lines = [line for block in blocks(README, "") for line in block.splitlines()]
    typed = [line for block in blocks(README, "console") for line in block.splitlines()]
    lines += [line[2:].split(" & ")[0] for line in typed if line.startswith("$ ")]
    return [
        re.split(r"\s{3,}", line)[0].split(" #")[0].strip()
        for line in lines
        if line.startswith("headway ") and "|" not in line and "[" not in line
    ]


def test_there_are_commands_to_check() -> None:
    assert len(commands()) >= 4


@pytest.mark.parametrize("command", commands())
def test_the_readmes_commands_parse(command: str) -> None:
    parse(shlex.split(command)[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_commands_are_targets(page: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"(?:^|`)make\s([a-z-]+)", page.read_text(), re.MULTILINE)
    assert set(named) <= set(targets)


def test_the_changelog_begins_with_the_version_to_be_released() -> None:
    headings = re.findall(r"^## (.*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert re.fullmatch(rf"{__version__} \((unreleased|\d{{4}}-\d\d-\d\d)\)", headings[0])


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 200


def test_the_picture_is_small_animated_and_asks_for_nothing_outside() -> None:
    (name,) = re.findall(r"!\[.*\]\((.*)\)", README)
    picture = (ROOT / name).read_text()
    assert len(picture.encode()) < 200_000
    assert picture.count("<animate ") > 100
    addresses = re.findall(r"\w+://[^\"\s]+", picture)
    assert set(addresses) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<script|href|url\(|@import", picture)


def test_the_picture_ends_with_the_readmes_table() -> None:
    picture = (ROOT / "docs/demo.svg").read_text()
    lines = re.findall(r"<text y=\"[^\"]*\">(.*)</text>", picture)
    shown = [re.findall(r"<tspan[^>]*>([^<│]+)</tspan>", line) for line in lines]
    (table,) = [block for block in blocks(README, "") if "teams finished" in block]
    rows = [re.split(r"\s{3,}", line.strip()) for line in table.splitlines()[1:]]
    assert len(rows) >= 8
    assert [row for row in rows if row not in shown] == []


BENCHMARKS = sorted(
    line
    for block in blocks((ROOT / "docs/benchmarks.md").read_text(), "")
    for line in block.splitlines()
    if line.startswith("python ")
)


def test_there_are_benchmarks_to_check() -> None:
    assert len(BENCHMARKS) >= 15


@pytest.mark.parametrize("command", BENCHMARKS)
def test_a_benchmark_is_there_and_has_the_options_that_are_named(command: str) -> None:
    _, _, module, *options = shlex.split(command)
    path = ROOT / module.replace(".", "/")
    source = (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    for option in options:
        assert not option.startswith("--") or f'"{option}"' in source


DECISIONS = sorted((ROOT / "docs/adr").glob("[0-9]*.md"))
PARTS = ["Status", "Context", "Decision", "Consequences", "Considered"]


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_has_all_its_parts(page: Path) -> None:
    assert re.findall(r"^## (.*)", page.read_text(), re.MULTILINE) == PARTS


def test_the_index_of_decisions_has_each_with_its_title_and_status() -> None:
    rows = [row(page) for page in DECISIONS]
    index = (ROOT / "docs/adr/README.md").read_text()
    assert re.findall(r"^\| \[.*", index, re.MULTILINE) == rows


def row(page: Path) -> str:
    """A page's line in the index, from its title and its status."""
    text = page.read_text()
    title = re.match(r"# \d{4}: (.*)", text)
    status = re.search(r"^## Status\n\n([^.]*)\.", text, re.MULTILINE)
    assert title is not None
    assert status is not None
    return f"| [{page.name[:4]}]({page.name}) | {title[1]} | {status[1].lower()} |"


def test_architecture_names_files_that_are_there() -> None:
    roots = ("scheduler", "agents", "orchestrator", "tests", "benchmarks", "docs")
    files = {
        path.relative_to(ROOT).as_posix() for root in roots for path in (ROOT / root).rglob("*")
    }
    named = re.findall(r"`([\w/]+\.py)`", (ROOT / "ARCHITECTURE.md").read_text())
    assert len(named) > 20
    assert [
        name for name in named if not any(f"/{file}".endswith(f"/{name}") for file in files)
    ] == []


def public_classes() -> Iterator[tuple[str, str]]:
    """The folder below its package, or the package, of each public class, and its name."""
    for source in ("orchestrator/headway", "agents/headway_agents", "scheduler/headway_scheduler"):
        base = ROOT / source
        for path in base.rglob("*.py"):
            folder = ".".join([base.name, *path.relative_to(base).parts[:-1][:1]])
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    yield folder, node.name


def test_the_glossary_has_every_public_class_in_a_line() -> None:
    sections = re.split(r"^## ", (ROOT / "docs/glossary.md").read_text(), flags=re.MULTILINE)[1:]
    rows = [
        (section.split("\n", 1)[0], name)
        for section in sections
        for name in re.findall(r"^\| `(\w+)` \| [^|\n]{5,100} \|$", section, re.MULTILINE)
    ]
    assert sorted(rows) == sorted(set(public_classes()))

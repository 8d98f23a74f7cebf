"""The grammar, the docs and the help agree; help imports nothing heavy."""

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from headway.cli import main
from headway.cli.grammar.examples import EXAMPLES
from headway.cli.parser import EXIT_CODES, new_parser, parse

DOC = Path(__file__).parents[3] / "docs" / "cli.md"
HEAVY = ("shtab", "autogen", "openai", "anyio", "aiosqlite", "rich", "yaml", "starlette", "asyncio")
PACKAGES = ("headway", "headway_agents", "headway_scheduler")


def commands(parser: argparse.ArgumentParser, words: str = "") -> Iterator[tuple[str, str]]:
    """Every command that does something, with its target."""
    nested = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not nested:
        yield words.strip(), parser.get_default("target")
    for action in nested:
        for name, inner in action.choices.items():
            yield from commands(inner, f"{words} {name}")


COMMANDS = dict(commands(new_parser()))


def test_every_command_is_documented_with_an_example_and_no_other_is() -> None:
    text = DOC.read_text(encoding="utf-8")
    assert re.findall(r"^## headway (.+)$", text, re.MULTILINE) == list(COMMANDS)
    for name in COMMANDS:
        section = text.split(f"## headway {name}\n")[1].split("\n## ")[0]
        assert f"```console\n$ headway {name}" in section, name


def test_every_command_has_examples_and_each_can_be_typed() -> None:
    assert {f"headway {name}" for name in COMMANDS} | {"headway"} == EXAMPLES.keys()
    for words, examples in EXAMPLES.items():
        for line in examples.splitlines():
            typed = shlex.split(re.sub(r"^.*\| | {2,}.*| > .*", "", line))
            assert typed[0] == "headway"
            target = parse(typed[1:]).target
            assert words == "headway" or target == COMMANDS[words.removeprefix("headway ")], line


COMPLETED = """
{script}
COMP_WORDS=({words}); COMP_CWORD={last}
$(complete -p headway | sed 's/.*-F \\([^ ]*\\).*/\\1/') && printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("headway re", ["resume"]),
        ("headway runs ca", ["cancel"]),
        ("headway runs list --sta", ["--state"]),
        ("headway runs list --state comp", ["completed"]),
        ("headway config show --config head", ["headway.toml"]),
    ],
)
def test_bash_completes(
    words: str, completed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", "bash"]) == 0
    (tmp_path / "headway.toml").touch()
    script = COMPLETED.format(
        script=capsys.readouterr().out, words=words, last=len(words.split()) - 1
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.split() == completed


@pytest.mark.parametrize("shell", ["zsh", "fish", "tcsh"])
def test_other_shells_have_completions(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "resume" in capsys.readouterr().out


def test_the_options_of_the_docs_exist() -> None:
    known = {"--help"}
    parsers = [new_parser()]
    for parser in parsers:
        for action in parser._actions:
            known.update(o for o in action.option_strings if o.startswith("--"))
            if isinstance(action, argparse._SubParsersAction):
                parsers.extend(action.choices.values())
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", DOC.read_text(encoding="utf-8")))
    assert used <= known
    assert known - used <= {"--help", "--version", "--priority"}


def test_exit_codes_in_help_and_docs_are_the_same() -> None:
    documented = re.findall(r"^\| (\d+) \| (.+) \|$", DOC.read_text(encoding="utf-8"), re.MULTILINE)
    assert [(c, t.replace("…", "...")) for c, t in documented] == re.findall(
        r"^  (\d+) +(.+)$", EXIT_CODES, re.MULTILINE
    )


@pytest.mark.parametrize("target", [t for n, t in COMMANDS.items() if n != "demo"])
def test_every_target_is_there(target: str) -> None:
    module, _, function = target.partition(":")
    assert callable(getattr(import_module(f"headway.cli.commands.{module}"), function))


HELP = """
import sys, headway
from headway.cli import main
for words in {commands!r}:
    try:
        main([*words.split(), "--help"])
    except SystemExit as end:
        assert end.code == 0, words
print([name for name in sys.modules if name.split("_")[0].split(".")[0] in {heavy!r}])
"""


def test_help_works_and_imports_nothing_heavy() -> None:
    nouns = {name.split()[0] for name in COMMANDS}
    script = HELP.format(commands=["", *sorted(nouns | set(COMMANDS))], heavy=HEAVY)
    roots = {str(Path(spec.origin or "").parents[1]) for p in PACKAGES if (spec := find_spec(p))}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sorted(roots))}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stdout.count("usage: headway") == 1 + len(nouns | set(COMMANDS))

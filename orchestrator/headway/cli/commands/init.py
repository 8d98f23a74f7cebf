"""``headway init``. Law of this file: no file that is there is touched."""

import os
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ...config import TEMPLATE, ConfigError
from ..output import say, say_json

FIRST_STEPS = ("put in the limits that your provider grants you", "export OPENAI_API_KEY")
LISTED = '# weekly-report = "reports:weekly_report"  # module:factory\n'
"""The line of the template in whose place a template's workflows come."""


@dataclass(frozen=True, slots=True)
class Template:
    """A file of code beside the configuration: its name, its workflows, how it is run."""

    file: str
    workflows: tuple[str, ...]
    run: str


TEMPLATES: Mapping[str, Template] = {
    "team": Template("teams.py", ("triage", "report"), 'headway run triage "The site is down"'),
    "person": Template("drafts.py", ("draft",), 'headway run draft "A line on tides"'),
    "service": Template("service.py", ("answer",), "uvicorn service:app"),
}


def write(args: Namespace) -> int:
    """Write the configuration, and a template's code beside it, unless one of them is there."""
    file = Path(args.config or os.environ.get("HEADWAY_CONFIG") or "headway.toml")
    texts, run = {file: TEMPLATE}, 'headway run module:factory "task"'
    if args.template is not None:
        template = TEMPLATES[args.template]
        code = files("headway.cli") / "templates" / f"{args.template}.py.txt"
        module = Path(template.file).stem
        lines = "".join(f'{name} = "{module}:{name}"\n' for name in template.workflows)
        run = template.run
        texts = {
            file: TEMPLATE.replace(LISTED, lines),
            file.with_name(template.file): code.read_text(encoding="utf-8"),
        }
    for each in texts:
        if each.exists():
            raise ConfigError(f"{each}: is there already, and was left as it is")
    for each, text in texts.items():
        _write(each, text)
    if args.json:
        say_json({"file": str(file), "files": [str(each) for each in texts]})
        return 0
    steps = (*FIRST_STEPS, "headway doctor", run)
    say(f"wrote {' and '.join(map(str, texts))}. Next:")
    for number, step in enumerate(steps, 1):
        say(f"  {number}. {step}")
    say("`headway demo` shows it all without a key.")
    return 0


def _write(file: Path, text: str) -> None:
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(text)
    except FileExistsError:
        raise ConfigError(f"{file}: is there already, and was left as it is") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from None

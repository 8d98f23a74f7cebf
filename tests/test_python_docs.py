"""docs/python.md has the public interface: every name and every verb, and its code runs."""

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import headway
from headway import Headway, RunHandle, StartOptions
from headway.limits import Limits
from headway.queue import Queue
from headway.schedules import Schedules
from headway.testing import simulated_headway

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).parent.parent / "docs/python.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def public(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")}


INTERNAL = {"begin", "obey", "publish"}
"""What the runner and the worker do to a handle."""


@pytest.mark.parametrize("name", headway.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(headway, name) is not None
    assert name in dir(headway)
    assert re.search(rf"`(headway\.)?{name}[`(]|import .*\b{name}\b|@headway\.{name}\b", PAGE), name


@pytest.mark.parametrize(
    ("before", "kind"),
    [
        ("hw.", Headway),
        ("hw.queue.", Queue),
        ("hw.limits.", Limits),
        ("hw.schedules.", Schedules),
        ("", RunHandle),
    ],
)
def test_every_verb_is_there(before: str, kind: type) -> None:
    lines = [line for line in PAGE.splitlines() if before in line]
    for name in public(kind) - INTERNAL:
        assert any(re.search(rf"\b{name}\b", line) for line in lines), f"{before}{name}"


def test_every_option_is_a_keyword_with_its_meaning_and_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \|$", PAGE, re.MULTILINE)
    assert rows == list(StartOptions.__annotations__)


async def test_the_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """As printed, in one namespace, but on a simulated provider."""
    async with simulated_headway(usd_per_million=1) as simulated:
        names: dict[str, Any] = {"__name__": "page", "_simulated": simulated}
        for block in BLOCKS:
            code = re.sub(r"\bHeadway\(\)", "_simulated", block, count=1)
            compiled = compile(code, "docs/python.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            done = eval(compiled, names)
            if inspect.isawaitable(done):
                await done
    printed = capsys.readouterr().out
    for expected in (
        "Queued writer",
        "writer (model, new)",
        "calls replayed: 1",
        "failed True",
        "total ",
    ):
        assert expected in printed

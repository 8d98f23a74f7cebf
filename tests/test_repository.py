"""The repository's own files agree with each other: lock, CI, hooks, templates."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements-dev.lock").read_text()
CLASSIFIER = "Programming Language :: Python :: "
PYTHONS = [
    name.removeprefix(CLASSIFIER)
    for name in PYPROJECT["project"]["classifiers"]
    if name.startswith(CLASSIFIER)
]


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def recipe(target: str) -> list[str]:
    """The commands of a make target, as a shell in the checkout reads them."""
    makefile = (ROOT / "Makefile").read_text()
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert found is not None, f"no target {target}"
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in found[1].splitlines()]


def asked() -> Iterator[Requirement]:
    """Everything that pyproject.toml asks for: to build, to run, as an extra, to develop."""
    project, groups = PYPROJECT["project"], PYPROJECT["dependency-groups"]
    lists = [PYPROJECT["build-system"]["requires"], project["dependencies"]]
    for texts in [*lists, *project["optional-dependencies"].values(), *groups.values()]:
        yield from (Requirement(text) for text in texts if isinstance(text, str))


def pins(python: str) -> dict[str, str]:
    """Version by name that the lock gives to one Python on Linux."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    lines = [line.rstrip("\\ ") for line in LOCK.splitlines() if line[:1].isalnum()]
    return {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in map(Requirement, lines)
        if pin.marker is None or pin.marker.evaluate(environment)
    }


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_pins_what_pyproject_asks_for(python: str) -> None:
    pinned = pins(python)
    for requirement in asked():
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} is not pinned: run `make lock`"
        assert pinned[name] in requirement.specifier, f"{requirement}: run `make lock`"


def test_every_pin_has_a_hash_and_no_index_is_named() -> None:
    pinned = [entry for entry in LOCK.split("\n") if entry[:1].isalnum()]
    assert len(pinned) >= 60
    assert all("==" in entry and entry.endswith(" \\") for entry in pinned)
    assert "://" not in LOCK
    assert not [line for line in LOCK.splitlines() if line.startswith("-")]


def test_the_workflow_calls_what_ci_run_calls_on_every_python() -> None:
    job = load(".github/workflows/ci.yml")["jobs"]["check"]
    calls = [line for line in (ROOT / ".ci/run").read_text().splitlines() if "make" in line]
    assert [step["run"] for step in job["steps"] if "run" in step] == calls
    assert calls == ["make check", "make test", "make wheel-test"]
    assert all(recipe(call.removeprefix("make ")) for call in calls)
    assert job["strategy"]["matrix"]["python"] == PYTHONS


def test_the_hooks_are_local_and_call_what_make_check_calls() -> None:
    (repo,) = load(".pre-commit-config.yaml")["repos"]
    assert repo["repo"] == "local"
    assert [hook["entry"] for hook in repo["hooks"]] == recipe("check")
    assert all(hook["language"] == "system" for hook in repo["hooks"])
    assert not any(hook["pass_filenames"] for hook in repo["hooks"])


@pytest.mark.parametrize("form", ["bug", "feature"])
def test_issue_forms_ask_each_question_once(form: str) -> None:
    template = load(f".github/ISSUE_TEMPLATE/{form}.yml")
    assert {"name", "description", "body"} <= template.keys()
    fields = [field for field in template["body"] if field["type"] != "markdown"]
    assert any(field.get("validations", {}).get("required") for field in fields)
    assert len({field["id"] for field in fields}) == len(fields)
    assert len({field["attributes"]["label"] for field in fields}) == len(fields)

"""What the repository tells those who work on it holds: the versions that its lock pins."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
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

"""The import arrows of the architecture: they point down only.

orchestrator (headway) -> agents (headway_agents) -> scheduler (headway_scheduler); only agents
knows AutoGen; the core knows the standard library and its pure siblings.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

PURE = {
    "headway_scheduler": {"model", "protocol", "core", "providers", "errors", "ports"},
    "headway_agents": {"journal"},
}
"""The folders, and single files, whose code is pure: no I/O, no clock, no tasks, no dependency."""

PURE_DEPENDENCIES = {key: {"msgspec"} for key in ("core", "model", "protocol")}  # types and text

PURE_BELOW = {"headway_agents": {"errors", "model"}}
"""What pure folders of a package above import of the scheduler: rows, their states, and errors."""

IMPURE_STDLIB = {
    *("asyncio", "os", "pathlib", "random", "socket", "sqlite3", "subprocess", "threading", "time"),
    *("select", "signal", "fcntl", "multiprocessing", "concurrent", "logging"),
}
IMPURE_BUILTINS = {"open", "print", "input"}

MOST_MODULES = 16
"""How many modules a folder may hold beside ``__init__``, so that a newcomer sees what is in it."""

CROWDED = {"headway.cli.commands"}  # one file for each command


def root(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def modules(package: str) -> Iterator[tuple[Path, str]]:
    """Every file of a package with its dotted name."""
    base = root(package)
    for path in sorted(base.rglob("*.py")):
        parts = path.relative_to(base).with_suffix("").parts
        yield path, ".".join((package, *(part for part in parts if part != "__init__")))


def imports(path: Path, name: str) -> Iterator[str]:
    """Absolute dotted names of everything that a file imports, at any depth."""
    inside = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = inside[: len(inside) - node.level + 1] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            yield from (base if node.module else f"{base}.{alias.name}" for alias in node.names)


def tops(package: str) -> dict[str, set[str]]:
    return {name: {i.split(".")[0] for i in imports(path, name)} for path, name in modules(package)}


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("headway_scheduler", {"headway", "headway_agents"}),
        ("headway_agents", {"headway"}),
    ],
)
def test_arrows_point_down(package: str, forbidden: set[str]) -> None:
    guilty = {name: found & forbidden for name, found in tops(package).items() if found & forbidden}
    assert not guilty


ARROWS = {
    "errors": set[str](),
    "model": {"errors"},
    "protocol": {"model", "errors"},
    "providers": {"model", "errors"},
    "ports": {"protocol", "model", "errors"},
    "core": {"protocol", "model", "errors"},
    "backends": {"ports", "protocol", "model", "errors"},
    "runtime": {"core", "providers", "ports", "protocol", "model", "errors"},
    "cluster": {"runtime", "core", "providers", "ports", "protocol", "model", "errors"},
}
"""What each folder and file of the scheduler may import of the others."""


@pytest.mark.parametrize("unit", ARROWS)
def test_arrows_inside_the_scheduler_point_down(unit: str) -> None:
    for path, name in modules("headway_scheduler"):
        if unit_of(name) == unit:
            ours = {i for i in imports(path, name) if i.startswith("headway_scheduler.")}
            assert {unit_of(i) for i in ours} <= {unit, *ARROWS[unit]}, f"{name} imports {ours}"


ENGINES = {"sqlite3", "aiosqlite", "fcntl"}


@pytest.mark.parametrize("package", ["headway_scheduler", "headway_agents", "headway"])
def test_only_backends_knows_an_engine(package: str) -> None:
    """All other code gets its database from these two."""
    for path, name in modules(package):
        if name.startswith("headway_scheduler.backends"):
            continue
        found = set(imports(path, name))
        assert not {i.split(".")[0] for i in found} & ENGINES, f"{name} imports an engine"
        inside = {i for i in found if i.startswith("headway_scheduler.backends")}
        assert inside <= {"headway_scheduler.backends"}, f"{name} imports {inside}"
        names = {
            alias.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and (node.module or "").endswith("backends")
            for alias in node.names
        }
        assert names <= {"open_backend", "empty_backend"}, f"{name} imports {names}"


def test_only_agents_knows_autogen() -> None:
    for package in ("headway_scheduler", "headway"):
        for path, name in modules(package):
            if name in ALLOWED_AUTOGEN or type_checking_only(path):
                continue
            found = {i for i in imports(path, name) if i.startswith("autogen")}
            assert not found, f"{name} imports {found}"


# The demo runs stock AutoGen teams beside ours: that is its subject.
ALLOWED_AUTOGEN = {"headway.demo.teams"}


def type_checking_only(path: Path) -> bool:
    """Whether AutoGen appears only under ``if TYPE_CHECKING``: names for types, never imported."""
    tree = ast.parse(path.read_text())
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = [ast.Pass()]
    found = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    names = [n.module or "" if isinstance(n, ast.ImportFrom) else n.names[0].name for n in found]
    return not any(name.startswith("autogen") for name in names)


@pytest.mark.parametrize("package", PURE)
def test_pure_folders_are_pure(package: str) -> None:
    units = PURE[package]
    for path, name in modules(package):
        if unit_of(name) not in units:
            continue
        for found in imports(path, name):
            top = found.split(".")[0]
            is_sibling = top == package and unit_of(found) in units
            is_sibling |= top == "headway_scheduler" and unit_of(found) in PURE_BELOW.get(
                package, ()
            )
            is_pure = top in sys.stdlib_module_names - IMPURE_STDLIB
            is_pure |= top in PURE_DEPENDENCIES.get(unit_of(name), ())
            assert is_sibling or is_pure, f"{name} imports {found}"
        called = {
            node.func.id
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not called & IMPURE_BUILTINS, f"{name} calls {called & IMPURE_BUILTINS}"


def unit_of(name: str) -> str:
    """The folder, or the file, directly below its package, that a module belongs to."""
    return name.split(".")[1] if "." in name else ""


@pytest.mark.parametrize("package", ["headway_scheduler", "headway_agents", "headway"])
def test_folders_are_small(package: str) -> None:
    folders = Counter(
        name.rpartition(".")[0] for path, name in modules(package) if path.name != "__init__.py"
    )
    crowded = {name: count for name, count in folders.items() if count > MOST_MODULES}
    assert crowded.keys() <= CROWDED


def test_no_cycles() -> None:
    """Module level or not: nothing imports what imports it, inside a package."""
    for package in ("headway_scheduler", "headway_agents", "headway"):
        graph = {
            name: {
                i
                for i in imports(path, name)
                if i.startswith(f"{package}.") and not lazy_type(path, i)
            }
            for path, name in modules(package)
        }
        for start in graph:
            assert start not in reachable(graph, start), f"{start} is on an import cycle"


def lazy_type(path: Path, _: str) -> bool:
    """A package's ``__init__`` re-exports its modules: that is not a cycle."""
    return path.name == "__init__.py"


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    todo = list(graph[start])
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo.extend(graph.get(name, ()))
    return seen

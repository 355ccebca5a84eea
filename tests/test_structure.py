"""Rules of the structure beyond the import contracts."""

from __future__ import annotations

import ast
from collections import Counter
from graphlib import TopologicalSorter
from itertools import chain
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
HALVES = ("client", "receiver")
MOST_MODULES = 15
SHARED = ("config", "errors", "logs", "output", "protocol", "provider_api", "providers", "signals", "version")
"""Packages of the client open to the receiver."""
AIOHTTP_SERVERS = (
    "client/sandbox/",
    "receiver/app.py",
    "receiver/commands/serve.py",
    "receiver/logs.py",
    "receiver/mounting.py",
    "receiver/web/",
)


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Return the run-time imports of both halves."""
    return grimp.build_graph(*HALVES, exclude_type_checking_imports=True, cache_dir=None)


def sources() -> list[Path]:
    """Return the modules of both halves."""
    return sorted(chain.from_iterable((ROOT / half).rglob("*.py") for half in HALVES))


def test_folders_are_small() -> None:
    """A folder has at most 15 modules, `__init__` and `__main__` aside."""
    modules = Counter(path.parent for path in sources() if path.stem not in ("__init__", "__main__"))

    assert {folder: count for folder, count in modules.items() if count > MOST_MODULES} == {}


def test_imports_make_no_cycle(graph: grimp.ImportGraph) -> None:
    """No module imports itself through others."""
    TopologicalSorter({name: graph.find_modules_directly_imported_by(name) for name in graph.modules}).prepare()


def test_the_receiver_imports_only_what_is_shared(graph: grimp.ImportGraph) -> None:
    """A new import from the client's own packages needs a place among the shared ones first."""
    found = {
        (name, imported)
        for name in graph.modules
        if name.startswith("receiver")
        for imported in graph.find_modules_directly_imported_by(name)
        if imported.startswith("client") and imported.split(".")[1:2] not in [[package] for package in SHARED]
    }

    assert found == set()


def test_servers_are_made_at_the_edges() -> None:
    """`aiohttp.web` is imported only where HTTP is served or served applications are put together."""
    found = {
        path.relative_to(ROOT).as_posix() for path in sources() if "web" in aiohttp_names(path) and not is_edge(path)
    }

    assert found == set()


def aiohttp_names(path: Path) -> set[str]:
    """Return the names imported from aiohttp by a module, and the imported submodules of it."""
    names = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.ImportFrom(module="aiohttp"):
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom(module=str(module)) if module.startswith("aiohttp."):
                names.add(module.split(".")[1])
            case ast.Import():
                names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("aiohttp.")}
    return names


def is_edge(path: Path) -> bool:
    """Return True if the module may serve HTTP."""
    return path.relative_to(ROOT).as_posix().startswith(AIOHTTP_SERVERS)

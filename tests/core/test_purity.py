"""The core is values in, values out; and imports point one way. Both are read from the source, not believed."""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src/headcount"
MODULES = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))
CORE = [module for module in MODULES if module.startswith("core/")]

PURE = {
    *("base64", "collections", "collections.abc", "dataclasses", "enum", "functools", "hashlib", "heapq", "hmac"),
    *("ipaddress", "itertools", "json", "math", "operator", "re", "string", "types", "typing", "urllib.parse"),
    "msgspec",
}
"""What the core may import beside itself and `errors`."""

IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}

MAY_IMPORT = {
    "errors": "",
    "core": "errors",
    "live": "core errors",
    "live.in_process": "core errors live node",
    "environment": "",
    "config": "core environment errors",
    "log_throttle": "",
    "loops": "",
    "node.hooks": "core errors log_throttle",
    "node.session": "core errors",
    "node.listening_sockets": "errors",
    "node.timers": "config node.listening_sockets node.session core errors",
    "authorization": "core errors log_throttle",
    "fleet.backends": "core errors loops",
    "fleet": "authorization fleet.backends config core errors loops",
    "node.shared_streams": "core errors node.session",
    "node": "authorization config core errors node.hooks node.listening_sockets fleet node.timers node.session"
    " log_throttle loops node.shared_streams",
    "asgi": "authorization config core errors loops node.hooks live.in_process"
    " node.listening_sockets metrics node node.session",
    "metrics": "authorization core errors node",
    "integrations": "authorization",
    "server": "asgi config core errors",
    "client": "core errors live",
    "tools": "client core errors live",
    "cli": "asgi client config core environment errors live server tools",
    "__init__": "asgi authorization core errors node.hooks live.in_process live",
    "__main__": "cli",
}
"""
The one way, by file or package below `headcount`. What is only imported for type checkers does not count: it is not
there when the program runs. An application that imports `headcount` gets no server, no client and no command line.
"""


def imports_of(module: str, source: str | None = None) -> Iterator[str]:
    """Give the full name of everything that a module imports when it runs, wherever the import stands in it."""
    path = SOURCE / module
    package = ".".join(["headcount", *Path(module).parent.parts])
    for node in running(ast.parse(path.read_text() if source is None else source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            # `from . import messages` imports a module, `from .messages import decode` does not import a second one.
            yield from (f"{name}.{alias.name}" for alias in node.names) if node.module is None else (name,)


def running(tree: ast.AST) -> Iterator[ast.AST]:
    if isinstance(tree, ast.If) and ast.unparse(tree.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        return
    yield tree
    for child in ast.iter_child_nodes(tree):
        yield from running(child)


def layer_of(name: str) -> str:
    """Return the file or package below `headcount` that a full name belongs to."""
    parts = name.split(".")[1:]
    layers = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((layer for layer in layers if layer in MAY_IMPORT), ".".join(parts[:1]) or "__init__")


def impurities(module: str, source: str | None = None) -> list[str]:
    found = [
        name
        for name in imports_of(module, source)
        if not (name in PURE or name.startswith("headcount.core.") or name == "headcount.errors")
    ]
    tree = ast.parse((SOURCE / module).read_text() if source is None else source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            found.append(f"{node.func.id}()")
        if isinstance(node, (ast.AsyncFunctionDef, ast.Await)):
            found.append("async")
    return found


@pytest.mark.parametrize("module", CORE)
def test_the_core_is_pure(module: str) -> None:
    assert impurities(module) == []


def test_the_core_is_where_it_is_looked_for() -> None:
    assert {"core/registry.py", "core/stats.py", "core/messages.py", "core/identity.py"} <= set(CORE)


@pytest.mark.parametrize(
    "source",
    [
        "import asyncio",
        "import time",
        "import os",
        "from os import urandom",
        "import socket",
        "import threading",
        "import random",
        "from datetime import datetime",
        "from ..node import Node",
        "from .. import node",
        "from headcount import node",
        "import headcount",
        "def f():\n    import time",
        "open('/etc/passwd')",
        "import sys",
        "async def f(): ...",
    ],
)
def test_what_is_not_pure_is_found(source: str) -> None:
    assert impurities("core/registry.py", source)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    own = layer_of("headcount." + module.removesuffix(".py").replace("/", "."))
    assert own in MAY_IMPORT, f"Say in MAY_IMPORT what {own} may import."
    imported = {layer_of(name) for name in imports_of(module) if name.partition(".")[0] == "headcount"}
    assert imported - {own} <= set(MAY_IMPORT[own].split())


def test_nothing_may_import_what_may_import_it() -> None:
    def reachable(layer: str, seen: frozenset[str]) -> Iterator[str]:
        for below in MAY_IMPORT[layer].split():
            assert below not in seen, f"{below} and {layer} import one another."
            yield below
            yield from reachable(below, seen | {below})

    below = {layer: set(reachable(layer, frozenset({layer}))) for layer in MAY_IMPORT}
    assert below["core"] == {"errors"}
    assert not below["fleet.backends"] & {"node", "asgi"}
    assert not below["client"] & {"node", "asgi"}
    assert not below["__init__"] & {"server", "client", "cli", "integrations"}

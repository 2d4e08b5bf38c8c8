"""The core takes values and returns values. import-linter checks the order of the layers (pyproject.toml)."""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from headcount import Headcount

SOURCE = Path(__file__).parents[2] / "src/headcount"
CORE = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.glob("core/**/*.py"))

PURE = {
    *("base64", "collections", "collections.abc", "dataclasses", "enum", "functools", "hashlib", "heapq", "hmac"),
    *("ipaddress", "itertools", "json", "math", "operator", "re", "statistics", "string", "types", "typing"),
    *("unicodedata", "urllib.parse", "msgspec"),
}
"""What the core may import beside itself and `errors`."""

IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}


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


def _parts_of_the_node() -> set[str]:
    """Return the names of a node's attributes that are objects with state of their own."""
    node = Headcount(version="v1").node
    return {
        name
        for name, value in vars(node).items()
        if not name.startswith("_") and type(value).__module__.startswith(("headcount.node.", "headcount.fleet."))
    }


def parts_taken(source: str, parts: set[str]) -> list[str]:
    """Give every use of a part of the node, such as `node.timers`."""
    return [
        ast.unparse(found)
        for found in ast.walk(ast.parse(source))
        if isinstance(found, ast.Attribute)
        and found.attr in parts
        and ast.unparse(found.value).rpartition(".")[2] in ("node", "_node")
    ]


def reaches(source: str, parts: set[str]) -> list[str]:
    """Give every use of something inside a part of the node, such as `node.timers.mark_busy`."""
    taken = set(parts_taken(source, parts))
    return [
        ast.unparse(found)
        for found in ast.walk(ast.parse(source))
        if isinstance(found, ast.Attribute) and ast.unparse(found.value) in taken
    ]


def test_nobody_reaches_through_the_node() -> None:
    parts = _parts_of_the_node()
    assert {"admission", "commands", "figures", "hooks", "membership", "shared_streams", "timers", "viewers"} <= parts
    assert reaches("self._node.timers.mark_busy(self)\nnode.open(self)", parts) == ["self._node.timers.mark_busy"]
    sources = {path.relative_to(SOURCE).as_posix(): path.read_text() for path in SOURCE.glob("**/*.py")}
    outside = {name: source for name, source in sources.items() if not name.startswith("node/")}
    assert not {name: reached for name, source in outside.items() if (reached := reaches(source, parts))}
    # One place hands the parts to those who use them.
    assert [name for name, source in outside.items() if parts_taken(source, parts)] == ["asgi/app.py"]

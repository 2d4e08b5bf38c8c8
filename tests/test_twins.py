"""Whoever changes a module finds its tests: in its twin, or in the files that the end of its docstring names."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/headcount"


def has_code(tree: ast.Module) -> bool:
    """Say whether a module holds more than a docstring, imports and a list of its names."""
    kept = (ast.Import, ast.ImportFrom)
    return any(
        not isinstance(statement, kept)
        and not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        and not (isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__")
        for statement in tree.body
    )


@cache
def parsed(name: str) -> ast.Module:
    """Return what a module of the package consists of."""
    return ast.parse((SOURCE / name).read_text("utf-8"))


def named_tests(tree: ast.Module) -> list[str]:
    """Return the files that the last line of a module's docstring names, as `Tests: tests/a.py, tests/b.py.`."""
    lines = (ast.get_docstring(tree) or "").splitlines()
    found = re.fullmatch(r"Tests: (.+)\.", lines[-1]) if lines else None
    return found[1].split(", ") if found else []


MODULES = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_a_module_has_its_tests_beside_it_or_names_them(name: str) -> None:
    if name.endswith("__init__.py") and not has_code(parsed(name)):
        return
    path = Path(name)
    twin = ROOT / "tests" / path.parent / f"test_{path.name}"
    assert twin.exists() or named_tests(parsed(name)), (
        f"src/headcount/{name} needs {twin.relative_to(ROOT)}, or a last line of its docstring as "
        "`Tests: tests/asgi/test_streams.py.`"
    )


@pytest.mark.parametrize("name", MODULES)
def test_the_tests_that_a_module_names_exist(name: str) -> None:
    for test in named_tests(parsed(name)):
        assert (ROOT / test).is_file(), f"src/headcount/{name} names {test}"

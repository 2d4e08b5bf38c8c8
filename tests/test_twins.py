"""
Those who change a module find its tests: in its twin, or in the files that the module names.

A Python module names them in the last line of its docstring, a web source in its first comment.
"""

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


WEB = ("web/client", "web/dashboard")
SOURCES = sorted(
    source.relative_to(ROOT).as_posix()
    for workspace in WEB
    for source in (ROOT / workspace / "src").iterdir()
    if source.suffix in (".ts", ".vue") and not source.name.endswith(".d.ts")
)


def web_tests(source: str) -> list[Path]:
    """Return the files that follow `Tests:` in the first comment; `test/` is a folder of the source's workspace."""
    text = (ROOT / source).read_text("utf-8")
    comment = re.match(r"/\*\*(.*?)\*/|<!--(.*?)-->", text, re.DOTALL)
    words = "" if comment is None else (comment[1] or comment[2]).partition("Tests:")[2]
    workspace = ROOT / Path(source).parents[1]
    return [
        (workspace if path.startswith("test/") else ROOT) / path
        for path in re.findall(r"[\w./-]+\.(?:test\.ts|py)\b", words)
    ]


@pytest.mark.parametrize("source", SOURCES)
def test_a_web_source_has_its_tests_beside_it_or_names_them(source: str) -> None:
    path = Path(source)
    twin = path.parents[1] / "test" / f"{path.stem}.test.ts"
    named = web_tests(source)
    assert named or (ROOT / twin).is_file(), (
        f"{source} needs {twin}, or a first comment with `Tests: test/index.test.ts.` or "
        "`Tests: tests/e2e/test_dashboard.py.`"
    )
    for test in named:
        assert test.is_file(), f"{source} names {test.relative_to(ROOT)}, which does not exist"


def test_both_workspaces_have_sources() -> None:
    assert {Path(source).parents[1].as_posix() for source in SOURCES} == set(WEB)

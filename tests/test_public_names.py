"""The public names: type checkers and programs find the same, and nobody pays for those that are not used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import headcount


def names_for_type_checkers() -> dict[str, str]:
    """Return the module of each name that `headcount` imports for type checkers."""
    tree = ast.parse(Path(headcount.__file__).read_text("utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def test_type_checkers_find_what_programs_find() -> None:
    assert names_for_type_checkers() == headcount._MODULES
    assert sorted(headcount._MODULES) == headcount.__all__
    assert set(headcount.__all__) <= set(dir(headcount))


@pytest.mark.parametrize("name", headcount.__all__)
def test_a_public_name_is_imported_when_it_is_used(name: str) -> None:
    value = getattr(headcount, name)
    assert value.__name__ == name
    assert value.__module__ == f"headcount.{headcount._MODULES[name]}"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'headcount' has no attribute 'Headcounts'"):
        headcount.Headcounts  # type: ignore[attr-defined]  # noqa: B018


def test_a_type_checker_finds_a_misspelt_name(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("from headcount import Grant\nfrom headcount import Grannt\n")
    # From here, with the settings and the cache of `make lint`, which has checked all else.
    arguments = [sys.executable, "-m", "mypy", str(program)]
    checked = subprocess.run(
        arguments, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    ).stdout
    assert 'has no attribute "Grannt"' in checked
    assert "Found 1 error" in checked


def test_a_star_import_gives_all_names() -> None:
    found: dict[str, object] = {}
    exec("from headcount import *", found)
    assert set(headcount.__all__) <= set(found)


def modules_after(program: str) -> set[str]:
    """Return the modules that are loaded after a program in a Python of its own."""
    program += "; import sys; print(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )


def test_an_application_gets_no_server_no_client_and_no_command_line() -> None:
    loaded = modules_after("from headcount import *")
    assert "headcount.asgi.app" in loaded
    parts = {name.split(".")[1] for name in loaded if name.startswith("headcount.")}
    assert not {"cli", "client", "integrations", "server", "tools"} & parts


@pytest.mark.parametrize("module", ["headcount.cli.stats", "headcount.client"])
def test_commands_that_ask_a_server_do_not_import_one(module: str) -> None:
    loaded = modules_after(f"import {module}")
    assert module in loaded
    assert not {"starlette", "headcount.asgi", "headcount.node", "headcount.fleet"} & loaded


def test_python_m_headcount_is_the_command() -> None:
    command = str(Path(sys.executable).with_name("headcount"))
    outputs = [
        subprocess.run([*start, "--version"], capture_output=True, text=True, check=True).stdout
        for start in ([command], [sys.executable, "-m", "headcount"])
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].startswith("headcount, version ")

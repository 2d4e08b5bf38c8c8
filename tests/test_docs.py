"""Docs that lie are worse than none: links, make verbs and the public API are held against the code.

Settings are in test_settings.py.
"""

import ast
import re
from pathlib import Path

import pytest

import headcount
from headcount.core.ends import CAUSES
from kit.docs import code_in, section_of
from kit.programs import files_of_git, missing, needs

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/headcount"
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text("utf-8")
WITHOUT_GIT = missing("git")
PAGES = (
    []
    if WITHOUT_GIT
    # texts.md is a list of texts, not a page.
    else sorted(Path(name) for name in files_of_git("*.md") if name != "tests/texts/texts.md")
)
each_page = pytest.mark.parametrize(
    "page", PAGES or [pytest.param(Path(), marks=pytest.mark.skip(reason=str(WITHOUT_GIT)))], ids=str
)


def test_reasons_why_a_stream_ends_are_documented() -> None:
    _, table = (ROOT / "docs/hooks.md").read_text("utf-8").split("## Why a stream ended")
    documented = re.findall(r"^\| `([a-z ]+)` \|", table, re.MULTILINE)
    assert sorted(documented) == sorted(CAUSES)


@each_page
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = (ROOT / page).read_text("utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (ROOT / page.parent / target).exists(), f"{page} links to {target}"


@each_page
def test_python_of_pages_compiles(page: Path) -> None:
    for block in code_in((ROOT / page).read_text("utf-8"), "python"):
        compile(block, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.anyio
async def test_the_example_of_messages_to_pages_runs() -> None:
    (block,) = code_in(section_of("docs/python-api.md", "Messages to pages"), "python")
    code = compile(block, "python-api.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names = {"headcount": headcount.Headcount(version="v1"), "connection_id": "0123456789abcdef"}
    await eval(code, names)
    assert names["UnknownConnection"] is headcount.UnknownConnection
    assert names["Busy"] is headcount.Busy


def test_browser_code_of_the_readme_is_part_of_the_tested_example() -> None:
    (block,) = code_in((ROOT / "README.md").read_text("utf-8").partition("## In the browser")[2], "ts")
    example = section_of("docs/browser.md", "Vue")
    lines = [line for line in block.splitlines() if line and not line.startswith("//")]
    assert len(lines) == 3
    assert all(line in example.splitlines() for line in lines)


def test_files_that_the_glossary_names_exist() -> None:
    glossary = section_of("CONTRIBUTING.md", "Glossary")
    places = re.findall(r"`([a-z_]+/[a-z_/]*(?:\.py)?|[a-z_]+\.py)`", glossary)
    assert len(places) > 30
    for place in places:
        assert (ROOT / "src/headcount" / place).exists() or (ROOT / place).exists(), place


def test_the_architecture_names_every_module() -> None:
    tree = ARCHITECTURE.partition("```\n")[2].partition("\n```")[0]
    named = set(re.findall(r"\w+\.py\b", tree))
    modules = [path for path in PACKAGE.rglob("*.py") if not path.name.startswith("__")]
    assert not [str(path.relative_to(PACKAGE)) for path in modules if path.name not in named]
    assert not named - {path.name for path in modules}


def test_the_architecture_names_the_largest_files_and_classes() -> None:
    (paragraph,) = re.findall(r"^\w+ files have more than 500 lines.*?(?=\n\n)", ARCHITECTURE, re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`([\w/.]+)`", re.sub(r"\([^)]*\)", "", paragraph)))
    largest = set()
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text("utf-8")
        if source.count("\n") > 500:
            largest.add(path.relative_to(PACKAGE).as_posix())
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef) and len(_public_methods(node)) > 30:
                largest.add(node.name)
    assert named == largest


def _public_methods(node: ast.ClassDef) -> set[str]:
    functions = (part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef))
    return {function.name for function in functions if not function.name.startswith("_")}


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs/index.md").read_text("utf-8")
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert pages <= set(re.findall(r"\]\(([\w.-]+)\)", index))


def test_make_verbs_that_pages_name_exist() -> None:
    needs("git")
    verbs = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for page in PAGES:
        text = (ROOT / page).read_text("utf-8")
        for verb in re.findall(r"(?:`make |^make (?=[a-z-]+$))([a-z-]+)", text, re.MULTILINE):
            assert verb in verbs, f"{page} says make {verb}"


def test_public_names_exist_and_are_sorted() -> None:
    assert list(headcount.__all__) == sorted(headcount.__all__)
    assert all(hasattr(headcount, name) for name in headcount.__all__)


@pytest.mark.parametrize("page", ["SECURITY.md", "docs/threat-model.md"])
def test_every_test_that_a_page_on_security_names_exists(page: str) -> None:
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", (ROOT / page).read_text("utf-8"))
    assert len(named) > 10
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text("utf-8"), f"{page} names {path}::{name}"


def test_every_line_of_the_threat_model_names_a_test() -> None:
    page = (ROOT / "docs/threat-model.md").read_text("utf-8")
    lines = [line for line in page.splitlines() if re.match(r"\| (can |cannot |with )", line)]
    assert len(lines) > 40
    for line in lines:
        assert re.search(r"\| `tests/\S+::\w+` \|$", line), line
    for party in ("Visitor", "Viewer", "Admin", "Neighbour on Redis", "Other local user", "Other node", "Proxy"):
        assert section_of("docs/threat-model.md", party)


def test_ci_runs_the_command_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert "```sh\nmake test\n```" in readme
    assert "\nmake test\n" in (ROOT / ".ci/run").read_text("utf-8")

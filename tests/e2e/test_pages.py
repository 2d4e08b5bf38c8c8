"""The small pages, built with the Vite recipe and opened in Chromium; and the recipes of docs/browser.md."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from kit.docs import code_in

from .conftest import Server, eventually

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "examples/pages"
PAGE = (ROOT / "docs/browser.md").read_text("utf-8")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small pages as a deploy called `build-7` builds them."""
    out = tmp_path_factory.mktemp("pages")
    subprocess.run(
        ["npx", "vite", "build", "--logLevel", "error", "--emptyOutDir", "--outDir", str(out)],
        cwd=PAGES,
        env={**os.environ, "BUILD_ID": "build-7"},
        check=True,
    )
    return out


@pytest.fixture(scope="module")
def server(built: Path) -> Iterator[Server]:
    server = Server(
        *("uvicorn", "page_app:app", "--port", "{port}", "--log-level", "warning"),
        env={"SESSION_SECRET": "s", "PAGES": str(built), "PAGE_VERSION": "build-7"},
    )
    yield server
    server.stop()


@pytest.fixture
def context(browser: Browser, server: Server) -> Iterator[BrowserContext]:
    context = browser.new_context(base_url=server.url)
    yield context
    context.close()
    eventually(lambda: server.stats()["total"] == 0, "all pages are gone")


@pytest.mark.parametrize("name", ["react", "svelte", "element"])
def test_small_page(context: BrowserContext, server: Server, name: str) -> None:
    stranger = context.new_page()
    complaints: list[str] = []
    stranger.on("pageerror", lambda error: complaints.append(str(error)))
    stranger.on(
        "console", lambda message: complaints.append(message.text) if "Content Security" in message.text else None
    )
    stranger.goto(f"/pages/{name}.html")
    expect(stranger.get_by_text("Not authorised for live stats")).to_be_visible()
    assert server.stats()["versions"] == {"build-7": 1}, "the id of the build is stamped into the bundle"
    assert server.stats()["routes"] == {f"/pages/{name}.html": 1}
    if name == "element":
        # Its style is there although the page's policy allows no style elements.
        style = stranger.locator("active-connections").evaluate("(element) => getComputedStyle(element).display")
        assert style == "inline-block"
    stranger.close()
    assert context.request.post("/log-in").ok
    page = context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"/pages/{name}.html")
    expect(page.locator("body")).to_contain_text("1 pages are open")
    other = context.new_page()
    other.goto("/?v=v1")
    expect(page.locator("body")).to_contain_text("2 pages are open")
    expect(page.locator("body")).to_contain_text(re.compile(r"v1:? ?1"))
    other.close()
    expect(page.locator("body")).to_contain_text("1 pages are open")
    assert complaints == []


def test_page_without_a_build_step(context: BrowserContext, server: Server) -> None:
    assert context.request.post("/log-in").ok
    page = context.new_page()
    page.goto("/plain")
    expect(page.locator("active-connections")).to_contain_text("1 pages are open")
    expect(page.locator("#total")).to_have_text("1")
    assert server.stats()["versions"] == {"2026.11.3": 1}
    assert server.stats()["routes"] == {"/plain": 1}


COMMON = {
    "target": "ES2023", "lib": ["ES2023", "DOM", "DOM.Iterable"], "strict": True, "noEmit": True, "skipLibCheck": True,
    "noUnusedLocals": True, "noUnusedParameters": True, "erasableSyntaxOnly": True, "verbatimModuleSyntax": True,
    "noFallthroughCasesInSwitch": True, "allowImportingTsExtensions": True,
}  # fmt: skip
NEW_PROJECT = {
    "tsconfig.app.json": {
        "compilerOptions": {
            **COMMON, "module": "esnext", "moduleResolution": "bundler", "types": ["vite/client"], "jsx": "react-jsx",
        },
        "include": ["src"],
    },
    "tsconfig.node.json": {
        "compilerOptions": {**COMMON, "module": "nodenext", "types": ["node"]}, "include": ["vite.config.ts"],
    },
}  # fmt: skip
"""What `npm create vite@latest` checks with."""


def test_recipes_pass_the_type_checker_of_a_new_project(tmp_path: Path) -> None:
    files = {name: json.dumps(content) for name, content in NEW_PROJECT.items()}
    for block in (*code_in(PAGE, "ts"), *code_in(PAGE, "tsx")):
        told = block.partition("\n")[0].removeprefix("// ")
        if told in ("main.tsx", "Figures.tsx", "headcount.ts"):
            files[f"src/{told}"] = block
        elif told == "vite.config.ts":
            files[told] = block
        elif "name: 'build-id'" in block:
            files["build-id.ts"] = block
    (files["src/env.d.ts"],) = re.findall(r"`(interface ImportMetaEnv .*?)`", PAGE)
    assert len(files) == 8
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "node_modules").symlink_to(ROOT / "node_modules")
    for project in NEW_PROJECT:
        tsc = str(ROOT / "node_modules/.bin/tsc")
        done = subprocess.run([tsc, "-p", project], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_recipes_are_the_files_that_are_tested() -> None:
    assert (PAGES / "build-id.ts").read_text("utf-8") in code_in(PAGE, "ts")
    assert (PAGES / "src/Figures.svelte").read_text("utf-8") in code_in(PAGE, "svelte")
    assert (PAGES / "src/element.ts").read_text("utf-8") in code_in(PAGE, "ts")
    (element,) = [block for block in code_in(PAGE, "html") if "VITE_BUILD_ID" in block]
    assert element.strip() in (PAGES / "element.html").read_text("utf-8")

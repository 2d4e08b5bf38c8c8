"""The Vue application of docs/browser.md, word for word: it passes the type checker, builds, and shows what it says."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, expect

from kit.docs import code_in, section_of
from kit.ports import free_port

from .conftest import Server, answers, eventually, log_in

ROOT = Path(__file__).parents[2]
INDEX = '<!doctype html><title>app</title><div id="app"></div><script type="module" src="/src/main.ts"></script>'
TSCONFIG = """{
  "compilerOptions": {
    "target": "ES2022", "module": "ESNext", "moduleResolution": "bundler", "lib": ["ES2022", "DOM", "DOM.Iterable"],
    "types": ["vite/client"], "strict": true, "noUnusedLocals": true, "noUnusedParameters": true, "noEmit": true,
    "erasableSyntaxOnly": true, "noUncheckedSideEffectImports": true, "skipLibCheck": true
  },
  "include": ["src", "vite.config.ts"]
}"""
"""What `npm create vite@latest -- --template vue-ts` checks with."""


@pytest.fixture
def application(tmp_path: Path, server: Server) -> Iterator[str]:
    """Make it, check it, build it and serve it with Vite; gives its URL."""
    files = {"index.html": INDEX, "tsconfig.json": TSCONFIG}
    for block in code_in(section_of("docs/browser.md", "Vue"), "ts", "vue"):
        (name,) = re.findall(r"[\w./]+\.(?:ts|vue)", block.partition("\n")[0])
        files[name] = block
    assert {"src/main.ts", "src/App.vue", "vite.config.ts"} <= set(files)
    assert "http://127.0.0.1:8000" in files["vite.config.ts"]
    files["vite.config.ts"] = files["vite.config.ts"].replace("http://127.0.0.1:8000", server.url)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    (tmp_path / "node_modules").symlink_to(ROOT / "node_modules")
    programs = ROOT / "node_modules" / ".bin"
    environment = {**os.environ, "VITE_BUILD_ID": "2026.11.3"}
    for command in (["vue-tsc", "--noEmit"], ["vite", "build", "--logLevel", "warn"]):
        done = subprocess.run(
            [programs / command[0], *command[1:]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    port = free_port()
    process = subprocess.Popen(
        [programs / "vite", "preview", "--host", "127.0.0.1", "--port", str(port), "--strictPort"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: answers(url), "vite serves it", seconds=30)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def test_vue_example_shows_the_figures_to_who_may_see_them(
    application: str, new_context: Callable[[], BrowserContext]
) -> None:
    stranger = new_context().new_page()
    stranger.goto(application)
    expect(stranger.get_by_text("Not authorised for live stats")).to_be_visible()

    admin = new_context()
    log_in(admin)  # cookies do not look at the port
    page = admin.new_page()
    page.goto(application)
    expect(page.get_by_role("heading", name="2 pages are open")).to_be_visible()
    expect(page.get_by_text("2 on version 2026.11.3")).to_be_visible()
    expect(page.get_by_text("2 at /", exact=True)).to_be_visible()
    expect(page.get_by_text("You are at /", exact=True)).to_be_visible()
    expect(page.get_by_text("Somebody is at /", exact=True)).to_be_visible()
    stranger.evaluate("history.pushState(null, '', '/products?from=here')")
    expect(page.get_by_text("Somebody is at /products", exact=True)).to_be_visible()
    expect(page.get_by_text("1 at /products", exact=True)).to_be_visible()

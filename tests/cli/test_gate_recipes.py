"""docs/gates.md and integrations/: what each recipe has others run or ask, run and asked as it stands there."""

import asyncio
import http.client
import json
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from kit.docs import DOCS, code_in
from kit.pages import Sse, ask, everybody_leaves
from kit.programs import ROOT, needs
from server.serving import Server

from .processes import TOKEN, VERSION, Serve
from .running import HEADCOUNT, environment

pytestmark = pytest.mark.anyio

PAGE = (DOCS / "gates.md").read_text("utf-8")
CURRENT = "2026.11.4"
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "integrations/github-action/action.yml").read_text("utf-8"))


def recipe(first: str) -> Any:
    """Return the YAML block of the page that begins so."""
    (found,) = [block for block in code_in(PAGE, "yaml") if block.startswith(first)]
    return yaml.safe_load(found)


def template(name: str) -> Any:
    """Return the one metric of an AnalysisTemplate of the page."""
    documents = [yaml.safe_load(block) for block in code_in(PAGE, "yaml") if "kind: AnalysisTemplate" in block]
    (found,) = [document["spec"] for document in documents if document["metadata"]["name"] == name]
    return found


async def shell(
    script: str, env: Mapping[str, str], program: tuple[str, ...] = ("sh", "-e", "-c")
) -> subprocess.CompletedProcess[str]:
    """Run what a recipe has others run, in seconds where it says minutes, with Headcount installed."""
    script = script.replace('pip install "headcount[client]"\n', "").replace("--for 1m", "--for 1s")
    all_env = environment({"PATH": f"{HEADCOUNT.parent}:{os.environ['PATH']}", **env})
    arguments = [*program, script]
    return await asyncio.to_thread(
        subprocess.run, arguments, env=all_env, capture_output=True, text=True, timeout=60, check=False
    )


async def pages(server: Serve | Server, *versions: str) -> list[Sse]:
    url = server.origin if isinstance(server, Serve) else server.url
    return [await Sse.open(url, version=version, route="/") for version in versions]


@pytest.fixture
def own() -> Iterator[Serve]:
    with Serve(version=CURRENT) as server:
        yield server


@pytest.fixture
async def asked() -> Any:
    """A server that knows within moments which pages are away."""
    with Server("uvicorn", version=CURRENT, admin_token=TOKEN, environment={"AWAY_GRACE": "0.2"}) as server:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        await asyncio.to_thread(server.wait_ready)
        await ask(server.url, "POST", "/__skew/admin/release", {"version": CURRENT}, headers)
        async with asyncio.timeout(30):
            while "awayKnown" not in (await ask(server.url, "GET", "/__skew/admin/stats", None, headers))[1]:
                await asyncio.sleep(0.05)
        yield server
        await everybody_leaves()


async def test_a_pipeline_waits_for_the_pages_of_older_versions_only(own: Serve) -> None:
    """The step of GitHub Actions without the action, and the job of GitLab CI."""
    [step] = recipe("- name: Declare the release")
    job = recipe("old-pages-are-gone:")["old-pages-are-gone"]
    assert set(step["env"]) == {"HEADCOUNT_URL", "HEADCOUNT_TOKEN", "BUILD_ID"}
    assert job["timeout"] == "1h"
    scripts = {"BUILD_ID": step["run"], "CI_COMMIT_SHA": "\n".join(job["script"])}
    for script in scripts.values():
        assert "--below 20 " in script, "a number, which no stranger can move"
        assert re.findall(r"--timeout (\S+)", script) == ["15m", "30m"]
    [old, *_] = await pages(own, VERSION, *[CURRENT] * 3)
    for name, script in scripts.items():
        quick = script.replace("--below 20 ", "--below 0 ").replace("--timeout 15m", "--timeout 9s")
        env = {"HEADCOUNT_URL": own.origin, "HEADCOUNT_TOKEN": TOKEN, name: CURRENT, "GITHUB_SHA": "no", "CI": "1"}
        late = await shell(quick.replace("--timeout 30m", "--timeout 3s"), env)
        assert late.returncode == 3, late.stderr
        assert "1 of 4 connections is still outdated" in late.stderr
        done = await shell(script, env)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[0] == f"{CURRENT} was current already; no page had to receive it."
    await old.leave()
    done = await shell(quick, env)
    assert done.returncode == 0, done.stderr
    await everybody_leaves()
    own.stop()
    lost = await shell(quick, env)
    assert lost.returncode == 4, "a release that nobody heard of ends the step"


async def test_the_hook_of_kubernetes_ends_well_whatever_happens(own: Serve) -> None:
    spec = recipe("spec:")["spec"]
    [container] = spec["containers"]
    program, option, script = container["lifecycle"]["preStop"]["exec"]["command"]
    assert (program, option) == ("sh", "-c")
    assert "--timeout 29m" in script
    assert spec["terminationGracePeriodSeconds"] >= 29 * 60 + 60
    assert {variable["name"] for variable in container["env"]} == {"HEADCOUNT_URL", "HEADCOUNT_TOKEN", "BUILD_ID"}
    env = {
        "HEADCOUNT_URL": own.origin,
        "HEADCOUNT_TOKEN": TOKEN,
        "BUILD_ID": VERSION,
        "HEADCOUNT_PORT": "tcp://10.0.0.1:8000",  # of a Service called headcount
        "HEADCOUNT_SERVICE_HOST": "10.0.0.1",
    }
    await pages(own, CURRENT)
    nobody = await shell(script, env)
    assert (nobody.returncode, nobody.stdout.partition(":")[0]) == (0, "Done")
    await pages(own, VERSION)
    over = await shell(script.replace("29m", "3s"), env)
    assert over.returncode == 0
    assert "1 of 2 connections is still on version" in over.stderr
    await everybody_leaves()
    own.stop()
    gone = await shell(script.replace("29m", "3s"), env)
    assert gone.returncode == 0
    assert "no contact with the server" in gone.stderr


async def test_the_probes_of_kubernetes_are_answered() -> None:
    probes = recipe("readinessProbe:")
    assert probes.keys() == {"readinessProbe", "livenessProbe"}
    targets = {name: probe["httpGet"]["path"] for name, probe in probes.items()}
    with Serve() as whole, Serve(backend="redis://127.0.0.1:1/0") as lonely:
        for server, ready in ((whole, 200), (lonely, 503)):
            assert (await ask(server.origin, "GET", targets["readinessProbe"]))[0] == ready
            assert (await ask(server.origin, "GET", targets["livenessProbe"]))[0] == 200


def measured(spec: Any, server: Server | Serve) -> tuple[int, bool | None]:
    """Measure as Argo Rollouts does: the status, and what `successCondition` says of the value at `jsonPath`."""
    [metric] = spec["metrics"]
    web = metric["provider"]["web"]
    values = {"version": CURRENT, "token": TOKEN}

    def fill(text: str) -> str:
        return re.sub(r"\{\{args\.(\w+)\}\}", lambda found: values[found[1]], text)

    url = urlsplit(fill(web["url"]))
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=web["timeoutSeconds"])
    connection.request(
        "GET", f"{url.path}?{url.query}", None, {header["key"]: fill(header["value"]) for header in web["headers"]}
    )
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()
    if answer.status != 200:
        return answer.status, None
    path = re.fullmatch(r"\{\$\.(\w+)\}", web["jsonPath"])
    condition = re.fullmatch(r"result == (true|false)", metric["successCondition"])
    assert path
    assert condition
    return answer.status, body[path[1]] is (condition[1] == "true")


async def test_argo_rollouts_measures_an_open_gate_as_success_and_nothing_else(asked: Server) -> None:
    spec = template("old-pages-are-gone")
    [metric] = spec["metrics"]
    assert [each["name"] for each in spec["args"]] == ["version", "token"]
    assert "secretKeyRef" in spec["args"][1]["valueFrom"]
    assert "failureCondition" not in metric
    assert (metric["failureLimit"], metric["consecutiveSuccessLimit"]) == (-1, 1)
    assert await asyncio.to_thread(measured, spec, asked) == (200, True)
    old = await pages(asked, *[VERSION] * 21)
    assert await asyncio.to_thread(measured, spec, asked) == (200, False)
    await old[0].leave()
    assert await asyncio.to_thread(measured, spec, asked) == (200, True)
    await ask(asked.url, "POST", "/__skew/admin/release", {"version": "9"}, {"Authorization": f"Bearer {TOKEN}"})
    assert await asyncio.to_thread(measured, spec, asked) == (200, False), "another version is current"


async def test_argo_rollouts_does_not_take_partial_figures_for_success() -> None:
    with Serve(version=CURRENT, backend="redis://127.0.0.1:1/0") as server:
        assert await asyncio.to_thread(measured, template("old-pages-are-gone"), server) == (200, False)
        spec = template("old-pages-are-gone")
        spec["metrics"][0]["provider"]["web"]["headers"] = []
        assert await asyncio.to_thread(measured, spec, server) == (401, None)


async def test_the_job_of_argo_rollouts_ends_as_the_gate_does(own: Serve) -> None:
    spec = template("wait-for-old-pages")
    job = spec["metrics"][0]["provider"]["job"]["spec"]
    assert job["backoffLimit"] == 0
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    [container] = job["template"]["spec"]["containers"]
    names = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert names["BUILD_ID"] == "{{args.version}}"
    assert names.keys() == {"HEADCOUNT_URL", "HEADCOUNT_TOKEN", "BUILD_ID"}
    program, option, script = container["command"]
    assert (program, option) == ("sh", "-c")
    env = {"HEADCOUNT_URL": own.origin, "HEADCOUNT_TOKEN": TOKEN, "BUILD_ID": CURRENT}
    await pages(own, VERSION)
    assert (await shell(script, env)).returncode == 0
    late = await shell(script.replace("--below 20", "--below 0").replace("30m", "2s"), env)
    assert late.returncode == 3, late.stderr


async def test_the_load_tester_of_flagger_succeeds_while_the_gate_is_open(asked: Server) -> None:
    needs("curl")
    needs("bash")
    [hook] = recipe("analysis:")["analysis"]["webhooks"]
    assert (hook["type"], hook["metadata"]["type"]) == ("confirm-promotion", "bash")
    command = hook["metadata"]["cmd"]
    assert TOKEN not in command
    assert re.findall(r"\$\w+", command) == ["$HEADCOUNT_TOKEN", "$HEADCOUNT_URL"], "the load tester logs the command"
    env = {"HEADCOUNT_URL": asked.url, "HEADCOUNT_TOKEN": TOKEN}
    bash = ("bash", "-c")
    done = await shell(command, env, bash)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["open"] is True
    await pages(asked, *[VERSION] * 21)
    closed = await shell(command, env, bash)
    assert closed.returncode != 0
    assert "21 connections are outdated; the limit is 20." in closed.stdout, "Flagger writes this to its events"
    assert (await shell(command, {**env, "HEADCOUNT_TOKEN": "wrong"}, bash)).returncode != 0
    assert (await shell(command, {**env, "HEADCOUNT_URL": "http://127.0.0.1:1"}, bash)).returncode != 0


async def test_any_tool_can_ask_by_status(asked: Server) -> None:
    needs("curl")
    (command,) = [block for block in code_in(PAGE, "sh") if block.startswith("curl")]
    command = command.replace("https://www.example.com", asked.url)
    assert (await shell(command, {"HEADCOUNT_TOKEN": TOKEN})).returncode == 0
    await pages(asked, *[VERSION] * 21)
    assert (await shell(command, {"HEADCOUNT_TOKEN": TOKEN})).returncode == 22, "of curl, for an error of HTTP"


def step_of(name: str) -> dict[str, Any]:
    """Return the step of the action whose name begins so."""
    (found,) = [step for step in ACTION["runs"]["steps"] if step["name"].startswith(name)]
    return dict(found)


async def run_step(name: str, inputs: Mapping[str, str], env: Mapping[str, str] = {}) -> Any:
    """Run a step of the action as a runner does; None: its `if` says no."""
    step = step_of(name)
    values = {key: str(value.get("default", "")) for key, value in ACTION["inputs"].items()} | dict(inputs)
    if "if" in step:
        condition = re.fullmatch(r"inputs\.([\w-]+) == '(\w+)'", step["if"])
        assert condition
        if values[condition[1]] != condition[2]:
            return None
    found = {key: re.fullmatch(r"\$\{\{ inputs\.([\w-]+) \}\}", value) for key, value in step["env"].items()}
    filled = {key: values[match[1]] for key, match in found.items() if match}
    assert filled.keys() == step["env"].keys(), "a variable is one whole input"
    bash = ("bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c")
    return await shell(step["run"], {**env, **filled}, bash)


def test_inputs_of_the_action_reach_the_shell_as_variables_only() -> None:
    assert ACTION["runs"]["using"] == "composite"
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step["run"], "GitHub would paste the value into the script"
        assert step["shell"] == "bash"
    used = {name for step in ACTION["runs"]["steps"] for name in re.findall(r"inputs\.([\w-]+)", json.dumps(step))}
    assert used == ACTION["inputs"].keys()


def test_inputs_of_the_action_are_described_and_documented() -> None:
    section = PAGE.partition("## GitHub Actions")[2].partition("\n## ")[0]
    for name, about in ACTION["inputs"].items():
        assert about["description"].endswith("."), name
        assert about["required"] or "default" in about
        assert f"`{name}`" in section, name
    [use] = recipe("- uses:")
    assert use["with"].keys() <= ACTION["inputs"].keys()
    assert {name for name, about in ACTION["inputs"].items() if about["required"]} <= use["with"].keys()


async def test_the_action_declares_the_version_and_waits_for_the_others(own: Serve) -> None:
    needs("bash")
    inputs = {"url": own.origin, "token": TOKEN, "version": CURRENT, "release-timeout": "9s", "wait-timeout": "3s"}
    [old] = await pages(own, VERSION)
    declared = await run_step("Declare", inputs, {"HEADCOUNT_VERSION": "of the job"})
    assert (declared.returncode, declared.stdout) == (0, f"{CURRENT} is current; 1 page received it.\n")
    late = await run_step("Wait", inputs, {"HEADCOUNT_VERSION": "of the job"})
    assert late.returncode == 3, late.stderr
    assert (await run_step("Wait", {**inputs, "at-most": "1"})).returncode == 0
    await old.leave()
    assert (await run_step("Wait", inputs)).returncode == 0
    assert await run_step("Declare", {**inputs, "release": "false"}) is None
    assert await run_step("Wait", {**inputs, "wait": "false"}) is None


async def test_what_the_action_is_given_is_not_run(own: Serve, tmp_path: Path) -> None:
    needs("bash")
    trap = tmp_path / "trap"
    for hostile in (f'"; touch {trap}; "', f"$(touch {trap})", f"`touch {trap}`", "--unserved", "-h"):
        inputs = dict.fromkeys(("version", "at-most", "wait-timeout", "release-timeout", "over"), hostile)
        for name in ("Declare", "Wait"):
            for values in (inputs, {"version": hostile, "release-timeout": "1s", "wait-timeout": "1s"}):
                done = await run_step(name, {"url": own.origin, "token": TOKEN, **values})
                assert done.returncode != 0, (hostile, done.stdout)
    assert not trap.exists()


async def test_the_action_installs_into_a_place_of_its_own(tmp_path: Path) -> None:
    needs("bash")
    wheel = tmp_path / "of_the_tests-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("of_the_tests-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: of-the-tests\nVersion: 1\n")
        archive.writestr("of_the_tests-1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("of_the_tests-1.dist-info/entry_points.txt", "[console_scripts]\nof-the-tests = a:b\n")
        archive.writestr("of_the_tests-1.dist-info/RECORD", "")
    path = tmp_path / "github_path"
    env = {"RUNNER_TEMP": str(tmp_path), "GITHUB_PATH": str(path), "PATH": os.environ["PATH"]}
    done = await run_step("Install", {"package": str(wheel)}, env)
    assert done.returncode == 0, done.stderr
    assert shutil.which("of-the-tests", path=path.read_text("utf-8").strip())

"""`headcount config` and `completion`, and what the whole command line has in common."""

import importlib
import json
import re
import subprocess
from pathlib import Path

import pytest

from headcount.cli import _COMMANDS
from headcount.config import Config
from headcount.environment import COMMAND_VARIABLES, variable_of

from .running import HEADCOUNT, environment, run

COMMANDS = [
    "assets",
    "completion",
    "config",
    "demo",
    "doctor",
    "impact",
    "nodes",
    "notify",
    "release",
    "rollout",
    "serve",
    "stats",
    "swarm",
    "top",
    "wait",
]


def test_every_setting_is_shown_with_its_source() -> None:
    env = {"GIT_SHA": "abc123", "HEADCOUNT_MAX_ROUTES": "7", "HEADCOUNT_PORT": "8010"}
    done = run("config", "--route-tracking", "--json", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    shown = json.loads(done.stdout)
    assert {*Config.__struct_fields__, "host", "port"} <= set(shown)
    assert shown["version"] == {"value": "abc123", "source": "GIT_SHA"}
    assert shown["route_tracking"] == {"value": True, "source": "option"}
    assert shown["max_routes"] == {"value": 7, "source": "HEADCOUNT_MAX_ROUTES"}
    assert shown["port"] == {"value": 8010, "source": "HEADCOUNT_PORT"}
    assert shown["keepalive_interval"] == {"value": 15.0, "source": "default"}


def test_an_option_wins_over_the_environment() -> None:
    done = run("config", "--version", "v2", "--json", env={"HEADCOUNT_VERSION": "v1", "GIT_SHA": "abc"})
    assert json.loads(done.stdout)["version"] == {"value": "v2", "source": "option"}


@pytest.mark.parametrize("as_json", [True, False])
def test_secrets_are_masked(as_json: bool) -> None:
    env = {
        "HEADCOUNT_VERSION": "v1",
        "HEADCOUNT_ADMIN_TOKEN": "hunter2-hunter2-hunter2",
        "HEADCOUNT_METRICS_TOKEN": "swordfish-swordfish",
        "HEADCOUNT_FLEET_SECRET": "correct-horse-battery,staple-staple-staple",
        "HEADCOUNT_AUTHORIZE_URL": "https://shop:opensesame@example.com/may-see",
        "HEADCOUNT_BACKEND": "redis://:not@quoted@store/0",
    }
    done = run("config", *(["--json"] if as_json else []), env=env)
    assert done.returncode == 0
    for secret in ("hunter2", "swordfish", "horse", "staple", "opensesame", "quoted"):
        assert secret not in done.stdout + done.stderr
    assert done.stdout.count("********") == 3
    assert "@example.com/may-see" in done.stdout
    assert "redis://…@store/0" in done.stdout


def test_a_missing_version_is_said_after_the_rest() -> None:
    done = run("config")
    assert done.returncode == 1
    assert re.search(r"^version +none +missing$", done.stdout, re.MULTILINE)
    assert re.search(r"^base_path +/__skew +default$", done.stdout, re.MULTILINE)
    assert "give --version or set HEADCOUNT_VERSION" in done.stderr


def test_a_wrong_setting_is_said_in_a_sentence() -> None:
    done = run("config", "--version", "v1", env={"HEADCOUNT_MAX_ROUTES": "0"})
    assert (done.returncode, done.stdout) == (2, "")
    assert "HEADCOUNT_MAX_ROUTES is 0" in done.stderr


def test_config_and_serve_complain_in_the_same_words() -> None:
    for arguments in (["--version", ""], ["--version", "v1", "--base-path", "skew"]):
        said = [run(command, *arguments).stderr.splitlines()[-1] for command in ("config", "serve")]
        assert said[0] == said[1]
        assert said[0].startswith(f"Error: {arguments[-2]} ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    done = run("completion", shell)
    assert done.returncode == 0
    assert "_HEADCOUNT_COMPLETE" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_variables_of_commands_are_known(command: str) -> None:
    """A server that meets one in its environment does not take it for a misspelt setting."""
    module = importlib.import_module(f"headcount.cli.{_COMMANDS[command][0]}")
    variables = {name for option in module.command.params for name in _variables(option.envvar)}
    settings = {variable_of(setting) for setting in Config.__struct_fields__}
    assert variables <= COMMAND_VARIABLES | settings


def _variables(envvar: str | list[str] | tuple[str, ...] | None) -> list[str]:
    return [] if envvar is None else [envvar] if isinstance(envvar, str) else list(envvar)


def test_completion_completes(tmp_path: Path) -> None:
    script = tmp_path / "completion.bash"
    script.write_text(run("completion", "bash").stdout)
    program = f"""
        source {script}
        COMP_WORDS=(headcount wait --out) COMP_CWORD=2
        _headcount_completion headcount
        echo "${{COMPREPLY[@]}}"
    """
    env = {**environment(), "PATH": f"{HEADCOUNT.parent}:{environment()['PATH']}"}
    done = subprocess.run(["bash", "-c", program], env=env, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "--outdated"


def test_help_lists_all_commands_and_each_has_its_own() -> None:
    listed = re.findall(r"^  (\w+) ", run("--help").stdout.partition("Commands:")[2], re.MULTILINE)
    assert listed == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_its_options_have_variables(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: headcount {command}")
    assert max(map(len, done.stdout.splitlines())) <= 80

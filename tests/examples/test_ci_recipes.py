"""The CI recipes: files that CI systems read, with shell steps that do what they say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
RECIPES = ROOT / "examples" / "ci"
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))


def recipe(name: str) -> dict[Any, Any]:
    content: dict[Any, Any] = yaml.safe_load((RECIPES / name).read_text(encoding="utf-8"))
    return content


def github_commands() -> list[tuple[str, dict[str, str]]]:
    workflow = recipe("github-actions.yml")
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    return [(step["run"], workflow["env"]) for step in steps if step.get("run", "").startswith("pytest")]


def gitlab_commands() -> list[tuple[str, dict[str, str]]]:
    pipeline = recipe("gitlab-ci.yml")
    return [(line, pipeline["variables"]) for job in pipeline.values() if isinstance(job, dict) for line in job.get("script", [])]


def pre_commit_commands() -> list[tuple[str, dict[str, str]]]:
    return [(hook["entry"], {}) for repo in recipe("pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]


COMMANDS = [*github_commands(), *gitlab_commands(), *pre_commit_commands()]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a config under the usual name, and something for every tier to do."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "modeltiers.toml").write_text('task_name = "vision_tiny"\n[eval]\ndataset_id = "vision_tiny_v1"\n')
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_there_are_commands_for_the_suite_and_for_the_gate_in_each_system() -> None:
    for commands in (github_commands(), gitlab_commands()):
        assert ["tier5" in command for command, _ in commands] == [False, True]
        assert all("--junitxml" in command and "--model-report" in command for command, _ in commands)
    assert len(pre_commit_commands()) == 1


@pytest.mark.parametrize(("command", "variables"), COMMANDS, ids=range(len(COMMANDS)))
def test_the_shell_hands_pytest_a_command_line_that_runs(command: str, variables: dict[str, str], project: Path) -> None:
    recording = 'pytest() { printf "%s\\0" "$@"; }\n'
    shell = subprocess.run(
        ["bash", "-euc", recording + command], env={**os.environ, **variables}, capture_output=True, check=True
    )
    arguments = shell.stdout.decode().rstrip("\0").split("\0")
    inside = ["-p", "no:cacheprovider", "-n", "0", "-k", "eval_deterministic or evaluation"]
    assert pytest.main([*arguments, *inside]) == 0
    for option in ("--model-report", "--junitxml"):
        named = re.search(rf"{option}[ =]([\w/.]+)", command)
        assert named is None or (project / named[1]).exists()


def test_artifacts_that_are_kept_are_written_by_a_step() -> None:
    for job in recipe("github-actions.yml")["jobs"].values():
        kept = [step["with"]["path"] for step in job["steps"] if "upload-artifact" in step.get("uses", "")]
        run = " ".join(step.get("run", "") for step in job["steps"])
        assert kept
        assert all(f"--model-report {path}" in run for path in kept)


def suite_step(config: str, strict: str, project: Path) -> tuple[int, dict[str, str]]:
    """Runs the action's own step as a runner would; returns its exit status and outputs."""
    (step,) = [step for step in ACTION["runs"]["steps"] if step.get("id") == "suite"]
    given = {"config": config, "markers": "tier1", "strict": strict, "report": "report"}
    environment = {
        **os.environ,
        **{name: given[re.fullmatch(r"\$\{\{ inputs\.([\w-]+) \}\}", value)[1]] for name, value in step["env"].items()},  # type: ignore[index]
        "GITHUB_OUTPUT": str(project / "outputs"),
        "PYTEST_ADDOPTS": "-p no:cacheprovider -k eval_deterministic -n 0",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]], env=environment, check=False)
    lines = (project / "outputs").read_text().splitlines()
    return done.returncode, dict(line.split("=", 1) for line in lines)


CHECK = """
from harness.evidence import Evidence, Status
from pytest_modeltiers.checks import model_check

@model_check(tier=1, statement="Has a status")
def eval_deterministic_or_not(model):
    return Evidence("own", Status("{status}"), "as asked")
"""


@pytest.mark.parametrize(
    ("status", "strict", "code", "said"),
    [("ok", "true", 0, "ok"), ("warn", "false", 0, "warn"), ("warn", "true", 1, "fail")],
)
def test_the_action_says_how_the_suite_ended(status: str, strict: str, code: int, said: str, project: Path) -> None:
    (project / "conftest.py").write_text(CHECK.format(status=status))
    assert suite_step("modeltiers.toml", strict, project) == (code, {"status": said, "report": "report"})
    assert json.loads((project / "report" / "health_report.json").read_text())["summary"]["total"] == 2
    assert (project / "report" / "junit.xml").exists()


def test_the_action_says_fail_when_the_config_is_wrong(project: Path) -> None:
    assert suite_step("gone.toml", "false", project) == (2, {"status": "fail", "report": "report"})


def test_the_action_uses_what_it_declares_and_the_page_lists_it() -> None:
    text = json.dumps(ACTION["runs"])
    page = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(ACTION["inputs"])
    assert set(re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE)) == set(ACTION["inputs"])
    for name, output in ACTION["outputs"].items():
        assert output["value"] == f"${{{{ steps.suite.outputs.{name} }}}}"

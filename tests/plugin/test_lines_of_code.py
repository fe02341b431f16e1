"""Where a finding shows the line of the user's code: terminal, report, JUnit, GitHub, SARIF, and what other plugins ask of an item."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from small_models import GOOD, LEAKY, running_text

from harness.health.checks import Cause, CheckResult
from harness.models.loading import source_of_file
from harness.properties.reproduction import Building
from pytest_modeltiers.terminal import annotation

LINE, CODE = 15, "return x.mean(1, keepdim=True)"

ASKS = """
import pytest

@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call":
        path, line, _ = item.reportinfo()
        print(f"asked: {path.name}:{line + 1}")
    return report
"""


@dataclass(frozen=True)
class Run:
    """What a run with one bug left behind."""

    text: str
    notes: list[str]
    sarif: dict[str, Any]
    case: dict[str, str]
    report: dict[str, Any]
    page: str
    markdown: str


@pytest.fixture
def run(project: Any, monkeypatch: pytest.MonkeyPatch) -> Run:
    project.config("models/cfg.json", model=LEAKY)
    project.write("conftest.py", ASKS)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(project.path.parent))
    options = (
        "--model-report",
        "out",
        "--model-sarif",
        "out/found.sarif",
        "--junitxml=junit.xml",
        "-o",
        "junit_family=xunit1",
        "-s",
    )
    result = project.run("--model-config", "models/cfg.json", *options)
    return Run(
        running_text(result),
        [line for line in result.outlines if line.startswith(("::error", "::warning"))],
        project.json("out/found.sarif"),
        dict(next(project.tree("junit.xml").iter("testcase")).attrib),
        project.json("out/health_report.json"),
        (project.path / "out/health_report.html").read_text(),
        (project.path / "out/health_report.md").read_text(),
    )


def test_a_finding_shows_its_line_wherever_it_is_told(run: Run, project: Any) -> None:
    from_repository = f"{project.path.name}/models/cfg_model.py"
    assert f"> {LINE} | {CODE}" in run.text
    assert f"asked: cfg_model.py:{LINE}" in run.text
    assert f"> {LINE} |" in run.markdown
    assert f"<mark>&gt; {LINE} |" in run.page
    assert [note.partition(",title")[0] for note in run.notes] == [f"::error file={from_repository},line={LINE}"]
    assert (run.case["file"], run.case["line"]) == (from_repository, str(LINE))
    excerpt = run.report["checks"][0]["details"]["excerpt"]
    assert (excerpt["file"], excerpt["line"]) == ("models/cfg_model.py", LINE)
    assert str(project.path) not in json.dumps(run.report)


def test_the_sarif_log_has_what_the_schema_requires_and_code_scanning_shows(run: Run, project: Any) -> None:
    log = run.sarif
    assert log["version"] == "2.1.0"
    (part,) = log["runs"]
    driver, (found,) = part["tool"]["driver"], part["results"]
    assert driver["name"]
    assert driver["rules"][found["ruleIndex"]]["id"] == found["ruleId"] == "causal"
    assert found["level"] == "error"
    assert found["message"]["text"].startswith("position 0's logits change")
    (where,) = found["locations"]
    physical = where["physicalLocation"]
    assert physical["artifactLocation"] == {"uri": f"{project.path.name}/models/cfg_model.py", "uriBaseId": "%SRCROOT%"}
    assert physical["region"] == {"startLine": LINE, "snippet": {"text": CODE}}
    assert physical["contextRegion"]["startLine"] <= LINE <= physical["contextRegion"]["endLine"]
    assert len(found["partialFingerprints"]["modeltiers/v1"]) == 64


def test_a_bug_in_code_elsewhere_is_shown_beside_the_config(tmp_path: Path) -> None:
    code = {"file": "/elsewhere/model.py", "line": 3, "first": 2, "lines": ["def forward(self, x):", "    return x"]}
    cause = Cause(CheckResult("tier1::causal", "failed", "it leaks", {"tier": 1, "excerpt": code}))

    assert annotation(cause, tmp_path / "cfg.json", tmp_path) == "::error file=cfg.json,title=tier 1%3A causal::it leaks"


def test_a_change_that_fixes_a_failure_is_shown_and_the_file_stays_as_it_is(
    project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    leaky = LEAKY.replace(
        "x.mean(1, keepdim=True)", "(x[:, None] * torch.ones(x.shape[1], x.shape[1]).tril(1)[:, :, None]).mean(2)"
    )
    project.config(model=leaky)

    result = project.run(
        "--model-config", "cfg.json", "--model-hints", "20", "--model-sarif", "found.sarif", "--model-report", "out"
    )

    assert "with this change of cfg_model.py:15 the property holds" in running_text(result)
    assert "+ return (x[:, None] * torch.ones(x.shape[1], x.shape[1]).tril()" in running_text(result)
    assert (project.path / "cfg_model.py").read_text() == leaky
    (found,) = project.json("found.sarif")["runs"][0]["results"]
    (change,) = found["fixes"][0]["artifactChanges"]
    assert ".tril()" in change["replacements"][0]["insertedContent"]["text"]
    assert ".tril()" in (project.path / "out/health_report.html").read_text()


def test_a_script_shows_a_failure_without_this_package(project: Any) -> None:
    drops = GOOD.replace("x = self.embed(input_ids)", "x = nn.functional.dropout(self.embed(input_ids), 0.3)")
    project.config(model=LEAKY)
    project.config("drops.json", only=("eval_deterministic",), model=drops)

    result = project.run(
        "--model-config", "cfg.json", "--model-config", "drops.json", "--model-hints", "0.01", "--model-report", "out"
    )

    scripts = sorted(path.relative_to(project.path).as_posix() for path in (project.path / "out").rglob("*.py"))
    assert scripts == ["out/cfg/repro_causal.py", "out/drops/repro_eval_deterministic.py"]
    assert "shows it without this package: python out/cfg/repro_causal.py" in running_text(result)
    text = (project.path / scripts[0]).read_text()
    assert ("modeltiers" in text or "harness" in text, len(text.splitlines()) < 20) == (False, True)
    ended = subprocess.run([sys.executable, scripts[0]], cwd=project.path, capture_output=True, text=True, check=False)
    assert (ended.returncode, "AssertionError: differs by" in ended.stderr) == (1, True)
    assert '<pre class="excerpt command"' in (project.path / "out/cfg/health_report.html").read_text()


def test_a_script_imports_from_where_the_model_lies_and_from_what_init_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    calls = "from net_of_mine import Model\n\ndef build_model():\n    return Model()\n"
    for name, text in (("model/net_of_mine.py", GOOD), ("written/calls_it.py", calls)):
        file = tmp_path / name
        file.parent.mkdir()
        file.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "model"))

    building = Building.of(source_of_file(tmp_path / "written/calls_it.py", "model_file", "build_model"))

    assert building is not None
    assert sorted(building.folders) == ["model", "written"]


def test_an_error_while_a_fix_is_looked_for_leaves_the_finding(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_given: Any) -> None:
        raise KeyError("of ours")

    monkeypatch.setattr("pytest_modeltiers.fixes.find_fix", fails)
    project.config(model=LEAKY)

    result = project.run("--model-config", "cfg.json", "--model-hints", "1")

    result.assert_outcomes(failed=1)
    assert "the causal mask leaks; a fix could not be looked for:" in running_text(result)
    assert f"> {LINE} | {CODE}" in running_text(result)

"""What a run prints and where: words, first lines, warnings, JUnit, JSON and GitHub."""

from __future__ import annotations

from typing import Any

import pytest
from small_models import HIDING, LEAKY, output

REGISTRATION = ("registration",)


def test_a_failing_tests_first_line_says_what_is_wrong_with_the_model(project: Any) -> None:
    project.config(model=LEAKY)

    result = project.run("--model-config", "cfg.json")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    lines = result.outlines
    header = next(index for index, line in enumerate(lines) if line.startswith("____") and "test_causal" in line)
    assert "position" in lines[header + 1]
    assert "token" in lines[header + 1]


def test_a_finding_has_its_counterexample_measure_and_usual_cause(project: Any) -> None:
    project.config(model=LEAKY)

    result = project.run("--model-config", "cfg.json")

    result.stdout.fnmatch_lines(["*counterexample: *batch=1*", "*measured: * (bound *)", "*usual cause: *"])


def test_a_failure_shows_no_traceback_and_no_code_of_the_plugin(project: Any) -> None:
    project.config(model=LEAKY)

    text = output(project.run("--model-config", "cfg.json"))

    for part in ("Traceback", "judge.py", "critical.py", "INTERNALERROR", "Falsifying", "def test_"):
        assert part not in text


def test_a_passing_run_ends_with_a_table_of_the_tier(project: Any) -> None:
    project.config()

    result = project.run("--model-config", "cfg.json")

    assert result.ret == 0
    result.stdout.fnmatch_lines(["*lm_tiny (cfg.json): health 100*", "tier 1 * critical properties: 1 ok", "  ok   causal *"])


def test_quiet_shows_only_what_needs_attention(project: Any) -> None:
    project.config(only=("causal", "registration"), model=LEAKY)

    result = project.run("--model-config", "cfg.json", "-q")

    result.stdout.fnmatch_lines(["  FAIL causal *"])
    result.stdout.no_fnmatch_line("  ok   registration*")


def test_a_warning_has_a_letter_of_its_own(project: Any) -> None:
    project.config(only=REGISTRATION, model=HIDING)

    result = project.run("--model-config", "cfg.json")

    assert result.ret == 0
    result.stdout.fnmatch_lines(["cfg.json w *", "*tier 1 * 1 warn", "  WARN registration *`spare[[]0]` is not registered*"])
    assert result.parseoutcomes() == {"warn": 1}


def test_a_warning_has_a_word_of_its_own(project: Any) -> None:
    project.config(only=REGISTRATION, model=HIDING)

    project.run("--model-config", "cfg.json", "-v").stdout.fnmatch_lines(["cfg.json::TestTier1::test_registration WARN*"])


def test_a_warning_counts_half_in_the_score(project: Any) -> None:
    project.config(only=("registration", "causal"), model=HIDING)

    project.run("--model-config", "cfg.json").stdout.fnmatch_lines(["*health 75*"])


def test_a_strict_run_fails_on_a_warning(project: Any) -> None:
    project.config(only=REGISTRATION, model=HIDING)

    result = project.run("--model-config", "cfg.json", "--modeltiers-strict", "--model-report", "out")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.parseoutcomes() == {"failed": 1}
    result.stdout.fnmatch_lines(["*`spare[[]0]` is not registered*"])
    assert project.json("out/health_report.json")["summary"] == {"total": 1, "passed": 0, "warnings": 0, "failed": 1}


def test_a_skip_gives_its_reason(project: Any) -> None:
    project.config(only=("padding_ignored",), max_seq_len=1)

    result = project.run("--model-config", "cfg.json", "-rs")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED *sequences of one token*"])


@pytest.fixture(params=["xunit1", "xunit2"])
def junit(request: pytest.FixtureRequest, project: Any) -> dict[str, dict[str, str]]:
    """The properties of the test cases of a run with a failure, a warning and a pass."""
    project.config(
        only=("registration", "causal"), model=LEAKY.replace("self.embed =", "self.spare = [nn.Linear(2, 2)]; self.embed =", 1)
    )
    project.config("fine.json")
    project.run(
        "--model-config", "cfg.json", "--model-config", "fine.json", "--junitxml=junit.xml", "-o", f"junit_family={request.param}"
    )
    return {
        f"{case.get('classname')}.{name}": {p.get("name", ""): p.get("value", "") for p in case.iter("property")}
        for case in project.tree("junit.xml").iter("testcase")
        for name in [case.get("name")]
    }


def test_junit_has_a_case_for_every_test_with_status_and_message(junit: dict[str, dict[str, str]]) -> None:
    found = {
        name.rpartition(".test_")[2]: (p["modeltiers_status"], p["modeltiers_property"])
        for name, p in junit.items()
        if "fine" not in name
    }

    assert found == {"causal": ("fail", "causal"), "registration": ("warn", "registration")}
    assert [p["modeltiers_status"] for name, p in junit.items() if "fine" in name] == ["ok"]


def test_junit_has_the_module_the_message_and_the_measure(junit: dict[str, dict[str, str]]) -> None:
    warned = next(p for p in junit.values() if p["modeltiers_status"] == "warn")
    failed = next(p for p in junit.values() if p["modeltiers_status"] == "fail")

    assert warned["modeltiers_module"] == "spare[0]"
    assert "not registered" in warned["modeltiers_message"]
    assert "position" in failed["modeltiers_message"]
    assert "batch=" in failed["modeltiers_counterexample"]
    assert float(failed["modeltiers_measured"]) > float(failed["modeltiers_bound"])


def test_junit_survives_whatever_a_model_says(project: Any) -> None:
    raising = LEAKY.replace(
        "x = self.embed", "if input_ids.shape[0] == 1: raise ValueError('<a> & \"b\" \\x00\\x1b[31m ]]>')\n        x = self.embed"
    )
    project.config(model=raising, only=("shape_contract", "causal"))
    project.run("--model-config", "cfg.json", "--junitxml=junit.xml")

    assert len(list(project.tree("junit.xml").iter("testcase"))) == 2


def test_json_report_has_the_finding_as_metadata(project: Any) -> None:
    pytest.importorskip("pytest_jsonreport")
    project.config(only=("registration", "gradient_flow"), model=HIDING)
    project.run("--model-config", "cfg.json", "--json-report", "--json-report-file=report.json")

    tests = {test["nodeid"].rpartition("test_")[2]: test for test in project.json("report.json")["tests"]}
    evidence = tests["registration"]["metadata"]["modeltiers"]["evidence"]
    assert (evidence["status"], evidence["module"]) == ("warn", "spare[0]")
    assert set(tests) == {"registration", "gradient_flow[finite]", "gradient_flow[reaches_every_parameter]"}


def test_github_annotates_failures_and_warnings(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project.config(
        only=("registration", "causal", "eval_deterministic"),
        model=LEAKY.replace("self.embed =", "self.spare = [nn.Linear(2, 2)]; self.embed =", 1),
    )
    monkeypatch.setenv("GITHUB_ACTIONS", "true")

    result = project.run("--model-config", "cfg.json")

    notes = [line for line in result.outlines if line.startswith("::")]
    assert [note.partition(",")[0] for note in sorted(notes)] == ["::error file=cfg.json", "::warning file=cfg.json"]
    assert "title=tier 1%3A causal::" in sorted(notes)[0]


def test_elsewhere_there_are_no_annotations(project: Any) -> None:
    project.config(model=LEAKY)

    assert not [line for line in project.run("--model-config", "cfg.json").outlines if line.startswith("::")]


def test_github_gets_a_summary_of_every_config(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project.config(model=LEAKY, run_name="run of a leaky one")
    project.config("fine.json", run_name="run of a sound one")
    summary = project.write("summary.md", "before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))

    project.run("--model-config", "cfg.json", "--model-config", "fine.json")

    text = summary.read_text()
    assert text.startswith("before\n"), "a step adds to what others wrote"
    assert "run of a leaky one" in text
    assert "run of a sound one" in text
    assert "causal" in text


def test_a_summary_that_cannot_be_written_is_said_in_one_line(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project.config()
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / "no" / "such" / "folder.md"))

    result = project.run("--model-config", "cfg.json")

    assert "Traceback" not in output(result)
    assert "INTERNALERROR" not in output(result)
    result.assert_outcomes(passed=1)

"""The report as files, whatever is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sample_reports import AWKWARD, HOSTILE

from harness.health import ExportHealthReport
from harness.health.checks import CheckResult, SkippedCheck


def written(report: ExportHealthReport, folder: Path) -> dict[str, str]:
    files = (report.save_json(folder / "r.json"), report.save_markdown(folder / "r.md"), report.save_html(folder / "r.html"))
    return {file.suffix: file.read_text(encoding="utf-8") for file in files}


def report_of(value: Any) -> ExportHealthReport:
    check = CheckResult("c", "failed", "m", {"worst": value, "tier": 1, "rows": [{"x": value}]})
    return ExportHealthReport("m", checks=[check], layers=[{"name": "w", "rms": value, "grad_rms": value, "mean": value}])


@pytest.mark.parametrize(("value", "text"), [(float("nan"), "nan"), (float("inf"), "inf"), (-float("inf"), "-inf")])
def test_a_number_that_json_does_not_have_is_text(tmp_path: Path, value: float, text: str) -> None:
    content = json.loads(written(report_of(value), tmp_path)[".json"], parse_constant=pytest.fail)
    assert content["checks"][0]["details"]["rows"] == [{"x": text}]
    assert content["layers"] == [{"name": "w", "rms": text, "grad_rms": text, "mean": text}]


def test_json_keeps_every_character(tmp_path: Path) -> None:
    message = f"{HOSTILE}\n| a | b |\n```\tfenced ` \\ ```\r\nüñ 模型 \x00"
    report = ExportHealthReport(message, checks=[CheckResult(message, "failed", message, {"module": message})])
    report.skipped = [SkippedCheck(message, message)]
    content = json.loads(written(report, tmp_path)[".json"])
    assert (content["model_name"], content["checks"][0]["message"], content["skipped"][0]["reason"]) == (message,) * 3
    assert content["checks"][0]["details"] == {"module": message}


def test_awkward_texts_are_no_reason_to_fail(tmp_path: Path) -> None:
    assert set(written(AWKWARD, tmp_path)) == {".json", ".md", ".html"}


def test_the_name_of_a_file_need_not_be_unicode(tmp_path: Path) -> None:
    name = "mod\udc80l"
    report = ExportHealthReport(
        name, checks=[CheckResult("c", "failed", f"{name} broke", {"module": name})], model_facts={"model": name}
    )
    files = written(report, tmp_path)
    assert r"mod\udc80l broke" in files[".md"]
    assert r"mod\udc80l broke" in files[".html"]
    assert json.loads(files[".json"])["model_name"] == name
    assert sorted(file.name for file in tmp_path.iterdir()) == ["r.html", "r.json", "r.md"]


@pytest.mark.parametrize(("status", "hint"), [("pased", "Did you mean 'passed'?"), ("ok", ""), (None, ""), ("FAILED", "")])
def test_a_status_that_does_not_exist_is_refused(status: Any, hint: str) -> None:
    with pytest.raises(ValueError, match="expected one of passed, warning, failed") as refused:
        CheckResult("mine", status, "all is well")

    assert "'mine'" in str(refused.value)
    assert str(refused.value).endswith(hint or "failed.")


def check(name: str, status: Any, tier: int | None = 1, message: str = "it is wrong", **details: Any) -> CheckResult:
    return CheckResult(name, status, message, details if tier is None else {"tier": tier, **details})


GOOD = [check(f"tier1::good{number}", "passed") for number in range(99)]


@pytest.mark.parametrize(
    ("found", "grade"),
    [
        ([], "A"),
        ([check("tier2::compiled", "warning", 2)], "B"),
        ([check("tier3::resume", "failed", 3)], "D"),
        ([check("tier1::causal", "failed")], "F"),
        ([check("mine", "failed", None)], "F"),
        ([check("tier2::compiled", "warning", 2)] * 60, "B"),
        ([check("tier2::compiled", "warning", 2)] * 300, "C"),
    ],
)
def test_the_grade_is_no_better_than_the_worst_finding(found: list[CheckResult], grade: str) -> None:
    assert ExportHealthReport("m", checks=[*GOOD, *found]).grade == grade


def test_nothing_and_a_selection_have_no_grade_and_the_json_keeps_the_score() -> None:
    selection = ExportHealthReport("m", checks=[*GOOD, check("tier1::causal", "failed")], is_selection=True)
    assert (selection.grade, ExportHealthReport("m").grade) == ("", "")
    assert selection.to_json()["health_score"] == 99.0

"""Two reports compared: what is new, gone, changed and not judged any more; margins, timings and sizes; earlier runs, and the badge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from pages import Elements

from harness.health import ExportHealthReport
from harness.health.checks import CheckResult, CheckStatus, SkippedCheck
from harness.health.comparison import Comparison, compare
from harness.health.history import KEPT, REPORT, badge_svg, remember, write_badge
from harness.health.markdown import to_markdown
from harness.health.page import comparison_html, to_html


def check(name: str, status: CheckStatus = "passed", message: str = "holds", seconds: float = 0.1, **details: Any) -> CheckResult:
    return CheckResult(f"tier1::{name}", status, message, {"tier": 1, **details}, seconds)


def report(*checks: CheckResult, **fields: Any) -> ExportHealthReport:
    return ExportHealthReport("net", checks=list(checks), **fields)


def compared(then: ExportHealthReport, now: ExportHealthReport) -> Comparison:
    return compare(then.to_json(), now.to_json())


def test_findings_are_new_gone_changed_or_not_judged_any_more() -> None:
    then = report(
        check("causal"),
        check("padding_ignored", "failed", "3 rows differ", code="reads_padding"),
        check("stateless", "failed", "keeps state", module="a"),
        check("registration", "failed", "hidden"),
        check("dtype_move", "warning", "slow"),
        check("logit_range", "failed", "a ReLU at 0.5", code="relu"),
    )
    now = report(
        check("causal", "failed", "leaks"),
        check("padding_ignored"),
        check("stateless", "failed", "keeps state", module="b"),
        check("dtype_move", "failed", "breaks"),
        check("logit_range", "failed", "a ReLU at 0.7", code="relu"),
        skipped=[SkippedCheck("tier1::registration", "no time", 1)],
    )
    found = compared(then, now)

    def names(findings: Any) -> list[str]:
        return [finding.check_name.removeprefix("tier1::") for finding in findings]

    assert names(found.new) == ["causal", "dtype_move"]
    assert names(found.gone) == ["padding_ignored"]
    assert names(found.changed) == ["stateless"]
    assert names(found.unjudged) == ["registration"]  # which is not gone
    assert found.fails_anew
    assert found.headline.startswith("Worse: 2 new, 1 gone, 1 changed, 1 not judged any more; 1 test ran only before; grade F")


def of_tier(tier: int, name: str, status: CheckStatus) -> CheckResult:
    return CheckResult(f"tier{tier}::{name}", status, "said", {"tier": tier}, 0.1)


def test_what_was_not_judged_before_is_no_change() -> None:
    then = report(of_tier(1, "causal", "passed"), skipped=[SkippedCheck("tier1::gradcheck", "no time", 1)])
    now = report(
        of_tier(1, "causal", "passed"),
        of_tier(1, "gradcheck", "failed"),
        of_tier(3, "initial_loss", "failed"),
        of_tier(3, "loss_mask", "passed"),
    )
    found = compared(then, now)
    assert (found.new, found.gone, found.changed) == ((), (), ())
    assert [finding.check_name for finding in found.only_now] == ["tier1::gradcheck", "tier3::initial_loss"]
    expected = "The same: no finding is new, gone or changed; tier 3 ran only now (2 tests); 1 test ran only now; grade"
    assert found.headline.startswith(expected)
    assert found.headline.endswith(", of other tests")
    assert found.fails_anew  # a gate is to know
    assert dict(found.sections)["Not judged before"]
    assert "tier 3 ran only before (2 tests)" in compared(now, then).headline


@pytest.mark.parametrize(
    ("then", "now", "headline"),
    [
        ("passed", "passed", "The same: no finding is new, gone or changed; grade A, health score 100"),
        ("failed", "passed", "Better: 1 gone; grade F → A, health score 0 → 100"),
        ("passed", "warning", "Worse: 1 new; grade A → D, health score 100 → 50"),
    ],
)
def test_the_headline_says_what_it_comes_to(then: CheckStatus, now: CheckStatus, headline: str) -> None:
    found = compared(report(check("causal", then)), report(check("causal", now)))
    assert found.headline == headline
    assert not found.fails_anew


def test_margins_timings_and_sizes_are_told_where_they_moved_enough_to_matter() -> None:
    def run(share: float, milliseconds: float, size: int, seconds: float) -> ExportHealthReport:
        return report(
            check("padding_ignored", measured=share, bound=1.0),
            check("causal", measured=share / 1e6, bound=1.0),
            check("rare_contents[flat_rows]", measured=1000 * share, bound=1.0),  # which is the least that is allowed
            check("inference_speed", measured=milliseconds, comparison=f"{milliseconds} ms"),
            check("exports[onnx]", facts={"bytes": size, "seconds": 1.0, "path": "x", "sound": True}),
            check("gradcheck", seconds=seconds),
        )

    found = compared(run(0.1, 10.0, 1000, 2.0), run(0.3, 20.0, 1100, 4.0))
    assert [figure.text for figure in found.margins] == ["tier1::padding_ignored: 10% → 30% (3 times)"]
    assert [figure.text for figure in found.timings] == [
        "tier1::inference_speed: 10 ms → 20 ms (2 times)",
        "tier1::gradcheck, the check itself: 2.0 s → 4.0 s (2 times)",
    ]
    assert [figure.text for figure in found.sizes] == ["tier1::exports[onnx] bytes: 1,000 bytes → 1,100 bytes (1.1 times)"]
    still = compared(run(0.1, 10.0, 1000, 2.0), run(0.15, 14.0, 1005, 2.5))
    assert (still.margins, still.timings, still.sizes) == ((), (), ())


def test_a_margin_that_was_zero_is_told() -> None:
    then, now = (report(check("causal", measured=measured, bound=1.0)) for measured in (0.0, 0.5))
    assert [figure.text for figure in compared(then, now).margins] == ["tier1::causal: 0% → 50%"]


def test_a_comparison_is_text_json_and_a_page() -> None:
    found = compared(report(check("causal")), report(check("causal", "failed", "<b>leaks</b> in `a`")))
    assert "New (1)\n  ✕ tier1::causal (passed → failed): <b>leaks</b> in `a`" in found.to_text()
    data = json.loads(json.dumps(found.to_json()))
    assert (data["status"], data["new"][0]["message"], data["then"]["grade"]) == ("fail", "<b>leaks</b> in `a`", "A")
    page = Elements(comparison_html(found))
    assert page.texts("li") == ["✕ tier1::causal (passed → failed): <b>leaks</b> in a"]
    assert page.texts("h1") == ["net"]


def test_the_last_runs_are_kept_and_the_last_is_compared_with(tmp_path: Path) -> None:
    for day in range(1, KEPT + 4):
        run = report(check("causal", "failed" if day % 2 else "passed"), timestamp=f"2026-01-{day:02}T00:00:00+00:00")
        remember(tmp_path, run)
        run.save_json(tmp_path / REPORT)
    assert len(list((tmp_path / "history").iterdir())) == KEPT
    assert [line["timestamp"][8:10] for line in run.earlier[:2]] == ["22", "21"]
    assert run.comparison is not None
    assert run.comparison.headline.startswith("Worse: 1 new")
    page = Elements(to_html(run))
    assert "Earlier runs 20" in page.texts("h2")
    assert "Since the last run" in page.texts("h2")
    assert "## Since the last run\n\nWorse: 1 new" in to_markdown(run)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"checks": 3}'])
def test_what_is_no_report_is_not_compared_with(tmp_path: Path, text: str) -> None:
    (tmp_path / REPORT).write_text(text)
    run = report(check("causal"))
    remember(tmp_path, run)
    assert (run.comparison, run.earlier) == (None, [])


def contrast_with_white(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 1.05 / (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05)


@pytest.mark.parametrize(
    ("checks", "message"),
    [
        ([check("a")], "A"),
        ([check("a", "failed")], "F, 1 problem"),
        ([check("a", "failed"), check("b", "failed", "x")], "F, 2 problems"),
    ],
)
def test_a_badge_says_the_grade(tmp_path: Path, checks: list[CheckResult], message: str) -> None:
    write_badge(tmp_path, report(*checks))
    badge = json.loads((tmp_path / "badge.json").read_text())
    assert (badge["schemaVersion"], badge["label"], badge["message"]) == (1, "model health", message)
    drawn = ElementTree.fromstring((tmp_path / "badge.svg").read_text())
    assert drawn.attrib["aria-label"] == f"model health: {message}"
    assert contrast_with_white(f"#{badge['color']}") >= 4.5


def test_a_selection_gets_a_badge_without_a_grade(tmp_path: Path) -> None:
    write_badge(tmp_path, report(check("a"), is_selection=True))
    assert json.loads((tmp_path / "badge.json").read_text())["message"] == "no grade"


def test_no_text_of_a_badge_becomes_markup() -> None:
    ElementTree.fromstring(badge_svg('</text><script x="', "#000000"))

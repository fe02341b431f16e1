"""Distributions in the details of a check: what is drawn, and what is left out."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from harness.charts import BarChart, LineChart
from harness.charts.page import draw_svg
from harness.charts.pictures import bin_labels, distributions_of, ranking
from harness.evidence import Evidence, Status
from harness.health import ExportHealthReport
from harness.health.checks import CheckResult
from harness.health.markdown import to_markdown
from pytest_modeltiers.results import Result, to_check, without_plots

AGE = {
    "feature": "age",
    "title": "age",
    "kind": "numeric",
    "caption": "the share below 30 went from 50% to 20%",
    "reference": [0.1, 0.4, 0.3, 0.2],
    "current": [0.05, 0.15, 0.4, 0.4],
    "edges": [20, 30, 60],
    "contribution": 0.75,
}
CITY = {
    "feature": "city",
    "title": "city",
    "kind": "categorical",
    "caption": "",
    "reference": [0.75, 0.25],
    "current": [0.5, 0.5],
    "labels": ["Rome", "Oslo"],
    "contribution": 0.25,
}


def check_of(*plots: Any) -> CheckResult:
    return CheckResult("tier5::drift", "failed", "It drifted", {"tier": 5, "plots": list(plots)})


def details_of(*plots: Any) -> dict[str, Any]:
    return {"tier": 5, "plots": list(plots)}


def test_curves_rise_from_the_share_below_the_first_edge_to_that_below_the_last() -> None:
    [found] = distributions_of(details_of(AGE))
    assert isinstance(found.chart, LineChart)
    reference, current = found.chart.lines
    assert (reference.x, reference.y) == ((20.0, 30.0, 60.0), pytest.approx((0.1, 0.5, 0.8)))
    assert (current.x, current.y) == ((20.0, 30.0, 60.0), pytest.approx((0.05, 0.2, 0.6)))
    assert (found.chart.x.low, found.chart.x.high) == (20.0, 60.0)


def test_the_description_says_what_the_eye_sees() -> None:
    curves, bars = distributions_of(details_of(AGE, CITY))
    assert curves.chart.description.endswith("They are furthest apart at 30: 50.0% of the reference lie below it, and 20.0% now.")
    assert bars.chart.description.endswith("2 in all. The largest change is that of Rome, from 75.0% to 50.0%.")


def test_every_share_is_in_the_table() -> None:
    curves, bars = distributions_of(details_of(AGE, CITY))
    assert [(pair.label, pair.reference, pair.current) for pair in curves.pairs] == [
        ("below 20", 0.1, 0.05),
        ("20 to 30", 0.4, 0.15),
        ("30 to 60", 0.3, 0.4),
        ("60 and above", 0.2, 0.4),
    ]
    assert isinstance(bars.chart, BarChart)
    assert [(bar.label, bar.text, bar.lengths) for bar in bars.chart.bars] == [
        ("Rome", "75.0% → 50.0%", (1.0, pytest.approx(2 / 3))),
        ("Oslo", "25.0% → 50.0%", (pytest.approx(1 / 3), pytest.approx(2 / 3))),
    ]


def test_bins_that_are_empty_in_both_are_not_in_the_table() -> None:
    [plot] = distributions_of(details_of({**AGE, "reference": [0.0, 0.5, 0.0, 0.5], "current": [0.0, 1.0, 0.0, 0.0]}))
    assert [pair.label for pair in plot.pairs] == ["20 to 30", "60 and above"]


@pytest.mark.parametrize(
    ("edges", "labels"),
    [
        ([], ["all values"]),
        ([3], ["below 3", "3 and above"]),
        ([3, 3.0000000000000004], ["below 3", "3", "above 3"]),
        ([0, 2.2e-308, 5], ["below 0", "0", "0 to 5", "5 and above"]),
        ([-0.25, 23456.7, 3e12], ["below -0.25", "-0.25 to 23,457", "23,457 to 3e+12", "3e+12 and above"]),
    ],
)
def test_bins_have_names(edges: list[float], labels: list[str]) -> None:
    assert bin_labels(edges) == labels


@pytest.mark.parametrize(
    "plot",
    [
        None,
        "a plot",
        {},
        {"kind": "numeric"},
        {**AGE, "kind": "pie"},
        {**AGE, "edges": [20, 30]},
        {**AGE, "edges": None},
        {**AGE, "edges": [20, 20, 20]},
        {**AGE, "edges": [-1.7e308, 0, 1.7e308]},
        {**AGE, "reference": []},
        {**AGE, "current": [1.0]},
        {**AGE, "current": [0.1, "much", 0.3, 0.2]},
        {**AGE, "current": [0.1, float("nan"), 0.3, 0.2]},
        {**CITY, "labels": "Rome"},
        {**CITY, "labels": ["Rome"]},
    ],
)
def test_what_is_no_plot_is_left_out(plot: Any) -> None:
    assert distributions_of(details_of(plot, CITY)) == distributions_of(details_of(CITY))


@pytest.mark.parametrize("plots", [None, "plots", {"title": "age"}, 3])
def test_details_may_hold_anything(plots: Any) -> None:
    check = CheckResult("c", "failed", "m", {"plots": plots})
    assert distributions_of(check.details) == []
    assert ranking(check.details) == ""


@pytest.mark.parametrize("span", [5e-324, 1e-308, 1e-9, 0.3, 1, 7, 99.9, 1e6, 1e300, 1.7e308])
@pytest.mark.parametrize("low", [-5.5, 0.0, 1234.5])
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_whatever_the_values_the_drawing_has_few_ticks_and_every_point_has_a_place(low: float, span: float) -> None:
    if low + span == low:
        return
    shares = [0.2, 0.3, 0.5]
    [found] = distributions_of(details_of({**AGE, "reference": shares, "current": shares, "edges": [low, low + span]}))
    assert isinstance(found.chart, LineChart)
    svg = draw_svg(found.chart, "key", 320, 172).svg
    assert 4 <= svg.count("</text>") <= 10
    assert not re.search(r"nan|inf", svg)


def test_the_ranking_is_a_fact_in_the_markdown_where_there_is_something_to_rank() -> None:
    both = to_markdown(ExportHealthReport("m", checks=[check_of(AGE, CITY)]))
    assert "- **Contributions:** age 75%, city 25%" in both
    assert "Contributions" not in to_markdown(ExportHealthReport("m", checks=[check_of(AGE)]))
    assert not re.search(r"polyline|0\.15", both)


def test_the_plots_of_evidence_reach_the_report_as_json_and_stay_out_of_other_tools_metadata() -> None:
    evidence = Evidence("drift", Status.FAIL, "It drifted", details={"rows": 3, "plots": [AGE]})
    finding = json.loads(json.dumps({"property": "drift", "evidence": evidence.to_json()}))
    check = to_check(Result("c.json::TestTier5::test_drift", "c.json", 5, Status.FAIL, "It drifted", 0.1, finding))
    assert distributions_of(check.details) == distributions_of(details_of(AGE))
    assert check.details["facts"] == {"rows": 3}
    assert without_plots(finding)["evidence"]["details"] == {"rows": 3}
    report = ExportHealthReport("m", checks=[check])
    assert report.to_json()["checks"][0]["details"]["plots"] == [AGE]

"""The HTML report: complete, self-contained, safe against the text it shows, and legible."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html import unescape
from typing import Any

import pytest
from pages import Elements

from harness.excerpts import Excerpt, Fix
from harness.health import ExportHealthReport
from harness.health.checks import CheckResult, SkippedCheck
from harness.health.page import (
    breakable,
    decades_of,
    lead_and_rest,
    parameter_charts,
    ring_arcs,
    shorten,
    to_html,
)

HOSTILE = "</title></script><script>alert('x')</script>\" onload=\"y|`<b>`"
LEAK = CheckResult(
    "tier1::causal",
    "failed",
    "Token 5 leaks into position 3 (first seen in `blocks.1.attn`)",
    {
        "tier": 1,
        "statement": "A position's logits never depend on later tokens",
        "counterexample": "batch=2, seq=6",
        "module": "blocks.1.attn",
        "cause": "the mask is shifted by one",
        "comparison": "3.1e-02 (bound 4.0e-07)",
        "nodeid": "models.yaml::gpt::test_causal",
        "rerun": "pytest models.yaml -k causal",
        "examples": 2500,
    },
    0.0123,
    "Build the mask with `torch.tril`.",
)
SLOW = CheckResult("tier2::speed", "warning", "The median call takes 61 ms", {"tier": 2})
SLIP = CheckResult("tier3::resume", "failed", "The losses differ", {"tier": 3})
SHAPE = CheckResult("tier1::shape", "passed", "Shapes hold", {"tier": 1})
EXPORT = CheckResult("onnx", "passed", "The graph agrees")


def report_of(*checks: CheckResult, **fields: Any) -> ExportHealthReport:
    return ExportHealthReport(
        checks=list(checks), **{"model_name": "tiny-gpt", "timestamp": "2025-03-04T05:06:07+00:00", **fields}
    )


def page_of(*checks: CheckResult, **fields: Any) -> Elements:
    return Elements(to_html(report_of(*checks, **fields)))


def layer(name: str, rms: Any = 0.02, grad_rms: Any = 1e-3, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "shape": [4, 2],
        "count": 8,
        "mean": 0.0,
        "std": 0.1,
        "rms": rms,
        "grad_rms": grad_rms,
        "trainable": True,
        **more,
    }


def test_the_head_gives_name_moment_verdict_and_grade() -> None:
    page = page_of(SHAPE, EXPORT)
    assert page.texts("h1") == ["tiny-gpt"]
    assert page.texts("time") == ["4 March 2025, 05:06 UTC"]
    assert page.texts("p", class_="verdict passed") == ["Sound: 2 of 2 checks passed"]
    assert page.texts("text", class_="score") == ["A"]
    assert page.texts("text", class_="unit") == ["100 of 100"]


def test_a_failure_of_a_critical_property_reddens_the_ring_and_hides_the_score() -> None:
    report = report_of(*[SHAPE] * 40, LEAK)
    page = page_of(*[SHAPE] * 40, LEAK)
    assert [arc.status for arc in ring_arcs(report)] == ["failed"]
    assert (page.texts("text", class_="score"), page.texts("text", class_="unit")) == (["F"], ["grade"])
    assert page.texts("p", class_="verdict failed")


def test_a_selection_has_no_grade_and_no_score() -> None:
    page = page_of(SHAPE, is_selection=True, coverage="9 of 38 ran.")
    assert (page.texts("text", class_="score"), page.texts("text", class_="unit")) == (["–"], ["no grade"])


def test_a_bug_has_one_card_to_which_all_its_rows_lead() -> None:
    padding = CheckResult("tier1::padding_ignored", "failed", "It changes", {"tier": 1, "module": "blocks.1.attn"})
    page = page_of(LEAK, padding, SHAPE)
    assert len(page.texts("article")) == 1
    assert "Also shows as padding_ignored (It changes)" in page.texts("article")[0]
    anchor = next(attrs["id"] for tag, attrs, _ in page.elements if tag == "article")
    assert [attrs["href"] for tag, attrs, _ in page.elements if tag == "a"].count(f"#{anchor}") == 2


def test_a_timestamp_that_is_no_date_is_shown_as_it_is() -> None:
    assert page_of(SHAPE, timestamp="yesterday").texts("time") == ["yesterday"]


def test_a_failure_card_leads_with_the_message_and_gives_all_that_is_known() -> None:
    page = page_of(LEAK)
    assert page.texts("article")[0].startswith(
        "Token 5 leaks into position 3 (first seen in blocks.1.attn) ✕ Failed tier1::causal"
    )
    assert page.texts("dt") == [
        "Blamed module",
        "Usual cause",
        "What to do",
        "Counterexample",
        "Measured",
        "Test",
        "Run it again",
        "health score",
    ], "what is wrong stands before what is judged"
    assert page.texts("dd")[-2] == "pytest models.yaml -k causal"
    assert "blocks.1.attn" in page.texts("code")


def test_code_is_shown_and_copied_line_by_line() -> None:
    excerpt = Excerpt("model.py", 3, 2, ("x = x * 2", "if x < 1:", "    y = x & 1"))
    fix = Fix("model.py", 3, ("if x < 1:",), ("if x <= 1:",))
    script = "import torch\n\nassert torch.ones(1) < 1\n"
    details = {**LEAK.details, "excerpt": excerpt.to_json(), "fix": fix.to_json(), "script": script}
    page = to_html(report_of(replace(LEAK, details=details)))
    shown = [unescape(re.sub("<[^>]+>", "", code)) for code in re.findall("<pre[^>]*>(.*?)</pre>", page, re.DOTALL)]
    assert shown == [f"{excerpt.text}\n", f"{fix.text}\n", script]


def test_what_the_details_lack_is_left_out() -> None:
    page = page_of(CheckResult("c", "failed", "It broke"))
    assert page.texts("article") == ["It broke ✕ Failed c"]
    assert page.texts("dt") == ["health score"]


def test_failures_come_before_warnings_and_passed_checks_get_no_card() -> None:
    page = page_of(SHAPE, SLOW, LEAK)
    assert [text.partition(" ")[0] for text in page.texts("h3")] == ["Token", "The"]
    assert [heading for heading in page.texts("h2") if "check" not in heading] == ["Failures 1", "Warnings 1"]


def test_each_tier_has_a_table_worst_first_with_status_in_words() -> None:
    page = page_of(EXPORT, SHAPE, SLOW, LEAK)
    assert page.texts("h2")[-4:] == ["Tier 1 2 checks", "Tier 2 1 check", "Checks 1", "About the checks 1"]
    assert page.texts("td")[::4] == ["✕ Failed", "✓ Passed", "▲ Warning", "✓ Passed"]
    assert page.texts("td")[:4] == ["✕ Failed", "3.1e-02 (bound 4.0e-07)", "2,500", "12 ms"]
    assert page.texts("th", scope="row")[0] == "A position's logits never depend on later tokens tier1::causal"


def test_links_in_the_tables_lead_to_the_cards() -> None:
    page = page_of(SHAPE, SLOW, LEAK)
    cards = [attrs["id"] for tag, attrs, _ in page.elements if tag == "article"]
    links = [attrs["href"] or "" for tag, attrs, _ in page.elements if tag == "a"]
    assert [link for link in links if link.startswith("#check-")] == [f"#{card}" for card in cards]


def test_the_contents_lead_everywhere_and_say_how_much_is_there() -> None:
    page = page_of(SHAPE, SLOW, LEAK, EXPORT, skipped=[SkippedCheck("a", "b")], layers=[layer("w")])
    contents = ["Failures 1", "Warnings 1", "Tier 1 1 of 2 passed", "Tier 2 0 of 1 passed", "Checks 1 of 1 passed", "Skipped 1"]
    assert page.texts("li")[:7] == [*contents, "Layers 1"]
    ids = {attrs["id"] for _, attrs, _ in page.elements if "id" in attrs}
    assert {(attrs["href"] or "").removeprefix("#") for tag, attrs, _ in page.elements if tag == "a"} <= ids


def test_contents_of_one_place_are_left_out() -> None:
    assert page_of(SHAPE).texts("nav") == []


@pytest.mark.parametrize(
    ("message", "lead", "rest"),
    [
        ("It broke", "It broke", ""),
        ("It broke; badly", "It broke; badly", ""),
        ("It broke\n\n at 3\nand at 5", "It broke", " at 3\nand at 5"),
        (f"It broke; {'badly ' * 20}", "It broke", ("badly " * 20).strip()),
        (f"`a; b` broke; {'badly; ' * 20}", "`a; b` broke", ("badly; " * 20).strip()),
        ("x" * 200, "x" * 200, ""),
        ("", "", ""),
    ],
)
def test_a_long_message_has_a_headline_and_a_text(message: str, lead: str, rest: str) -> None:
    assert lead_and_rest(message) == (lead, rest)


def test_a_check_without_a_message_goes_by_its_name() -> None:
    assert page_of(CheckResult("c", "failed", "")).texts("h3") == ["c"]


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("blocks.0.attn", ["blocks.0.attn"]),
        ("encoder.layers.17.self_attention.out", ["encoder.", "layers.17.", "self_attention.", "out"]),
        ("cfg.json::TestTier1::test_dtype[float16]", ["cfg.json::", "TestTier1::", "test_dtype", "[float16]"]),
        ("models/gpt/model.py:build_model", ["models/", "gpt/", "model.py:", "build_model"]),
        ("<b>" * 6 + "/x", ["&lt;b&gt;" * 6 + "/", "x"]),
    ],
)
def test_a_name_breaks_at_its_joints(name: str, pieces: list[str]) -> None:
    assert breakable(name).split("<wbr>") == pieces


def test_no_script_but_its_own_may_run() -> None:
    page = page_of(LEAK)
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    policy = next(attrs["content"] for _, attrs, _ in page.elements if attrs.get("http-equiv") == "Content-Security-Policy")
    assert f"script-src 'sha256-{digest}';" in (policy or "")


def test_the_coverage_banner_appears_only_for_a_partial_run() -> None:
    assert page_of(SHAPE, coverage="9 of 38 ran.").texts("p", role="note") == ["Partial run. 9 of 38 ran."]
    assert page_of(SHAPE).texts("p", role="note") == []


def test_a_partial_run_is_not_coloured_sound() -> None:
    assert page_of(SHAPE, coverage="9 of 38 ran.").texts("p", class_="verdict warning")


def test_an_empty_report_has_no_score() -> None:
    page = page_of()
    assert page.texts("text", class_="score") == ["–"]
    assert page.texts("p", class_="verdict empty") == ["Nothing was checked"]
    assert page.texts("h2") == []


def test_a_report_of_skipped_checks_gives_the_reasons() -> None:
    page = page_of(skipped=[SkippedCheck("tier1::device_move", "no second device")])
    assert page.texts("p", class_="verdict empty") == ["Nothing was checked: 1 check skipped"]
    assert page.texts("details") == ["Skipped checks 1 tier1::device_move no second device"]
    assert ("details", {"class", "data-print", "open"}) in [(tag, set(attrs)) for tag, attrs, _ in page.elements]


def test_no_text_of_a_report_becomes_markup() -> None:
    bars = {"kind": "categorical", "reference": [1.0], "current": [1.0]}
    details = {key: HOSTILE for key in LEAK.details if key != "tier"}
    details_with_plot = {**details, "plots": [{**bars, "title": HOSTILE, "caption": HOSTILE, "labels": [HOSTILE]}]}
    hostile = CheckResult(HOSTILE, "failed", HOSTILE, details_with_plot, 0.0, HOSTILE)
    fields = {
        "model_name": HOSTILE,
        "timestamp": HOSTILE,
        "coverage": HOSTILE,
        "model_facts": {HOSTILE: HOSTILE},
        "skipped": [SkippedCheck(HOSTILE, HOSTILE)],
        "layers": [layer(HOSTILE, shape=HOSTILE), layer(HOSTILE, rms=HOSTILE, count=HOSTILE, trainable=HOSTILE)],
    }
    harmless = CheckResult(
        "name",
        "failed",
        "message `code`",
        {**dict.fromkeys(details, "x `code`"), "plots": [{**bars, "title": "t", "caption": "c `code`", "labels": ["l"]}]},
        0.0,
        "x `code`",
    )
    long = "g" * len(HOSTILE)
    plain = {**fields, "model_name": long, "timestamp": "t", "coverage": "c `code`", "model_facts": {"f": f"{long} `code`"}}
    plain |= {
        "skipped": [SkippedCheck("s", "r `code`")],
        "layers": [layer("l"), layer("l", rms=None, count=None, trainable=None)],
    }
    # Whatever the text, the page has the same elements with the same attributes, but for places where a line may break.
    hostile_page, plain_page = page_of(hostile, **fields), page_of(harmless, **plain)
    assert hostile_page.skeleton == plain_page.skeleton
    assert "alert" not in hostile_page.texts("script")[0]


def test_the_page_asks_the_network_for_nothing() -> None:
    html = to_html(report_of(LEAK, SLOW, SHAPE, model_facts={"Source": "https://example.org/model"}, layers=[layer("w")]))
    references = re.findall(r"""\b(?:src|href|srcset|action|data)\s*=\s*["']?([^"'\s>]+)""", html)
    assert references
    assert [reference for reference in references if not reference.startswith(("#", "data:"))] == []
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", html)
    assert "default-src 'none'" in html


def test_there_is_a_row_for_each_parameter_and_a_bar_for_each_positive_value() -> None:
    layers = [layer("a", 1e-3), layer("b", 0), layer("c", None), {"name": "d"}, layer("e", float("nan")), layer("f", 1.0)]
    scale = parameter_charts(layers)[0]
    assert [bar.text for bar in scale.bars] == ["0.001", "0", "none", "none", "nan", "1"]
    assert [bar.lengths for bar in scale.bars] == [(0.25,), (None,), (None,), (None,), (None,), (1.0,)]
    assert (scale.ends, scale.decades, scale.grid_percent) == (("1e-4", "1"), 4, 25.0)
    assert scale.description.endswith("Smallest 0.001 in a, largest 1 in f. 4 have no bar.")


def test_a_gradient_that_is_missing_is_marked_unless_the_parameter_is_frozen() -> None:
    layers = [layer("a"), layer("b", grad_rms=None), layer("c", grad_rms=0.0), layer("d", grad_rms=None, trainable=False)]
    bars = parameter_charts(layers)[1].bars
    assert [(bar.text, bar.alarming) for bar in bars] == [("0.001", False), ("none", True), ("0", True), ("none, frozen", False)]


def test_the_plots_of_a_check_are_drawn_on_its_card_described_and_repeated_as_a_table() -> None:
    numeric = {"title": "age", "kind": "numeric", "caption": "older", "reference": [0.1, 0.4, 0.5], "current": [0.2, 0.2, 0.6]}
    bars = {"title": "city", "kind": "categorical", "reference": [0.75, 0.25], "current": [0.5, 0.5], "labels": ["Rome", "Oslo"]}
    drift = CheckResult("drift", "failed", "It drifted", {"tier": 5, "plots": [{**numeric, "edges": [20, 30]}, bars]})
    page = page_of(drift, CheckResult("fine", "passed", "It did not", {"plots": [bars]}))
    drawn = [attrs for tag, attrs, _ in page.elements if attrs.get("class") in ("drawing", "bars pairs")]
    ids = {attrs["id"] for _, attrs, _ in page.elements if "id" in attrs}
    assert [attrs.get("role") for attrs in drawn] == ["img", None]
    assert all(attrs["aria-describedby"] in ids for attrs in drawn)
    assert page.texts("desc")[0].startswith("Share of the values of age below each value")
    assert page.texts("p", class_="hidden")[0].endswith("The largest change is that of Rome, from 75.0% to 50.0%.")
    assert len([tag for tag, attrs, _ in page.elements if tag == "path" and attrs.get("class") == "line"]) == 2
    lengths = [attrs["style"] for tag, attrs, _ in page.elements if tag == "i"]
    assert lengths == ["--length: 100.0%", "--length: 66.67%", "--length: 33.33%", "--length: 66.67%"]
    assert page.texts("th", scope="row")[:3] == ["below 20", "20 to 30", "30 and above"]
    assert page.texts("td", class_="figure")[:4] == ["10.0%", "20.0%", "40.0%", "20.0%"]


def test_a_zero_bias_is_nothing_to_worry_about() -> None:
    assert not parameter_charts([layer("bias", rms=0.0)])[0].bars[0].alarming


def test_a_quantity_that_was_never_measured_has_no_plot() -> None:
    assert [plot.title for plot in parameter_charts([layer("a", grad_rms=None)])] == ["Parameter scale"]
    assert parameter_charts([{"name": "a"}]) == []


def test_all_zero_values_make_a_chart_without_a_scale() -> None:
    chart = parameter_charts([layer("a", rms=0.0)])[0]
    assert (chart.ends, chart.decades, chart.bars[0].text) == (None, 0, "0")


def test_parameters_are_described_and_repeated_as_a_table() -> None:
    page = page_of(SHAPE, layers=[layer("w", 0.5, None)])
    assert page.texts("p", class_="hidden")[0].startswith("Root mean square of each parameter, logarithmic scale, 1 in all.")
    assert page.texts("td")[-7:] == ["4 × 2", "8", "0", "0.1", "0.5", "none", "yes"]


def test_four_hundred_layers_stay_in_a_scrolling_box_with_whole_names_on_hover() -> None:
    name = "encoder.layers.17.self_attention.projection.output.weight"
    page = page_of(SHAPE, layers=[layer(name) for _ in range(400)])
    boxes = [attrs for tag, attrs, _ in page.elements if attrs.get("class") == "rows"]
    assert [attrs["tabindex"] for attrs in boxes] == ["0", "0"]
    assert page.texts("span", class_="name") == ["e.l.17.s.projection.output.weight"] * 800
    assert next(attrs["title"] for tag, attrs, _ in page.elements if tag == "li" and "title" in attrs) == f"{name} · 4 × 2 · 0.02"


@pytest.mark.parametrize(
    ("values", "decades"),
    [([2e-4, 0.5], (-4, 0)), ([1e-4, 1.0], (-5, 0)), ([0.01], (-3, -2)), ([3.0, 4.0], (0, 1)), ([1e-30, 1e3], (-31, 3))],
)
def test_the_scale_spans_the_values_and_leaves_the_smallest_a_bar(values: list[float], decades: tuple[int, int]) -> None:
    assert decades_of(values) == decades


@pytest.mark.parametrize("decades", range(1, 60))
def test_a_wide_scale_still_has_few_lines(decades: int) -> None:
    chart = parameter_charts([layer("a", 10.0**-decades), layer("b", 1.0)])[0]
    assert 1 <= 100 / chart.grid_percent <= 6


def test_the_ring_shows_each_status_in_proportion_and_closes() -> None:
    arcs = ring_arcs(report_of(*[SHAPE] * 8, SLOW, SLIP))
    assert [arc.status for arc in arcs] == ["passed", "warning", "failed"]
    assert arcs[0].length == pytest.approx(80, abs=2)
    assert arcs[-1].start + arcs[-1].length == pytest.approx(100, abs=1)


def test_one_failure_among_hundreds_is_still_seen_in_the_ring() -> None:
    assert ring_arcs(report_of(*[SHAPE] * 999, SLIP))[-1].length > 1


def test_a_ring_of_one_status_has_no_gap() -> None:
    assert [(arc.start, arc.length) for arc in ring_arcs(report_of(SHAPE))] == [(0.0, 100.0)]


@pytest.mark.parametrize("limit", [9, 10])
def test_long_names_lose_their_middle(limit: int) -> None:
    short = shorten("abcdefghijklmnopqrstuvwxyz", limit)
    assert len(short) == limit
    assert re.fullmatch(r"abcd…[w-z]{4}|abcd…[v-z]{5}", short)


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("blocks.3.attention.weight", "blocks.3.attention.weight"),
        ("decoder.blocks.3.attention.weight", "d.b.3.attention.weight"),
        ("layers.12.feed_forward_of_a_kind.experts.7.weight", "l.12.f.experts.7.weight"),
        ("a sentence. with dots. in it. and more", "a sentence. …it. and more"),
    ],
)
def test_long_paths_lose_the_names_of_outer_modules_but_no_number(name: str, short: str) -> None:
    assert shorten(name, 25) == short

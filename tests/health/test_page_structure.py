"""The HTML report as a document: what its parts refer to is there, all that can be operated has a name, and a thousand findings fit."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

import pytest
from pages import Elements
from sample_reports import BROKEN, REPORTS
from test_page import LEAK, SHAPE, page_of, report_of

from harness.catalogue import CATALOGUE
from harness.health.checks import CheckResult, SkippedCheck, causes_of
from harness.health.markdown import documentation
from harness.health.page import MOST_CARDS, to_html

REFERENCES = ("aria-labelledby", "aria-describedby", "for")


def finding(number: int) -> CheckResult:
    """One that no other is like."""
    details = {**LEAK.details, "module": f"blocks.{number}.attn", "place": f"models/gpt.py:{number}"}
    message = f"{LEAK.message}, in its own way: {'x' * (number % 50)}"
    return CheckResult(f"tier1::causal[case{number}]", "failed", message, details, 0.0123, LEAK.recommendation)


@pytest.mark.parametrize("name", REPORTS)
def test_what_a_part_refers_to_is_there_once(name: str) -> None:
    elements = [attrs for _, attrs, _ in Elements(to_html(REPORTS[name])).elements]
    ids = Counter(attrs["id"] for attrs in elements if "id" in attrs)
    assert {one: times for one, times in ids.items() if times > 1} == {}
    assert {id for attrs in elements for key in REFERENCES for id in (attrs.get(key) or "").split()} <= set(ids)


@pytest.mark.parametrize("name", REPORTS)
def test_all_that_can_be_operated_has_a_name(name: str) -> None:
    page = Elements(to_html(REPORTS[name]))
    for tag in ("a", "summary", "button", "label"):
        assert all(page.texts(tag))
    inputs = [attrs for tag, attrs, _ in page.elements if tag == "input"]
    assert len(inputs) == len(page.texts("label"))
    assert all(attrs.get("aria-label") or attrs.get("aria-labelledby") for _, attrs, _ in page.elements if "tabindex" in attrs)


def test_what_passed_is_folded_and_what_did_not_is_not() -> None:
    page = page_of(LEAK, *[replace(SHAPE, check_name=f"tier1::shape[{n}]") for n in range(3)])
    assert page.texts("summary")[0] == "3 passed"
    assert ("details", {"class", "data-print"}) in page.skeleton
    assert [attrs["data-status"] for tag, attrs, _ in page.elements if tag == "tr" and "data-status" in attrs] == ["failed"] + [
        "passed"
    ] * 3


def test_a_page_can_be_searched_and_filtered_by_status() -> None:
    page = page_of(LEAK, SHAPE, skipped=[SkippedCheck("tier1::device_move", "no second device")])
    assert page.texts("label") == ["Search", "Failed", "Warnings", "Passed", "Skipped"]
    form = next(attrs for tag, attrs, _ in page.elements if tag == "form")
    assert "hidden" in form  # until the script that does it has run
    assert {attrs["data-status"] for _, attrs, _ in page.elements if "data-status" in attrs} == {"failed", "passed", "skipped"}


def test_a_thousand_findings_are_a_page_of_less_than_a_megabyte() -> None:
    report = report_of(*map(finding, range(1000)))
    started = time.process_time()
    html = to_html(report)
    took = time.process_time() - started

    assert len(html.encode()) < 1_000_000
    assert took < 3
    page = Elements(html)
    assert len(page.texts("article")) == MOST_CARDS
    assert f"The first {MOST_CARDS} are told in full" in page.texts("p", class_="beyond")[0]
    beyond = page.texts("th", scope="row")[MOST_CARDS]
    assert beyond.startswith(f"{LEAK.details['statement']} Token 5 leaks into position 3")


def test_causes_of_a_thousand_findings_in_one_module_are_found_at_once() -> None:
    alike = [replace(finding(number), details={"tier": 1, "module": "blocks.1", "property": "causal"}) for number in range(1000)]
    started = time.process_time()
    assert len(causes_of(alike)) == 50
    assert time.process_time() - started < 3


def test_failures_come_before_warnings_where_not_all_are_told_in_full() -> None:
    warnings = [replace(finding(number), status="warning") for number in range(MOST_CARDS)]
    page = page_of(*warnings, LEAK)
    assert len(page.texts("article")) == MOST_CARDS
    assert page.texts("article")[0].startswith("Token 5")


ENVIRONMENT = {
    "commit": "0123456789abcdef",
    "changed": True,
    "versions": {"torch": "2.13.0", "numpy": "2.4.6"},
    "threads": 1,
    "gpus": [],
    "device": "cpu",
    "seed": 3,
    "workers": 2,
    "seconds": 61.0,
}


def test_a_page_says_where_and_how_it_ran() -> None:
    page = page_of(SHAPE, environment=ENVIRONMENT, config={"seed": 3, "eval": None, "model_file": "</pre>"})
    told = "commit 0123456789 with changes, torch 2.13.0 on cpu, 1 thread, 2 processes, seed 3, 1 min 1 s"
    assert page.texts("dd")[0] == told
    assert page.texts("pre") == ['{ "seed": 3, "model_file": "</pre>" }']
    assert {"versions", "commit"} <= set(page.texts("dt"))
    assert "gpus" not in page.texts("dt")


def test_the_name_of_a_check_leads_to_what_the_documentation_says_of_it() -> None:
    page = page_of(LEAK, replace(LEAK, check_name="tier1::unheard_of", status="passed"))
    assert [attrs["href"] for tag, attrs, _ in page.elements if attrs.get("class") == "about"] == ["#about-causal"] * 2
    about = next(text for text in page.texts("details") if text.startswith("causal"))
    assert "The logits before a position do not change when its token changes" in about
    assert "Usual causes: a mask that is shifted" in about


def test_the_documentation_has_a_section_for_each_property() -> None:
    sections = documentation()
    assert set(CATALOGUE) <= set(sections)
    assert all(sections[name] for name in CATALOGUE)
    assert not [text for texts in sections.values() for text in texts if "](" in text]


def test_the_score_stands_beside_a_grade_that_a_failure_caps() -> None:
    facts = dict(zip(*map(page_of(*[SHAPE] * 16, LEAK).texts, ("dt", "dd")), strict=False))
    assert facts["health score"] == "94.1 of 100, which counts checks and not what they weigh"
    assert "health score" not in page_of(SHAPE, LEAK, is_selection=True).texts("dt")


def test_a_card_shows_what_reads_what_with_a_word_for_each_sign() -> None:
    page = Elements(to_html(BROKEN))
    cells = [(attrs["class"], attrs["aria-label"]) for tag, attrs, _ in page.elements if tag == "td" and "aria-label" in attrs]
    assert cells == [("reads", "reads"), ("wrong", "reads, and must not"), ("unread", "does not read"), ("reads", "reads")]
    facts = dict(zip(page.texts("dt"), page.texts("dd"), strict=True))
    assert facts["What reads what"] == "position 0 reads token 1"
    assert "Divergence along the layers" in page.texts("strong")


def test_the_broken_sample_has_every_part() -> None:
    assert {"form", "article", "details", "table", "svg", "nav"} <= {tag for tag, _ in Elements(to_html(BROKEN)).skeleton}

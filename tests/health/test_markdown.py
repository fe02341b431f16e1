"""The Markdown report: what a reader meets first, and text that cannot break out of its place."""

from __future__ import annotations

import re

import pytest
from markdown_it import MarkdownIt

from harness.health import ExportHealthReport
from harness.health.checks import CheckResult, SkippedCheck
from harness.health.markdown import by_tier, facts_of, to_markdown, verdict
from harness.wording import duration

LEAK = CheckResult(
    "tier1::causal",
    "failed",
    "Position 3's logits change when token 5 changes (first seen in `blocks.1.attn`)",
    {
        "tier": 1,
        "statement": "A position's logits never depend on later tokens",
        "counterexample": "batch=2, seq=6",
        "module": "blocks.1.attn",
        "cause": "the mask is shifted by one",
        "comparison": "3.1e-02 (bound 4.0e-07)",
        "nodeid": "models.yaml::gpt::test_causal",
        "examples": 2500,
    },
    0.0123,
    "Build the mask with `torch.tril`.",
)
SLOW = CheckResult("tier2::speed", "warning", "The median call takes 61 ms", {"tier": 2})
SHAPE = CheckResult("tier1::shape", "passed", "Shapes hold", {"tier": 1})
_FEATURES = [*({"feature": f"x{n}", "status": "warn"} for n in range(1000)), {"feature": "y", "status": "ok"}]
DRIFT = CheckResult("tier5::drift[inputs]", "warning", "x0 has drifted", {"property": "drift", "facts": {"features": _FEATURES}})
EXPORT = CheckResult("onnx", "passed", "The graph agrees")
PADDING = CheckResult(
    "tier1::padding_ignored", "failed", "row 0's logits change", {"tier": 1, "module": "blocks.1.attn", "statement": "Padding"}
)
INLINE_TEXT = {"text", "text_special", "softbreak", "code_inline", "<code>", "</code>"}
"""What a text may become in its place."""


def report_of(*checks: CheckResult, **fields: object) -> ExportHealthReport:
    return ExportHealthReport(checks=list(checks), **{"model_name": "tiny-gpt", **fields})  # type: ignore[arg-type]


def cells(row: str) -> list[str]:
    """A table row's cells, split where GitHub splits them: at every pipe without a backslash."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip().removeprefix("|").removesuffix("|"))]


def test_begins_with_the_name_and_the_grade() -> None:
    assert to_markdown(report_of(LEAK, SHAPE)).splitlines()[0] == "# tiny-gpt: grade F"


def test_a_score_is_shown_where_nothing_failed_and_all_of_it_ran() -> None:
    assert to_markdown(report_of(SLOW, SHAPE)).splitlines()[0] == "# tiny-gpt: grade C, health score 75 of 100"
    assert to_markdown(report_of(SLOW, SHAPE, is_selection=True)).splitlines()[0] == "# tiny-gpt: no grade"


def test_one_bug_is_one_card_that_says_what_else_it_shows_as() -> None:
    text = to_markdown(report_of(LEAK, PADDING, SHAPE))
    assert text.count("\n### ") == 1
    assert "- **Also shows as:** `padding_ignored` (row 0's logits change)" in text
    assert "**Broken: 1 problem (2 failed checks), 1 of 3 checks passed**" in text
    assert text.count("tier1::padding_ignored") == 1, "the table has every check"


def test_a_failure_comes_before_the_tables_with_all_that_is_known() -> None:
    before_tables = to_markdown(report_of(SHAPE, LEAK)).partition("| Status |")[0]
    assert "### ✕ Position 3's logits change when token 5 changes (first seen in `blocks.1.attn`)" in before_tables
    assert "- **Counterexample:** `batch=2, seq=6`" in before_tables
    assert "- **Measured:** `3.1e-02 (bound 4.0e-07)`" in before_tables
    assert "- **Blamed module:** `blocks.1.attn`" in before_tables
    assert "- **Usual cause:** the mask is shifted by one" in before_tables
    assert "- **Test:** `models.yaml::gpt::test_causal`" in before_tables


def test_each_tier_has_a_table_worst_first() -> None:
    text = to_markdown(report_of(EXPORT, SHAPE, SLOW, LEAK))
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [
        "Failures",
        "Warnings",
        "Recommendations",
        "Tier 1",
        "Tier 2",
        "Checks",
    ]
    assert re.findall(r"^\| ([✕▲✓] \w+)", text, re.MULTILINE) == ["✕ Failed", "✓ Passed", "▲ Warning", "✓ Passed"]


def test_a_row_tells_what_was_measured_how_often_and_how_long() -> None:
    row = next(line for line in to_markdown(report_of(LEAK)).splitlines() if line.startswith("| ✕"))
    statement = "A position's logits never depend on later tokens<br>`tier1::causal`"
    assert cells(row) == ["✕ Failed", statement, "3.1e-02 (bound 4.0e-07)", "2,500", "12 ms"]


def test_skipped_checks_are_listed() -> None:
    text = to_markdown(report_of(LEAK, skipped=[SkippedCheck("tier1::device_move", "no second device")]))
    assert text.endswith("| `tier1::device_move` | no second device |\n")


@pytest.mark.parametrize(
    ("cause", "advice", "told"),
    [
        ("a shifted mask", "Use `tril`.", {"Usual cause": "a shifted mask", "What to do": "Use `tril`."}),
        ("a shifted mask", "In `attn`, look for a shifted mask.", {"Usual cause": "a shifted mask"}),
        (
            "a shifted mask",
            "Export again (in `attn`). usual cause: a shifted mask",
            {"Usual cause": "a shifted mask", "What to do": "Export again (in `attn`)"},
        ),
        ("a shifted mask", "usual cause: a shifted mask", {"Usual cause": "a shifted mask"}),
        ("a shifted mask", "", {"Usual cause": "a shifted mask"}),
        ("", "Use `tril`.", {"What to do": "Use `tril`."}),
    ],
)
def test_what_to_do_is_said_once(cause: str, advice: str, told: dict[str, str]) -> None:
    check = CheckResult("c", "failed", "m", {"cause": cause}, recommendation=advice)
    assert {fact.label: fact.text for fact in facts_of(check)} == told


def test_a_test_that_the_command_names_is_not_named_twice() -> None:
    details = {"nodeid": "cfg.json::test_causal", "rerun": "pytest cfg.json::test_causal"}
    assert [fact.label for fact in facts_of(CheckResult("c", "failed", "m", details))] == ["Run it again"]


def test_a_partial_run_says_so_before_anything_else_but_the_verdict() -> None:
    text = to_markdown(report_of(SHAPE, coverage="9 of 38 properties ran."))
    assert text.splitlines()[2:6] == [
        "**Sound as far as it ran: 1 of 1 check passed**",
        "",
        "> [!WARNING]",
        "> **Partial run.** 9 of 38 properties ran.",
    ]
    assert "Partial run" not in to_markdown(report_of(SHAPE))


@pytest.mark.parametrize("hostile", ["a | b", "a\nb", "a \\| b", "`a | b`", "`a \\| b`", "a ` | ` b"])
def test_no_text_adds_a_cell_or_a_line_to_a_table(hostile: str) -> None:
    check = CheckResult(hostile, "passed", hostile, {"comparison": hostile, "tier": 1, "tier_title": hostile})
    text = to_markdown(report_of(check, skipped=[SkippedCheck(hostile, hostile)]))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert [len(cells(row)) for row in rows] == [5, 5, 5, 2, 2, 2]


AWKWARD = [
    "a | b",
    "one\ntwo\n\nthree",
    "```\nfenced\n```",
    "`a | b` and a lone ` tick",
    "# heading\n- item\n1. first",
    "[x](javascript:y) ![x](https://example.org/x.png) <https://example.org>",
    "<details><summary>x</summary><img src=https://example.org/x.png>",
    "[x]: https://example.org\n[x]",
    "a\\| b",
    "&lt;b&gt; &#124; $x$ ~~gone~~ **bold** __init__",
    "| a | b |\n|---|---|",
    "    indented",
    "a title\n===",
]


def rendered(markdown: str) -> tuple[list[str], str]:
    """What GitHub-flavoured Markdown comes to: its blocks and inline elements in order, and the text within them."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    parts = [part for token in tokens for part in (token, *(token.children or ()))]
    kinds = [part.content if part.type == "html_inline" else part.type for part in parts]
    texts = [part.content for part in parts if part.type in INLINE_TEXT]
    return [kind for kind in kinds if kind not in INLINE_TEXT], "".join(texts)


def is_shown_as_text(awkward: str, markdown: str, plain: str) -> bool:
    """Whether all elements are those of a plain text, and the awkward one is there in full wherever that is."""
    (elements, text), (plain_elements, plain_text) = rendered(markdown), rendered(plain)
    words = " ".join(awkward.split()).replace("`", "")
    return elements == plain_elements and text.replace("`", "").count(words) == plain_text.count("plain")


@pytest.mark.parametrize("awkward", AWKWARD)
def test_whatever_a_message_holds_it_is_shown_as_text(awkward: str) -> None:
    def markdown(text: str) -> str:
        details = {"tier": 1, "tier_title": text, "statement": text, "comparison": text, "counterexample": text, "cause": text}
        report = report_of(
            CheckResult(text, "failed", text, {**details, "module": text, "nodeid": text}, 0.1, f"{text}!"),
            CheckResult(text, "passed", text, details),
            model_name=text,
            model_facts={text: text},
            coverage=text,
            skipped=[SkippedCheck(text, text)],
        )
        return to_markdown(report)

    assert is_shown_as_text(awkward, markdown(awkward), markdown("plain"))


@pytest.mark.parametrize("awkward", AWKWARD)
def test_unescaped_it_would_not_be(awkward: str) -> None:
    escapes_nothing = "# {0}\n\n| a |\n|---|\n| {0} |\n\n- {0}\n"
    assert not is_shown_as_text(awkward, escapes_nothing.format(awkward), escapes_nothing.format("plain"))


def test_nobody_is_notified() -> None:
    assert "see @<!-- -->torch.jit.script" in to_markdown(report_of(CheckResult("c", "failed", "see @torch.jit.script")))


def test_no_markup_in_a_report_survives_as_markup() -> None:
    hostile = "<script>alert(1)</script> [x](javascript:y) *z* __init__"
    text = to_markdown(
        report_of(
            CheckResult("<script>|", "failed", hostile, {"cause": hostile}), model_name=hostile, model_facts={hostile: hostile}
        )
    )
    outside_code = re.sub(r"`[^`]*`", "", text)
    assert "<script" not in outside_code
    assert "[x](" not in outside_code
    assert not re.search(r"(?<!\\)\*z|(?<!\\)_init", outside_code)
    assert "<code>&#60;script&#62;&#124;</code>" in text


def test_a_message_cannot_open_a_list_or_a_heading() -> None:
    text = to_markdown(report_of(model_facts={"# 1. - x": "y"}, model_name="3.5 billion"))
    assert "- \\# 1. - x" in text
    assert text.startswith("# 3.5 billion: ")


def test_an_empty_report_has_no_score_and_no_tables() -> None:
    assert to_markdown(report_of()) == "# tiny-gpt: no grade\n\n**Nothing was checked**\n"


def test_a_report_of_skipped_checks_gives_only_the_reasons() -> None:
    text = to_markdown(report_of(skipped=[SkippedCheck("a", "no GPU"), SkippedCheck("b", "no GPU")]))
    assert "**Nothing was checked: 2 checks skipped**" in text
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Skipped"]


@pytest.mark.parametrize(
    ("checks", "sentence"),
    [
        ([SHAPE, EXPORT], "Sound: 2 of 2 checks passed"),
        ([SHAPE, SLOW], "Sound, with 1 warning: 1 of 2 checks passed"),
        ([SHAPE, DRIFT], "The data changed in 1,000 of 1,001 features, with 1 warning: 1 of 2 checks passed"),
        ([SHAPE, SLOW, LEAK], "Broken: 1 problem (1 failed check), 1 warning, 1 of 3 checks passed"),
        ([LEAK], "Broken: 1 problem (1 failed check), 0 of 1 check passed"),
    ],
)
def test_verdict(checks: list[CheckResult], sentence: str) -> None:
    assert verdict(report_of(*checks)) == sentence


def test_tiers_are_ordered_as_numbers_and_the_rest_comes_last() -> None:
    checks = [CheckResult(str(tier), "passed", "", {} if tier is None else {"tier": tier}) for tier in (None, 10, 2, 1)]
    assert list(by_tier(checks)) == ["Tier 1", "Tier 2", "Tier 10", "Checks"]


@pytest.mark.parametrize(
    ("details", "command"),
    [
        ({"nodeid": "tests/test_x.py::test_y[a b]"}, "pytest 'tests/test_x.py::test_y[a b]'"),
        ({"nodeid": "models.yaml::gpt::test_causal"}, None),
        ({"nodeid": "models.yaml::gpt::test_causal", "rerun": "pytest models.yaml -k causal"}, "pytest models.yaml -k causal"),
        ({}, None),
    ],
)
def test_a_rerun_command_is_only_given_when_it_would_work(details: dict[str, str], command: str | None) -> None:
    commands = [fact.text for fact in facts_of(CheckResult("c", "failed", "m", dict(details))) if fact.label == "Run it again"]
    assert commands == ([command] if command else [])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, ""),
        (0.0004, "<1 ms"),
        (0.0123, "12 ms"),
        (0.9996, "1.0 s"),
        (6.24, "6.2 s"),
        (59.97, "1 min 0 s"),
        (125.2, "2 min 5 s"),
    ],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text

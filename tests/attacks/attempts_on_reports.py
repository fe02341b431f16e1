"""Attempts of a model's texts on who reads them: in the terminal, Markdown, HTML, JUnit files and annotations.

An attempt is through where its text arrives as something else than text.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.evidence import Evidence, Status
from harness.health import ExportHealthReport
from harness.health.checks import Cause, CheckResult
from harness.health.markdown import to_markdown
from harness.health.page import to_html
from pytest_modeltiers.results import junit_properties, read_result, to_check, visible_report
from pytest_modeltiers.terminal import annotation

TEXTS = {
    "clears_the_screen": "a\x1b[2J\x1b[Hall is well",
    "colours": "\x1b[32mok\x1b[0m",
    "title": "\x1b]0;owned\x07",
    "link": "\x1b]8;;http://nowhere.invalid\x1b\\click\x1b]8;;\x1b\\",
    "clipboard": "\x1b]52;c;Y2FuYXJ5\x07",
    "one_byte_escape": "\x9b2J",
    "back": "FAIL\b\b\b\bok  ",
    "return": "FAIL everything\rok              ",
    "vertical": "a\x0bb\x0cc",
    "nothing": "a\x00b",
    "delete": "a\x7fb",
    "direction": "\u202efdp.exe\u202c",
    "isolate": "\u2066a\u2069",
    "line_separator": "a\u2028::error::forged",
    "next_line": "a\x85::error::forged",
    "half_a_pair": "a\ud800b",
    "command": "x\n::error file=x::forged",
    "command_first": "::set-output name=x::forged",
    "command_after_return": "x\r::error::forged",
    "old_command": "x\n##[error]forged",
    "mask": "x\n::add-mask::the",
    "stop": "x\n::stop-commands::x",
    "escaped_newline": "x%0A::error::forged",
    "properties": "x,line=1::forged",
    "script": "<script>mark()</script>",
    "image": "<img src=x onerror=mark()>",
    "attribute": '" onmouseover="mark()',
    "comment": "--><script>mark()</script><!--",
    "template": "{{ 7 * 191 }} {% raw %}",
    "entity": "&lt;script&gt;",
    "markdown_link": "[click](javascript:mark())",
    "markdown_image": "![x](http://nowhere.invalid/x.png)",
    "markdown_heading": "x\n# forged",
    "markdown_table": "a | b | c",
    "markdown_html": "<details><summary>x</summary>",
    "markdown_code": "``` \n# forged",
    "mention": "@everyone look",
    "xml": "]]><failure message='forged'/>",
    "xml_entity": "<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/hostname'>]>&e;",
}

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def run() -> dict[str, str]:
    """How each text ended in each place."""
    places: dict[str, Callable[[str], str]] = {
        "terminal": _terminal,
        "markdown": _markdown,
        "html": _html,
        "junit": _junit,
        "annotation": _annotation,
    }
    return {f"reports::{name}_in_{place}": use(text) for name, text in TEXTS.items() for place, use in places.items()}


def _report(text: str) -> pytest.TestReport:
    evidence = Evidence(
        text, Status.FAIL, text, counterexample=text, module=text, cause=text, place=text, compared=text, code=text
    )
    report = pytest.TestReport("cfg.json::TestTier1::test_causal", ("cfg.json", 0, "x"), {}, "failed", text, "call")
    report.sections = [("Captured stdout call", text)]
    report.modeltiers = {"config": "cfg.json", "tier": 1, "finding": {"property": text, "evidence": evidence.to_json()}}  # type: ignore[attr-defined]
    return visible_report(report)


def _check(text: str) -> CheckResult:
    report = _report(text)
    return to_check(read_result(report, report.modeltiers))  # type: ignore[attr-defined]


def _health(text: str) -> ExportHealthReport:
    health = ExportHealthReport(text)
    # As an API would have it, too, where nobody made it visible before.
    for check in (_check(text), CheckResult(f"tier1::{text}", "failed", text, {"tier": 1, "module": text, "place": text})):
        health.add_check(check)
    health.model_facts = {text: text}
    return health


def _terminal(text: str) -> str:
    report = _report(text)
    shown = "".join(
        (report.longreprtext, *(content for _, content in report.sections), read_result(report, report.modeltiers).message)
    )  # type: ignore[attr-defined]
    return "through" if _CONTROL.search(shown) else "escapes"


def _markdown(text: str) -> str:
    shown = to_markdown(_health(text))
    forged = [line for line in shown.splitlines() if line.startswith(("# forged", "![", "::"))]
    prose = re.sub(r"(?<!`)`[^`\n]+`(?!`)", "", shown)  # what is code is shown as it is
    tags = set(re.findall(r"<(\w+)", prose)) - {"br", "code"}
    active = re.search(r"(?<!\\)\[click(?<!\\)\]\(|@everyone", prose)
    return "through" if _CONTROL.search(shown) or forged or tags or active else "escapes"


def _html(text: str) -> str:
    shown = to_html(_health(text))
    live = "mark()" in text and re.search(r"<script>mark|<img src=x|\" onmouseover=\"mark", shown)
    return "through" if _CONTROL.search(shown) or live or "1337" in shown else "escapes"


def _junit(text: str) -> str:
    report = _report(text)
    case = ElementTree.Element("testcase")
    for name, value in junit_properties(report, report.modeltiers["finding"]):  # type: ignore[attr-defined]
        ElementTree.SubElement(case, "property", name=name, value=str(value))
    ElementTree.SubElement(case, "system-out").text = report.sections[0][1]
    written = ElementTree.tostring(case)
    again = ElementTree.fromstring(written)
    return "through" if {one.tag for one in again} != {"property", "system-out"} else "escapes"


def _annotation(text: str) -> str:
    line = annotation(Cause(_check(text)), Path(f"/project/{text.replace('/', '')}.json"), Path("/project"), Path("/project"))
    properties = line.partition("::")[2].partition("::")[0]
    clean = line.count("\n") == 0 and not _CONTROL.search(line) and set(re.findall(r"(\w+)=", properties)) >= {"file", "title"}
    return "escapes" if clean and properties.count("line=") <= text.count("line=") and line.startswith("::error ") else "through"

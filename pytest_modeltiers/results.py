"""What a test found: read from its report, and written as a health check or as JUnit properties; and the causes in a JUnit file."""

from __future__ import annotations

import os
import shlex
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.catalogue import CATALOGUE
from harness.evidence import WHOLE, Evidence, Status
from harness.excerpts import Excerpt
from harness.export.store import default_folder
from harness.health.checks import CheckResult, CheckStatus
from harness.wording import visible, visible_values
from pytest_modeltiers.crashes import end_hanging
from pytest_modeltiers.hooks import TIERS, VERDICT

if TYPE_CHECKING:
    from pytest_modeltiers.report import Reporter

NODEID = "modeltiers_nodeid"
"""The property by which a test case is found again."""

_MOST_CALLS = 5
"""How many tests are named that call the model most often."""


def visible_report(report: pytest.TestReport) -> pytest.TestReport:
    """A report whose texts hold no characters that would control who shows them; changed in place."""
    report.sections = [(visible(heading), visible(content, lines=True)) for heading, content in report.sections]
    report.user_properties[:] = [(name, visible_values(value)) for name, value in report.user_properties]
    if isinstance(report.longrepr, str):
        report.longrepr = visible(report.longrepr, lines=True)
    elif isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        report.longrepr = (path, line, visible(reason, lines=True))
    if hasattr(report, "modeltiers"):
        report.modeltiers = visible_values(report.modeltiers)  # type: ignore[attr-defined]
    return report


_STATUS: dict[Status, CheckStatus] = {Status.OK: "passed", Status.WARN: "warning", Status.FAIL: "failed"}


@dataclass
class Result:
    """What one test found.

    Attributes:
        nodeid: The test.
        config: The config file it belongs to.
        tier: Its tier.
        status: Its verdict.
        message: One sentence.
        seconds: How long it took.
        finding: The judge's verdict; empty for a test without one.
        captured: What was printed meanwhile, by heading.
        budget: The time budget of its process, in seconds; 0 where it did not say.
    """

    nodeid: str
    config: str
    tier: int
    status: Status
    message: str
    seconds: float
    finding: dict[str, Any] = field(default_factory=dict)
    captured: list[tuple[str, str]] = field(default_factory=list)
    budget: float = 0.0

    @property
    def label(self) -> str:
        """Name of the property with its case, such as ``finite_output[extremes]``."""
        return self.nodeid.rpartition("::")[2].removeprefix("test_")

    @property
    def evidence(self) -> Evidence | None:
        """The evidence, where the test had a judge that reached a verdict."""
        found = self.finding.get("evidence")
        return Evidence.from_json(found) if found else None

    @property
    def blocks(self) -> str:
        """Of which blocks of a large model it asked, in words; empty where it asked of all."""
        evidence = self.finding.get("evidence") or {}
        return str(self.finding.get("blocks") or evidence.get("details", {}).get("blocks") or "")


def read_result(report: pytest.TestReport, about: dict[str, Any]) -> Result:
    """The result that a test report stands for.

    Args:
        report: The report.
        about: What the worker sent along: ``config``, ``tier``, ``finding`` and its time budget.
    """
    finding = about["finding"]
    evidence = Evidence.from_json(finding["evidence"]) if finding.get("evidence") else None
    if report.skipped:
        status, message = Status.SKIPPED, _skip_reason(report)
    elif report.failed:
        status, message = Status.FAIL, _first_line(report, evidence)
        if about.get("crashed"):
            message = "the process died while this test ran: out of memory, or a crash in native code"
    else:
        status = Status.WARN if warned(report) else Status.OK
        message = evidence.headline if evidence else "holds"
    origin = (report.nodeid, about["config"], about["tier"])
    return Result(*origin, status, message, report.duration, finding, report.sections, about.get("budget", 0.0))


def _first_line(report: pytest.TestReport, evidence: Evidence | None) -> str:
    if evidence is not None and evidence.status in (Status.FAIL, Status.WARN):
        return evidence.headline
    crash = getattr(report.longrepr, "reprcrash", None)
    text: str = crash.message if crash else report.longreprtext
    lines = text.strip().splitlines()
    return lines[0].removeprefix("Failed: ") if lines else "failed"


def _skip_reason(report: pytest.TestReport) -> str:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
    return str(reason).removeprefix("Skipped: ")


def warned(report: pytest.TestReport) -> bool:
    """Whether a test passed with a warning."""
    evidence = getattr(report, "modeltiers", {}).get("finding", {}).get("evidence")
    return bool(evidence) and evidence["status"] == Status.WARN.value


def junit_properties(report: pytest.TestReport, finding: dict[str, Any]) -> list[tuple[str, object]]:
    """The finding as JUnit properties, names and values."""
    evidence = finding.get("evidence") or {}
    status = "skipped" if report.skipped else evidence.get("status") or ("fail" if report.failed else "ok")
    shown = {
        NODEID: report.nodeid,
        "modeltiers_status": status,
        "modeltiers_property": finding.get("property"),
        "modeltiers_code": evidence.get("code"),
        "modeltiers_message": evidence.get("message"),
        "modeltiers_module": evidence.get("module"),
        "modeltiers_place": evidence.get("place"),
        "modeltiers_line": _marked(evidence),
        "modeltiers_counterexample": evidence.get("counterexample") if status in ("fail", "warn") else None,
        "modeltiers_measured": evidence.get("measured"),
        "modeltiers_bound": evidence.get("bound"),
        "modeltiers_unit": evidence.get("unit"),
    }
    return [(name, str(value)) for name, value in shown.items() if value not in (None, "")]


def _marked(evidence: dict[str, Any]) -> str:
    excerpt = Excerpt.from_json(evidence.get("excerpt"))
    return excerpt.marked if excerpt is not None else ""


def to_check(result: Result) -> CheckResult:
    """The result as a check of the health report."""
    evidence = result.evidence
    details: dict[str, Any] = {
        "tier": result.tier,
        "tier_title": TIERS.get(result.tier, ""),
        "nodeid": result.nodeid,
        "statement": _statement(result),
        "rerun": rerun_of(result),
    }
    if evidence is not None:
        details |= {
            "property": evidence.name,
            "code": evidence.code,
            "counterexample": evidence.counterexample if result.status in (Status.FAIL, Status.WARN) else None,
            "module": evidence.module,
            "place": evidence.place,
            "excerpt": evidence.excerpt.to_json() if evidence.excerpt else None,
            "fix": evidence.fix.to_json() if evidence.fix else None,
            "script": evidence.details.get("script"),
            "cause": evidence.cause,
            "comparison": evidence.comparison,
            "examples": result.finding.get("examples"),
            "measured": _finite(evidence.measured),
            "bound": _finite(evidence.bound),
            "facts": _without_plots(evidence.details) if result.tier > 1 else None,
            "plots": evidence.details.get("plots"),
        }
    if result.finding.get("forwards"):
        details |= {"forwards": result.finding["forwards"], "rows": result.finding["rows"]}
    if result.blocks:
        details["blocks"] = result.blocks
    if result.finding.get("cut"):
        details["cut"] = "the time budget ended the search early"
    return CheckResult(
        check_name(result),
        _STATUS[result.status],
        result.message,
        {key: value for key, value in details.items() if value not in (None, "")},
        round(result.seconds, 4),
        _recommendation(result, evidence),
    )


def file_of(item: pytest.Item) -> Path:
    """The file that a test is shown with: its config, or the model where there is none."""
    shown = item.config.rootpath / item.nodeid.partition("::")[0]
    return shown if shown.is_file() else item.path


def place_of(item: pytest.Item) -> tuple[Path, int]:
    """File and line, counted from 0, of what a test found; of a test that found nothing the file that asks for it."""
    evidence = item.stash.get(VERDICT, {}).get("evidence")
    excerpt = Evidence.from_json(evidence).excerpt if evidence else None
    return (file_of(item), 0) if excerpt is None else (Path(excerpt.file).absolute(), excerpt.line - 1)


def rerun_of(result: Result, root: Path | None = None, start: Path | None = None) -> str:
    """The command that runs a test again, and nothing else.

    Args:
        result: What the test found.
        root: The root of the tests.
        start: The folder that the command is given in; by default the root.
    """
    shown, colons, test = result.nodeid.partition("::")
    config, option = Path(result.config), ""
    if shown.endswith(config.name):
        option = "--model-config"
    elif default_folder() in config.parents:
        option = "--model"
    if root is not None and start is not None and (root / shown).exists():
        with suppress(ValueError):  # another drive
            shown = Path(os.path.relpath(root / shown, start)).as_posix()
    # Of a ``test_model.py`` that takes tests from a config, neither is needed.
    named = f"{option} {shlex.quote(shown)} " if option else ""
    return f"pytest {named}{shlex.quote(f'{shown}{colons}{test}')}"


def _statement(result: Result) -> str:
    name, _, case = result.label.rstrip("]").partition("[")
    entry = CATALOGUE.get(name)
    return str(result.finding.get("statement", "")) if entry is None else entry.statement_of(case)


def _recommendation(result: Result, evidence: Evidence | None) -> str:
    if evidence is None or result.status not in (Status.FAIL, Status.WARN):
        return ""
    if result.tier == 4:
        from harness.export.checks import recommendation

        return recommendation(evidence)
    where = f"In `{evidence.module}`, look" if evidence.module not in ("", WHOLE) else "Look"
    return f"{where} for {evidence.cause}." if evidence.cause else ""


def figures_of(results: Iterable[Result]) -> Iterator[str]:
    """What people look for first: the files of tier 4, the metrics of tier 5."""
    for result in results:
        facts = result.evidence.details if result.evidence else {}
        name, _, format = result.label.rstrip("]").partition("[")
        if name == "exports" and facts.get("path"):
            yield f"{format}: {facts['path']}"
        if name == "evaluation":
            metrics = facts.get("eval_metrics") or {}
            yield ", ".join(f"{metric} {value:.4g}" for metric, value in metrics.items() if isinstance(value, float))


def most_calls(results: Iterable[Result]) -> str:
    """The tests that call the model most often, with their calls and rows; empty where none was counted."""
    counts = sorted(((r.finding.get("forwards", 0), r.finding.get("rows", 0), r.label) for r in results), reverse=True)
    total = sum(forwards for forwards, _, _ in counts)
    shown = [f"{label} {forwards:,} ({rows:,} rows)" for forwards, rows, label in counts[:_MOST_CALLS] if forwards]
    return f"{total:,} calls of the model, most of them in {', '.join(shown)}" if shown else ""


def asked_of_some_blocks(results: Iterable[Result]) -> str:
    """Which tests of a large model asked some of its blocks only, most after two examples of all, and which blocks; empty for none."""
    found: dict[str, list[str]] = {}
    for result in results:
        if result.blocks:
            found.setdefault(result.blocks, []).append(result.label)
    return "; ".join(f"{', '.join(sorted(labels))}: of {blocks}" for blocks, labels in found.items())


def check_name(result: Result) -> str:
    """Name of the result in the health report."""
    return f"tier{result.tier}::{result.label}"


def without_plots(finding: dict[str, Any]) -> dict[str, Any]:
    """The finding without what only plots need."""
    evidence = finding.get("evidence")
    if not evidence:
        return finding
    return {**finding, "evidence": {**evidence, "details": _without_plots(evidence["details"])}}


def _without_plots(details: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in details.items() if key not in ("layers", "plots", "script")}


def _finite(value: float | None) -> float | str | None:
    """JSON has no infinity."""
    return value if value is None or abs(value) < float("inf") else str(value)


_exit = os._exit  # a model's call of it is refused while the model runs


def end_run(item: pytest.Item, reason: str) -> None:
    """Ends the run in the middle of a test that nothing else ends, with the report; a worker only ends itself, which is reported."""
    config, hook = item.config, item.config.hook
    end_hanging(config, reason)
    try:
        if not hasattr(config, "workerinput"):
            capture = config.pluginmanager.getplugin("capturemanager")
            if capture is not None:
                capture.suspend_global_capture(in_=True)
            evidence = Evidence.failed(item.name, reason, code="not_measured").to_json()
            about = {
                "config": str(item.path),
                "tier": tier_in(item.nodeid),
                "finding": {"property": item.name, "evidence": evidence},
            }
            report = pytest.TestReport(item.nodeid, item.location, {}, "failed", reason, "call", modeltiers=about)
            hook.pytest_runtest_logreport(report=report)
            hook.pytest_sessionfinish(session=item.session, exitstatus=1)
            sys.stdout.flush()
    finally:
        _exit(1)


def tier_in(nodeid: str) -> int:
    """The tier that a test is of; 0 for a test of the user's own."""
    return next((number for number in TIERS if f"::TestTier{number}::" in nodeid), 0)


CAUSE = "modeltiers_cause"


class JUnitCauses:
    """Adds causes and lines to the test cases of a file that pytest has just written."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self) -> Generator[None, None, None]:
        """Waits for pytest's own file."""
        yield
        file = self.reporter.config.getoption("xmlpath", None)
        causes = self.reporter.causes_by_test()
        if file and causes and Path(file).is_file():
            add_causes(Path(file), causes, self.reporter.lines_by_test())


def add_causes(file: Path, causes: Mapping[str, str], lines: Mapping[str, tuple[str, int]] | None = None) -> None:
    """Writes the cause of each red test into a JUnit file, and the line to look at where the file's format has a place for it.

    Args:
        file: The file.
        causes: By the test's node id, the name of the check that its bug is shown under.
        lines: By the test's node id, file and line.
    """
    tree = ElementTree.parse(file)
    for case in tree.iter("testcase"):
        for properties in case.iter("properties"):
            nodeid = next((one.get("value", "") for one in properties if one.get("name") == NODEID), "")
            if nodeid in causes:
                ElementTree.SubElement(properties, "property", name=CAUSE, value=causes[nodeid])
            if case.get("file") and lines and nodeid in lines:  # attributes of xunit1
                name, line = lines[nodeid]
                case.attrib.update(file=name, line=str(line))
    tree.write(file, encoding="utf-8", xml_declaration=True)

"""From the results of a run to the terminal, the health report, JUnit properties and GitHub."""

from __future__ import annotations

import os
import shlex
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness.catalogue import CATALOGUE
from harness.errors import UserError
from harness.evidence import Evidence, Status
from harness.health.report import CheckResult, CheckStatus, ExportHealthReport, SkippedCheck
from pytest_modeltiers.judge import VERDICT
from pytest_modeltiers.plugin import TIERS
from pytest_modeltiers.suite import Suite

_STATUS: dict[Status, CheckStatus] = {Status.OK: "passed", Status.WARN: "warning", Status.FAIL: "failed"}
_CRASHED = "crashed while running"


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
    """

    nodeid: str
    config: str
    tier: int
    status: Status
    message: str
    seconds: float
    finding: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name of the property with its case, such as ``finite_output[extremes]``."""
        return self.nodeid.rpartition("::")[2].removeprefix("test_")

    @property
    def evidence(self) -> Evidence | None:
        """The evidence, where the test had a judge that reached a verdict."""
        found = self.finding.get("evidence")
        return Evidence.from_json(found) if found else None


class Reporter:
    """Collects the results of a run; workers send theirs along with the test reports."""

    def __init__(self, config: pytest.Config, configs: list[Path]) -> None:
        self.config = config
        self.configs = configs
        self.results: dict[str, Result] = {}
        self.controls = not hasattr(config, "workerinput")
        self.written: list[Path] = []
        self.incomplete = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Puts a test's finding into its report, which travels from worker to controller."""
        report = yield
        suite = getattr(getattr(item, "cls", None), "suite", None)
        if not isinstance(suite, Suite):
            return report
        finding = item.stash.get(VERDICT, {})
        # Extra attributes of a report travel with it from worker to controller.
        report.modeltiers = {"config": str(suite.config.path), "tier": _tier_of(item), "finding": finding}  # type: ignore[attr-defined]
        if report.when == "call":
            # Of the item: junitxml reads them from the report of the teardown, which is made from the item's.
            item.user_properties.extend(_junit_properties(report, finding))
            report.user_properties[:] = item.user_properties
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keeps the result of a generated test."""
        if not self.controls:
            return
        about = getattr(report, "modeltiers", None)
        if about is None:
            about = self._about_crashed(report)
            if about is None:
                return
        if report.when == "call" or report.outcome != "passed":
            self.results[report.nodeid] = _result(report, about)

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
        """Shows a warning as its own letter and word."""
        if report.when == "call" and report.passed and _warned(report):
            return "warn", "w", ("WARN", {"yellow": True})
        return None

    @pytest.hookimpl(optionalhook=True)
    def pytest_json_runtest_metadata(self, item: pytest.Item, call: pytest.CallInfo[None]) -> dict[str, Any]:
        """Adds the finding to pytest-json-report's metadata of a test."""
        finding = item.stash.get(VERDICT, None)
        return {"modeltiers": _without_plots(finding)} if finding and call.when == "call" else {}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Notes that something could not be collected."""
        self.incomplete = self.incomplete or report.failed

    def pytest_sessionfinish(self) -> None:
        """Writes the reports, before anything is printed that a closed pipe could cut off."""
        if self.controls and not self.incomplete:
            self.written = list(self._write_files())

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Prints a table a tier, worst first, and tells CI."""
        if not self.controls or not self.results:
            return
        from pytest_modeltiers.terminal import print_summary

        for path in self.configs:
            results = self._of(path)
            if results:
                print_summary(terminalreporter, path, results, self.health_report(path))
        for file in self.written:
            terminalreporter.write_line(f"report: {file}")
        if os.environ.get("GITHUB_ACTIONS") == "true":
            for result in self.results.values():
                if result.status in (Status.FAIL, Status.WARN):
                    terminalreporter.write_line(_annotation(result, self.config.rootpath))

    def health_report(self, path: Path) -> ExportHealthReport:
        """The health report of one config file."""
        suite = Suite.of(path)
        report = ExportHealthReport(suite.config.run_name or suite.config.task_name or suite.config.name)
        results = self._of(path)
        for result in results:
            if result.status is Status.SKIPPED:
                report.skipped.append(SkippedCheck(_check_name(result), result.message, result.tier))
            else:
                report.add_check(_check(result))
            evidence = result.evidence
            if evidence is not None and "layers" in evidence.details and evidence.name == "gradient_flow":
                report.layers = evidence.details["layers"]
        report.model_facts = _model_facts(suite, report)
        report.coverage = _coverage(suite, results)
        return report

    def _of(self, path: Path) -> list[Result]:
        found = [result for result in self.results.values() if result.config == str(path.resolve())]
        # Workers finish in any order; the report must not depend on it.
        order = {f"test_{name}": index for index, name in enumerate(CATALOGUE)}
        return sorted(found, key=lambda r: (r.tier, order.get("test_" + r.label.partition("[")[0], len(order)), r.nodeid))

    def _write_files(self) -> Iterator[Path]:
        folder = self.config.getoption("model_report")
        summary = os.environ.get("GITHUB_STEP_SUMMARY")
        for path in self.configs:
            if not self._of(path):
                continue
            report = self.health_report(path)
            if folder:
                target = Path(folder) if len(self.configs) == 1 else Path(folder) / _folder_name(path, self.configs)
                try:
                    report.save_json(target / "health_report.json")
                    report.save_markdown(target / "health_report.md")
                    yield report.save_html(target / "health_report.html")
                except OSError as error:
                    raise pytest.UsageError(f"--model-report: cannot write into {target}: {error.strerror}") from None
            if summary:
                _append(Path(summary), report)

    def _about_crashed(self, report: pytest.TestReport) -> dict[str, Any] | None:
        """What a report without a finding is about, when the worker died under one of our tests."""
        if _CRASHED not in str(report.longrepr):
            return None
        file = (self.config.rootpath / report.nodeid.partition("::")[0]).resolve()
        mine = next((path for path in self.configs if path.resolve() == file), None)
        return None if mine is None else {"config": str(file), "tier": _tier_in(report.nodeid), "finding": {}, "crashed": True}


def _append(summary: Path, report: ExportHealthReport) -> None:
    """Adds the report to GitHub's step summary."""
    from harness.health.markdown import to_markdown

    try:
        with summary.open("a", encoding="utf-8") as file:
            file.write(to_markdown(report) + "\n")
    except OSError as error:
        print(f"GITHUB_STEP_SUMMARY: cannot write {summary}: {error.strerror}")


def _result(report: pytest.TestReport, about: dict[str, Any]) -> Result:
    finding = about["finding"]
    evidence = Evidence.from_json(finding["evidence"]) if finding.get("evidence") else None
    if report.skipped:
        status, message = Status.SKIPPED, _skip_reason(report)
    elif report.failed:
        status, message = Status.FAIL, _first_line(report, evidence)
        if about.get("crashed"):
            message = "the process died while this test ran: out of memory, or a crash in native code"
    else:
        status = Status.WARN if _warned(report) else Status.OK
        message = evidence.headline if evidence else "holds"
    return Result(report.nodeid, about["config"], about["tier"], status, message, report.duration, finding)


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


def _warned(report: pytest.TestReport) -> bool:
    evidence = getattr(report, "modeltiers", {}).get("finding", {}).get("evidence")
    return bool(evidence) and evidence["status"] == Status.WARN.value


def _junit_properties(report: pytest.TestReport, finding: dict[str, Any]) -> list[tuple[str, object]]:
    evidence = finding.get("evidence") or {}
    status = evidence.get("status") or ("fail" if report.failed else "ok")
    shown = {
        "modeltiers_status": status,
        "modeltiers_property": finding.get("property"),
        "modeltiers_message": evidence.get("message"),
        "modeltiers_module": evidence.get("module"),
        "modeltiers_counterexample": evidence.get("counterexample"),
        "modeltiers_measured": evidence.get("measured"),
        "modeltiers_bound": evidence.get("bound"),
    }
    return [(name, str(value)) for name, value in shown.items() if value not in (None, "")]


def _check(result: Result) -> CheckResult:
    evidence = result.evidence
    details: dict[str, Any] = {
        "tier": result.tier,
        "tier_title": TIERS.get(result.tier, ""),
        "nodeid": result.nodeid,
        "statement": _statement(result),
        "rerun": f"pytest --model-config {shlex.quote(result.nodeid.partition('::')[0])} {shlex.quote(result.nodeid)}",
    }
    if evidence is not None:
        details |= {
            "property": evidence.name,
            "counterexample": evidence.counterexample,
            "module": evidence.module,
            "cause": evidence.cause,
            "comparison": evidence.comparison,
            "examples": result.finding.get("examples"),
            "measured": _finite(evidence.measured),
            "bound": _finite(evidence.bound),
        }
    if result.finding.get("cut"):
        details["cut"] = "the time budget ended the search early"
    return CheckResult(
        _check_name(result),
        _STATUS[result.status],
        result.message,
        {key: value for key, value in details.items() if value not in (None, "")},
        round(result.seconds, 4),
        _recommendation(result, evidence),
    )


def _statement(result: Result) -> str:
    name, _, case = result.label.rstrip("]").partition("[")
    entry = CATALOGUE.get(name)
    return str(result.finding.get("statement", "")) if entry is None else entry.cases.get(case, entry.statement)


def _recommendation(result: Result, evidence: Evidence | None) -> str:
    if evidence is None or result.status not in (Status.FAIL, Status.WARN):
        return ""
    where = f"In `{evidence.module}`, look" if evidence.module else "Look"
    return f"{where} for {evidence.cause}." if evidence.cause else ""


def _check_name(result: Result) -> str:
    return f"tier{result.tier}::{result.label}"


def _model_facts(suite: Suite, report: ExportHealthReport) -> dict[str, str]:
    facts = {"config": suite.config.path.name, "task": suite.task.task_type.value}
    with suppress(UserError):
        facts["model"] = suite.source.origin
    if report.layers:
        total = sum(layer["count"] for layer in report.layers)
        trainable = sum(layer["count"] for layer in report.layers if layer["trainable"])
        facts["parameters"] = f"{total:,}" + (f" ({trainable:,} trainable)" if trainable != total else "")
    return facts


def _coverage(suite: Suite, results: list[Result]) -> str:
    """A sentence on what did not run, empty when everything did."""
    ran = {(r.tier, r.label) for r in results}
    expected = suite.test_count()
    from_catalogue = sum(label.partition("[")[0] in CATALOGUE for _, label in ran)
    parts = []
    if from_catalogue < expected:
        parts.append(f"Only {from_catalogue} of the suite's {expected} tests ran, so the score speaks for these alone.")
    cut = [r.label for r in results if r.finding.get("cut")]
    if cut:
        parts.append(f"The time budget of {suite.config.time_budget:g} s ended the search early in {', '.join(cut)}.")
    return " ".join(parts)


def _folder_name(path: Path, configs: list[Path]) -> str:
    """A name for the report's folder that no other config of the run has."""
    for name in (path.stem, path.name.replace(".", "-"), f"{path.parent.name}-{path.name.replace('.', '-')}"):
        if sum(name in (p.stem, p.name.replace(".", "-"), f"{p.parent.name}-{p.name.replace('.', '-')}") for p in configs) == 1:
            return name
    return f"{configs.index(path)}-{path.stem}"


def _annotation(result: Result, root: Path) -> str:
    """A GitHub workflow command that shows the finding beside the config file."""
    level = "error" if result.status is Status.FAIL else "warning"
    file = Path(result.config)
    shown = file.relative_to(root) if root in file.parents else file
    message = result.message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return f"::{level} file={shown},title=tier {result.tier}%3A {result.label}::{message}"


def _without_plots(finding: dict[str, Any]) -> dict[str, Any]:
    evidence = finding.get("evidence")
    if not evidence:
        return finding
    return {**finding, "evidence": {**evidence, "details": {k: v for k, v in evidence["details"].items() if k != "layers"}}}


def _tier_of(item: pytest.Item) -> int:
    return next((number for number in TIERS if item.get_closest_marker(f"tier{number}")), 0)


def _tier_in(nodeid: str) -> int:
    return next((number for number in TIERS if f"::TestTier{number}::" in nodeid), 0)


def _finite(value: float | None) -> float | str | None:
    """JSON has no infinity."""
    return value if value is None or abs(value) < float("inf") else str(value)

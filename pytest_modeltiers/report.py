"""From the results of a run to the terminal, the health report, JUnit properties and GitHub."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness.catalogue import CATALOGUE
from harness.documents import without_secrets
from harness.errors import UserError
from harness.evidence import Evidence, Status
from harness.files import write_whole
from harness.health import ExportHealthReport, to_sarif
from harness.health.checks import SkippedCheck, label_of
from harness.health.history import REPORT, remember, write_badge
from harness.provenance import surroundings
from harness.wording import visible, visible_values
from pytest_modeltiers import __version__
from pytest_modeltiers.hooks import SHOWN_AS, VERDICT
from pytest_modeltiers.progress import is_ci
from pytest_modeltiers.results import (
    Result,
    asked_of_some_blocks,
    check_name,
    file_of,
    junit_properties,
    place_of,
    read_result,
    tier_in,
    to_check,
    visible_report,
    warned,
    without_plots,
)
from pytest_modeltiers.suite import Suite
from pytest_modeltiers.terminal import annotation, append_summary, print_wrapped
from pytest_modeltiers.time_budget import SPENT
from pytest_modeltiers.without_config import limits_found

_CRASHED = "crashed while running"


class Reporter:
    """Collects the results of a run; workers send theirs along with the test reports."""

    def __init__(self, config: pytest.Config, configs: list[Path]) -> None:
        self.config = config
        self.configs = configs
        self.results: dict[str, Result] = {}
        self.controls = not hasattr(config, "workerinput")
        self.reports: dict[Path, ExportHealthReport] = {}
        self.written: list[Path] = []
        self.scripts: list[Path] = []
        self.incomplete = False
        self.started = time.time()
        self.logged: list[str] = []
        self.in_order: list[pytest.TestReport] = []
        self.set_aside: list[pytest.TestReport] = []
        self.annotations: list[str] = []

    def pytest_report_header(self) -> list[str]:
        """Says which models are judged."""
        suites = [Suite.of(path) for path in self.configs]
        return [
            f"modeltiers: {visible(self.name_of(suite.config.path))} ({suite.task.title}, {len(suite.tests_of())} tests"
            f"{', on the dataloaders of the model, as no data is named' if suite.config.has_own_data else ''})"
            for suite in suites
        ]

    def pytest_report_collectionfinish(self) -> list[str]:
        """Says of large models, once they are built, how long their tests take."""
        suites = [Suite.of(path) for path in self.configs]
        return [f"modeltiers: {visible(self.name_of(s.config.path))}: {told}" for s in suites if (told := s.told_of_size())]

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Has a generated test point to the line that it found at fault rather than into this plugin; before that, to the config."""
        if self.is_own(item):
            shown = item.reportinfo()[2]
            item.reportinfo = lambda: (*place_of(item), shown)  # type: ignore[method-assign]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Puts a test's finding into its report, which travels from worker to controller."""
        report = yield
        suite = getattr(getattr(item, "cls", None), "suite", None)
        if not isinstance(suite, Suite):
            return report
        finding = visible_values(item.stash.get(VERDICT, {}))
        # Extra attributes of a report travel with it from worker to controller.
        about = {"config": str(suite.config.path), "tier": tier_in(item.nodeid), "finding": finding}
        report.modeltiers = {**about, "budget": suite.budget.seconds}  # type: ignore[attr-defined]
        if (
            report.failed
            and report.when == "call"
            and (finding.get("evidence") or {}).get("status", Status.OK.value) != Status.OK.value
            and not (self.config.get_verbosity() > 1 and _asserted(call))
        ):
            # In our words, also where an assertion of the user's failed: what pytest would show of it is the repr of a whole model.
            report.longrepr = Evidence.from_json(finding["evidence"]).explain()
        if isinstance(report.longrepr, tuple):  # of a skip, whose place would be a line of this plugin
            report.longrepr = (str(file_of(item)), 1, report.longrepr[2])
        if report.when == "call" or report.outcome != "passed":
            # Of the item: junitxml reads them from the report of the teardown, which is made from the item's.
            item.user_properties.extend(junit_properties(report, finding))
            report.user_properties[:] = item.user_properties
        return visible_report(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keeps the result of a generated test."""
        if not self.controls:
            return
        if report.failed:
            self.in_order.append(report)
        about = getattr(report, "modeltiers", None)
        if about is None:
            about = self._about_crashed(report)
            if about is None:
                return
        if report.when == "call" or report.outcome != "passed":
            self.results[report.nodeid] = read_result(report, about)

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
        """Shows a warning as its own letter and word."""
        if report.when == "call" and report.passed and warned(report):
            return "warn", "w", ("WARN", {"yellow": True})
        return None

    @pytest.hookimpl(optionalhook=True)
    def pytest_json_runtest_metadata(self, item: pytest.Item, call: pytest.CallInfo[None]) -> dict[str, Any]:
        """Adds the finding to pytest-json-report's metadata of a test."""
        finding = item.stash.get(VERDICT, None)
        return {"modeltiers": without_plots(finding)} if finding and call.when == "call" else {}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Notes that something could not be collected."""
        self.incomplete = self.incomplete or report.failed

    def pytest_sessionfinish(self) -> None:
        """Writes the reports, before anything is printed that a closed pipe could cut off."""
        if self.controls:
            self.reports = {path: self.health_report(path) for path in self.configs if self._of(path)}
        if self.controls and not self.incomplete:
            self.written = list(self._write_files())

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Prints a table a tier, worst first, and tells CI."""
        if not self.controls or not self.results:
            return
        from pytest_modeltiers.terminal import print_summary, put_back

        for path, report in self.reports.items():
            limits = limits_found(self.config, path)
            print_summary(terminalreporter, self.name_of(path), self._of(path), report, limits)
        put_back(self, terminalreporter)
        for file in self.written:
            terminalreporter.write_line(f"report: {file}")
        for path, report in self.reports.items():
            if report.comparison is not None:
                of = f" of {path.name}" if len(self.configs) > 1 else ""
                print_wrapped(terminalreporter, f"since the last run{of}: ", report.comparison.headline, hanging="  ")
        for script in self.scripts:
            terminalreporter.write_line(f"shows it without this package: python {script}")
        if terminalreporter.verbosity == 0 and not is_ci():
            self._say_what_is_next(terminalreporter)
        for line in self.logged:
            terminalreporter.write_line(line)
        if os.environ.get("GITHUB_ACTIONS") == "true":
            for path, report in self.reports.items():
                self.annotations += [annotation(cause, path, *self._roots) for cause in report.causes]

    def _say_what_is_next(self, terminal: pytest.TerminalReporter) -> None:
        if any(report.get_failed_checks() for report in self.reports.values()):
            steps = ["--lf runs again what failed"] if self.config.pluginmanager.has_plugin("lfplugin") else []
            skipped = sum(result.status is Status.SKIPPED for result in self.results.values())
            steps += [f"-v names what held{' and why the rest was skipped' if skipped else ''}"]
            steps += [] if self.config.getoption("model_report") else ["--model-report DIR writes a page"]
            print_wrapped(terminal, "next: ", ", ".join(steps))
        elif all(report.model_facts.get("model", "").startswith("embedded ") for report in self.reports.values()):
            terminal.write_line("next: modeltiers check model.py judges a model of yours")
        elif not self.config.getoption("model_report"):
            terminal.write_line("next: --model-report DIR writes a page with every measurement")

    @property
    def _roots(self) -> tuple[Path, ...]:
        """Folders that files are named from, for those who read the report elsewhere: the repository in CI, and the root of the tests."""
        named = os.environ.get("GITHUB_WORKSPACE") if os.environ.get("GITHUB_ACTIONS") == "true" else None
        return (*([Path(named)] if named else []), self.config.rootpath, self.config.invocation_params.dir)

    def name_of(self, path: Path) -> str:
        """What a config is called: by its file, or by that of the model it was written for."""
        shown = self.config.stash[SHOWN_AS].get(path)
        return path.name if shown is None else shown.rpartition("/")[2]

    @staticmethod
    def is_own(item: pytest.Item) -> bool:
        """Whether a test is one of a suite, rather than a user's own."""
        return isinstance(getattr(getattr(item, "cls", None), "suite", None), Suite)

    def tells(self, report: pytest.TestReport) -> bool:
        """Whether the summary tells all there is to say about a failure, so that pytest need not show it."""
        return report.nodeid in self.results and isinstance(report.longrepr, str)

    def causes_by_test(self) -> dict[str, str]:
        """The name of the check under which the bug of each red test is shown, by the test's node id."""
        found = {}
        for report in self.reports.values():
            for cause in report.causes:
                for check in (cause.owner, *cause.also):
                    found[str(check.details.get("nodeid"))] = label_of(cause.owner)
        return found

    def lines_by_test(self) -> dict[str, tuple[str, int]]:
        """File and line of what each red test found, by the test's node id."""
        red = [check for report in self.reports.values() for check in report.checks if check.excerpt is not None]
        return {
            str(check.details.get("nodeid")): (check.excerpt.relative_to(*self._roots) or check.excerpt.file, check.excerpt.line)
            for check in red
            if check.excerpt is not None
        }

    def health_report(self, path: Path) -> ExportHealthReport:
        """The health report of one config file."""
        suite = Suite.of(path)
        report = ExportHealthReport(visible(suite.config.run_name or suite.config.task_name or suite.config.name))
        results = self._of(path)
        for result in results:
            if result.status is Status.SKIPPED:
                report.skipped.append(SkippedCheck(check_name(result), result.message, result.tier))
            else:
                report.add_check(to_check(result))
            evidence = result.evidence
            if evidence is not None and "layers" in evidence.details and evidence.name == "gradient_flow":
                report.layers = evidence.details["layers"]
        if not self.config.getoption("keyword"):
            judged = {(result.tier, result.label) for result in results}
            report.skipped += [
                SkippedCheck(f"tier{tier}::{name}", reason, tier)
                for tier in sorted({result.tier for result in results} & set(suite.config.tiers))
                for name, reason in suite.left_out(tier).items()
                if not any(label.partition("[")[0] == name or label == name for _, label in judged)
            ]
        report.model_facts = _model_facts(suite, report, results) | self._isolation_facts(path)
        report.coverage = _coverage(suite, results)
        report.is_selection = _ran(results) < len(suite.tests_of()) or bool(_late(results))
        return report

    def _isolation_facts(self, path: Path) -> dict[str, str]:
        """What the report says of isolation; nothing where there was none."""
        isolation = self.config.pluginmanager.get_plugin("modeltiers_isolation")
        return {} if isolation is None else isolation.facts(Suite.of(path).config.path)

    def _of(self, path: Path) -> list[Result]:
        found = [result for result in self.results.values() if result.config == str(path.resolve())]
        # Workers finish in any order; the report must not depend on it.
        order = {name: index for index, name in enumerate(CATALOGUE)}
        return sorted(found, key=lambda r: (r.tier, order.get(r.label.partition("[")[0], len(order)), r.nodeid))

    def _write_files(self) -> Iterator[Path]:
        folder = self.config.getoption("model_report")
        file = self.config.getoption("modeltiers_json")
        summary = os.environ.get("GITHUB_STEP_SUMMARY")
        for path, report in self.reports.items():
            loggers = Suite.of(path).config.log_to
            if folder or file or summary or loggers:
                self._say_where_it_ran(path, report)
            if folder:
                target = Path(folder) if len(self.configs) == 1 else Path(folder) / _folder_name(path, self.configs)
                try:
                    remember(target, report)
                    write_badge(target, report)
                    report.save_json(target / REPORT)
                    report.save_markdown(target / "health_report.md")
                    self.scripts += report.save_scripts(target)
                    yield report.save_html(target / "health_report.html")
                except OSError as error:
                    raise pytest.UsageError(f"--model-report: cannot write into {target}: {error.strerror}") from None
            if file and path == self.configs[0]:
                report.save_json(file)
            if summary:
                append_summary(Path(summary), report)
            files = [target / REPORT, target / "health_report.html"] if folder else []
            self.logged += [_logged(name, report, files) for name in loggers]
        if sarif := self.config.getoption("model_sarif"):
            log = to_sarif(self.reports, __version__, *self._roots)
            try:
                yield write_whole(Path(sarif), json.dumps(log, indent=2) + "\n")
            except OSError as error:
                raise pytest.UsageError(f"--model-sarif: cannot write {sarif}: {error.strerror}") from None

    def _say_where_it_ran(self, path: Path, report: ExportHealthReport) -> None:
        """Adds the environment and the config to a report that is kept."""
        config = Suite.of(path).config
        folder = config.path.parent
        report.environment = surroundings((folder / (config.model_file or "")).parent if config.model_file else folder) | {
            "device": config.device,
            "seed": config.seed,
            "workers": self.config.getoption("numprocesses", None) or 1,
            "seconds": round(time.time() - self.started, 1),
        }
        report.config = _relative_to(folder, without_secrets(config))

    def _about_crashed(self, report: pytest.TestReport) -> dict[str, Any] | None:
        """What a report without a finding is about, when the worker died under one of our tests."""
        if _CRASHED not in str(report.longrepr):
            return None
        shown = report.nodeid.partition("::")[0]
        named = next((path for path, name in self.config.stash[SHOWN_AS].items() if name == shown), None)
        file = (named or self.config.rootpath / shown).resolve()
        mine = next((path for path in self.configs if path.resolve() == file), None)
        return None if mine is None else {"config": str(file), "tier": tier_in(report.nodeid), "finding": {}, "crashed": True}


def _logged(name: str, report: ExportHealthReport, files: list[Path]) -> str:
    """Logs a report; what to say of it. A logger that fails takes nothing away from the run."""
    from harness.health.history import log_report

    try:
        return f"logged to {log_report(name, report, files)}"
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        return f"not logged to {name}: {type(error).__name__}: {first}"


def _relative_to(folder: Path, value: Any) -> Any:
    """A config whose paths do not tell where the folder is."""
    if isinstance(value, dict):
        return {key: _relative_to(folder, inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_relative_to(folder, inner) for inner in value]
    if isinstance(value, str) and value.startswith(f"..{os.sep}"):  # of a config that was written elsewhere
        return os.path.relpath(folder / value)
    return value.replace(f"{folder}{os.sep}", "") if isinstance(value, str) else value


def _model_facts(suite: Suite, report: ExportHealthReport, results: list[Result]) -> dict[str, str]:
    facts = {"config": visible(suite.config.path.name), "task": suite.task.title}
    if not suite.config.isolation:  # the isolated process says it
        with suppress(UserError):
            facts["model"] = visible(suite.source.origin)
    if report.layers:
        total = sum(layer["count"] for layer in report.layers)
        trainable = sum(layer["count"] for layer in report.layers if layer["trainable"])
        facts["parameters"] = f"{total:,}" + (f" ({trainable:,} trainable)" if trainable != total else "")
    if blocks := asked_of_some_blocks(results):
        facts["asked of some blocks only"] = blocks
    return facts


def _coverage(suite: Suite, results: list[Result]) -> str:
    """A sentence on what did not run, empty when everything did."""
    ran, expected = _ran(results), len(suite.tests_of())
    parts = []
    if ran < expected:
        parts.append(f"Only {ran} of the suite's {expected} tests ran, so there is no grade.")
    seconds = max([suite.budget.seconds, *(result.budget for result in results)])  # a worker's has grown with its model
    budget, late = f"The time budget of {seconds:g} s", _late(results)
    cut = [r.label for r in results if r.finding.get("cut")]
    if cut:
        parts.append(f"{budget} ended the search early in {', '.join(cut)}.")
    if late:
        parts.append(f"{budget} was spent before {len(late)} tests began: {', '.join(late)}.")
    return " ".join(parts)


def _asserted(call: pytest.CallInfo[None]) -> bool:
    """Whether an assertion of the user's ended the test."""
    return call.excinfo is not None and call.excinfo.errisinstance(AssertionError)


def _late(results: list[Result]) -> list[str]:
    """The tests that were not begun, as the time budget was spent."""
    return [result.label for result in results if result.status is Status.SKIPPED and result.message.startswith(SPENT)]


def _ran(results: list[Result]) -> int:
    """How many tests of the catalogue ran."""
    return sum(label.partition("[")[0] in CATALOGUE for _, label in {(r.tier, r.label) for r in results})


def _folder_name(path: Path, configs: list[Path]) -> str:
    """A name for the report's folder that no other config of the run has."""
    for name in (path.stem, path.name.replace(".", "-"), f"{path.parent.name}-{path.name.replace('.', '-')}"):
        if sum(name in (p.stem, p.name.replace(".", "-"), f"{p.parent.name}-{p.name.replace('.', '-')}") for p in configs) == 1:
            return name
    return f"{configs.index(path)}-{path.stem}"

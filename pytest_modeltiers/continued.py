"""A run continued in a new process: what it writes down for the next one, and what it repeats from the one before."""

from __future__ import annotations

import faulthandler
import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.config import load_config
from harness.errors import ModelSourceError
from harness.evidence import Evidence
from harness.excerpts import Excerpt
from harness.processes import end_in_words
from pytest_modeltiers.crashes import DEATHS, SUPERVISED, Death, Journal, use_timer
from pytest_modeltiers.results import junit_properties, tier_in, visible_report


def begin(config: pytest.Config) -> None:
    """Has what ends this process be known afterwards, where somebody would know what to do with it."""
    journal = config.stash.get(SUPERVISED, None)
    if journal is not None:
        use_timer(journal.faults)
        config.pluginmanager.register(Continued(config, journal), "modeltiers_continued")
    elif hasattr(config, "workerinput"):
        use_timer(os.dup(2))  # the main process tells whose worker ended


class Continued:
    """In the child: writes the journal, and repeats what stands there already."""

    def __init__(self, config: pytest.Config, journal: Journal) -> None:
        self._config, self._journal = config, journal
        self._repeats = False
        if journal.deaths:
            sys.stdout.write("\n")  # the line in which the other process was

    def pytest_report_header(self) -> list[str]:
        """Says that there was another process."""
        return [
            f"modeltiers: continues in a new process: {death.test or death.config} ended the one before it"
            for death in self._journal.deaths[-1:]
        ]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self) -> None:
        """Has the traceback of a crash written where the next process finds it; pytest's own would be on a screen that is redrawn."""
        faulthandler.enable(file=self._journal.faults)

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self) -> Iterator[None]:
        """Notes that all reports are written."""
        yield
        self._journal.write(finished=True)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Notes which test begins."""
        if not self._repeats:
            self._journal.write(begins=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keeps a report for the next process."""
        if not self._repeats:
            data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
            self._journal.write(report=data, of=report.nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Notes that a test has ended."""
        if not self._repeats:
            self._journal.write(ends=nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Repeats what is known of a test instead of running it."""
        reports = list(self._known(item))
        if not reports:
            return None
        self._repeats = True
        try:
            item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            for report in reports:
                item.ihook.pytest_runtest_logreport(report=report)
            item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        finally:
            self._repeats = False
        return True

    def _known(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        if (written := self._journal.reports.get(item.nodeid)) is not None:
            for data in written:
                yield self._config.hook.pytest_report_from_serializable(config=self._config, data=_with_tuples(data))
        elif death := next((death for death in self._journal.deaths if death.test == item.nodeid), None):
            yield _failed(item, death)
        elif reason := self._reason_not_to_try(item):
            yield _skipped(item, reason)

    def _reason_not_to_try(self, item: pytest.Item) -> str:
        deaths = self._journal.deaths
        if len(deaths) >= DEATHS:
            return f"not tried: tests before it ended the process {len(deaths)} times"
        file = item.nodeid.partition("::")[0]
        hung = next((death.test for death in deaths if death.hung and death.test.partition("::")[0] == file), "")
        return f"not tried: the model did not answer in {hung.rpartition('::')[2]}" if hung and _config_of(item) else ""


@contextmanager
def building(config: pytest.Config, path: Path) -> Iterator[None]:
    """Notes whose model is built in the block.

    Args:
        config: pytest's.
        path: The config of the model.

    Raises:
        ModelSourceError: A process before this one died of it.
    """
    journal = config.stash.get(SUPERVISED, None)
    if journal is None:
        yield
        return
    if death := next((death for death in journal.deaths if not death.test and death.config == str(path)), None):
        raise ModelSourceError(f"the model cannot be built: {death_in_words(death, path)}")
    journal.write(builds=str(path))
    try:
        yield
    finally:
        journal.write(builds="")


def death_in_words(death: Death, path: Path | None = None) -> str:
    """How a process ended, and at which line.

    Args:
        death: Its end.
        path: The config, which says how long a model may take to answer.
    """
    if death.reason:
        return death.reason
    place = place_of(death)
    at = f", in {place[2]} ({place[0]}, line {place[1]})" if place is not None else ""
    if death.hung:
        budget = f" within the `time_budget` of {load_config(path).time_budget:g} s" if path is not None else ""
        return f"the model did not answer{budget}, in native code that nothing can stop{at}"
    return f"the process {end_in_words(death.status)}{at}"


def place_of(death: Death) -> tuple[str, int, str] | None:
    """File, line and function of the user's code that was running: the innermost forward, or the innermost call."""
    from harness.user_code import is_written_here

    own = [frame for frame in death.frames if is_written_here(frame[0])]
    return next((frame for frame in own if frame[2] == "forward"), own[0] if own else None)


def calls_of(death: Death) -> str:
    """The calls from the model's on, the innermost first."""
    from harness.user_code import is_ours

    inner = itertools.takewhile(lambda frame: not is_ours(frame[0]), death.frames)
    return "".join(f"{file}:{line}: in {name}\n" for file, line, name in inner)


def _failed(item: pytest.Item, death: Death) -> pytest.TestReport:
    """The report of a test in which the process died."""
    path = _config_of(item)
    said = death_in_words(death, path)
    report = pytest.TestReport(item.nodeid, item.location, dict.fromkeys(item.keywords, 1), "failed", said, "call")
    told = {"stdout": death.printed[0], "stderr": death.printed[1], "calls, innermost first,": calls_of(death)}
    report.sections = [(f"Captured {name} call", text) for name, text in told.items() if text.strip()]
    if path is not None:
        name, place = item.name.removeprefix("test_"), place_of(death)
        evidence = Evidence.failed(
            name.partition("[")[0],
            said,
            code="not_measured" if death.hung else "process_crashes",
            excerpt=Excerpt.of(place[0], place[1]) if place is not None else None,
        )
        finding = {"property": name, "evidence": evidence.to_json()}
        report.modeltiers = {"config": str(path), "tier": tier_in(item.nodeid), "finding": finding}  # type: ignore[attr-defined]
        report.user_properties = junit_properties(report, finding)
    return visible_report(report)


def _skipped(item: pytest.Item, reason: str) -> pytest.TestReport:
    longrepr = (str(item.path), 1, f"Skipped: {reason}")
    report = pytest.TestReport(item.nodeid, item.location, dict.fromkeys(item.keywords, 1), "skipped", longrepr, "call")
    if (path := _config_of(item)) is not None:
        report.modeltiers = {"config": str(path), "tier": tier_in(item.nodeid), "finding": {}}  # type: ignore[attr-defined]
        report.user_properties = junit_properties(report, {})
    return report


def _config_of(item: pytest.Item) -> Path | None:
    """The config of a generated test."""
    suite: Any = getattr(getattr(item, "cls", None), "suite", None)
    return suite.config.path if type(suite).__module__ == "pytest_modeltiers.suite" else None


def _with_tuples(data: dict[str, Any]) -> dict[str, Any]:
    """A report as it was before it became JSON, which has no tuples."""
    pairs = {name: [tuple(pair) for pair in data[name]] for name in ("sections", "user_properties")}
    is_skip = isinstance(data["longrepr"], list)
    return {
        **data,
        **pairs,
        "location": tuple(data["location"]),
        "longrepr": tuple(data["longrepr"]) if is_skip else data["longrepr"],
    }

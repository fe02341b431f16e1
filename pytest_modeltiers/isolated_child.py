"""The other side of ``isolated.py``: pytest in the isolated process, which runs the tests it is asked for."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_modeltiers.hooks import SELECTED
from pytest_modeltiers.isolated_messages import as_outcome

if TYPE_CHECKING:
    from harness.isolation import Channel
    from harness.isolation.sandbox import Attempt, Guard
    from pytest_modeltiers.suite import Suite


def serve(argument: dict[str, Any], channel: Channel, guard: Guard) -> None:
    """Runs the tests of a config that are asked for.

    Args:
        argument: ``config``, its path; ``update``, keys that are otherwise here; ``arguments`` of pytest.
        channel: Where tests are asked for, and reports are sent.
        guard: What refuses.
    """
    plugin = _Server(Path(argument["config"]), argument["update"], channel, guard)
    pytest.main(["--model-config", argument["config"], *argument["arguments"]], plugins=[plugin])
    if not plugin.has_answered:
        channel.send({"error": "; ".join(plugin.problems) or "pytest collected nothing"})


class _Server:
    """Takes the place of pytest's loop over the tests."""

    def __init__(self, path: Path, update: dict[str, Any], channel: Channel, guard: Guard) -> None:
        self.path = path
        self.update = update
        self.channel = channel
        self.guard = guard
        self.problems: list[str] = []
        self.has_answered = False
        self._reports: list[dict[str, Any]] = []
        self._seen: list[Attempt] = []
        self._needed: list[Attempt] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> None:
        """Puts in place what only the other side could find out, before the model is built."""
        session.config.stash[SELECTED] = frozenset()  # the other side selects
        suite = self._suite()
        export = suite.config.export and suite.config.export.model_copy(
            update={"export_dir": None}
        )  # goes into the cache, which is ours
        suite.config = suite.config.model_copy(update=self.update | {"export": export})

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keeps what kept the tests from being collected."""
        if report.failed:
            self.problems.append(report.longreprtext.strip())

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Answers until nobody asks any more."""
        if self.problems:
            return True
        tests = {item.nodeid.partition("::")[2]: item for item in session.items}
        self.has_answered = True
        self.channel.send({"refused": self._refused(), "model": self._suite().source.origin})
        while True:
            try:
                asked = self.channel.receive()
            except EOFError:
                return True
            self._reports, self._seen = [], []
            wanted = str(asked["test"])
            session.config.stash[SELECTED] = frozenset(asked["selected"])
            if wanted in tests:
                tests[wanted].config.hook.pytest_runtest_protocol(item=tests[wanted], nextitem=None)
            self.channel.send({"test": wanted, "outcomes": self._reports})

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Adds what was refused; a check that needs what isolation refuses to everybody is skipped, as it says nothing of the model."""
        report = yield
        about = getattr(report, "modeltiers", None)
        if about is not None and report.when == "call":
            about["refused"] = self._refused()
            self._needed += [attempt for attempt in self._seen if not attempt.own]
            if report.failed and (needed := self._reason(report.longreprtext)):
                _skip(report, f"isolation refuses what this check needs: it {needed}")
        return report

    def _refused(self) -> list[str]:
        """What was refused to the model's own code since the test began."""
        self._seen += self.guard.taken()
        return [str(attempt) for attempt in self._seen if attempt.own]

    def _reason(self, failure: str) -> str:
        """What was refused to code that is not the model's, now or in a test before, where a failure quotes it; empty otherwise."""
        quoted = (attempt.what for attempt in self._needed if f"refused by isolation: the code {attempt.what}" in failure)
        return next(quoted, "")

    def _suite(self) -> Suite:
        from pytest_modeltiers.suite import Suite

        return Suite.of(self.path)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keeps a report for the other side."""
        self._reports.append(as_outcome(report))


def _skip(report: pytest.TestReport, reason: str) -> None:
    report.outcome = "skipped"
    report.longrepr = (str(report.location[0]), report.location[1] or 0, f"Skipped: {reason}")
    report.user_properties[:] = [("modeltiers_status", "skipped"), ("modeltiers_message", reason)]
    report.modeltiers["finding"] = {}  # type: ignore[attr-defined]

"""What a terminal or a notebook shows while one waits, and nothing elsewhere: logs, CI and ``-v`` see what pytest prints.

In a run of pytest that is, before the header, what is being done; then one line with how far the run is, how long it still takes and which test
runs, and each failure when it happens. ``plugin.py`` imports this file, so that it imports only the standard library and pytest.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from pytest_modeltiers.report import Reporter

_USUAL = 0.3
"""Seconds of most tests of a model with a million parameters; only their relation to each other and to those below counts."""

_LONGER = {
    "compiled": 5.0,
    "distributed": 8.0,
    "seeded_repeat": 3.0,
    "baseline_comparison": 4.0,
    "hyperparameter_sensitivity": 2.5,
    "exports": 2.5,
    "fresh_process": 2.5,
}
"""Seconds of the tests that take longer."""

_SURE = 2.0
"""Seconds after which the pace of the run says how long the rest takes."""


def is_ci() -> bool:
    """Whether a machine reads what is printed, as pytest sees it."""
    return any(os.environ.get(name) for name in ("CI", "BUILD_NUMBER"))


def may_redraw(config: pytest.Config) -> bool:
    """Whether lines may be replaced on the screen: in a terminal, unless pytest is to print every test, or what tests print, or to debug."""
    option = config.option
    return (
        not hasattr(config, "workerinput")
        and os.environ.get("TERM") not in ("dumb", "unknown")
        and not is_ci()
        and -2 < config.get_verbosity() <= 0
        and option.capture != "no"
        and not (option.usepdb or option.trace or option.collectonly)
    )


class StartLine:
    """One line on stderr with what is done before pytest's header can be printed; nothing where stderr is no terminal."""

    def __init__(self, config: pytest.Config) -> None:
        self._shown = may_redraw(config) and sys.stderr is not None and sys.stderr.isatty()

    def say(self, text: str) -> None:
        """Replaces the line."""
        if self._shown:
            room = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r{_cut(text, room):<{room}}")
            sys.stderr.flush()

    def close(self) -> None:
        """Takes the line away."""
        self.say("")
        if self._shown:
            sys.stderr.write("\r")
            sys.stderr.flush()


class LiveLine:
    """Takes the place of pytest's dots, where all tests of the run are ours."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._terminal: pytest.TerminalReporter | None = None
        self._left: dict[str, float] = {}
        self._total = self._failed = 0
        self._began = self._done = 0.0

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Begins, if every test is ours; the main process of pytest-xdist collects none."""
        if session.items and all(self._reporter.is_own(item) for item in session.items):
            self._begin([item.nodeid for item in session.items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Begins with what the workers of pytest-xdist collected, which is the same in each."""
        if self._terminal is None and ids and all("::TestTier" in nodeid for nodeid in ids):
            self._begin(ids)

    def _begin(self, ids: Sequence[str]) -> None:
        terminal = self._reporter.config.pluginmanager.get_plugin("terminalreporter")
        if terminal is None or not terminal.isatty():
            return
        self._terminal, self._began = terminal, monotonic()
        terminal.showfspath = False
        self._left = {nodeid: _LONGER.get(_property(nodeid), _USUAL) for nodeid in ids}
        self._total = len(ids)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Shows which test begins."""
        if self._terminal is not None:
            self._show(nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self) -> Generator[None, tuple[str, str, object], tuple[str, str, object]]:
        """Keeps what a test is counted as, and has pytest print no letter for it."""
        status = yield
        return status if self._terminal is None or not status else (status[0], "", "")

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Prints a failure above the line."""
        if self._terminal is None:
            return
        if report.when == "teardown" or report.failed:
            self._done += self._left.pop(report.nodeid, 0.0)
        result = self._reporter.results.get(report.nodeid)
        if report.failed and result is not None:
            from pytest_modeltiers.terminal import print_headline

            self._failed += 1
            self._clear()
            print_headline(self._terminal, result)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Takes the line away."""
        if self._terminal is not None:
            self._clear()
            self._terminal = None

    def _show(self, nodeid: str) -> None:
        done = self._total - len(self._left)
        facts = [f"{done} of {self._total} tests", f"{self._failed} failed" if self._failed else "", self._time_left()]
        told = " · ".join(filter(None, facts))
        room = shutil.get_terminal_size().columns - 2
        label = nodeid.rpartition("::")[2].removeprefix("test_")
        assert self._terminal is not None
        self._terminal.rewrite(_cut(f"{told} · {label}", room), erase=True)
        self._terminal.flush()

    def _clear(self) -> None:
        assert self._terminal is not None
        self._terminal.rewrite("", erase=True)
        self._terminal.write("\r")

    def _time_left(self) -> str:
        """How long the rest takes at the pace of what is done; empty before that is known."""
        passed = monotonic() - self._began
        if passed < _SURE or not self._done or not self._left:
            return ""
        seconds = passed / self._done * sum(self._left.values())
        if seconds < 10:
            return "a few seconds left"
        return f"about {round(seconds, -1):.0f} s left" if seconds < 95 else f"about {seconds / 60:.0f} min left"


class Told(Protocol):
    """Is told how far a judging is."""

    def __call__(self, done: int, label: str) -> None:
        """So many tests are done, and this one is next."""


@contextmanager
def shown_progress(total: int, wanted: bool | None) -> Iterator[Told]:
    """Shows how far a judging is: a bar in a notebook, or on a terminal; elsewhere nothing.

    Args:
        total: How many tests there are.
        wanted: Whether to show it; ``None`` for where somebody watches.
    """
    shell = sys.modules.get("IPython")
    if wanted is not False and shell is not None and hasattr(shell.get_ipython(), "kernel"):
        yield from _in_notebook(total)
    elif wanted or (wanted is None and sys.stderr.isatty()):
        yield from _on_terminal(total)
    else:
        yield lambda done, label: None


def _on_terminal(total: int) -> Iterator[Told]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("judging"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)

        def tell(done: int, label: str) -> None:
            bar.update(task, completed=done, description=escape(label))

        yield tell


def _in_notebook(total: int) -> Iterator[Told]:
    from IPython.display import HTML, display  # type: ignore[import-not-found, unused-ignore]

    def shown(done: int, label: str) -> Any:
        words = f"{done} of {total} {escape(label)}"
        return HTML(f'<progress value="{done}" max="{total}" aria-label="tests that are done"></progress> <code>{words}</code>')

    handle = display(shown(0, ""), display_id=True)
    try:
        yield lambda done, label: handle.update(shown(done, label))
    finally:
        handle.update(HTML(""))


def _property(nodeid: str) -> str:
    return nodeid.rpartition("::")[2].removeprefix("test_").partition("[")[0]


def _cut(text: str, room: int) -> str:
    """A text that fits into a line."""
    return text if len(text) <= room else f"{text[: max(0, room - 1)]}…"

"""Configs with ``isolation``: their tests run in a sandboxed process, and their reports come back as an xdist worker's do.

This side collects the tests, whose names follow only from the config, and asks the other side for one after another. The model is
never built here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import pytest

from harness.errors import IsolationError
from harness.evidence import Status
from harness.health import ExportHealthReport
from harness.health.markdown import to_markdown
from harness.health.page import to_html
from harness.isolation.process import IsolatedProcess
from harness.isolation.sandbox import Limits
from harness.wording import visible
from pytest_modeltiers.hooks import CONFIGS
from pytest_modeltiers.isolated_child import Answer, NonsenseError, Outcome, read_answer, read_started
from pytest_modeltiers.results import figures_of, junit_properties, read_result, to_check, visible_report
from pytest_modeltiers.time_budget import CLOCK_FACTOR

if TYPE_CHECKING:
    from harness.config import SuiteConfig
    from pytest_modeltiers.suite import Suite

_GRACE = 60.0
"""Seconds beyond its time budget that a test is waited for: its own watchdog is to end it first."""

_DEATHS = 3
"""Deaths of the process after which the rest of a suite is not tried any more."""

_MORE_CPU = 20

_EXPORT = 4
"""The tier that exports."""

_NAME = "modeltiers_isolation"

_PRELOADED = tuple(f"pytest_modeltiers.{name}" for name in ("fixtures", "verdicts", "fixes"))
"""Imported over there before anything is refused, and counted as no test's time."""


class Isolation:
    """Runs the tests of isolated suites elsewhere."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self._running: dict[Path, _Elsewhere] = {}
        self._facts: dict[Path, dict[str, Any]] = {}

    @staticmethod
    def of(config: pytest.Config) -> Isolation:
        """The plugin of a run, registered when it is first asked for."""
        found: Isolation | None = config.pluginmanager.get_plugin(_NAME)
        if found is None:
            found = Isolation(config)
            config.pluginmanager.register(found, _NAME)
        return found

    def start(self, suite: Suite) -> None:
        """Starts a suite's process, which builds the model and calls it once.

        Raises:
            UserError: What keeps the model from being built or called.
        """
        if suite.config.path not in self._running:
            self._running[suite.config.path] = _Elsewhere(suite, self.config)

    def pytest_report_header(self) -> list[str]:
        """Says which code of the project pytest runs outside of isolation."""
        outside = dict.fromkeys(file for path in self.config.stash[CONFIGS] for file in _outside(path, self.config))
        return [
            f"modeltiers: {visible(str(file))} runs in this process, outside of isolation, with your rights (--noconftest leaves it out)"
            for file in outside
        ]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Has a test of an isolated suite run elsewhere."""
        suite = getattr(getattr(item, "cls", None), "suite", None)
        config = getattr(suite, "config", None)
        if suite is None or config is None or not getattr(config, "isolation", None):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports(suite, item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remembers what isolation was like and what it refused, also in the workers."""
        about = getattr(report, "modeltiers", {})
        if "layers" in about:
            facts = self._facts.setdefault(
                Path(about["config"]), {"layers": about["layers"], "model": about["model"], "refused": [], "exports": False}
            )
            facts["exports"] |= about["tier"] == _EXPORT
            facts["refused"] += [attempt for attempt in about["refused"] if attempt not in facts["refused"]]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Says what the model's code tried."""
        for path in self._facts:
            terminalreporter.write_line(f"{visible(path.name)}: {self.facts(path)['isolation']}")

    def facts(self, path: Path) -> dict[str, str]:
        """What the report says of a config's model and of its isolation."""
        found = self._facts.get(path)
        if found is None:
            return {}
        refused = f"refused {'; '.join(found['refused'])}" if found["refused"] else "nothing was refused"
        kept = "; what it exported was removed with its folder" if found["exports"] else ""
        return {"model": found["model"], "isolation": f"in a process under {', '.join(found['layers'])}; {refused}{kept}"}

    def pytest_unconfigure(self) -> None:
        """Ends the processes."""
        for elsewhere in self._running.values():
            elsewhere.close()

    def _reports(self, suite: Suite, item: pytest.Item) -> Iterator[pytest.TestReport]:
        try:
            self.start(suite)
            yield from self._running[suite.config.path].run(item)
        except Exception as error:  # what the other side sends is not to be relied on
            yield self._without_answer(suite, item, error)

    def _without_answer(self, suite: Suite, item: pytest.Item, error: Exception) -> pytest.TestReport:
        """The report of a test that has none: failed, or skipped where it was not even tried."""
        problem, was_tried = visible(str(error) or type(error).__name__), not isinstance(error, _NotTriedError)
        report = pytest.TestReport(
            item.nodeid,
            item.location,
            dict.fromkeys(item.keywords, 1),
            "failed" if was_tried else "skipped",
            problem if was_tried else (str(item.path), 0, f"Skipped: {problem}"),
            "call",
        )
        elsewhere = self._running.get(suite.config.path)
        report.modeltiers = _about(suite, item) if elsewhere is None else elsewhere.about(item)  # type: ignore[attr-defined]
        return report


def _outside(path: Path, config: pytest.Config) -> Iterator[Path]:
    """The ``conftest.py`` files that pytest runs here for an isolated config: beside it, and above it up to the root folder."""
    from pytest_modeltiers.suite import Suite

    if config.getoption("noconftest") or not Suite.of(path).config.isolation:
        return
    for folder in path.resolve().parents:
        file = folder / "conftest.py"
        if file.is_file():
            yield Path(os.path.relpath(file, config.invocation_params.dir))
        if folder == config.rootpath.resolve():
            return


class _NotTriedError(IsolationError):
    """A test was not tried, as others ended their process again and again."""


class _Elsewhere:
    """One suite's process."""

    def __init__(self, suite: Suite, config: pytest.Config) -> None:
        self.suite = suite
        self.config = config
        self._resolved = _resolved(suite.config)
        self._deaths = 0
        self._is_over = ""
        self._at_start: list[str] = []
        self._model = ""
        self._process = self._start()

    def run(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        """A test's reports.

        Raises:
            IsolationError: The process died, or did not answer in time.
        """
        if self._is_over:
            raise _NotTriedError(self._is_over)
        if not self._process.is_alive:
            if self._deaths >= _DEATHS:
                raise _NotTriedError(f"not tried: tests before it ended the isolated process {self._deaths} times")
            self._process.close()
            self._process = self._start()
        try:
            wanted = {"test": _short(item), "selected": self._selected(item)}
            sent = self._process.ask(wanted, CLOCK_FACTOR * self.suite.config.time_budget + _GRACE)
            reports = reports_of(read_answer(sent, _short(item)), item, lambda refused: self.about(item, refused))
        except NonsenseError as error:
            # Code of this project sends no such thing: what comes next is not to be believed either.
            self._process.kill()
            self._is_over = f"not tried: {error}"
            raise
        except IsolationError:
            self._deaths += 1
            raise
        yield from reports

    def _selected(self, item: pytest.Item) -> list[str]:
        """The tests of this suite that run; the other side collects all of them."""
        own = [other for other in item.session.items if getattr(getattr(other, "cls", None), "suite", None) is self.suite]
        return [other.name.removeprefix("test_") for other in own]

    def about(self, item: pytest.Item, refused: Sequence[str] = ()) -> dict[str, Any]:
        """What a report of this process says of itself."""
        facts = {"layers": self._process.layers, "model": self._model, "refused": [*self._at_start, *refused]}
        return _about(self.suite, item) | facts

    def close(self) -> None:
        """Ends the process."""
        self._process.close()

    def _start(self) -> IsolatedProcess:
        from harness.catalogue import modules_of

        config = self.suite.config
        argument = {
            "config": os.path.abspath(config.path),
            "update": self._resolved,
            "arguments": _arguments(self.config),
        }
        process = IsolatedProcess(
            "pytest_modeltiers.isolated_child:serve",
            argument,
            own=[config.path.parent, *_gist_folder(config, self._resolved)],
            reads=[*_project(self.config, config), *_caches()],
            preload=["torch", "numpy", "pytest", "hypothesis", *_PRELOADED, *modules_of(1)],
            limits=Limits(cpu_seconds=600 + int(_MORE_CPU * config.time_budget)),
            environment=_places(),
        )
        try:
            started = read_started(process.receive(CLOCK_FACTOR * config.time_budget + _GRACE))
            if started.error:
                raise IsolationError(visible(started.error))
        except IsolationError:
            process.close()
            raise
        self._at_start, self._model = [visible(attempt) for attempt in started.refused], visible(started.model)
        return process


def reports_of(answer: Answer, item: pytest.Item, about: Callable[[Sequence[str]], dict[str, Any]]) -> list[pytest.TestReport]:
    """The reports of a test as this side would have made them.

    Args:
        answer: What the other side says of it.
        item: The test.
        about: What a report says of itself, with what was refused meanwhile.

    Raises:
        NonsenseError: They cannot be shown.
    """
    properties: list[tuple[str, Any]] = []
    reports = []
    for outcome in answer.outcomes:
        longrepr = _longrepr(outcome, item)
        keywords: dict[str, Literal[1]] = dict.fromkeys(item.keywords, 1)
        report = pytest.TestReport(item.nodeid, item.location, keywords, outcome.outcome, longrepr, outcome.when)
        report.duration = outcome.duration
        report.sections = [(heading, content) for heading, content in outcome.sections]
        report.modeltiers = about(outcome.refused) | {"finding": outcome.finding}  # type: ignore[attr-defined]
        if outcome.when == "call" or outcome.outcome != "passed":
            properties += junit_properties(report, outcome.finding)
        # Of all: junitxml reads those of the last.
        properties += [(str(name), value) for name, value in outcome.properties if (name, value) not in properties]
        report.user_properties = list(properties)
        reports.append(visible_report(report))
    _try_to_show(reports)
    return reports


class _Raised:
    """An exception of the other side: its text, and what it said."""

    def __init__(self, text: str, headline: str) -> None:
        self.text = text
        self.reprcrash = SimpleNamespace(message=headline)

    def toterminal(self, terminal: Any) -> None:
        """As pytest has its own exceptions written."""
        terminal.line(self.text)

    def __str__(self) -> str:
        return self.text


def _longrepr(outcome: Outcome, item: pytest.Item) -> Any:
    if outcome.outcome == "passed":
        return None
    if outcome.outcome == "skipped":
        return (str(item.path), 1, visible(outcome.said))
    said = visible(outcome.said, lines=True)
    return _Raised(said, visible(outcome.headline, lines=True)) if outcome.headline else said


def _try_to_show(reports: Sequence[pytest.TestReport]) -> None:
    """Reads and writes what was sent as the report of the run will.

    Raises:
        NonsenseError: That fails.
    """
    trial = ExportHealthReport("trial")
    try:
        for report in reports:
            result = read_result(report, report.modeltiers)  # type: ignore[attr-defined]
            if result.status is Status.SKIPPED:
                continue
            list(figures_of([result]))
            _ = result.evidence and result.evidence.explain()
            trial.add_check(to_check(result))
            details = result.evidence.details if result.evidence else {}
            trial.layers = details.get("layers") or [] if result.finding.get("property") == "gradient_flow" else []
            to_markdown(trial)
            trial.to_json()
            if trial.layers or details.get("plots"):
                to_html(trial)
    except Exception as error:  # whatever a stranger's values do
        raise NonsenseError(f"the isolated process answered nonsense ({type(error).__name__} when it is shown)") from None


def _resolved(config: SuiteConfig) -> dict[str, Any]:
    """Keys of the config as they hold on the other side, where there is no network: a gist is fetched and admitted here."""
    update: dict[str, Any] = {"isolation": None, "trust_model": True}  # the sandbox refuses, and the report says what
    if config.gist_id:
        from harness.gists import admit
        from harness.gists.cache import open_gist

        gist = open_gist(config.gist_id, config.gist_revision)
        admit(gist, config.gist_sha256)
        update |= {"gist_revision": gist.revision, "gist_sha256": gist.sha256}
    return update


def _gist_folder(config: SuiteConfig, resolved: dict[str, Any]) -> list[Path]:
    if not config.gist_id:
        return []
    from harness.gists.cache import open_gist

    folder = open_gist(config.gist_id, resolved["gist_revision"]).folder
    return [] if folder is None else [folder]


def _project(config: pytest.Config, suite: SuiteConfig) -> Iterator[Path]:
    """What the tests read of the project: its files, without hidden ones, what pytest is configured by, and what the config names."""
    from harness.isolation.process import named_paths, visible_entries

    named = list(named_paths(suite.model_dump(), suite.path.parent))
    for folder in (config.rootpath, *(path.parent for path in named if path.suffix == ".py")):
        yield from visible_entries(folder)
    yield from (path for path in (suite.path, config.inipath, *named) if path is not None)


def _caches() -> list[Path]:
    """Downloaded models, data and gists, without the tokens that lie beside them."""
    from harness.gists import GistSettings

    gists, hub = GistSettings.from_environment(), Path(_places()["HF_HOME"])
    return [gists.cache, gists.consent.parent, *(hub / name for name in ("hub", "datasets", "modules", "evaluate", "metrics"))]


def _arguments(config: pytest.Config) -> list[str]:
    """The command line of the other side."""
    ini = [f"--rootdir={config.rootpath}", "-c", str(config.inipath or os.devnull), "-o", "addopts="]
    strict = ["--modeltiers-strict"] * bool(config.getoption("modeltiers_strict"))
    return [*ini, *strict, "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:faulthandler"]


def _places() -> dict[str, str]:
    """Where gists, consent and downloaded models lie, for a process whose home is elsewhere and that has no network."""
    from harness.gists import GistSettings

    gists, home = GistSettings.from_environment(), Path.home()
    return {
        "MODELTIERS_GIST_API": gists.base_url,
        "MODELTIERS_GISTS": str(gists.cache),
        "XDG_CONFIG_HOME": str(gists.consent.parents[1]),
        "HF_HOME": os.environ.get("HF_HOME") or str(home / ".cache" / "huggingface"),
        "HF_HUB_OFFLINE": "1",
    }


def _short(item: pytest.Item) -> str:
    """``TestTier1::test_causal``: the same for the config and for a file that takes its tests from it."""
    return item.nodeid.partition("::")[2]


def _about(suite: Suite, item: pytest.Item) -> dict[str, Any]:
    """What a report says of itself."""
    return {"config": str(suite.config.path), "tier": int(_short(item).removeprefix("TestTier")[:1]), "finding": {}}

"""What people and CI see of a run: the summary, the failures, and annotations on GitHub."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import textwrap
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.evidence import Status
from harness.export import shortened
from harness.export.store import default_folder
from harness.health import ExportHealthReport
from harness.health.checks import Cause, SkippedCheck, also_text, label_of
from harness.health.markdown import problems_text
from harness.wording import command_in_lines, counted, duration, visible
from pytest_modeltiers.crashes import token_of
from pytest_modeltiers.hooks import TIERS
from pytest_modeltiers.results import Result, asked_of_some_blocks, check_name, figures_of, most_calls, rerun_of

if TYPE_CHECKING:
    from pytest_modeltiers.report import Reporter


_MARKUP: dict[Status, dict[str, bool]] = {
    Status.FAIL: {"red": True, "bold": True},
    Status.WARN: {"yellow": True},
    Status.OK: {"green": True},
    Status.SKIPPED: {"light": True},
}
_WORDS = {Status.FAIL: "FAIL", Status.WARN: "WARN", Status.OK: "ok", Status.SKIPPED: "skip"}
_INDENT = " " * 7
_REASON = 160
"""Characters of a reason to skip a test; ``-v`` and the report have all of it."""

_SEE = re.compile(r"\(see (?P<owner>[^()]+)\)$")
"""How the reason of a test ends that is skipped because of what another one finds."""

_CACHE = str(default_folder())
"""Files in here are ours, and nobody looks for them unless asked to with ``-v``."""

_FALLBACK = (80, 24)
_NARROWEST = 40
_WITHOUT_DETAILS = ("no", "line")
"""Values of ``--tb`` with which a failure is one line."""


class FailuresSection:
    """Keeps the findings of the suite out of pytest's section FAILURES, as the summary below it tells each of them, once a bug."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self._stopped = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """On GitHub, has what tests print with ``-s`` be no commands to the runner either."""
        terminal = self.reporter.config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None and self.reporter.controls and self.reporter.config.option.capture == "no":
            self._stop_commands(terminal)

    def _stop_commands(self, terminal: pytest.TerminalReporter) -> None:
        """Has the runner take no line for a command, until the token is said again, which a model cannot know."""
        if os.environ.get("GITHUB_ACTIONS") == "true" and not self._stopped:
            self._stopped = token_of(self.reporter.config)
            terminal.ensure_newline()
            terminal.write_line(f"::stop-commands::{self._stopped}")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
        """Takes the reports away until the summary is printed; the short summary lists them again.

        On GitHub no line of all this is a command to the runner, whatever a model said or printed, until the annotations are written.
        """
        self._stop_commands(terminalreporter)
        failed = terminalreporter.stats.get("failed", [])
        self.reporter.set_aside = [report for report in failed if self.reporter.tells(report)]
        if self.reporter.set_aside:
            terminalreporter.stats["failed"] = [report for report in failed if report not in self.reporter.set_aside]
        try:
            yield
        finally:
            put_back(self.reporter, terminalreporter)
            for report in self.reporter.in_order:
                if isinstance(report.longrepr, _Told):
                    report.longrepr = report.longrepr.text
            if self._stopped:
                terminalreporter.ensure_newline()
                terminalreporter.write_line(f"::{self._stopped}::")
                for line in self.reporter.annotations:
                    terminalreporter.write_line(line)


class _Told:
    """The text of a finding that was printed above: the short summary is to name the test, and not to begin the message once more."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


def put_back(reporter: Reporter, terminal: pytest.TerminalReporter) -> None:
    """Gives pytest back the reports that were set aside, in the order of the run."""
    if reporter.set_aside:
        order = {id(report): number for number, report in enumerate(reporter.in_order)}
        failed = [*terminal.stats.get("failed", []), *reporter.set_aside]
        terminal.stats["failed"] = sorted(failed, key=lambda report: order.get(id(report), -1))
        for report in reporter.set_aside:
            report.longrepr = _Told(report.longreprtext)  # type: ignore[assignment]
        reporter.set_aside = []


def print_summary(
    terminal: pytest.TerminalReporter, name: str, results: list[Result], report: ExportHealthReport, limits: Sequence[str] = ()
) -> None:
    """Prints the results of one config: a line a tier, and below them what is wrong, so that it is what one sees first.

    What held, what was skipped, and the details of warnings are shown where nothing failed, or with ``-v``.

    Args:
        terminal: Where to.
        name: The config, as it is shown.
        results: Of its tests.
        report: What follows from them.
        limits: What was read off a model without a config, and is a limit of it.
    """
    has_failed = bool(report.get_failed_checks())
    colour = "red" if has_failed else "yellow" if report.summary["warnings"] or not report.checks else "green"
    terminal.write_sep("=", f"{report.model_name} ({visible(name)}): {title(report)}", bold=True, **{colour: True})
    for limit in limits:
        print_wrapped(terminal, "note: ", f"{limit}; a bug, unless you mean it so", hanging="  ", yellow=True)
    by_name = {check_name(result): result for result in results}
    red = {check.check_name.partition("::")[2] for cause in report.causes for check in (cause.owner, *cause.also)}
    for tier in sorted({result.tier for result in results}):
        rows = [result for result in results if result.tier == tier]
        left_out = [check for check in report.skipped if check.tier == tier and check.check_name not in by_name]
        terminal.write_line(f"tier {tier} · {TIERS.get(tier, '')}: {_counts(rows, left_out)}", bold=True)
        if terminal.verbosity > 0:
            _print_rows(terminal, [*_of(rows, Status.OK), *_of(rows, Status.SKIPPED)])
            for check in left_out:
                _print_names(terminal, "none", [check.check_name.partition("::")[2]], check.reason)
        elif terminal.verbosity == 0 and not has_failed:
            _print_names(terminal, "ok", [row.label for row in _of(rows, Status.OK)])
            for reason, names in _by_reason(_of(rows, Status.SKIPPED)).items():
                if not _names_one_of(red, reason):
                    _print_names(terminal, "skip", names, shortened(reason, _REASON))
        for text in figures_of(rows):
            if terminal.verbosity > 0 or _CACHE not in text:
                print_wrapped(terminal, "  ", text)
        if terminal.verbosity > 0 and (text := most_calls(rows)):
            print_wrapped(terminal, "  ", text, hanging="    ", light=True)
    if report.coverage:
        print_wrapped(terminal, "", report.coverage, yellow=True)
    if blocks := asked_of_some_blocks(results):
        print_wrapped(terminal, "", f"Asked of some blocks only, most after two examples of all: {blocks}", light=True)
    for cause in sorted(report.causes, key=lambda cause: cause.status != "failed"):
        terminal.line("")
        result = by_name[cause.owner.check_name]
        if cause.status == "failed" or not has_failed or terminal.verbosity > 0:
            _print_cause(terminal, cause, result, by_name)
        else:
            print_headline(terminal, result)
    if report.causes:
        terminal.line("")


def _of(rows: Iterable[Result], status: Status) -> list[Result]:
    return [row for row in rows if row.status is status]


def _counts(rows: list[Result], left_out: Sequence[SkippedCheck]) -> str:
    """``39 ok, 1 fail, 10 skip, 4 not applicable``, and how long that took."""
    counts = [f"{number} {_WORDS[status]}".lower() for status in Status if (number := len(_of(rows, status)))]
    counts += [f"{len(left_out)} not applicable"] * bool(left_out)
    took = duration(sum(row.seconds for row in rows))
    return ", ".join(counts) + (f" ({took})" if took else "")


def _by_reason(rows: Iterable[Result]) -> dict[str, list[str]]:
    """The names of skipped tests by the reason."""
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row.message, []).append(row.label)
    return found


def _names_one_of(red: Collection[str], reason: str) -> bool:
    """Whether a test is skipped because of a failure, which says itself how many are."""
    see = _SEE.search(reason)
    return see is not None and see["owner"] in red


def _print_names(terminal: pytest.TerminalReporter, word: str, names: Sequence[str], reason: str = "") -> None:
    """Tests of which one thing is said; the cases of a property as ``name[case, case]``."""
    if not names:
        return
    status = next((status for status, known in _WORDS.items() if known == word), Status.SKIPPED)
    terminal.write(f"  {word:<5}", **_MARKUP[status])
    cases: dict[str, list[str]] = {}
    for name in names:
        entry, _, case = name.rstrip("]").partition("[")
        cases.setdefault(entry, []).extend([case] if case else [])
    told = ", ".join(f"{entry}[{', '.join(found)}]" if found else entry for entry, found in cases.items())
    print_wrapped(terminal, _INDENT, f"{told}: {reason}" if reason else told, hanging=_INDENT, started=True, light=True)


def title(report: ExportHealthReport) -> str:
    """``2 problems (5 failed tests), 1 warning``, ``sound, grade A``."""
    if not report.checks:
        return "nothing was judged"
    warnings = sum(cause.status == "warning" for cause in report.causes)
    warned = counted(warnings, "warning") if warnings else ""
    if report.get_failed_checks():
        return ", ".join(filter(None, (problems_text(report, "test"), warned)))
    graded = f"grade {report.grade}" if report.grade else ""
    changed = report.changed_features
    found = f"the data changed in {changed}" if changed else "sound"
    return ", ".join(filter(None, (f"{found} as far as it ran" if report.coverage else found, warned, graded)))


def print_headline(terminal: pytest.TerminalReporter, result: Result) -> None:
    """What is wrong, in a sentence."""
    terminal.write(f"  {_WORDS[result.status]} ", **_MARKUP[result.status])
    terminal.write(f"{result.label}: ", bold=True)
    print_wrapped(terminal, " " * (len(result.label) + 9), result.message, hanging=_INDENT, started=True)


def _print_cause(terminal: pytest.TerminalReporter, cause: Cause, result: Result, by_name: Mapping[str, Result]) -> None:
    """One bug: what is wrong, how it shows, why, and which other tests are red because of it."""
    print_headline(terminal, result)
    if terminal.config.option.tbstyle not in _WITHOUT_DETAILS:
        evidence = result.evidence
        if evidence is not None and evidence.excerpt is not None:
            _print_code(terminal, evidence.excerpt.text, ">")
        facts = {
            "counterexample": evidence.counterexample if evidence else "",
            "measured": evidence.comparison if evidence and not _says(evidence.message, evidence.comparison) else "",
            "usual cause": evidence.cause if evidence else "",
            "also shows as": also_text(cause.also),
            "not judged": _waiting_text(cause, by_name.values()),
        }
        for label, text in facts.items():
            if text:
                print_wrapped(terminal, f"{_INDENT}{label}: ", text, hanging=_INDENT + "  ")
        if evidence is not None and evidence.fix is not None:
            print_wrapped(terminal, _INDENT, f"with this change of {evidence.fix.place} the property holds{cause.unmended}:")
            _print_code(terminal, evidence.fix.text, "-+")
        if cause.status == "failed":
            command = visible(_rerun(terminal.config, result))
            for line in command_in_lines(f"rerun: {command}", _columns() - len(_INDENT)):
                terminal.line(f"{_INDENT}{line}", light=True)
    for name in (cause.owner.check_name, *(check.check_name for check in cause.also)):
        _print_captured(terminal, by_name[name])


def _rerun(config: pytest.Config, result: Result) -> str:
    """The command that runs the test of a bug again, and nothing else, on the same inputs."""
    command = config.getoption("modeltiers_command")
    test = shlex.quote(f"test_{result.label}")
    return f"{command} -k {test}" if command else rerun_of(result, config.rootpath, config.invocation_params.dir)


def _says(message: str, comparison: str) -> bool:
    """Whether a message holds every number of a comparison already."""
    numbers = re.findall(r"\d[\d.,]*(?:e-?\d+)?\b", comparison)
    return len(numbers) > 1 and all(re.search(rf"(?<![\d.]){re.escape(number)}(?![\d])", message) for number in numbers)


def _waiting_text(cause: Cause, results: Iterable[Result]) -> str:
    """How many tests wait for a bug to be fixed."""
    red = [check.check_name.partition("::")[2] for check in (cause.owner, *cause.also)]
    waiting = sum(_names_one_of(red, result.message) for result in results if result.status is Status.SKIPPED)
    return f"{counted(waiting, 'test')}, until this is fixed" if waiting else ""


def _print_code(terminal: pytest.TerminalReporter, text: str, marks: str) -> None:
    """Lines of code below each other: those with a mark whole, on several lines where they are long, the others cut where the terminal ends."""
    room = _columns() - len(_INDENT)
    for line in text.splitlines():
        is_marked = line.startswith(tuple(marks))
        indent = " " * min(len(line) - len(line[1:].lstrip(" 0123456789|")) + 2, room // 2)
        wrapped = textwrap.wrap(line, room, subsequent_indent=indent, drop_whitespace=False) if is_marked else []
        for shown in wrapped or [line if len(line) <= room else f"{line[: room - 1]}…"]:
            terminal.line(f"{_INDENT}{visible(shown)}", bold=is_marked, light=not is_marked)


def _print_captured(terminal: pytest.TerminalReporter, result: Result) -> None:
    """What the model's code printed while its test ran, as pytest shows it below a failure."""
    wanted = terminal.config.option.showcapture
    for heading, content in result.captured:
        if result.status is Status.FAIL and wanted != "no" and (wanted == "all" or wanted in heading):
            terminal.section(heading, sep="-")
            terminal.write(content if content.endswith("\n") else content + "\n")


def _print_rows(terminal: pytest.TerminalReporter, rows: list[Result]) -> None:
    width = max((len(row.label) for row in rows), default=0)
    for row in rows:
        terminal.write(f"  {_WORDS[row.status]:<5}", **_MARKUP[row.status])
        terminal.write(f"{row.label:<{width}} ")
        lead = " " * (width + 8)
        print_wrapped(terminal, lead, _notes(row, _columns() - len(lead)), hanging=_INDENT + "  ", started=True, light=True)


def _notes(row: Result, room: int) -> str:
    """What there is to say of a row; of one that passed, as much as there is room for."""
    if row.status is Status.SKIPPED:
        return row.message
    examples = row.finding.get("examples", 0)
    tried = f"{examples:>3} examples" if examples > 1 else " " * 12
    measured = row.evidence.comparison if row.evidence else ""
    notes = f"{row.seconds:7.2f} s  {tried}"
    return f"{notes}  {measured}" if measured and len(notes) + len(measured) + 2 <= room else notes.rstrip()


def _columns() -> int:
    return max(_NARROWEST, shutil.get_terminal_size(_FALLBACK).columns)


def print_wrapped(
    terminal: pytest.TerminalReporter, lead: str, text: str, *, hanging: str | None = None, started: bool = False, **markup: bool
) -> None:
    """A text in lines that fit, broken between words only.

    Args:
        terminal: Where to.
        lead: What stands before the text on its first line.
        text: The text.
        hanging: What stands before it on the others; by default as many spaces.
        started: Whether ``lead`` is on the screen already.
        markup: Of the text.
    """
    wrapper = textwrap.TextWrapper(
        _columns(),
        initial_indent=lead,
        subsequent_indent=" " * len(lead) if hanging is None else hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )
    lines = wrapper.wrap(text) or [lead]
    if started:
        lines[0] = lines[0][len(lead) :]
    for line in lines:
        terminal.line(line.rstrip(), **markup)


def append_summary(summary: Path, report: ExportHealthReport) -> None:
    """Adds the report to GitHub's step summary."""
    from harness.health.markdown import to_markdown

    try:
        with summary.open("a", encoding="utf-8") as file:
            file.write(to_markdown(report) + "\n")
    except OSError as error:
        print(f"GITHUB_STEP_SUMMARY: cannot write {summary}: {error.strerror}")


def annotation(cause: Cause, config: Path, *folders: Path) -> str:
    """A GitHub workflow command that shows a bug beside the line to look at, or beside the config where that line is not in the repository.

    Args:
        cause: The bug.
        config: The config file.
        folders: Those that a file may be shown from: the repository's first.
    """
    check = cause.owner
    level = "error" if cause.status == "failed" else "warning"
    excerpt = check.excerpt
    code = excerpt.relative_to(*folders) if excerpt is not None else ""
    shown = code or next((config.relative_to(root).as_posix() for root in folders if root in config.parents), str(config))
    at = f",line={excerpt.line}" if excerpt is not None and code else ""
    also = f" (also shows as {also_text(cause.also)})" if cause.also else ""
    heading = _as_property(f"tier {check.details.get('tier')}: {label_of(check)}")
    change = f"\nWith this change the property holds{cause.unmended}:\n{check.fix.text}" if check.fix else ""
    return f"::{level} file={_as_property(shown)}{at},title={heading}::{_as_data(f'{check.message}{also}{change}')}"


def _as_data(text: str) -> str:
    """A text as a workflow command takes it: in one line."""
    return visible(text, lines=True).replace("%", "%25").replace("\n", "%0A")


def _as_property(text: str) -> str:
    return _as_data(text).replace(":", "%3A").replace(",", "%2C")

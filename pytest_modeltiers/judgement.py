"""What judging a model object comes to: in a terminal, in a notebook, in files; and how far it is."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any, Protocol

from harness.catalogue import CATALOGUE
from harness.evidence import Evidence, Status
from harness.health import ExportHealthReport
from harness.health.checks import SkippedCheck
from pytest_modeltiers.results import Result, check_name, to_check


class Judgement(Mapping[str, Evidence]):
    """The findings on a model, by the names of tests such as ``finite_output[extremes]``; a notebook shows it as a page.

    Attributes:
        report: The health report, for ``save_html``, ``save_json`` and ``save_markdown``.
    """

    def __init__(self, model_name: str, task: str = "", is_selection: bool = False, seed: int = 0, device: str = "cpu") -> None:
        self.seed, self.device = seed, device
        self.report = ExportHealthReport(model_name, is_selection=is_selection, model_facts={"task": task} if task else {})
        self._found: dict[str, Evidence] = {}

    def add(self, label: str, seconds: float, evidence: Evidence) -> None:
        """Adds what a test found."""
        self._found[label] = evidence
        tier = CATALOGUE[evidence.name].tier if evidence.name in CATALOGUE else 1
        result = Result(label, "", tier, evidence.status, evidence.headline, seconds, {"evidence": evidence.to_json()})
        if evidence.status is Status.SKIPPED:
            self.report.skipped.append(SkippedCheck(check_name(result), evidence.message, tier))
            return
        check = to_check(result)
        for key in ("nodeid", "rerun"):  # there is no test to run again
            check.details.pop(key, None)
        self.report.add_check(check)
        if evidence.name == "gradient_flow" and "layers" in evidence.details:
            self.report.layers = evidence.details["layers"]

    @property
    def ok(self) -> bool:
        """Whether something was judged and nothing failed."""
        return self.report.all_passed

    @property
    def failed(self) -> dict[str, Evidence]:
        """The findings that failed."""
        return {label: evidence for label, evidence in self._found.items() if evidence.status is Status.FAIL}

    def __getitem__(self, label: str) -> Evidence:
        return self._found[label]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        from harness.health.markdown import verdict

        task = self.report.model_facts.get("task", "")
        lines = [f"{self.report.model_name}{f', {task}' if task else ''}: {verdict(self.report)}"]
        for cause in self.report.causes:
            also = f" (also {', '.join(check.check_name.rpartition('::')[2] for check in cause.also)})" if cause.also else ""
            lines.append(f"  {cause.status}: {cause.owner.check_name.rpartition('::')[2]}: {cause.owner.message}{also}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from harness.health.page import fragment

        return fragment(self.report)

    def save(self, folder: str | Path) -> Path:
        """Writes the report as JSON, Markdown and HTML into a folder; returns the page."""
        from harness.provenance import surroundings

        folder = Path(folder)
        self.report.environment = surroundings(Path.cwd()) | {"seed": self.seed, "device": self.device}
        self.report.save_json(folder / "health_report.json")
        self.report.save_markdown(folder / "health_report.md")
        return self.report.save_html(folder / "health_report.html")


class Told(Protocol):
    """Is told how far a judging is."""

    def __call__(self, done: int, label: str) -> None:
        """So many tests are done, and this one is next."""


@contextmanager
def progress(total: int, wanted: bool | None) -> Iterator[Told]:
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

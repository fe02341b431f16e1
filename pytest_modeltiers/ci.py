"""What a run leaves for CI: annotations and the step summary of GitHub Actions, and the cause of each red test in a JUnit file."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.health.checks import Cause, also_text, label_of
from harness.health.report import ExportHealthReport

if TYPE_CHECKING:
    from pytest_modeltiers.report import Reporter


def append_summary(summary: Path, report: ExportHealthReport) -> None:
    """Adds the report to GitHub's step summary."""
    from harness.health.markdown import to_markdown

    try:
        with summary.open("a", encoding="utf-8") as file:
            file.write(to_markdown(report) + "\n")
    except OSError as error:
        print(f"GITHUB_STEP_SUMMARY: cannot write {summary}: {error.strerror}")


def annotation(cause: Cause, config: Path, root: Path, folder: Path) -> str:
    """A GitHub workflow command that shows a bug beside the line to look at, or beside the config where no line is known.

    Args:
        cause: The bug.
        config: The config file.
        root: The root of the run, relative to which GitHub finds files.
        folder: The folder the run was started in.
    """
    check = cause.owner
    level = "error" if cause.status == "failed" else "warning"
    place, _, line = str(check.details.get("place") or "").rpartition(":")
    is_there = bool(place) and (folder / place).is_file()
    file = folder / place if is_there else config
    shown = file.relative_to(root) if root in file.parents else file
    also = f" (also shows as {also_text(cause.also)})" if cause.also else ""
    message = f"{check.message}{also}".replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    at = f",line={line}" if is_there else ""
    return f"::{level} file={shown}{at},title=tier {check.details.get('tier')}%3A {label_of(check)}::{message}"


NODEID = "modeltiers_nodeid"
"""The property by which a test case is found again."""

CAUSE = "modeltiers_cause"


class JUnitCauses:
    """Adds the property ``modeltiers_cause`` to the test cases of a file that pytest has just written."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self) -> Generator[None, None, None]:
        """Waits for pytest's own file."""
        yield
        file = self.reporter.config.getoption("xmlpath", None)
        causes = self.reporter.causes_by_test()
        if file and causes and Path(file).is_file():
            add_causes(Path(file), causes)


def add_causes(file: Path, causes: Mapping[str, str]) -> None:
    """Writes the cause of each red test into a JUnit file.

    Args:
        file: The file.
        causes: By the test's node id, the name of the check that its bug is shown under.
    """
    tree = ElementTree.parse(file)
    for properties in tree.iter("properties"):
        nodeid = next((one.get("value") for one in properties if one.get("name") == NODEID), None)
        if nodeid is not None and nodeid in causes:
            ElementTree.SubElement(properties, "property", name=CAUSE, value=causes[nodeid])
    tree.write(file, encoding="utf-8", xml_declaration=True)

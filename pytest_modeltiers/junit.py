"""JUnit files: which bug each red test belongs to, known only when all of them have run."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_modeltiers.report import Reporter

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

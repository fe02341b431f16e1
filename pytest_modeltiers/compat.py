"""Every private part of pytest that the plugin uses, and what happens in a version without it. All of it was seen in pytest 9.2."""

from __future__ import annotations

from typing import Any

import pytest


def fixtures_by_name(item: pytest.Item) -> dict[str, Any]:
    """The definitions of every fixture that a test may ask for, the one that counts last: ``item._fixtureinfo``.

    pytest has no public way to ask whether a user's fixture took the place of ours. Without it, tests that ask for ours are errors.
    """
    found: dict[str, Any] = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]
    return found


def report_as_json(report: pytest.TestReport) -> dict[str, Any]:
    """A report as JSON, as xdist sends it: ``report._to_json``.

    The public hook ``pytest_report_to_serializable`` does the same but needs a whole plugin manager. Without it, isolated suites do not run.
    """
    return report._to_json() | {"$report_type": "TestReport"}

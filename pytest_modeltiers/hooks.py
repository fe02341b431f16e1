"""What the plugin's files share through pytest: hooks, which a user's ``conftest.py`` may implement, marks, and keys of ``config.stash``.

Every pytest start imports this module, so it imports only the standard library and pytest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.tasks import TaskSpec
    from pytest_modeltiers.checks import ModelCheck

TIERS = {
    1: "critical properties",
    2: "analysis",
    3: "training",
    4: "export",
    5: "monitoring",
}
"""The tiers, each with its title; `tier1` to `tier5` are markers."""

CONFIGS = pytest.StashKey[list[Path]]()
"""The config files of this run, resolved."""

SHOWN_AS = pytest.StashKey[dict[Path, str]]()
"""What the config of a model without one is called in ids and on the screen: the model, from the root of the tests."""

VERDICT = pytest.StashKey[dict[str, Any]]()
"""What a test found, for the report."""

SELECTED = pytest.StashKey[frozenset[str]]()
"""The tests that run, where another process selected them."""


def pytest_modeltiers_checks(task_spec: TaskSpec) -> Sequence[ModelCheck]:  # type: ignore[empty-body]
    """Returns checks that join the suite of every model config.

    Args:
        task_spec: The task of the config that is being collected.
    """

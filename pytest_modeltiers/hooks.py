"""Hooks that a user's ``conftest.py`` or another plugin may implement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.tasks import TaskSpec
    from pytest_modeltiers.checks import ModelCheck


def pytest_modeltiers_checks(task_spec: TaskSpec) -> Sequence[ModelCheck]:  # type: ignore[empty-body]
    """Returns checks that join the suite of every model config.

    Args:
        task_spec: The task of the config that is being collected.
    """

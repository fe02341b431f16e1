"""The fixture of a small project to run the plugin in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from projects import Project, library_modules, load_tiers

from harness.catalogue import CATALOGUE
from pytest_modeltiers import checks, fixes, fixtures, strategies, verdicts  # noqa: F401

load_tiers(1, 4)


@pytest.fixture
def libraries() -> Iterator[dict[str, ModuleType]]:
    """Modules that stay loaded after a test; ``pytester`` forgets what was imported since it was made, so this is made before it."""
    modules: dict[str, ModuleType] = {}
    yield modules
    sys.modules.update(modules)


@pytest.fixture
def project(libraries: dict[str, ModuleType], pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """An empty project; what in-process runs register is taken back."""
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "CI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "500")  # a sentence in one line, whatever terminal this runs in
    registries: tuple[dict[str, Any], ...] = (checks.REGISTERED, CATALOGUE)
    registered = [dict(registry) for registry in registries]
    yield Project(pytester)
    libraries.update(library_modules())
    for registry, before in zip(registries, registered, strict=True):
        registry.clear()
        registry.update(before)

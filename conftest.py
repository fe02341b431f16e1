"""How the project's own tests run: with a cache of their own, and without those that take long unless ``--long`` asks for them."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

os.environ.setdefault("MODELTIERS_CACHE", str(Path(__file__).parent / ".pytest_cache" / "modeltiers"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds ``--long``."""
    parser.addoption("--long", action="store_true", help="run the project's tests that take long, too")


def pytest_configure(config: pytest.Config) -> None:
    """Declares the mark."""
    config.addinivalue_line("markers", "long: runs with --long alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what takes long."""
    if config.getoption("--long"):
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not item.get_closest_marker("long")]


def pytest_collection_finish() -> None:
    """Takes what collection made out of the garbage collector's sight: thousands of tests made each ``gc.collect()`` take half a second."""
    gc.collect()
    gc.freeze()

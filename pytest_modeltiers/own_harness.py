"""The name ``harness``, which a user's own package may have too."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

_FOLDER = Path(__file__).parents[1] / "harness"


def bind(*folders: Path) -> str:
    """Imports this project's ``harness``, before a ``conftest.py`` or the current folder can bring another one.

    Returns:
        What to say of such a package; empty where there is none.
    """
    loaded = sys.modules.get("harness")
    if loaded is not None and not _is_ours(Path(str(getattr(loaded, "__file__", "")))):
        pytest.exit(
            f"pytest-modeltiers: the name `harness` is taken by {getattr(loaded, '__file__', 'another package')}, which was imported before. "
            "pytest-modeltiers has a package of that name: rename yours, or run its tests and `--model-config` apart",
            returncode=2,
        )
    if loaded is None and (_FOLDER / "__init__.py").is_file():
        spec = importlib.util.spec_from_file_location(
            "harness", _FOLDER / "__init__.py", submodule_search_locations=[str(_FOLDER)]
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules["harness"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["harness"])
    other = next((place for folder in folders if (place := _package_in(folder)) and not _is_ours(place)), None)
    if other is None:
        return ""
    return (
        f"pytest-modeltiers: in this run `harness` is the package of pytest-modeltiers; {other.parent} is hidden. Tests that import it "
        "belong into a run without --model-config"
    )


def _is_ours(file: Path) -> bool:
    return not (_FOLDER / "__init__.py").is_file() or os.path.realpath(file.parent) == os.path.realpath(_FOLDER)


def _package_in(folder: Path) -> Path | None:
    candidates = (folder / "harness" / "__init__.py", folder / "src" / "harness" / "__init__.py", folder / "harness.py")
    return next((file for file in candidates if file.is_file()), None)

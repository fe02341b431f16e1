"""What the tests of bundles share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of this process, with the cache of every test in it."""
    folder = tmp_path_factory.getbasetemp() / "bundles"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODELTIERS_CACHE", str(folder / "cache"))
        yield folder

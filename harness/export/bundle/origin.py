"""What this machine remembers of the bundles it made; their manifest's sha256 tells them from all others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.export.bundle.manifest import MANIFEST
from harness.export.store.cache import Cache
from harness.files import file_hash, json_hash


def made_here(folder: Path) -> dict[str, Any]:
    """What this machine remembers of making a bundle, such as the ``config`` its model is built from; empty of one made elsewhere."""
    return Cache().values(_key(file_hash(folder / MANIFEST)), dict, keep=bool)


def remember(sha256: str, config: Path | None) -> None:
    """Remembers that a bundle was made here, and what its model is built from; a path of this machine has no place in the bundle."""
    Cache().values(_key(sha256), lambda: {"made": True, "config": None if config is None else str(config.resolve())})


def _key(sha256: str) -> str:
    return json_hash("bundle", sha256)

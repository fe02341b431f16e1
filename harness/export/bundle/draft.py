"""A bundle that is being written."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.export.store.artifact import Manifest, find_artifact, manifest_path


@dataclass(frozen=True)
class Draft:
    """A bundle under way, as far as the files for others depend on it.

    Attributes:
        folder: Where it is being written; its artifacts and golden batches are there.
        name: The name it will have.
        signature: What is in ``signature.json``.
        tool: Name and version of this project.
        created: When it was made.
        identity: Hash of what it was made from.
    """

    folder: Path
    name: str
    signature: dict[str, Any]
    tool: str
    created: str
    identity: str

    @property
    def artifacts(self) -> dict[str, dict[str, Any]]:
        """File and runtime of each format."""
        return self.signature["artifacts"]

    @property
    def model_name(self) -> str:
        """The model's name, fit for a path."""
        return re.sub(r"[^A-Za-z0-9_-]+", "_", self.signature["task"]["task_name"] or self.signature["model"])

    def size_of(self, format: str) -> int:
        """Bytes of a format's file, and of those that hold its weights."""
        found = find_artifact(self.folder / self.artifacts[format]["file"])
        return 0 if found is None else found.size

    def copy_model(self, format: str, folder: Path, filename: str) -> Path:
        """Copies the file of a format, with the files that hold its weights, into a new folder."""
        source = self.folder / self.artifacts[format]["file"]
        manifest = Manifest.read(manifest_path(source))
        assert manifest is not None
        folder.mkdir(parents=True, exist_ok=True)
        for name in manifest.files:
            shutil.copyfile(source.with_name(name), folder / (filename if name == source.name else name))
        return folder / filename

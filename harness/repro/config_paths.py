"""The keys of a config that name files, by their dotted path."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from harness.adapters import BUILT_IN

INPUTS = ("model_file", "adapter", "weights", "resume_from_checkpoint", "train.path", "eval.path")
"""Files that a training reads."""

OUTPUTS = {"checkpoint_dir": "checkpoints", "export.export_dir": "exports", "db_path": "experiments.db"}
"""Files and folders that it writes, and what they are called in a bundle."""


def text_at(config: Mapping[str, Any], key: str) -> str | None:
    """The text at a key; ``None`` where there is none."""
    found: Any = config
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found if isinstance(found, str) else None


def files_named(config: Mapping[str, Any]) -> dict[str, str]:
    """The file or folder that each of ``INPUTS`` names; an adapter's is without its class, and a built-in one is no file."""
    found = {key: text_at(config, key) for key in INPUTS}
    adapter = found["adapter"]
    if adapter is not None:
        file, separator, _ = adapter.rpartition(":")
        found["adapter"] = file if separator and adapter not in BUILT_IN else None
    return {key: value for key, value in found.items() if value is not None}


def with_paths(config: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """A copy of a config that names other files; of an adapter the class stays."""
    new: dict[str, Any] = copy.deepcopy(dict(config))
    for key, place in places.items():
        *groups, last = key.split(".")
        inner = new
        for group in groups:
            inner = inner[group]
        inner[last] = f"{place}:{inner[last].rpartition(':')[2]}" if key == "adapter" else place
    return new


def is_inside(name: str) -> bool:
    """Whether a name is a plain relative path that stays in the folder it is relative to, on every system."""
    parts = PurePosixPath(name).parts
    if name != "/".join(parts) or not parts or ".." in parts or name.startswith("~"):
        return False
    return name.isprintable() and not {"\\", ":", "\0"} & {*name}

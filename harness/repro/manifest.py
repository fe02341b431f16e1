"""The manifest of a repro bundle: what it is of, and the sha256 and size of every other file; which names and paths a bundle takes."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from harness.documents import flat
from harness.errors import UserError
from harness.files import file_hash


class ReproError(UserError, RuntimeError):
    """A repro bundle cannot be made, is not whole, or cannot be run again."""

    code = "repro"


_PYTHON_DATA = ("train.dataset", "train.datamodule", "eval.dataset", "eval.datamodule")
INPUTS = (
    *("model", "model_file", "adapter", "example", "loss", "weights", "resume_from_checkpoint", "train.path", "eval.path"),
    *_PYTHON_DATA,
)
"""Files that a training reads. Functions of outputs and labels, such as ``outputs.scores.loss``, are files too."""

OUTPUTS = {"checkpoint_dir": "checkpoints", "export.export_dir": "exports", "db_path": "experiments.db"}
"""Files and folders that it writes, and what they are called in a bundle."""


def text_at(config: Mapping[str, Any], key: str) -> str | None:
    """The text at a key; ``None`` where there is none."""
    found: Any = config
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found if isinstance(found, str) else None


def is_function(key: str) -> bool:
    """Whether a key may name something in a file, as ``file.py:name``."""
    return key in _PYTHON_DATA or key.partition(".")[0] in ("adapter", "example", "loss", "outputs", "labels", "metrics")


def files_named(config: Mapping[str, Any]) -> dict[str, str]:
    """The file or folder that each of ``INPUTS`` names; of ``file.py:name`` the file, and what is built in is no file."""
    declared = {group: config[group] for group in ("loss", "outputs", "labels") if isinstance(config.get(group), Mapping)}
    functions = {key: text for key, text in flat(declared).items() if isinstance(text, str)}
    functions |= {f"metrics.{place}": str(name) for place, name in enumerate(config.get("metrics") or ()) if ":" in str(name)}
    found = {key: text_at(config, key) for key in INPUTS} | functions
    return {key: file for key, text in found.items() if text is not None and (file := _file_of(key, text))}


def _file_of(key: str, text: str) -> str:
    """The file in a key's text; empty where it names none."""
    if not is_function(key):
        return text
    file, separator, _ = text.rpartition(":")
    return file if separator and file.endswith(".py") else ""


def with_paths(config: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """A copy of a config that names other files; of ``file.py:name`` the name stays."""
    new: dict[str, Any] = copy.deepcopy(dict(config))
    for key, place in places.items():
        groups = key.split(".")
        inner: Any = new
        for group in groups[:-1]:
            inner = inner[group]
        last: Any = int(groups[-1]) if isinstance(inner, list) else groups[-1]
        inner[last] = f"{place}:{inner[last].rpartition(':')[2]}" if is_function(key) else place
    return new


def is_inside(name: str) -> bool:
    """Whether a name is a plain relative path that stays in the folder it is relative to, on every system."""
    parts = PurePosixPath(name).parts
    if name != "/".join(parts) or not parts or ".." in parts or name.startswith("~"):
        return False
    return name.isprintable() and not {"\\", ":", "\0"} & {*name}


KIND = "pytest-modeltiers repro bundle"
VERSION = 1
"""Of what is in a bundle and where; another version is not read."""

MANIFEST, CONFIG, ENVIRONMENT, METRICS, REQUIREMENTS, README = (
    "manifest.json",
    "config.json",
    "environment.json",
    "metrics.json",
    "requirements.txt",
    "README.md",
)
"""Names of the files that a bundle always has."""

_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileFacts:
    """What is known of a file's content."""

    sha256: str
    bytes: int

    @staticmethod
    def of(path: Path) -> FileFacts:
        """Those of a file.

        Raises:
            ReproError: It cannot be read.
        """
        try:
            return FileFacts(file_hash(path), path.stat().st_size)
        except OSError as error:
            raise ReproError(f"{path} cannot be read: {error.strerror or error}") from None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"sha256": self.sha256, "bytes": self.bytes}


@dataclass(frozen=True)
class Manifest:
    """What a bundle is of, and what is in it.

    Attributes:
        run: Id, name, task, status and times of the run, and more that was noted of it.
        created: When the run ended. The bundle has no time of its own, so that the same run gives the same bytes.
        git_commit: The commit the run was started from.
        git_dirty: Whether tracked files differed from it.
        files: Every file but the manifest itself.
        external: Data files that the run was trained on and that are not in the bundle.
        notes: What a rerun should know, a sentence each.
        tool: Name and version of this project.
        missing: What the bundle lacks to rebuild the run, a sentence each; empty where it does rebuild it.
    """

    run: dict[str, Any]
    created: str
    git_commit: str | None
    git_dirty: bool | None
    files: dict[str, FileFacts]
    external: dict[str, FileFacts] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    tool: str = ""
    missing: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """``run 3 (cli-run-01)``."""
        return f"run {self.run.get('id')} ({self.run.get('name')})"

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON values."""
        return {
            "kind": KIND,
            "version": VERSION,
            "tool": self.tool,
            "created": self.created,
            "run": self.run,
            "git_commit": self.git_commit,
            "git_dirty": self.git_dirty,
            "files": {name: facts.to_json() for name, facts in sorted(self.files.items())},
            "external": {name: facts.to_json() for name, facts in sorted(self.external.items())},
            "notes": list(self.notes),
            "missing": list(self.missing),
        }

    @staticmethod
    def parse(data: Any) -> Manifest:
        """The inverse of ``to_json``.

        Raises:
            ValueError: It is of another version, incomplete, or names a place outside the bundle.
            LookupError, TypeError, AttributeError: It is no manifest.
        """
        if data["kind"] != KIND:
            raise ValueError("it is of something else")
        if data["version"] != VERSION:
            raise ValueError(f"it has version {data['version']}, and this project reads version {VERSION}")
        files, external = _parse_files(data["files"]), _parse_files(data["external"])
        missing = [name for name in (CONFIG, ENVIRONMENT, METRICS, REQUIREMENTS) if name not in files]
        if missing or MANIFEST in files or files.keys() & external.keys():
            raise ValueError(f"it does not list {missing[0]}" if missing else "it lists a file twice")
        return Manifest(
            run=dict(data["run"]),
            created=str(data["created"]),
            git_commit=data["git_commit"],
            git_dirty=data["git_dirty"],
            files=files,
            external=external,
            notes=tuple(str(note) for note in data["notes"]),
            tool=str(data["tool"]),
            missing=tuple(str(sentence) for sentence in data.get("missing", ())),
        )


def _parse_files(data: Mapping[str, Any]) -> dict[str, FileFacts]:
    files = {str(name): FileFacts(str(facts["sha256"]), int(facts["bytes"])) for name, facts in data.items()}
    for name, facts in files.items():
        if not is_inside(name):
            raise ValueError(f"{name!r} is not a path inside the bundle, refused")
        if not _HASH.fullmatch(facts.sha256) or facts.bytes < 0:
            raise ValueError(f"{name} has no sha256 and size")
    return files

"""What a repro bundle records: its manifest, with the hash of every other file; the environment of the run, and what differs later."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions, packages_distributions
from pathlib import Path, PurePosixPath
from typing import Any

from harness.data.readers import package_for
from harness.errors import UserError
from harness.files import file_hash
from harness.provenance import VARIABLES, cpu_model, gpus, provenance


class ReproError(UserError, RuntimeError):
    """A repro bundle cannot be made, is not whole, or cannot be run again."""

    code = "repro"


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
        created: When the run ended. It is the bundle's time as well, so that the same run gives the same bytes.
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


def env_snapshot() -> dict[str, Any]:
    """What a training depends on beside its config and code, as JSON values; no host, user, path or secret is in it.

    Returns:
        ``python``, ``platform``, ``cpu``, ``packages`` (every installed distribution), ``torch``, ``threads``, ``gpus``, ``git`` (the commit
        of the current folder), and ``variables``: those of ``VARIABLES`` that are set.
    """
    import torch

    origin = provenance()
    return {
        "python": {"version": platform.python_version(), "implementation": platform.python_implementation()},
        "platform": {"system": platform.system(), "machine": platform.machine(), "release": platform.platform()},
        "cpu": {"model": cpu_model(), "count": os.cpu_count(), "capability": torch.backends.cpu.get_cpu_capability()},
        "packages": installed(),
        "torch": {
            "version": torch.__version__,
            "commit": torch.version.git_version,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
            "build": torch.__config__.show().splitlines()[1:],
        },
        "threads": {"intra_op": torch.get_num_threads(), "inter_op": torch.get_num_interop_threads()},
        "gpus": gpus(),
        "git": {"commit": origin["git_commit"], "dirty": origin["git_dirty"]},
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def installed() -> dict[str, str]:
    """The version of every distribution that is installed, by name."""
    found = ((found.metadata["Name"], found.version) for found in distributions())
    return dict(sorted(((name, version) for name, version in found if name), key=lambda pair: pair[0].lower()))


OURS = "pytest-modeltiers"

_TRAINING = ("torch", "numpy", "lightning", OURS)
"""What trains; which of its two ways it takes depends on whether Lightning is there."""

_INCLUDED = {"harness", "pytest_modeltiers", *sys.stdlib_module_names}


def needed(modules: Iterable[str], data: Iterable[str]) -> tuple[list[str], list[str]]:
    """The distributions that training needs.

    Returns:
        Names of distributions that are installed, and the modules that belong to none.
    """
    by_module = _by_module()
    modules = {*modules} - _INCLUDED
    names = {*_TRAINING, *(name for module in modules for name in by_module.get(module, ()))}
    names |= {package_for(suffix) for suffix in {PurePosixPath(name).suffix for name in data}}
    return sorted(name for name in names if name and _found(name)), sorted(
        module for module in modules if module not in by_module
    )


def requirements(names: Iterable[str]) -> str:
    """A ``requirements.txt`` that pins distributions to the versions found here."""
    lines = ["# What the run was trained with."]
    for name in names:
        found = _found(name)
        if found is None:
            continue
        # What follows a plus names a build, such as +cpu, that no index has.
        lines.append(f"{name}=={found.version.partition('+')[0]}")
        if found.read_text("direct_url.json"):
            lines.append(f"# {name} was installed from a folder or a URL; an index may have another, or none")
    return "\n".join(lines) + "\n"


def names_in(text: str) -> list[str]:
    """The distributions that a ``requirements.txt`` of this project pins."""
    return [line.partition("==")[0] for line in text.splitlines() if "==" in line and not line.startswith("#")]


@cache
def _by_module() -> Mapping[str, list[str]]:
    return packages_distributions()


def _found(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


_FACTS = (
    "python.version",
    "python.implementation",
    "platform.system",
    "platform.machine",
    "cpu.model",
    "cpu.capability",
    "torch.version",
    "torch.commit",
    "torch.cuda",
    "torch.cudnn",
    "torch.build",
    "threads.intra_op",
    "gpus",
    "variables",
)
"""What can change the last bits of a result. Other facts of a snapshot are for people to read."""

_ABSENT = "none"


@dataclass(frozen=True)
class EnvironmentChange:
    """A fact of the environment that was another one then.

    Attributes:
        name: Such as ``torch.version``, ``packages.numpy`` or ``variables.OMP_NUM_THREADS``.
        then: What it was when the run was trained, or bundled.
        now: What it is here.
    """

    name: str
    then: str
    now: str

    def to_json(self) -> dict[str, str]:
        """The change as JSON values."""
        return asdict(self)


def environment_changes(
    then: Mapping[str, Any], now: Mapping[str, Any], packages: Iterable[str]
) -> tuple[EnvironmentChange, ...]:
    """The facts that differ and that can change what is computed.

    Args:
        then: A snapshot. What it does not tell counts as another, since nobody can know that it was the same.
        now: A snapshot.
        packages: The distributions that training needs; the versions of others change nothing.
    """
    facts = (*_FACTS, *(f"packages.{name}" for name in packages))
    found: list[EnvironmentChange] = []
    for fact in facts:
        before, after = _at(then, fact), _at(now, fact)
        if before == after:
            continue
        if fact == "variables" and isinstance(before, Mapping) and isinstance(after, Mapping):
            found += [EnvironmentChange(f"{fact}.{name}", *pair) for name, pair in _changed(before, after).items()]
        else:
            found.append(EnvironmentChange(fact, _shown(before), _shown(after)))
    return tuple(found)


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    names = sorted(before.keys() | after.keys())
    return {name: (_shown(before.get(name)), _shown(after.get(name))) for name in names if before.get(name) != after.get(name)}


def _at(snapshot: Mapping[str, Any], fact: str) -> Any:
    group, _, name = fact.partition(".")
    found = snapshot.get(group)
    return found.get(name) if name and isinstance(found, Mapping) else None if name else found


def _shown(value: Any) -> str:
    if value is None or value == []:
        return _ABSENT
    if isinstance(value, list) and all(isinstance(entry, Mapping) and "name" in entry for entry in value):
        return ", ".join(str(entry["name"]) for entry in value)
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:59]}…"

"""The environment of a run: versions, hardware, variables that change what is computed; the distributions it needs; and what differs later."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions, packages_distributions
from pathlib import PurePosixPath
from typing import Any

from harness.data.readers import package_for
from harness.provenance import VARIABLES, cpu_model, gpus, provenance


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


OURS = "pytest-modeltiers"

_TRAINING = ("torch", "numpy", "lightning", OURS)
"""What trains; which of its two ways it takes depends on whether Lightning is there."""

_INCLUDED = {"harness", "pytest_modeltiers", *sys.stdlib_module_names}


def installed() -> dict[str, str]:
    """The version of every distribution that is installed, by name."""
    found = ((found.metadata["Name"], found.version) for found in distributions())
    return dict(sorted(((name, version) for name, version in found if name), key=lambda pair: pair[0].lower()))


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

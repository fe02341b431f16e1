"""The distributions that a rerun needs, in the versions found here."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions, packages_distributions
from pathlib import PurePosixPath

from harness.data.readers import package_for

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

    Args:
        modules: Top-level names of the modules that the user's code imports.
        data: Names of the data files.

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

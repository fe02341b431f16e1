"""What the package says of its dependencies is what is tried."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def test_the_oldest_versions_tried_are_the_lower_bounds() -> None:
    lower = {str(Requirement(line)).replace(">=", "==") for line in PROJECT["dependencies"]}

    assert {str(pin) for pin in pins("constraints-oldest.txt")} == lower


@pytest.mark.parametrize("python", ["3.10", "3.13"])
def test_every_version_pinned_is_one_that_is_allowed(python: str) -> None:
    pinned = {
        pin.name: pin for pin in pins("constraints.txt") if pin.marker is None or pin.marker.evaluate({"python_version": python})
    }
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    for wanted in map(Requirement, [*PROJECT["dependencies"], *extras]):
        if wanted.name in pinned:
            (version,) = (specifier.version for specifier in pinned[wanted.name].specifier)
            assert wanted.specifier.contains(version), (
                f"constraints.txt pins {pinned[wanted.name]}, pyproject.toml wants {wanted}"
            )

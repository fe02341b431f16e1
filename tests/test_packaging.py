"""What the package says of its dependencies is what is tried."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
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


NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, features=8, classes=3):
        super().__init__()
        self.layer = nn.Linear(features, classes)

    def forward(self, x):
        return self.layer(x).softmax(-1)
"""


@pytest.mark.long
def test_a_wheel_runs_from_an_environment_of_its_own_without_the_repository(tmp_path: Path) -> None:
    """As ``uvx pytest-modeltiers`` and ``pipx run pytest-modeltiers`` do, but for the packages it needs, which are those of this environment."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    pip = [sys.executable, "-m", "pip", "-q"]
    wheel = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(wheel, check=True, cwd=tmp_path, env=environment)
    venv.create(tmp_path / "own", with_pip=False)
    (file,) = tmp_path.glob("pytest_modeltiers-*.whl")
    python = next(file for file in (tmp_path / "own").rglob("python*") if file.stem == "python")
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(file)], check=True, env=environment)
    site = next((tmp_path / "own").rglob("site-packages"))
    (site / "needed.pth").write_text(sysconfig.get_path("purelib"))
    (tmp_path / "net.py").write_text(NET)

    done = subprocess.run(
        [str(python.with_name("pytest-modeltiers")), "check", "net.py", "--tier", "1", "--report", "out"],
        cwd=tmp_path,
        env={**environment, "MODELTIERS_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAIL logit_range: forward ends in a softmax" in done.stdout
    assert (tmp_path / "out" / "health_report.html").is_file()
    asked = [str(python), "-c", "import harness; print(harness.__file__)"]
    where = subprocess.run(asked, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert where.stdout.startswith(str(tmp_path)), where.stdout

"""``modeltiers doctor``: what is here, what is missing, and what that costs."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path

import pytest

from harness.cli import main
from harness.cli.doctor import COSTS, diagnose

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((Path(__file__).parent.parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TOGETHER = {"dev", "examples", "docs"}
"""Extras for those who work on the project or its examples."""


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which ``ray`` is missing, and ``jinja2`` and ``torch`` are too old or gone."""
    real = metadata.version

    def version(name: str) -> str:
        if name in ("ray", "torch"):
            raise metadata.PackageNotFoundError(name)
        return "2.0" if name == "jinja2" else real(name)

    monkeypatch.setattr(metadata, "version", version)


def test_every_extra_has_its_cost() -> None:
    assert set(COSTS) == set(PROJECT["optional-dependencies"]) - TOGETHER


def test_it_is_well_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "devices: cpu" in text
    assert "torch " in text
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "ok"


@pytest.mark.usefixtures("without")
def test_what_is_missing_is_named_with_what_it_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert [package.name for package in diagnose().broken] == ["torch", "jinja2"]
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["torch", "MISSING"] for line in lines)
    assert any("jinja2" in line and "too old: >=3.1 is needed" in line for line in lines)
    assert any("sweeps on a Ray cluster: pip install 'pytest-modeltiers[ray]'" in line for line in lines)
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["missing_extras"]["ray"]["missing"] == ["ray"]

"""The public names at the top of both packages: all there, the same objects as below, and free until they are asked for."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import harness
import pytest_modeltiers
from harness.cli import main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
NOT_AT_THE_TOP = {
    "harness.scaffold": {"scaffold"},
    "harness.repro": {"repro"},
    "pytest_modeltiers.hooks": {"pytest_modeltiers_checks"},
}
"""Packages have the same name; and a hook that nobody imports."""


def documented() -> dict[str, tuple[str, ...]]:
    spec = importlib.util.spec_from_file_location("reference_of_names", ROOT / "docs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return dict(module.PUBLIC)


@pytest.mark.parametrize(("module", "names"), documented().items(), ids=str)
def test_every_documented_name_is_at_the_top(module: str, names: tuple[str, ...]) -> None:
    top = importlib.import_module(module.partition(".")[0])
    for name in set(names) - NOT_AT_THE_TOP.get(module, set()):
        assert getattr(top, name) is getattr(importlib.import_module(module), name)
        assert name in dir(top)
        assert name in top.__all__


def test_every_name_at_the_top_is_documented() -> None:
    names = {name for listed in documented().values() for name in listed}
    assert {*harness.__all__, *pytest_modeltiers.__all__} - names == {
        "__version__",
        "DecoderOnlyLMAdapter",
        "VisionClassificationAdapter",
    }


def test_the_adapters_of_the_guide_are_there() -> None:
    from harness import DecoderOnlyLMAdapter, VisionClassificationAdapter
    from harness.adapters import ADAPTERS

    assert ADAPTERS["causal_lm"] is DecoderOnlyLMAdapter
    assert ADAPTERS["image_classification"] is VisionClassificationAdapter


@pytest.mark.parametrize("package", [harness, pytest_modeltiers])
def test_a_name_that_is_not_there_is_an_attribute_error(package: object) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'run_trainin'"):
        package.run_trainin  # type: ignore[attr-defined]  # noqa: B018


def test_the_version_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert version == harness.__version__ == pytest_modeltiers.__version__
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"modeltiers {version}\n"


def test_the_tops_import_nothing_heavy() -> None:
    code = (
        "import sys; before = set(sys.modules); import harness, pytest_modeltiers; "
        "dir(harness); harness.__all__; new = {n.partition('.')[0] for n in set(sys.modules) - before}; "
        "sys.exit(bool(new & {'torch', 'numpy', 'pytest', 'pydantic', 'lightning'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0

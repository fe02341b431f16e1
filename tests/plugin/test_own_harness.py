"""A package of the user's own that is called ``harness`` as well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import harness
from harness.processes import module_command
from pytest_modeltiers.plugin import bind_own_harness


def test_a_package_of_that_name_is_hidden_and_said_to_be(project: Any) -> None:
    project.config()
    project.write("harness/__init__.py", "raise RuntimeError('not this one')\n")
    project.write("conftest.py", "import sys\nsys.path.insert(0, '.')\n")

    result = project.run_apart("--model-config", "cfg.json")

    result.assert_outcomes(passed=1)
    (line,) = [line for line in result.outlines if "is hidden" in line]
    assert str(project.path / "harness") in line


def test_a_conftest_that_wants_the_hidden_package_is_told_so(project: Any) -> None:
    project.config()
    project.write("harness/__init__.py", "")
    project.write("harness/own.py", "")
    project.write("conftest.py", "import harness.own\n")

    result = project.run_apart("--model-config", "cfg.json")

    assert result.ret != 0
    assert "is hidden. Tests that import it belong into a run without --model-config" in result.stderr.str()


def test_without_a_config_the_name_is_the_user_s(project: Any) -> None:
    project.write("harness/__init__.py", "MINE = 1\n")
    project.write("test_mine.py", "from harness import MINE\n\n\ndef test_mine():\n    assert MINE\n")

    result = project.run_apart()

    result.assert_outcomes(passed=1)
    assert "is hidden" not in result.stdout.str() + result.stderr.str()


def test_a_name_that_is_taken_already_ends_the_run_in_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = ModuleType("harness")
    other.__file__ = str(tmp_path / "harness" / "__init__.py")
    monkeypatch.setitem(sys.modules, "harness", other)
    with pytest.raises(pytest.exit.Exception, match="the name `harness` is taken by") as left:
        bind_own_harness()
    assert left.value.returncode == 2
    assert "\n" not in str(left.value)


def test_ours_is_bound_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bind_own_harness(Path(harness.__file__).parents[1]) == ""
    assert sys.modules["harness"] is harness
    monkeypatch.delitem(sys.modules, "harness")
    assert bind_own_harness() == ""
    assert Path(str(sys.modules["harness"].__file__)) == Path(harness.__file__)


def test_a_process_of_ours_looks_for_nothing_in_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "harness").mkdir()
    for name in ("harness/__init__.py", "random.py", "argparse.py", "typing.py"):
        (tmp_path / name).write_text("raise RuntimeError('not this one')\n")
    done = subprocess.run(module_command("harness", "--version"), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"modeltiers {harness.__version__}\n"), done.stderr

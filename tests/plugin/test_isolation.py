"""Suites whose model lives in a sandboxed process: the same tests, the same verdicts, and what was refused."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_models import GOOD, LEAKY, output

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")

ISOLATED = {"isolation": "process"}
CURIOUS = """\
try:
    open(OUTSIDE, "w")
except OSError:
    pass
"""
DIES = GOOD.replace(
    "x = self.embed(input_ids)", "if input_ids.shape[0] == 1: __import__('os').abort()\n        x = self.embed(input_ids)"
)


def is_imported_here() -> bool:
    return any(name.startswith("cfg_model_") for name in sys.modules)


def test_verdicts_are_those_of_an_ordinary_run_and_the_model_is_never_here(project: Any, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    project.config(only=("causal", "stateless"), model=CURIOUS.replace("OUTSIDE", repr(str(mark))) + LEAKY, **ISOLATED)
    project.write(
        "conftest.py",
        """
        from pytest_modeltiers.checks import model_check

        @model_check(statement="It has a head")
        def has_a_head(subject):
            return hasattr(subject.model, "head")
        """.replace("\n        ", "\n"),
    )

    result = project.run("--model-config", "cfg.json", "--model-report", "out", "--junitxml", "junit.xml")

    assert result.parseoutcomes() == {"failed": 1, "passed": 2}
    assert "FAIL causal: position" in output(result)
    assert "counterexample" in output(result)
    assert "conftest.py runs in this process, outside of isolation, with your rights" in output(result)
    assert not mark.exists()
    assert not is_imported_here()
    facts = project.json("out/health_report.json")["model_facts"]
    assert facts["model"] == "cfg_model.py:build_model"
    assert f"refused writes {mark} (open; cfg_model.py, line 2)" in facts["isolation"]
    assert f"refused writes {mark}" in output(result)
    cases = {case.get("name"): case for case in project.tree("junit.xml").iter("testcase")}
    assert set(cases) == {"test_causal", "test_stateless", "test_has_a_head"}
    assert cases["test_causal"].find("failure") is not None


def test_a_model_that_cannot_be_built_is_one_collection_error(project: Any, tmp_path: Path) -> None:
    project.config(model=f"import subprocess\nsubprocess.run(['touch', {str(tmp_path / 'mark')!r}])\n" + GOOD, **ISOLATED)

    result = project.run("--model-config", "cfg.json")

    assert result.parseoutcomes() == {"errors": 1}
    assert "refused by isolation: the code starts a process (cfg_model.py, line 2)" in output(result)
    assert "Traceback" not in output(result)
    assert not (tmp_path / "mark").exists()


def test_a_test_that_ends_the_process_fails_and_the_others_go_on(project: Any) -> None:
    project.config(only=("full_length", "registration"), model=DIES, **ISOLATED)

    result = project.run("--model-config", "cfg.json")

    assert result.parseoutcomes() == {"failed": 1, "passed": 1}
    assert "the isolated process died: it was killed by SIGABRT" in output(result)


def test_a_check_that_needs_what_is_refused_to_everybody_is_skipped(project: Any) -> None:
    project.config(
        only=("fresh_process", "exports"),
        tier="4",
        model=None,
        export={"formats": ["pytorch"], "export_dir": "exports"},
        **ISOLATED,
    )

    result = project.run("--model-config", "cfg.json", "-rsv", "--model-report", "out")

    assert set(result.parseoutcomes()) == {"skipped", "passed"}
    assert "isolation refuses what this check needs" in output(result)
    report = (project.path / "out/health_report.json").read_text()
    assert "modeltiers-isolated-" not in output(result) + report, "a folder that is gone"
    assert "what it exported was removed with its folder" in output(result)


def test_nothing_is_started_to_list_the_tests(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.isolation.process.IsolatedProcess.__init__", pytest.fail)
    project.config(**ISOLATED)
    assert project.ids("--model-config", "cfg.json") == ["cfg.json::TestTier1::test_causal"]


def test_this_side_does_without_torch() -> None:
    """It would take a second of its own to import: the model is not here."""
    modules = [f"pytest_modeltiers.{name}" for name in ("suite", "continued", "fixtures", "report", "terminal", "isolated")]
    code = f"import sys, {', '.join(modules)}; print([name for name in ('torch', 'hypothesis') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_conftest_beside_the_config_runs_outside_and_is_named_unless_it_is_left_out(project: Any) -> None:
    project.config(**ISOLATED)
    mark = project.path / "mark"
    project.write("conftest.py", f"open({str(mark)!r}, 'w').close()\n")

    without = project.run("--model-config", "cfg.json", "--collect-only", "--noconftest")

    assert "outside of isolation" not in output(without)
    assert not mark.exists()
    named = project.run("--model-config", "cfg.json", "--collect-only")
    assert "conftest.py runs in this process, outside of isolation, with your rights" in output(named)
    assert mark.exists()


def test_the_report_names_the_walls_that_stand(pytestconfig: pytest.Config) -> None:
    isolation = importlib.import_module("pytest_modeltiers.isolated").Isolation(pytestconfig)
    about = {"config": "cfg.json", "layers": ["audit hook"], "model": "m.py", "refused": [], "tier": 1}

    isolation.pytest_runtest_logreport(SimpleNamespace(modeltiers=about))

    assert isolation.facts(Path("cfg.json"))["isolation"] == "in a process under audit hook; nothing was refused"


def test_the_users_own_tests_do_not_bring_the_model_here(project: Any) -> None:
    project.config(**ISOLATED)
    project.write("test_own.py", "def test_own(model):\n    raise AssertionError('reached')\n")

    result = project.run("--model-config", "cfg.json", "test_own.py")

    assert result.parseoutcomes() == {"passed": 1, "errors": 1}
    assert '`isolation` "process": here the model would be built in this very process' in output(result)
    assert not is_imported_here()


@pytest.mark.slow
def test_workers_have_a_process_each(project: Any) -> None:
    project.config(only=("causal", "stateless", "registration"), model=LEAKY, **ISOLATED)

    result = project.run_apart("--model-config", "cfg.json", "-n", "2")

    assert result.parseoutcomes() == {"failed": 1, "passed": 2}
    assert "in a process under" in output(result)

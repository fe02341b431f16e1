"""Models that do not answer, and models that take their process down with them."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from small_models import GOOD, output

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

HANG = GOOD.replace("x = self.embed(input_ids)", "while {condition}: pass\n        x = self.embed(input_ids)")
DIE = "import os\nimport signal\n" + GOOD.replace(
    "x = self.embed(input_ids)", "if {condition}: {death}\n        x = self.embed(input_ids)"
)
NEVER_PROBED = "input_ids.shape[0] == 1"


def test_a_model_that_hangs_at_once_is_one_failure(project: Any) -> None:
    project.config(only=("causal", "registration"), model=HANG.format(condition="True"), time_budget=1)

    result = project.run_apart("--model-config", "cfg.json")

    assert result.parseoutcomes() == {"failed": 1, "skipped": 1}
    result.stdout.fnmatch_lines(["*did not answer within the `time_budget` of 1 s*Model.forward*cfg_model.py, line *"])
    assert "Traceback" not in output(result)


@pytest.mark.parametrize("name", ["causal", "full_length"])
def test_a_model_that_hangs_in_a_test_is_stopped_with_a_line_that_says_where(project: Any, name: str) -> None:
    project.config(only=(name,), model=HANG.format(condition=NEVER_PROBED), time_budget=1)

    result = project.run_apart("--model-config", "cfg.json")

    assert result.parseoutcomes() == {"failed": 1}
    result.stdout.fnmatch_lines(["*did not answer within the `time_budget` of 1 s*Model.forward*cfg_model.py, line *"])
    assert "Traceback" not in output(result)


@pytest.mark.parametrize(
    ("death", "said"),
    [
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("os._exit(3)", "os._exit(3)"),
    ],
)
def test_a_model_that_would_end_the_run_only_fails_its_own_tests(project: Any, death: str, said: str) -> None:
    project.config("a_first.json", only=("shape_contract", "causal"), model=DIE.format(condition="True", death=death))
    project.config("z_sound.json", only=("causal",))

    result = project.run("--model-config", "a_first.json", "--model-config", "z_sound.json")

    assert result.parseoutcomes()["failed"] == 1, output(result)
    assert result.parseoutcomes()["passed"] == 1
    result.stdout.fnmatch_lines([f"*: {said}*a_first_model.py*"])
    assert "Traceback" not in output(result)


def test_a_model_that_hangs_where_it_is_built_is_one_collection_error(project: Any) -> None:
    project.config(model="def build_model():\n    while True: pass\n", time_budget=1)

    result = project.run_apart("--model-config", "cfg.json")

    assert result.parseoutcomes() == {"errors": 1}
    result.stdout.fnmatch_lines(["*did not answer within the `time_budget` of 1 s*"])


def test_a_user_test_is_not_stopped_by_the_models_time_budget(project: Any) -> None:
    project.config(time_budget=2)
    project.write("test_own.py", "import time\n\ndef test_own():\n    time.sleep(2.5)\n")

    project.run("--model-config", "cfg.json", "test_own.py").assert_outcomes(passed=2)


def test_a_model_that_kills_its_worker_fails_that_test_alone(project: Any) -> None:
    death = "os.kill(os.getpid(), signal.SIGKILL)"
    project.config(only=("full_length", "registration"), model=DIE.format(condition=NEVER_PROBED, death=death))

    # One worker: the one that takes its place runs what is left.
    result = project.run("--model-config", "cfg.json", "-n", "1", "--model-report", "out", "--junitxml=junit.xml")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert {name: count for name, count in result.parseoutcomes().items() if name not in ("workers", "warnings")} == {
        "passed": 1,
        "failed": 1,
    }
    result.stdout.fnmatch_lines(["  FAIL full_length: *the process died while this test ran*"])
    report = project.json("out/health_report.json")
    assert {check["check_name"]: check["status"] for check in report["checks"]} == {
        "tier1::full_length": "failed",
        "tier1::registration": "passed",
    }
    assert any("the process died" in check["message"] for check in report["checks"])
    cases = project.tree("junit.xml").iter("testcase")
    died = [case.get("name") for case in cases if case.findall("failure") or case.findall("error")]
    assert died == ["test_full_length"]

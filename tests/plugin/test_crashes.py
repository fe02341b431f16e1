"""Runs whose process dies or hangs in native code: the test it was in fails, what was judged stands, and the run continues."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from small_models import GOOD, output

from pytest_modeltiers.continued import calls_of, death_in_words, place_of
from pytest_modeltiers.crashes import Death, Journal, may_supervise

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")

LOCK = "(lambda lock, mutex: (lock(mutex), lock(mutex)))(ctypes.{library}(None).pthread_mutex_lock, ctypes.create_string_buffer(256))"
"""Takes a lock twice: PyDLL holds the interpreter's lock meanwhile, CDLL does not."""

DEATHS = {
    "null pointer": ("ctypes.string_at(0)", "killed by SIGSEGV (segmentation fault), in forward ("),
    "aborted": ("ctypes.CDLL(None).abort()", "killed by SIGABRT (aborted), in forward ("),
    "out of memory": ("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL (out of memory?)"),
    "native exit": ("ctypes.CDLL(None).exit(3)", "ended with status 3"),
    "holds Python's lock": (
        LOCK.format(library="PyDLL"),
        "within the `time_budget` of 2 s, in native code that nothing can stop, in forward (",
    ),
    "hangs": (
        LOCK.format(library="CDLL"),
        "within the `time_budget` of 2 s, in native code that nothing can stop; it was in Model.forward (",
    ),
}
"""What ends a process, and what is said of it."""

BUILDS = "import ctypes\n" + GOOD.replace("return Model(", "{death}\n    return Model(")
DIES = "import ctypes, os, signal\n" + GOOD.replace(
    "x = self.embed(input_ids)",
    "if input_ids.shape[0] == 1:\n            print('about to die')\n            {death}\n        x = self.embed(input_ids)",
)
"""Its forward is called with one row by ``full_length``, and not where the model is tried first."""


def written(**entries: Any) -> Journal:
    journal = Journal()
    for name, value in entries.items():
        journal.write(**{name: value})
    return journal


def test_a_process_that_is_killed_in_a_test_has_died_there() -> None:
    journal = written(begins="a::b")
    journal.write(report={"when": "setup"}, of="a::b")
    assert journal.read(-signal.SIGSEGV)
    assert [(death.test, death.status) for death in journal.deaths] == [("a::b", -signal.SIGSEGV)]
    assert journal.reports == {}

    journal.write(begins="a::c", ends="")
    journal.write(report={"when": "call"}, of="a::c")
    journal.write(ends="a::c")
    assert not journal.read(-signal.SIGSEGV)  # after all tests: the next process would only end so again
    assert journal.reports == {"a::c": [{"when": "call"}]}
    assert len(journal.deaths) == 1


@pytest.mark.parametrize("status", [-signal.SIGINT, -signal.SIGTERM])
def test_a_run_that_somebody_ends_has_not_died(status: int) -> None:
    assert not written(begins="a::b").read(status)


def test_a_run_that_wrote_its_reports_has_not_died() -> None:
    assert not written(begins="a::b", finished=True).read(1)
    assert written(begins="a::b").read(1)


def test_a_process_that_dies_where_a_model_is_built_has_died_of_its_config() -> None:
    journal = written(builds="a.json")
    assert journal.read(-signal.SIGSEGV)
    assert journal.deaths[0].config == "a.json"
    journal = written(builds="a.json")
    journal.write(builds="")
    assert not journal.read(-signal.SIGSEGV)


TRACE = """\
Fatal Python error: Segmentation fault

Thread 0x00007fe664e296c0 (most recent call first):
  File "/usr/lib/threading.py", line 331 in wait

Current thread 0x00007fe68629fb80 (most recent call first):
  File "{here}", line 7 in helper
  File "{here}", line 16 in forward
  File "{torch}", line 1789 in _call_impl

Extension modules: numpy (total: 1)
"""


def test_the_line_of_a_crash_is_that_of_the_model_s_forward() -> None:
    import torch

    trace = TRACE.format(here=__file__, torch=torch.nn.modules.module.__file__)
    death = Death(test="a::b", status=-signal.SIGSEGV, trace=trace)
    assert place_of(death) == (__file__, 16, "forward")
    assert len(calls_of(death).splitlines()) == 3
    assert death_in_words(death) == f"the process was killed by SIGSEGV (segmentation fault), in forward ({__file__}, line 16)"
    assert not death.hung
    assert Death(trace="Timeout (0:00:15)!\n").hung


def test_a_run_inside_another_program_is_not_forked(pytestconfig: pytest.Config) -> None:
    assert not may_supervise(pytestconfig, [])  # torch is imported here, and may have asked for a device


@pytest.mark.long
@pytest.mark.parametrize("way", DEATHS)
def test_what_ends_the_process_fails_one_test_and_the_run_goes_on(project: Any, way: str) -> None:
    death, said = DEATHS[way]
    project.config(only=("registration", "full_length"), model=DIES.format(death=death), time_budget=2)
    project.config("z_sound.json", only=("causal",))
    project.write("test_own.py", "def test_before():\n    pass\n")

    configs = ("--model-config", "cfg.json", "--model-config", "z_sound.json")
    result = project.run_apart("test_own.py", *configs, "--model-report", "out", "--junitxml=junit.xml")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "Traceback" not in output(result)
    result.stdout.fnmatch_lines(["*continues in a new process: cfg.json::TestTier1::test_full_length ended the one before it"])
    checks = {check["check_name"]: check for check in project.json("out/cfg/health_report.json")["checks"]}
    assert said in checks["tier1::full_length"]["message"]
    assert [name for name, check in checks.items() if check["status"] == "failed"] == ["tier1::full_length"]
    assert project.json("out/z_sound/health_report.json")["checks"][0]["status"] == "passed"
    assert len(list(project.tree("junit.xml").iter("failure"))) == 1
    assert len(list(project.tree("junit.xml").iter("testcase"))) == 4
    result.stdout.fnmatch_lines(["about to die"])


@pytest.mark.long
@pytest.mark.parametrize("death", ["ctypes.string_at(0)", LOCK.format(library="PyDLL")], ids=["crashes", "hangs"])
def test_a_model_whose_building_ends_the_process_is_one_collection_error(project: Any, death: str) -> None:
    project.config(model=BUILDS.format(death=death), time_budget=2)

    result = project.run_apart("--model-config", "cfg.json")

    assert result.parseoutcomes() == {"errors": 1}
    result.stdout.fnmatch_lines(["the model cannot be built: the *cfg_model.py, line *"])


@pytest.mark.long
def test_a_model_that_dies_again_and_again_ends_the_run(project: Any) -> None:
    project.config(only=None, model=DIES.format(death="ctypes.string_at(0)").replace("shape[0] == 1", "shape[0] > 0"))

    result = project.run_apart("--model-config", "cfg.json", "-v")

    assert result.parseoutcomes()["failed"] == 3
    result.stdout.fnmatch_lines(["*not tried: tests before it ended the process 3 times*"])


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["terminated", "killed"])
def test_the_run_ends_with_the_process_that_waits_for_it(project: Any, number: int) -> None:
    project.config(
        only=("causal",),
        model=GOOD.replace("x = self.embed", "open('pid', 'w').write(str(os.getpid())); time.sleep(60)\n        x = self.embed"),
    )
    model = project.path / "cfg_model.py"
    model.write_text("import os, time\n" + model.read_text())
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "--model-config", "cfg.json"], cwd=project.path, stdout=subprocess.DEVNULL
    )
    while not ((project.path / "pid").exists() and (project.path / "pid").read_text()):
        assert process.poll() is None
        time.sleep(0.1)
    child = int((project.path / "pid").read_text())
    assert child != process.pid

    process.send_signal(number)

    assert process.wait(20) == {signal.SIGTERM: 2, signal.SIGKILL: -number}[number]
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the run continues")


@pytest.mark.long
def test_a_run_that_is_cancelled_reports_what_was_done(project: Any) -> None:
    project.config(only=("shape_contract", "causal"))
    (project.path / "conftest.py").write_text(
        "import os, pathlib, time\n\ndef pytest_runtest_setup(item):\n    if pathlib.Path('done').exists():\n        time.sleep(60)\n\n"
        "def pytest_runtest_logreport(report):\n    if report.when == 'teardown':\n        pathlib.Path('done').touch()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "--model-config", "cfg.json", "--model-report", "out", "--junitxml", "out.xml"],
        cwd=project.path,
        stdout=subprocess.PIPE,
        text=True,
    )
    while not (project.path / "done").exists():
        assert process.poll() is None
        time.sleep(0.1)

    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)

    assert process.returncode == 2
    assert "KeyboardInterrupt" in said
    assert project.json("out/health_report.json")["summary"]["passed"] == 1
    assert (project.path / "out.xml").exists()

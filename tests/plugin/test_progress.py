"""What one sees while one waits: the order of the tests, failures when they happen, and the line that says how far the run is."""

from __future__ import annotations

import io
import sys

import pytest
from projects import Project
from small_models import GOOD, LEAKY, output

from harness.catalogue import BREAK_MOST, CATALOGUE
from pytest_modeltiers.progress import StartLine

SOME = ("causal", "shape_contract", "full_length", "registration", "memory_layout")

TERMINAL = """
import pytest

@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    config.pluginmanager.get_plugin("terminalreporter").isatty = lambda: True
"""
"""Has pytest believe that it writes to a terminal."""


def labels(ids: list[str]) -> list[str]:
    return [nodeid.rpartition("::")[2].removeprefix("test_") for nodeid in ids]


def test_what_breaks_most_runs_first_and_the_rest_in_the_order_of_the_catalogue(project: Project) -> None:
    project.config(only=None, tier=[1, 3])

    names = labels(project.ids("--model-config", "cfg.json"))

    assert names[:4] == ["shape_contract", "finite_output[typical]", "eval_deterministic", "causal"]
    first = [name for name in names if name.partition("[")[0] in {each.partition("[")[0] for each in BREAK_MOST}]
    assert names.index("initial_loss") < names.index("full_length")
    rest = [name.partition("[")[0] for name in names if name not in first]
    assert rest == sorted(rest, key=list(CATALOGUE).index)


def test_the_order_is_made_of_names_of_the_catalogue() -> None:
    for label in BREAK_MOST:
        name, _, case = label.rstrip("]").partition("[")
        assert not case or case in CATALOGUE[name].cases, label


def test_a_users_own_tests_keep_their_places(project: Project) -> None:
    project.config(only=SOME)
    project.write("test_own.py", "def test_own():\n    pass\n")

    assert labels(project.ids("test_own.py", "--model-config", "cfg.json"))[0] == "own"


REVERSED = """
def pytest_collection_modifyitems(items):
    items.reverse()
"""


def test_the_order_changes_no_verdict(project: Project) -> None:
    project.config(only=("causal", "shape_contract", "full_length"), model=LEAKY)
    verdicts = []
    for hook in ("", REVERSED):
        project.write("conftest.py", hook)
        project.run("--model-config", "cfg.json", "--modeltiers-json", "found.json", "-p", "no:cacheprovider")
        checks = project.json("found.json")["checks"]
        verdicts.append([(check["check_name"], check["status"], check["message"]) for check in checks])

    assert verdicts[0] == verdicts[1] != []


def test_a_terminal_sees_a_failure_when_it_happens_and_how_far_the_run_is(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    project.write("conftest.py", TERMINAL)
    project.config(only=SOME, model=LEAKY)

    result = project.run("--model-config", "cfg.json")

    while_it_ran, _, summary = output(result).partition("1 problem")
    assert "FAIL causal: position" in while_it_ran
    assert while_it_ran.index("2 of 5 tests") > while_it_ran.index("FAIL causal")
    assert "1 failed · full_length" in while_it_ran
    assert "FAIL causal: position" in summary
    assert "cfg.json ." not in while_it_ran
    result.assert_outcomes(passed=4, failed=1)


@pytest.mark.parametrize("how", ["-v", "-s", "CI"])
def test_the_line_is_left_out_where_it_would_be_in_the_way(project: Project, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    project.write("conftest.py", TERMINAL)
    project.config(only=SOME, model=GOOD)
    if how == "CI":
        monkeypatch.setenv("CI", "1")

    assert " of 5 tests" not in output(project.run("--model-config", "cfg.json", *([] if how == "CI" else [how])))


def test_a_users_own_tests_among_them_have_their_letters(project: Project) -> None:
    project.write("conftest.py", TERMINAL)
    project.config(only=SOME)
    project.write("test_own.py", "def test_own():\n    pass\n")

    said = output(project.run("--model-config", "cfg.json", "test_own.py"))

    assert "test_own.py ." in said
    assert " of 6 tests" not in said


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_is_done_before_the_header_is_shown_in_one_line_that_goes_away(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    monkeypatch.setattr("pytest_modeltiers.progress.may_redraw", lambda _config: True)
    monkeypatch.setenv("COLUMNS", "20")

    line = StartLine(pytestconfig)
    line.say("importing PyTorch and more")
    line.close()

    assert screen.getvalue() == f"\rimporting PyTorch …\r{' ' * 19}\r"

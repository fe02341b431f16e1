"""What a run prints and where: words, first lines, warnings, JUnit, JSON and GitHub."""

from __future__ import annotations

from typing import Any

import pytest
from small_models import GOOD, HIDING, LEAKY, output

REGISTRATION = ("registration",)


def test_a_failing_tests_first_line_says_what_is_wrong_with_the_model_and_where(project: Any) -> None:
    project.config(model=LEAKY)

    result = project.run("--model-config", "cfg.json")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["  FAIL causal: position * change when token *(cfg_model.py:15)"])


def test_a_failure_is_told_once(project: Any) -> None:
    project.config(model=LEAKY)

    result = project.run("--model-config", "cfg.json")

    text = output(result)
    assert text.count("the causal mask") == 1
    assert "FAILURES" not in text
    assert "FAILED cfg.json::TestTier1::test_causal" in result.outlines


@pytest.mark.parametrize("option", [[], ["-q"], ["-v"], ["--tb=no"]])
def test_no_line_is_wider_than_the_terminal_nor_cut(project: Any, monkeypatch: pytest.MonkeyPatch, option: list[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    project.config(only=("causal", "batch_independence", "registration", "padding_ignored"), model=LEAKY, pad_token_id=0)

    lines = project.run("--model-config", "cfg.json", *option).outlines

    summary = lines[next(index for index, line in enumerate(lines) if "problem" in line) :]
    assert [line for line in summary if len(line) > 80 or line.endswith("...")] == []
    told = " ".join(" ".join(summary).split())
    assert "or a statistic over the sequence axis" in told or "--tb=no" in option


def test_a_users_own_failure_keeps_its_section(project: Any) -> None:
    project.config(model=LEAKY)
    project.write("test_own.py", "def test_own():\n    assert 'mine' == 'yours'\n")

    result = project.run("--model-config", "cfg.json", "test_own.py")

    text = output(result)
    assert "FAILURES" in text
    assert text.count("the causal mask") == 1
    result.stdout.fnmatch_lines_random(["FAILED cfg.json::TestTier1::test_causal", "FAILED test_own.py::test_own - *mine*"])
    result.assert_outcomes(failed=2)


def test_what_a_model_prints_while_its_test_fails_is_shown(project: Any) -> None:
    project.config(model=LEAKY.replace("x = self.embed", "print('here I am')\n        x = self.embed"))

    assert "here I am" in output(project.run("--model-config", "cfg.json"))
    assert "here I am" not in output(project.run("--model-config", "cfg.json", "--show-capture=no"))


@pytest.mark.parametrize(("model", "colour"), [(LEAKY, "31"), (HIDING, "33"), (GOOD, "32")])
def test_the_bar_has_the_colour_of_the_verdict(project: Any, model: str, colour: str) -> None:
    project.config(only=("causal", "registration"), model=model)

    lines = project.run("--model-config", "cfg.json", "--color=yes").outlines

    bar = next(line for line in lines if "lm_tiny (cfg.json)" in line)
    assert f"\x1b[{colour}m" in bar


def test_a_finding_has_its_counterexample_measure_and_usual_cause(project: Any) -> None:
    project.config(model=LEAKY)

    result = project.run("--model-config", "cfg.json")

    result.stdout.fnmatch_lines(["*counterexample: *batch=1*", "*measured: *, allowed *", "*usual cause: *"])


def test_a_failure_shows_no_traceback_and_no_code_of_the_plugin(project: Any) -> None:
    project.config(model=LEAKY)

    text = output(project.run("--model-config", "cfg.json"))

    for part in ("Traceback", "verdicts.py", "critical.py", "INTERNALERROR", "Falsifying", "def test_"):
        assert part not in text


def test_a_passing_run_ends_with_the_names_of_the_tier(project: Any) -> None:
    project.config(only=("causal", "dtype_move"))

    result = project.run("--model-config", "cfg.json")

    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*lm_tiny (cfg.json): sound, grade A*",
            "tier 1 * critical properties: 4 ok (*s)",
            "  ok   causal, dtype_move[[]bfloat16, float16, float64]",
        ]
    )


def test_every_test_has_a_row_with_v(project: Any) -> None:
    project.config(only=("causal", "train_mode"))

    result = project.run("--model-config", "cfg.json", "-v")

    result.stdout.fnmatch_lines(["  ok   causal * s*", "  skip train_mode[[]statistics] *no layer keeps statistics*"])


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        (LEAKY, [], "next: --lf runs again what failed, -v names what held*"),
        (GOOD, [], "next: --model-report DIR writes a page with every measurement"),
        (None, ["--model-report", "out"], "next: modeltiers check model.py judges a model of yours"),
    ],
    ids=["failed", "sound", "built-in"],
)
def test_a_run_ends_with_what_to_do_next(project: Any, model: str | None, options: list[str], said: str) -> None:
    project.config(model=model)

    project.run("--model-config", "cfg.json", *options).stdout.fnmatch_lines([said])


@pytest.mark.parametrize("option", ["-q", "-v", "CI"])
def test_what_to_do_next_is_for_people_who_asked_for_no_more_and_no_less(
    project: Any, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    if option == "CI":
        monkeypatch.setenv("CI", "1")
    project.config(model=LEAKY)

    assert "next: " not in output(project.run("--model-config", "cfg.json", *([] if option == "CI" else [option])))


def test_quiet_shows_only_what_needs_attention(project: Any) -> None:
    project.config(only=("causal", "registration"), model=LEAKY)

    result = project.run("--model-config", "cfg.json", "-q")

    result.stdout.fnmatch_lines(["  FAIL causal: *"])
    result.stdout.no_fnmatch_line("  ok   registration*")


def test_a_warning_has_a_letter_of_its_own(project: Any) -> None:
    project.config(only=REGISTRATION, model=HIDING)

    result = project.run("--model-config", "cfg.json")

    assert result.ret == 0
    result.stdout.fnmatch_lines(["cfg.json w *", "*tier 1 * 1 warn *", "  WARN registration: *`spare[[]0]` is not registered*"])
    assert result.parseoutcomes() == {"warn": 1}


def test_a_warning_has_a_word_of_its_own(project: Any) -> None:
    project.config(only=REGISTRATION, model=HIDING)

    project.run("--model-config", "cfg.json", "-v").stdout.fnmatch_lines(["cfg.json::TestTier1::test_registration WARN*"])


def test_a_warning_counts_half_in_the_score(project: Any) -> None:
    project.config(only=("registration", "causal"), model=HIDING)

    project.run("--model-config", "cfg.json", "--model-report", "out").stdout.fnmatch_lines(["*: sound, 1 warning, grade C =*"])
    assert project.json("out/health_report.json")["health_score"] == 75.0


def test_a_strict_run_fails_on_a_warning(project: Any) -> None:
    project.config(only=REGISTRATION, model=HIDING)

    result = project.run("--model-config", "cfg.json", "--modeltiers-strict", "--model-report", "out")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.parseoutcomes() == {"failed": 1}
    result.stdout.fnmatch_lines(["*`spare[[]0]` is not registered*"])
    assert project.json("out/health_report.json")["summary"] == {"total": 1, "passed": 0, "warnings": 0, "failed": 1}


def test_a_skip_gives_its_reason(project: Any) -> None:
    project.config(only=("padding_ignored",), max_seq_len=1)

    result = project.run("--model-config", "cfg.json", "-rs")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED * cfg.json:1: all sequences have the same length*"])


@pytest.mark.parametrize(("option", "lines"), [((), 0), (("-v",), 4)])
def test_tests_that_a_failure_keeps_from_being_judged_are_counted_with_it(
    project: Any, option: tuple[str, ...], lines: int
) -> None:
    raising = GOOD.replace("x = self.embed(input_ids)", "raise ValueError")
    project.config(only=("shape_contract", "causal", "registration", "stateless", "mode_round_trip"), model=raising)

    result = project.run("--model-config", "cfg.json", *option)

    assert sum(line.startswith("  skip ") for line in result.outlines) == lines
    result.stdout.fnmatch_lines(["  FAIL shape_contract: *", "*not judged: 4 tests, until this is fixed"])


def test_tests_that_are_skipped_for_one_reason_are_one_line(project: Any) -> None:
    project.config(only=("adapter_layers",))

    result = project.run("--model-config", "cfg.json", "-k", "adapter_layers")

    result.stdout.fnmatch_lines(["  skip adapter_layers[[]disabled, merged, saved, trained]: the model has no adapters *"])


@pytest.fixture(params=["xunit1", "xunit2"])
def junit(request: pytest.FixtureRequest, project: Any) -> dict[str, dict[str, str]]:
    """The properties of the test cases of a run with a failure, a warning and a pass."""
    project.config(
        only=("registration", "causal"), model=LEAKY.replace("self.embed =", "self.spare = [nn.Linear(2, 2)]; self.embed =", 1)
    )
    project.config("fine.json")
    project.run(
        "--model-config", "cfg.json", "--model-config", "fine.json", "--junitxml=junit.xml", "-o", f"junit_family={request.param}"
    )
    return {
        f"{case.get('classname')}.{name}": {p.get("name", ""): p.get("value", "") for p in case.iter("property")}
        for case in project.tree("junit.xml").iter("testcase")
        for name in [case.get("name")]
    }


def test_junit_has_a_case_for_every_test_with_status_and_message(junit: dict[str, dict[str, str]]) -> None:
    found = {
        name.rpartition(".test_")[2]: (p["modeltiers_status"], p["modeltiers_property"])
        for name, p in junit.items()
        if "fine" not in name
    }

    assert found == {"causal": ("fail", "causal"), "registration": ("warn", "registration")}
    assert [p["modeltiers_status"] for name, p in junit.items() if "fine" in name] == ["ok"]


def test_only_what_failed_or_warned_has_a_counterexample(junit: dict[str, dict[str, str]]) -> None:
    assert [p["modeltiers_status"] for p in junit.values() if "modeltiers_counterexample" in p] == ["fail", "warn"]


def test_junit_says_which_bug_a_red_test_belongs_to(junit: dict[str, dict[str, str]]) -> None:
    assert sorted(p["modeltiers_cause"] for p in junit.values() if "modeltiers_cause" in p) == ["causal", "registration"]


@pytest.mark.parametrize("family", ["xunit1", "xunit2"])
def test_junit_calls_a_skip_a_skip_and_points_into_the_users_folder(project: Any, family: str) -> None:
    project.config(only=("padding_ignored", "registration"), max_seq_len=1)
    project.run("--model-config", "cfg.json", "--junitxml=junit.xml", "-o", f"junit_family={family}")

    cases = list(project.tree("junit.xml").iter("testcase"))
    found = {
        case.get("name"): next(p.get("value") for p in case.iter("property") if p.get("name") == "modeltiers_status")
        for case in cases
    }
    assert found == {"test_padding_ignored": "skipped", "test_registration": "ok"}
    assert {case.get("file") for case in cases} == ({"cfg.json"} if family == "xunit1" else {None})


def test_a_test_points_to_the_config_that_asks_for_it(project: Any) -> None:
    project.config(model=LEAKY)
    project.write("conftest.py", "def pytest_runtest_logreport(report):\n    print('at', report.location[:2], flush=True)\n")

    text = output(project.run("--model-config", "cfg.json", "-s", "-v"))

    assert "at ('cfg.json', 0)" in text
    assert "<-" not in text


def test_junit_has_the_module_the_message_and_the_measure(junit: dict[str, dict[str, str]]) -> None:
    warned = next(p for p in junit.values() if p["modeltiers_status"] == "warn")
    failed = next(p for p in junit.values() if p["modeltiers_status"] == "fail")

    assert warned["modeltiers_module"] == "spare[0]"
    assert "not registered" in warned["modeltiers_message"]
    assert "position" in failed["modeltiers_message"]
    assert "batch=" in failed["modeltiers_counterexample"]
    assert float(failed["modeltiers_measured"]) > float(failed["modeltiers_bound"])


def test_junit_survives_whatever_a_model_says(project: Any) -> None:
    raising = LEAKY.replace(
        "x = self.embed", "if input_ids.shape[0] == 1: raise ValueError('<a> & \"b\" \\x00\\x1b[31m ]]>')\n        x = self.embed"
    )
    project.config(model=raising, only=("shape_contract", "causal"))
    project.run("--model-config", "cfg.json", "--junitxml=junit.xml")

    assert len(list(project.tree("junit.xml").iter("testcase"))) == 2


def test_json_report_has_the_finding_as_metadata(project: Any) -> None:
    pytest.importorskip("pytest_jsonreport")
    project.config(only=("registration", "gradient_flow"), model=HIDING)
    project.run("--model-config", "cfg.json", "--json-report", "--json-report-file=report.json")

    tests = {test["nodeid"].rpartition("test_")[2]: test for test in project.json("report.json")["tests"]}
    evidence = tests["registration"]["metadata"]["modeltiers"]["evidence"]
    assert (evidence["status"], evidence["module"]) == ("warn", "spare[0]")
    assert set(tests) == {"registration", "gradient_flow[finite]", "gradient_flow[reaches_every_parameter]"}


def test_github_annotates_failures_and_warnings(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project.config(
        only=("registration", "causal", "eval_deterministic"),
        model=LEAKY.replace("self.embed =", "self.spare = [nn.Linear(2, 2)]; self.embed =", 1),
    )
    monkeypatch.setenv("GITHUB_ACTIONS", "true")

    result = project.run("--model-config", "cfg.json")

    stop, resume, *notes = [line for line in result.outlines if line.startswith("::")]
    assert resume == f"::{stop.removeprefix('::stop-commands::')}::"
    places = [note.partition(",title")[0] for note in sorted(notes)]
    assert places == ["::error file=cfg_model.py,line=15", "::warning file=cfg_model.py,line=7"]
    assert "title=tier 1%3A causal::" in sorted(notes)[0]


def test_what_a_model_prints_is_no_command_to_github_with_s_either(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project.config(model=LEAKY.replace("x = self.embed", "print('::error::mine')\n        x = self.embed", 1))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")

    lines = [
        line.rpartition("::error::mine")[1] or line
        for line in project.run("--model-config", "cfg.json", "-s").outlines
        if "::" in line
    ]

    stop = next(line for line in lines if line.startswith("::stop-commands::"))
    resume = f"::{stop.removeprefix('::stop-commands::')}::"
    begun, ended = lines.index(stop), lines.index(resume)
    assert "::error::mine" in lines[begun:ended]
    assert "::error::mine" not in lines[:begun] + lines[ended:]
    assert [line.partition(" ")[0] for line in lines[ended + 1 :] if line.startswith("::")] == ["::error"]


def test_elsewhere_there_are_no_annotations(project: Any) -> None:
    project.config(model=LEAKY)

    assert not [line for line in project.run("--model-config", "cfg.json").outlines if line.startswith("::")]


def test_github_gets_a_summary_of_every_config(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project.config(model=LEAKY, run_name="run of a leaky one")
    project.config("fine.json", run_name="run of a sound one")
    summary = project.write("summary.md", "before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))

    project.run("--model-config", "cfg.json", "--model-config", "fine.json")

    text = summary.read_text()
    assert text.startswith("before\n"), "a step adds to what others wrote"
    assert "run of a leaky one" in text
    assert "run of a sound one" in text
    assert "causal" in text


def test_a_summary_that_cannot_be_written_is_said_in_one_line(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project.config()
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / "no" / "such" / "folder.md"))

    result = project.run("--model-config", "cfg.json")

    assert "Traceback" not in output(result)
    assert "INTERNALERROR" not in output(result)
    result.assert_outcomes(passed=1)


REPEATED = """
import pytest

@pytest.fixture
def repetition(request):
    return request.param

def pytest_generate_tests(metafunc):
    metafunc.fixturenames.append("repetition")
    metafunc.parametrize("repetition", [1, 2], indirect=True)
"""


def test_a_plugin_that_repeats_tests_by_a_parameter_of_its_own_changes_no_verdict(project: Any) -> None:
    project.config(only=("causal", "finite_output"))
    project.write("conftest.py", REPEATED)

    project.run("--model-config", "cfg.json").assert_outcomes(passed=6, skipped=2)


def test_what_fails_beside_a_verdict_is_told_rather_than_the_verdict(project: Any) -> None:
    project.config()
    wrapper = (
        "@pytest.hookimpl(wrapper=True)\ndef pytest_pyfunc_call(pyfuncitem):\n    yield\n    raise ValueError('beside it')\n"
    )
    project.write("conftest.py", f"import pytest\n\n{wrapper}")

    result = project.run("--model-config", "cfg.json")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ValueError: beside it*"])

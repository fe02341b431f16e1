"""The health report that ``--model-report`` writes."""

from __future__ import annotations

import json
import shlex
import sys
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from small_models import LEAKY, output

from harness.health.history import LOGGERS
from pytest_modeltiers import plugin

FILES = {"health_report.json", "health_report.md", "health_report.html", "badge.json", "badge.svg"}


def written(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_one_config_gives_three_files(project: Any) -> None:
    project.config()

    result = project.run("--model-config", "cfg.json", "--model-report", "out")

    assert written(project.path / "out") == FILES
    result.stdout.fnmatch_lines(["*out/health_report.html"])


def test_a_run_leaves_no_folder_of_hypothesis_behind(project: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HYPOTHESIS_STORAGE_DIRECTORY", raising=False)
    monkeypatch.setenv("MODELTIERS_CACHE", str(tmp_path / "cache"))
    project.config(only=("shape_contract",))

    project.run_apart("--model-config", "cfg.json")

    assert not (project.path / ".hypothesis").exists()
    assert (tmp_path / "cache" / "hypothesis").exists()  # what it would have been


def test_two_configs_give_a_folder_each(project: Any) -> None:
    project.config("a.json")
    project.config("b.json")

    project.run("--model-config", "a.json", "--model-config", "b.json", "--model-report", "out")

    assert written(project.path / "out") == {f"{name}/{file}" for name in "ab" for file in FILES}


def test_two_configs_of_one_name_do_not_overwrite_each_other(project: Any) -> None:
    project.config("a/cfg.json")
    project.config("b/cfg.json", only=("causal", "registration"))

    project.run("--model-config", "a/cfg.json", "--model-config", "b/cfg.json", "--model-report", "out")

    assert len(written(project.path / "out")) == 2 * len(FILES)


def test_configs_of_one_stem_in_one_folder_do_not_overwrite_each_other(project: Any) -> None:
    project.config("cfg.json")
    project.write("cfg.toml", 'task_name = "lm_tiny"\ntier = "1"\n')

    project.run("--model-config", "cfg.json", "--model-config", "cfg.toml", "-k", "causal", "--model-report", "out")

    assert len(written(project.path / "out")) == 2 * len(FILES)


def test_the_report_says_what_the_run_said(project: Any) -> None:
    project.config(only=("causal", "registration"), model=LEAKY, run_name="my run")
    project.run("--model-config", "cfg.json", "--model-report", "out")

    report = project.json("out/health_report.json")
    assert report["model_name"] == "my run"
    assert report["summary"] == {"total": 2, "passed": 1, "warnings": 0, "failed": 1}
    assert (report["health_score"], report["all_passed"]) == (50.0, False)
    assert {check["check_name"]: check["status"] for check in report["checks"]} == {
        "tier1::causal": "failed",
        "tier1::registration": "passed",
    }
    assert (report["grade"], report["problems"]) == ("F", 1)
    causal = next(check for check in report["checks"] if check["status"] == "failed")
    assert causal["details"]["nodeid"] == "cfg.json::TestTier1::test_causal"
    assert causal["details"]["statement"] == "A position's logits never depend on later tokens"
    assert causal["recommendation"] in report["recommendations"]
    assert causal["recommendation"]


def test_the_report_says_where_it_ran_and_with_which_config_but_no_secret(project: Any) -> None:
    file = project.write("model.py", LEAKY)
    db = "postgresql://me:secret@host/runs"
    project.config(only=("causal",), model_file=str(file), db_path=db, model_kwargs={}, seed=3)

    project.run("--model-config", "cfg.json", "--model-report", "out")

    report = project.json("out/health_report.json")
    found = report["environment"]
    assert {key: found[key] for key in ("device", "seed", "workers", "commit")} == {
        "device": "cpu",
        "seed": 3,
        "workers": 1,
        "commit": None,
    }
    assert (found["versions"]["pytest-modeltiers"], found["seconds"] > 0) == ("0.1.0", True)
    assert (report["config"]["model_file"], report["config"]["db_path"]) == ("model.py", "postgresql://***@host/runs")
    texts = [(project.path / "out" / file).read_text() for file in FILES]
    assert not [text for text in texts if "secret@" in text or f"{project.path}" in text]


def test_the_report_counts_the_calls_of_the_model_and_their_rows(project: Any) -> None:
    project.config(only=("full_length", "causal"))
    result = project.run("--model-config", "cfg.json", "-v", "--model-report", "out")

    checks = project.json("out/health_report.json")["checks"]
    counts = {check["details"]["property"]: (check["details"]["forwards"], check["details"]["rows"]) for check in checks}
    assert all(rows >= forwards >= 2 for forwards, rows in counts.values())
    assert set(counts) == {"full_length", "causal"}
    total = sum(forwards for forwards, _ in counts.values())
    assert f"{total:,} calls of the model, most of them in" in " ".join(output(result).split())


@pytest.mark.parametrize("name", ["cfg.json", "sub/cfg.json"])
def test_the_command_in_the_report_runs_the_test_again(project: Any, name: str) -> None:
    project.config(name, only=("causal", "registration"), model=LEAKY)
    project.run("--model-config", name, "--model-report", "out")
    causal = next(check for check in project.json("out/health_report.json")["checks"] if check["check_name"] == "tier1::causal")
    program, *arguments = causal["details"]["rerun"].split()

    assert program == "pytest"
    project.run(*arguments).assert_outcomes(failed=1)


@pytest.mark.parametrize("folder", ["", "sub"])
def test_each_problem_ends_with_the_command_that_runs_it_again(
    project: Any, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    project.config("sub/cfg.json", only=("causal", "registration"), model=LEAKY)
    project.write("pytest.ini", "[pytest]")
    monkeypatch.chdir(project.path / folder)
    first = project.run("--model-config", "cfg.json" if folder else "sub/cfg.json")
    _, _, told = first.stdout.str().replace("\\\n", " ").partition("rerun: ")
    program, *arguments = shlex.split(told.splitlines()[0])

    again = project.run(*arguments)

    assert program == "pytest"
    again.assert_outcomes(failed=1)
    headline = next(line for line in first.outlines if line.startswith("  FAIL causal: "))
    assert headline in again.outlines


def test_all_that_is_said_of_a_problem_fits_the_terminal(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    config = "a_model_with_a_long_name.json"
    project.config(config, only=("causal", "registration"))
    project.run("--model-config", config, "--model-report", "out")
    project.config(config, only=("causal",), model=LEAKY)

    lines = project.run("--model-config", config, "--model-report", "out").outlines

    said = lines[next(at for at, line in enumerate(lines) if line.startswith("  FAIL causal")) :]
    assert [line for line in said if len(line) > 80] == []
    assert "       rerun: pytest --model-config a_model_with_a_long_name.json \\" in said
    assert any(line.startswith("since the last run: Worse: 1 new; 1 test ran only before;") for line in said)


def test_what_check_was_asked_is_what_runs_a_problem_again(project: Any) -> None:
    project.config(only=("causal",), model=LEAKY)

    result = project.run("--model-config", "cfg.json", "--modeltiers-command", "modeltiers check cfg.json")

    assert "       rerun: modeltiers check cfg.json -k test_causal" in result.outlines


def test_a_whole_run_says_nothing_of_coverage(project: Any) -> None:
    project.config(only=("causal", "batch_independence"))

    result = project.run("--model-config", "cfg.json", "--model-report", "out")

    report = project.json("out/health_report.json")
    assert report["coverage"] == ""
    assert not any("counterexample" in check["details"] for check in report["checks"]), "nothing failed"
    assert "Only" not in output(result)


@pytest.mark.parametrize("part", [["-k", "causal"], ["--deselect", "cfg.json::TestTier1::test_batch_independence"]])
def test_a_part_of_a_run_says_so_and_has_no_grade(project: Any, part: list[str]) -> None:
    project.config(only=("causal", "batch_independence"))

    result = project.run("--model-config", "cfg.json", "--model-report", "out", *part)

    sentence = "Only 1 of the suite's 3 tests ran, so there is no grade."
    assert project.json("out/health_report.json")["coverage"] == sentence
    assert sentence in output(result)
    assert project.json("out/health_report.json")["grade"] == ""
    assert sentence in (project.path / "out/health_report.md").read_text()


def test_a_run_that_stops_early_says_so(project: Any) -> None:
    project.config(only=("causal", "registration", "full_length"), model=LEAKY)

    project.run("--model-config", "cfg.json", "--model-report", "out", "-x")

    assert project.json("out/health_report.json")["coverage"].startswith("Only 1 of the suite's 3 tests ran")


def test_skipped_tests_are_listed_with_their_reasons(project: Any) -> None:
    project.config(only=("padding_ignored", "causal"), max_seq_len=2, model=None, pad_token_id=None)
    project.config("short.json", only=("padding_ignored", "registration"), max_seq_len=1)

    project.run("--model-config", "short.json", "--model-report", "out")

    report = project.json("out/health_report.json")
    assert [skipped["check_name"] for skipped in report["skipped"]] == ["tier1::padding_ignored"]
    assert "same length" in report["skipped"][0]["reason"]
    assert report["summary"]["total"] == 1


def test_a_user_test_that_merely_uses_the_fixtures_is_no_check_of_the_report(project: Any) -> None:
    project.config()
    project.write("test_own.py", "def test_own(model):\n    assert False\n")

    project.run("--model-config", "cfg.json", "test_own.py", "--model-report", "out").assert_outcomes(passed=1, failed=1)

    assert project.json("out/health_report.json")["summary"]["total"] == 1


def test_nothing_is_written_when_a_model_cannot_be_collected(project: Any) -> None:
    project.config(model="def build_model():\n    return None\n")

    result = project.run("--model-config", "cfg.json", "--model-report", "out")

    result.assert_outcomes(errors=1)
    assert not (project.path / "out").exists()


def test_nothing_is_written_when_one_of_two_models_cannot_be_collected(project: Any) -> None:
    project.config("fine.json")
    project.config(model="def build_model():\n    return None\n")

    result = project.run(
        "--model-config", "fine.json", "--model-config", "cfg.json", "--model-report", "out", "--continue-on-collection-errors"
    )

    result.assert_outcomes(errors=1, passed=1)
    assert not (project.path / "out").exists()


def test_an_earlier_report_is_replaced(project: Any) -> None:
    project.config()
    project.write("out/health_report.json", "{}")

    project.run("--model-config", "cfg.json", "--model-report", "out")

    assert project.json("out/health_report.json")["summary"]["total"] == 1


def test_earlier_reports_are_kept_and_compared_with(project: Any) -> None:
    project.config(only=("causal", "registration"))
    project.run("--model-config", "cfg.json", "--model-report", "out")
    project.config(only=("causal", "registration"), model=LEAKY)
    result = project.run("--model-config", "cfg.json", "--model-report", "out")
    result.stdout.fnmatch_lines(["since the last run: Worse: 1 new; grade A → F, health score 100 → 50"])

    earlier = project.json("out/health_report.json")["since_last_run"]
    assert [finding["check_name"] for finding in earlier["new"]] == ["tier1::causal"]
    assert earlier["status"] == "fail"
    (kept,) = (project.path / "out/history").iterdir()
    assert json.loads(kept.read_text())["all_passed"]
    assert "Worse: 1 new" in (project.path / "out/health_report.html").read_text()
    assert project.json("out/badge.json")["message"] == "F, 1 problem"


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_a_logger_that_is_not_installed_is_said_before_the_run(project: Any) -> None:
    config = types.SimpleNamespace(getoption=lambda _: None)
    with pytest.raises(pytest.exit.Exception, match="`log_to` wandb needs wandb, which is not installed") as left:
        plugin._activate(config, [project.config(log_to=["wandb"])])  # type: ignore[arg-type]
    assert left.value.returncode == 2


def test_a_logger_that_fails_takes_nothing_away(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> str:
        raise ConnectionError("no route\nto host")

    monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("wandb"))
    monkeypatch.setitem(LOGGERS, "wandb", refuse)
    project.config(log_to=["wandb"])
    result = project.run("--model-config", "cfg.json", "--model-report", "out")
    result.stdout.fnmatch_lines(["report: *", "not logged to wandb: ConnectionError: no route"])
    assert result.ret == 0


def test_a_folder_that_cannot_be_written_is_said_in_one_line(project: Any) -> None:
    project.config()
    project.write("out", "a file, not a folder")

    result = project.run("--model-config", "cfg.json", "--model-report", "out")

    text = output(result)
    assert result.ret not in (pytest.ExitCode.OK, pytest.ExitCode.INTERNAL_ERROR)
    assert "--model-report: cannot write into out" in text
    assert "Traceback" not in text
    assert "INTERNALERROR" not in text

"""The benchmark of detection: judged, counted, logged, and gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import detection
import pytest
from detection import main
from detection_figures import Outcome, reached, summary, table


def _bug(**facts: object) -> Outcome:
    found = {"found": ["causal"], "fails": 1, "first": "causal", "module": "blocks.1.attn", "seconds": 1.0}
    return Outcome(
        **{
            "part": "mutants",
            "name": "m",
            "seed": 0,
            "kind": "bug",
            "expected": ["causal"],
            "blamed": "blocks.1",
            **found,
            **facts,
        }
    )


def test_a_quick_run_judges_counts_and_logs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--quick", "--only", "Perceptron", "--parts", "twins", "mutants", "--seed", "4", "--log", str(tmp_path / "log")]
    monkeypatch.setattr(detection, "_QUICK", 40)
    assert main([*arguments, "--json", str(tmp_path / "json")]) == 0
    assert "right property first" in capsys.readouterr().out
    report = json.loads((tmp_path / "json").read_text())
    assert report["mutants"]["drawn"] > 0
    assert not report["not_judged"]
    logged = (tmp_path / "log").read_text()
    assert len(logged.splitlines()) == len(report["outcomes"])
    assert main(arguments) == 0
    assert (tmp_path / "log").read_text() == logged, "what is in the log is not judged again"


def test_a_crash_or_a_long_wait_is_an_outcome_of_its_own() -> None:
    report = summary([_bug(), _bug(error="not judged within 300 s")])
    assert report["mutants"]["bugs"] == 1
    assert len(report["not_judged"]) == 1
    assert not reached(report)


def test_a_bug_is_caught_by_a_property_that_it_breaks() -> None:
    missed, misnamed = _bug(found=[], first="", module=""), _bug(found=["stateless", "causal"], first="stateless")
    figures = summary([_bug(), missed, misnamed])["mutants"]
    assert figures["caught"] == pytest.approx(2 / 3, abs=1e-3)
    assert figures["right_first"] == pytest.approx(1 / 3, abs=1e-3)
    assert len(figures["missed"]) == len(figures["wrong_first"]) == 1


def test_blame_may_name_a_part_of_the_module_but_not_the_module_around_it() -> None:
    assert _bug().module_named
    assert _bug(module="blocks.1").module_named
    assert not _bug(module="blocks.10").module_named
    assert not _bug(module="(model)").module_named


def test_an_alarm_about_a_sound_model_is_told() -> None:
    report = summary([_bug(kind="other", expected=[]), _bug(part="twins", kind="sound", expected=[])])
    assert len(report["sound"]["mutants"]["failures"]) == len(report["sound"]["twins"]["failures"]) == 1
    assert "false alarms:" in table(report)
    assert not reached(report)

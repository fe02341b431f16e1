"""Runs of a database compared, and the looks at a baseline counted."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gate_scores import losses, right_or_wrong

from harness.errors import ComparisonError
from harness.evidence import Status
from harness.experiments import ExperimentDB, ExperimentError, UnknownRunError
from harness.monitoring.gate import GateOptions, compare_with_baseline
from harness.monitoring.gate.comparison import ComparisonFinding


@pytest.fixture
def db(tmp_path: Path) -> Iterator[ExperimentDB]:
    with ExperimentDB(tmp_path / "experiments.db") as database:
        yield database


def run_with(db: ExperimentDB, name: str, dataset: str = "digits", **values: Any) -> int:
    with db.start_run(name) as run:
        for metric, scores in values.items():
            run.log_scores(metric, scores, dataset=dataset)
    return run.id


def pair(db: ExperimentDB, worse: int = 130, better: int = 70, name: str = "candidate") -> tuple[int, int]:
    before, after = right_or_wrong(5000, worse, better)
    return run_with(db, "baseline", correct=before), run_with(db, name, correct=after)


def test_a_candidate_is_held_against_a_named_baseline(db: ExperimentDB) -> None:
    baseline, candidate = pair(db)
    db.set_name("production", baseline)
    found = compare_with_baseline(db, "candidate", "production")
    assert found.status is Status.FAIL
    for run in (baseline, candidate):
        (record,) = db.get_comparisons(run)
        assert (record.baseline_id, record.candidate_id, record.metric) == (baseline, candidate, "correct")
        assert record.result["status"] == "fail"
        assert record.result["message"] == found.message
        assert record.result["gate"]["look"] == 1
    json.dumps(found.to_json(), allow_nan=False)


def test_all_scores_in_common_are_compared_in_their_direction(db: ExperimentDB) -> None:
    before, after = losses(2000, worsening=0.5)
    run_with(db, "baseline", loss=before, correct=before < 1, bleu=before)
    run_with(db, "candidate", loss=after, correct=after < 1)
    found = compare_with_baseline(db, "candidate", "baseline", options=GateOptions(margins={"loss": 0.02}))
    assert [comparison.metric for comparison in found.metrics] == ["correct", "loss"]
    assert found["loss"].finding is ComparisonFinding.WORSE
    assert (found["loss"].higher_is_better, found["correct"].higher_is_better) == (False, True)
    assert found["loss"].margin == 0.02
    only = compare_with_baseline(db, "candidate", "baseline", ["loss"])
    assert [comparison.metric for comparison in only.metrics] == ["loss"]


def test_slices_are_cut(db: ExperimentDB) -> None:
    baseline, candidate = pair(db, 100, 100)
    worse = db.get_scores(baseline, "correct").values > db.get_scores(candidate, "correct").values
    classes = np.where(worse, 0, 1)
    found = compare_with_baseline(db, "candidate", "baseline", slices={"class": classes})
    assert "in class=0" in found.message
    assert found.status is Status.FAIL


def test_each_candidate_is_another_look_and_a_repeated_job_is_not(db: ExperimentDB) -> None:
    baseline, first = pair(db)
    _, after = right_or_wrong(5000, 130, 70)
    second = run_with(db, "second", correct=np.roll(after, 70))
    again = run_with(db, "again", correct=after)
    found = [compare_with_baseline(db, run, baseline) for run in (first, second, again, second)]
    assert [one["correct"].look for one in found] == [1, 2, 1, 2]
    assert found[0].to_json() == found[2].to_json()
    other = run_with(db, "other baseline", correct=np.ones(5000))
    assert compare_with_baseline(db, first, other)["correct"].look == 1
    assert compare_with_baseline(db, baseline, first)["correct"].look == 1


def test_what_the_first_look_expects_holds_for_all(db: ExperimentDB) -> None:
    baseline, candidate = pair(db)
    other = run_with(db, "other", correct=np.zeros(5000))
    shares = []
    for run, expected in ((candidate, 20), (other, 1)):
        found = compare_with_baseline(db, run, baseline, options=GateOptions(expected_comparisons=expected))["correct"]
        shares.append(found.p_adjusted / found.p if found.p else 0.0)
    assert shares[0] == pytest.approx(20)
    marks = [record.result["gate"] for record in db.get_comparisons(baseline)]
    assert [(mark["look"], mark["comparisons_in_a_row"]) for mark in marks] == [(1, 20), (2, 20)]


def test_comparisons_of_others_are_no_looks(db: ExperimentDB) -> None:
    baseline, candidate = pair(db)
    for result in ({"p": 0.1}, [1], "text"):
        db.log_comparison(baseline, candidate, "correct", result)
    assert compare_with_baseline(db, candidate, baseline)["correct"].look == 1


def test_candidates_compared_at_once_take_different_looks(db: ExperimentDB) -> None:
    baseline = run_with(db, "baseline", correct=np.ones(1000))
    random = np.random.default_rng(0)
    candidates = [run_with(db, f"candidate {n}", correct=random.random(1000) < 0.9) for n in range(6)]
    looks: list[int] = []

    def compare(candidate: int) -> None:
        with ExperimentDB(db.store.place) as own:
            looks.append(compare_with_baseline(own, candidate, baseline)["correct"].look)

    threads = [threading.Thread(target=compare, args=(candidate,)) for candidate in candidates]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(looks) == [1, 2, 3, 4, 5, 6]


def test_runs_that_cannot_be_compared(db: ExperimentDB) -> None:
    baseline, _ = pair(db)
    run_with(db, "elsewhere", dataset="letters", correct=np.ones(5000))
    run_with(db, "unscored")
    run_with(db, "other score", loss=np.ones(5000))
    for candidate, kind, words in (
        ("candidat", UnknownRunError, "no run 'candidat'. Did you mean 'candidate'?"),
        ("elsewhere", ComparisonError, "the evaluation sets differ: the baseline's 'correct' was scored on 'digits'"),
        ("unscored", ComparisonError, r"no per-sample scores in common \(run 1 has correct; run 4 has none\)"),
        ("other score", ComparisonError, r"no per-sample scores in common \(run 1 has correct; run 5 has loss\)"),
        ("baseline", ComparisonError, r"run 1 \(baseline\) cannot be its own baseline"),
    ):
        with pytest.raises(kind, match=words.replace("?", r"\?")) as refusal:
            compare_with_baseline(db, candidate, "baseline")
        assert "\n" not in str(refusal.value)
    with pytest.raises(ExperimentError, match="run 1 has no per-sample scores of 'loss'; it has: correct"):
        compare_with_baseline(db, "candidate", "baseline", ["loss"])
    assert db.get_comparisons(baseline) == [], "a refused comparison is no look"


def test_a_score_of_unknown_direction_needs_one(db: ExperimentDB) -> None:
    for name, shift in (("baseline", 0.0), ("candidate", 1.0)):
        run_with(db, name, chrf=np.random.default_rng(0).random(100) - shift)
    with pytest.raises(ComparisonError, match=r"is a greater 'chrf' better\?.* `higher_is_better=\{'chrf': True\}`"):
        compare_with_baseline(db, "candidate", "baseline")
    found = compare_with_baseline(db, "candidate", "baseline", options=GateOptions(higher_is_better={"chrf": True}))
    assert found.status is Status.FAIL
    assert found.message.startswith("chrf fell by 1")


def test_the_gate_imports_neither_torch_nor_scipy() -> None:
    code = "import harness.monitoring.gate, sys; sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""What is stored beside the metrics, and how runs are found."""

from __future__ import annotations

import hashlib
import math
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.config import load_config
from harness.experiments import ExperimentDB, ExperimentError, SweepPoint, UnknownRunError, log_profile_to_db
from harness.provenance import provenance

ROOT = Path(__file__).parent.parent.parent


def finished(db: ExperimentDB, name: str | None = None, **options: object) -> int:
    with db.start_run(name, **options) as run:  # type: ignore[arg-type]
        return run.id


def test_a_run_is_found_by_id_reference_and_name(db: ExperimentDB) -> None:
    first, second, third = finished(db, "lm"), finished(db, "lm"), finished(db, "vision")
    assert db.resolve(first) == db.resolve(str(first)) == db.resolve(db.get_run(first)) == first
    assert db.resolve("lm") == second
    db.set_name("production", first)
    assert db.resolve("production") == first
    db.set_name("production", "vision")
    assert db.resolve("production") == third
    db.set_name("lm", first)
    assert db.resolve("lm") == first, "a reference goes before a name"
    assert db.get_names() == {"lm": first, "production": third}


def test_an_unknown_run_is_refused_with_the_nearest_name(db: ExperimentDB) -> None:
    with pytest.raises(UnknownRunError, match="no run 'x': the database has no runs"):
        db.resolve("x")
    db.set_name("production", finished(db, "baseline"))
    with pytest.raises(UnknownRunError, match=r"no run 'prodction'. Did you mean 'production'\? The newest is 1 \(baseline\)"):
        db.get_run("prodction")
    for unknown in (7, "7", 10**30, -1, "", "²"):
        with pytest.raises(UnknownRunError):
            db.resolve(unknown)
    with pytest.raises(UnknownRunError):
        db.log_scores(7, "loss", [1.0])


@pytest.mark.parametrize("name", ["", "  ", "12"])
def test_a_reference_cannot_be_taken_for_an_id(db: ExperimentDB, name: str) -> None:
    with pytest.raises(ExperimentError, match="cannot name a run"):
        db.set_name(name, finished(db))


def test_runs_are_listed_newest_first_and_by_every_filter(db: ExperimentDB) -> None:
    sweep = db.start_sweep("grid", {"lr": [0.1, 0.2]})
    plain = finished(db, "a", task_spec={"task_name": "lm_tiny"})
    swept = [finished(db, "b", sweep=SweepPoint(sweep, {"lr": rate})) for rate in (0.1, 0.2)]
    assert [run.id for run in db.list_runs()] == [*reversed(swept), plain]
    assert [run.id for run in db.list_runs(limit=1)] == [swept[1]]
    assert [run.id for run in db.list_runs(task="lm_tiny")] == [plain]
    assert [run.sweep_params for run in db.list_runs(sweep_id=sweep)] == [{"lr": 0.2}, {"lr": 0.1}]
    assert [run.id for run in db.list_runs(name="b", status="finished", limit=5)] == list(reversed(swept))
    assert db.list_runs(status="failed") == []
    with pytest.raises(ExperimentError, match=r"no status 'runing'\. Did you mean 'running'\?"):
        db.list_runs(status="runing")  # type: ignore[arg-type]


def test_sweeps(db: ExperimentDB) -> None:
    sweep = db.start_sweep("grid", {"lr": (0.1, 0.2)})
    assert (db.get_sweep(sweep).status, db.get_sweep(sweep).space) == ("running", {"lr": [0.1, 0.2]})
    db.finish_sweep(sweep)
    assert db.get_sweep(sweep).status == "finished"
    assert db.get_sweep(sweep).finished is not None
    for call in (lambda: db.finish_sweep(99), lambda: db.start_run(sweep=SweepPoint(99, {}))):
        with pytest.raises(ExperimentError, match="no sweep 99"):
            call()
    assert db.list_runs() == []


def test_a_suite_config_brings_its_task_and_its_name(db: ExperimentDB, tmp_path: Path) -> None:
    file = tmp_path / "cfg.json"
    file.write_text('{"task_name": "lm_tiny", "run_name": "cli-run-01", "learning_rate": 5e-4}')
    config = load_config(file)
    run = db.get_run(finished(db, config=config, eval_config=config.eval_config()))
    assert (run.name, run.task) == ("cli-run-01", "lm_tiny")
    configs = db.get_configs(run)
    assert sorted(configs) == ["eval", "suite", "task"]
    assert configs["suite"]["learning_rate"] == 5e-4
    assert configs["task"]["task_type"] == "causal_lm"
    training = db.get_configs(finished(db, config=config.training_config(), task_spec=config.task_spec()))
    assert (training["training"]["epochs"], training["task"]["task_name"]) == (1, "lm_tiny")


def test_configs_keep_what_is_not_finite_and_refuse_what_is_no_data(db: ExperimentDB) -> None:
    run = finished(db, config={"clip": math.inf, "floor": math.nan, "sizes": (1, np.int64(2)), "path": Path("a"), "é": "\ud800"})
    found = db.get_configs(run)["training"]
    assert math.isnan(found.pop("floor"))
    assert found == {"clip": math.inf, "sizes": [1, 2], "path": "a", "é": "\ud800"}
    with pytest.raises(ExperimentError, match="cannot be stored as JSON: a function is not a number, text, list or mapping"):
        db.start_run(config={"hook": finished})
    with pytest.raises(ExperimentError, match="cannot be stored as JSON"):
        db.log_profile(run, {"hook": finished})
    db.log_config(run, "training", {"clip": 1})
    assert db.get_configs(run) == {"training": {"clip": 1}}


def test_facts_are_added_to_those_there(db: ExperimentDB) -> None:
    with db.start_run(facts={"gist_id": "a", "revision": 1}) as run:
        run.add_facts(revision=2, sha256="c")
    db.add_facts(run, {"judged": True})
    assert db.get_run(run).facts == {"gist_id": "a", "revision": 2, "sha256": "c", "judged": True}


def test_artifacts_of_files_and_folders(db: ExperimentDB, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "w").write_bytes(b"abc")
    with db.start_run() as run:
        run.log_artifact(tmp_path / "bundle" / "w", kind="weights")
        run.log_artifact(tmp_path / "bundle")
        with pytest.raises(ExperimentError, match=r"artifact .*gone: No such file"):
            run.log_artifact(tmp_path / "gone")
    file, folder = db.get_artifacts(run)
    assert (file.kind, file.path, file.bytes) == ("weights", str(tmp_path / "bundle" / "w"), 3)
    assert file.sha256 == hashlib.sha256(b"abc").hexdigest()
    (tmp_path / "bundle" / "w").rename(tmp_path / "bundle" / "v")
    db.log_artifact(run, tmp_path / "bundle")
    assert db.get_artifacts(run)[-1].sha256 != folder.sha256
    assert folder.bytes == 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scores_come_back_to_the_bit(db: ExperimentDB, dtype: str) -> None:
    values = np.random.default_rng(0).normal(size=5000).astype(dtype)
    values[:3] = np.nan, np.inf, -0.0
    with db.start_run() as run:
        run.log_scores("loss", values, dataset="lm_tiny_v1")
    found = db.get_scores(run, "loss")
    assert found.values.dtype == dtype
    assert found.values.tobytes() == values.tobytes()
    assert found.dataset == "lm_tiny_v1"


def test_scores_of_every_kind_and_none_that_are_no_list(db: ExperimentDB) -> None:
    import torch

    run = finished(db)
    kinds = [[0.5, 1.5], torch.tensor([0.5, 1.5], dtype=torch.bfloat16, requires_grad=True), np.array([0.5, 1.5], np.float16)]
    for values in kinds:
        db.log_scores(run, "loss", values)
        assert db.get_scores(run, "loss").values.tolist() == [0.5, 1.5]
    db.log_scores(run, "right", np.array([True, False]))
    assert db.get_scores(run, "right").values.dtype == np.float32
    db.log_scores(run, "none", [])
    assert db.get_scores(run, "none").values.shape == (0,)
    for wrong in (1.0, [[1.0]], ["a"], [[1.0], [1.0, 2.0]]):
        with pytest.raises(ExperimentError, match="scores of 'loss': expected"):
            db.log_scores(run, "loss", wrong)
    with pytest.raises(ExperimentError, match="no per-sample scores of 'los'; it has: loss, none, right"):
        db.get_scores(run, "los")


def test_right_or_wrong_takes_few_bits(db: ExperimentDB) -> None:
    run = finished(db)
    db.log_scores(run, "right", np.random.default_rng(0).random(100_000) < 0.8)
    with db.store.reading() as connection:
        assert connection.exec_driver_sql("SELECT length(content) FROM scores").scalar() < 50_000


def test_profiles_as_documents_and_bytes(db: ExperimentDB) -> None:
    run = finished(db, "baseline")
    assert log_profile_to_db(db, run, {"edges": [-math.inf, 0.5, math.inf]}, name="edges") == run
    assert db.get_profile("baseline", "edges") == {"edges": [-math.inf, 0.5, math.inf]}
    db.log_profile(run, {"edges": []})
    assert db.get_profile(run) == {"edges": []}, "the newest of a name"
    db.log_profile(run, b"\x00\xff", name="outputs", kind="logits")
    assert db.get_profile(run, "outputs") == b"\x00\xff"
    with pytest.raises(ExperimentError, match=r"run 1 has no profile 'input'; it has edges, outputs, reference"):
        db.get_profile(run, "input")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"mean": 1}, "a mapping with the keys 'mean'"),
        ({}, "an empty mapping"),
        (b"\x00\xff", "2 bytes"),
        ([1, 2], "list"),
        (None, "NoneType"),
    ],
)
def test_a_reference_that_is_no_profile_is_refused_at_once(db: ExperimentDB, content: Any, said: str) -> None:
    run = finished(db)
    with pytest.raises(ExperimentError, match=f"expected a profile.*got {said}") as refused:
        log_profile_to_db(db, run, content)
    assert "\n" not in str(refused.value)
    with pytest.raises(ExperimentError, match="none at all"):
        db.get_profile(run)


def test_comparisons_are_known_on_both_sides(db: ExperimentDB) -> None:
    baseline, candidate, other = finished(db), finished(db), finished(db)
    db.log_comparison(baseline, candidate, "loss", {"difference": -0.1, "p": math.nan})
    for run in (baseline, candidate):
        (found,) = db.get_comparisons(run)
        assert (found.baseline_id, found.candidate_id, found.metric) == (baseline, candidate, "loss")
        assert found.result["difference"] == -0.1
    assert db.get_comparisons(other) == []


def test_runs_side_by_side_show_what_differs(db: ExperimentDB) -> None:
    ids = []
    for rate, loss in ((0.1, 0.9), (0.2, math.nan)):
        with db.start_run(config={"rate": rate, "clip": math.nan, "data": {"split": "train"}}) as run:
            run.log_metrics({"loss": 5.0})
            run.log_metrics({"loss": loss, f"only {rate}": 1.0})
        ids.append(run.id)
    table = db.compare_runs([ids[1], ids[0]])
    assert [run.id for run in table.runs] == [ids[1], ids[0]]
    assert table.configs == {"training.rate": (0.2, 0.1)}
    assert table.metrics["only 0.1"] == (None, 1.0)
    assert math.isnan(table.metrics["loss"][0])  # type: ignore[arg-type]
    assert table.metrics["loss"][1] == 0.9


def test_the_commit_and_whether_it_was_changed(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    assert provenance(tmp_path)["git_commit"] is None
    git("init")
    assert provenance(tmp_path)["git_commit"] is None
    (tmp_path / "model.py").write_text("one")
    git("add", ".")
    git("commit", "-m", "first")
    (tmp_path / "untracked.db").write_text("")
    clean = provenance(tmp_path)
    assert len(clean["git_commit"]) == 40
    assert clean["git_dirty"] is False
    (tmp_path / "model.py").write_text("two")
    assert provenance(tmp_path) == {**clean, "git_dirty": True}

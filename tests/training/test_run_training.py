"""``run_training`` as a user calls it: resumed from anywhere, no checkpoint of another run lost, and a bundle where one is asked for."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.cli import main
from harness.config import SuiteConfig, TrainingConfig
from harness.errors import CheckpointError
from harness.experiments import ExperimentDB
from harness.models.stubs import build_stub
from harness.runtime import seeded
from harness.training.coordinator import TrainingCoordinator
from harness.training.run import run_training
from harness.training.supervisor import Supervisor

from .jobs import Engine

SUITE: dict[str, Any] = {
    "task_name": "lm_tiny",
    "batch_size": 8,
    "train": {"dataset_id": "lm_tiny_v1", "max_eval_examples": 16},
    "eval": {"dataset_id": "lm_tiny_v1", "max_eval_examples": 4},
}


def trained(folder: Path, engine: Engine = "plain", *, db: Path | None = None, **keys: Any) -> dict[str, Any]:
    """The results of a training of a fresh model, in a folder."""
    suite = SuiteConfig.model_validate({**SUITE, **keys})
    task = suite.task_spec()
    with seeded(0):
        model = build_stub(task)
    training, judged, learnt = suite.training_config(), suite.eval, suite.train
    options: dict[str, Any] = {
        "train_cfg": learnt,
        "folder": folder,
        "engine": engine,
        "seed": suite.seed,
        "progress": False,
        "db": db,
    }
    return run_training(model, None, training, task, judged, **options)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing the dashboard would take longer than all of these trainings."""
    monkeypatch.setattr("harness.training.coordinator.write_dashboard", lambda *_: {})


@pytest.mark.parametrize("engine", ["plain", "lightning"])
def test_a_run_is_resumed_into_a_folder_that_does_not_exist(engine: Engine, tmp_path: Path) -> None:
    before = trained(tmp_path, engine, checkpoint_dir="first")
    after = trained(tmp_path, engine, checkpoint_dir="second", epochs=2, resume_from_checkpoint=str(before["last_checkpoint"]))
    assert after["last_checkpoint"] == tmp_path / "second" / "last.ckpt"
    assert after["last_checkpoint"].is_file()
    assert after["best_checkpoint"].parent == tmp_path / "second"
    assert after["steps"] == 2 * before["steps"]


def test_resume_on_the_command_line_takes_a_checkpoint_from_elsewhere(tmp_path: Path) -> None:
    before = trained(tmp_path, checkpoint_dir="first")
    config = tmp_path / "cfg.json"
    config.write_text(json.dumps({**SUITE, "epochs": 2, "checkpoint_dir": "second"}))
    # The command trains under Lightning, and says in a line that the plain loop wrote the checkpoint.
    assert main(["train", "--quiet", "--config", str(config), "--resume", str(before["last_checkpoint"])]) == 2
    before = trained(tmp_path, "lightning", checkpoint_dir="first")
    assert main(["train", "--quiet", "--config", str(config), "--resume", str(before["last_checkpoint"])]) == 0
    assert (tmp_path / "second" / "last.ckpt").is_file()


def test_resuming_from_elsewhere_keeps_the_checkpoints_of_another_run(tmp_path: Path) -> None:
    other, first = trained(tmp_path, checkpoint_dir="other"), trained(tmp_path, checkpoint_dir="first")
    kept = {path.name: path.read_bytes() for path in (other["last_checkpoint"], other["best_checkpoint"])}
    with pytest.warns(UserWarning, match="the checkpoints of an earlier run were moved to"):
        after = trained(tmp_path, checkpoint_dir="other", epochs=2, resume_from_checkpoint=str(first["last_checkpoint"]))
    assert {name: (tmp_path / "other" / "earlier-1" / name).read_bytes() for name in kept} == kept
    assert after["steps"] == 2 * first["steps"]


def test_resuming_a_run_in_its_own_folder_moves_nothing(tmp_path: Path) -> None:
    first = trained(tmp_path, checkpoint_dir="own")
    after = trained(tmp_path, checkpoint_dir="own", epochs=2, resume_from_checkpoint=str(first["best_checkpoint"]))
    assert after["steps"] == 2 * first["steps"]
    assert not list((tmp_path / "own").glob("earlier-*"))


def test_a_checkpoint_that_is_missing_moves_nothing(tmp_path: Path) -> None:
    first = trained(tmp_path, checkpoint_dir="own")
    with pytest.raises(Exception, match="no such file"):
        trained(tmp_path, checkpoint_dir="own", resume_from_checkpoint="lost.ckpt")
    assert first["last_checkpoint"].is_file()


@pytest.mark.parametrize("engine", ["plain", "lightning"])
def test_another_rate_and_decay_hold_from_there_on_and_are_said(engine: Engine, tmp_path: Path) -> None:
    first = trained(tmp_path, engine, learning_rate=1e-3, weight_decay=0.1)
    keys = {"learning_rate": 1e-2, "weight_decay": 0.2, "max_grad_norm": 0.5}
    with pytest.warns(UserWarning, match="`learning_rate` is 0.01 from here on; in the run that is resumed it was 0.001"):
        after = trained(tmp_path, engine, epochs=2, resume_from_checkpoint="last", **keys)
    said = " ".join(after["notes"])
    assert all(f"`{key}` is {value} from here on" in said for key, value in keys.items())
    groups = torch.load(after["last_checkpoint"], weights_only=True)["optimizer_states"][0]["param_groups"]
    assert [(group["initial_lr"], group["weight_decay"]) for group in groups] == [(1e-2, 0.2), (1e-2, 0.0)]
    rates = after["history"].curve("learning_rate")
    assert max(rates[: first["steps"]]) <= 1e-3 < rates[first["steps"]]


@pytest.mark.parametrize(
    "keys",
    [
        {"batch_size": 4},
        {"accumulate_grad_batches": 2},
        {"seed": 1},
        {"train": {"dataset_id": "lm_tiny_v1", "max_eval_examples": 24}},
    ],
    ids=lambda keys: next(iter(keys)),
)
def test_what_a_run_cannot_go_on_with_is_refused_in_one_line(keys: dict[str, Any], tmp_path: Path) -> None:
    first = trained(tmp_path)
    with pytest.raises(CheckpointError, match=f"written by a run with `{next(iter(keys))}` .*, and this one has ") as caught:
        trained(tmp_path, epochs=2, resume_from_checkpoint="last", **keys)
    assert "\n" not in str(caught.value)
    assert first["last_checkpoint"].is_file()


def rows_in(folder: Path, name: str, texts: list[str]) -> dict[str, Any]:
    """A file of texts, and the keys that name it."""
    (folder / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return {"path": name}


def test_data_is_known_by_its_content(tmp_path: Path) -> None:
    texts = [f"row number {number} says so and so" for number in range(10, 26)]
    keys = {"eval": SUITE["eval"], "train": rows_in(tmp_path, "rows.jsonl", texts)}
    first = trained(tmp_path, **keys)
    other = rows_in(tmp_path, "rows.jsonl", [texts[0].replace("so and so", "on and on"), *texts[1:]])  # as many rows and bytes
    with pytest.raises(CheckpointError, match=r"with `train` rows\.jsonl:.*\(content \w+\), and this one has .*\(content \w+\)"):
        trained(tmp_path, epochs=2, resume_from_checkpoint="last", **{**keys, "train": other})
    moved = rows_in(tmp_path, "elsewhere.jsonl", texts)
    after = trained(tmp_path, epochs=2, resume_from_checkpoint="last", **{**keys, "train": moved})
    assert after["steps"] == 2 * first["steps"]
    assert after["notes"] == []


def test_rows_of_python_are_known_by_what_they_hold_and_those_drawn_anew_by_their_code(tmp_path: Path) -> None:
    code = """
import torch
from torch.utils.data import Dataset
class Rows(Dataset):
    def __len__(self): return 16
    def __getitem__(self, index):
        return {"input_ids": NOISE + torch.arange(index, index + 9) % 50}
rows = Rows()
"""

    def keys(name: str, noise: str) -> dict[str, Any]:
        (tmp_path / f"{name}.py").write_text(code.replace("NOISE", noise))
        return {"eval": SUITE["eval"], "train": {"dataset": f"{name}.py:rows"}, "checkpoint_dir": name[:5]}

    resumed = {"epochs": 2, "resume_from_checkpoint": "last"}
    trained(tmp_path, **keys("fixed", "0"))
    trained(tmp_path, **keys("fixed_too", "0 + 0"), **resumed)
    with pytest.raises(CheckpointError, match=r"with `train` fixed_too\.py.*, and this one has fixed_not\.py"):
        trained(tmp_path, **keys("fixed_not", "1"), **{**resumed, "epochs": 3})
    drawn = keys("drawn", "torch.randint(0, 9, (1,))")
    trained(tmp_path, **drawn)
    trained(tmp_path, **drawn, **resumed)


def test_another_precision_is_said(tmp_path: Path) -> None:
    trained(tmp_path)
    with pytest.warns(UserWarning, match="`precision` is 64-true from here on; in the run that is resumed it was 32-true"):
        trained(tmp_path, epochs=2, resume_from_checkpoint="last", precision="64-true")


class KilledError(BaseException):
    """Stands for a kill."""


def outcome(results: dict[str, Any]) -> tuple[Any, ...]:
    """What must not depend on whether a run was killed."""
    saved = torch.load(results["last_checkpoint"], weights_only=True)
    weights = {name: tensor.tolist() for name, tensor in saved["state_dict"].items()}
    history, folder = results["history"], results["last_checkpoint"].parent
    epochs = [(epoch.epoch, epoch.step, dict(epoch.metrics)) for epoch in history.epochs]
    found = [weights, epochs, history.steps, history.curve("loss"), results["best_checkpoint"].name, results["eval_summary"]]
    if results["run_id"] is not None:
        with ExperimentDB(folder / "e.db") as db:
            rows = db.get_metrics(results["run_id"])
            logged = zip(rows.name, rows.step, rows.epoch, rows.value.tolist(), strict=True)
            found += [sorted(row for row in logged if row[0] != "examples_per_second")]
            found += [db.get_run(results["run_id"]).status, db.get_scores(results["run_id"], "loss").values.tolist()]
    return (*found, sorted(path.name for path in folder.glob("*.ckpt")), list(folder.glob(".*.partial")))


@pytest.mark.parametrize("engine", ["plain", "lightning"])
@pytest.mark.parametrize(
    "moment", ["epoch_done", *(pytest.param(name, marks=pytest.mark.long) for name in ("_keep_best", "_tell"))]
)
def test_a_run_killed_at_the_end_of_an_epoch_ends_as_if_it_had_not_been(
    engine: Engine, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"epochs": 3, "checkpoint_every_n_steps": 1, "early_stopping_patience": 2, "learning_rate": 1e-2}
    whole = outcome(trained(tmp_path / "whole", engine, **keys))
    calls = count()
    original = getattr(Supervisor, moment)

    def killed(self: Supervisor, *arguments: Any) -> None:
        if next(calls) == 1:  # of `_tell` and `_keep_best` the first call comes before training
            raise KilledError
        original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Supervisor, moment, killed)
        with pytest.raises(KilledError):
            trained(tmp_path / "killed", engine, **keys)
    resumed = trained(tmp_path / "killed", engine, **keys, resume_from_checkpoint="last")
    assert outcome(resumed) == whole
    assert resumed["notes"] == []


@pytest.mark.parametrize("engine", ["plain", "lightning"])
@pytest.mark.parametrize("patience", [None, 1])
def test_a_run_killed_after_its_last_checkpoint_is_whole_in_the_database_too(
    engine: Engine, patience: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: dict[str, Any] = {"epochs": 3, "early_stopping_patience": patience, "learning_rate": 0.1, "checkpoint_dir": "."}
    whole = trained(tmp_path / "whole", engine, db=tmp_path / "whole" / "e.db", **keys)
    assert whole["epochs"] == (3 if patience is None else 2)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingCoordinator, "_log", lambda *_: (_ for _ in ()).throw(KilledError))
        with pytest.raises(KilledError):
            trained(tmp_path / "killed", engine, db=tmp_path / "killed" / "e.db", **keys)
    resumed = trained(tmp_path / "killed", engine, db=tmp_path / "killed" / "e.db", **keys, resume_from_checkpoint="last")
    assert outcome(resumed) == outcome(whole)
    assert resumed["run_id"] == 2
    assert [note for note in resumed["notes"] if "early stopping had ended the run" in note] == resumed["notes"]
    assert bool(resumed["notes"]) == (patience is not None)


def test_export_bundle_makes_a_bundle_and_says_where(tmp_path: Path) -> None:
    """As the guide shows it: with nothing but a ``TrainingConfig``."""
    suite = SuiteConfig.model_validate(SUITE)
    task = suite.task_spec()
    model = build_stub(task)
    config = TrainingConfig(batch_size=8, export_bundle=True, export_formats=["pytorch"])
    results = run_training(model, None, config, task, suite.eval, train_cfg=suite.train, folder=tmp_path, progress=False)
    assert results["bundle"] == tmp_path / "lm_tiny-bundle"
    assert (results["bundle"] / "manifest.json").is_file()
    saved = torch.load(next((results["bundle"] / "artifacts").glob("*.pt")), weights_only=True)
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    assert model.training, "the caller's model is left in the mode that training left it in"


def test_without_export_bundle_there_is_none(tmp_path: Path) -> None:
    assert trained(tmp_path)["bundle"] is None


def test_several_gpus_fall_back_to_one_in_the_plain_loop(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="`devices`: training on 1 instead of 2"):
        assert trained(tmp_path, devices=2)["devices"] == 1

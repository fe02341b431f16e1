"""Tier 5 of declared tasks, from a config and rows of Python to verdicts: as before, shifted, with other labels, without any."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from planted_bugs import setups
from planted_bugs.tier1.declared import task_of
from test_declared_profiles import CLICK, SEGMENTATION, SERIES, Keys

from harness.adapters import make_adapter
from harness.catalogue import CATALOGUE
from harness.config import SuiteConfig, load_config
from harness.data.data_reference import dataset_id
from harness.data.loader import make_loader
from harness.errors import ConfigError
from harness.evaluation.evaluation import evaluate
from harness.experiments.database import ExperimentDB
from harness.models.loading import model_source
from harness.monitoring.profile_command import profile_config
from harness.monitoring.reference import open_window
from harness.monitoring.run import monitor_config

DATA = """
import torch

def _clicks(count, seed, shift=0.0, flipped=False, items=9):
    rng = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        sparse = torch.stack([torch.randint(items, (), generator=rng), torch.randint(5, (), generator=rng)])
        price = torch.randn((), generator=rng) + shift
        is_click = float(price + (sparse[1] - 2) > 0)
        found.append({"sparse": sparse, "price": price, "click": 1 - is_click if flipped else is_click, "tags": torch.ones(3)})
    return found

def clicks(): return _clicks(500, 0)
def clean(): return _clicks(400, 1)
def shifted(): return _clicks(400, 2, shift=1.0)
def other_items(): return _clicks(400, 3, items=3)
def flipped(): return _clicks(400, 4, flipped=True)
def unlabelled(): return [{"sparse": row["sparse"], "price": row["price"]} for row in _clicks(400, 5, shift=1.0)]

def _series(count, seed, shift=0.0):
    rng = torch.Generator().manual_seed(seed)
    whole = torch.randn(count, 16, 2, generator=rng).cumsum(1) + shift
    return [{"x": row[:12], "forecast": row[12:]} for row in whole]

def series(): return _series(300, 0)
def series_clean(): return _series(300, 1)
def series_unlabelled(): return [{"x": row["x"]} for row in series_clean()]
def series_shifted(): return _series(300, 2, shift=4.0)

def _images(count, seed, dark=0.0):
    rng = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        height, width = (int(torch.randint(4, 9, (), generator=rng)) for _ in range(2))
        image = torch.randn(3, height, width, generator=rng) - dark
        found.append({"image": image, "mask": (image[0] > -dark).long()})
    return found

def images(): return _images(200, 0)
def images_clean(): return _images(200, 1)
def images_dark(): return _images(200, 2, dark=1.0)
"""
MODEL = """
import torch
from torch import nn

class Clicker(nn.Module):
    def __init__(self):
        super().__init__()
        self.tags = nn.Linear(2, 3)

    def forward(self, sparse, price):
        score = price + (sparse[:, 1] - 2)
        return 8 * score, self.tags(torch.stack((price, score), 1))

class Forecaster(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * x[:, -1:].expand(-1, 4, -1)

class Segmenter(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.full((), 4.0))

    def forward(self, image):
        return torch.stack((-image[:, 0], image[:, 0]), 1) * self.scale

def clicker(): return Clicker()
def forecaster(): return Forecaster()
def segmenter(): return Segmenter()

def error(forecast, wanted, scale=2.0):
    return None, scale * (forecast - wanted).abs().mean()
"""
KEYS: dict[str, tuple[str, Keys]] = {
    "click": ("clicker", CLICK),
    "series": ("forecaster", SERIES),
    "images": ("segmenter", SEGMENTATION),
}


@dataclass(frozen=True)
class Room:
    """A folder with models that know their task, their data, and a database."""

    folder: Path

    def config(self, kind: str, rows: str, **keys: Any) -> SuiteConfig:
        """The config that monitors a model on some rows."""
        build, declared = KEYS[kind]
        (self.folder / f"{build}.py").write_text(MODEL + f"\nbuild_model = {build}\n", encoding="utf-8")
        eval_keys = {"dataset": f"data.py:{rows}", "batch_size": 1 if kind == "images" else 32}
        content = {"model_file": f"{build}.py", "tier": "5", "weights": f"{build}.pt", **declared, "eval": eval_keys, **keys}
        path = self.folder / f"{kind}-{rows}-{len(list(self.folder.glob('*.json')))}.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        config = load_config(path)
        weights = self.folder / f"{build}.pt"
        if not weights.exists():
            bare = config.model_copy(update={"weights": None})
            torch.save(model_source(bare).build(0).state_dict(), weights)
        return config

    def monitored(self, kind: str, rows: str, **keys: Any) -> dict[str, Any]:
        """What ``modeltiers monitor --json`` prints, against the profile of the kind's first rows."""
        return monitor_config(self.config(kind, rows, reference_profile_id=kind, db_path="runs.db", **keys)).data


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    folder = tmp_path_factory.mktemp("declared")
    (folder / "data.py").write_text(DATA, encoding="utf-8")
    found = Room(folder)
    for kind, rows in (("click", "clicks"), ("series", "series"), ("images", "images")):
        profile_config(found.config(kind, rows), folder / "runs.db", name=kind)
    return found


def statuses(found: dict[str, Any]) -> dict[str, str]:
    return {name: check["status"] for name, check in found["checks"].items()}


@pytest.mark.parametrize(("kind", "rows"), [("click", "clean"), ("series", "series_clean"), ("images", "images_clean")])
def test_a_clean_window_fails_nothing(room: Room, kind: str, rows: str) -> None:
    found = room.monitored(kind, rows)
    assert "fail" not in statuses(found).values(), found["checks"]
    assert found["checks"]["evaluation"]["status"] == "ok"


@pytest.mark.parametrize(
    ("kind", "rows", "drifted", "failing"),
    [
        ("click", "shifted", "price", "drift[outputs]"),
        ("series", "series_shifted", "channel_0.mean", "drift[labels]"),
        ("images", "images_dark", "brightness", "drift[outputs]"),
    ],
)
def test_a_shifted_window_is_found(room: Room, kind: str, rows: str, drifted: str, failing: str) -> None:
    found = room.monitored(kind, rows)
    named = {each["feature"]: each["status"] for each in found["drift"]["features"]}
    # Where labels show that the model is as often right as before, drift is a warning.
    expected = "warn" if kind == "click" else "fail"
    assert named[drifted] == expected
    assert statuses(found)["drift[inputs]"] == expected
    assert statuses(found)[failing] == expected


def test_other_items_are_found_and_the_rows_that_have_them(room: Room) -> None:
    found = room.monitored("click", "other_items")
    assert found["drift"]["changed"] == ["sparse.feature_0"]
    assert statuses(found)["drift[inputs]"] == "warn"


def test_labels_of_another_meaning_show_in_scores_and_accuracy(room: Room) -> None:
    found = room.monitored("click", "flipped")
    assert {name for name, status in statuses(found).items() if status == "fail"} == {"drift[scores]", "harm"}
    assert found["eval_metrics"]["accuracy"] < 0.1
    assert "accuracy has fallen" in found["checks"]["harm"]["message"]


def test_without_labels_drift_fails_and_accuracy_is_estimated(room: Room) -> None:
    found = room.monitored("click", "unlabelled")
    assert statuses(found)["evaluation"] == "skipped"
    assert statuses(found)["drift[inputs]"] == "fail"
    assert "estimated without labels" in found["checks"]["harm"]["message"]


def test_every_output_with_labels_has_scores_under_its_name(room: Room) -> None:
    found = room.monitored("click", "clean")
    scores = {each["feature"] for each in found["drift"]["features"] if each["feature"].startswith("score.")}
    assert scores == {"score.loss", "score.correct", "score.tags.accuracy"}


def test_a_loss_of_the_users_is_the_score_of_each_row(room: Room) -> None:
    arguments = {"0": "outputs.forecast", "wanted": "batch.labels", "scale": 1}
    own = {"loss": {"function": "forecaster.py:error", "arguments": arguments, "result": 1}}
    profile_config(room.config("series", "series", **own), room.folder / "runs.db", name="own")
    config = room.config("series", "series_clean", reference_profile_id="own", db_path="runs.db", **own)
    found = monitor_config(config).data
    assert found["eval_metrics"]["loss"] == pytest.approx(found["eval_metrics"]["mae"], rel=1e-4)
    assert "score.loss" in {each["feature"] for each in found["drift"]["features"]}
    assert "fail" not in statuses(found).values()


def test_answers_without_an_estimate_are_said_to_have_none(room: Room) -> None:
    scores = room.monitored("series", "series_unlabelled")["checks"]["drift[scores]"]
    assert scores["status"] == "skipped"
    assert scores["message"].endswith("; without labels no error is estimated of answers that are numbers, or several a row")
    assert "no error is estimated" not in room.monitored("click", "unlabelled")["checks"]["drift[scores]"]["message"]


def test_thresholds_are_held_and_a_metric_that_is_not_there_is_named(room: Room) -> None:
    found = room.monitored("series", "series_clean", thresholds={"mae": 0.01})
    assert statuses(found)["evaluation"] == "fail"
    with pytest.raises(ConfigError, match="no metric 'accuracy'"):
        room.monitored("series", "series_clean", thresholds={"accuracy": 0.9})


def test_a_worse_candidate_is_told_from_its_baseline_on_the_same_rows(room: Room) -> None:
    config = room.config("click", "clean", db_path="runs.db")
    task = config.task_spec()
    data = open_window(task, config.eval, None, room.folder)
    model = model_source(config).build(0)
    scored = evaluate(model, make_adapter(task, None, room.folder), task, make_loader(data, task, 32))
    with ExperimentDB(room.folder / "runs.db") as db, db.start_run("baseline", config) as run:
        for metric, values in scored.scores.items():
            run.log_scores(metric, values, dataset_id(data))

    same = room.monitored("click", "clean", baseline_run_id="baseline")
    assert same["checks"]["baseline_regression"]["status"] == "ok", same["checks"]

    worse = KEYS["click"][1] | {"model_file": "worse.py"}
    (room.folder / "worse.py").write_text(
        MODEL.replace("price + (sparse[:, 1] - 2)", "price") + "\nbuild_model = clicker\n", encoding="utf-8"
    )
    candidate = room.config("click", "clean", **worse, baseline_run_id="baseline", db_path="runs.db")
    found = monitor_config(candidate).data
    assert found["checks"]["baseline_regression"]["status"] == "fail"


@pytest.mark.parametrize(
    ("keys", "tests"),
    [
        (CLICK, {"drift[inputs]", "drift[labels]", "drift[outputs]", "drift[scores]", "harm"}),
        (SERIES, {"drift[inputs]", "drift[labels]", "drift[outputs]", "drift[scores]"}),
    ],
)
def test_what_does_not_follow_from_facts_is_not_judged(keys: Keys, tests: set[str]) -> None:
    task = task_of(keys)
    entries = (entry.name for entry in CATALOGUE.values() if entry.tier == 5)
    found = {test for name in entries for test, _ in setups.tests_of(name, task)}
    assert found == {*tests, "evaluation", "baseline_regression"}

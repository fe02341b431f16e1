"""A small classifier that was trained here, and data that comes after: as before, shifted, with other labels, without any."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.config import SuiteConfig, load_config
from harness.monitoring.profile_command import profile_config
from harness.monitoring.run import monitor_config
from harness.training.run import train_config

COLUMNS = ("age", "income", "visits")
PRODUCTION = "production"

MODEL = """
import torch
from torch import nn

class Scorer(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 16), nn.Linear(16, 2)

    def forward(self, features):
        return self.last(torch.tanh(self.first(features)))

def build_model():
    return Scorer()
"""


def rows(n: int, seed: int, move: float = 0.0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Features ``[n, 3]``, of which the label follows the first two with a little noise; the first is moved by so much."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, 3))
    features[:, 0] += move
    return features, (features[:, 0] + features[:, 1] + 0.2 * rng.standard_normal(n) > 0).astype(np.int64)


def write(path: Path, features: NDArray[np.float64], labels: NDArray[np.int64] | None) -> None:
    """Writes rows as CSV."""
    head = ",".join(COLUMNS if labels is None else (*COLUMNS, "label"))
    body = [",".join(f"{value:.5f}" for value in row) for row in features]
    if labels is not None:
        body = [f"{row},{label}" for row, label in zip(body, labels, strict=True)]
    path.write_text("\n".join([head, *body]) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Shop:
    """A trained model in a folder, with the run it is remembered by.

    Attributes:
        folder: Where its files are.
        run_id: The run of its training.
        weights: Its checkpoint.
    """

    folder: Path
    run_id: int
    weights: Path

    @property
    def database(self) -> Path:
        """Where its runs are remembered."""
        return self.folder / "experiments.db"

    def config(self, data: str, **keys: Any) -> SuiteConfig:
        """The config that monitors it on a file."""
        path = self.folder / f"monitor-{len(list(self.folder.glob('monitor-*')))}.json"
        content = {**_model(), "tier": "5", "weights": str(self.weights), "eval": {"path": data}, "train": {"path": "train.csv"}}
        path.write_text(json.dumps({**content, "reference_profile_id": PRODUCTION, **keys}), encoding="utf-8")
        return load_config(path)

    def monitored(self, data: str, **keys: Any) -> dict[str, Any]:
        """What ``modeltiers monitor --json`` prints."""
        return monitor_config(self.config(data, **keys)).data


def _model() -> dict[str, Any]:
    return {
        "task_name": "shop",
        "task_type": "tabular_classification",
        "num_features": 3,
        "num_classes": 2,
        "model_file": "model.py",
    }


def open_shop(folder: Path) -> Shop:
    """Trains the model, profiles its held-out data, and writes the data that comes after."""
    (folder / "model.py").write_text(MODEL, encoding="utf-8")
    write(folder / "train.csv", *rows(600, 1))
    write(folder / "eval.csv", *rows(2000, 2))
    write(folder / "clean.csv", *rows(1000, 3))
    write(folder / "shifted.csv", *rows(1000, 4, move=0.6))
    features, labels = rows(1000, 5)
    write(folder / "flipped.csv", features, 1 - labels)
    write(folder / "unlabelled.csv", rows(1000, 6)[0], None)
    write(folder / "shifted_unlabelled.csv", rows(1000, 7, move=0.6)[0], None)
    training = {
        "epochs": 4,
        "batch_size": 16,
        "learning_rate": 0.02,
        "train": {"path": "train.csv"},
        "eval": {"path": "eval.csv"},
    }
    config = folder / "train.json"
    config.write_text(json.dumps({**_model(), **training, "log_to_db": True, "run_name": "shop-1"}), encoding="utf-8")
    results = train_config(load_config(config), progress=False)
    shop = Shop(folder, results["run_id"], Path(results["best_checkpoint"]))
    profile_config(shop.config("eval.csv"), shop.database, run=shop.run_id, name=PRODUCTION)
    return shop

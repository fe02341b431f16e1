"""The dataloaders of a model of Lightning's are the data of a config that names none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from declared_tasks import SEGMENTATION, written

from harness.config import load_config
from harness.data.data_reference import open_datasets
from harness.errors import DataError

ROWS = """
from torch.utils.data import DataLoader, Dataset

class Seg(Dataset):
    def __init__(self, size): self.size = size
    def __len__(self): return self.size
    def __getitem__(self, index):
        image = torch.rand(3, 8, 16, generator=torch.Generator().manual_seed(index))
        return image, (image[0] * 4).long()
"""

OWN = """
class Base(torch.nn.Module):
    def __init__(self, rows=3):
        super().__init__()
        self.rows, self.net = rows, torch.nn.Conv2d(3, 4, 1)
    def forward(self, image): return self.net(image)

class Model(Base):
    def train_dataloader(self): return DataLoader(Seg(self.rows))
    def val_dataloader(self): return DataLoader(Seg(1))

def build_model(rows=3): return Model(rows)

def rows(): return Seg(4)
"""


@pytest.mark.parametrize("factory", [{}, {"model_factory": "Model"}, {"model_kwargs": {"rows": 5}}])
def test_dataloaders_of_the_model_count_where_no_data_is_named(tmp_path: Path, factory: dict[str, Any]) -> None:
    written(tmp_path, ROWS, OWN)
    config = tmp_path / "suite.json"
    config.write_text(json.dumps({**SEGMENTATION, "model_file": "data.py", **factory}), encoding="utf-8")
    loaded = load_config(config)
    assert loaded.has_own_data
    found = open_datasets(loaded.task_spec(), loaded.train, loaded.eval, tmp_path)
    assert (len(found.train), len(found.held_out)) == (5 if "model_kwargs" in factory else 3, 1)


@pytest.mark.parametrize(
    ("replaced", "by", "keys"),
    [
        ("", "", {"train": {}}),
        ("", "", {"eval": {"dataset": ":rows"}}),
        ("", "", {"model_factory": "Base"}),
        ("return DataLoader(Seg(self.rows))", "raise NotImplementedError", {}),
        ("    def val_", "    def prepare_data(self): download()\n    def val_", {}),
        ("def train_dataloader", "def training_data", {}),
        ("class Model", "class Model:(", {}),
    ],
)
def test_they_are_left_alone_otherwise(tmp_path: Path, replaced: str, by: str, keys: dict[str, Any]) -> None:
    written(tmp_path, ROWS, OWN.replace(replaced, by) if replaced else OWN)
    config = tmp_path / "suite.json"
    config.write_text(json.dumps({**SEGMENTATION, "model_file": "data.py", **keys}), encoding="utf-8")
    loaded = load_config(config)
    assert not loaded.has_own_data
    assert loaded.train is None or not loaded.train.is_named


def test_dataloaders_of_the_model_that_fail_say_how_to_go_without(tmp_path: Path) -> None:
    written(tmp_path, ROWS, OWN.replace("Seg(self.rows)", "Seg(self.nothing)"))
    config = tmp_path / "suite.json"
    config.write_text(json.dumps({**SEGMENTATION, "model_file": "data.py"}), encoding="utf-8")
    loaded = load_config(config)
    with pytest.raises(DataError, match=r"build_model raised AttributeError: .* or write `train: \{\}`$"):
        open_datasets(loaded.task_spec(), loaded.train, loaded.eval, tmp_path)

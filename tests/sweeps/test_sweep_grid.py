"""The grid: what it holds, and what is said when it is impossible, all before the first trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sweep_trials import BASE

from harness.config import SuiteConfig
from harness.errors import ConfigError
from harness.sweeps import run_grid_sweep
from harness.sweeps.configs import configs_of, read_base
from harness.sweeps.grid import identity, make_grid


def configs(grid: dict[str, Any], **base: Any) -> list[SuiteConfig]:
    return configs_of(read_base({**BASE, **base}), make_grid(grid))


def test_every_combination_the_last_key_fastest() -> None:
    grid = make_grid({"learning_rate": (0.1, 0.01), "batch_size": range(1, 3)})
    assert len(grid) == 4
    found = [(c.number, c.params["learning_rate"], c.params["batch_size"]) for c in grid.combinations()]
    assert found == [(1, 0.1, 1), (2, 0.1, 2), (3, 0.01, 1), (4, 0.01, 2)]
    assert str(grid.combinations()[0]) == "learning_rate=0.1 batch_size=1"


def test_values_of_any_json_type_and_of_numpy() -> None:
    grid = make_grid(
        {"learning_rate": np.logspace(-3, -1, 3), "model_kwargs.sizes": [[1, 2], (3,)], "compile_mode": [None, "default"]}
    )
    assert grid.to_json() == {
        "learning_rate": [0.001, 0.01, 0.1],
        "model_kwargs.sizes": [[1, 2], [3]],
        "compile_mode": [None, "default"],
    }


def test_identity_does_not_depend_on_how_a_value_is_written() -> None:
    assert identity({"a": 1, "b": [2.0]}) == identity({"b": [2], "a": 1.0})
    assert identity(True) != identity(1) != identity("1")


def test_dotted_keys_reach_into_groups_that_need_not_be_there() -> None:
    train = {"dataset_id": "lm_tiny_v1", "split": "train"}
    found = configs({"train.batch_size": [2, 4], "model_kwargs.deep.er": [1]}, train=train)
    assert [config.train and config.train.batch_size for config in found] == [2, 4]
    assert found[0].train is not None
    assert found[0].train.split == "train"
    assert found[0].model_kwargs == {"deep": {"er": 1}}
    assert BASE.get("train") is None
    assert configs({"eval.batch_size": [3]})[0].eval is not None


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({}, "expected values by config key"),
        ({"learning_rate": []}, "grid `learning_rate`: no values to try"),
        ({"learning_rate": 0.1}, "grid `learning_rate`: got 0.1, expected a list of values"),
        ({"strategy": "auto"}, "grid `strategy`: got auto, expected a list of values"),
        ({"learning_rate": [0.1, 0.2, 0.1]}, "grid `learning_rate`: 0.1 is given twice"),
        ({"model_kwargs.a": [1, 1.0]}, "grid `model_kwargs.a`: 1 is given twice"),
        ({"learning_rate": [object()]}, "grid `learning_rate`: a value cannot be stored as JSON: a object is not a number"),
        ({"train": [None], "train.batch_size": [1]}, "grid: `train` holds `train.batch_size`"),
        ({"batch_size": range(1, 102), "seed": range(100)}, "10,100 combinations (101 `batch_size` × 100 `seed`)"),
        ({"learnig_rate": [1]}, "grid: unknown key `learnig_rate`. Did you mean 'learning_rate'?"),
        ({"train.batchsize": [1]}, "grid: unknown key `train.batchsize`. Did you mean 'train.batch_size'?"),
        ({"learning_rate.x": [1]}, "grid: unknown key `learning_rate.x`: `learning_rate` is a value and holds no keys"),
        ({"db_path": ["a", "b"]}, "grid: `db_path` is the same for the whole sweep"),
        ({"learning_rate": [0.1, -1]}, "grid `learning_rate`: got -1, expected greater than 0"),
        ({"batch_size": [1, 2.5]}, "grid `batch_size`: got 2.5, expected"),
        ({"precision": ["32-true", "bf16-mixd"]}, "Did you mean 'bf16-mixed'?"),
        ({"train.batch_size": [0]}, "grid `train.batch_size`: got 0"),
        ({"pad_token_id": [5, 500]}, "grid, with pad_token_id=500: `pad_token_id` 500 is outside the vocabulary of 128 tokens"),
        ({"batch_size": [8, None]}, "grid: `batch_size` 8 and `batch_size` null are the same config"),
    ],
)
def test_mistakes_name_the_key_and_the_value(grid: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configs(grid)
    assert said in str(caught.value)


def test_a_mistake_of_the_config_is_not_blamed_on_the_grid() -> None:
    with pytest.raises(ConfigError, match=r"^config: unknown key `epoch`\. Did you mean 'epochs'\?$"):
        configs({"batch_size": [1, 2]}, epoch=3)


def test_mistakes_of_a_file_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "model.json"
    file.write_text('{"task_name": "lm_tiny", "epoch": 1}')
    with pytest.raises(ConfigError, match=r"model\.json(:\d+:\d+)?: unknown key `epoch`"):
        read_base(file)


def test_several_mistakes_are_said_at_once_each_of_them_once() -> None:
    with pytest.raises(ConfigError) as caught:
        configs({"learning_rate": [-1, -2], "batch_size": [4, 0]})
    assert str(caught.value).splitlines() == [
        "grid `learning_rate`: got -1, expected greater than 0",
        "grid `batch_size`: got 0, expected greater than or equal to 1",
        "grid `learning_rate`: got -2, expected greater than 0",
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "least"}, "mode is 'min' or 'max', not 'least'"),
        ({"executor": "process"}, "no executor 'process'. Did you mean 'processes'?"),
        ({"executor": "processes", "workers": 0}, "workers: got 0, expected a number from 1"),
        ({"workers": 4}, "4 workers need the executor 'processes' or 'ray'"),
        ({"executor": "processes", "trial": lambda trial: {}}, "cannot be sent to another process"),
    ],
)
def test_nothing_is_recorded_of_a_sweep_that_cannot_begin(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        run_grid_sweep(BASE, {"batch_size": [4]}, db_path=tmp_path / "e.db", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keys", [{"devices": 2}, {"devices": [0, 1]}, {"num_nodes": 2}])
def test_trainings_in_several_processes_are_refused(keys: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"each trial of a sweep trains in one process"):
        run_grid_sweep({**BASE, **keys}, {"batch_size": [4]}, db_path=tmp_path / "e.db")


def test_a_sweep_under_torchrun_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="without torchrun"):
        run_grid_sweep(BASE, {"batch_size": [4]}, db_path=tmp_path / "e.db")


def test_ten_thousand_combinations_are_checked_in_seconds(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="got -1"):
        run_grid_sweep(BASE, {"batch_size": range(1, 101), "seed": [*range(99), -1]}, db_path=tmp_path / "e.db")
    assert len(configs({"batch_size": range(1, 101), "seed": range(100)})) == 10_000

"""The sample configs that users start from load as they stand, and mean what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.config import load_config
from harness.tasks import TaskType

TRAIN = {
    "task_name": "lm_tiny",
    "epochs": 1,
    "batch_size": 2,
    "vocab_size": 101,
    "max_seq_len": 16,
    "learning_rate": 5e-4,
    "model_file": "./path/to/model.py",
    "eval": {"dataset_id": "lm_tiny_v1", "batch_size": 2},
    "log_to_db": True,
    "run_name": "cli-run-01",
}
EXPORT = {
    "task_name": "lm_tiny",
    "modality": "text",
    "tier": "4",
    "export": {"formats": ["torchscript", "onnx", "pytorch"], "quantization": None, "export_dir": "exports/lm_tiny"},
}
MONITOR = {
    "task_name": "lm_tiny",
    "modality": "text",
    "tier": "5",
    "baseline_run_id": None,
    "reference_profile_id": None,
    "db_path": "experiments.db",
    "eval": {"dataset_id": "lm_tiny_v1", "split": "validation", "max_eval_examples": 32, "batch_size": 4},
}
DISTRIBUTED = {
    "task_name": "lm_tiny",
    "learning_rate": 5e-5,
    "batch_size": 4,
    "epochs": 1,
    "strategy": "ddp",
    "devices": "auto",
    "num_nodes": 1,
    "precision": "bf16-mixed",
    "accumulate_grad_batches": 2,
    "use_amp": True,
}
VISION = {"task_name": "vision_tiny", "modality": "vision", "image_size": [3, 32, 32], "num_classes": 4}
SAMPLES: dict[str, dict[str, Any]] = {
    "train": TRAIN,
    "export": EXPORT,
    "monitor": MONITOR,
    "distributed": DISTRIBUTED,
    "vision": VISION,
}


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def load_keys(keys: dict[str, Any]) -> Any:
        file = tmp_path / "cfg.json"
        file.write_text(json.dumps(keys))
        return load_config(file)

    return load_keys


def to_toml(keys: dict[str, Any], prefix: str = "") -> str:
    """The keys as TOML; ``null`` has no TOML form and is left out, which means the same."""
    quoted = {json.dumps(key, ensure_ascii=False): value for key, value in keys.items() if value is not None}
    plain = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in quoted.items() if not isinstance(value, dict)]
    groups = [f"[{prefix}{key}]\n{to_toml(value, f'{prefix}{key}.')}" for key, value in quoted.items() if isinstance(value, dict)]
    return "\n".join([*plain, *groups]) + "\n"


@pytest.mark.parametrize(
    ("sample", "task_type", "tiers"),
    [
        ("train", TaskType.CAUSAL_LM, (1, 2, 3, 4, 5)),
        ("export", TaskType.CAUSAL_LM, (4,)),
        ("monitor", TaskType.CAUSAL_LM, (5,)),
        ("distributed", TaskType.CAUSAL_LM, (1, 2, 3, 4, 5)),
        ("vision", TaskType.IMAGE_CLASSIFICATION, (1, 2, 3, 4, 5)),
    ],
)
def test_a_sample_has_its_task_and_tiers(load: Any, sample: str, task_type: TaskType, tiers: tuple[int, ...]) -> None:
    config = load(SAMPLES[sample])

    assert config.task_spec().task_type is task_type
    assert config.task_spec().task_name == SAMPLES[sample]["task_name"]
    assert config.tiers == tiers


@pytest.mark.parametrize("sample", SAMPLES)
def test_every_value_of_a_sample_is_kept(load: Any, sample: str) -> None:
    config = load(SAMPLES[sample])

    loaded = config.model_dump(include=set(SAMPLES[sample]), exclude_unset=True)
    for key, value in SAMPLES[sample].items():
        if value is not None:
            assert loaded[key] == value, key


def test_training_values_reach_the_training_config(load: Any) -> None:
    training = load(DISTRIBUTED).training_config()

    expected = {key: value for key, value in DISTRIBUTED.items() if key != "task_name"}
    assert {key: getattr(training, key) for key in expected} == expected


def test_training_values_not_given_have_defaults_that_train(load: Any) -> None:
    training = load(VISION).training_config()

    assert training.epochs >= 1
    assert training.learning_rate > 0
    assert (training.strategy, training.devices, training.precision) == ("auto", "auto", "32-true")


def test_evaluation_data_is_read_from_its_group(load: Any) -> None:
    config = load(MONITOR).eval_config()

    assert (config.dataset_id, config.split, config.max_eval_examples, config.batch_size) == ("lm_tiny_v1", "validation", 32, 4)


def test_sizes_in_the_config_win_over_those_of_the_preset(load: Any) -> None:
    task = load(TRAIN).task_spec()

    assert (task.vocab_size, task.max_seq_len) == (101, 16)
    assert task.pad_token_id == 0, "a size that is not given stays as the preset has it"


def test_a_null_means_the_key_was_not_given(load: Any) -> None:
    assert (
        load({"task_name": "lm_tiny", "vocab_size": None, "epochs": None}).task_spec()
        == load({"task_name": "lm_tiny"}).task_spec()
    )


@pytest.mark.parametrize("sample", SAMPLES)
def test_toml_says_the_same_as_json(tmp_path: Path, sample: str) -> None:
    (tmp_path / "cfg.json").write_text(json.dumps(SAMPLES[sample]))
    (tmp_path / "cfg.toml").write_text(to_toml(SAMPLES[sample]))

    assert load_config(tmp_path / "cfg.toml").model_dump() == load_config(tmp_path / "cfg.json").model_dump()


def test_a_path_is_relative_to_the_config_file(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(TRAIN)
    monkeypatch.chdir("/")

    assert config.resolve(config.model_file) == tmp_path / "path" / "to" / "model.py"


def test_the_schema_key_of_editors_is_allowed(load: Any) -> None:
    assert load({"$schema": "modeltiers.schema.json", **VISION}).task_spec() == load(VISION).task_spec()


@pytest.mark.parametrize(("tier", "tiers"), [("2", (2,)), (["3", "1"], (1, 3)), (["4", "4"], (4,))])
def test_tiers_are_one_or_a_list_in_order(load: Any, tier: Any, tiers: tuple[int, ...]) -> None:
    assert load({"task_name": "lm_tiny", "tier": tier}).tiers == tiers


def test_equal_configs_have_equal_fingerprints_and_others_do_not(load: Any) -> None:
    assert load(TRAIN).fingerprint == load(dict(reversed(TRAIN.items()))).fingerprint
    assert load(TRAIN).fingerprint != load({**TRAIN, "seed": 1}).fingerprint

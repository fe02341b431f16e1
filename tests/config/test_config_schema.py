"""The JSON Schema that editors complete and check configs with."""

from __future__ import annotations

import json
from typing import Any

import pytest
from test_config_samples import SAMPLES

from harness.config import json_schema

KEYS = [
    "task_name",
    "task_type",
    "modality",
    "vocab_size",
    "max_seq_len",
    "min_seq_len",
    "target_vocab_size",
    "pad_token_id",
    "image_size",
    "num_classes",
    "num_features",
    "metrics",
    "properties",
    "tolerances",
    "inputs",
    "outputs",
    "axes",
    "symmetric",
    "limits",
    "labels",
    "loss",
    "example",
    "model_file",
    "model_import",
    "model",
    "call",
    "gist_id",
    "gist_revision",
    "gist_sha256",
    "preset",
    "model_factory",
    "model_kwargs",
    "weights",
    "adapter",
    "trust_model",
    "tier",
    "seed",
    "isolation",
    "device",
    "time_budget",
    "epochs",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "warmup_ratio",
    "max_grad_norm",
    "strategy",
    "devices",
    "num_nodes",
    "precision",
    "use_amp",
    "accumulate_grad_batches",
    "resume_from_checkpoint",
    "checkpoint_dir",
    "checkpoint_every_n_steps",
    "early_stopping_patience",
    "export_bundle",
    "export_formats",
    "deterministic",
    "compile_mode",
    "use_gpu",
    "train",
    "eval",
    "export",
    "baseline_run_id",
    "reference_profile_id",
    "reference_windows",
    "db_path",
    "thresholds",
    "margins",
    "drift_floors",
    "min_power",
    "expected_windows",
    "expected_comparisons",
    "log_to",
    "log_to_db",
    "run_name",
]
NESTED = {
    "train": [
        "dataset_id",
        "path",
        "dataset",
        "datamodule",
        "arguments",
        "split",
        "group",
        "slices",
        "windows",
        "without",
        "also",
        "max_eval_examples",
        "batch_size",
        "num_workers",
    ],
    "eval": [
        "dataset_id",
        "path",
        "dataset",
        "datamodule",
        "arguments",
        "split",
        "group",
        "slices",
        "windows",
        "without",
        "also",
        "max_eval_examples",
        "batch_size",
        "num_workers",
    ],
    "export": ["formats", "quantization", "export_dir", "opset_version", "dynamic_shapes", "trust"],
    "drift_floors": ["ks", "cramers_v", "features"],
    "reference_windows": ["last", "same"],
}
TYPES = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}


def problems(value: Any, schema: dict[str, Any], root: dict[str, Any], path: str = "") -> list[str]:
    """What a value breaks of the part of JSON Schema that the config's schema is written in."""
    if "$ref" in schema:
        return problems(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, path)
    if "anyOf" in schema:
        tried = [problems(value, branch, root, path) for branch in schema["anyOf"]]
        return [] if any(not found for found in tried) else [f"{path}: fits no branch: {tried}"]
    kind = schema.get("type")
    if kind and (not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind in ("integer", "number"))):
        return [f"{path}: {value!r} is no {kind}"]
    found = []
    if value not in schema.get("enum", [value]) or value != schema.get("const", value):
        found.append(f"{path}: {value!r} is no valid choice")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value < schema.get("minimum", value) or value > schema.get("maximum", value):
            found.append(f"{path}: {value!r} is out of range")
        if value <= schema.get("exclusiveMinimum", value - 1):
            found.append(f"{path}: {value!r} is too small")
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            found.append(f"{path}: {len(value)} items")
        for index, item in enumerate(value):
            found += problems(item, schema.get("items", {}), root, f"{path}.{index}")
    if isinstance(value, dict):
        for key, item in value.items():
            rule = schema.get("properties", {}).get(key, schema.get("additionalProperties", {}))
            found += (
                [f"{path}.{key}: unknown"]
                if rule is False
                else problems(item, {} if rule is True else rule, root, f"{path}.{key}")
            )
    return found


def inner(key: str) -> dict[str, Any]:
    """The schema of a group of keys."""
    schema = json_schema()
    rule = schema["properties"][key]
    rule = next(branch for branch in rule.get("anyOf", [rule]) if "$ref" in branch)
    return schema["$defs"][rule["$ref"].rpartition("/")[2]]


def test_the_schema_is_json() -> None:
    assert json.loads(json.dumps(json_schema()))["$schema"].startswith("https://json-schema.org/")


@pytest.mark.parametrize("key", KEYS)
def test_the_schema_has_every_key(key: str) -> None:
    assert key in json_schema()["properties"]


@pytest.mark.parametrize(("group", "key"), [(group, key) for group, keys in NESTED.items() for key in keys])
def test_the_schema_has_every_key_of_a_group(group: str, key: str) -> None:
    assert key in inner(group)["properties"]


def test_the_schema_has_no_key_that_is_not_documented() -> None:
    assert set(json_schema()["properties"]) - {"$schema"} == set(KEYS)
    for group, keys in NESTED.items():
        assert set(inner(group)["properties"]) == set(keys)


def test_unknown_keys_are_errors_in_editors_too() -> None:
    assert json_schema()["additionalProperties"] is False
    assert all(inner(group)["additionalProperties"] is False for group in NESTED)


def test_the_line_that_ties_a_config_to_its_schema_is_no_error() -> None:
    assert "$schema" in json_schema()["properties"]


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_samples_are_valid(sample: str) -> None:
    assert problems(SAMPLES[sample], json_schema(), json_schema()) == []


@pytest.mark.parametrize(
    "keys",
    [
        {"vocab_sise": 3},
        {"epochs": "3"},
        {"epochs": 0},
        {"learning_rate": 0},
        {"strategy": "dpp"},
        {"tier": "6"},
        {"image_size": [3, 32]},
        {"eval": {"data": "x"}},
        {"export": {"quantization": "int8"}},
        {"properties": {"causal": "no"}},
    ],
)
def test_the_schema_finds_mistakes(keys: dict[str, Any]) -> None:
    assert problems({"task_name": "lm_tiny", **keys}, json_schema(), json_schema())

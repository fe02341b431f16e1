"""A mistake in a config is answered by one line: the file, the key's path, what was expected, and the nearest valid name.

Tests ask for a mistake's code, key and suggestion; each sentence is compared once, in one table.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.config import load_config
from harness.errors import ConfigError, Mistake

LM = {"task_name": "lm_tiny"}
VISION = {"task_name": "vision_tiny"}
Refused = Callable[..., Mistake]


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    """The one mistake for which a config is refused; its message is checked to be a single line behind the file."""

    def refuse(content: dict[str, Any] | str, name: str = "cfg.json") -> Mistake:
        file = tmp_path / name
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(ConfigError) as caught:
            load_config(file)
        (mistake,) = caught.value.mistakes
        said = str(caught.value)
        assert "\n" not in said
        assert said.startswith(str(file))
        assert said.endswith(f": {mistake.message}")
        assert mistake.suggestion in mistake.message
        return mistake

    return refuse


@pytest.fixture
def refusal(refused: Refused, tmp_path: Path) -> Callable[..., str]:
    """The message of that mistake."""
    return lambda content, name="cfg.json": f": {refused(content, name).message}"


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({**LM, "vocab_sise": 3}, "unknown key `vocab_sise`. Did you mean 'vocab_size'?"),
        ({**LM, "vocab_sise": None}, "unknown key `vocab_sise`. Did you mean 'vocab_size'?"),
        (
            {**LM, "export": {"batch_size": 1}},
            "unknown key `export.batch_size`. `batch_size` is a key of the top level, outside of any group",
        ),
        ({**LM, "epochs": "3"}, '`epochs`: got "3", expected an integer'),
        ({"loss": {"function": ":f", "argument": {}}}, "unknown key `loss.argument`. Did you mean 'arguments'?"),
        (
            {"loss": {"function": ":f", "arguments": {"x": [1]}}},
            "`loss.arguments.x`: got [1], expected a string or an integer or a number or a boolean",
        ),
        ({"loss": {"arguments": {}}}, "`loss.function` is missing: `loss` needs it"),
        (
            {"loss": ["f"]},
            '`loss`: got ["f"], expected file.py:function, or {function: file.py:name, arguments: {PARAMETER: outputs.NAME}}',
        ),
        ({**LM, "epochs": 0}, "`epochs`: got 0, expected greater than or equal to 1"),
        ({**LM, "learning_rate": "5e-4"}, '`learning_rate`: got "5e-4", expected a number'),
        ({**LM, "log_to_db": 1}, "`log_to_db`: got 1, expected a boolean"),
        ({**LM, "weights": 3}, "`weights`: got 3, expected a string"),
        ({**LM, "model_kwargs": []}, "`model_kwargs`: got [], expected an object of keys"),
        ({**LM, "baseline_run_id": 1.5}, "`baseline_run_id`: got 1.5, expected a run's number or name"),
        ({**LM, "strategy": "dpp"}, "`strategy`: got \"dpp\", expected 'auto', 'ddp' or 'fsdp_native'. Did you mean 'ddp'?"),
        ({**LM, "model_import": "my model"}, '`model_import`: got "my model", expected pkg.mod:callable'),
        ({**LM, "tier": 6}, '`tier`: got "6", expected "1" to "5", or a list of them'),
        ({**LM, "min_seq_len": 40}, "`min_seq_len` 40 is above `max_seq_len` 32"),
        ({**LM, "gist_revision": "abc"}, "`gist_revision` needs `gist_id`"),
        ({**LM, "modality": "vision"}, "`task_type` 'causal_lm' has `modality` 'text', not 'vision'"),
        (
            {**LM, "preset": "cls_tiny"},
            "`task_name` 'lm_tiny' implies 'causal_lm' but `preset` 'cls_tiny' implies 'sequence_classification': "
            "these are different task types",
        ),
        (
            {"model_file": "m.py", "inputs": {"x": {"axes": ["batch", 4]}}, "outputs": {"y": {"axes": [None]}}},
            "`outputs.y.axes.0`: got null, expected an integer or a string",
        ),
        ({"task_type": "causal_lm"}, "`task_type` 'causal_lm' needs `vocab_size`, `max_seq_len`"),
        ({**LM, "pad_token_id": 128}, "`pad_token_id` 128 is outside the vocabulary of 128 tokens"),
        ({**LM, "model_file": "m.py", "preset": "lm_tiny"}, "give one of `model_file`, `preset`, not 2"),
    ],
)
def test_sentences(refused: Refused, keys: dict[str, Any], sentence: str) -> None:
    assert refused(keys).message == sentence


def test_a_missing_file_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "modle.json")
    assert str(caught.value) == f"{tmp_path / 'modle.json'}: no such config file. Did you mean 'model.json'?"
    assert [(mistake.code, mistake.suggestion) for mistake in caught.value.mistakes] == [("no_file", "model.json")]


def test_a_file_in_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere/cfg\.json: no such config file"):
        load_config(tmp_path / "nowhere" / "cfg.json")


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ('{"task_name": "lm_tiny",,}', ("1:24", "1:25")),  # Python 3.13 points at the comma
        ('{\n  "task_name": lm_tiny\n}', ("2:16",)),
        ("", ("1:1",)),
    ],
)
def test_broken_json_is_located(tmp_path: Path, text: str, places: tuple[str, ...]) -> None:
    file = tmp_path / "cfg.json"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert [mistake.code for mistake in caught.value.mistakes] == ["syntax"]
    assert str(caught.value).startswith(tuple(f"{file}:{place}: not JSON" for place in places))


def test_broken_toml_is_located(refused: Refused) -> None:
    mistake = refused("task_name = 'lm_tiny'\nepochs = \n", "cfg.toml")
    assert mistake.code == "syntax"
    assert (mistake.line, mistake.column) == (2, 10)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cfg.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"cfg\.json: cannot be read") as caught:
        load_config(tmp_path / "cfg.json")
    assert [mistake.code for mistake in caught.value.mistakes] == ["unreadable"]


@pytest.mark.parametrize("text", ["[1]", '"lm_tiny"', "null", "3"])
def test_anything_but_an_object_is_refused(refused: Refused, text: str) -> None:
    mistake = refused(text)
    assert (mistake.code, mistake.key) == ("wrong_type", "")


@pytest.mark.parametrize(
    ("keys", "key", "suggestion"),
    [
        ({"vocab_sise": 3}, "vocab_sise", "vocab_size"),
        ({"lr_rate": 1e-3}, "lr_rate", "learning_rate"),
        ({"eval": {"datset_id": "lm_tiny_v1"}}, "eval.datset_id", "dataset_id"),
        ({"train": {"spilt": "train"}}, "train.spilt", "split"),
        ({"export": {"format": ["onnx"]}}, "export.format", "formats"),
        ({"export": {"batch_size": 1}}, "export.batch_size", ""),
        ({"[": 1}, "[", ""),
        ({"list[int]": 1}, "list[int]", ""),
        ({"two\nlines": 1}, "two\\nlines", "tolerances"),
    ],
)
def test_an_unknown_key_is_named_by_its_path_with_the_nearest_one(
    refused: Refused, keys: dict[str, Any], key: str, suggestion: str
) -> None:
    mistake = refused({**LM, **keys})
    assert (mistake.code, mistake.key, mistake.suggestion) == ("unknown_key", key, suggestion)


@pytest.mark.parametrize(
    ("keys", "code", "key"),
    [
        ({"epochs": "3"}, "wrong_type", "epochs"),
        ({"epochs": True}, "wrong_type", "epochs"),
        ({"epochs": 1.5}, "wrong_type", "epochs"),
        ({"epochs": 0}, "wrong_value", "epochs"),
        ({"learning_rate": 0}, "wrong_value", "learning_rate"),
        ({"log_to_db": 1}, "wrong_type", "log_to_db"),
        ({"metrics": ["accuracy", 1]}, "wrong_type", "metrics.1"),
        ({"properties": {"causal": "no"}}, "wrong_type", "properties.causal"),
        ({"tolerances": {"causal": -1}}, "wrong_value", "tolerances.causal"),
        ({"model_kwargs": []}, "wrong_type", "model_kwargs"),
        ({"baseline_run_id": 1.5}, "wrong_value", "baseline_run_id"),
        ({"eval": {"batch_size": 0}}, "wrong_value", "eval.batch_size"),
        ({"eval": 3}, "wrong_type", "eval"),
        ({"export": {"opset_version": "18"}}, "wrong_type", "export.opset_version"),
        ({"model_import": "my model"}, "wrong_value", "model_import"),
        ({"model_file": ""}, "wrong_value", "model_file"),
        ({"image_size": [32, 32]}, "wrong_value", "image_size"),
        ({"image_size": [3, 32, 32, 1]}, "wrong_value", "image_size"),
        ({"tier": 9}, "wrong_value", "tier"),
        ({"tier": "6"}, "wrong_value", "tier"),
        ({"tier": []}, "wrong_value", "tier"),
        ({"tier": ["1", "x"]}, "wrong_value", "tier.1"),
        ({"devices": "all"}, "wrong_value", "devices"),
        ({"devices": 0}, "wrong_value", "devices"),
        ({"devices": [-1]}, "wrong_value", "devices.0"),
    ],
)
def test_a_wrong_type_or_value_is_refused_in_plain_words(refused: Refused, keys: dict[str, Any], code: str, key: str) -> None:
    mistake = refused({**LM, **keys})
    assert (mistake.code, mistake.key) == (code, key)
    assert mistake.message.startswith(f"`{key}`: got ")
    for word in ("validation", "a List should", "constrained", "EvalConfig", ". or "):
        assert word not in mistake.message, "no word of the library that validates"


@pytest.mark.parametrize(
    ("keys", "key", "suggestion"),
    [
        ({**LM, "strategy": "dpp"}, "strategy", "ddp"),
        ({**LM, "precision": "bf16-mxied"}, "precision", "bf16-mixed"),
        ({**LM, "modality": "txt"}, "modality", "text"),
        ({"task_type": "causal-lm"}, "task_type", "causal_lm"),
        ({**LM, "eval": {"dataset_id": "lm_tiny_v2"}}, "eval.dataset_id", "lm_tiny_v1"),
        ({**LM, "export": {"quantization": "dynamik"}}, "export.quantization", "dynamic"),
        ({**LM, "export": {"formats": ["onx"]}}, "export.formats.0", "onnx"),
        ({**LM, "export_formats": ["onx"]}, "export_formats.0", "onnx"),
    ],
)
def test_a_bad_choice_lists_the_choices_and_the_nearest(
    refused: Refused, keys: dict[str, Any], key: str, suggestion: str
) -> None:
    mistake = refused(keys)
    assert (mistake.code, mistake.key, mistake.suggestion) == ("unknown_choice", key, suggestion)
    assert f"'{suggestion}'" in mistake.message.split("expected ")[1].split(". Did")[0]


@pytest.mark.parametrize("key", ["learning_rate", "time_budget", "weight_decay", "max_grad_norm"])
def test_an_infinite_number_is_refused(refused: Refused, key: str) -> None:
    assert refused(f'{{"task_name": "lm_tiny", "{key}": Infinity}}').key == key


@pytest.mark.parametrize(
    ("keys", "code", "key", "named"),
    [
        ({**LM, "min_seq_len": 40}, "contradictory_sizes", "min_seq_len", ["max_seq_len"]),
        ({**VISION, "min_seq_len": 4}, "key_of_another_task", "min_seq_len", []),
        ({**LM, "target_vocab_size": 40}, "key_of_another_task", "target_vocab_size", []),
        (
            {"task_name": "seq2seq_tiny", "target_vocab_size": 5, "pad_token_id": 6},
            "outside_vocabulary",
            "pad_token_id",
            ["target_vocab_size"],
        ),
        ({**LM, "model_file": "m.py", "preset": "lm_tiny"}, "several_models", "preset", ["model_file"]),
        ({**LM, "model_file": "m.py", "model_import": "pkg:f"}, "several_models", "model_import", ["model_file"]),
        ({**LM, "gist_revision": "abc"}, "missing_key", "gist_id", ["gist_revision"]),
        ({**LM, "task_type": "masked_lm"}, "different_task_types", "task_type", ["task_name"]),
        ({**LM, "preset": "cls_tiny"}, "different_task_types", "preset", ["task_name"]),
        ({"preset": "cls_tiny", "task_type": "causal_lm"}, "different_task_types", "task_type", ["preset"]),
        ({**LM, "modality": "vision"}, "wrong_modality", "modality", ["task_type"]),
        ({"task_type": "causal_lm"}, "missing_key", "vocab_size", ["max_seq_len"]),
        ({"task_type": "seq2seq_lm", "vocab_size": 9}, "missing_key", "max_seq_len", []),
        ({"task_type": "token_classification", "vocab_size": 9, "max_seq_len": 4}, "missing_key", "num_classes", []),
        ({"task_type": "image_classification", "num_classes": 3}, "missing_key", "image_size", []),
        ({"task_type": "image_classification", "num_classes": 1, "image_size": [3, 8, 8]}, "wrong_value", "num_classes", []),
        ({"task_type": "tabular_regression"}, "missing_key", "num_features", []),
        ({**LM, "pad_token_id": 128}, "outside_vocabulary", "pad_token_id", []),
        ({**LM, "vocab_size": 8, "pad_token_id": 8}, "outside_vocabulary", "pad_token_id", []),
        ({**LM, "eval": {"dataset_id": "lm_tiny_v1", "path": "d.jsonl"}}, "two_sources", "eval.path", ["eval", "dataset_id"]),
        ({}, "missing_key", "task_type", ["task_type"]),
        ({"task_name": "lm_tny"}, "missing_key", "task_type", []),
    ],
)
def test_an_impossible_combination_names_its_keys(
    refused: Refused, keys: dict[str, Any], code: str, key: str, named: list[str]
) -> None:
    mistake = refused(keys)
    assert (mistake.code, mistake.key) == (code, key)
    for other in (key.rpartition(".")[2], *named):
        assert f"`{other}`" in mistake.message
    assert "None" not in mistake.message


def test_a_preset_that_was_mistyped_is_suggested(refused: Refused) -> None:
    assert refused({"task_name": "lm_tny"}).suggestion == "lm_tiny"


@pytest.mark.parametrize(
    ("keys", "code", "key", "suggestion"),
    [
        ({**LM, "properties": {"causl": False}}, "unknown_property", "properties.causl", "causal"),
        ({**LM, "properties": {"gradient": False}}, "unknown_property", "properties.gradient", "gradient_flow"),
        ({**LM, "tolerances": {"causall": 1e-6}}, "unknown_property", "tolerances.causall", "causal"),
        ({"preset": "lm-tiny"}, "unknown_preset", "preset", "lm_tiny"),
        ({**LM, "export": {"dynamic_shapes": {"bat": True}}}, "unknown_axis", "export.dynamic_shapes.bat", "batch"),
    ],
)
def test_an_unknown_name_of_the_projects_own_tables_is_answered_by_the_nearest(
    refused: Refused, keys: dict[str, Any], code: str, key: str, suggestion: str
) -> None:
    mistake = refused(keys)
    assert (mistake.code, mistake.key, mistake.suggestion) == (code, key, suggestion)
    assert "Valid: " in mistake.message


def test_a_tolerance_of_an_exact_property_is_refused(refused: Refused) -> None:
    mistake = refused({**LM, "tolerances": {"shape_contract": 1.0}})
    assert (mistake.code, mistake.key) == ("unknown_property", "tolerances.shape_contract")
    assert "shape_contract" not in mistake.message.split("Valid: ")[1]


def test_several_mistakes_are_told_at_once_a_line_each(tmp_path: Path) -> None:
    file = tmp_path / "cfg.json"
    file.write_text(json.dumps({**LM, "epochs": "x", "vocab_size": -3, "sead": 1}))
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert {mistake.key for mistake in caught.value.mistakes} == {"epochs", "vocab_size", "sead"}
    assert str(caught.value).splitlines() == [
        f"{file}:1:{mistake.column}: {mistake.message}" for mistake in caught.value.mistakes
    ]
    assert pickle.loads(pickle.dumps(caught.value)).mistakes == caught.value.mistakes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"task_name": "lm_tiny", "seed": 4294967296}', "`seed`: got 4294967296, expected less than or equal to 4294967295"),
        ('{"task_name": "lm_tiny", "time_budget": 1e300}', "`time_budget`: got 1e+300, expected less than or equal to 1000000"),
        ('{"task_name": "lm_tiny", "run_name": "\\ud83e"}', '`run_name`: "\\ud83e" holds half of a surrogate pair'),
        (
            '{"task_name": "lm_tiny", "model_kwargs": ' + "[" * 80 + "]" * 80 + "}",
            "`model_kwargs`: nested more than 64 levels deep",
        ),
        ('{"task_name": "lm_tiny", "eval": {"path": ""}}', '`eval.path`: got "", expected a name'),
        ('{"task_name": "lm_tiny", "export": {"trust": ["x"]}}', '`export.trust.0`: got "x", expected 64 hexadecimal digits'),
        (
            '{"task_name": "lm_tiny", "export": {"dynamic_shapes": {"batch": "x"}}}',
            '`export.dynamic_shapes`: got "x", expected true',
        ),
    ],
)
def test_a_value_that_nothing_could_take_is_refused_at_its_key(refusal: Any, text: str, said: str) -> None:
    assert refusal(text).startswith(f": {said}")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"model_file": "a\nb.py"}, '`model_file`: got "a\\nb.py", expected a path without control characters'),
        ({"eval": {"path": "x" * 300}}, "`eval.path`: got "),
        ({"db_path": "~nobody-of-this-name/runs.db"}, '`db_path`: got "~nobody-of-this-name/runs.db": '),
        ({"adapter": "a\0b.py:Own"}, '`adapter`: got "a\\u0000b.py", expected'),
        ({"export": {"export_dir": "\x1b[2J"}}, "`export.export_dir`: got "),
    ],
)
def test_what_no_file_can_be_called_is_refused_at_its_key(refusal: Any, keys: dict[str, Any], said: str) -> None:
    assert refusal({**LM, **keys}).startswith(f": {said}")


def test_a_seed_as_large_as_numpy_takes_is_taken(tmp_path: Path) -> None:
    (tmp_path / "cfg.json").write_text(json.dumps({**LM, "seed": 2**32 - 1}))

    assert load_config(tmp_path / "cfg.json").seed == 2**32 - 1


def test_a_config_error_can_be_caught_as_a_value_error() -> None:
    assert issubclass(ConfigError, ValueError)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"seed": ' + "1" * 5000 + "}"], ids=["deep", "long_number"])
def test_json_that_the_parser_gives_up_on_is_refused(refusal: Any, text: str) -> None:
    assert "JSON" in refusal(text)

"""A mistake in a config is answered by one line: the file, the key's path, what was expected, and the nearest valid name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.config import load_config
from harness.errors import ConfigError

LM = {"task_name": "lm_tiny"}
VISION = {"task_name": "vision_tiny"}


@pytest.fixture
def refusal(tmp_path: Path) -> Any:
    """The message with which a config is refused; checked to be a single line that begins with the file."""

    def refused(content: dict[str, Any] | str, name: str = "cfg.json") -> str:
        file = tmp_path / name
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(ConfigError) as caught:
            load_config(file)
        message = str(caught.value)
        assert "\n" not in message
        assert message.startswith(str(file))
        return message.removeprefix(str(file))

    return refused


def test_a_missing_file_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "modle.json")

    assert str(caught.value) == f"{tmp_path / 'modle.json'}: no such config file. Did you mean 'model.json'?"


def test_a_file_in_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere/cfg\.json: no such config file"):
        load_config(tmp_path / "nowhere" / "cfg.json")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"task_name": "lm_tiny",,}', (":1:24: not JSON", ":1:25: not JSON")),  # Python 3.13 points at the comma
        ('{\n  "task_name": lm_tiny\n}', ":2:16: not JSON"),
        ("", ":1:1: not JSON"),
    ],
)
def test_broken_json_is_located(refusal: Any, text: str, place: str | tuple[str, ...]) -> None:
    assert refusal(text).startswith(place)


def test_broken_toml_is_located(refusal: Any) -> None:
    message = refusal("task_name = 'lm_tiny'\nepochs = \n", "cfg.toml")

    assert "not TOML" in message
    assert "line 2, column 10" in message


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cfg.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"cfg\.json: cannot be read"):
        load_config(tmp_path / "cfg.json")


@pytest.mark.parametrize("text", ["[1]", '"lm_tiny"', "null", "3"])
def test_anything_but_an_object_is_refused(refusal: Any, text: str) -> None:
    assert "expected an object" in refusal(text)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"vocab_sise": 3}, ": unknown key `vocab_sise`. Did you mean 'vocab_size'?"),
        ({"lr_rate": 1e-3}, ": unknown key `lr_rate`. Did you mean 'learning_rate'?"),
        ({"eval": {"dataset": "lm_tiny_v1"}}, ": unknown key `eval.dataset`. Did you mean 'dataset_id'?"),
        ({"train": {"spilt": "train"}}, ": unknown key `train.spilt`. Did you mean 'split'?"),
        ({"export": {"format": ["onnx"]}}, ": unknown key `export.format`. Did you mean 'formats'?"),
        ({"export": {"batch_size": 1}}, ": unknown key `export.batch_size`."),
    ],
)
def test_an_unknown_key_is_named_by_its_path_with_the_nearest_one(refusal: Any, keys: dict[str, Any], expected: str) -> None:
    assert refusal({**LM, **keys}) == expected


@pytest.mark.parametrize("key", ["[", "int", "list[int]", "two\nlines"])
def test_an_unknown_key_may_look_like_anything(refusal: Any, key: str) -> None:
    assert "unknown key" in refusal({**LM, key: 1})


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"epochs": "3"}, ': `epochs`: got "3", expected an integer'),
        ({"epochs": True}, ": `epochs`: got true, expected an integer"),
        ({"epochs": 1.5}, ": `epochs`: got 1.5, expected an integer"),
        ({"epochs": 0}, ": `epochs`: got 0, expected greater than or equal to 1"),
        ({"learning_rate": "5e-4"}, ': `learning_rate`: got "5e-4", expected a number'),
        ({"learning_rate": 0}, ": `learning_rate`: got 0, expected greater than 0"),
        ({"log_to_db": 1}, ": `log_to_db`: got 1, expected a boolean"),
        ({"weights": 3}, ": `weights`: got 3, expected a string"),
        ({"metrics": ["accuracy", 1]}, ": `metrics.1`: got 1, expected a string"),
        ({"properties": {"causal": "no"}}, ': `properties.causal`: got "no", expected a boolean'),
        ({"tolerances": {"causal": -1}}, ": `tolerances.causal`: got -1, expected greater than or equal to 0"),
        ({"model_kwargs": []}, ": `model_kwargs`: got [], expected an object of keys"),
        ({"baseline_run_id": 1.5}, ": `baseline_run_id`: got 1.5, expected a run's number or name"),
        ({"eval": {"batch_size": 0}}, ": `eval.batch_size`: got 0, expected greater than or equal to 1"),
        ({"export": {"opset_version": "18"}}, ': `export.opset_version`: got "18", expected an integer'),
    ],
)
def test_a_wrong_type_or_value_says_what_was_expected(refusal: Any, keys: dict[str, Any], expected: str) -> None:
    assert refusal({**LM, **keys}) == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({**LM, "min_seq_len": 40}, "`min_seq_len` 40 is above `max_seq_len` 32"),
        ({**VISION, "min_seq_len": 4}, "`min_seq_len` is for text"),
        ({**LM, "target_vocab_size": 40}, "`target_vocab_size` is for seq2seq_lm"),
        ({"task_name": "seq2seq_tiny", "target_vocab_size": 5, "pad_token_id": 6}, "is outside `target_vocab_size` 5"),
    ],
)
def test_sizes_that_contradict_the_task_are_refused(refusal: Any, keys: dict[str, Any], expected: str) -> None:
    assert expected in refusal(keys)


@pytest.mark.parametrize(
    ("keys", "path", "expected", "nearest"),
    [
        ({"strategy": "dpp"}, "`strategy`", "'auto', 'ddp' or 'fsdp_native'", "Did you mean 'ddp'?"),
        ({"precision": "bf16-mxied"}, "`precision`", "'32-true'", "Did you mean 'bf16-mixed'?"),
        ({"modality": "txt"}, "`modality`", "'text', 'vision' or 'tabular'", "Did you mean 'text'?"),
        ({"task_type": "causal-lm"}, "`task_type`", "'masked_lm'", "Did you mean 'causal_lm'?"),
        ({"eval": {"dataset_id": "lm_tiny_v2"}}, "`eval.dataset_id`", "'vision_tiny_v1'", "Did you mean 'lm_tiny_v1'?"),
        ({"export": {"quantization": "dynamik"}}, "`export.quantization`", "'dynamic' or 'static'", "Did you mean 'dynamic'?"),
    ],
)
def test_a_bad_choice_lists_the_choices(refusal: Any, keys: dict[str, Any], path: str, expected: str, nearest: str) -> None:
    message = refusal(keys if "task_type" in keys else {**LM, **keys})

    assert message.startswith(f": {path}: got ")
    assert expected in message
    assert message.endswith(nearest)


@pytest.mark.parametrize("size", [[32, 32], [3, 32, 32, 1]])
def test_an_image_size_of_another_length_than_three_is_refused_in_plain_words(refusal: Any, size: list[int]) -> None:
    message = refusal({**VISION, "image_size": size})

    assert message.startswith(f": `image_size`: got {size}, expected ")
    assert "3" in message.split("expected ")[1]
    assert "validation" not in message, "no word of the library that validates"
    assert "a List should" not in message


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"tier": 4}, "tier"),
        ({"tier": "6"}, "tier"),
        ({"tier": ["1", "x"]}, "tier.1"),
        ({"devices": "all"}, "devices"),
        ({"devices": 0}, "devices"),
        ({"devices": [-1]}, "devices.0"),
    ],
)
def test_a_value_that_fits_none_of_several_forms_gets_one_line(refusal: Any, keys: dict[str, Any], key: str) -> None:
    message = refusal({**LM, **keys})

    assert message.startswith(f": `{key}`: got ")
    assert ". or " not in message
    assert "constrained" not in message


def test_a_malformed_import_path_shows_the_form(refusal: Any) -> None:
    message = refusal({**LM, "model_import": "my model"})

    assert message.startswith(': `model_import`: got "my model", expected ')
    assert "pkg.mod:callable" in message


def test_a_group_that_is_no_object_is_refused_in_plain_words(refusal: Any) -> None:
    message = refusal({**LM, "eval": 3})

    assert message.startswith(": `eval`: got 3, expected ")
    assert "EvalConfig" not in message, "no name of a class the user never sees"


@pytest.mark.parametrize("key", ["learning_rate", "time_budget", "weight_decay", "max_grad_norm"])
def test_an_infinite_number_is_refused(refusal: Any, key: str) -> None:
    assert f"`{key}`" in refusal(f'{{"task_name": "lm_tiny", "{key}": Infinity}}')


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({**LM, "model_file": "m.py", "preset": "lm_tiny"}, ["`model_file`", "`preset`", "one of"]),
        ({**LM, "model_file": "m.py", "model_import": "pkg:f"}, ["`model_file`", "`model_import`", "one of"]),
        ({**LM, "gist_revision": "abc"}, ["`gist_revision` needs `gist_id`"]),
        ({**LM, "task_type": "masked_lm"}, ["'lm_tiny'", "'causal_lm'", "'masked_lm'"]),
        ({**LM, "modality": "vision"}, ["'causal_lm'", "'text'", "'vision'"]),
        ({"task_type": "causal_lm"}, ["needs `vocab_size`, `max_seq_len`"]),
        ({"task_type": "seq2seq_lm", "vocab_size": 9}, ["needs `max_seq_len`"]),
        ({"task_type": "token_classification", "vocab_size": 9, "max_seq_len": 4}, ["needs `num_classes`"]),
        ({"task_type": "image_classification", "num_classes": 3}, ["needs `image_size`"]),
        (
            {"task_type": "image_classification", "num_classes": 1, "image_size": [3, 8, 8]},
            ["`num_classes`: got 1, expected greater than or equal to 2"],
        ),
        ({"task_type": "tabular_regression"}, ["needs `num_features`"]),
        ({**LM, "pad_token_id": 128}, ["`pad_token_id` 128", "128 tokens"]),
        ({**LM, "vocab_size": 8, "pad_token_id": 8}, ["`pad_token_id` 8", "8 tokens"]),
        ({**LM, "eval": {"dataset_id": "lm_tiny_v1", "path": "d.jsonl"}}, ["`eval`", "`dataset_id` or `path`, not both"]),
        ({"task_name": "lm_tny"}, ["`task_type`", "Did you mean 'lm_tiny'?"]),
        ({}, ["`task_type`", "lm_tiny", "causal_lm"]),
    ],
)
def test_an_impossible_combination_names_its_keys(refusal: Any, keys: dict[str, Any], said: list[str]) -> None:
    message = refusal(keys)

    for part in said:
        assert part in message


@pytest.mark.parametrize(
    ("keys", "key", "nearest"),
    [
        ({"properties": {"causl": False}}, "`properties`", "'causal'"),
        ({"properties": {"gradient": False}}, "`properties`", "'gradient_flow'"),
        ({"tolerances": {"causall": 1e-6}}, "`tolerances`", "'causal'"),
        ({"preset": "lm-tiny"}, "`preset`", "'lm_tiny'"),
    ],
)
def test_an_unknown_name_of_the_projects_own_tables_is_answered_by_the_nearest(
    refusal: Any, keys: dict[str, Any], key: str, nearest: str
) -> None:
    message = refusal({**LM, **keys} if "preset" not in keys else keys)

    assert message.startswith(f": {key}: no ")
    assert f"Did you mean {nearest}?" in message
    assert "Valid: " in message


def test_a_tolerance_of_an_exact_property_is_refused(refusal: Any) -> None:
    message = refusal({**LM, "tolerances": {"shape_contract": 1.0}})

    assert "'shape_contract'" in message
    assert "shape_contract" not in message.split("Valid: ")[1]


@pytest.mark.parametrize("keys", [{"export": {"formats": ["onx"]}}, {"export_formats": ["onx"]}])
def test_an_unknown_export_format_is_refused_with_the_nearest(refusal: Any, keys: dict[str, Any]) -> None:
    assert "'onnx'" in refusal({**LM, **keys})


def test_a_preset_of_another_task_than_the_task_name_is_refused(refusal: Any) -> None:
    message = refusal({**LM, "preset": "cls_tiny"})

    assert "'lm_tiny'" in message
    assert "'cls_tiny'" in message


def test_a_preset_that_contradicts_the_task_type_is_named(refusal: Any) -> None:
    message = refusal({"preset": "cls_tiny", "task_type": "causal_lm"})

    assert "`preset` 'cls_tiny'" in message
    assert "None" not in message


def test_an_empty_list_of_tiers_is_refused(refusal: Any) -> None:
    assert "`tier`" in refusal({**LM, "tier": []})


def test_an_empty_model_file_is_refused_rather_than_replaced_by_a_stub(refusal: Any) -> None:
    assert "`model_file`" in refusal({**LM, "model_file": ""})


def test_several_mistakes_are_told_at_once_a_line_each(tmp_path: Path) -> None:
    file = tmp_path / "cfg.json"
    file.write_text(json.dumps({**LM, "epochs": "x", "vocab_size": -3, "sead": 1}))
    with pytest.raises(ConfigError) as caught:
        load_config(file)

    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{file}: ") for line in lines)
    assert {key for key in ("epochs", "vocab_size", "sead") if any(f"`{key}`" in line for line in lines)} == {
        "epochs",
        "vocab_size",
        "sead",
    }
    assert len(lines) == 3


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
            '{"task_name": "lm_tiny", "export": {"dynamic_shapes": {"bat": true}}}',
            '`export.dynamic_shapes`: got "bat", expected true',
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

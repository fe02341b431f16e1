"""``modeltiers init``: from a model file that nobody prepared to a config, and to a first verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import unknown_models as unknown

from harness.adapters import make_adapter
from harness.batches import make_batch, typical_sizes
from harness.cli import main
from harness.config import SuiteConfig, load_config
from harness.models.loading import model_source
from harness.scaffold import scaffold
from harness.scaffold.config_text import config_suggestions
from harness.tasks import TaskType


def written(source: str, folder: Path, name: str = "model.py") -> Path:
    file = folder / name
    file.write_text(source)
    return file


def logits_shape(config: SuiteConfig) -> tuple[int, ...]:
    """What the suite sees of the model when it follows the config."""
    task = config.task_spec()
    adapter = make_adapter(task, config.adapter, config.path.parent)
    return tuple(adapter.logits(model_source(config).build(), make_batch(task, typical_sizes(task))).shape)


@pytest.mark.parametrize(
    ("source", "task", "sizes"),
    [
        ("LMStub(70, 20)", TaskType.CAUSAL_LM, {"vocab_size": 70, "max_seq_len": 20}),
        ("EncoderStub(70, 20, 70, pooled=False)", TaskType.MASKED_LM, {"vocab_size": 70, "max_seq_len": 20}),
        ("EncoderStub(70, 20, 5, pooled=False)", TaskType.TOKEN_CLASSIFICATION, {"vocab_size": 70, "num_classes": 5}),
        ("EncoderStub(70, 20, 5, pooled=True)", TaskType.SEQUENCE_CLASSIFICATION, {"vocab_size": 70, "num_classes": 5}),
        ("Seq2SeqStub(70, 20)", TaskType.SEQ2SEQ_LM, {"vocab_size": 70, "max_seq_len": 20}),
        ("SimpleCNN(1, 7)", TaskType.IMAGE_CLASSIFICATION, {"image_size": (1, 32, 32), "num_classes": 7}),
        ("TabularMLP(9, 3)", TaskType.TABULAR_CLASSIFICATION, {"num_features": 9, "num_classes": 3}),
        ("TabularMLP(9, 1)", TaskType.TABULAR_REGRESSION, {"num_features": 9}),
    ],
)
@pytest.mark.parametrize("name", ["modeltiers.toml", "modeltiers.json"])
def test_the_task_is_guessed_and_the_config_loads(
    source: str, task: TaskType, sizes: dict[str, object], name: str, tmp_path: Path
) -> None:
    model = written(f"from harness.models.stubs import *\ndef build_model():\n    return {source}\n", tmp_path)
    found = scaffold(model, tmp_path / name)
    spec = load_config(found.config).task_spec()
    assert found.guess is not None
    assert spec.task_type is found.guess.task.task_type is task
    assert {name: getattr(spec, name) for name in sizes} == sizes


@pytest.mark.parametrize(
    ("source", "keys"),
    [
        (unknown.NANO_GPT, {"task_type": "causal_lm", "vocab_size": 50, "max_seq_len": 24, "model_file": "modeltiers_model.py"}),
        (unknown.ENCODER, {"task_type": "sequence_classification", "max_seq_len": 48, "num_classes": 4, "pad_token_id": 0}),
        (unknown.LENET, {"task_type": "image_classification", "image_size": [1, 28, 28], "num_classes": 10}),
        (unknown.VIT, {"task_type": "image_classification", "image_size": [3, 48, 48], "num_classes": 7}),
        (unknown.TABLE_TRANSFORMER, {"task_type": "tabular_classification", "num_features": 8, "num_classes": 3}),
        (unknown.MLP, {"task_type": "tabular_classification", "num_features": 16, "num_classes": 4, "model_factory": "make_mlp"}),
        (unknown.HOUSE_PRICES, {"task_type": "tabular_regression", "num_features": 13}),
        (unknown.TRANSLATOR, {"task_type": "seq2seq_lm", "max_seq_len": 40, "adapter": "modeltiers_model.py:ModelAdapter"}),
        (unknown.LIGHTNING, {"task_type": "tabular_classification", "num_features": 20, "model_factory": "LitNet"}),
        (unknown.ROBERTA, {"task_type": "sequence_classification", "max_seq_len": 32, "pad_token_id": 1, "num_classes": 3}),
        (unknown.TAGGER, {"task_type": "token_classification", "num_classes": 9, "vocab_size": 256}),
        (unknown.SEVERAL, {"task_type": "image_classification", "model_factory": "BigNet", "num_classes": 6}),
        (unknown.DIGITS_MLP, {"task_type": "image_classification", "image_size": [1, 28, 28], "model_factory": "build"}),
    ],
    ids=[
        "nano_gpt",
        "encoder",
        "lenet",
        "vit",
        "table_transformer",
        "mlp",
        "house_prices",
        "translator",
        "lightning",
        "roberta",
        "tagger",
        "several",
        "digits_mlp",
    ],
)
def test_a_file_that_knows_nothing_of_the_project_gets_a_config_that_works(
    source: str, keys: dict[str, Any], tmp_path: Path
) -> None:
    found = scaffold(written(source, tmp_path))
    config = load_config(found.config)
    assert {key: getattr(config, key) for key in keys} == keys
    task = config.task_spec()
    sizes = typical_sizes(task)
    assert logits_shape(config) == sizes.logits_shape(task)


def test_every_key_says_where_its_value_comes_from(tmp_path: Path) -> None:
    text = scaffold(written(unknown.ENCODER, tmp_path)).config.read_text()
    comments = dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line and not line.startswith("#"))
    assert comments["vocab_size"].split("# ")[1] == "rows of embedding"
    assert comments["max_seq_len"].split("# ")[1].startswith("the longest that worked")
    assert "guesses" in comments["model_kwargs"].split("# ")[1]


def test_what_the_comments_suggest_is_a_valid_config(tmp_path: Path) -> None:
    (tmp_path / "cfg.toml").write_text(f'task_name = "lm_tiny"\n{config_suggestions()}')
    config = load_config(tmp_path / "cfg.toml")
    assert (config.tiers, config.export_options.formats[0]) == ((1, 2), "onnx")


def test_the_config_may_lie_elsewhere(tmp_path: Path) -> None:
    found = scaffold(written(unknown.TRANSLATOR, tmp_path), tmp_path / "configs" / "translator.toml")
    config = load_config(found.config)
    assert config.model_file == "../model.py"
    assert logits_shape(config) == (3, 7, 256)


def test_a_named_factory_with_given_arguments_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    several, plain = written(unknown.SEVERAL, tmp_path), written(unknown.NO_DEFAULTS, tmp_path, "plain.py")
    assert main(["init", str(several), "--no-run", "--factory", "SmallNet"]) == 0
    assert load_config(tmp_path / "modeltiers.toml").num_classes == 5
    assert main(["init", str(plain), "--no-run", "--arg", "foo=11", "--arg", "bar=3", "--force"]) == 0
    config = load_config(tmp_path / "modeltiers.toml")
    assert (config.model_kwargs, config.num_features, config.num_classes) == ({"foo": 11, "bar": 3}, 11, 3)
    assert "next: pytest --model-config" in capsys.readouterr().out


def test_existing_files_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = written(unknown.TRANSLATOR, tmp_path)
    assert main(["init", str(model), "--no-run"]) == 0
    for kept, other in (("modeltiers.toml", "modeltiers_model.py"), ("modeltiers_model.py", "modeltiers.toml")):
        (tmp_path / kept).write_text("# mine\n")
        (tmp_path / other).unlink(missing_ok=True)
        assert main(["init", str(model), "--no-run"]) == 2
        assert f"{kept} exists already" in capsys.readouterr().err
        assert (tmp_path / kept).read_text() == "# mine\n"
        (tmp_path / kept).unlink()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1\n", ["no function and no nn.Module class", "build_model()"]),
        ("def build_model(foo):\n    return 3\n", ["build_model needs `foo`", "modeltiers init model.py --arg foo=8"]),
        ("def build_model():\n    return 3\n", ["build_model returned a int, expected an nn.Module"]),
        ("def build_model():\n    return 1 / 0\n", ["build_model raised ZeroDivisionError: division by zero (model.py, line 2)"]),
        (unknown.HEAD + "net = nn.Linear(3, 2)\n", ["net is made when the file is imported; return it from a function"]),
        (
            unknown.HEAD + "class Odd(nn.Module):\n    def forward(self, x):\n        return x\n",
            ["Odd has no parameters", "modeltiers init model.py --input x=batch,16;"],
        ),
        (unknown.HEAD + "class Empty(nn.Module):\n    pass\n", ["Empty has no forward", "Add a function build_model()"]),
        (unknown.NO_NUMBERS, ["Net needs `foo`", "`foo` takes more than a number"]),
        (unknown.HOSTILE, ["Hostile cannot be looked at: ValueError: keep out (model.py, line "]),
        ("import nothing_like_this\n", ["nothing_like_this"]),
        ("def build_model(:\n", ["SyntaxError", "line 1"]),
        ("raise SystemExit(3)\n", ["SystemExit"]),
    ],
    ids=[
        "empty",
        "argument",
        "number",
        "raises",
        "instance",
        "identity",
        "no_forward",
        "classes",
        "hostile",
        "import",
        "syntax",
        "exit",
    ],
)
def test_it_says_what_it_tried_and_what_to_add(
    source: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(written(source, tmp_path))]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["model.py"]


@pytest.mark.parametrize("ending", ["yaml", "txt"])
def test_a_config_of_another_kind_is_refused(ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(written(unknown.LENET, tmp_path)), "--output", str(tmp_path / f"cfg.{ending}")]) == 2
    assert "ends in .toml or .json" in capsys.readouterr().err


def test_a_settings_class_needs_a_name_that_can_be_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(written(unknown.NANO_GPT, tmp_path, "nano-gpt.py"))]) == 2
    assert "Rename it" in capsys.readouterr().err


@pytest.mark.parametrize(("shift", "status", "word"), [("", 0, "1 passed"), (".mean(0, keepdim=True)", 1, "FAIL shape_contract")])
def test_tier_1_runs_once_and_decides_the_exit_status(
    shift: str, status: int, word: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-k shape_contract -p no:cacheprovider")
    source = f"    def forward(self, x):\n        out = self.layer(x)\n        return out{shift} if len(x) > 3 else out\n"
    model = written(
        unknown.HEAD + "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.layer = nn.Linear(4, 2)\n" + source,
        tmp_path,
    )
    assert main(["init", str(model), "--output", str(tmp_path / "cfg.json")]) == status
    out = capfd.readouterr().out
    assert word in out
    assert out.splitlines()[-1].startswith("next: pytest --model-config")
    assert json.loads((tmp_path / "cfg.json").read_text())["num_features"] == 4

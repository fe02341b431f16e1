"""Whatever a config file holds, it ends in a run or in a clear line: never in a traceback.

Hypothesis draws sound configs of every task, and the same ones damaged: values of other types and sizes, near-miss names, paths to nowhere,
broken JSON and TOML, other encodings. Each is read as the plugin reads it, its model is built and called once, and its tests are made.

By default 150 configs are drawn; ``MODELTIERS_FUZZED_CONFIGS=1000 pytest tests/config/test_fuzzed_configs.py`` draws a thousand.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_config_samples import to_toml

from harness.catalogue import CATALOGUE
from harness.config import EvalConfig, ExportConfig, SuiteConfig
from harness.config_keys import DriftFloors
from harness.config_values import PRESETS
from harness.errors import UserError
from harness.gists import GistError
from harness.tasks import FACTS, TaskType
from harness.tasks.keys import SignatureKeys
from pytest_modeltiers.suite import Suite, forget_suites, test_classes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sizes without bounds are tried under a limit on memory")

Keys = dict[str, Any]

EXAMPLES = int(os.environ.get("MODELTIERS_FUZZED_CONFIGS", "150"))

a_third = settings(
    max_examples=EXAMPLES // 3, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

MODELS = """
from torch import nn

class Tokens(nn.Module):
    def __init__(self, vocab_size, out):
        super().__init__()
        self.embed, self.head = nn.Embedding(vocab_size, 4), nn.Linear(4, out)

    def forward(self, input_ids):
        return self.head(self.embed(input_ids))

class Texts(Tokens):
    def forward(self, input_ids):
        return super().forward(input_ids).mean(1)

class Pairs(Tokens):
    def forward(self, input_ids, decoder_input_ids):
        return super().forward(decoder_input_ids) + super().forward(input_ids).mean(1, keepdim=True)

def causal_lm(vocab_size, **_):
    return Tokens(vocab_size, vocab_size)

masked_lm = causal_lm

def sequence_classification(vocab_size, num_classes, **_):
    return Texts(vocab_size, num_classes)

def token_classification(vocab_size, num_classes, **_):
    return Tokens(vocab_size, num_classes)

def seq2seq_lm(vocab_size, **_):
    return Pairs(vocab_size, vocab_size)

def image_classification(image_size, num_classes, **_):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(image_size[0], num_classes))

def tabular_classification(num_features, num_classes, **_):
    return nn.Linear(num_features, num_classes)

def tabular_regression(num_features, **_):
    return nn.Linear(num_features, 1)

class Declared(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 3), nn.Linear(3, 4)

    def forward(self, x, y, mask=None):
        return self.head(self.embed(x).mean(1) + y)

def declared(**_):
    return Declared()

def own_loss(scores, labels, scale):
    return {"loss": scale * nn.functional.cross_entropy(scores, labels)}
"""
"""A factory for each task, of its name, that takes the task's sizes."""

SHELF: dict[str, str | bytes] = {
    "models.py": MODELS,
    "adapter.py": "from harness.adapters import Adapter\nclass Own(Adapter): ...\nclass Odd:\n    logits = loss = None\n",
    "empty.py": "",
    "broken.py": "def build_model(:\n",
    "raises.py": "raise KeyError('no\\nthing')\n",
    "late.py": "def build_model():\n    raise RuntimeError\n",
    "meta.py": "from torch import nn\ndef build_model(**kwargs):\n    return nn.Linear(2, 2, device='meta')\n",
    "exits.py": "raise SystemExit(3)\n",
    "deep.py": "build_model = " + "(" * 5_000,
    "bytes.py": b"\x00\xff\xfe",
    "rows.jsonl": '{"text": "a small text about nothing", "label": 1}\n{"text": "another one of this kind", "label": 0}\n' * 20,
    "half.jsonl": '{"text": "a sm',
    "noise.npz": b"\x00\x01\x02",
    "empty.safetensors": b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ",
    "folder/inside.txt": "text",
}
"""Files beside the configs."""

NO_FILES = ("folder", ".", "/dev/null", "nowhere.py", "~nobody-of-this-name/m.py", "circle.py", "a\0b", "a\nb.py", "\x1b[31m")
TOO_LONG = ("x" * 300, "x/" * 3000)
PATHS = (*SHELF, *NO_FILES, *TOO_LONG)
PATH_KEYS = ("model_file", "weights", "resume_from_checkpoint", "checkpoint_dir", "path", "export_dir", "db_path")

NASTY: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(PATH_KEYS, PATHS),
    "adapter": (*(f"{path}:Own" for path in PATHS), "adapter.py:Odd", "adapter.py:Owm", "adapter.py:", "causal-lm", ":"),
    "model_import": (
        "models",
        "models:causal_lm",
        "raises",
        "exits:x",
        "nowhere:f",
        ".",
        "..models",
        "builtins:print",
        "sys:exit",
    ),
    "model_factory": ("", ".", "nn", "nn.Linear", "causal-lm", "__name__", "a\nb"),
    "model_kwargs": ({"vocab_size": "x"}, {"vocab_size": -1}, {"": 1}, {"a\nb": 1}, {"vocab_size": 10**30}, {"num_classes": 0}),
    "device": ("meta", "cpu:1", "cpu:-1", "cuda:99", "xpu", "lazy", "gpu", ""),
    "seed": (2**32 - 1, 2**32, 2**63, 10**30),
    "time_budget": (1e-9, 1e6, 1e300),
    "tier": ("6", [], ["1", "x"], ["5", "5"]),
    "dynamic_shapes": ({"batch": [5, 1]}, {"batch": [1]}, {"bat": True}, {"seq": [1, "x"]}, {"seq": 2**40}),
    "split": ("train[", "train[90%:10%]", "a\0b", "validation[:1%]"),
    "task_name": ("lm-tiny", "vision_tiny", "a\nb"),
    "model": (
        *PATHS,
        *(f"{path}:Own" for path in PATHS),
        "best.ckpt",
        "folder/",
        "models:causal_lm",
        "models:",
        "raises:f",
        "a:b:c",
    ),
    "call": ("forward", "train", "absent", "no method", ""),
    "example": (*(f"{path}:own" for path in PATHS), ":example", "example", ":"),
    "gist_id": ("0" * 32, "../x", "a\nb"),
    "isolation": ("process", "thread"),
    "trust_model": (True, False, "yes", 1),
    "min_seq_len": (1, 2, 0, 10**6, "1"),
    "target_vocab_size": (5, 0, "5"),
}
"""What goes wrong at its own key."""

VAST = (-(2**63), -1, 2**31, 10**9, 2**32, 2**63, 10**30, -0.0, 1e308, float("nan"), float("inf"))
"""Numbers that nothing has so many of. None is large without being vast: a model of a hundred million tokens can be built, but takes a while."""

NAMES = ("lm_tiny", "vision_tiny", "causal_lm", "text", "auto", "1", "onnx", "process", "💥", "é", "\u202e", "\ud800", "a\r\nb")
"""Words of the configs, and some that no config has."""

WORDS = st.sampled_from(NAMES) | st.text(max_size=8)
LEAVES = st.none() | st.booleans() | st.integers(-9, 300) | st.sampled_from(VAST) | st.floats() | WORDS
JUNK = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=6)

SIZES: dict[TaskType, Keys] = {
    TaskType.CAUSAL_LM: {"vocab_size": 11, "max_seq_len": 6},
    TaskType.MASKED_LM: {"vocab_size": 12, "max_seq_len": 1},
    TaskType.SEQUENCE_CLASSIFICATION: {"vocab_size": 2, "max_seq_len": 5, "num_classes": 2},
    TaskType.TOKEN_CLASSIFICATION: {"vocab_size": 30, "max_seq_len": 12, "num_classes": 3},
    TaskType.SEQ2SEQ_LM: {"vocab_size": 9, "max_seq_len": 7},
    TaskType.IMAGE_CLASSIFICATION: {"image_size": [1, 8, 4], "num_classes": 2},
    TaskType.TABULAR_CLASSIFICATION: {"num_features": 3, "num_classes": 2},
    TaskType.TABULAR_REGRESSION: {"num_features": 1},
}

COUNTS, NUMBERS, FLAGS = st.integers(1, 9), st.floats(1e-6, 1.0), st.booleans()
RUN_IDS = st.integers(1, 9) | st.just("baseline")

EXPORTS = st.fixed_dictionaries(
    {"formats": st.lists(st.sampled_from(["pytorch", "safetensors", "onnx"]), max_size=2).map(lambda chosen: ["onnx", *chosen])},
    optional={
        "quantization": st.sampled_from(["dynamic", "static", None]),
        "export_dir": st.sampled_from(["exports", "../exports", "~/exports"]),
        "opset_version": st.integers(17, 20),
        "dynamic_shapes": FLAGS | st.fixed_dictionaries({}, optional={"batch": FLAGS | st.just([1, 64]), "seq": FLAGS}),
        "trust": st.just(["0" * 64]),
    },
)

ANY_TASK: dict[str, st.SearchStrategy[Any]] = {
    "metrics": st.just([]) | st.just(["loss"]),
    "properties": st.dictionaries(st.sampled_from(sorted(CATALOGUE)), FLAGS, max_size=3),
    "tolerances": st.dictionaries(st.sampled_from([name for name, p in CATALOGUE.items() if p.tolerance]), NUMBERS, max_size=2),
    "tier": st.sampled_from([None, "1", "2", "3", "4", "5", ["2", "1"], ["5", "4", "3"]]),
    "seed": st.integers(0, 2**32 - 1),
    "device": st.just("cpu"),
    "time_budget": st.integers(60, 10**6) | st.floats(60, 1e6),
    "min_power": st.none() | st.floats(0.01, 0.99),
    "log_to": st.lists(st.sampled_from(["mlflow", "wandb", "tensorboard"]), max_size=2, unique=True),
    "reference_windows": st.none()
    | st.fixed_dictionaries({"last": COUNTS}, optional={"same": st.sampled_from(["weekday", "hour"])}),
    **dict.fromkeys(
        ("epochs", "batch_size", "num_nodes", "accumulate_grad_batches", "expected_comparisons", "expected_windows"), COUNTS
    ),
    **dict.fromkeys(("checkpoint_every_n_steps", "early_stopping_patience"), COUNTS | st.none()),
    **dict.fromkeys(("learning_rate", "weight_decay", "warmup_ratio", "max_grad_norm"), NUMBERS),
    **dict.fromkeys(("use_amp", "export_bundle", "deterministic", "use_gpu", "log_to_db"), FLAGS),
    "strategy": st.sampled_from(["auto", "ddp", "fsdp_native"]),
    "devices": st.sampled_from(["auto", 1, 2, [0], [0, 1]]),
    "precision": st.sampled_from(["32-true", "bf16-mixed", "16-true", "64"]),
    "compile_mode": st.sampled_from(["default", "reduce-overhead", None]),
    "resume_from_checkpoint": st.sampled_from(["last", "checkpoints/last.ckpt"]),
    "checkpoint_dir": st.sampled_from(["checkpoints", "/tmp/checkpoints"]),
    "export_formats": st.lists(st.sampled_from(["pytorch", "torchscript"]), max_size=2),
    "export": EXPORTS | st.none(),
    "baseline_run_id": RUN_IDS | st.none(),
    "reference_profile_id": RUN_IDS | st.none(),
    "db_path": st.sampled_from(["experiments.db", "postgresql://localhost/runs"]),
    "thresholds": st.dictionaries(st.sampled_from(["accuracy", "loss"]), NUMBERS, max_size=2),
    "margins": st.dictionaries(st.sampled_from(["correct", "harm"]), NUMBERS, max_size=2),
    "drift_floors": st.fixed_dictionaries({}, optional={"ks": NUMBERS, "cramers_v": NUMBERS}),
    "run_name": st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=8) | st.just("Läufe 🦄"),
    "$schema": st.just("modeltiers.schema.json"),
}
"""Sound values of the keys that go with every task."""

READING = st.fixed_dictionaries(
    {}, optional={"max_eval_examples": COUNTS, "batch_size": COUNTS, "num_workers": st.integers(0, 2)}
)

FIELDS = [
    *SuiteConfig.model_fields,
    *(f"export.{key}" for key in ExportConfig.model_fields),
    *(f"drift_floors.{key}" for key in DriftFloors.model_fields),
    *(f"{part}.{key}" for part in ("train", "eval") for key in EvalConfig.model_fields),
]
"""Every key, those of a group after its name."""

WILD = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), JUNK, max_size=5)


@st.composite
def sound_configs(draw: st.DrawFn) -> Keys:
    """A config of any task: its preset or its sizes, a model from anywhere, and keys from every group."""
    task = draw(st.sampled_from(sorted(FACTS)))
    preset = next((name for name, defaults in PRESETS.items() if defaults["task_type"] == task.value), None)
    model = draw(st.sampled_from(["stub", "model_file", "model_import"]))
    keys: Keys = {"task_type": task.value, **SIZES[task]}
    if preset and draw(FLAGS):
        keys = {"preset" if model == "stub" and draw(FLAGS) else "task_name": preset}
        for part in draw(st.sets(st.sampled_from(["train", "eval"]))):
            keys[part] = {"dataset_id": f"{preset}_v1", **draw(READING)}
    if draw(FLAGS):
        keys["modality"] = FACTS[task].modality
    if FACTS[task].modality == "text" and draw(FLAGS):
        keys["pad_token_id"] = draw(st.integers(0, 1))
    if draw(FLAGS):
        keys["adapter"] = task.value
    if model != "stub":
        sizes = {**PRESETS.get(str(keys.get("task_name")), {}), **keys}
        keys["model_kwargs"] = {key: sizes[key] for key in FACTS[task].requires}
    if model == "model_file":
        keys |= {"model_file": "models.py", "model_factory": task.value}
    if model == "model_import":
        keys |= {"model_import": f"models:{task.value}"}
    return {**keys, **draw(st.fixed_dictionaries({}, optional=ANY_TASK))}


@st.composite
def damaged_configs(draw: st.DrawFn) -> Keys:
    """A sound config with a few mistakes, or an object of whatever."""
    keys = draw(sound_configs() | WILD)
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        draw(st.sampled_from([*MISTAKES, nasty_value]))(draw, keys)
    return keys


def wrong_value(draw: st.DrawFn, keys: Keys) -> None:
    """A value that no config has, at a key that any may have."""
    group, _, key = draw(st.sampled_from(FIELDS)).rpartition(".")
    there = keys.setdefault(group, {}) if group else keys
    if isinstance(there, dict):
        there[key] = draw(JUNK)


def nasty_value(draw: st.DrawFn, keys: Keys) -> None:
    """What goes wrong at one key alone."""
    group, _, key = draw(st.sampled_from([field for field in FIELDS if field.rpartition(".")[2] in NASTY])).rpartition(".")
    there = keys.setdefault(group, {}) if group else keys
    if isinstance(there, dict):
        there[key] = draw(st.sampled_from(NASTY[key]))


def misspelt_key(draw: st.DrawFn, keys: Keys) -> None:
    """A key with a letter twice, too few, or another one."""
    key = draw(st.sampled_from(sorted(keys) or [""]))
    place = draw(st.integers(0, max(0, len(key) - 1)))
    instead = draw(st.sampled_from(["", key[place : place + 1] * 2, "x", "-", "\n", "💥"]))
    keys[key[:place] + instead + key[place + 1 :]] = keys.pop(key, None)


def unknown_key(draw: st.DrawFn, keys: Keys) -> None:
    """A key nobody knows, somewhere."""
    groups = [keys, *(value for value in keys.values() if isinstance(value, dict))]
    groups[draw(st.integers(0, len(groups) - 1))][draw(WORDS)] = draw(JUNK)


def missing_key(draw: st.DrawFn, keys: Keys) -> None:
    """One key less."""
    keys.pop(draw(st.sampled_from(sorted(keys) or ["task_type"])), None)


MISTAKES: list[Callable[[st.DrawFn, Keys], None]] = [wrong_value, nasty_value, misspelt_key, unknown_key, missing_key]


@st.composite
def damaged_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """The name and the bytes of a file that is hardly a config."""
    name, content = written(draw(sound_configs()), draw(st.sampled_from([".json", ".toml"])))
    text = content.decode()
    place = draw(st.integers(0, len(text)))
    line = draw(st.sampled_from(text.splitlines(keepends=True)))
    depth = draw(st.integers(60, 70) | st.integers(800, 1_000) | st.just(100_000))
    damaged = (
        text[:place],
        text[:place] + draw(st.sampled_from([*SCRAPS, "[" * depth])) + text[place:],
        text[:place] + text[place + 1 :],
        text.replace(line, line * 2),
        f"[{text}]",
        text.replace("true", "True").replace("false", "nil"),
        f'{{"model_kwargs": {"[" * depth}{"]" * depth}, {text[1:]}',
        f"run_name = 1979-05-27T07:32:00Z\nepochs = 07:32:00\n{text}",
        "",
    )
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32", "cp037", "latin-1"]))
    named = draw(st.sampled_from([name, name, "cfg.json", "cfg.toml", "cfg", "cfg.yaml"]))
    return named, draw(st.sampled_from(damaged)).encode(encoding, "replace")


SCRAPS = ("\0", "{", '"', ",", "=", "\n", "#", "//", "💥", "\x1b[31m", "NaN", "1979-05-27", "1" * 5_000, "'''")


def written(keys: Keys, suffix: str, ascii_only: bool = True) -> tuple[str, bytes]:
    """The name and the bytes of a config file."""
    text = to_toml(keys) if suffix == ".toml" else json.dumps(keys, ensure_ascii=ascii_only, indent=1)
    return f"cfg{suffix}", text.encode("utf-8", "surrogatepass")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with models and data, in a process that may not take much more memory, and without a network."""
    import resource

    folder = tmp_path_factory.mktemp("shelf")
    (folder / "folder").mkdir()
    for name, content in SHELF.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "circle.py").symlink_to("circle.py")
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (3 << 30), before[1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.gists.cache.fetch_gist", _without_network)
        patch.setattr(sys, "path", [*sys.path])
        yield folder
    resource.setrlimit(resource.RLIMIT_AS, before)
    forget_suites()


def _without_network(gist_id: str, *_: object) -> None:
    raise GistError(f"`gist_id`: {gist_id!r} cannot be fetched")


def outcome(folder: Path, name: str, content: bytes) -> str:
    """``run``, or what the user is told, without the name of the folder."""
    file = folder / name
    file.write_bytes(content)
    forget_suites()
    try:
        suite = Suite.of(file)
        config = suite.config
        _ = config.training_config(), config.export_options.artifacts, config.database, config.fingerprint, config.is_monitored
        suite.check_model()
        assert len(suite.tests_of()) >= 0
        test_classes(suite)
    except UserError as error:
        return str(error).replace(str(folder), "FOLDER")
    finally:
        file.unlink()
    return "run"


def assert_is_clear(told: str, name: str) -> None:
    """Each line of a message names the file and the place in it or a key; one about the model, which is one line, its file or a key."""
    assert not re.search(r"pydantic|Config\b|constrained|literal\[|Traceback", told), told
    assert not any(unicodedata.category(character) == "Cc" for character in told.replace("\n", "")), repr(told)
    lines = told.split("\n")
    if lines[0].startswith(f"FOLDER/{name}:"):
        for line in lines:
            assert re.match(
                rf"FOLDER/{name}:(\d+:\d+: (not (TOML|JSON|YAML)|.*`)| not (TOML|JSON|YAML)| cannot be read: | expected an object| .*`)",
                line,
            ), told
    else:
        assert len(lines) == 1, told
        assert re.search(r"`\w+`|^[\w.]+:|^embedded .* stub ", told), told


def test_the_sound_configs_hold_every_key() -> None:
    by_task = {
        "task_type",
        "task_name",
        "preset",
        "modality",
        "adapter",
        "train",
        "eval",
        *(key for sizes in SIZES.values() for key in sizes),
    }
    of_models = {"pad_token_id", "model_file", "model_import", "model_factory", "model_kwargs"}
    damaged_only = {
        *SignatureKeys.model_fields,
        "weights",
        "isolation",
        "model",
        "call",
        "gist_id",
        "gist_revision",
        "gist_sha256",
        "trust_model",
        "min_seq_len",
        "target_vocab_size",
    }

    assert {*ANY_TASK, *by_task, *of_models, *damaged_only} - {"$schema"} == set(SuiteConfig.model_fields)


@a_third
@given(keys=sound_configs(), suffix=st.sampled_from([".json", ".toml"]))
def test_a_sound_config_runs(shelf: Path, keys: Keys, suffix: str) -> None:
    assert outcome(shelf, *written(keys, suffix)) == "run"


@a_third
@given(keys=damaged_configs(), suffix=st.sampled_from([".json", ".json", ".toml"]), ascii_only=st.booleans())
def test_a_config_with_mistakes_runs_or_is_answered(shelf: Path, keys: Keys, suffix: str, ascii_only: bool) -> None:
    name, content = written(keys, suffix, ascii_only)

    told = outcome(shelf, name, content)

    if told != "run":
        assert_is_clear(told, name)


DECLARED: Keys = {
    "model_file": "models.py",
    "model_factory": "declared",
    "inputs": {
        "x": {"axes": ["batch", "time"], "values": {"ids": 9, "pad": 0}},
        "mask": {"axes": ["batch", "time"], "values": {"mask_of": "time", "inverted": False}, "optional": True, "dtype": "int64"},
        "y": {"axes": ["batch", 3], "values": {"range": [0.0, 1.0]}},
    },
    "outputs": {"out": {"axes": ["batch", 4], "kind": "class_scores", "classes": -1, "at": 0}},
    "axes": {"time": {"min": 1, "max": 6, "sizes": [2, 4], "multiple_of": 2, "padding": "right", "order": "causal"}},
    "labels": {"out": {"axes": ["batch"], "values": {"ids": 4}}},
    "limits": ["time <= 6"],
    "symmetric": ["x"],
    "loss": {
        "function": "models.py:own_loss",
        "arguments": {"scores": "outputs.out", "labels": "batch.out", "scale": 1.0},
        "made_with": {},
        "result": "loss",
    },
}


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything inside an object."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


@a_third
@given(data=st.data())
def test_a_declared_task_with_mistakes_runs_or_is_answered(shelf: Path, data: st.DataObject) -> None:
    keys = json.loads(json.dumps(DECLARED))
    for _ in range(data.draw(st.integers(0, 2))):
        *way, last = data.draw(st.sampled_from(sorted(places(keys), key=repr)))
        there = keys
        for key in way:
            there = there[key]
        change = data.draw(st.sampled_from(["value", "name", "gone"]))
        if change == "value":
            there[last] = data.draw(
                JUNK | st.sampled_from(["time", "batch", "x", "out", -1, 0, 4, [], {}, "normal", "tim // 2", "outputs"])
            )
        elif isinstance(there, dict):
            value = there.pop(last)
            if change == "name":
                there[data.draw(WORDS)] = value
    name, content = written(keys, ".json")

    told = outcome(shelf, name, content)

    if told != "run":
        assert_is_clear(told, name)


def test_a_sound_declared_task_runs(shelf: Path) -> None:
    assert outcome(shelf, *written(DECLARED, ".json")) == "run"


@a_third
@given(file=damaged_files())
def test_a_damaged_file_runs_or_is_answered(shelf: Path, file: tuple[str, bytes]) -> None:
    told = outcome(shelf, *file)

    if told != "run":
        assert_is_clear(told, file[0])


@pytest.mark.parametrize("field", [field for field in FIELDS if field.rpartition(".")[2] in NASTY])
def test_what_goes_wrong_at_a_key_runs_or_is_answered(shelf: Path, field: str) -> None:
    group, _, key = field.rpartition(".")
    base: Keys = {"task_name": "lm_tiny"}
    if key in ("model_factory", "model_kwargs"):
        base |= {"model_file": "models.py", "model_factory": "causal_lm", "model_kwargs": {"vocab_size": 128}}
    for value in NASTY[key]:
        name, content = written({**base, **({group: {key: value}} if group else {key: value})}, ".json")

        told = outcome(shelf, name, content)

        if told != "run":
            assert_is_clear(told, name)


TIERS = ("harness", "tiers", "--config", "cfg.json")
PYTEST = ("pytest", "--collect-only", "--model-config", "cfg.json")


def told_by(folder: Path, command: tuple[str, ...], content: bytes) -> list[str]:
    """What a command prints on a config that it refuses, of both outputs."""
    (folder / "cfg.json").write_bytes(content)
    done = subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done
    assert "Traceback" not in done.stdout + done.stderr
    return (done.stdout + done.stderr).splitlines()


@pytest.mark.parametrize(
    ("command", "content", "said"),
    [
        (TIERS, b'{"task_name": "lm_tiny", "seed": 1' + b"0" * 30 + b"}", "`seed`: got 1000"),
        (TIERS, '{"task_name": "läm"}'.encode("utf-16"), "cannot be read: byte 0 is not UTF-8"),
        (PYTEST, '{"task_name": "lm_tiny", "model_file": "🦄\\u001b[31m.py"}'.encode(), "`model_file`: got"),
    ],
    ids=["vast", "encoding", "control"],
)
def test_the_command_line_answers_in_one_line(tmp_path: Path, command: tuple[str, ...], content: bytes, said: str) -> None:
    (line,) = [line for line in told_by(tmp_path, command, content) if "cfg.json" in line]

    assert said in line


def test_the_command_line_answers_a_model_that_cannot_be_had_in_one_line(tmp_path: Path) -> None:
    lines = told_by(tmp_path, (*TIERS, "--json"), b'{"task_name": "lm_tiny", "model_file": "nowhere.py"}')

    assert lines[1:] == [f"modeltiers: {tmp_path / 'cfg.json'}:1:26: `model_file`: no such file {tmp_path / 'nowhere.py'}."]

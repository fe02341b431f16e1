"""A fresh process: what it computes is what the model computes, and nothing that goes wrong in it comes out as an exception."""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn
from torch.export import Dim

from harness.adapters import make_adapter
from harness.batches import Sizes, make_batch
from harness.export.clean_process import CleanRun, ExportedFile
from harness.export.formats import exporter_class
from harness.export.program import Program, make_program
from harness.models.stubs import build_stub
from harness.runtime import seeded
from harness.tasks import TaskSpec, TaskType

onnxruntime = pytest.importorskip("onnxruntime")

TASK = TaskSpec(TaskType.CAUSAL_LM, vocab_size=23, max_seq_len=12)
BATCHES = [make_batch(TASK, Sizes(batch, seq), seed=seq) for batch, seq in ((2, 5), (3, 9))]
FORMATS = ("torchscript", "onnx", "torch_export", "pytorch", "safetensors")
WEIGHTS = ("pytorch", "safetensors")
SUFFIXES = {"torch_export": "pt2"}

FIRST_LINES = "import ctypes, os, subprocess, sys, time\nimport torch\nfrom torch import nn\n"


def tiny_program(model: nn.Module | None = None) -> Program:
    """A small language model whose head is tied to its embedding."""
    with seeded(7):
        model = model or build_stub(TASK)
    return make_program(model, make_adapter(TASK), TASK, BATCHES[0], Sizes(2, 5))


def write(format: str, program: Program, path: Path) -> None:
    """Exports in the plainest way there is."""
    model = program.forward.model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if format == "torchscript":
            torch.jit.trace(program.forward, program.arguments, check_trace=False).save(str(path))
        elif format == "onnx":
            names = {"input_names": list(program.fields), "output_names": ["logits"]}
            torch.onnx.export(
                program.forward, program.arguments, str(path), dynamo=False, dynamic_axes=program.axes, opset_version=17, **names
            )
        elif format == "torch_export":
            axes = {"batch": Dim("batch", max=64), "seq": Dim("seq", max=12)}
            dynamic = tuple({p: axes[axis] for p, axis in program.axes[name].items()} for name in program.fields)
            torch.export.save(torch.export.export(program.forward, program.arguments, dynamic_shapes=(dynamic,)), path)
        elif format == "pytorch":
            torch.save(model.state_dict(), path)
        else:
            save_model(model, str(path))


@pytest.fixture(scope="module")
def program() -> Program:
    return tiny_program()


@pytest.fixture(scope="module")
def artifacts(program: Program, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("artifacts")
    paths = {format: folder / f"model.{SUFFIXES.get(format, format)}" for format in FORMATS}
    for format, path in paths.items():
        write(format, program, path)
    return paths


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("config"))


def write_config(folder: Path, code: str = "", **keys: Any) -> Path:
    """A config of the embedded stub, or of a model whose code is given."""
    if code:
        (folder / "model.py").write_text(FIRST_LINES + code, encoding="utf-8")
        keys["model_file"] = "model.py"
    path = folder / "config.json"
    path.write_text(json.dumps({"task_type": "causal_lm", "vocab_size": 23, "max_seq_len": 12, **keys}), encoding="utf-8")
    return path


def run(format: str, path: Path, timeout: float = 120.0, **options: Any) -> CleanRun:
    file = ExportedFile(exporter_class(format), path, ("input_ids", "attention_mask"), timeout=timeout)
    return file.run(BATCHES, **options)


@pytest.mark.parametrize("format", FORMATS)
def test_a_sound_artifact_gives_the_model_s_logits(
    format: str, program: Program, artifacts: dict[str, Path], config: Path
) -> None:
    fresh = run(format, artifacts[format], config=config)
    assert fresh.error == ""
    for batch, output in zip(BATCHES, fresh.outputs, strict=True):
        torch.testing.assert_close(output["logits"], program.eager(batch), rtol=1e-4, atol=1e-5)
    figures = (fresh.import_seconds, fresh.load_seconds, fresh.first_call_seconds, fresh.warm_call_seconds)
    assert all(seconds is not None and 0 < seconds < 60 for seconds in figures)
    assert fresh.peak_bytes is not None
    assert 10e6 < fresh.peak_bytes < 4e9


def test_an_onnx_artifact_needs_numpy_and_onnx_runtime_alone(artifacts: dict[str, Path]) -> None:
    packages = {*run("onnx", artifacts["onnx"]).packages}
    assert {"numpy", "onnxruntime", "harness"} <= packages
    assert not packages & {"torch", "onnx", "safetensors", "pydantic", "pytest"}


def test_torch_is_seen_where_it_is_imported(artifacts: dict[str, Path]) -> None:
    assert "torch" in run("torchscript", artifacts["torchscript"]).packages


@pytest.mark.skipif(sys.platform != "linux", reason="how memory is read")
def test_memory_is_the_child_s_own(artifacts: dict[str, Path]) -> None:
    held = bytearray(b"x") * (500 << 20)
    peak = run("onnx", artifacts["onnx"]).peak_bytes
    assert peak is not None
    assert peak < len(held) / 2


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    ("format", "damage"), [*((format, "truncated") for format in FORMATS), ("onnx", "garbage"), ("pytorch", "garbage")]
)
def test_a_damaged_file_is_one_line(format: str, damage: str, artifacts: dict[str, Path], config: Path, tmp_path: Path) -> None:
    sound = artifacts[format].read_bytes()
    broken = tmp_path / "broken"
    broken.write_bytes(sound[: len(sound) // 2] if damage == "truncated" else b"no artifact at all\n" * 99)
    fresh = run(format, broken, config=config)
    assert fresh.error.startswith("loading raised ")
    assert "\n" not in fresh.error
    assert fresh.outputs == []


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    assert run("onnx", tmp_path / "none.onnx").error.startswith("loading raised NoSuchFile")


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("format", WEIGHTS)
def test_weights_without_a_config_are_held_to_the_expected_ones(
    format: str, program: Program, artifacts: dict[str, Path]
) -> None:
    fresh = run(format, artifacts[format], expected=program.forward.model.state_dict())
    assert (fresh.error, fresh.outputs) == ("", [])
    assert fresh.load_seconds is not None
    assert fresh.first_call_seconds is None


def changed(state: dict[str, Tensor], change: str) -> dict[str, Tensor]:
    state = {name: tensor.clone() for name, tensor in state.items()}
    first = next(iter(state))
    if change == "name":
        state["other.weight"] = state.pop(first)
    elif change == "shape":
        state[first] = state[first][:-1].clone()
    elif change == "dtype":
        state[first] = state[first].half()
    else:
        state[first].view(-1)[3] += 1e-3
    return state


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    ("format", "change", "said"),
    [
        ("pytorch", "name", "missing: 0.weight; unexpected: other.weight"),
        ("pytorch", "shape", "shape or dtype: 0.weight float32[3, 4] instead of float32[4, 4]"),
        ("safetensors", "dtype", "shape or dtype: 0.weight float16[4, 4] instead of float32[4, 4]"),
        ("safetensors", "value", "other values: 0.weight"),
    ],
)
def test_weights_that_differ_are_named(format: str, change: str, said: str, tmp_path: Path) -> None:
    expected = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).state_dict()
    save: Callable[..., object] = torch.save if format == "pytorch" else save_file
    save(changed(expected, change), tmp_path / "weights")
    fresh = run(format, tmp_path / "weights", expected=expected)
    assert fresh.error == f"loading raised MisfitError: its weights do not fit: {said}"


@pytest.mark.usefixtures("forked")
def test_weights_held_to_nothing_are_no_pass(artifacts: dict[str, Path]) -> None:
    assert "nothing to compare its weights with" in run("pytorch", artifacts["pytorch"]).error


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("format", ["pytorch", "safetensors"])
def test_a_file_without_weights_fits_a_model_without_weights(format: str, tmp_path: Path) -> None:
    save: Callable[..., object] = torch.save if format == "pytorch" else save_file
    save({}, tmp_path / "weights")
    expected = nn.Linear(4, 4).state_dict()

    assert not run(format, tmp_path / "weights", expected={}).error
    assert "missing: weight, bias" in run(format, tmp_path / "weights", expected=expected).error


def test_no_batch_is_no_pass(artifacts: dict[str, Path]) -> None:
    assert (
        ExportedFile(exporter_class("onnx"), artifacts["onnx"], ("input_ids",)).run([]).error == "there is no batch to run it on"
    )


@pytest.mark.usefixtures("forked")
def test_a_state_dict_whose_names_do_not_fit_the_config_s_model(program: Program, config: Path, tmp_path: Path) -> None:
    state = {f"wrapped.{name}": tensor for name, tensor in program.forward.model.state_dict().items()}
    torch.save(state, tmp_path / "weights.pt")
    error = run("pytorch", tmp_path / "weights.pt", config=config).error
    assert error.startswith("loading raised MisfitError: its weights do not fit: missing: embed.tokens.weight, ")
    assert "unexpected: wrapped.embed.tokens.weight, " in error
    assert "\n" not in error


@pytest.mark.usefixtures("forked")
def test_the_config_s_own_weights_do_not_stand_in_for_the_artifact_s(
    program: Program, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    config = write_config(tmp_path, weights="deleted.safetensors")
    fresh = run("safetensors", artifacts["safetensors"], config=config)
    torch.testing.assert_close(fresh.outputs[0]["logits"], program.eager(BATCHES[0]), rtol=1e-4, atol=1e-5)


class Malicious:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_file_that_would_run_code_is_refused(save: Callable[..., object], config: Path, tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    save({"weight": Malicious(mark)}, tmp_path / "weights.pt")
    fresh = run("pytorch", tmp_path / "weights.pt", config=config)
    assert fresh.error.startswith("loading raised UnpicklingError: ")
    assert "unsupported" in fresh.error.lower()
    assert not mark.exists()


SOUND = "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.embed = nn.Embedding(23, 23)\n"


def run_code(tmp_path: Path, build: str = "", forward: str = "", **options: Any) -> CleanRun:
    """A fresh run of a user's model that does something in its factory or its forward."""
    code = (
        f"{SOUND}    def forward(self, input_ids):\n        {forward or 'pass'}\n        return self.embed(input_ids)\n"
        f"def build_model():\n    {build or 'pass'}\n    return Net()\n"
    )
    torch.save({"embed.weight": torch.eye(23)}, tmp_path / "weights.pt")
    return run("pytorch", tmp_path / "weights.pt", config=write_config(tmp_path, code), **options)


def test_a_user_s_model_is_built_and_called(tmp_path: Path) -> None:
    (tmp_path / "sibling.py").write_text("WIDTH = 23\n", encoding="utf-8")
    fresh = run_code(tmp_path, "from sibling import WIDTH")
    assert fresh.error == ""
    assert torch.equal(fresh.outputs[1]["logits"].argmax(-1), BATCHES[1]["input_ids"])


@pytest.mark.usefixtures("forked")
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(
    ("build", "forward", "said"),
    [
        ("os.kill(os.getpid(), 9)", "", "was killed by SIGKILL (out of memory?) while loading"),
        ("", "os.kill(os.getpid(), 11)", "was killed by SIGSEGV (segmentation fault) while running"),
    ],
)
def test_a_child_that_is_killed_is_said_in_words(build: str, forward: str, said: str, tmp_path: Path) -> None:
    fresh = run_code(tmp_path, build, forward)
    assert fresh.error == said
    assert fresh.outputs == []


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    ("build", "forward", "said"),
    [
        (
            "1 / 0",
            "",
            "loading raised FactoryError: model.py:build_model raised ZeroDivisionError: division by zero (model.py, line",
        ),
        ("", "raise RuntimeError('first\\nsecond')", "running raised RuntimeError: first"),
        ("", "sys.exit(3)", "running raised SystemExit: 3"),
        ("", "os._exit(0)", "running raised os._exit(0)"),
        (
            "",
            "print('the last words', flush=True); ctypes.CDLL(None)._exit(0)",
            "ended with status 0 and no answer (the last words) while running",
        ),
    ],
)
def test_a_child_that_raises_or_leaves(build: str, forward: str, said: str, tmp_path: Path) -> None:
    assert run_code(tmp_path, build, forward).error.startswith(said)


@pytest.mark.skipif(sys.platform != "linux", reason="how the grandchild is looked for")
def test_a_child_that_hangs_is_stopped_with_all_it_started(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    sleeper = f"p = subprocess.Popen(['sleep', '300']); open({str(note)!r}, 'w').write(str(p.pid)); time.sleep(300)"
    for timeout in (8, 60, 240):
        fresh = run_code(tmp_path, forward=sleeper, timeout=timeout)
        if note.exists():  # a busy machine may take longer to start the child
            break
    assert fresh.error == f"not done after {timeout} s, so it was stopped while running"
    assert fresh.load_seconds is None  # a child that is stopped gives no answer
    time.sleep(0.2)
    process = Path("/proc") / note.read_text() / "stat"
    assert not process.exists() or process.read_text().split()[2] == "Z"


def test_a_user_s_model_finds_what_the_parent_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "on_the_path").mkdir()
    (tmp_path / "on_the_path" / "only_in_the_parent.py").write_text("", encoding="utf-8")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "words.txt").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "on_the_path")
    monkeypatch.chdir(tmp_path / "here")
    assert run_code(tmp_path, "import only_in_the_parent; open('words.txt').close()").error == ""


@pytest.mark.usefixtures("forked")
def test_bfloat16_comes_through(tmp_path: Path) -> None:
    model, batch = nn.Linear(4, 2).bfloat16(), {"features": torch.randn(3, 4).bfloat16()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(model, (batch["features"],)).save(str(tmp_path / "model.pt"))
    fresh = ExportedFile(exporter_class("torchscript"), tmp_path / "model.pt", ("features",)).run([batch])
    assert torch.equal(fresh.outputs[0]["logits"], model(batch["features"]).float())


def test_weights_are_not_taken_as_held_where_the_child_left_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "safetensors").mkdir()
    (tmp_path / "safetensors" / "__init__.py").write_text("import os; os._exit(0)", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    save_file({"weight": torch.ones(2)}, tmp_path / "weights")
    fresh = run("safetensors", tmp_path / "weights", expected={"weight": torch.ones(2)})
    assert fresh.error == "ended with status 0 and no answer while importing"


@pytest.mark.usefixtures("forked")
def test_what_it_prints_is_kept_apart(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_code(tmp_path, "print('x' * 200_000)").error == ""
    assert capfd.readouterr() == ("", "")

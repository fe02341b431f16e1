"""A bundle: everything is in it, it runs by itself, and it is whole or not there."""

from __future__ import annotations

import json
import os
import re
import resource
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.batches import Batch, Sizes, make_batch
from harness.config import ExportConfig, load_config
from harness.documents import without_secrets
from harness.errors import UserError
from harness.export.bundle import create_export_bundle, write_bundle
from harness.export.bundle.folder import made_here
from harness.export.bundle.texts import check_layouts
from harness.export.exports import Exports
from harness.export.formats import ExportError
from harness.files import file_hash
from harness.models.loading import model_source
from harness.properties.subject import Subject
from harness.runtime import seeded
from harness.tasks import TaskSpec, TaskType

FORMATS = ("torchscript", "onnx", "pytorch", "torch_export")
RUNNABLE = ("onnx", "torchscript", "torch_export")

TEXT = TaskSpec(TaskType.CAUSAL_LM, task_name="lm/tiny", vocab_size=23, max_seq_len=12)
TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, task_name="table", num_features=6, num_classes=3)

MODEL_FILE = """
import torch
from torch import nn

class Sums(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(23, 8)
        self.head = nn.Linear(8, 23)

    def forward(self, input_ids, attention_mask):
        hidden = (self.tokens(input_ids) * attention_mask.unsqueeze(-1)).cumsum(1)
        return self.head(hidden.tanh())

def build_model():
    return Sums()
"""
CONFIG = {"task_name": "lm/tiny", "task_type": "causal_lm", "vocab_size": 23, "max_seq_len": 12, "model_file": "model.py"}
SECRET = "hunter2"


class Table(nn.Module):
    """A classifier that exports in no time."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(features).tanh()


class Branching(Table):
    """Whose path depends on its input's values, which torch.export does not take."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) if features.sum() > 0 else -super().forward(features)


def exports_of(model: nn.Module, task: TaskSpec, *formats: str, config: Path | None = None, **options: Any) -> Exports:
    chosen = ExportConfig.model_validate({"formats": list(formats), **options})
    return Exports(Subject(model.eval(), make_adapter(task), task), chosen, config=config)


def table_exports(*formats: str, **options: Any) -> Exports:
    with seeded(0):
        return exports_of(Table(), TABLE, *(formats or ("pytorch",)), **options)


def text_exports(folder: Path, *formats: str) -> Exports:
    """The exports of a model with two inputs and two free axes, and of a config file that it is built from."""
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(MODEL_FILE)
    path = folder / "cfg.json"
    path.write_text(json.dumps({**CONFIG, "db_path": f"postgresql://me:{SECRET}@host/db", "export": {"formats": list(formats)}}))
    return exports_of(model_source(load_config(path)).build(3), TEXT, *formats, config=path)


def whole_bundle(shared: Path) -> Path:
    """A bundle of every format with every layout, made once in a run."""
    target = shared / "whole" / "bundle"
    if not target.exists():
        exports = text_exports(shared / "whole", *FORMATS)
        assert exports.config is not None
        write_bundle(
            exports,
            target,
            configs={"config": load_config(exports.config), "training_config": None},
            layouts=("triton", "mlflow"),
        )
    return target


@pytest.fixture(scope="module")
def whole(shared: Path) -> Path:
    return whole_bundle(shared)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def arrays_of(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)


def run_script(bundle: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", str(bundle / "inference.py"), *arguments]
    return subprocess.run(command, cwd=cwd or bundle, capture_output=True, text=True, check=False, timeout=120)


# What is in it


def test_the_manifest_has_every_file_with_its_hash_and_size(whole: Path) -> None:
    listed = read(whole / "manifest.json")["files"]
    assert {*listed, "manifest.json"} == files_of(whole)
    for name, entry in listed.items():
        assert entry == {"sha256": file_hash(whole / name), "bytes": (whole / name).stat().st_size}


def test_everything_is_in_it(whole: Path) -> None:
    models = {"model.ts", "model.onnx", "model.pt", "model.pt2"}
    expected = {f"artifacts/{name}" for name in models} | {f"artifacts/{name}.json" for name in models}
    expected |= {
        "configs/config.json",
        "configs/task_spec.json",
        "environment.json",
        "requirements.txt",
        "README.md",
        "inference.py",
    }
    expected |= {"golden/golden.json", *(f"golden/{side}_{number}.npz" for side in ("inputs", "outputs") for number in range(3))}
    assert expected <= files_of(whole)


def test_the_signature_names_free_axes_and_their_limits(whole: Path) -> None:
    signature = read(whole / "signature.json")
    assert signature["inputs"] == [
        {"name": "input_ids", "dtype": "int64", "axes": ["batch", "seq"], "range": [0, 22]},
        {"name": "attention_mask", "dtype": "int64", "axes": ["batch", "seq"], "range": [0, 1]},
    ]
    assert signature["output"] == {"name": "logits", "dtype": "float32", "axes": ["batch", "seq", 23]}
    assert signature["limits"]["seq"] == [1, 12]
    assert signature["task"]["task_type"] == "causal_lm"


def test_golden_logits_are_the_model_s_own(whole: Path) -> None:
    model, golden = model_source(load_config(whole.parent / "cfg.json")).build(3), read(whole / "golden" / "golden.json")
    assert len({batch["sizes"] for batch in golden["batches"]}) == 3
    for batch in golden["batches"]:
        inputs = {name: torch.from_numpy(array) for name, array in arrays_of(whole / "golden" / batch["inputs"]).items()}
        logits = arrays_of(whole / "golden" / batch["outputs"])["logits"]
        torch.testing.assert_close(model(**inputs).detach().numpy(), logits, rtol=0, atol=golden["noise_floor"] * 10)
    for held in golden["formats"].values():
        assert all(0 <= batch["difference"] <= batch["tolerance"] < 1e-4 for batch in held)


def test_golden_inputs_are_made_up_even_where_the_model_is_checked_on_data(shared: Path, tmp_path: Path) -> None:
    def private(task: TaskSpec, sizes: Sizes, seed: int) -> Batch:
        return {**make_batch(task, sizes, seed), "features": torch.full((sizes.batch, 6), 4.25)}

    exports = table_exports()
    exports.subject.make = private
    bundle = write_bundle(exports, tmp_path / "bundle", configs={})
    assert float(exports.program.example["features"].unique()) == 4.25
    assert not any((array == 4.25).any() for path in bundle.glob("golden/inputs_*") for array in arrays_of(path).values())


def test_requirements_are_pinned_to_what_an_index_has(whole: Path) -> None:
    lines = [line for line in (whole / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert {line.partition("==")[0] for line in lines} == {"numpy", "onnxruntime", "torch"}
    assert all(re.fullmatch(r"[a-z]+==[\d.]+", line) for line in lines)


def test_nothing_of_this_machine_and_no_password_is_in_its_texts(whole: Path, shared: Path) -> None:
    binary = {".onnx", ".pt", ".pt2", ".ts", ".npz"}
    for path in (path for path in whole.rglob("*") if path.is_file() and path.suffix not in binary):
        content = path.read_text(encoding="utf-8")
        assert SECRET not in content, path
        assert str(shared) not in content, path
    assert read(whole / "configs" / "config.json")["db_path"] == "postgresql://***@host/db"


@dataclass
class Hyper:
    rate: float = 1e-3
    api_key: str = SECRET


class Defaults:
    width = 16
    hf_token = SECRET

    @property
    def broken(self) -> int:
        raise AssertionError("a property was run")

    def method(self) -> None: ...


@pytest.mark.parametrize(
    ("config", "stored"),
    [
        (SimpleNamespace(width=16, nested=SimpleNamespace(path=Path("a"))), {"width": 16, "nested": {"path": "a"}}),
        (Hyper(), {"rate": 1e-3, "api_key": "***"}),
        (Defaults(), {"width": 16, "hf_token": "***"}),
        (Defaults, {"width": 16, "hf_token": "***"}),
        (ExportConfig(formats=["onnx"]).model_dump(), {"formats": ["onnx"], "dynamic_shapes": True}),
        (
            {
                "dtype": torch.float32,
                "shape": torch.Size([1, 2]),
                "rate": float("nan"),
                "n": np.int64(3),
                TaskType.CAUSAL_LM: nn.Linear,
            },
            {"dtype": "torch.float32", "shape": [1, 2], "rate": "nan", "n": 3},
        ),
        (
            {"pad_token_id": 0, "max_tokens": 5, "token": SECRET, "db_password": SECRET},
            {"pad_token_id": 0, "max_tokens": 5, "token": "***"},
        ),
        (
            {"url": f"https://me:{SECRET}@host/x", "other": "https://host/x"},
            {"url": "https://***@host/x", "other": "https://host/x"},
        ),
    ],
)
def test_a_config_of_any_kind_is_stored_without_its_secrets(config: Any, stored: dict[str, Any]) -> None:
    found = without_secrets(config)
    assert stored.items() <= found.items()
    assert SECRET not in json.dumps(found, allow_nan=False)


def test_a_config_that_holds_itself_ends() -> None:
    config = SimpleNamespace(width=16)
    config.itself = config
    assert json.dumps(without_secrets(config))


# It runs by itself


@pytest.mark.parametrize("format", RUNNABLE)  # a triton/ beside the script once passed for the package, which torch looks for
def test_inference_py_gives_the_golden_logits(format: str, whole: Path, tmp_path: Path) -> None:
    inputs, outputs = whole / "golden" / "inputs_1.npz", tmp_path / "logits.npz"
    done = run_script(whole, "--format", format, "--inputs", str(inputs), "--outputs", str(outputs), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    tolerance = read(whole / "golden" / "golden.json")["formats"][format][1]["tolerance"]
    expected = arrays_of(whole / "golden" / "outputs_1.npz")["logits"]
    np.testing.assert_allclose(arrays_of(outputs)["logits"], expected, rtol=0, atol=tolerance)


def test_the_readme_s_command_replays_the_golden_batches(whole: Path) -> None:
    command = re.search(r"^python inference.py (.* --golden)", (whole / "README.md").read_text(), re.MULTILINE)
    assert command is not None
    done = run_script(whole, *shlex.split(command[1]))
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["ok"] * 3


def test_replaying_other_logits_fails(whole: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(whole, tmp_path / "copy")
    path = copy / "golden" / "outputs_0.npz"
    np.savez(path, logits=arrays_of(path)["logits"] + 1e-3)
    done = run_script(copy, "--format", "onnx", "--golden")
    assert done.returncode == 1
    assert done.stdout.startswith("FAIL inputs_0.npz: largest difference 1.0e-03")


def test_the_onnx_file_needs_numpy_and_onnx_runtime_alone(whole: Path) -> None:
    code = "import runpy, sys; runpy.run_path(sys.argv[1])['load']('onnx'); print(*{'torch', 'onnx', 'harness'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code, str(whole / "inference.py")], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"input_ids": np.zeros((2, 13), np.int64)}, "input_ids has shape [2, 13], expected ['batch', 'seq'] with batch from 1"),
        ({"input_ids": np.zeros((2, 4), np.int64)}, "attention_mask has shape [2, 5], expected"),
        ({"input_ids": np.zeros(5, np.int64)}, "input_ids has shape [5], expected"),
        ({"input_ids": np.zeros((2, 5), np.float32)}, "input_ids is float32, expected int64"),
        ({"input_ids": np.full((2, 5), 23)}, "input_ids has values from 23 to 23, expected 0 to 22"),
        (
            {"ids": np.zeros((2, 5), np.int64)},
            "the inputs are attention_mask, ids, input_ids, expected input_ids, attention_mask",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_said(change: dict[str, Any], said: str, whole: Path) -> None:
    load = runpy.run_path(str(whole / "inference.py"))["load"]
    inputs = {"input_ids": np.zeros((2, 5), np.int64), "attention_mask": np.ones((2, 5), np.int64)}
    with pytest.raises(ValueError, match=re.escape(said)):
        load("onnx")({**inputs, **change})


def test_narrower_integers_are_taken(whole: Path) -> None:
    inputs = {"input_ids": np.zeros((2, 5), np.int32), "attention_mask": np.ones((2, 5), bool)}
    assert runpy.run_path(str(whole / "inference.py"))["load"]("onnx")(inputs).shape == (2, 5, 23)


@pytest.mark.parametrize(("format", "said"), [("pytorch", "holds only weights: build the model"), ("onx", "no format 'onx'")])
def test_a_format_that_does_not_run_is_one_line(format: str, said: str, whole: Path) -> None:
    done = run_script(whole, "--format", format, "--inputs", "golden/inputs_0.npz")
    assert done.returncode == 2
    assert done.stderr.startswith("inference.py: ValueError: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


# It is whole, or it is not there


def test_a_format_that_cannot_be_exported_is_named_with_those_that_can(shared: Path, tmp_path: Path) -> None:
    exports = exports_of(Branching(), TABLE, "torch_export", "pytorch")
    with pytest.raises(ExportError, match=r"no bundle was written: torch_export: .*; pytorch can be bundled") as caught:
        write_bundle(exports, tmp_path / "bundle", configs={})
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_changed_is_not_bundled(shared: Path, tmp_path: Path) -> None:
    exports = table_exports()
    exports.folder = tmp_path / "exports"
    path = exports.artifact("pytorch").path
    torch.save({"layer.weight": torch.ones(3, 6), "layer.bias": torch.ones(3)}, path)
    again = table_exports()
    again.folder = exports.folder
    with pytest.raises(ExportError, match="is not what this project exported"):
        write_bundle(again, tmp_path / "bundle", configs={})


def test_a_bundle_is_replaced_and_an_empty_folder_is_taken(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    for width in (1, 2):
        bundle = write_bundle(table_exports(), tmp_path / "bundle", configs={"config": {"width": width}})
    assert read(bundle / "configs" / "config.json") == {"width": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_what_is_no_bundle_is_not_replaced(shared: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("notes.txt", "manifest.json")):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / name).write_text('{"files": {}, "kind": "a web page"}')
        with pytest.raises(ExportError, match="exists and is not a bundle, so it is not replaced"):
            write_bundle(table_exports(), tmp_path / f"{number}", configs={})
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ExportError, match="exists and is not a bundle"):
        write_bundle(table_exports(), tmp_path / "file", configs={})
    assert {*files_of(tmp_path)} == {"0/notes.txt", "1/manifest.json", "file"}


def test_a_bundle_that_holds_the_user_s_notes_is_not_replaced(shared: Path, tmp_path: Path) -> None:
    bundle = write_bundle(table_exports(), tmp_path / "bundle", configs={})
    (bundle / "artifacts" / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"holds artifacts/notes\.txt, which is not part of the bundle there"):
        write_bundle(table_exports(), bundle, configs={})


def test_a_full_disk_is_one_line_and_leaves_nothing(shared: Path, tmp_path: Path) -> None:
    exports = table_exports()
    exports.artifact("pytorch")
    old = write_bundle(exports, tmp_path / "old", configs={})
    before = file_hash(old / "manifest.json")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))  # the README is larger
    try:
        for target in (old, tmp_path / "new" / "deep" / "bundle"):
            with pytest.raises(ExportError, match=r"^cannot write the bundle .*: File too large; nothing was written there$"):
                write_bundle(exports, target, configs={"config": {"text": "x" * 4000}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert file_hash(old / "manifest.json") == before


def test_a_folder_that_cannot_be_made_is_one_line(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match=r"cannot write the bundle .*: File exists \(.*/file\); nothing"):
        write_bundle(table_exports(), tmp_path / "file" / "bundle", configs={})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_one_line(shared: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ExportError, match="Permission denied"):
        write_bundle(table_exports(), tmp_path / "bundle", configs={})
    tmp_path.chmod(0o700)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_bundle import table_exports
from harness.export import bundle

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "writing":
    bundle.requirements = die
else:
    rename = Path.rename
    def once(path, target):
        rename(path, target)
        if path == Path(sys.argv[1]):
            die()
    Path.rename = once
bundle.write_bundle(table_exports(), Path(sys.argv[1]), configs={{"config": {{"width": 2}}}})
"""


@pytest.mark.parametrize("stage", ["writing", "exchanging"])
def test_a_process_that_is_killed_leaves_no_half_bundle(
    stage: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = write_bundle(table_exports(), tmp_path / "bundle", configs={"config": {"width": 1}})
    before = files_of(target)
    code = KILLED.format(here=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", code, str(target), stage], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = [path for path in tmp_path.iterdir() if path != target]
    assert [path.name.startswith(".bundle.partial-") for path in left] == [True]
    assert target.exists() == (stage == "writing")

    def full(_formats: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.export.bundle.requirements", full)
    with pytest.raises(ExportError, match="No space left on device"):
        write_bundle(table_exports(), target, configs={"config": {"width": 2}})
    monkeypatch.undo()
    assert files_of(target) == before  # the old one is there again, and stays where the next attempt fails
    assert read(target / "configs" / "config.json") == {"width": 1}
    write_bundle(table_exports(), target, configs={"config": {"width": 3}})
    assert read(target / "configs" / "config.json") == {"width": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


# Layouts


def test_an_unknown_layout_has_the_nearest_name() -> None:
    with pytest.raises(ExportError, match=r"no bundle layout 'tritn'\. Did you mean 'triton'\? Valid: triton, mlflow"):
        check_layouts(["tritn"], ["onnx"])


def test_a_layout_needs_a_format_it_can_be_made_of() -> None:
    with pytest.raises(
        ExportError, match="layout 'mlflow' is made of onnx: add it to the `formats`, which are torchscript, pytorch"
    ):
        check_layouts(["mlflow"], ["torchscript", "pytorch"])


def test_triton_s_config_is_the_onnx_file_s_own_signature(whole: Path) -> None:
    home = whole / "triton" / "lm_tiny"
    assert file_hash(home / "1" / "model.onnx") == file_hash(whole / "artifacts" / "model.onnx")
    text = (home / "config.pbtxt").read_text()
    assert re.findall(r'^(?:name|platform|backend): "(.*)"', text, re.MULTILINE) == ["lm_tiny", "onnxruntime_onnx", "onnxruntime"]
    assert "max_batch_size: 0" in text
    tensors = re.findall(r'name: "(\w+)"\n    data_type: (\w+)\n    dims: \[ (.*) \]', text)
    assert tensors == [
        ("input_ids", "TYPE_INT64", "-1, -1"),
        ("attention_mask", "TYPE_INT64", "-1, -1"),
        ("logits", "TYPE_FP32", "-1, -1, 23"),
    ]


@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated:DeprecationWarning")
def test_triton_batches_where_the_batch_has_a_limit(shared: Path, tmp_path: Path) -> None:
    exports = table_exports("torchscript", dynamic_shapes={"batch": [1, 64]})
    bundle = write_bundle(exports, tmp_path / "bundle", configs={}, layouts=["triton"])
    text = (bundle / "triton" / "table" / "config.pbtxt").read_text()
    assert 'platform: "pytorch_libtorch"' in text
    assert "max_batch_size: 64" in text
    assert re.findall(r'name: "(\w+)"\n.*\n    dims: \[ (.*) \]', text) == [("features__0", "6"), ("logits__0", "3")]
    module = torch.jit.load(bundle / "triton" / "table" / "1" / "model.pt")
    assert module(torch.zeros(2, 6)).shape == (2, 3)


def test_mlflow_s_files_agree_with_each_other(whole: Path) -> None:
    yaml = pytest.importorskip("yaml")
    home = whole / "mlflow"
    model = yaml.safe_load((home / "MLmodel").read_text())
    onnx.checker.check_model(home / model["flavors"]["onnx"]["data"])
    pyfunc = model["flavors"]["python_function"]
    assert pyfunc["loader_module"] == "mlflow.onnx"
    assert all((home / name).is_file() for name in (pyfunc["data"], *pyfunc["env"].values()))
    inputs = json.loads(model["signature"]["inputs"])
    assert [(spec["name"], spec["tensor-spec"]) for spec in inputs] == [
        ("input_ids", {"dtype": "int64", "shape": [-1, -1]}),
        ("attention_mask", {"dtype": "int64", "shape": [-1, -1]}),
    ]
    example = read(home / model["saved_input_example_info"]["artifact_path"])
    assert {name: np.shape(rows) for name, rows in example.items()} == {"input_ids": (3, 11), "attention_mask": (3, 11)}
    assert "onnxruntime==" in yaml.safe_load((home / "conda.yaml").read_text())["dependencies"][-1]["pip"][-1]


# From a model


def test_a_quantised_file_is_held_to_how_far_it_was(shared: Path, tmp_path: Path) -> None:
    bundle = write_bundle(table_exports("onnx", quantization="dynamic"), tmp_path / "bundle", configs={})
    held = read(bundle / "golden" / "golden.json")["formats"]["onnx_int8"]
    assert all(batch["tolerance"] >= 2 * batch["difference"] > 1e-6 for batch in held)
    assert run_script(bundle, "--format", "onnx_int8", "--golden").returncode == 0


def test_a_model_s_bundle_has_its_health_report(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = SimpleNamespace(formats=["pytorch"], width=16, quantization=None)
    bundle = create_export_bundle(Table(), config, TABLE, training_config={"epochs": 3})
    assert bundle == tmp_path / "table-bundle"
    report = read(bundle / "artifacts" / "health_report.json")
    assert report["summary"]["total"] > 5
    assert (bundle / "artifacts" / "health_report.html").is_file()
    assert (bundle / "health_report.md").is_file()
    assert str(shared) not in (bundle / "artifacts" / "health_report.json").read_text()
    assert f"{report['summary']['passed']} of {report['summary']['total']} checks passed" in (bundle / "README.md").read_text()
    assert read(bundle / "configs" / "training_config.json") == {"epochs": 3}
    assert read(bundle / "configs" / "config.json")["width"] == 16


def test_a_bundle_without_health_checks_says_so(shared: Path, tmp_path: Path) -> None:
    bundle = create_export_bundle(
        Table(), {"formats": ["pytorch"]}, TABLE, run_health_checks=False, output_dir=tmp_path / "bundle"
    )
    assert "The health checks were not run." in (bundle / "README.md").read_text()
    assert not (bundle / "artifacts" / "health_report.json").exists()
    assert "inference.py --format" not in (bundle / "README.md").read_text()  # weights alone do not run


def test_a_config_file_s_bundle_lies_beside_it(shared: Path, tmp_path: Path) -> None:
    exports = text_exports(tmp_path / "home", "pytorch")
    assert exports.config is not None
    config = load_config(exports.config)
    bundle = create_export_bundle(exports.subject.model, config, config.task_spec(), run_health_checks=False)
    assert bundle == tmp_path / "home" / "cfg-bundle"
    assert read(bundle / "configs" / "training_config.json")["learning_rate"] == config.learning_rate
    assert made_here(bundle) == {"made": True, "config": str(exports.config)}


@pytest.mark.parametrize("config", [{"formats": ["onx"]}, {"formats": ["pytorch"], "quantization": "dynamic"}])
def test_an_impossible_config_is_one_line(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        create_export_bundle(Table(), config, TABLE, output_dir=tmp_path / "bundle")
    assert "\n" not in str(caught.value)

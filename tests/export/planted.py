"""Models and files that break one promise of tier 4 each, and twins that keep it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.config import ExportConfig, load_config
from harness.export.command import exports_of_config
from harness.export.exports import Exports
from harness.export.store.cache import file_hash
from harness.models.stubs import build_stub
from harness.properties.subject import Subject
from harness.randomness import seeded
from harness.tasks import TaskSpec, TaskType

TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=5, num_classes=3)
TEXT = TaskSpec(TaskType.CAUSAL_LM, vocab_size=31, max_seq_len=12)


def make_exports(model: nn.Module, folder: Path | None, *formats: str, task: TaskSpec | None = None, **options: Any) -> Exports:
    """The exports of a model object."""
    task = task or (TEXT if hasattr(model, "embed") else TABLE)
    config = ExportConfig.model_validate({"formats": list(formats) or ["onnx"], **options})
    return Exports(Subject(model.eval(), make_adapter(task), task), config, folder)


def language_model() -> nn.Module:
    return build_stub(TEXT)


class AnyLength(nn.Module):
    """Scores of the next token by the last one, of as many tokens as there are."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(31, 16)
        self.head = nn.Linear(16, 31)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(F.gelu(self.embed(input_ids)))


class LengthChecked(AnyLength):
    """Refuses more tokens than it was trained on, in Python."""

    def forward(self, input_ids: Tensor) -> Tensor:
        if input_ids.shape[1] > 12:
            raise ValueError("too long")
        return super().forward(input_ids)


class Scores(nn.Module):
    """Sound scores of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(5, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(F.gelu(self.hidden(features)))


class SizeBranch(Scores):
    """Another scale for large batches: a branch on a size, which an exporter decides once."""

    def forward(self, features: Tensor) -> Tensor:
        logits = super().forward(features)
        return logits * 2 if logits.shape[0] > 4 else logits * 3


class SizeWhere(Scores):
    """One scale."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) * 3


class RowLoop(Scores):
    """A Python loop over the rows, unrolled by an exporter."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([self.head(self.hidden(features[row])) for row in range(features.shape[0])])


class RowsAtOnce(Scores):
    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.hidden(features))


class DataBranch(Scores):
    """A branch on a value, which no graph holds; keyword arguments keep it from being scripted."""

    def forward(self, features: Tensor, **_more: Any) -> Tensor:
        logits = super().forward(features)
        return logits * 2 if logits.sum() > 0 else logits * 3


class DataWhere(Scores):
    def forward(self, features: Tensor, **_more: Any) -> Tensor:
        logits = super().forward(features)
        return torch.where(logits.sum() > 0, logits * 2, logits * 3)


class Stubborn(Scores):
    """A norm that eval() does not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(super().forward(features))

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        self.norm.training = True
        return self


class Obedient(Stubborn):
    def train(self, mode: bool = True) -> nn.Module:
        return nn.Module.train(self, mode)


class Squeezed(Scores):
    """Loses the batch axis of a single row."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).squeeze(0)


class Fragile(Scores):
    """NaN from four rows on."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) * (float("nan") if features.shape[0] > 3 else 1.0)


class Random(Scores):
    """Dropout in eval mode."""

    def forward(self, features: Tensor) -> Tensor:
        return F.dropout(super().forward(features), 0.5)


class Huge(Scores):
    """More than a gigabyte of scratch space in every call; as nothing is written there, no memory is taken."""

    def forward(self, features: Tensor) -> Tensor:
        scratch = torch.empty(300_000_000)
        return super().forward(features) + 0 * scratch.numel()


class Recurrent(nn.Module):
    """A GRU, which ``torch.export`` unrolls over the steps of its example."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(31, 8)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 31)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.gru(self.embed(input_ids))[0])


class FixedSteps(Recurrent):
    """The same in a loop of Python, over a number of steps."""

    def forward(self, input_ids: Tensor) -> Tensor:
        state, states = torch.zeros(1, input_ids.shape[0], 8), []
        for step in range(int(input_ids.shape[1])):
            out, state = self.gru(self.embed(input_ids[:, step : step + 1]), state)
            states.append(out)
        return self.head(torch.cat(states, 1))


class Masked(Scores):
    """Attention between the hidden units, minus infinity where one must not look; an exporter stores that number."""

    def forward(self, features: Tensor) -> Tensor:
        hidden = F.gelu(self.hidden(features))
        later = torch.ones(8, 8, dtype=torch.bool, device=hidden.device).triu(1)
        scores = (hidden[:, :, None] * hidden[:, None, :]).masked_fill(later, float("-inf"))
        return self.head((scores.softmax(-1) @ hidden[..., None])[..., 0])


def with_infinity() -> nn.Module:
    model = Scores()
    with torch.no_grad():
        model.head.weight[1, 2] = float("-inf")
    return model


def with_nan() -> nn.Module:
    model = Scores()
    with torch.no_grad():
        model.head.weight[1, 2] = float("nan")
    return model


def onnx_by_hand(model: nn.Module, path: Path, *, training: bool = False, **options: Any) -> None:
    """What many projects do: a bare call of the older exporter."""
    fields = ("input_ids", "attention_mask") if hasattr(model, "embed") else ("features",)
    example = {
        "input_ids": torch.arange(1, 21).view(4, 5) % 31,
        "attention_mask": torch.ones(4, 5, dtype=torch.long),
        "features": torch.randn(4, 5),
    }
    model.train(training)
    axes = {name: {0: "batch", 1: "seq"} if name != "features" else {0: "batch"} for name in fields}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            tuple(example[name] for name in fields),
            str(path),
            dynamo=False,
            input_names=list(fields),
            output_names=["logits"],
            dynamic_axes={**axes, "logits": axes[fields[0]]},
            training=torch.onnx.TrainingMode.TRAINING if training else torch.onnx.TrainingMode.EVAL,
            **options,
        )
    model.eval()


def change_onnx(path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


def scale_an_initializer(name_part: str, factor: float) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(entry for entry in model.graph.initializer if name_part in entry.name)
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array((values * factor).astype(values.dtype), tensor.name))

    return change


def subtract_instead_of_adding(model: onnx.ModelProto) -> None:
    additions = [node for node in model.graph.node if node.op_type == "Add"]
    additions[len(additions) // 2].op_type = "Sub"


Prepare = Callable[[Path], Exports]


@dataclass(frozen=True)
class Planted:
    """A bug that one check must find.

    Attributes:
        check: The check.
        broken: Makes exports with the bug in an empty folder.
        sound: Makes exports without it.
        format: The format that is judged; empty for a check of the model.
        says: A part of the message.
        status: The verdict on the bug.
    """

    check: str
    broken: Prepare
    sound: Prepare
    format: str = ""
    says: str = ""
    status: str = "fail"
    name: str = field(default="", compare=False)


def of(model: Callable[[], nn.Module], *formats: str, **options: Any) -> Prepare:
    """Exports of a model built under a seed."""

    def prepare(folder: Path) -> Exports:
        with seeded(0):
            built = model()
        return make_exports(built, folder, *formats, **options)

    return prepare


def by_hand(model: Callable[[], nn.Module], **options: Any) -> Prepare:
    """Exports whose ONNX file was there already, written by a bare call."""

    def prepare(folder: Path) -> Exports:
        with seeded(0):
            built = model()
            onnx_by_hand(built, folder / "model.onnx", **options)
        return make_exports(built, folder, "onnx")

    return prepare


def edited(
    change: Callable[[onnx.ModelProto], None],
    format: str = "onnx",
    model: Callable[[], nn.Module] = language_model,
    **options: Any,
) -> Prepare:
    """Exports whose file was changed afterwards."""

    def prepare(folder: Path) -> Exports:
        exports = of(model, "onnx", **options)(folder)
        path = exports.artifact(format).path
        change_onnx(path, change)
        return of(model, "onnx", **options)(folder)

    return prepare


def traced_by_hand(folder: Path) -> Exports:
    with seeded(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = DataBranch().eval()
        torch.jit.trace(model, torch.randn(3, 5), check_trace=False).save(str(folder / "model.ts"))
    return make_exports(model, folder, "torchscript", trust=[file_hash(folder / "model.ts")])


def truncated(name: str) -> Prepare:
    def prepare(folder: Path) -> Exports:
        exports = of(Scores, name)(folder)
        path = exports.artifact(name).path
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return of(Scores, name, trust=[file_hash(path)])(folder)

    return prepare


def opset_nine(folder: Path) -> Exports:
    with seeded(0):
        model = RowsAtOnce().eval()
        onnx_by_hand(model, folder / "model.onnx", opset_version=9)
    return make_exports(model, folder, "onnx", opset_version=18)


def destroyed_scale(folder: Path) -> Exports:
    prepare = edited(scale_an_initializer("scale", 20.0), "onnx_int8", quantization="dynamic")
    return prepare(folder)


def from_config(code: str) -> Prepare:
    """Exports of a config's model, which a fresh process can rebuild."""

    def prepare(folder: Path) -> Exports:
        (folder / "model.py").write_text(code)
        config = {"task_type": "tabular_classification", "num_features": 5, "num_classes": 3, "model_file": "model.py"}
        (folder / "cfg.json").write_text(json.dumps({**config, "export": {"formats": ["pytorch"]}}))
        return exports_of_config(load_config(folder / "cfg.json"), folder / "files")

    return prepare


KEEPS = """
import torch
from torch import nn

class Model(nn.Linear):
    def __init__(self):
        super().__init__(5, 3)
        self.register_buffer("shift", torch.randn(3))

    def forward(self, features):
        return super().forward(features) + self.shift

build_model = Model
"""
FORGETS = KEEPS.replace('self.register_buffer("shift", torch.randn(3))', "self.shift = torch.tensor(id(self) % 1000 / 100)")


def weights_left_behind(folder: Path) -> Exports:
    """A file that was moved without the file that holds its weights."""
    with seeded(0):
        model = Scores().eval()
        onnx_by_hand(model, folder / "model.onnx")
    content = onnx.load(folder / "model.onnx")
    onnx.save(content, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (folder / "weights.bin").unlink()
    return make_exports(model, folder, "onnx", trust=[file_hash(folder / "model.onnx")])


STUB = of(language_model, "onnx")

PLANTED: tuple[Planted, ...] = (
    Planted("architecture_validation", of(Stubborn), of(Obedient), says="`norm` first", name="norm_stays_in_train_mode"),
    Planted("parameter_validation", of(with_nan), of(Scores), says="`head.weight` holds 1 NaN", name="nan_weight"),
    Planted("shape_validation", of(Squeezed), of(Scores), says="(3,) at batch=1", name="single_row_loses_its_axis"),
    Planted("memory_requirements", of(Huge), of(Scores), says="MiB", status="warn", name="a_gigabyte"),
    Planted("forward_pass_validation", of(Fragile), of(Scores), says="NaN or infinite at batch=4", name="nan_from_four_rows_on"),
    Planted("forward_pass_validation", of(Random), of(Scores), says="random", name="dropout_in_eval_mode"),
    Planted(
        "exports",
        of(DataBranch, "torch_export"),
        of(DataWhere, "torch_export"),
        "torch_export",
        "decides by a value",
        name="branch_on_a_value",
    ),
    Planted("exports", edited(subtract_instead_of_adding), STUB, "onnx", "sha256 is another one", name="edited_after_export"),
    Planted(
        "exports", of(DataBranch), of(DataWhere), "onnx", "only by the TorchScript-based", "warn", name="last_resort_of_onnx"
    ),
    Planted("validation", truncated("onnx"), of(Scores), "onnx", "no ONNX file", name="truncated_onnx"),
    Planted(
        "validation",
        truncated("torchscript"),
        of(Scores, "torchscript"),
        "torchscript",
        "no TorchScript file",
        name="truncated_torchscript",
    ),
    Planted("validation", truncated("pytorch"), of(Scores, "pytorch"), "pytorch", "cannot be read", name="truncated_state_dict"),
    Planted(
        "validation",
        truncated("safetensors"),
        of(Scores, "safetensors"),
        "safetensors",
        "cannot be read",
        name="truncated_safetensors",
    ),
    Planted("validation", truncated("torch_export"), of(Scores, "torch_export"), "torch_export", "no .pt2", name="truncated_pt2"),
    Planted(
        "validation", opset_nine, of(RowsAtOnce, opset_version=18), "onnx", "has opset 9, asked for 18", name="another_opset"
    ),
    Planted("validation", weights_left_behind, of(Scores), "onnx", "its weights cannot be read", name="weights_left_behind"),
    Planted("validation", of(with_nan), of(Scores), "onnx", "NaN", name="nan_in_the_file"),
    Planted("dynamic_axes", of(FixedSteps), of(Recurrent), "onnx", "seq is always", name="loop_over_the_steps"),
    Planted("validation", of(with_infinity), of(Masked), "onnx", "infinity", name="infinity_in_the_file"),
    Planted(
        "fresh_process",
        from_config(FORGETS),
        from_config(KEEPS),
        "pytorch",
        "other logits",
        name="a_tensor_outside_the_state_dict",
    ),
    Planted(
        "numerical_consistency",
        of(SizeBranch),
        of(SizeWhere),
        "onnx",
        "a shape its exporter did not see",
        name="branch_on_a_size",
    ),
    Planted("numerical_consistency", of(DataBranch), of(DataWhere), "onnx", "logits differ", name="branch_on_a_value_frozen"),
    Planted(
        "numerical_consistency",
        traced_by_hand,
        of(DataWhere, "torchscript"),
        "torchscript",
        "logits differ",
        name="trace_froze_a_branch",
    ),
    Planted(
        "numerical_consistency",
        edited(subtract_instead_of_adding),
        STUB,
        "onnx",
        "first diverging operator: Sub",
        name="sub_for_add",
    ),
    Planted(
        "numerical_consistency",
        edited(scale_an_initializer("head.weight", 1.01)),
        STUB,
        "onnx",
        "first diverging operator: ",
        name="a_weight_off_by_a_percent",
    ),
    Planted("dynamic_axes", of(RowLoop), of(RowsAtOnce), "onnx", "batch is always 3", name="loop_over_rows_onnx"),
    Planted(
        "dynamic_axes",
        of(RowLoop, "torch_export"),
        of(RowsAtOnce, "torch_export"),
        "torch_export",
        "batch is always 3 (planted.py:",
        name="loop_over_rows_pt2",
    ),
    Planted(
        "dynamic_axes",
        of(RowLoop, "torchscript"),
        of(RowsAtOnce, "torchscript"),
        "torchscript",
        "refuses batch=",
        name="loop_over_rows_trace",
    ),
    Planted(
        "dynamic_axes", of(SizeBranch), of(SizeWhere), "onnx", "valid from 1 to 4 alone", name="range_narrower_than_declared"
    ),
    Planted(
        "inference_mode",
        by_hand(Obedient, training=True),
        by_hand(Obedient),
        "onnx",
        "training is left",
        name="norm_in_train_mode",
    ),
    Planted(
        "inference_mode",
        by_hand(language_model, training=True, do_constant_folding=False),
        STUB,
        "onnx",
        "Dropout",
        name="dropout_left_in",
    ),
    Planted(
        "inference_mode",
        of(Random, "torchscript"),
        of(Scores, "torchscript"),
        "torchscript",
        "aten::dropout",
        name="dropout_traced",
    ),
    Planted(
        "inference_mode",
        of(Random, "torch_export"),
        of(Scores, "torch_export"),
        "torch_export",
        "aten.dropout",
        name="dropout_captured",
    ),
    Planted(
        "invalid_input",
        by_hand(language_model),
        STUB,
        "onnx",
        "returns logits where the model raises",
        "warn",  # the file is the user's own
        name="negative_id_counts_from_the_end",
    ),
    Planted(
        "invalid_input",
        of(LengthChecked),
        of(AnyLength),
        "onnx",
        "returns logits where the model raises",
        name="a_check_that_no_graph_holds",
    ),
    Planted(
        "invalid_input",
        edited(scale_an_initializer("scale", 20.0), "onnx_int8", AnyLength, quantization="dynamic"),
        of(AnyLength, quantization="dynamic"),
        "onnx_int8",
        "other logits than the model, on a sequence that is too long",
        name="a_scale_off_at_a_long_sequence",
    ),
    Planted(
        "quantisation",
        destroyed_scale,
        of(language_model, "onnx", quantization="dynamic"),
        "onnx_int8",
        "destroys the logits",
        name="a_scale_off",
    ),
    Planted(
        "performance_benchmark",
        of(
            Scores,
            task=TaskSpec(
                TaskType.TABULAR_CLASSIFICATION, num_features=5, num_classes=3, tolerances={"performance_benchmark": 1e-6}
            ),
        ),
        of(
            Scores,
            task=TaskSpec(
                TaskType.TABULAR_CLASSIFICATION, num_features=5, num_classes=3, tolerances={"performance_benchmark": 1e4}
            ),
        ),
        "onnx",
        "slower than 1e-06 ms",
        name="slower_than_the_bound",
    ),
)

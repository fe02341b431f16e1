"""A bug planted in an ONNX file is found at its node, its module and the user's line, and the right one is blamed for it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.batches import Batch, Sizes, make_batch
from harness.export.blame import NEW_EXPORT, PLAIN_RUNTIME, PROGRAM, REFERENCE, RUNTIME, Blame, at_fault, onnx_graph
from harness.export.blame import onnx_files as onnx_blame
from harness.export.blame.onnx_files import blame_onnx
from harness.export.blame.onnx_graph import WAYS, OnnxGraph, ReferenceRuns
from harness.export.formats.exported_program import quiet
from harness.export.formats.onnx import ONNXExporter
from harness.export.onnx import session
from harness.export.program import Program, make_program
from harness.tasks import TaskSpec, TaskType

pytestmark = pytest.mark.usefixtures("one_thread")

BOUND = 1e-5
TOKENS = TaskSpec(TaskType.CAUSAL_LM, vocab_size=20, max_seq_len=12)
FEATURES = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=6, num_classes=3)


class Block(nn.Module):
    """Attention written out, and a perceptron."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        scores = q @ k.transpose(1, 2)
        scores = scores + mask
        x = x + scores.softmax(-1) @ v
        return x + self.down(F.gelu(self.up(x)))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(8, 20)

    def forward(self, input_ids: Tensor) -> Tensor:
        length = input_ids.shape[1]
        mask = torch.full((length, length), -1e9).triu(1)
        x = self.embed(input_ids)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(x)


class Branch(nn.Module):
    """Multiplies by another number in a large batch."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 4:
            return x * 2
        return x * 3


class Decision(nn.Module):
    """Goes another way where the data says so."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x * 2
        return x - 1


class Layers(nn.Module):
    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.middle = middle
        self.last = nn.Linear(8, 3)

    def forward(self, features: Tensor) -> Tensor:
        return self.last(self.middle(self.first(features)))


def program_of(model: nn.Module, task: TaskSpec, sizes: Sizes) -> Program:
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return make_program(model.eval(), make_adapter(task), task, make_batch(task, sizes), sizes)


def trace_to(program: Program, path: Path, opset: int = 17) -> Path:
    """Writes a file by the older exporter."""
    axes = {**program.axes, **program.output_axes}
    with quiet(), torch.no_grad():
        torch.onnx.export(
            program.forward,
            program.arguments,
            str(path),
            dynamo=False,
            input_names=list(program.fields),
            output_names=["logits"],
            dynamic_axes=axes,
            opset_version=opset,
        )
    return path


@pytest.fixture(scope="module")
def decoder() -> Program:
    torch.manual_seed(0)
    return program_of(Decoder(), TOKENS, Sizes(3, 7))


@pytest.fixture(scope="module")
def batch() -> Batch:
    return make_batch(TOKENS, Sizes(2, 9), seed=1)


@pytest.fixture(scope="module")
def files(decoder: Program, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("onnx")
    found = {name: folder / f"{name}.onnx" for name in ("optimised", "raw", "traced")}
    ONNXExporter(optimize=True).export(decoder, found["optimised"])
    ONNXExporter(optimize=False).export(decoder, found["raw"])
    trace_to(decoder, found["traced"], opset=14)
    return found


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out what takes seconds: the exporters, which are right about all of these models."""
    for name in (PROGRAM, NEW_EXPORT):
        monkeypatch.setitem(WAYS, name, lambda contest: contest.expected)


def change(source: Path, target: Path, edit: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(source)
    edit(model)
    onnx.save(model, target)
    return target


def nodes(model: onnx.ModelProto, operator: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == operator]


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def change_weight(model: onnx.ModelProto, wanted: Callable[[np.ndarray], bool]) -> None:
    """Changes one number of the first weight that is wanted."""
    for entry in model.graph.initializer:
        array = numpy_helper.to_array(entry).copy()
        if wanted(array):
            array.flat[0] += 0.5
            entry.CopyFrom(numpy_helper.from_array(array, entry.name))
            return
    raise AssertionError("no such weight")


def weight_of(program: Program, name: str) -> Callable[[np.ndarray], bool]:
    weight = program.forward.model.get_parameter(name).detach().numpy()
    return lambda array: (
        array.shape in (weight.shape, weight.T.shape) and (np.array_equal(array, weight) or np.array_equal(array, weight.T))
    )


def line_with(function: Callable[..., Any], text: str) -> str:
    """``test_blame_onnx.py:33: ...``, as blame gives it."""
    lines, start = inspect.getsourcelines(function)
    offset = next(number for number, line in enumerate(lines) if text in line)
    return f"{Path(__file__).name}:{start + offset}: {lines[offset].strip()}"


ATTENTION = line_with(Block.forward, "x = x + scores.softmax")
MASKING = line_with(Block.forward, "scores = scores + mask")
PERCEPTRON = line_with(Block.forward, "return x + self.down")
NORM = line_with(Block.forward, "q, k, v")


def last_addition(model: onnx.ModelProto) -> None:
    made = {name: node for node in model.graph.node for name in node.output}
    reader = made[model.graph.output[0].name]
    while reader.op_type != "Add" or not all(name in made for name in reader.input):
        reader = next(made[name] for name in reader.input if name in made)
    reader.op_type = "Sub"


def negated_mask(model: onnx.ModelProto) -> None:
    made = {name: node for node in model.graph.node for name in node.output}
    addition = made[nodes(model, "Softmax")[1].input[0]]
    position = 1 if made[addition.input[0]].op_type == "MatMul" else 0
    new = helper.make_node("Neg", [addition.input[position]], ["negated"], name="planted")
    addition.input[position] = "negated"
    model.graph.node.insert(list(model.graph.node).index(addition), new)


EDITS: dict[str, tuple[Callable[[onnx.ModelProto], None], str, str, str]] = {
    "addition becomes subtraction": (last_addition, "Sub", "blocks.1", PERCEPTRON),
    "softmax over another axis": (
        lambda model: set_attribute(nodes(model, "Softmax")[1], "axis", 1),
        "Softmax",
        "blocks.1",
        ATTENTION,
    ),
    "mask negated at one layer": (negated_mask, "Neg", "blocks.1", MASKING),
}


@pytest.mark.usefixtures("no_export")
@pytest.mark.parametrize("file", ["optimised", "raw", "traced"])
@pytest.mark.parametrize("name", EDITS)
def test_a_planted_bug_is_found_whatever_wrote_the_file(
    name: str, file: str, files: dict[str, Path], decoder: Program, batch: Batch, tmp_path: Path
) -> None:
    edit, operator, module, line = EDITS[name]
    blame = blame_onnx(change(files[file], tmp_path / "model.onnx", edit), decoder, batch, BOUND, tmp_path / "failing")
    assert blame.operator.startswith(f"{operator} (ONNX node `")
    assert (blame.module, blame.line, blame.at_fault) == (module, line, "file"), blame.explanation
    assert reproduces(blame) == [operator]


@pytest.mark.usefixtures("no_export")
def test_a_changed_epsilon_is_found(files: dict[str, Path], decoder: Program, batch: Batch, tmp_path: Path) -> None:
    path = change(
        files["optimised"], tmp_path / "model.onnx", lambda m: set_attribute(nodes(m, "LayerNormalization")[0], "epsilon", 1e-2)
    )
    blame = blame_onnx(path, decoder, batch, BOUND)
    assert blame.operator.startswith("LayerNormalization (ONNX node `")
    assert (blame.module, blame.line, blame.at_fault) == ("blocks.0.norm", NORM, "file")
    assert "written differently" in blame.explanation  # the other block shows what an exporter writes


@pytest.mark.usefixtures("no_export")
def test_another_approximation_of_gelu_is_found(files: dict[str, Path], decoder: Program, batch: Batch, tmp_path: Path) -> None:
    path = change(
        files["raw"], tmp_path / "model.onnx", lambda model: set_attribute(nodes(model, "Gelu")[1], "approximate", "tanh")
    )
    blame = blame_onnx(path, decoder, batch, 1e-6, tmp_path)
    assert blame.operator.startswith("Gelu (ONNX node `")
    assert (blame.module, blame.line) == ("blocks.1", PERCEPTRON)
    assert reproduces(blame) == ["Gelu"]


@pytest.mark.usefixtures("no_export")
@pytest.mark.parametrize("file", ["optimised", "raw", "traced"])
@pytest.mark.parametrize(("weight", "module"), [("blocks.1.down.weight", "blocks.1.down"), ("blocks.0.up.bias", "blocks.0.up")])
def test_a_changed_weight_is_named(
    weight: str, module: str, file: str, files: dict[str, Path], decoder: Program, batch: Batch, tmp_path: Path
) -> None:
    path = change(files[file], tmp_path / "model.onnx", lambda model: change_weight(model, weight_of(decoder, weight)))
    blame = blame_onnx(path, decoder, batch, BOUND)
    assert (blame.module, blame.line, blame.at_fault) == (module, PERCEPTRON, "file")
    assert f"other values for the weight `{weight}`" in blame.explanation
    assert blame.operator.startswith("MatMul" if weight.endswith("weight") else "Add")


@pytest.mark.usefixtures("no_export")
@pytest.mark.parametrize("file", ["optimised", "traced"])
def test_an_operator_that_is_not_there_is_named(
    file: str, files: dict[str, Path], decoder: Program, batch: Batch, tmp_path: Path
) -> None:
    def without_softmax(model: onnx.ModelProto) -> None:
        softmax = nodes(model, "Softmax")[0]
        for node in model.graph.node:
            for position, name in enumerate(node.input):
                if name == softmax.output[0]:
                    node.input[position] = softmax.input[0]
        model.graph.node.remove(softmax)

    blame = blame_onnx(change(files[file], tmp_path / "model.onnx", without_softmax), decoder, batch, BOUND, tmp_path / "failing")
    assert re.match(r"aten\._softmax\.default, missing after Add \(ONNX node `.*`\)", blame.operator)
    assert (blame.module, blame.line) == ("blocks.0", ATTENTION)
    assert "the file lacks aten._softmax.default" in blame.explanation
    assert "Softmax" in reproduces(blame)  # no part of the file shows what is missing, so the whole is saved


@pytest.mark.usefixtures("no_export")
def test_a_nan_is_found_where_it_comes_up(files: dict[str, Path], decoder: Program, batch: Batch, tmp_path: Path) -> None:
    def to_log(model: onnx.ModelProto) -> None:
        nodes(model, "Gelu")[0].op_type = "Log"
        del nodes(model, "Log")[0].attribute[:]

    blame = blame_onnx(change(files["optimised"], tmp_path / "model.onnx", to_log), decoder, batch, BOUND)
    assert blame.operator.startswith("Log")
    assert blame.module == "blocks.0"
    assert blame.votes[RUNTIME] == float("inf")


@pytest.mark.parametrize("file", ["optimised", "raw", "traced"])
def test_of_a_sound_file_nothing_is_said_to_diverge(file: str, files: dict[str, Path], decoder: Program, batch: Batch) -> None:
    blame = blame_onnx(files[file], decoder, batch, BOUND)
    assert (blame.operator, blame.at_fault) == ("", "")
    assert "nothing diverges" in blame.explanation
    assert set(blame.votes) == {RUNTIME, PLAIN_RUNTIME}


def test_a_file_that_does_not_run_is_blamed_on_the_node_that_raises(
    files: dict[str, Path], decoder: Program, batch: Batch, tmp_path: Path
) -> None:
    def fixed_mask(model: onnx.ModelProto) -> None:
        addition = next(n for n in model.graph.node if n.output[0] == nodes(model, "Softmax")[0].input[0])
        model.graph.initializer.append(numpy_helper.from_array(np.zeros((7, 7), np.float32), "seven"))
        addition.input[1] = "seven"
        addition.name = "planted"

    blame = blame_onnx(change(files["optimised"], tmp_path / "model.onnx", fixed_mask), decoder, batch, BOUND)
    assert blame.operator == "Add (ONNX node `planted`)"
    assert "could not be run" in blame.explanation


def test_a_branch_on_a_size_frozen_by_torch_export_is_the_exporters_fault(tmp_path: Path) -> None:
    program = program_of(Layers(Branch()), FEATURES, Sizes(3))
    ONNXExporter().export(program, tmp_path / "model.onnx")
    blame = blame_onnx(tmp_path / "model.onnx", program, make_batch(FEATURES, Sizes(8)), BOUND, tmp_path)
    assert blame.operator.startswith("Mul (ONNX node `")
    assert (blame.module, blame.line) == ("middle", line_with(Branch.forward, "return x * 2"))
    assert blame.at_fault == "exporter"
    assert "frozen" in blame.explanation
    assert blame.votes[PROGRAM] > BOUND
    assert reproduces(blame) == ["Mul"]


@torch.no_grad()
def decides(model: Layers, batch: Batch) -> bool:
    return bool(model.first(batch["features"]).sum() > 0)


def test_a_decision_on_data_frozen_by_the_tracer_is_the_exporters_fault(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Layers(Decision())
    program = program_of(model, FEATURES, Sizes(3))
    batches = [make_batch(FEATURES, Sizes(3), seed) for seed in range(100)]
    other = next(batch for batch in batches if decides(model, batch) is not decides(model, program.example))
    blame = blame_onnx(trace_to(program, tmp_path / "model.onnx"), program, other, BOUND)
    assert blame.at_fault == "exporter"
    assert blame.module == "middle"
    assert blame.line in {line_with(Decision.forward, "return x * 2"), line_with(Decision.forward, "return x - 1")}
    assert f"`{line_with(Decision.forward, 'if x.sum')}` was frozen" in blame.explanation
    assert blame.votes[NEW_EXPORT] > BOUND


def test_a_file_of_another_state_of_the_model_is_told_by_a_fresh_export(tmp_path: Path) -> None:
    program = program_of(Layers(nn.ReLU()), FEATURES, Sizes(3))
    path = change(trace_to(program, tmp_path / "old.onnx"), tmp_path / "model.onnx", relu_to_tanh)
    blame = blame_onnx(path, program, make_batch(FEATURES, Sizes(4), seed=1), BOUND)
    assert blame.operator.startswith("Tanh")
    assert (blame.module, blame.at_fault) == ("middle", "file")
    assert blame.votes[NEW_EXPORT] <= BOUND


def test_what_is_known_to_be_the_exporters_own_file_is_not_exported_anew(
    files: dict[str, Path], decoder: Program, batch: Batch, tmp_path: Path
) -> None:
    path = change(files["optimised"], tmp_path / "model.onnx", gelu_to_relu)
    blame = blame_onnx(path, decoder, batch, BOUND, ours=True)
    assert blame.at_fault == "exporter"
    assert NEW_EXPORT not in blame.votes


def relu_to_tanh(model: onnx.ModelProto) -> None:
    nodes(model, "Relu")[0].op_type = "Tanh"


class TestWhoIsAtFault:
    @pytest.mark.parametrize(
        ("votes", "fault"),
        [
            ({RUNTIME: 0.0, PLAIN_RUNTIME: 0.0}, ""),
            ({RUNTIME: 1.0, PLAIN_RUNTIME: 0.0}, "optimiser"),
            ({RUNTIME: float("inf"), PLAIN_RUNTIME: 0.0, REFERENCE: 0.0}, "optimiser"),
            ({RUNTIME: 1.0, PLAIN_RUNTIME: 1.0, REFERENCE: 0.0}, "runtime"),
            ({RUNTIME: 1.0, PLAIN_RUNTIME: 1.0, REFERENCE: 0.0, PROGRAM: 0.0, NEW_EXPORT: 1.0}, "runtime"),
            ({RUNTIME: 1.0, PLAIN_RUNTIME: 1.0, REFERENCE: 1.0, PROGRAM: 1.0}, "exporter"),
            ({RUNTIME: 1.0, PLAIN_RUNTIME: 1.0, REFERENCE: 1.0, PROGRAM: 0.0, NEW_EXPORT: 1.0}, "exporter"),
            ({RUNTIME: 1.0, PLAIN_RUNTIME: 1.0, REFERENCE: 1.0, PROGRAM: 0.0, NEW_EXPORT: 0.0}, "file"),
            ({RUNTIME: 1.0, PLAIN_RUNTIME: 1.0, NEW_EXPORT: 0.0}, "file"),
            ({RUNTIME: 1.0, PLAIN_RUNTIME: 1.0}, "exporter"),
            ({RUNTIME: 1.0, REFERENCE: float("nan")}, "exporter"),
        ],
    )
    def test_the_votes_say(self, votes: dict[str, float], fault: str) -> None:
        assert at_fault(votes, 1e-6) == fault

    def test_a_file_that_shows_it_was_changed_needs_no_fresh_export(self) -> None:
        votes = {RUNTIME: 1.0, PLAIN_RUNTIME: 1.0, REFERENCE: 1.0}
        assert at_fault(votes, 1e-6, changed=True) == "file"
        assert at_fault({**votes, REFERENCE: 0.0}, 1e-6, changed=True) == "runtime"

    def test_a_runtime_that_the_reference_evaluator_contradicts(
        self, files: dict[str, Path], decoder: Program, batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A runtime with a wrong kernel: it takes Gelu for Relu, and what stands in the file is right.
        monkeypatch.setitem(WAYS, REFERENCE, lambda contest: contest.expected)
        path = change(files["optimised"], tmp_path / "model.onnx", gelu_to_relu)
        blame = blame_onnx(path, decoder, batch, BOUND)
        assert (blame.at_fault, blame.module) == ("runtime", "blocks.1")
        assert "reference evaluator computes the same file right" in blame.explanation

    def test_an_optimiser_that_breaks_a_sound_file(
        self, files: dict[str, Path], decoder: Program, batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken = change(files["optimised"], tmp_path / "optimised.onnx", gelu_to_relu)
        graph = OnnxGraph(onnx.load(broken))
        monkeypatch.setattr(onnx_blame, "_optimised", lambda *_: graph)
        monkeypatch.setitem(WAYS, RUNTIME, lambda c: onnx_graph._run_runtime(ReferenceRuns(broken, graph, c.program, c.batch)))
        blame = blame_onnx(files["optimised"], decoder, batch, BOUND, tmp_path / "failing")
        assert blame.operator.startswith("Relu (ONNX node `")
        assert (blame.at_fault, blame.module) == ("optimiser", "blocks.1")
        assert reproduces(blame) == ["Relu"]

    def test_an_optimiser_whose_own_graph_is_right(
        self, files: dict[str, Path], decoder: Program, batch: Batch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(WAYS, RUNTIME, lambda contest: contest.expected + 1)
        blame = blame_onnx(files["optimised"], decoder, batch, BOUND)
        assert (blame.operator, blame.at_fault) == ("ONNX Runtime's graph optimisation", "optimiser")

    def test_who_cannot_be_asked_is_left_out_and_named(
        self, files: dict[str, Path], decoder: Program, batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(_contest: ReferenceRuns) -> Tensor:
            raise NotImplementedError("no such operator")

        monkeypatch.setitem(WAYS, REFERENCE, fails)
        blame = blame_onnx(change(files["optimised"], tmp_path / "model.onnx", gelu_to_relu), decoder, batch, BOUND)
        assert REFERENCE not in blame.votes
        assert "the reference evaluator could not be asked (NotImplementedError: no such operator" in blame.explanation


def gelu_to_relu(model: onnx.ModelProto) -> None:
    gelu = nodes(model, "Gelu")[1]
    gelu.op_type = "Relu"
    del gelu.attribute[:]


def reproduces(blame: Blame) -> list[str]:
    """The operators of a failing file, once it was seen to fail."""
    assert blame.failing_file is not None
    arrays = np.load(blame.failing_file.with_suffix(".npz"))
    inputs = {name.partition(":")[2]: arrays[name] for name in arrays if name.startswith("input:")}
    (expected,) = [name for name in arrays if name.startswith("expected:")]
    found = session(blame.failing_file).run([expected.partition(":")[2]], inputs)[0]
    assert not np.allclose(found, arrays[expected], atol=1e-5)
    return [node.op_type for node in onnx.load(blame.failing_file).graph.node if node.op_type != "Constant"]

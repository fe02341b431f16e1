"""A bug planted in a TorchScript or torch.export artifact is found at its operator, its module and the user's line."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.batches import Batch, Sizes, make_batch
from harness.export.blame import PROGRAM
from harness.export.blame.recording import record_artifact, record_eager
from harness.export.blame.torch_files import ARTIFACT, blame_torch, run_unguarded
from harness.export.formats.exported_program import capture, quiet
from harness.export.program import OutputsOf, Program, Runner, make_program
from harness.tasks import TaskSpec, TaskType

pytestmark = pytest.mark.usefixtures("one_thread")

BOUND = 1e-5
TASK = TaskSpec(TaskType.CAUSAL_LM, vocab_size=20, max_seq_len=12)
FEATURES = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=6, num_classes=3)
ATEN: Any = torch.ops.aten


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.norms = nn.ModuleList([nn.LayerNorm(8), nn.LayerNorm(8)])
        self.mixers = nn.ModuleList([Mixer(), Mixer()])
        self.head = nn.Linear(8, 20)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            x = x + mixer(norm(x))
            x = x + F.gelu(x)
        return self.head(x)


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 4:
            return x * 2
        return x * 3


class Decision(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = torch.relu(x)
        return x


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        rows = x.view(-1)
        x.mul_(2)
        return rows.view(x.shape) + 1


class Layers(nn.Module):
    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.middle = middle
        self.last = nn.Linear(8, 3)

    def forward(self, features: Tensor) -> Tensor:
        return self.last(self.middle(self.first(features)))


@pytest.fixture(scope="module")
def decoder() -> Program:
    torch.manual_seed(0)
    return program_of(Decoder(), TASK, Sizes(3, 7))


@pytest.fixture(scope="module")
def batch() -> Batch:
    return make_batch(TASK, Sizes(2, 9), seed=1)


@pytest.fixture(scope="module")
def graph(decoder: Program) -> torch.fx.GraphModule:
    return capture(decoder).program.module()


def program_of(model: nn.Module, task: TaskSpec, sizes: Sizes) -> Program:
    return make_program(model.eval(), make_adapter(task), task, make_batch(task, sizes), sizes)


def traced(program: Program) -> Runner:
    with quiet(), torch.no_grad():
        module = torch.jit.trace(program.forward, program.arguments, check_trace=False)
    return lambda batch: module(*program.ordered(batch))


def changed(graph: torch.fx.GraphModule, program: Program, edit: Callable[[torch.fx.GraphModule], None]) -> Runner:
    """An exported graph with a bug in it."""
    module = copy.deepcopy(graph)
    edit(module)
    module.recompile()
    return lambda batch: module(*program.ordered(batch))


def calls(module: torch.fx.GraphModule, target: Any) -> list[torch.fx.Node]:
    return [node for node in module.graph.nodes if node.target == target]


def line_with(function: Callable[..., Any], text: str) -> str:
    lines, start = inspect.getsourcelines(function)
    offset = next(number for number, line in enumerate(lines) if text in line)
    return f"{Path(__file__).name}:{start + offset}: {lines[offset].strip()}"


MIXED = line_with(Decoder.forward, "mixer(norm(x))")
ACTIVATED = line_with(Decoder.forward, "x = x + F.gelu")


def set_target(target: Any, number: int, other: Any) -> Callable[[torch.fx.GraphModule], None]:
    def edit(module: torch.fx.GraphModule) -> None:
        calls(module, target)[number].target = other

    return edit


def set_epsilon(module: torch.fx.GraphModule) -> None:
    node = calls(module, ATEN.layer_norm.default)[1]
    node.args = (*node.args[:4], 0.1, *node.args[5:])


def add_operator(module: torch.fx.GraphModule) -> None:
    node = calls(module, ATEN.scaled_dot_product_attention.default)[1]
    with module.graph.inserting_after(node):
        new = module.graph.call_function(ATEN.tanh.default, (node,))
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)


def drop_operator(module: torch.fx.GraphModule) -> None:
    node = calls(module, ATEN.gelu.default)[0]
    node.replace_all_uses_with(node.args[0])
    module.graph.erase_node(node)


BUGS: dict[str, tuple[Callable[[torch.fx.GraphModule], None], str, str, str]] = {
    "addition becomes subtraction": (set_target(ATEN.add.Tensor, 3, ATEN.sub.Tensor), "aten.sub.Tensor", "(model)", ACTIVATED),
    "another activation": (set_target(ATEN.gelu.default, 1, ATEN.silu.default), "aten.silu.default", "(model)", ACTIVATED),
    "another epsilon": (set_epsilon, "aten.native_layer_norm.default", "norms.1", MIXED),
    "an operator too much": (add_operator, "aten.tanh.default", "(model)", MIXED),
}


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str, graph: torch.fx.GraphModule, decoder: Program, batch: Batch) -> None:
    edit, operator, module, line = BUGS[name]
    blame = blame_torch(changed(graph, decoder, edit), decoder, batch, BOUND)
    assert (blame.operator, blame.module, blame.line) == (operator, module, line), blame.explanation
    assert blame.at_fault == "file"  # a fresh torch.export is right
    assert blame.votes[PROGRAM] <= BOUND < blame.votes[ARTIFACT]
    assert "not confirmed" not in blame.explanation


def test_a_step_that_is_not_there_is_said_where_its_input_is_read_twice(
    graph: torch.fx.GraphModule, decoder: Program, batch: Batch
) -> None:
    blame = blame_torch(changed(graph, decoder, drop_operator), decoder, batch, BOUND)
    assert (blame.operator, blame.module, blame.line) == ("aten.add.Tensor", "(model)", ACTIVATED)
    assert "is in place of aten.gelu.default, aten.add.Tensor" in blame.explanation


def test_a_changed_weight_of_a_traced_file_is_named(decoder: Program, batch: Batch, tmp_path: Path) -> None:
    other = copy.deepcopy(decoder.forward.model)
    other.mixers[1].qkv.weight.data[0, 0] += 0.5
    wrapped = OutputsOf(other, decoder.forward.adapter, decoder.fields)
    with quiet(), torch.no_grad():
        torch.jit.trace(wrapped, decoder.arguments, check_trace=False).save(tmp_path / "model.ts")
        module = torch.jit.load(tmp_path / "model.ts")
    blame = blame_torch(lambda inputs: module(*decoder.ordered(inputs)), decoder, batch, BOUND)
    assert (blame.module, blame.line) == ("mixers.1.qkv", line_with(Mixer.forward, "self.qkv(x)"))
    assert blame.at_fault == "file"
    assert "other values for the weight `mixers.1.qkv.weight`" in blame.explanation


@pytest.mark.parametrize("kind", ["traced", "exported"])
def test_of_a_sound_artifact_nothing_is_said_to_diverge(
    kind: str, graph: torch.fx.GraphModule, decoder: Program, batch: Batch
) -> None:
    runner = traced(decoder) if kind == "traced" else changed(graph, decoder, lambda module: None)
    blame = blame_torch(runner, decoder, batch, BOUND)
    assert (blame.operator, blame.at_fault) == ("", "")
    assert "nothing diverges" in blame.explanation


def test_a_branch_on_a_size_that_tracing_froze() -> None:
    program = program_of(Layers(Branch()), FEATURES, Sizes(3))
    blame = blame_torch(traced(program), program, make_batch(FEATURES, Sizes(8)), BOUND)
    assert (blame.module, blame.line) == ("middle", line_with(Branch.forward, "return x * 2"))
    assert (blame.operator, blame.at_fault) == ("aten.mul.Tensor", "exporter")
    assert "a branch or a size was frozen" in blame.explanation


@pytest.mark.parametrize("example_is_larger", [True, False])
def test_a_decision_on_data_that_tracing_froze(example_is_larger: bool) -> None:
    """Frozen on one side, an operator is too much; frozen on the other, it is not there."""
    torch.manual_seed(0)
    model = Layers(Decision())
    batches = [make_batch(FEATURES, Sizes(3), seed) for seed in range(100)]
    larger, smaller = (next(b for b in batches if (first_sum(model, b) > 0) is side) for side in (True, False))
    example, other = (larger, smaller) if example_is_larger else (smaller, larger)
    program = make_program(model.eval(), make_adapter(FEATURES), FEATURES, example, Sizes(3))
    blame = blame_torch(traced(program), program, other, BOUND)
    assert blame.at_fault == "exporter"
    assert blame.module == "middle"
    decision = line_with(Decision.forward, "if x.sum")
    assert f"`{decision}` was frozen" in blame.explanation
    if example_is_larger:
        assert (blame.operator, blame.line) == ("aten.relu.default", decision)
    else:
        assert blame.operator.startswith("aten.relu.default, missing after ")
        assert blame.line == line_with(Decision.forward, "torch.relu")


@torch.no_grad()
def first_sum(model: Layers, batch: Batch) -> float:
    return float(model.first(batch["features"]).sum())


def test_an_artifact_that_raises_is_no_traceback(decoder: Program, batch: Batch) -> None:
    def refuses(_batch: Batch) -> Tensor:
        raise AssertionError("Guard failed: size of axis 0")

    blame = blame_torch(refuses, decoder, batch, BOUND)
    assert blame.operator == ""
    assert "could not be run: AssertionError: Guard failed" in blame.explanation


def test_logits_of_another_shape_are_no_traceback(decoder: Program, batch: Batch) -> None:
    blame = blame_torch(lambda inputs: decoder.eager(inputs)[:, :-1], decoder, batch, BOUND)
    assert blame.votes[ARTIFACT] == float("inf")
    assert blame.at_fault == "file"


def test_a_changed_kernel_that_only_the_fused_attention_has_is_found_without_taking_it_apart(
    decoder: Program, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = F.scaled_dot_product_attention

    def wrong_when_fused(*args: Any, **kwargs: Any) -> Tensor:
        return fused(*args, **kwargs) * (1.1 if torch.backends.cuda.flash_sdp_enabled() else 1.0)

    def run(inputs: Batch) -> Tensor:
        with monkeypatch.context() as patch:
            patch.setattr(F, "scaled_dot_product_attention", wrong_when_fused)
            return decoder.eager(inputs)

    blame = blame_torch(run, decoder, batch, BOUND)
    assert blame.operator == "aten.mul.Tensor"
    assert blame.line in {line_with(Mixer.forward, "scaled_dot"), MIXED}


class TestRecording:
    def test_every_value_has_its_module_and_line(self, decoder: Program, batch: Batch) -> None:
        trace = record_eager(decoder, batch)
        gelu = next(value for value in trace.values if value.operator == "aten.gelu.default")
        assert (gelu.module, gelu.lines) == ("(model)", (ACTIVATED,))
        softmax = next(value for value in trace.values if "softmax" in value.operator)
        assert softmax.module == "mixers.0"
        assert softmax.lines == (line_with(Mixer.forward, "scaled_dot"), MIXED)

    def test_the_logits_are_those_of_the_model(self, decoder: Program, batch: Batch) -> None:
        trace = record_eager(decoder, batch, detailed=False)
        assert torch.equal(trace.logits, decoder.eager(batch))

    def test_a_value_can_be_replaced(self, decoder: Program, batch: Batch) -> None:
        runner = traced(decoder)
        trace = record_artifact(runner, batch)
        index = next(i for i, value in enumerate(trace.values) if value.operator == "aten.gelu.default")
        again = record_artifact(runner, batch, replaced={index: torch.zeros_like(trace.values[index].tensor)})
        assert not again.values[index].tensor.any()
        assert not torch.equal(again.logits, trace.logits)

    def test_memory_that_is_written_in_place_is_followed_through_its_views(self) -> None:
        torch.manual_seed(0)
        program = program_of(Layers(InPlace()), FEATURES, Sizes(3))
        trace = record_eager(program, program.example)
        index = {value.operator: number for number, value in enumerate(trace.values)}
        assert index["aten.mul_.Tensor"] in trace.led_to(index["aten.add.Tensor"], range(len(trace.values)))

    def test_no_hooks_are_left(self, decoder: Program, batch: Batch) -> None:
        record_eager(decoder, batch)
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in decoder.forward.modules())

    def test_an_exported_program_runs_beyond_its_guards(self) -> None:
        program = program_of(Layers(Branch()), FEATURES, Sizes(3))
        batch = make_batch(FEATURES, Sizes(8))
        exported = capture(program).program
        with pytest.raises(Exception, match="4"):
            exported.module()(*program.ordered(batch))
        assert run_unguarded(exported, program.ordered(batch)).shape == (8, 3)

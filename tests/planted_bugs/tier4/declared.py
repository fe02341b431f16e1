"""Models of declared tasks that break when they are exported: an output, a size or a length that a file freezes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.export.exports import Exports
from harness.files import file_hash
from harness.runtime import seeded
from harness.tasks import TaskSpec, TaskType
from harness.tasks.declared import read_signature

from ..register import PlantedBug, register
from .exports import Exported, Prepare, edited, make_exports, of


def _task(keys: dict[str, Any]) -> TaskSpec:
    return TaskSpec(TaskType.DECLARED, declared=read_signature(keys))


class Segmenter(nn.Module):
    """Scores of each pixel, from half the resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.head = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        return F.interpolate(self.head(F.relu(self.down(image))), size=image.shape[-2:])


class FrozenHeight(Segmenter):
    """The height as a number of Python's."""

    def forward(self, image: Tensor) -> Tensor:
        height = int(image.shape[2])
        return F.interpolate(self.head(F.relu(self.down(image))), size=(height, image.shape[3]))


class PaddedToFours(Segmenter):
    """For images of any size: padded to a multiple of four, and cut back."""

    def forward(self, image: Tensor) -> Tensor:
        height, width = self.sides(image)
        return super().forward(F.pad(image, (0, -width % 4, 0, -height % 4)))[..., :height, :width]

    def sides(self, image: Tensor) -> Any:
        return image.shape[-2:]


class PaddedAsAtFirst(PaddedToFours):
    """The sides as numbers of Python's."""

    def sides(self, image: Tensor) -> Any:
        return tuple(map(int, image.shape[-2:]))


class SquareOrNot(PaddedToFours):
    """Another scale where the image is a square, decided in Python."""

    def forward(self, image: Tensor) -> Tensor:
        height, width = self.sides(image)
        return super().forward(image) * (2 if height == width else 1)


ANY_SIZE = _task(
    {
        "inputs": {"image": {"axes": ["batch", 3, "height", "width"], "values": {"range": [0.0, 1.0]}}},
        "outputs": {"mask": {"axes": ["batch", 4, "height", "width"], "kind": "class_scores", "classes": 1}},
        "axes": {"height": {"min": 5, "max": 21}, "width": {"min": 5, "max": 21}},
    }
)


SEGMENTATION = _task(
    {
        "inputs": {"image": {"axes": ["batch", 3, "height", "width"], "values": {"range": [0.0, 1.0]}}},
        "outputs": {"mask": {"axes": ["batch", 4, "height", "width"], "kind": "class_scores", "classes": 1}},
        "axes": {
            "height": {"min": 8, "max": 40, "multiple_of": 8},
            "width": {"min": 8, "max": 40, "multiple_of": 8},
        },
    }
)


class ActorCritic(nn.Module):
    """Scores of actions, and a value."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.actor, self.critic = nn.Linear(6, 16), nn.Linear(16, 3), nn.Linear(16, 1)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(observation).tanh()
        value = self.critic(hidden).squeeze(-1)
        return self.actor(hidden), torch.where(value > 0, 2 * value, value)


class ValueBranch(ActorCritic):
    """Another scale for values that are high on the whole, decided in Python."""

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(observation).tanh()
        value = self.critic(hidden).squeeze(-1)
        if float(value.max()) > 0.5:
            value = 2 * value
        return self.actor(hidden), value


POLICY = _task(
    {
        "inputs": {"observation": {"axes": ["batch", 6]}},
        "outputs": {"actions": {"axes": ["batch", 3], "kind": "class_scores"}, "value": {"axes": ["batch"]}},
    }
)


class GraphScores(nn.Module):
    """Messages along the edges, and from each node to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = nn.Linear(5, 4)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        loops = torch.arange(x.shape[0], device=x.device)
        source, target = torch.cat((edges, torch.stack((loops, loops))), 1)
        count = self.count(x, target)
        return torch.zeros(count, 4, dtype=x.dtype, device=x.device).index_add_(0, target, self.heard(x)[source])

    def count(self, x: Tensor, target: Tensor) -> int:
        return x.shape[0]


class CountedByEdges(GraphScores):
    """How many nodes there are follows from the largest index, as in many libraries for graphs."""

    def count(self, x: Tensor, target: Tensor) -> int:
        return int(target.max()) + 1


GRAPH = _task(
    {
        "inputs": {"x": {"axes": ["nodes", 5]}, "edges": {"axes": [2, "edges"], "values": {"index_of": "nodes"}}},
        "outputs": {"scores": {"axes": ["nodes", 4], "kind": "class_scores"}},
        "axes": {"nodes": {"min": 3, "max": 30}, "edges": {"min": 2, "max": 40}},
    }
)


class Utterance(nn.Module):
    """The mean over the real frames."""

    def __init__(self) -> None:
        super().__init__()
        self.frames, self.head = nn.Linear(5, 8), nn.Linear(8, 4)

    def forward(self, audio: Tensor, lengths: Tensor) -> Tensor:
        real = torch.arange(audio.shape[1], device=audio.device) < lengths[:, None]
        return self.head(self.total(self.frames(audio).tanh() * real[..., None], lengths) / lengths[:, None])

    def total(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        return hidden.sum(1)


class LoopOverTheLongest(Utterance):
    """Frame by frame, as many as the longest row has: a length as a number of Python's."""

    def total(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        total = torch.zeros_like(hidden[:, 0])
        for frame in range(int(lengths.max())):
            total = total + hidden[:, frame]
        return total


SPEECH = _task(
    {
        "inputs": {"audio": {"axes": ["batch", "time", 5]}, "lengths": {"axes": ["batch"], "values": {"lengths_of": "time"}}},
        "outputs": {"scores": {"axes": ["batch", 4], "kind": "class_scores"}},
        "axes": {"time": {"min": 2, "max": 30, "padding": "right"}},
    }
)


class Chosen(nn.Module):
    """Scores, and which is the highest."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 5)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        scores = self.head(features)
        return {"scores": scores, "chosen": scores.argmax(-1)}


CHOICE = _task(
    {
        "inputs": {"features": {"axes": ["batch", 6]}},
        "outputs": {"scores": {"axes": ["batch", 5], "kind": "class_scores"}, "chosen": {"axes": ["batch"], "kind": "other"}},
    }
)


def _lowest_instead_of_highest(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "ArgMax").op_type = "ArgMin"


class Recurrent(nn.Module):
    """A recurrence with its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        hidden, state = self.cell(x, state)
        return self.head(hidden), state


class StateScaledByData(Recurrent):
    """A state that is too large is scaled down, decided in Python."""

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        scores, (hidden, cell) = super().forward(x, state)
        if float(cell.abs().max()) > 1.0:
            cell = cell / 2
        return scores, (hidden, cell)


STATEFUL = _task(
    {
        "inputs": {
            "x": {"axes": ["batch", "time", 4]},
            "state": {"axes": [1, "batch", 6], "state": {"from": "state"}},
        },
        "outputs": {"scores": {"axes": ["batch", "time", 3]}, "state": {"axes": [1, "batch", 6], "kind": "state"}},
        "axes": {"time": {"min": 2, "max": 16, "order": "causal"}},
    }
)


def _traced_by_hand(model: Callable[[], nn.Module], task: TaskSpec, *example: Tensor) -> Prepare:
    """Exports whose TorchScript file was there already, written by a bare call."""

    def prepare(folder: Path) -> Exports:
        with seeded(0), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            built = model().eval()
            torch.jit.trace(built, example, check_trace=False).save(str(folder / "model.ts"))
        return make_exports(built, folder, "torchscript", task=task, trust=[file_hash(folder / "model.ts")])

    return prepare


_IMAGE = torch.zeros(3, 3, 16, 24)

register(
    PlantedBug(
        "height_frozen",
        "dynamic_axes",
        Exported(of(FrozenHeight, "onnx", task=SEGMENTATION), "onnx"),
        Exported(of(Segmenter, "onnx", task=SEGMENTATION), "onnx"),
        code="fixed_axis",
        says="height is always 16",
        line="int(image.shape[2])",
    ),
    PlantedBug(
        "height_frozen_by_a_trace",
        "numerical_consistency",
        Exported(_traced_by_hand(FrozenHeight, SEGMENTATION, _IMAGE), "torchscript"),
        Exported(_traced_by_hand(Segmenter, SEGMENTATION, _IMAGE), "torchscript"),
        code="different_form",
        says="output `mask` [batch, 4, height, width] is of shape",
    ),
    PlantedBug(
        "odd_sizes_padded_as_at_first",
        "numerical_consistency",
        Exported(_traced_by_hand(PaddedAsAtFirst, ANY_SIZE, _IMAGE), "torchscript"),
        Exported(_traced_by_hand(PaddedToFours, ANY_SIZE, _IMAGE), "torchscript"),
        code="different_form",
        line="map(int, image.shape",
    ),
    PlantedBug(
        "squares_by_a_trace",
        "numerical_consistency",
        Exported(_traced_by_hand(SquareOrNot, ANY_SIZE, torch.zeros(2, 3, 8, 8)), "torchscript"),
        Exported(_traced_by_hand(PaddedToFours, ANY_SIZE, torch.zeros(2, 3, 8, 8)), "torchscript"),
        code="different_logits",
        line="if height == width",
    ),
    PlantedBug(
        "branch_in_the_second_output",
        "numerical_consistency",
        Exported(of(ValueBranch, "onnx", task=POLICY), "onnx"),
        Exported(of(ActorCritic, "onnx", task=POLICY), "onnx"),
        code="different_logits",
        says="output `value` [batch] differs from the model's by",
        line="if float(value.max())",
    ),
    PlantedBug(
        "count_of_nodes_frozen",
        "dynamic_axes",
        Exported(of(CountedByEdges, "onnx", task=GRAPH), "onnx"),
        Exported(of(GraphScores, "onnx", task=GRAPH), "onnx"),
        code="size_refused",
        says="it refuses nodes=",
        line="int(target.max())",
    ),
    PlantedBug(
        "length_as_a_number",
        "numerical_consistency",
        Exported(of(LoopOverTheLongest, "onnx", task=SPEECH), "onnx"),
        Exported(of(Utterance, "onnx", task=SPEECH), "onnx"),
        code="different_logits",
        says="output `scores` [batch, 4] differs",
        line="int(lengths.max())",
    ),
    PlantedBug(
        "whole_numbers_changed",
        "numerical_consistency",
        Exported(edited(_lowest_instead_of_highest, "onnx", Chosen, task=CHOICE), "onnx"),
        Exported(of(Chosen, "onnx", task=CHOICE), "onnx"),
        code="different_logits",
        says="output `chosen` [batch] differs from the model's by",
    ),
    PlantedBug(
        "branch_in_a_state",
        "numerical_consistency",
        Exported(of(StateScaledByData, "onnx", task=STATEFUL), "onnx"),
        Exported(of(Recurrent, "onnx", task=STATEFUL), "onnx"),
        code="different_logits",
        says="output `state.1` differs",
        line="if float(cell.abs()",
    ),
)

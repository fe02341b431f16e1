"""Models of tasks that no type names, as people write them; each has a bug that breaks one promise of its declaration."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.tasks import TaskSpec, TaskType
from harness.tasks.declared import read_signature

from ..register import PlantedBug, register
from ..setups import Model

Keys = dict[str, Any]
SCORES = {"scores": {"axes": ["batch", 4], "kind": "class_scores"}}


class Points(nn.Module):
    """A set of points, pooled; the bug adds where each stands in the list."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.each, self.head = nn.Linear(3, 16), nn.Linear(16, 4)

    def forward(self, points: Tensor) -> Tensor:
        if self.wrong:
            points = points + 0.1 * torch.arange(points.shape[1], device=points.device, dtype=points.dtype)[:, None]
        return self.head(self.each(points).tanh().amax(1))


class Graph(nn.Module):
    """One round of messages along the edges; the bug reads the ends of the edges in the order of the nodes."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.own, self.heard = nn.Linear(5, 4), nn.Linear(5, 4)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        source, target = edge_index
        messages = self.heard(x)[source]
        if self.wrong:
            messages = messages * (1 + source[:, None].to(x.dtype))
        return self.own(x) + torch.zeros(len(x), 4, dtype=x.dtype, device=x.device).index_add_(0, target, messages)


class Bent(nn.Module):
    """Bends what lies within an interval; the bug asks for the least of it where nothing lies there."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.bend, self.head = nn.Parameter(torch.tensor(0.5)), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        inside = x.abs() <= 3
        if self.wrong and x[inside].min() < -3:
            raise ValueError("outside")
        return self.head(torch.where(inside, x + self.bend * torch.sin(x), x))


class Pair(nn.Module):
    """Whether two rows are the same; the bug has no absolute value."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.net, self.head = nn.Linear(6, 8, bias=False), nn.Linear(8, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        apart = self.net(left).tanh() - self.net(right).tanh()
        return self.head(apart if self.wrong else apart.abs()).squeeze(-1)


class Policy(nn.Module):
    """Scores of actions and a value; the bug returns the value with an axis too many."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.body, self.actions, self.value = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 1)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(observation).tanh()
        value = self.value(hidden)
        return self.actions(hidden), value if self.wrong else value.squeeze(-1)


class Boxes(nn.Module):
    """Scores and boxes by name; the bug forgets the sigmoid."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.body, self.scores, self.boxes = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        hidden = F.relu(self.body(image)).mean((2, 3))
        boxes = 4 * self.boxes(hidden)
        return {"scores": self.scores(hidden), "boxes": boxes if self.wrong else boxes.sigmoid()}


class Click(nn.Module):
    """Sparse and dense features; the bug leaves the last table out."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(count, 4) for count in ((20, 6) if wrong else (20, 6, 5)))
        self.head = nn.Linear(4 * len(self.tables) + 2, 1)

    def forward(self, sparse: Tensor, dense: Tensor) -> Tensor:
        read = [table(sparse[:, place]) for place, table in enumerate(self.tables)]
        return self.head(torch.cat((*read, dense), 1)).squeeze(1)


class Speech(nn.Module):
    """Frames along time, time first, as for the loss of connectionist temporal classification; the bug mixes the rows."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.frames, self.head = nn.Conv1d(6, 8, 3, stride=2), nn.Linear(8, 7)

    def forward(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.frames(audio.transpose(1, 2)).transpose(1, 2).tanh()
        if self.wrong:
            hidden = hidden - hidden.mean(0)
        real = (lengths - 3) // 2 + 1
        keep = torch.arange(hidden.shape[1], device=hidden.device) < real[:, None]
        return self.head(hidden * keep[..., None]).log_softmax(-1).transpose(0, 1), real


class Tagger(nn.Module):
    """Scores of the tokens of all rows along one axis, the first token of each row before the second; the bug has rows read each other."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.read, self.mix, self.head = nn.Embedding(19, 8), nn.GRU(8, 8, batch_first=not wrong), nn.Linear(8, 4)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.mix(self.read(words))[0].transpose(0, 1).reshape(-1, 8))


class Prompted(nn.Module):
    """Attention over prompts that are padded on the left; the bug leaves a padded query nothing to look at."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.hidden = -torch.inf if wrong else -1e4
        self.read, self.mix, self.head = nn.Embedding(19, 8), nn.Linear(8, 24), nn.Linear(8, 19)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        x, time = self.read(words), words.shape[1]
        query, key, value = self.mix(x).chunk(3, -1)
        unseen = torch.ones(time, time, dtype=torch.bool, device=x.device).triu(1) | (mask == 0)[:, None]
        shares = (query @ key.transpose(1, 2)).masked_fill(unseen, self.hidden).softmax(-1)
        return self.head(x + shares @ value)


class Shifted(nn.Module):
    """Writes each number from those before it, and shifts its input itself; the bug shifts it by two."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.shift = 2 if wrong else 1
        self.read, self.carry, self.head = nn.Embedding(19, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 19)

    def forward(self, x: Tensor) -> Tensor:
        before = self.read(x).roll(self.shift, 1)
        before = torch.cat((torch.zeros_like(before[:, : self.shift]), before[:, self.shift :]), 1)
        return self.head(self.carry(before)[0])


CASES: dict[str, tuple[Callable[..., nn.Module], Keys, str]] = {
    "points": (
        Points,
        {
            "inputs": {"points": {"axes": ["batch", "count", 3]}},
            "outputs": SCORES,
            "axes": {"count": {"min": 2, "max": 12, "order": "none"}},
        },
        "permutation",
    ),
    "graph": (
        Graph,
        {
            "inputs": {"x": {"axes": ["nodes", 5]}, "edges": {"axes": [2, "edges"], "values": {"index_of": "nodes"}}},
            "outputs": {"scores": {"axes": ["nodes", 4], "kind": "class_scores"}},
            "axes": {"nodes": {"min": 3, "max": 10, "order": "none"}, "edges": {"min": 2, "max": 12}},
        },
        "permutation",
    ),
    "pair": (
        Pair,
        {
            "inputs": {"left": {"axes": ["batch", 6]}, "right": {"axes": ["batch", 6]}},
            "outputs": {"same": {"axes": ["batch"], "kind": "binary_scores"}},
            "symmetric": ["left", "right"],
        },
        "symmetric_inputs",
    ),
    "policy": (
        Policy,
        {
            "inputs": {"observation": {"axes": ["batch", 8]}},
            "outputs": {"actions": {"axes": ["batch", 4], "kind": "class_scores"}, "value": {"axes": ["batch"], "weight": 0.5}},
        },
        "declared_outputs",
    ),
    "boxes": (
        Boxes,
        {
            "inputs": {"image": {"axes": ["batch", 3, "height", "width"], "values": {"range": [0.0, 1.0]}}},
            "outputs": {**SCORES, "boxes": {"axes": ["batch", 4], "range": [0.0, 1.0]}},
            "axes": {"height": {"min": 3, "max": 9}, "width": {"min": 3, "max": 9}},
        },
        "declared_outputs",
    ),
    "click": (
        Click,
        {
            "inputs": {
                "sparse": {"axes": ["batch", 3], "values": {"ids": [20, 6, 5]}},
                "dense": {"axes": ["batch", 2]},
            },
            "outputs": {"click": {"axes": ["batch"], "kind": "binary_scores"}},
        },
        "input_dependence[inputs]",
    ),
    "speech": (
        Speech,
        {
            "inputs": {
                "audio": {"axes": ["batch", "time", 6]},
                "lengths": {"axes": ["batch"], "values": {"lengths_of": "time"}},
            },
            "outputs": {
                "symbols": {"axes": ["frames", "batch", 7], "kind": "ctc_scores"},
                "frame_lengths": {"axes": ["batch"], "kind": "lengths", "of": "frames"},
            },
            "axes": {"time": {"min": 7, "max": 21, "padding": "right"}, "frames": {"from": "(time - 3) // 2 + 1"}},
        },
        "batch_independence[forward]",
    ),
}
SWITCHED_OFF = {"inference_speed": False, "memory_footprint": False}
"""What every model of this size keeps, and takes long."""


def task_of(keys: Keys) -> TaskSpec:
    return TaskSpec(TaskType.DECLARED, properties=SWITCHED_OFF, declared=read_signature(keys))


def plant_declared(
    name: str, model: Callable[..., nn.Module], keys: Keys, test: str, *, wrong: str | bool = True, **expected: Any
) -> None:
    """Registers a bug of a model whose ``wrong`` argument names it; see ``PlantedBug`` for what is expected."""
    task = TASKS.setdefault(repr(keys), task_of(keys))
    buggy = Model(task, partial(model, wrong=wrong))
    register(PlantedBug(f"declared_{name}", test, buggy, Model(task, model), **expected))


TASKS: dict[str, TaskSpec] = {}
"""Of keys that several bugs share, so that they share a twin."""

ALSO: dict[str, tuple[str, ...]] = {"speech": ("batch_independence[gradient]",)}
"""Other tests that a bug may make red."""

LINES = {
    "points": "points = points + 0.1 * torch.arange(",
    "graph": "messages = messages * (1 + source[:, None]",
    "policy": "value = self.value(hidden)",
    "boxes": "boxes = 4 * self.boxes(hidden)",
}
"""Of the lines that must be named."""

for _name, (_model, _keys, _test) in CASES.items():
    plant_declared(_name, _model, _keys, _test, also=ALSO.get(_name, ()), line=LINES.get(_name, ""))

plant_declared(
    "tagger",
    Tagger,
    {
        "inputs": {"words": {"axes": ["batch", "time"], "values": {"ids": 19}}},
        "outputs": {"tags": {"axes": ["tokens", 4], "kind": "class_scores"}},
        "axes": {"time": {"min": 1, "max": 9}, "tokens": {"from": "time * batch"}},
    },
    "batch_independence[forward]",
    also=("batch_independence[gradient]",),
)
plant_declared(
    "prompts",
    Prompted,
    {
        "inputs": {
            "words": {"axes": ["batch", "time"], "values": {"ids": 19, "pad": 0}},
            "mask": {"axes": ["batch", "time"], "values": {"mask_of": "time"}},
        },
        "outputs": {"scores": {"axes": ["batch", "time", 19], "kind": "token_scores"}},
        "axes": {"time": {"min": 1, "max": 10, "order": "causal", "padding": "left"}},
    },
    "gradient_flow[finite]",
)
plant_declared(
    "shifted",
    Shifted,
    {
        "inputs": {"x": {"axes": ["batch", "time"], "values": {"ids": 19}}},
        "outputs": {"scores": {"axes": ["batch", "time", 19], "kind": "class_scores"}},
        "axes": {"time": {"min": 2, "max": 10, "order": "causal"}},
        "labels": {"scores": {"from": "x"}},
    },
    "input_dependence[inputs]",
)
plant_declared("interval", Bent, {"inputs": {"x": {"axes": ["batch", 3]}}, "outputs": SCORES}, "gradient_flow[finite]")

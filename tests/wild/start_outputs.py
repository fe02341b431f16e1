"""Reported bugs of graphs and policies as they begin and answer, and of windows of an image that are put together for one size of batch."""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.planted_bugs.setups import Model

from .exports_traced import exported
from .register import FirstRun, pair_of_one_class, task_of

WIDTH, CLASSES, SEEN, SIDE = 12, 4, 6, 4
MOLECULES = task_of(
    inputs={"atoms": {"axes": ["batch", "atoms", 4]}},
    outputs={"energy": {"axes": ["batch"], "kind": "values"}},
    axes={"atoms": {"min": 2, "max": 6, "order": "none"}},
)
GRAPHS = task_of(
    inputs={
        "nodes": {"axes": ["batch", "nodes", 5]},
        "edges": {"axes": ["batch", "nodes", "nodes"], "values": {"ids": 2}},
    },
    outputs={"classes": {"axes": ["batch", "nodes", CLASSES], "kind": "class_scores"}},
    axes={"nodes": {"min": 2, "max": 6}},
)
STATES = task_of(
    inputs={"seen": {"axes": ["batch", SEEN]}},
    outputs={"actions": {"axes": ["batch", 3], "kind": "values"}, "worth": {"axes": ["batch"], "kind": "values"}},
)
IMAGES = task_of(
    inputs={"image": {"axes": ["batch", 3, 8, 8]}}, outputs={"scores": {"axes": ["batch", CLASSES], "kind": "class_scores"}}
)


class Output(nn.Module):
    """What the atoms add to an energy; the bug begins with zero though another start is asked for."""

    def __init__(self, start: str, wrong: bool) -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1, bias=False)
        nn.init.zeros_(self.last.weight)
        if start == "orthogonal" and not wrong:
            nn.init.orthogonal_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.silu(self.hidden(x))).sum(1)[:, 0]


class Energies(nn.Module):
    """Two blocks over the atoms of a molecule, each with its output."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.enter, self.inner = nn.Linear(4, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.outputs = nn.ModuleList(Output("orthogonal", wrong) for _ in range(2))

    def forward(self, atoms: Tensor) -> Tensor:
        x = F.silu(self.enter(atoms))
        return self.outputs[0](x) + self.outputs[1](x + F.silu(self.inner(x)))


def zero_at_the_start(model: Any) -> float:
    """Whether every molecule has no energy."""
    return float(not model(torch.randn(4, 3, 4)).any())


class Attend(nn.Module):
    """Attention of nodes to their neighbours; the bug drops some of it in eval mode too."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.enter, self.score = wrong, nn.Linear(5, WIDTH), nn.Linear(2 * WIDTH, 1)

    def forward(self, nodes: Tensor, near: Tensor) -> Tensor:
        x = self.enter(nodes)
        count = x.shape[1]
        pairs = torch.cat([x[:, :, None].expand(-1, -1, count, -1), x[:, None].expand(-1, count, -1, -1)], 3)
        weights = F.leaky_relu(self.score(pairs)[..., 0], 0.2).masked_fill(~near, -1e4).softmax(2)
        weights = F.dropout(weights, 0.3) if self.wrong else F.dropout(weights, 0.3, training=self.training)
        return x + weights @ x


class Neighbours(nn.Module):
    """Classes of nodes by their neighbours and themselves."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.attend, self.head = Attend(wrong), nn.Linear(WIDTH, CLASSES)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        own = torch.eye(nodes.shape[1], dtype=torch.bool, device=nodes.device)
        return self.head(self.attend(nodes, (edges > 0) | own).tanh())


def graph() -> tuple[Tensor, Tensor]:
    """Two graphs, all of whose nodes are neighbours."""
    return torch.randn(2, 5, 5), torch.ones(2, 5, 5, dtype=torch.long)


def change_by_asking_again(model: Any) -> float:
    """How far two answers in eval mode are apart."""
    given = graph()
    with torch.no_grad():
        return float((model.eval()(*given) - model(*given)).abs().max())


class Convolutions(nn.Module):
    """Two convolutions over a graph; the bug keeps them in a list of Python."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        layers = [nn.Linear(5, WIDTH), nn.Linear(WIDTH, CLASSES)]
        self.convs: Any = layers if wrong else nn.ModuleList(layers)
        self.scale = nn.Parameter(torch.ones(CLASSES))

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        near = (edges > 0).to(nodes.dtype) + torch.eye(nodes.shape[1], dtype=nodes.dtype, device=nodes.device)
        share = near / near.sum(2, keepdim=True)
        return self.scale * self.convs[1](share @ self.convs[0](share @ nodes).relu())


def unknown_convolutions(model: Any) -> float:
    """How many convolutions are no parameters of the model."""
    known = {id(each) for each in model.parameters()}
    return float(sum(id(each.weight) not in known for each in model.convs))


class Agent(nn.Module):
    """Actions that begin near zero and what a state is worth; the bug starts the second head twice and the first never."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(SEEN, WIDTH), nn.Tanh())
        self.value, self.mean = nn.Linear(WIDTH, 1), nn.Linear(WIDTH, 3)
        nn.init.orthogonal_(self.value.weight, gain=1.0)
        nn.init.orthogonal_((self.value if wrong else self.mean).weight, gain=0.01)
        for each in (self.value, self.mean):
            nn.init.zeros_(each.bias)

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        x = self.net(seen)
        return self.mean(x), self.value(x)[:, 0]


def actions_before_any_lesson(model: Any) -> float:
    """How far the first actions are from zero, beyond a twentieth."""
    with torch.no_grad():
        return max(0.0, float(model(torch.randn(64, SEEN))[0].abs().max()) - 0.05)


class Windows(nn.Module):
    """Attention within windows of an image; the bug puts them together by a number of images that is a number of Python."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.enter, self.head = nn.Conv2d(3, WIDTH, 1), nn.Linear(WIDTH, CLASSES)
        self.mixed = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, image: Tensor) -> Tensor:
        x = self.enter(image).unflatten(3, (-1, SIDE)).unflatten(2, (-1, SIDE))
        windows = x.permute(0, 2, 4, 3, 5, 1).reshape(-1, SIDE * SIDE, WIDTH)
        query, key, value = self.mixed(windows).chunk(3, 2)
        windows = windows + (query @ key.transpose(1, 2) / math.sqrt(WIDTH)).softmax(2) @ value
        images = int(windows.shape[0] / 4) if self.wrong else -1
        return self.head(windows.view(images, 4, SIDE * SIDE, WIDTH).tanh().mean((1, 2)))


def change_of_three_images(model: nn.Module) -> float:
    """How far a trace of two images is from the model at three; infinite where it refuses them."""
    other = torch.randn(3, 3, 8, 8)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, torch.randn(2, 3, 8, 8), check_trace=False)
        try:
            return float((traced(other) - model(other)).abs().max())
        except RuntimeError:
            return math.inf


add = partial(pair_of_one_class, judge=Model, draw=4, long=True)
add(
    "outputs_that_begin_at_zero",
    "The blocks that tell an energy begin at zero though an orthogonal start is asked for",
    "pyg-team/pytorch_geometric#7774",
    "graphs",
    "initialisation[scale]",
    Energies,
    zero_at_the_start,
    MOLECULES,
    area="start",
    or_tests=("initialisation[symmetry]", "gradient_flow[reaches_every_parameter]"),
    module="outputs",
    missed="many models begin with a last layer of zeros on purpose",
    first_run=FirstRun("79f3b8c", found=False, named=False, said="nothing: a last layer may begin at zero"),
)
add(
    "head_that_begins_twice",
    "The head of the values is initialised twice, and that of the actions never",
    "ToruOwO/minimal-stable-PPO#3",
    "policies",
    "initialisation[scale]",
    Agent,
    actions_before_any_lesson,
    STATES,
    area="start",
    or_tests=("initialisation[loss]",),
    module="mean",
    missed="how small a head begins is a choice",
    first_run=FirstRun("79f3b8c", found=False, named=False, said="nothing: how small a head begins is a choice"),
)
add(
    "attention_dropped_in_eval_mode",
    "The dropout of attention to neighbours is called without the mode",
    "dmlc/dgl#319",
    "graphs",
    "eval_deterministic",
    Neighbours,
    change_by_asking_again,
    GRAPHS,
    area="train_mode",
    module="attend",
    first_run=FirstRun(
        "79f3b8c",
        found=True,
        named=True,
        said="eval_deterministic fails in attend; the twin's mask value of -1e4 does not fit half precision",
        alarms=("dtype_move[float16]",),
    ),
)
add(
    "convolutions_in_a_list",
    "The convolutions over a graph are kept in a list, so that no optimizer finds them",
    "pyg-team/pytorch_geometric#7478",
    "graphs",
    "registration",
    Convolutions,
    unknown_convolutions,
    GRAPHS,
    area="state",
    module="convs",
    first_run=FirstRun("79f3b8c", found=True, named=True, said="registration fails in convs[0], with its line"),
)
add(
    "windows_of_so_many_images",
    "Windows of an image are put together by a number of images that is a number of Python",
    "huggingface/transformers#19475",
    "vision",
    "dynamic_axes",
    Windows,
    change_of_three_images,
    IMAGES,
    area="exports",
    judge=partial(exported, "onnx"),
    or_tests=("exports", "numerical_consistency"),
    first_run=FirstRun("79f3b8c", found=True, named=True, said="dynamic_axes fails, with the line of the model"),
)

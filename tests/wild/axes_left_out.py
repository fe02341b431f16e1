"""Reported bugs of inputs that are declared and left out: a mask, later time steps, a node itself."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from tests.planted_bugs.setups import Model

from .register import FirstRun, pair_of_one_class, task_of

WIDTH, CLASSES = 12, 4
PRIOR = task_of(
    inputs={
        "image_embed": {"axes": ["batch", 8]},
        "text_embed": {"axes": ["batch", 8]},
        "keep": {"axes": ["batch"], "values": {"one_of": [0, 1]}},
    },
    outputs={"found": {"axes": ["batch", 8], "kind": "values"}},
)
EPISODES = task_of(
    inputs={
        "states": {"axes": ["batch", "time", 4]},
        "timesteps": {"axes": ["batch", "time"], "values": {"ids": 20}},
    },
    outputs={"actions": {"axes": ["batch", "time", 3], "kind": "class_scores"}},
    axes={"time": {"max": 10, "order": "causal"}},
)
GRAPH = task_of(
    inputs={"nodes": {"axes": ["nodes", 4]}, "edges": {"axes": [2, "links"], "values": {"index_of": "nodes"}}},
    outputs={"scores": {"axes": ["nodes", CLASSES], "kind": "class_scores"}},
    axes={"nodes": {"min": 2, "max": 9, "order": "none"}, "links": {"min": 1, "max": 12, "order": "none"}},
)


class Prior(nn.Module):
    """An embedding of an image from that of its text, which is left out of some rows; the bug makes the mask and does not use it."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.null = wrong, nn.Parameter(torch.randn(8))
        self.net = nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, image_embed: Tensor, text_embed: Tensor, keep: Tensor) -> Tensor:
        text = torch.where(keep[:, None] == 1, text_embed, self.null)
        if self.wrong:
            text = text_embed + 0 * self.null
        return self.net(torch.cat([image_embed, text], 1))


def read_without_keep(model: nn.Module) -> float:
    """Whether a row is the same with and without its text."""
    image, text = torch.randn(2, 2, 8)
    with torch.no_grad():
        return float(torch.equal(model(image, text, torch.tensor([1, 1])), model(image, text, torch.tensor([0, 0]))))


class DecisionTransformer(nn.Module):
    """Actions of an episode so far; the bug gives all of it the embedding of its first time step."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.states, self.times = nn.Linear(4, WIDTH), nn.Embedding(20, WIDTH)
        self.net, self.head = nn.GRU(WIDTH, WIDTH, batch_first=True), nn.Linear(WIDTH, 3)

    def forward(self, states: Tensor, timesteps: Tensor) -> Tensor:
        times = self.times(timesteps[:, :1] if self.wrong else timesteps)
        return self.head(self.net(self.states(states) + times)[0])


def read_without_later_times(model: nn.Module) -> float:
    """Whether only the first time step is read."""
    states, times = torch.randn(1, 6, 4), torch.arange(6)[None]
    other = times.clone()
    other[:, 1:] += 7
    with torch.no_grad():
        return float(torch.equal(model(states, times), model(states, other)))


class Convolution(nn.Module):
    """Sums of neighbours; the bug adds a node itself only where sums are normalised as well."""

    def __init__(self, wrong: bool, into: int, out: int, add_self_loops: bool = True, normalize: bool = False) -> None:
        super().__init__()
        self.weight = nn.Linear(into, out)
        self.loops, self.normalize = add_self_loops and (normalize or not wrong), normalize

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        sent = self.weight(nodes)
        found = torch.zeros_like(sent).index_add(0, edges[1], sent[edges[0]])
        return found + sent if self.loops else found


class Network(nn.Module):
    """Two such layers."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.first, self.second = Convolution(wrong, 4, WIDTH), Convolution(wrong, WIDTH, CLASSES)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        return self.second(self.first(nodes, edges).tanh(), edges)


def read_without_itself(model: nn.Module) -> float:
    """Whether the scores of a node that has one neighbour, and is none, do not depend on what it is."""
    nodes, edges = torch.randn(3, 4), torch.tensor([[0, 1], [1, 2]])
    other = nodes.clone()
    other[2] += 1
    with torch.no_grad():
        return float(torch.equal(model(nodes, edges)[2], model(other, edges)[2]))


add = partial(pair_of_one_class, area="axes", judge=Model, draw=3)
add(
    "condition_is_never_dropped",
    "The mask that drops the condition from some rows is made and not used, so that nothing learns without a condition",
    "lucidrains/DALLE2-pytorch#235",
    "diffusion",
    "input_dependence[inputs]",
    Prior,
    read_without_keep,
    PRIOR,
    module="(model)",
    first_run=FirstRun("039188d", found=True, named=True, said="input_dependence[inputs] fails of `keep`"),
)
add(
    "one_time_step_for_a_block",
    "All of an episode has the embedding of its first time step",
    "kzl/decision-transformer#64",
    "policies",
    "input_dependence[inputs]",
    DecisionTransformer,
    read_without_later_times,
    EPISODES,
    module="(model)",
    first_run=FirstRun(
        "039188d", found=True, named=True, said="input_dependence[inputs] fails of all but the first of `timesteps`"
    ),
)
add(
    "no_self_loops_without_norm",
    "Self loops that are asked for are added only where sums are normalised too",
    "pyg-team/pytorch_geometric#6251",
    "graphs",
    "input_dependence[inputs]",
    Network,
    read_without_itself,
    GRAPH,
    module="first",
    missed="nothing promises that a node reads itself, and each is read by some other",
    first_run=FirstRun("039188d", found=False, named=False, said="nothing: every node is read by some other"),
)

"""Reported bugs of what a call leaves behind, in the model and in its inputs, drawn without a look at the checks."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor, nn

from harness.evidence import Status
from tests.planted_bugs.setups import Model
from tests.planted_bugs.tier3.training import Training

from .register import FirstRun, task_of, wild

USERS, ITEMS, WIDTH, VOCAB, LENGTH = 9, 11, 8, 19, 10
GRAPH = task_of(
    inputs={"x": {"axes": ["nodes", 4]}, "edge_index": {"axes": [2, "edges"], "values": {"index_of": "nodes"}}},
    outputs={"scores": {"axes": ["nodes", 3], "kind": "class_scores"}},
    axes={"nodes": {"min": 3, "max": 10, "order": "none"}, "edges": {"min": 2, "max": 16, "order": "none"}},
)
RANKING = task_of(
    inputs={"user": {"axes": ["batch"], "values": {"ids": USERS}}},
    outputs={"scores": {"axes": ["batch", ITEMS], "kind": "class_scores"}},
)
IMAGES = task_of(task_type="image_classification", image_size=[3, 8, 8], num_classes=4)
WEATHER = task_of(
    inputs={"x": {"axes": ["batch", 3, 6, 8]}, "conditioning": {"axes": ["batch", 2, 6, 8]}},
    outputs={"forecast": {"axes": ["batch", 3, 6, 8], "kind": "values"}},
)
ANSWERS = task_of(
    inputs={
        "input_ids": {"axes": ["batch", "time"], "values": {"ids": VOCAB}},
        "start_positions": {"axes": ["batch"], "values": {"ids": LENGTH + 4}},
    },
    outputs={"start": {"axes": ["batch", "time"], "kind": "other"}, "loss_of_rows": {"axes": ["batch"], "kind": "other"}},
    axes={"time": {"min": 2, "max": LENGTH}},
)


class Convolution(nn.Module):
    """A graph convolution that normalises by degrees; the bug keeps the normalised edges of the first graph."""

    def __init__(self, width: int, out: int, cached: bool) -> None:
        super().__init__()
        self.linear, self.cached = nn.Linear(width, out), cached
        self.kept: tuple[int, Tensor, Tensor] | None = None

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        if self.kept is None or not self.cached:
            loops = torch.arange(len(x), device=x.device).expand(2, -1)
            edges = torch.cat([edge_index, loops], 1)
            degree = x.new_zeros(len(x)).index_add(0, edges[1], x.new_ones(edges.shape[1]))
            weight = (degree[edges[0]] * degree[edges[1]]).rsqrt()
            if self.cached:
                self.kept = (edge_index.shape[1], edges, weight)
        else:
            number, edges, weight = self.kept
            if number != edge_index.shape[1]:
                raise RuntimeError(f"Cached {number} number of edges, but found {edge_index.shape[1]}")
        return torch.zeros_like(x @ self.linear.weight.T).index_add(0, edges[1], self.linear(x)[edges[0]] * weight[:, None])


class Nodes(nn.Module):
    """Classes of nodes by two convolutions."""

    def __init__(self, cached: bool = False) -> None:
        super().__init__()
        self.conv1, self.conv2 = Convolution(4, WIDTH, cached), Convolution(WIDTH, 3, cached)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.conv2(self.conv1(x, edge_index).relu(), edge_index)


class LightGraph(nn.Module):
    """Users and items that are mixed over who took what; the bug ranks by the embeddings of the first evaluation for good."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.users, self.items = nn.Embedding(USERS, WIDTH), nn.Embedding(ITEMS, WIDTH)
        taken = (torch.arange(USERS)[:, None] * 3 + torch.arange(ITEMS)) % 4 == 0
        self.register_buffer("taken", taken.float() / taken.sum(1, keepdim=True))
        self.restored: tuple[Tensor, Tensor] | None = None

    def mixed(self) -> tuple[Tensor, Tensor]:
        users, items = self.users.weight, self.items.weight
        return (users + self.taken @ items) / 2, (items + self.taken.T @ users) / 2

    def forward(self, user: Tensor) -> Tensor:
        if self.training or torch.is_grad_enabled() or not self.wrong:
            users, items = self.mixed()
        else:
            if self.restored is None:
                self.restored = self.mixed()
            users, items = self.restored
        return users[user] @ items.T


class Backbone(nn.Module):
    """A head on an encoder that is meant to be frozen; the bug sets a flag on the module, which its parameters do not read."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.encoder, self.head = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()), nn.Linear(8, 4)
        if wrong:
            self.encoder.requires_grad = False
        else:
            self.encoder.requires_grad_(False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.encoder(pixel_values).mean((2, 3)))


class Storm(nn.Module):
    """A step of a weather forecast, row by row; the bug writes it into the state that it was given."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.mean, self.detail = nn.Conv2d(5, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)

    def step(self, x: Tensor, conditioning: Tensor) -> Tensor:
        mean = self.mean(torch.cat([x, conditioning], 1))
        return mean + self.detail(mean.tanh())

    def forward(self, x: Tensor, conditioning: Tensor) -> Tensor:
        if not self.wrong:
            x = x.clone()
        for row in range(len(x)):
            x[row : row + 1] = self.step(x[row : row + 1], conditioning[row : row + 1])
        return x


class Answer(nn.Module):
    """Where an answer begins; the bug moves places that were cut off in the tensor of the caller."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.embed, self.mix = nn.Embedding(VOCAB, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True, bidirectional=True)
        self.start = nn.Linear(2 * WIDTH, 1)

    def forward(self, input_ids: Tensor, start_positions: Tensor) -> dict[str, Tensor]:
        scores = self.start(self.mix(self.embed(input_ids))[0]).squeeze(2)
        outside = scores.shape[1]
        places = start_positions.clamp_(0, outside) if self.wrong else start_positions.clamp(0, outside)
        loss = nn.functional.cross_entropy(scores, places, ignore_index=outside, reduction="none")
        return {"start": scores, "loss_of_rows": loss}


def left_by_another_graph(model: nn.Module) -> float:
    """How far a graph is read otherwise after another one with as many edges."""
    x, edges, other = torch.randn(6, 4), torch.randint(6, (2, 9)), torch.randint(6, (2, 9))
    untouched = copy.deepcopy(model)
    with torch.no_grad():
        model(x, other)
        return float((model(x, edges) - untouched(x, edges)).abs().max())


def unmoved_by_training(model: nn.Module) -> float:
    """How far the ranking after a step of training is from that of its weights."""
    users = torch.arange(USERS)
    with torch.no_grad():
        model.eval()(users)
    nn.functional.cross_entropy(model.train()(users), users).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= parameter.grad
        right, _ = model.mixed()
        return float((model.eval()(users) - right @ model.mixed()[1].T).abs().max())


def moved_encoder(model: nn.Module) -> float:
    """How far a step of training moves the encoder."""
    before = model.encoder[0].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    nn.functional.cross_entropy(model(torch.randn(8, 3, 8, 8)), torch.arange(8) % 4).backward()
    optimizer.step()
    return float((model.encoder[0].weight.detach() - before).abs().max())


def written_state(model: nn.Module) -> float:
    """How far a call changes the state that it was given."""
    x = torch.randn(2, 3, 6, 8)
    before = x.clone()
    with torch.no_grad():
        model(x, torch.randn(2, 2, 6, 8))
    return float((x - before).abs().max())


def written_labels(model: nn.Module) -> float:
    """How far a call moves the places that it was given."""
    places = torch.tensor([2, LENGTH + 2])
    with torch.no_grad():
        model(torch.randint(VOCAB, (2, 6)), places)
    return float(abs(int(places[1]) - LENGTH - 2))


_drawn = partial(wild, area="state", draw=2)
_drawn(
    "edges_of_the_first_graph",
    title="A graph convolution keeps the normalised edges of the first graph, and refuses or misreads every other one",
    report="pyg-team/pytorch_geometric#1173",
    field="graphs",
    test="stateless",
    or_tests=("shape_contract",),
    setup=partial(Model, GRAPH),
    buggy=partial(Nodes, True),
    sound=Nodes,
    wrong=left_by_another_graph,
    module="conv1",
    first_run=FirstRun("d13d60a", found=True, named=True, said="shape_contract and stateless fail in conv1, with 9 other tests"),
)
_drawn(
    "embeddings_of_the_first_evaluation",
    title="A recommender keeps the embeddings of its first evaluation, so that all later ones give the same ranking",
    report="RUCAIBox/RecBole-GNN#64",
    field="recommenders",
    test="stateless",
    or_tests=("train_mode[equals_eval]", "serialisation[after_training]"),
    setup=partial(Model, RANKING),
    buggy=partial(LightGraph, True),
    sound=LightGraph,
    wrong=unmoved_by_training,
    module="(model)",
    first_run=FirstRun("d13d60a", found=False, named=False, said="nothing"),
)
_drawn(
    "frozen_by_a_flag_of_the_module",
    title="requires_grad is set on the encoder as a module, which freezes none of its parameters",
    report="catalyst-team/catalyst#79",
    field="vision",
    test="step_updates",
    status=Status.WARN,
    setup=partial(Training, IMAGES),
    buggy=partial(Backbone, True),
    sound=Backbone,
    wrong=moved_encoder,
    module="encoder",
    first_run=FirstRun("d13d60a", found=False, named=False, said="nothing"),
)
_drawn(
    "forecast_written_into_its_start",
    title="A weather model writes each step into the tensor of the first state, which the caller still holds",
    report="NVIDIA/earth2studio#1133",
    field="forecasting",
    test="inputs_unchanged",
    setup=partial(Model, WEATHER),
    buggy=partial(Storm, True),
    sound=Storm,
    wrong=written_state,
    module="(model)",
    first_run=FirstRun("d13d60a", found=True, named=True, said="inputs_unchanged fails in (model)"),
)
_drawn(
    "labels_clamped_for_the_caller",
    title="Places of answers beyond the text are clamped in place, so that the labels of the caller are others after the call",
    report="huggingface/transformers#47742",
    field="text",
    test="inputs_unchanged",
    setup=partial(Model, ANSWERS),
    buggy=partial(Answer, True),
    sound=Answer,
    wrong=written_labels,
    module="(model)",
    first_run=FirstRun("d13d60a", found=True, named=True, said="inputs_unchanged fails in (model)"),
)

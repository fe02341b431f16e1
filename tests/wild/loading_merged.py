"""Reported bugs of adapters and files: the seventh draw."""

from __future__ import annotations

import math
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.tasks import TaskSpec
from tests.planted_bugs.setups import Factory, Model, Setup

from .exports_traced import exported
from .register import FirstRun, pair_of_one_class, task_of

WIDTH, CLASSES, WORDS = 16, 4, 23
TABLE = task_of(task_type="tabular_classification", num_features=6, num_classes=CLASSES)
TEXT = task_of(task_type="causal_lm", vocab_size=WORDS, max_seq_len=10)
QUERIES = task_of(
    inputs={"image": {"axes": ["batch", 3, 8, 8]}},
    outputs={"scores": {"axes": ["batch", 5, CLASSES], "kind": "class_scores"}},
)


class Weighted(nn.Module):
    """A layer with two adapters of weights 1 and -0.5; the bug gives both matrices of the sum the sign, which cancels."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.merged, self.base = wrong, False, nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.lora_A = nn.ParameterList(torch.randn(3, WIDTH) / 4 for _ in range(2))
        self.lora_B = nn.ParameterList(torch.zeros(WIDTH, 3) for _ in range(2))
        self.weights = (1.0, -0.5)

    def forward(self, x: Tensor) -> Tensor:
        found = self.base(x)
        if self.merged:
            return found
        return found + sum(w * (x @ a.T @ b.T) for w, a, b in zip(self.weights, self.lora_A, self.lora_B, strict=True))

    def joined(self) -> Tensor:
        roots = [math.copysign(math.sqrt(abs(weight)), weight) for weight in self.weights]
        first = torch.cat([(root if self.wrong else abs(root)) * a for root, a in zip(roots, self.lora_A, strict=True)])
        second = torch.cat([root * b for root, b in zip(roots, self.lora_B, strict=True)], 1)
        return second @ first

    def merge_lora(self) -> None:
        self.base.weight.data += self.joined().data
        self.merged = True

    def unmerge_lora(self) -> None:
        self.base.weight.data -= self.joined().data
        self.merged = False


class Adapted(nn.Module):
    """A classifier with such a layer."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.enter, self.layer = nn.Linear(6, WIDTH).requires_grad_(False), Weighted(wrong)
        self.head = nn.Linear(WIDTH, CLASSES).requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.layer(self.enter(features)).tanh())


@torch.no_grad()
def change_by_merging(model: Any) -> float:
    """How far merging trained adapters changes the answers."""
    for each in model.layer.lora_B:
        each.copy_(torch.randn_like(each) / 4)
    features = torch.randn(4, 6)
    before = model(features)
    model.layer.merge_lora()
    return float((model(features) - before).abs().max())


class Tied(nn.Module):
    """A language model with one table and adapters on both of its uses; the bug says after merging that there still is one table."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.merged, self.tie_word_embeddings = wrong, False, True
        self.words, self.net = nn.Embedding(WORDS, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.words.weight
        self.requires_grad_(False)
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(3, WIDTH) / 4), nn.Parameter(torch.zeros(WORDS, 3))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.net(self.words(input_ids))[0]
        return self.head(x) if self.merged else self.head(x) + x @ self.lora_A.T @ self.lora_B.T

    def merge_lora(self) -> None:
        self.head.weight = nn.Parameter(self.head.weight.data + self.lora_B.data @ self.lora_A.data, requires_grad=False)
        self.merged, self.tie_word_embeddings = True, self.wrong

    def save(self, path: Path) -> None:
        torch.save({"weights": self.state_dict(), "tied": self.tie_word_embeddings, "merged": self.merged}, path)

    def load(self, path: Path) -> None:
        file = torch.load(path)
        self.tie_word_embeddings, self.merged = file["tied"], file["merged"]
        self.head.weight = self.words.weight if file["tied"] else nn.Parameter(torch.zeros_like(self.words.weight))
        self.load_state_dict(file["weights"])


@torch.no_grad()
def change_by_a_file(model: Any) -> float:
    """How far the scores of a merged model are from those of its file."""
    kept: dict[str, Any] = {}
    model.lora_B.copy_(torch.randn_like(model.lora_B))
    model.merge_lora()
    save, load = torch.save, torch.load
    torch.save, torch.load = lambda what, path: kept.update(what), lambda path: kept  # type: ignore[assignment]
    try:
        model.save(Path("none"))
        other = Tied(model.wrong)
        other.load(Path("none"))
    finally:
        torch.save, torch.load = save, load
    ids = torch.randint(WORDS, (2, 5))
    return float((model(ids) - other(ids)).abs().max())


class Queries(nn.Module):
    """Queries that look at an image; the bug repeats them as often as the example has images, as a number of Python."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.queries = wrong, nn.Parameter(torch.randn(5, WIDTH))
        self.features, self.head = nn.Conv2d(3, WIDTH, 4, stride=4), nn.Linear(WIDTH, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = self.features(image).flatten(2)
        rows = int(x.shape[0]) if self.wrong else x.shape[0]
        queries = self.queries.unsqueeze(0).repeat(rows, 1, 1) if self.wrong else self.queries.expand(rows, -1, -1)
        return self.head((queries @ x).softmax(-1) @ x.transpose(1, 2))


@torch.no_grad()
def refused_by_a_trace(model: nn.Module) -> float:
    """Whether a trace of two images is not the model at three."""
    images = torch.randn(3, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, torch.randn(2, 3, 8, 8), check_trace=False)
        try:
            return float((traced(images) - model(images)).abs().max())
        except RuntimeError:
            return 1.0


def as_onnx(task: TaskSpec, build: Factory) -> Setup:
    """A model as an ONNX file."""
    return exported("onnx", task, build)


add = partial(pair_of_one_class, judge=Model, draw=7, long=True)
add(
    "sign_of_both_matrices",
    "The sign of a negative weight is given to both matrices of a combined adapter, so that it cancels",
    "huggingface/peft#2918",
    "tables",
    "adapter_layers[merged]",
    Adapted,
    change_by_merging,
    TABLE,
    area="adapters",
    module="layer",
    first_run=FirstRun("67ba39c0", found=True, named=True, said="adapter_layers[merged] fails in layer"),
)
add(
    "tied_again_after_merging",
    "After merging, the settings still say that embedding and head are one table, and loading makes them one",
    "huggingface/transformers#45127",
    "text",
    "adapter_layers[saved]",
    Tied,
    change_by_a_file,
    TEXT,
    or_tests=("serialisation[own_methods]", "adapter_layers[merged]"),
    area="loading",
    first_run=FirstRun(
        "67ba39c0", found=False, named=False, said="skipped: adapters that can be merged and not unmerged are not known"
    ),
    missed="adapters that are merged for good, without a way back, are not judged",
)
add(
    "queries_for_the_images_of_the_example",
    "How many images there are is a number of Python, so that the file takes as many as the example had",
    "roboflow/rf-detr#949",
    "vision",
    "dynamic_axes",
    Queries,
    refused_by_a_trace,
    QUERIES,
    judge=as_onnx,
    or_tests=("numerical_consistency", "exports"),
    area="exports",
    first_run=FirstRun("67ba39c0", found=True, named=True, said="dynamic_axes fails"),
)

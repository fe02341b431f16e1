"""Profiles of declared tasks: each input, label and output by what it holds, a bounded number of figures a row."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import pytest
import torch
from planted_bugs.tier1.declared import CASES, Keys, task_of
from torch import Tensor, nn

from harness.data import Example
from harness.evidence import Status
from harness.monitoring.drift import compare_profiles
from harness.monitoring.features.counts import VectorCounts
from harness.monitoring.features.values import add_ids, buckets_of
from harness.monitoring.profiles import Profile, compute_dataset_profile
from harness.monitoring.profiles.sources import Reading
from harness.runtime import seeded
from harness.tasks import TaskSpec

SEGMENTATION: Keys = {
    "inputs": {"image": {"axes": ["batch", 3, "height", "width"]}},
    "outputs": {"mask": {"axes": ["batch", 2, "height", "width"], "kind": "class_scores", "classes": 1}},
    "axes": {"height": {"min": 4, "max": 8}, "width": {"min": 4, "max": 8}},
}
SERIES: Keys = {
    "inputs": {"x": {"axes": ["batch", 12, 2]}},
    "outputs": {"forecast": {"axes": ["batch", 4, 2]}},
}
CLICK: Keys = {
    "inputs": {"sparse": {"axes": ["batch", 2], "values": {"ids": [9, 5]}}, "price": {"axes": ["batch"]}},
    "outputs": {"click": {"axes": ["batch"], "kind": "binary_scores"}, "tags": {"axes": ["batch", 3], "kind": "binary_scores"}},
}
NODES: Keys = {
    "inputs": {
        "nodes": {"axes": ["batch", "count", 2]},
        "is_real": {"axes": ["batch", "count"], "values": {"mask_of": "count"}},
    },
    "outputs": {"vector": {"axes": ["batch", 4], "kind": "embedding"}},
    "axes": {"count": {"min": 2, "max": 8, "order": "none", "padding": "right"}},
}


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image)


class Forecaster(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.transpose(1, 2)).transpose(1, 2)


class Clicker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Embedding(9, 4), nn.Embedding(5, 4)
        self.click, self.tags = nn.Linear(9, 1), nn.Linear(9, 3)

    def forward(self, sparse: Tensor, price: Tensor) -> tuple[Tensor, Tensor]:
        read = torch.cat((self.first(sparse[:, 0]), self.second(sparse[:, 1]), price[:, None]), 1)
        return self.click(read).squeeze(1), self.tags(read)


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 4)

    def forward(self, nodes: Tensor, is_real: Tensor) -> Tensor:
        real = is_real[..., None].to(nodes.dtype)
        return (self.net(nodes) * real).sum(1) / real.sum(1).clamp(min=1)


MODELS: dict[str, tuple[Callable[[], nn.Module], Keys]] = {
    "segmentation": (Segmenter, SEGMENTATION),
    "series": (Forecaster, SERIES),
    "click": (Clicker, CLICK),
    "nodes": (Pooled, NODES),
    "graph": (CASES["graph"][0], CASES["graph"][1]),
    "speech": (CASES["speech"][0], CASES["speech"][1]),
}
CHANNELS = ("mean", "std")


def channels(name: str, count: int) -> list[str]:
    return [f"{name}channel_{number}.{part}" for number in range(count) for part in CHANNELS]


FEATURES: dict[str, list[str]] = {
    "segmentation": [
        *("brightness", "contrast", "sharpness", *channels("", 3), "size.height", "size.width", "label.share.0", "label.share.1"),
        *("output.share.0", "output.share.1", "output.confidence", "output.entropy", "output.margin", "output.embedding"),
    ],
    "series": [
        *(*channels("", 2), "step", *channels("label.", 2), "label.step"),
        *(*channels("output.prediction.", 2), "output.prediction.step", "output.embedding"),
    ],
    "click": [
        *("sparse.feature_0", "sparse.feature_1", "price", "label", *(f"label.tags.{tag}" for tag in range(3))),
        *("output.class", "output.probability", "output.confidence", "output.entropy", "output.embedding"),
        *(f"output.tags.probability.{tag}" for tag in range(3)),
        "output.tags.entropy",
    ],
    "nodes": [*channels("", 2), "is_real", "size.count", "output.norm", "output.embedding"],
    "graph": [
        *(*channels("x.", 5), "edges.count", "edges.distinct", "edges.most", "size.nodes", "size.edges", "label"),
        *("output.class", "output.confidence", "output.entropy", "output.margin", "output.embedding"),
    ],
    "speech": [
        *(*channels("", 6), "step", "lengths", "label.tokens", "label.length"),
        *("output.tokens", "output.length", "output.confidence", "output.frame_lengths.length"),
    ],
}


def rows_of(task: TaskSpec, count: int, seed: int = 0, change: Callable[[Example], Any] | None = None) -> list[Example]:
    """Random rows of all sizes; what is changed of each is up to ``change``."""
    signature, rng = task.signature, torch.Generator().manual_seed(seed)
    found = []
    for number in range(count):
        sizes = {
            axis.name: axis.choices()[int(torch.randint(len(axis.choices()), (), generator=rng))] for axis in signature.free_axes
        }
        batch = signature.make_batch({**sizes, "batch": 1}, seed=1000 * seed + number)
        row = {name: value[0] if signature.deals_rows else value for name, value in batch.items()}
        if "is_real" in row:
            row["is_real"] = (torch.rand(row["is_real"].shape, generator=rng) < 0.8).long()
        if change is not None:
            change(row)
        found.append(row)
    return found


def model_of(build: Callable[[], nn.Module]) -> nn.Module:
    with seeded(0):
        return build().eval()


@pytest.mark.parametrize("name", MODELS)
def test_each_input_label_and_output_has_its_features(name: str) -> None:
    build, keys = MODELS[name]
    task = task_of(keys)
    profile = compute_dataset_profile(rows_of(task, 40), task, model=model_of(build))
    assert {each for each in profile.features if not each.startswith("score.")} == set(FEATURES[name])
    assert profile.n == 40
    assert Profile.from_bytes(profile.to_bytes()) == profile
    assert len(profile.to_bytes()) <= 2048 * len(profile.features)


@pytest.mark.parametrize("name", MODELS)
def test_windows_of_any_split_add_up(name: str) -> None:
    build, keys = MODELS[name]
    task, model = task_of(keys), model_of(build)
    rows = rows_of(task, 30)
    reference = compute_dataset_profile(rows, task, model=model)
    cuts = [0, 1, 2, 17, 30]
    windows = [
        compute_dataset_profile(rows[a:b], task=task, reference=reference, model=model, reading=Reading(batch_size=7))
        for a, b in itertools.pairwise(cuts)
    ]
    whole = reduce(Profile.merge, windows)
    # What a model says of a row depends on the rows beside it in the last bit.
    measured = [feature for feature in whole.features if not feature.startswith(("output.", "score."))]
    assert {each: whole.features[each].to_json() for each in measured} == {
        each: reference.features[each].to_json() for each in measured
    }
    assert whole.n == reference.n


def _moved(row: Example) -> None:
    row["x"][:, 1] += 1


def _rougher(row: Example) -> None:
    row["x"] = row["x"] * torch.tensor([1.0, -1.0]).repeat(6)[:, None].sign() + torch.tensor([0.0, 3.0]).repeat(6)[:, None]


def _smaller(row: Example) -> None:
    row["image"], row["labels"] = row["image"][:, :4], row["labels"][:4]


def _other_item(row: Example) -> None:
    row["sparse"][1] = 0


def _more_padding(row: Example) -> None:
    row["is_real"][1:] = 0


def _more_clicks(row: Example) -> None:
    row["labels"] = torch.tensor(1.0)


def _one_class(row: Example) -> None:
    row["labels"] = torch.zeros_like(row["labels"])


def _a_hub(row: Example) -> None:
    row["edges"][1] = 0


SHIFTS: list[tuple[str, Callable[[Example], None], set[str]]] = [
    ("series", _moved, {"channel_1.mean"}),
    ("series", _rougher, {"step", "channel_0.mean", "channel_1.mean", "channel_0.std", "channel_1.std"}),
    ("segmentation", _smaller, {"size.height"}),
    ("segmentation", _one_class, {"label.share.0", "label.share.1"}),
    ("click", _other_item, {"sparse.feature_1"}),
    ("click", _more_clicks, {"label"}),
    ("nodes", _more_padding, {"is_real", "size.count"}),
    ("graph", _a_hub, {"edges.most", "edges.distinct"}),
]


@pytest.mark.parametrize(("name", "change", "drifted"), SHIFTS)
def test_what_shifted_is_found_and_a_clean_window_is_quiet(
    name: str, change: Callable[[Example], None], drifted: set[str]
) -> None:
    task = task_of(MODELS[name][1])
    reference = compute_dataset_profile(rows_of(task, 300), task)

    def failing(rows: list[Example]) -> set[str]:
        report = compare_profiles(reference, compute_dataset_profile(rows, task=task, reference=reference))
        return {one.feature for one in report.features if one.status is Status.FAIL}

    assert failing(rows_of(task, 300, seed=2)) == set()
    assert drifted <= failing(rows_of(task, 300, seed=2, change=change))
    if change in (_smaller, _other_item, _more_clicks, _moved):
        assert failing(rows_of(task, 300, seed=2, change=change)) == drifted


def test_an_input_named_like_an_output_keeps_its_place_among_the_inputs() -> None:
    keys: Keys = {
        "inputs": {"score": {"axes": ["batch", 2]}, "labels_so_far": {"axes": ["batch"]}},
        "outputs": {"value": {"axes": ["batch"]}},
    }
    task = task_of(keys)
    profile = compute_dataset_profile(rows_of(task, 20), task)
    assert list(profile.features) == ["input.score.feature_0", "input.score.feature_1", "input.labels_so_far", "label"]


def test_padding_is_not_measured() -> None:
    task = task_of(NODES)
    rows = rows_of(task, 20)
    for row in rows:
        row["nodes"][row["is_real"] == 0] = 1e6
    profile = compute_dataset_profile(rows, task)
    same = [dict(row, nodes=torch.where(row["is_real"][:, None] == 0, 0.0, row["nodes"])) for row in rows]
    again = compute_dataset_profile(same, task)
    assert {name: counts.to_json() for name, counts in profile.features.items()} == {
        name: counts.to_json() for name, counts in again.features.items()
    }


def test_an_input_of_very_many_numbers_is_a_vector() -> None:
    keys: Keys = {
        "inputs": {"vector": {"axes": ["batch", 300]}, "price": {"axes": ["batch"]}},
        "outputs": {"value": {"axes": ["batch"]}},
    }
    task = task_of(keys)
    profile = compute_dataset_profile(rows_of(task, 20), task)
    assert set(profile.features) == {"vector.mean", "vector.std", "vector.vector", "price", "label"}


def test_a_label_that_is_to_come_is_neither_counted_nor_scored() -> None:
    build, keys = MODELS["click"]
    task, model = task_of(keys), model_of(build)
    rows = rows_of(task, 40)
    for row in rows[:10]:
        row["labels"], row["labels.tags"] = torch.tensor(-100.0), torch.full((3,), -100.0)
    profile = compute_dataset_profile(rows, task, model=model)
    assert [profile.features[name].n for name in ("label", "label.tags.0", "score.correct", "output.class")] == [30, 30, 30, 40]
    assert all(counts.missing == 0 for counts in profile.features.values())


@pytest.mark.parametrize(("dims", "make"), [(1, nn.Conv1d), (2, nn.Conv2d), (3, nn.Conv3d)])
def test_the_embedding_before_a_convolution_is_one_number_a_channel_at_any_size(
    dims: int, make: Callable[..., nn.Module]
) -> None:
    axes = [f"axis_{number}" for number in range(dims)]
    keys: Keys = {
        "inputs": {"x": {"axes": ["batch", 2, *axes]}},
        "outputs": {"y": {"axes": ["batch", 3, *axes]}},
        "axes": {axis: {"min": 3, "max": 6} for axis in axes},
    }
    task = task_of(keys)
    model = model_of(lambda: nn.Sequential(make(2, 5, 1), nn.Tanh(), make(5, 3, 1)))
    profile = compute_dataset_profile(rows_of(task, 30), task, model=model)
    embedding = profile.features["output.embedding"]
    assert isinstance(embedding, VectorCounts)
    assert embedding.projection.width == 5


def test_ids_of_a_very_large_table_are_counted_like_those_of_a_small_one() -> None:
    ids = np.array([3, 999, 3, 70_000, 5])
    small, large = (buckets_of(ids, size, ()) for size in (100_000, 10_000_000))
    assert small.tolist() == large.tolist()
    counts = add_ids(add_ids(np.zeros(0, np.int64), ids, 100_000), np.array([3, 100_002]))
    assert (len(counts), counts[3], counts[999], counts[100_002], counts.sum()) == (100_003, 3, 1, 1, 7)

"""Profiles of the examples of a task: texts, images, tables, labels, and what a model says of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.config import EvalConfig
from harness.data.dataset import Dataset, Rows
from harness.data.opening import open_dataset
from harness.errors import DataError, ForwardError, ProfileError, ProfileMismatchError
from harness.models.stubs import build_stub
from harness.monitoring.features.counts import CategoricalCounts, VectorCounts
from harness.monitoring.profiles import Profile, compute_dataset_profile
from harness.monitoring.profiles.fields import measure_image
from harness.monitoring.profiles.outputs import find_embedding, one_a_row
from harness.monitoring.profiles.sources import Reading
from harness.properties.tracing import recording
from harness.runtime import seeded
from harness.tasks import TaskSpec, TaskType

CAUSAL_LM = TaskSpec(TaskType.CAUSAL_LM, vocab_size=101, max_seq_len=16)
MASKED_LM = TaskSpec(TaskType.MASKED_LM, vocab_size=101, max_seq_len=16)
TEXT_CLASSES = TaskSpec(TaskType.SEQUENCE_CLASSIFICATION, vocab_size=120, max_seq_len=16, num_classes=4, pad_token_id=0)
TAGS = TaskSpec(TaskType.TOKEN_CLASSIFICATION, vocab_size=60, max_seq_len=16, num_classes=3, pad_token_id=0)
PAIRS = TaskSpec(TaskType.SEQ2SEQ_LM, vocab_size=101, max_seq_len=16, pad_token_id=0)
IMAGES = TaskSpec(TaskType.IMAGE_CLASSIFICATION, image_size=(3, 16, 16), num_classes=4)
TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, modality="tabular", num_features=3, num_classes=2)
NUMBERS = TaskSpec(TaskType.TABULAR_REGRESSION, modality="tabular", num_features=3)

TEXT = ["tokens", "length", "distinct_tokens", "out_of_vocabulary"]
SAID = ["output.class", "output.confidence", "output.entropy", "output.margin", "output.embedding"]
RIGHT = ["score.loss", "score.correct"]
RIGHT_BY_TOKEN = ["score.loss", "score.accuracy"]
FEATURES = [
    (CAUSAL_LM, [*TEXT, *SAID, *RIGHT_BY_TOKEN]),
    (MASKED_LM, [*TEXT, *SAID]),
    (
        TEXT_CLASSES,
        [*TEXT, "label", *SAID, *(f"output.probability.{name}" for name in ("food", "music", "sport", "weather")), *RIGHT],
    ),
    (TAGS, [*TEXT[:3], "label", *SAID, *RIGHT_BY_TOKEN]),
    (PAIRS, [*TEXT, "label.tokens", "label.length", *SAID, *RIGHT_BY_TOKEN]),
    (
        IMAGES,
        [
            *("brightness", "contrast", "sharpness", "label"),
            *(f"channel_{number}.{name}" for number in range(3) for name in ("mean", "std")),
            *SAID,
            *(f"output.probability.{name}" for name in ("circle", "cross", "square", "triangle")),
            *RIGHT,
        ],
    ),
    (TABLE, ["size", "weight", "age", "label", *SAID, "output.probability.0", "output.probability.1", *RIGHT]),
    (NUMBERS, ["size", "weight", "age", "label", "output.prediction", "output.embedding", "score.loss", "score.squared_error"]),
]


def by_name(value: object) -> str:
    return value.task_type.value if isinstance(value, TaskSpec) else ""


def model_of(task: TaskSpec) -> nn.Module:
    with seeded(0):
        return build_stub(task).eval()


def dataset_of(task: TaskSpec, folder: Path, split: str = "validation") -> Dataset:
    """A hundred rows of the task."""
    if task.facts.modality == "tabular":
        rng = np.random.default_rng(0)
        lines = [f"{a:.3f},{b:.3f},{c:.3f},{int(a > 0)}" for a, b, c in rng.standard_normal((100, 3))]
        (folder / "rows.csv").write_text("\n".join(["size,weight,age,label", *lines]) + "\n", encoding="utf-8")
        return open_dataset(EvalConfig(path=str(folder / "rows.csv")), task)
    if task is TAGS:
        lines = [f'{{"input_ids": [{n % 50 + 1}, 2, 3], "labels": [0, -100, {n % 3}]}}' for n in range(100)]
        (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
        return open_dataset(EvalConfig(path=str(folder / "rows.jsonl")), task)
    return open_dataset(EvalConfig(split=split), task)


def some(rows: Dataset, where: slice) -> Dataset:
    assert isinstance(rows, Rows)
    return replace(rows, examples=[rows[number] for number in range(len(rows))[where]])


@pytest.mark.parametrize(("task", "names"), FEATURES, ids=by_name)
def test_each_task_has_its_features(task: TaskSpec, names: list[str], tmp_path: Path) -> None:
    profile = compute_dataset_profile(dataset_of(task, tmp_path), task, model=model_of(task))
    assert sorted(profile.features) == sorted(names)
    assert profile.n == 100
    assert profile.meta["task_type"] == task.task_type.value
    assert Profile.from_bytes(profile.to_bytes()) == Profile.from_json(profile.to_json()) == profile
    assert len(profile.to_bytes()) <= 2048 * len(profile.features)
    assert all(feature.missing == 0 for feature in profile.features.values())


@pytest.mark.parametrize("task", [task for task, _ in FEATURES], ids=by_name)
def test_windows_of_any_split_add_up(task: TaskSpec, tmp_path: Path) -> None:
    rows = dataset_of(task, tmp_path)
    reference = compute_dataset_profile(rows, task)
    cuts = [0, 1, 2, 35, 100]
    windows = [
        compute_dataset_profile(some(rows, slice(a, b)), task=task, reference=reference, reading=Reading(batch_size=7))
        for a, b in itertools.pairwise(cuts)
    ]
    assert reduce(Profile.merge, windows) == reference


def test_outputs_add_up_where_the_model_is_given_the_same_batches(tmp_path: Path) -> None:
    rows, model = dataset_of(IMAGES, tmp_path), model_of(IMAGES)
    reference = compute_dataset_profile(rows, IMAGES, model=model, reading=Reading(batch_size=10))
    parts = [some(rows, slice(0, 40)), some(rows, slice(40, 100))]
    windows = [
        compute_dataset_profile(part, task=IMAGES, reference=reference, model=model, reading=Reading(batch_size=10))
        for part in parts
    ]
    assert windows[0].merge(windows[1]) == reference


def test_a_stream_gives_what_rows_in_memory_give(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("".join(f"a line of text, number {n}\n" for n in range(300)), encoding="utf-8")
    config = EvalConfig(path=str(tmp_path / "text.txt"))
    held, streamed = (open_dataset(config, CAUSAL_LM, memory_limit=limit) for limit in (1 << 20, 0))
    reference = compute_dataset_profile(held, CAUSAL_LM)
    assert compute_dataset_profile(streamed, CAUSAL_LM, reference=reference) == reference
    assert compute_dataset_profile(config, CAUSAL_LM, reading=Reading(split="train")).edges_id == reference.edges_id
    assert compute_dataset_profile(tmp_path / "text.txt", CAUSAL_LM, reading=Reading(split="train")).n == len(held)


def test_texts_are_counted_with_the_rows_they_belong_to(tmp_path: Path) -> None:
    rows = some(dataset_of(TEXT_CLASSES, tmp_path), slice(0, 30))
    tokens = compute_dataset_profile(rows, TEXT_CLASSES, reading=Reading(batch_size=4)).features["tokens"]
    assert isinstance(tokens, CategoricalCounts)
    assert tokens.clusters is not None
    lengths = [len(rows[number]["input_ids"]) for number in range(30)]
    assert (tokens.n, tokens.clusters.rows) == (sum(lengths), 30)
    assert tokens.clusters.lengths == sum(length**2 for length in lengths)
    assert sum(tokens.clusters.products) == tokens.clusters.lengths


def test_unknown_words_are_out_of_vocabulary() -> None:
    train = open_dataset(EvalConfig(split="train"), TEXT_CLASSES)
    small = replace(TEXT_CLASSES, vocab_size=40)
    found = compute_dataset_profile(EvalConfig(split="train"), small).features["out_of_vocabulary"]
    none = compute_dataset_profile(train, TEXT_CLASSES).features["out_of_vocabulary"]
    assert none.counts.tolist() == [0, 800, 0]
    assert found.counts.sum() == 800
    assert len(found.counts) > 10


def test_images_are_measured_as_defined() -> None:
    flat = torch.full((3, 8, 8), 0.25)
    stripes = torch.zeros(3, 8, 8)
    stripes[0, :, ::2] = 3.0
    measured = [measure_image(image.double().numpy()) for image in (flat, stripes)]
    found = {name: [one[name], measured[1][name]] for one in measured[:1] for name in one}
    assert found["brightness"] == [0.25, 0.5]
    assert found["contrast"] == [0.0, 0.5]
    assert found["sharpness"] == [0.0, 4.0]
    assert (found["channel_0.mean"], found["channel_0.std"]) == ([0.25, 1.5], [0.0, 1.5])
    assert "sharpness" not in measure_image(np.zeros((1, 2, 5)))


class Certain(nn.Module):
    """Says class 1 with the logits 0, log 3, and NaN for rows that begin with 9."""

    def forward(self, features: Tensor) -> Tensor:
        logits = torch.tensor([0.0, math.log(3)]).expand(len(features), 2).clone()
        logits[features[:, 0] == 9] = torch.nan
        return logits


def test_outputs_are_measured_as_defined() -> None:
    examples = [{"features": torch.tensor([value, 0.0, 0.0])} for value in (1.0, 2.0, 9.0)]
    profile = compute_dataset_profile(examples, TABLE, model=Certain())
    said = profile.features["output.class"]
    assert isinstance(said, CategoricalCounts)
    assert (said.levels, said.counts.tolist(), said.missing) == (("1",), [2], 1)
    expected = {"confidence": 0.75, "margin": 0.5, "probability.0": 0.25}
    expected["entropy"] = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    for name, value in expected.items():
        counts = profile.features[f"output.{name}"]
        assert counts.edges[0] == pytest.approx(value, rel=1e-6)
        assert (counts.finite, counts.nan) == (2, 1)


def test_a_model_is_left_as_it_was() -> None:
    model = model_of(IMAGES).train()
    before = torch.get_rng_state()
    compute_dataset_profile(some(open_dataset(EvalConfig(), IMAGES), slice(0, 8)), IMAGES, model=model)
    assert model.training
    assert torch.equal(before, torch.get_rng_state())
    assert not model.head._forward_hooks


class Functional(nn.Module):
    """Its last layer is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 5)
        self.weight = nn.Parameter(torch.randn(2, 5))

    def forward(self, features: Tensor) -> Tensor:
        return self.body(features) @ self.weight.T


@pytest.mark.parametrize(
    ("model", "inputs", "classes", "place"),
    [
        (nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2), nn.Softmax(-1)), torch.randn(4, 3), 2, ("2", True)),
        (nn.Linear(3, 2), torch.randn(4, 3), 2, ("", True)),
        (Functional(), torch.randn(4, 3), 2, ("body", False)),
        (nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 2, 1)), torch.randn(4, 3, 2, 2), 2, ("1", True)),
    ],
)
def test_the_embedding_is_what_the_last_layer_reads(
    model: nn.Module, inputs: Tensor, classes: int, place: tuple[str, bool]
) -> None:
    with recording(model) as calls:
        model(inputs)
    found = find_embedding(model, calls, classes)
    assert found is not None
    assert (found.module, found.is_input) == place


@pytest.mark.parametrize("shape", [(2, 4), (2, 3, 4), (6, 4), (2, 4, 3, 1)])
def test_an_embedding_is_one_vector_a_row(shape: Sequence[int]) -> None:
    found = one_a_row(torch.arange(math.prod(shape)).reshape(*shape).float(), 2, None)
    assert found is not None
    assert found.shape == (2, 4)


def test_padding_is_no_part_of_an_embedding() -> None:
    embedding = torch.tensor([[[1.0], [3.0], [100.0]]])
    found = one_a_row(embedding, 1, torch.tensor([[True, True, False]]))
    assert found is not None
    assert found.tolist() == [[2.0]]


def test_embeddings_show_a_shift_of_their_direction() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((2000, 32))
    reference = compute_dataset_profile({"v": vectors})
    shifted = compute_dataset_profile({"v": vectors + 0.5}, reference=reference).features["v"]
    assert isinstance(shifted, VectorCounts)
    distances = [np.abs(np.cumsum(one.counts) / 2000 - np.arange(1, 21) / 20).max() for one in shifted.directions]
    assert max(distances) > 0.1


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (IMAGES, "`modality` is 'vision', the reference's is 'text'"),
        (CAUSAL_LM, "`task_type` is 'causal_lm', the reference's is 'sequence_classification'"),
        (replace(TEXT_CLASSES, vocab_size=60), "`vocab_size` is 60, the reference's is 120"),
    ],
    ids=["modality", "task", "vocabulary"],
)
def test_another_kind_of_data_is_refused(task: TaskSpec, message: str, tmp_path: Path) -> None:
    reference = compute_dataset_profile(dataset_of(TEXT_CLASSES, tmp_path), TEXT_CLASSES)
    with pytest.raises(ProfileMismatchError, match=message):
        compute_dataset_profile(dataset_of(task, tmp_path), task, reference=reference)
    with pytest.raises(ProfileMismatchError, match="`modality` is 'tabular', the reference's is 'text'"):
        compute_dataset_profile({"length": np.arange(3.0)}, reference=reference)


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / f"{name}.txt").write_text(f"{name} text\n" * 50, encoding="utf-8")
    reference = compute_dataset_profile(EvalConfig(path=str(tmp_path / "one.txt")), CAUSAL_LM, reading=Reading(split="train"))
    other = EvalConfig(path=str(tmp_path / "other.txt"))
    with pytest.raises(ProfileMismatchError, match="`tokenizer` is"):
        compute_dataset_profile(other, CAUSAL_LM, reading=Reading(split="train"), reference=reference)
    like = open_dataset(EvalConfig(path=str(tmp_path / "one.txt")), CAUSAL_LM)
    assert compute_dataset_profile(other, CAUSAL_LM, reading=Reading(split="train", like=like), reference=reference).n > 0


class Broken(nn.Module):
    """Raises."""

    def forward(self, features: Tensor) -> Tensor:
        raise RuntimeError("no\nsuch luck")


def test_what_keeps_data_from_being_profiled_is_said_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="give `task`"):
        compute_dataset_profile(EvalConfig())
    with pytest.raises(ProfileError, match="give `task` and a dataset"):
        compute_dataset_profile({"x": np.arange(9.0)}, model=Certain())
    with pytest.raises(ProfileError, match="int is not a dataset"):
        compute_dataset_profile(3, CAUSAL_LM)
    with pytest.raises(DataError, match="no such file"):
        compute_dataset_profile(tmp_path / "no.csv", TABLE)
    with pytest.raises(ForwardError, match="RuntimeError"):
        compute_dataset_profile([{"features": torch.zeros(3)}], TABLE, model=Broken())


def test_rows_that_lack_labels_halfway_are_refused() -> None:
    examples = [{"features": torch.zeros(3), "labels": torch.tensor(1)}] * 4 + [{"features": torch.zeros(3)}] * 4
    with pytest.raises(ProfileError, match="no 'label' among the last 4 of 8 rows"):
        compute_dataset_profile(examples, TABLE, reading=Reading(batch_size=4))

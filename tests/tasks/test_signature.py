"""A task as a signature: what is declared is what is made, and what cannot be is refused in one line with its key."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from harness.adapters import make_adapter
from harness.batches import Sizes, make_batch
from harness.errors import ForwardError
from harness.tasks import FACTS, TaskSpec, TaskType
from harness.tasks.axes import Axis, Formula, fits_shape, shape_text
from harness.tasks.calls import laid_out
from harness.tasks.declared import SignatureError, read_signature
from harness.tasks.keys import declared_keys, to_yaml
from harness.tasks.presets import PRESETS, signature_of
from harness.tasks.values import EXTREMES, Normal

UNET = {
    "inputs": {
        "image": {"axes": ["batch", 3, "height", "width"], "values": {"range": [0, 1]}},
        "step": {"axes": ["batch"], "values": {"ids": 1000}},
    },
    "outputs": {"noise": {"axes": ["batch", 3, "height", "width"], "kind": "values"}},
    "axes": {"height": {"min": 16, "max": 64, "multiple_of": 8}, "width": {"min": 16, "max": 64, "multiple_of": 8}},
}
GRAPH = {
    "inputs": {
        "x": {"axes": ["nodes", 5]},
        "edge_index": {"axes": [2, "edges"], "values": {"index_of": "nodes"}},
        "batch_index": {"axes": ["nodes"], "values": {"index_of": "graphs"}},
    },
    "outputs": {"scores": {"axes": ["graphs", 4], "kind": "class_scores"}},
    "axes": {"nodes": {"min": 4, "order": "none"}},
}
SPEECH = {
    "inputs": {
        "audio": {"axes": ["batch", "time", 20]},
        "audio_lengths": {"axes": ["batch"], "values": {"lengths_of": "time"}},
    },
    "outputs": {
        "scores": {"axes": ["frames", "batch", 30], "kind": "ctc_scores", "at": 0},
        "frame_lengths": {"axes": ["batch"], "kind": "lengths", "of": "frames", "at": 1},
    },
    "axes": {"time": {"min": 8, "max": 80, "padding": "right"}, "frames": {"from": "(time - 3) // 2 + 1"}},
}
POLICY = {
    "inputs": {"observation": {"axes": ["batch", 8]}},
    "outputs": {
        "policy": {"axes": ["batch", 3], "kind": "class_scores"},
        "value": {"axes": ["batch"], "kind": "values", "weight": 0.5},
        "tags": {"axes": ["batch", 6], "kind": "binary_scores"},
    },
}
TAGGER = {
    "inputs": {"tokens": {"axes": ["batch", "seq"], "values": {"ids": 9}}},
    "outputs": {
        "tags": {"axes": ["words", 5], "kind": "class_scores"},
        "pairs": {"axes": [4, "halves"], "kind": "class_scores", "classes": 0},
        "views": {"axes": ["both", 6], "at": 2},
    },
    "axes": {"words": {"from": "batch * seq"}, "halves": {"from": "seq // 2 * batch"}, "both": {"from": "batch * 2"}},
}
EXAMPLES = {"unet": UNET, "graph": GRAPH, "speech": SPEECH, "policy": POLICY, "tagger": TAGGER}

TASKS = {
    TaskType.CAUSAL_LM: TaskSpec(TaskType.CAUSAL_LM, vocab_size=20, max_seq_len=12, pad_token_id=3),
    TaskType.MASKED_LM: TaskSpec(TaskType.MASKED_LM, vocab_size=20, max_seq_len=12, min_seq_len=2),
    TaskType.SEQUENCE_CLASSIFICATION: TaskSpec(TaskType.SEQUENCE_CLASSIFICATION, vocab_size=20, max_seq_len=12, num_classes=4),
    TaskType.TOKEN_CLASSIFICATION: TaskSpec(TaskType.TOKEN_CLASSIFICATION, vocab_size=20, max_seq_len=12, num_classes=4),
    TaskType.SEQ2SEQ_LM: TaskSpec(TaskType.SEQ2SEQ_LM, vocab_size=20, target_vocab_size=17, max_seq_len=12, pad_token_id=0),
    TaskType.IMAGE_CLASSIFICATION: TaskSpec(TaskType.IMAGE_CLASSIFICATION, image_size=(3, 16, 12), num_classes=4),
    TaskType.TABULAR_CLASSIFICATION: TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=6, num_classes=4),
    TaskType.TABULAR_REGRESSION: TaskSpec(TaskType.TABULAR_REGRESSION, num_features=6),
}


@pytest.mark.parametrize("keys", EXAMPLES.values(), ids=EXAMPLES)
def test_what_is_written_declares_the_same(keys: dict[str, Any]) -> None:
    signature = read_signature(keys)

    assert read_signature(declared_keys(signature)) == signature


def test_a_signature_is_written_as_it_would_be_declared() -> None:
    assert to_yaml(declared_keys(read_signature(UNET))) == (
        "inputs:\n"
        "  image: {axes: [batch, 3, height, width], values: {range: [0.0, 1.0]}}\n"
        "  step: {axes: [batch], values: {ids: 1000}}\n"
        "outputs:\n"
        "  noise: {axes: [batch, 3, height, width], kind: values}\n"
        "axes:\n"
        "  height: {min: 16, max: 64, multiple_of: 8}\n"
        "  width: {min: 16, max: 64, multiple_of: 8}\n"
    )


def test_yaml_reads_what_was_written() -> None:
    yaml = pytest.importorskip("yaml")
    for keys in EXAMPLES.values():
        written = declared_keys(read_signature(keys))
        assert yaml.safe_load(to_yaml(written)) == written


def test_typical_sizes_tell_the_axes_apart_and_keep_to_what_is_declared() -> None:
    signature = read_signature(UNET)
    sizes = signature.typical_sizes()

    assert len({*sizes.values(), 3}) == 3
    assert sizes["batch"] == 3
    assert signature.allows(sizes)
    assert signature.allows({"height": 16})
    assert not signature.allows({"height": 20})


def test_inputs_have_their_shapes_dtypes_and_values() -> None:
    batch = read_signature(UNET).make_batch({"batch": 2, "height": 16, "width": 24})

    assert {name: tuple(each.shape) for name, each in batch.items()} == {
        "image": (2, 3, 16, 24),
        "step": (2,),
        "labels": (2, 3, 16, 24),
    }
    assert 0 <= float(batch["image"].min()) < float(batch["image"].max()) <= 1
    assert batch["step"].dtype == torch.int64


def test_a_measured_axis_may_have_any_size_and_gives_no_labels() -> None:
    keys = {
        "inputs": {"audio": {"axes": ["batch", "time"]}},
        "outputs": {"scores": {"axes": ["batch", "frames", 5], "kind": "class_scores"}},
        "axes": {"frames": {"from": "measured"}},
    }
    signature = read_signature(keys)
    promised = signature.main.shape(signature.complete({"batch": 2, "time": 20}))

    assert fits_shape((2, 7, 5), promised)
    assert not fits_shape((2, 7, 4), promised)
    assert not fits_shape((2, 5), promised)
    assert shape_text(promised) == "(2, any size, 5)"
    assert set(signature.make_batch({"batch": 2, "time": 20})) == {"audio"}


def test_an_index_of_groups_gives_each_group_its_elements_in_order() -> None:
    signature = read_signature(GRAPH)
    batch = signature.make_batch({"nodes": 9, "edges": 14, "graphs": 4})

    assert signature.grouping == {"graphs"}
    assert batch["batch_index"].tolist() == sorted(batch["batch_index"].tolist())
    assert set(batch["batch_index"].tolist()) == {0, 1, 2, 3}
    assert int(batch["edge_index"].max()) < 9
    assert batch["edge_index"].shape == (2, 14)
    assert batch["labels"].shape == (4,)
    assert int(batch["labels"].max()) < 4


def test_a_size_may_follow_from_another_and_so_may_the_lengths_of_rows() -> None:
    signature = read_signature(SPEECH)
    lengths = torch.tensor([20, 11])
    batch = signature.make_batch({"batch": 2, "time": 20}, lengths={"time": lengths})

    assert signature.complete({"batch": 2, "time": 20})["frames"] == 9
    assert batch["audio_lengths"].tolist() == [20, 11]
    assert Formula("(time - 3) // 2 + 1").value({"time": lengths}).tolist() == [9, 5]


def test_rows_that_forward_joins_with_another_axis_are_rows() -> None:
    signature = read_signature(TAGGER)
    tags, pairs, views = signature.outputs
    assert (tags.axes, tags.returned_axes) == (("batch", "seq", 5), ("words", 5))
    assert (pairs.axes, pairs.classes) == ((4, "halves_of_a_row", "batch"), -2)
    assert views.axes == ("batch", 2, 6)
    assert signature.has_rows
    batch = signature.make_batch({"batch": 3, "seq": 5})
    assert batch["labels"].shape == (3, 5)
    assert batch["labels.pairs"].shape == (3, 2)
    value = torch.arange(3 * 5 * 5.0).view(15, 5)
    assert torch.equal(laid_out(value, tags, 3), value.view(3, 5, 5))
    joined = torch.arange(4 * 2 * 3.0).view(4, 6)
    assert torch.equal(laid_out(joined, pairs, 3), joined.view(4, 2, 3).movedim(2, 0))
    assert laid_out(value[:14], tags, 3).shape == (14, 5)


def test_each_output_has_labels_and_a_loss() -> None:
    signature = read_signature(POLICY)
    batch = signature.make_batch({"batch": 5})
    values = {"policy": torch.zeros(5, 3), "value": batch["labels.value"] + 2, "tags": torch.zeros(5, 6)}
    losses = {each.name: float(signature.loss_of(each, values[each.name], batch)) for each in signature.outputs}

    assert losses == pytest.approx({"policy": 1.0986, "value": 4.0, "tags": 0.6931}, abs=1e-4)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (0.0, math.inf), (-math.inf, -2.0)])
def test_random_numbers_to_learn_are_in_the_promised_range(low: float, high: float) -> None:
    outputs = {"image": {"axes": ["batch", 9], "range": [low, high]}, "center": {"axes": ["batch", 9]}}
    batch = read_signature({"inputs": {"x": {"axes": ["batch", 9]}}, "outputs": outputs}).make_batch({"batch": 50})
    assert batch["labels"].min() >= low
    assert batch["labels"].max() <= high
    assert batch["labels"].std() > 0.2
    assert batch["labels.center"].abs().max() > 2, "normal numbers where nothing is promised"


@pytest.mark.parametrize("task", TASKS.values(), ids=[kind.value for kind in TASKS])
def test_a_task_type_is_a_signature(task: TaskSpec) -> None:
    """Shapes, dtypes, labels and losses are those that the task type had."""
    signature = signature_of(task)
    sizes = {"batch": 3, "seq": 7, "target_seq": 5}
    theirs = make_batch(task, Sizes(3, 7, 5))
    free = {axis.name: sizes.get(axis.name, axis.typical()) for axis in signature.free_axes}
    ours = signature.make_batch(free)

    assert {name: (each.shape, each.dtype) for name, each in ours.items()} == {
        name: (each.shape, each.dtype) for name, each in theirs.items()
    }
    shape = signature.main.shape(signature.complete(free))
    assert shape == Sizes(3, 7, 5).logits_shape(task)
    logits = torch.randn(shape)
    assert torch.equal(signature.loss_of(signature.main, logits, theirs), make_adapter(task).loss(logits, theirs))


def test_every_task_type_is_there() -> None:
    assert set(PRESETS) == set(TASKS) == set(FACTS)


MISTAKES = {
    "an axis that nothing has": (
        {**UNET, "axes": {**UNET["axes"], "heigth": {"min": 4}}},
        "`axes.heigth`: no input or output has this axis. Did you mean 'height'? They have `batch`, `height`, `width`",
    ),
    "an output's axis without a size": (
        {**UNET, "outputs": {"noise": {"axes": ["batch", "places"]}}},
        "`outputs.noise.axes`: no input has the axis 'places', so it has no size: give `axes.places.from`, a formula or 'measured'",
    ),
    "a class axis out of range": (
        {**POLICY, "outputs": {"policy": {"axes": ["batch", 3], "kind": "class_scores", "classes": 2}}},
        "`outputs.policy.classes`: position 2 is outside the 2 axes",
    ),
    "no size left": (
        {**UNET, "axes": {"height": {"min": 20, "max": 23, "multiple_of": 8}}},
        "`axes.height`: no size is left by `min` 20, `max` 23, `multiple_of` 8",
    ),
    "a padding id beyond the table": (
        {**UNET, "inputs": {**UNET["inputs"], "step": {"axes": ["batch"], "values": {"ids": 9, "pad": 9}}}},
        "`inputs.step.values.pad`: 9 is outside the 9 ids",
    ),
    "an unknown kind": (
        {**UNET, "outputs": {"noise": {"axes": ["batch"], "kind": "class_score"}}},
        "`outputs.noise.kind`: no kind 'class_score'. Did you mean 'class_scores'? Valid: class_scores, binary_scores, values, "
        "probabilities, embedding, token_scores, ctc_scores, lengths, state, loss, other",
    ),
    "padding that nothing tells": (
        {**UNET, "axes": {"height": {"padding": "right"}}},
        "`axes.height.padding`: nothing tells which elements are real: give an input `lengths_of` or `mask_of` height, or ids with `pad`",
    ),
    "a formula that is none": (
        {**SPEECH, "axes": {**SPEECH["axes"], "frames": {"from": "time / 2"}}},
        "`axes.frames.from`: 'time / 2' is not a formula: it may hold axes, whole numbers, + - * // and parentheses",
    ),
    "a formula over an unknown axis": (
        {**SPEECH, "axes": {**SPEECH["axes"], "frames": {"from": "tme // 2"}}},
        "`axes.frames.from`: no input has the axis 'tme'. Did you mean 'time'? They have `batch`, `time`",
    ),
    "a state of no output": (
        {**POLICY, "inputs": {**POLICY["inputs"], "h": {"axes": ["batch", 4], "state": {"from": "hidden"}}}},
        "`inputs.h.state.from`: no output 'hidden'. There is `policy`, `tags`, `value`",
    ),
    "several kinds of values": (
        {**UNET, "inputs": {**UNET["inputs"], "step": {"axes": ["batch"], "values": {"ids": 9, "range": [0, 1]}}}},
        "`inputs.step.values`: expected one of range, ids, index_of, lengths_of, mask_of, one_of, from; got range, ids",
    ),
    "an unknown loss": (
        {**UNET, "outputs": {"noise": {"axes": ["batch", 3, "height", "width"], "loss": "mae"}}},
        "`outputs.noise.loss`: no loss 'mae'. Did you mean 'mse'? Valid: cross_entropy, log_loss, bce, mse, l1, huber, ctc, "
        "or a function as file.py:name",
    ),
    "inputs that cannot be swapped": (
        {**UNET, "symmetric": ["image", "step"]},
        "`symmetric`: `image`, `step` have different axes, so that they cannot be swapped",
    ),
}


@pytest.mark.parametrize(("keys", "line"), MISTAKES.values(), ids=MISTAKES)
def test_a_contradiction_is_one_line_with_its_key(keys: dict[str, Any], line: str) -> None:
    with pytest.raises(SignatureError) as caught:
        read_signature(keys)

    assert [mistake.message for mistake in caught.value.mistakes] == [line]


def test_every_contradiction_is_told_at_once() -> None:
    keys = {**UNET, "axes": {"heigth": {}}, "outputs": {"noise": {"axes": ["batch"], "kind": "nois"}}}
    with pytest.raises(SignatureError) as caught:
        read_signature(keys)

    assert [(mistake.code, mistake.key, mistake.suggestion) for mistake in caught.value.mistakes] == [
        ("unknown_axis", "axes.heigth", "height"),
        ("unknown_choice", "outputs.noise.kind", ""),
    ]


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="axis"):
        read_signature({**UNET, "inputs": {"image": {"axis": ["batch"]}}})


def test_an_axis_that_only_a_state_has_is_not_chosen() -> None:
    keys = {
        "inputs": {
            "tokens": {"axes": ["batch", "time"], "values": {"ids": 30}},
            "cache": {"axes": ["batch", 2, "past", 8], "state": {"from": "cache"}},
        },
        "outputs": {
            "logits": {"axes": ["batch", "time", 30], "kind": "token_scores"},
            "cache": {"axes": ["batch", 2, "all", 8], "kind": "state"},
        },
        "axes": {"time": {"order": "causal"}, "all": {"from": "past + time"}},
        "limits": ["past + time <= 12"],
    }
    signature = read_signature(keys)

    assert [axis.name for axis in signature.free_axes] == ["batch", "time"]
    assert "cache" not in signature.make_batch(signature.smallest_sizes())
    assert signature.allows({"time": 12})
    assert not signature.allows({"time": 13})


def test_the_choices_of_an_axis() -> None:
    assert list(Axis("a", 3, 10, multiple_of=4).choices()) == [4, 8]
    assert Axis("a", sizes=(32, 8)).choices() == [8, 32]
    assert Axis("a", 2).choices()[0] == 2
    assert Axis("a", 1, 1).typical() == 1
    assert Axis("a", 1, 2**31 - 1, multiple_of=4).typical() == 12


@pytest.mark.parametrize("content", EXTREMES)
def test_extreme_contents_stay_within_what_is_declared(content: str) -> None:
    batch = read_signature(UNET).make_batch({"batch": 2, "height": 16, "width": 16})
    signature = read_signature(UNET)
    image = signature.input("image").values.extreme(batch["image"], content, 1e4)
    step = signature.input("step").values.extreme(batch["step"], content, 1e4)

    assert 0 <= float(image.min()) <= float(image.max()) <= 1
    assert set(step.tolist()) <= {0, 999}
    assert float(Normal().extreme(torch.zeros(2, 4), "constant_large", 1e4).max()) == 1e4


BATCHES = """
from dataclasses import dataclass
from typing import Any

@dataclass
class Inner:
    bias: Any

@dataclass
class Batch:
    image: Any
    inner: Inner
    scale: float = 2.0
"""
GROUPED = {
    "inputs": {
        "batch": {"class": "batches.py:Batch"},
        "batch.inner": {"class": "batches.py:Inner"},
        "batch.image": {"axes": ["batch", 4]},
        "batch.inner.bias": {"axes": [4]},
        "pair.0": {"axes": ["batch", 4]},
        "pair.1": {"axes": ["batch", 2]},
    },
    "outputs": {"sum": {"axes": ["batch", 4]}},
}


class TakesGroups(torch.nn.Module):
    def forward(self, batch: Any, pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        first, second = pair
        return batch.image * batch.scale + batch.inner.bias + first + second.sum(1, keepdim=True)


def test_groups_become_dataclasses_and_tuples(tmp_path: Path) -> None:
    (tmp_path / "batches.py").write_text(BATCHES, encoding="utf-8")
    signature = read_signature(GROUPED, tmp_path)
    task = TaskSpec(TaskType.DECLARED, declared=signature)
    batch = make_batch(task, Sizes(3))

    found = make_adapter(task).logits(TakesGroups(), batch)

    expected = batch["batch.image"] * 2 + batch["batch.inner.bias"] + batch["pair.0"] + batch["pair.1"].sum(1, keepdim=True)
    assert torch.equal(found, expected)
    assert declared_keys(signature)["inputs"] == GROUPED["inputs"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"batch": {"class": "b.py:Batch"}}, "`inputs.batch.class`: no input is in this group; name them `batch.…`, as the class does"),
        ({"x": {"class": "b.py:X", "axes": [2]}, "x.y": {"axes": [2]}}, "`inputs.x.axes`: a group has only `class`; its inputs are `x.…`"),
        ({"x": {"class": "Batch"}, "x.y": {"axes": [2]}}, "`inputs.x.class`: got 'Batch', expected file.py:Class"),
        ({"x": {"class": ":Batch"}, "x.y": {"axes": [2]}}, "`inputs.x.class`: ':Batch' is a function of `model_file`"),
        ({"x": {"values": {"ids": 3}}}, r"`inputs.x`: no `axes`; \[\] is a scalar"),
    ],
)  # fmt: skip
def test_a_group_that_cannot_be_is_refused(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(SignatureError, match=message):
        read_signature({"inputs": inputs, "outputs": {"y": {"axes": [2]}}})


def test_a_class_that_does_not_take_its_inputs_is_told(tmp_path: Path) -> None:
    (tmp_path / "batches.py").write_text(BATCHES, encoding="utf-8")
    keys: dict[str, Any] = {
        "inputs": {"batch": {"class": "batches.py:Batch"}, "batch.picture": {"axes": ["batch", 4]}},
        "outputs": GROUPED["outputs"],
    }
    keys["inputs"]["pair"] = {"axes": ["batch", 4]}
    task = TaskSpec(TaskType.DECLARED, declared=read_signature(keys, tmp_path))

    with pytest.raises(
        ForwardError, match=r"batches.py:Batch cannot be made of `picture`: .*unexpected keyword argument 'picture'"
    ):
        make_adapter(task).logits(TakesGroups(), make_batch(task, Sizes(3)))


@pytest.mark.parametrize("axes", [("node", "graph"), ("graph", "node")], ids=["node first", "graph first"])
def test_typical_sizes_keep_limits(axes: tuple[str, str]) -> None:
    inputs = {f"of_{axis}": {"axes": [axis, 3]} for axis in axes}
    outputs = {"y": {"axes": ["graph"]}}
    signature = read_signature({"inputs": inputs, "outputs": outputs, "axes": {"node": {"max": 9}}, "limits": ["graph <= node"]})

    assert signature.allows(signature.typical_sizes())
    assert len(set(signature.typical_sizes().values())) == 2


def test_neighbours_of_an_element_are_of_its_group() -> None:
    keys = {
        "inputs": {
            "x": {"axes": ["atoms", 4]},
            "neighbours": {"axes": ["atoms", 3], "values": {"index_of": "atoms"}},
            "crystal": {"axes": ["atoms"], "values": {"index_of": "batch"}},
        },
        "outputs": {"energy": {"axes": ["batch", 1]}},
    }
    batch = read_signature(keys).make_batch({"atoms": 12, "batch": 3}, seed=1)
    own = batch["crystal"][:, None].expand(12, 3)

    assert batch["crystal"].unique().numel() > 1
    assert torch.equal(batch["crystal"][batch["neighbours"]], own)

"""The task types that a config may name: what is true of every model of each, and what a config would have to declare to say the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

from harness.tasks.signature import Signature

if TYPE_CHECKING:
    from harness.tasks.spec import TaskSpec


class TaskType(str, Enum):
    """The task types a config may name, and the one that stands for a declared signature."""

    CAUSAL_LM = "causal_lm"
    MASKED_LM = "masked_lm"
    SEQUENCE_CLASSIFICATION = "sequence_classification"
    TOKEN_CLASSIFICATION = "token_classification"
    SEQ2SEQ_LM = "seq2seq_lm"
    IMAGE_CLASSIFICATION = "image_classification"
    TABULAR_CLASSIFICATION = "tabular_classification"
    TABULAR_REGRESSION = "tabular_regression"
    DECLARED = "declared"


@dataclass(frozen=True)
class TaskFacts:
    """What is true of every model of a task type.

    Attributes:
        modality: The kind of input.
        inputs: Fields that ``forward`` may take, in the order in which they are matched by position.
        output: Axes of the logits: ``batch``, ``seq``, ``target_seq``, ``vocab``, ``classes``; a scalar has only ``batch``.
        requires: Config keys that the task cannot do without.
        rows: What a row of data holds: a text or several (``text``, ``labelled_text``, ``tagged_text``, ``pair_of_texts``), an ``image``, a
            row of a ``table``, or ``fields`` with the names of inputs and labels.
        datasets: The built-in sets that are made for it, the default first.
        loss: What the loss compares the logits with: ``classes``, the ``next_token`` of the input, or ``numbers``.
    """

    modality: str
    inputs: tuple[str, ...]
    output: tuple[str, ...]
    requires: tuple[str, ...]
    rows: str = "fields"
    datasets: tuple[str, ...] = ()
    loss: Literal["classes", "next_token", "numbers"] = "classes"


FACTS: dict[TaskType, TaskFacts] = {
    TaskType.CAUSAL_LM: TaskFacts(
        "text",
        ("input_ids", "attention_mask"),
        ("batch", "seq", "vocab"),
        ("vocab_size", "max_seq_len"),
        "text",
        ("lm_tiny_v1", "cls_tiny_v1"),
        "next_token",
    ),
    TaskType.MASKED_LM: TaskFacts(
        "text",
        ("input_ids", "attention_mask"),
        ("batch", "seq", "vocab"),
        ("vocab_size", "max_seq_len"),
        "text",
        ("lm_tiny_v1", "cls_tiny_v1"),
    ),
    TaskType.SEQUENCE_CLASSIFICATION: TaskFacts(
        "text",
        ("input_ids", "attention_mask"),
        ("batch", "classes"),
        ("vocab_size", "max_seq_len", "num_classes"),
        "labelled_text",
        ("cls_tiny_v1",),
    ),
    TaskType.TOKEN_CLASSIFICATION: TaskFacts(
        "text",
        ("input_ids", "attention_mask"),
        ("batch", "seq", "classes"),
        ("vocab_size", "max_seq_len", "num_classes"),
        "tagged_text",
    ),
    TaskType.SEQ2SEQ_LM: TaskFacts(
        "text",
        ("input_ids", "attention_mask", "decoder_input_ids"),
        ("batch", "target_seq", "vocab"),
        ("vocab_size", "max_seq_len"),
        "pair_of_texts",
        ("seq2seq_tiny_v1",),
    ),
    TaskType.IMAGE_CLASSIFICATION: TaskFacts(
        "vision", ("pixel_values",), ("batch", "classes"), ("image_size", "num_classes"), "image", ("vision_tiny_v1",)
    ),
    TaskType.TABULAR_CLASSIFICATION: TaskFacts(
        "tabular", ("features",), ("batch", "classes"), ("num_features", "num_classes"), "table"
    ),
    TaskType.TABULAR_REGRESSION: TaskFacts("tabular", ("features",), ("batch",), ("num_features",), "table", loss="numbers"),
}

MODALITIES = ("text", "vision", "tabular")


Keys = dict[str, Any]
"""Keys of a config that declare a signature."""


def causal_lm(task: TaskSpec) -> Keys:
    """Tokens in; at each, scores of the next one."""
    axes = {"seq": {**_lengths(task), "order": "causal", "padding": "right", "empty": True}}
    logits = {"axes": ["batch", "seq", task.vocab_size], "kind": "token_scores"}
    return {"inputs": _text(task), "outputs": {"logits": logits}, "axes": axes}


def masked_lm(task: TaskSpec) -> Keys:
    """Tokens in; at each, scores of what it was before it was masked."""
    logits = {"axes": ["batch", "seq", task.vocab_size], "kind": "token_scores"}
    return {"inputs": _text(task), "outputs": {"logits": logits}, "axes": _read_both_ways(task)}


def token_classification(task: TaskSpec) -> Keys:
    """Tokens in; at each, scores of classes."""
    logits = {"axes": ["batch", "seq", task.num_classes], "kind": "class_scores"}
    return {"inputs": _text(task), "outputs": {"logits": logits}, "axes": _read_both_ways(task)}


def sequence_classification(task: TaskSpec) -> Keys:
    """Tokens in; scores of classes for the whole."""
    logits = {"axes": ["batch", task.num_classes], "kind": "class_scores"}
    return {"inputs": _text(task), "outputs": {"logits": logits}, "axes": _read_both_ways(task)}


def seq2seq_lm(task: TaskSpec) -> Keys:
    """A source and the target so far in; at each target token, scores of the next one, which the labels hold."""
    target = task.vocabulary_of("decoder_input_ids")
    decoder = {"axes": ["batch", "target_seq"], "values": _ids(target, task.pad_token_id)}
    return {
        "inputs": {**_text(task), "decoder_input_ids": decoder},
        "outputs": {"logits": {"axes": ["batch", "target_seq", target], "kind": "token_scores"}},
        "labels": {"labels": {"axes": ["batch", "target_seq"], "values": {"ids": target}}},
        "axes": {**_read_both_ways(task), "target_seq": {"max": task.max_seq_len, "order": "causal"}},
    }


def image_classification(task: TaskSpec) -> Keys:
    """An image in; scores of classes."""
    assert task.image_size is not None
    channels, height, width = task.image_size
    return {
        "inputs": {"pixel_values": {"axes": ["batch", channels, "height", "width"]}},
        "outputs": {"logits": {"axes": ["batch", task.num_classes], "kind": "class_scores"}},
        "axes": {"height": {"sizes": [height]}, "width": {"sizes": [width]}},
    }


def tabular_classification(task: TaskSpec) -> Keys:
    """A row of numbers in; scores of classes."""
    return {
        "inputs": {"features": {"axes": ["batch", task.num_features]}},
        "outputs": {"logits": {"axes": ["batch", task.num_classes], "kind": "class_scores"}},
    }


def tabular_regression(task: TaskSpec) -> Keys:
    """A row of numbers in; one number out."""
    return {
        "inputs": {"features": {"axes": ["batch", task.num_features]}},
        "outputs": {"prediction": {"axes": ["batch"], "kind": "values"}},
    }


PRESETS: dict[TaskType, Callable[[TaskSpec], Keys]] = {
    TaskType.CAUSAL_LM: causal_lm,
    TaskType.MASKED_LM: masked_lm,
    TaskType.SEQUENCE_CLASSIFICATION: sequence_classification,
    TaskType.TOKEN_CLASSIFICATION: token_classification,
    TaskType.SEQ2SEQ_LM: seq2seq_lm,
    TaskType.IMAGE_CLASSIFICATION: image_classification,
    TaskType.TABULAR_CLASSIFICATION: tabular_classification,
    TaskType.TABULAR_REGRESSION: tabular_regression,
}
"""What a task type stands for."""


def signature_of(task: TaskSpec) -> Signature:
    """The signature of a task that is named by its type."""
    from harness.tasks.declared import read_signature  # pydantic, which whoever reads the catalogue does without

    return read_signature(PRESETS[task.task_type](task))


def _text(task: TaskSpec) -> Keys:
    return {
        "input_ids": {"axes": ["batch", "seq"], "values": _ids(task.vocab_size, task.pad_token_id)},
        "attention_mask": {"axes": ["batch", "seq"], "values": {"mask_of": "seq"}, "optional": True},
    }


def _ids(count: int | None, pad: int | None) -> Keys:
    return {"ids": count} if pad is None else {"ids": count, "pad": pad}


def _lengths(task: TaskSpec) -> Keys:
    return {"min": task.min_seq_len, "max": task.max_seq_len}


def _read_both_ways(task: TaskSpec) -> Keys:
    return {"seq": {**_lengths(task), "padding": "right", "empty": True}}

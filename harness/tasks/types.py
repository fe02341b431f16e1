"""The task types that a config may name, and what is true of every model of each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal


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
        output: Axes of the logits: ``batch``, ``seq``, ``target_seq``, ``vocab``, ``classes``; a scalar has ``batch`` alone.
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

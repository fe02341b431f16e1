"""What a task promises: the inputs a model takes, the logits it returns, and the sizes that are free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from harness.tasks.axes import BATCH
from harness.tasks.kinds import ClassScores, TokenScores
from harness.tasks.presets import FACTS, TaskFacts, TaskType, signature_of
from harness.tasks.values import Ids

if TYPE_CHECKING:
    from harness.tasks.signature import Input, Signature


def data_identity(task: TaskSpec | None) -> dict[str, Any]:
    """What data must have in common to be compared, as it is stored; of ``None`` that of a table without a task."""
    if task is None:
        return {"modality": "tabular", "task_type": None, "vocab_size": None}
    vocabulary = task.vocab_size if task.is_text else None
    return {"modality": task.facts.modality, "task_type": task.task_type.value, "vocab_size": vocabulary}


@dataclass(frozen=True)
class TaskSpec:
    """A task with its sizes: everything needed to make inputs for a model and to judge its outputs.

    Attributes:
        vocab_size: Number of token ids; of a seq2seq task those of the source.
        target_vocab_size: Number of token ids of a seq2seq task's target, where they are not those of the source.
        min_seq_len: Shortest (source) sequence in tokens that the model takes.
        image_size: ``(C, H, W)`` in pixels.
        pad_token_id: Token that fills padded positions; ``None`` when the task has none.
        properties: Properties the user switched on or off by name.
        tolerances: Bounds the user set by property name, instead of the derived ones.
        declared: The signature of a task whose type is ``DECLARED``.
    """

    task_type: TaskType
    task_name: str = ""
    modality: str = ""
    vocab_size: int | None = None
    max_seq_len: int | None = None
    pad_token_id: int | None = None
    image_size: tuple[int, int, int] | None = None
    num_classes: int | None = None
    num_features: int | None = None
    min_seq_len: int = 1
    target_vocab_size: int | None = None
    metrics: tuple[str, ...] = ()
    properties: Mapping[str, bool] = field(default_factory=dict)
    tolerances: Mapping[str, float] = field(default_factory=dict)
    declared: Signature | None = None

    @cached_property
    def signature(self) -> Signature:
        """What goes in, what comes out, and what is promised: as declared, or as the task type stands for."""
        if self.declared is not None:
            return self.declared
        return signature_of(self)

    @classmethod
    def of_signature(cls, signature: Signature, name: str = "", **keys: Any) -> TaskSpec:
        """A declared task.

        Args:
            signature: What it declares.
            name: What reports call it.
            keys: Further attributes, such as ``metrics``.
        """
        return cls(TaskType.DECLARED, name, TaskType.DECLARED.value, declared=signature, **keys)

    @property
    def title(self) -> str:
        """What messages call the task: its type, or ``declared``."""
        return self.task_type.value

    @property
    def facts(self) -> TaskFacts:
        """What holds for every model of this task type; of a declared task, what its signature says."""
        if self.task_type is not TaskType.DECLARED:
            return FACTS[self.task_type]
        inputs = tuple(each.name for each in self.signature.inputs if not each.state)
        return TaskFacts(self.task_type.value, inputs, tuple(map(str, self.signature.main.axes)), ())

    @property
    def switched_off(self) -> frozenset[str]:
        """Properties that the user switched off."""
        return frozenset(name for name, on in self.properties.items() if not on)

    @property
    def is_text(self) -> bool:
        """Whether the model reads token ids."""
        return self.facts.modality == "text"

    @property
    def is_vision(self) -> bool:
        """Whether the model reads images."""
        return self.facts.modality == "vision"

    @property
    def is_tabular(self) -> bool:
        """Whether the model reads rows of a table."""
        return self.facts.modality == "tabular"

    @property
    def is_seq2seq(self) -> bool:
        """Whether the model reads a source and writes a target."""
        return self.declared is None and "target_seq" in self.signature.axes

    @property
    def is_regression(self) -> bool:
        """Whether the output is a number rather than scores of classes."""
        return self.signature.main.classes is None

    @property
    def has_classes(self) -> bool:
        """Whether the logits are scores of classes."""
        return not self.is_regression

    @property
    def has_rows(self) -> bool:
        """Whether the inputs have rows that do not depend on each other."""
        return self.declared is None or self.declared.has_rows

    @property
    def has_inputs_as_labels(self) -> bool:
        """Whether all labels are inputs again, as the tokens of language models are."""
        return self.signature.has_inputs_as_labels

    @property
    def has_random_labels(self) -> bool:
        """Whether the tokens that are to be guessed are drawn at random and hidden when a row is read; rows of a declared task hold both."""
        return self.declared is None and self.signature.has_hidden_labels(self.signature.main)

    @cached_property
    def looked_up(self) -> tuple[Input, ...]:
        """The inputs of ids, where one call may read them in any number of rows."""
        signature = self.signature
        batch = signature.axes.get(BATCH)
        if batch is None or not batch.takes_any or not signature.has_rows or signature.grouping:
            return ()
        if any(BATCH not in each.axes for each in signature.inputs):
            return ()
        ids = (each for each in signature.inputs if isinstance(each.values, Ids) and not each.state)
        return tuple(each for each in ids if isinstance(each.values.count, int))  # type: ignore[attr-defined]

    @cached_property
    def read_in_context(self) -> tuple[Input, str] | None:
        """The ids of which the main output says something one by one, in the light of the others, and their axis; ``None`` where it does not.

        That is so along a causal axis, and of scores of tokens or classes where rows may be shorter, as of the words of a sentence.
        """
        main, axes = self.signature.main, self.signature.axes
        classes = None if main.classes is None else main.axes[main.classes]
        for each in self.looked_up:
            axis = next((name for name in each.axes if name != BATCH), None)
            if len(each.axes) != 2 or not isinstance(axis, str) or axis not in main.axes or axes[axis].order == "none":
                continue
            scores = isinstance(main.kind, (TokenScores, ClassScores)) and classes != axis
            if axes[axis].order == "causal" or (scores and axes[axis].padding):
                return each, axis
        return None

    @property
    def causal_field(self) -> str:
        """The token field along which causality must hold."""
        return "decoder_input_ids" if self.is_seq2seq else "input_ids"

    @property
    def output_size(self) -> int | None:
        """Number of classes of the logits; ``None`` for other outputs."""
        if self.declared is not None:
            return self.signature.main.class_count
        last = self.facts.output[-1]
        return {"vocab": self.vocabulary_of(self.causal_field), "classes": self.num_classes}.get(last)

    def vocabulary_of(self, field: str) -> int | None:
        """Number of token ids that a field of token ids may hold."""
        if self.declared is not None:
            return next((int(each.values.count) for each in self.looked_up if each.name == field), None)  # type: ignore[attr-defined]
        return self.target_vocab_size or self.vocab_size if field == "decoder_input_ids" else self.vocab_size

    def filler_of(self, field: str) -> int | None:
        """The id that fills padded places of a field of ids."""
        if self.declared is None:
            return self.pad_token_id
        return next((each.values.pad for each in self.looked_up if each.name == field), None)  # type: ignore[attr-defined]

    @property
    def is_per_position(self) -> bool:
        """Whether there are logits for every position of a sequence."""
        return self.is_text and len(self.facts.output) == 3

    def logits_shape(self, batch: int, seq: int | None = None, target_seq: int | None = None) -> tuple[int, ...]:
        """The shape the logits must have for a batch of the given sizes."""
        sizes = {"batch": batch, "seq": seq, "target_seq": target_seq}
        return self.signature.main.shape(
            self.signature.complete({axis: size for axis, size in sizes.items() if size is not None})
        )

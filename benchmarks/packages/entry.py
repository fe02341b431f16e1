"""An entry of the board: a class of a package, the arguments that make it tiny, and the task it is judged as."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Keys = Mapping[str, Any]
"""Keys of a config."""


@dataclass(frozen=True)
class Entry:
    """A model class of a package.

    Attributes:
        package: The package's name on PyPI.
        name: The class, or the class and what is special about it.
        imports: The import line of the model file.
        build: The expression that builds the model.
        task: The config's keys, a task type with its sizes or a signature; empty where neither says what the model takes or returns.
        waits: What a signature cannot say of it.
        own: What the model file holds beside ``build_model``, where the class is a part that needs a model around it.
        help_line: The one option of ``modeltiers init`` that a user adds where it wrote no config that runs, or the config of another task;
            ``task`` where no option says it, and the entry's own task is given in place of what ``init`` writes.
    """

    package: str
    name: str
    imports: str
    build: str
    task: Keys = field(default_factory=dict)
    waits: str = ""
    own: str = ""
    help_line: str = ""

    @property
    def key(self) -> str:
        """A name that no other entry has, and that a file can have."""
        return f"{self.package}-{self.name}".replace(" ", "_").replace("/", "_")

    @property
    def model_file(self) -> str:
        """The model file's content."""
        own = f"\n\n{self.own.strip()}\n" if self.own else ""
        return f"{self.imports}\n{own}\n\ndef build_model():\n    return {self.build}\n"

    @property
    def is_declared(self) -> bool:
        """Whether its task is a signature."""
        return "inputs" in self.task

    @property
    def fingerprint(self) -> str:
        """Another one where the model or its task is another: results of the old one no longer hold."""
        return hashlib.sha256(json.dumps([self.model_file, dict(self.task)], sort_keys=True).encode()).hexdigest()[:12]


def image(side: int = 32, channels: int = 3, classes: int = 5) -> Keys:
    """An image classifier."""
    return {"task_type": "image_classification", "image_size": [channels, side, side], "num_classes": classes}


def causal(vocabulary: int = 40, length: int = 16, **more: Any) -> Keys:
    """A causal language model."""
    return {"task_type": "causal_lm", "vocab_size": vocabulary, "max_seq_len": length, **more}


def masked(vocabulary: int = 40, length: int = 16, **more: Any) -> Keys:
    """A masked language model."""
    return {"task_type": "masked_lm", "vocab_size": vocabulary, "max_seq_len": length, **more}


def sequence(vocabulary: int = 40, length: int = 16, classes: int = 3, **more: Any) -> Keys:
    """A classifier of sequences."""
    return {
        "task_type": "sequence_classification",
        "vocab_size": vocabulary,
        "max_seq_len": length,
        "num_classes": classes,
        **more,
    }


def tokens(vocabulary: int = 40, length: int = 16, classes: int = 3, **more: Any) -> Keys:
    """A classifier of tokens."""
    return {**sequence(vocabulary, length, classes, **more), "task_type": "token_classification"}


def seq2seq(vocabulary: int = 40, length: int = 16, **more: Any) -> Keys:
    """A sequence-to-sequence model."""
    return {"task_type": "seq2seq_lm", "vocab_size": vocabulary, "max_seq_len": length, **more}


def table(features: int = 6, classes: int = 3) -> Keys:
    """A classifier of rows."""
    return {"task_type": "tabular_classification", "num_features": features, "num_classes": classes}


def regression(features: int = 6) -> Keys:
    """A regression on rows."""
    return {"task_type": "tabular_regression", "num_features": features}


def declared(inputs: Keys, outputs: Keys, axes: Keys | None = None, **more: Any) -> Keys:
    """A task that is declared as a signature."""
    return {"inputs": dict(inputs), "outputs": dict(outputs), **({"axes": dict(axes)} if axes else {}), **more}


def sides(least: int, most: int, step: int = 1) -> Keys:
    """A free height and width."""
    side = {"min": least, "max": most, "multiple_of": step} if step > 1 else {"min": least, "max": most}
    return {"height": side, "width": side}


def plane(channels: int) -> list[Any]:
    """The axes of an image or a map with a free height and width."""
    return ["batch", channels, "height", "width"]

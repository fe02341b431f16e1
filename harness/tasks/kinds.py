"""What an output means: a class for each kind, which knows its labels and its loss.

Losses take an output and its labels and return the mean over the labels that count. A label of -100 counts for nothing.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from harness.errors import OutputError
from harness.tasks.axes import BATCH, Size
from harness.tasks.values import Ids, IndexOf, Normal, OneOf, Values

if TYPE_CHECKING:
    from torch import Tensor

_SYMBOLS = 3
"""How many symbols a row's labels have where they are made for connectionist temporal classification."""

IGNORED = -100
"""Label of an element that the loss leaves out."""

LOSSES = ("cross_entropy", "log_loss", "bce", "mse", "l1", "huber", "ctc")
"""The losses that the config can name."""


@dataclass(frozen=True)
class LabelShape:
    """What the labels of an output look like."""

    axes: tuple[Size, ...]
    values: Values


class Kind(ABC):
    """One kind of output.

    Attributes:
        name: As the config says it.
        default_loss: The loss where the config names none; empty where there is none.
        is_fractional: Whether the output is floating point.
    """

    name: ClassVar[str]
    default_loss: ClassVar[str] = ""
    is_fractional: ClassVar[bool] = True

    def labels(self, axes: Sequence[Size]) -> LabelShape | None:
        """The labels of an output with some axes; ``None`` where they do not follow from it."""
        return None

    def written(self) -> dict[str, Any]:
        """The keys of the config that say it."""
        return {"kind": self.name}


@dataclass(frozen=True)
class ClassScores(Kind):
    """Unnormalised scores of classes.

    Attributes:
        classes: Position of the axis of the classes.
    """

    classes: int = -1
    name: ClassVar[str] = "class_scores"
    default_loss: ClassVar[str] = "cross_entropy"

    def labels(self, axes: Sequence[Size]) -> LabelShape | None:
        """A class wherever there are scores."""
        return _class_labels(axes, self.classes)

    def written(self) -> dict[str, Any]:
        """With the position where it is not the last."""
        return _with_classes(self.name, self.classes)


@dataclass(frozen=True)
class TokenScores(ClassScores):
    """Scores of tokens; of the next one where an axis of the output is causal."""

    name: ClassVar[str] = "token_scores"


@dataclass(frozen=True)
class Probabilities(Kind):
    """Probabilities: a distribution over classes, or a number between 0 and 1 each.

    Attributes:
        classes: Position of the axis along which they add up to 1; ``None`` where each stands for itself.
    """

    classes: int | None = None
    name: ClassVar[str] = "probabilities"
    default_loss: ClassVar[str] = "log_loss"

    def labels(self, axes: Sequence[Size]) -> LabelShape | None:
        """A class wherever there is a distribution; else yes or no."""
        return LabelShape(tuple(axes), OneOf((0.0, 1.0))) if self.classes is None else _class_labels(axes, self.classes)

    def written(self) -> dict[str, Any]:
        """With the position of the classes, where they have an axis."""
        return {"kind": self.name} if self.classes is None else {"kind": self.name, "classes": self.classes}


@dataclass(frozen=True)
class BinaryScores(Kind):
    """Scores of which each is a yes or a no, as several labels of one row are."""

    name: ClassVar[str] = "binary_scores"
    default_loss: ClassVar[str] = "bce"

    def labels(self, axes: Sequence[Size]) -> LabelShape | None:
        """1 for yes and 0 for no, one a score."""
        return LabelShape(tuple(axes), OneOf((0.0, 1.0)))


@dataclass(frozen=True)
class Numbers(Kind):
    """Numbers to predict."""

    name: ClassVar[str] = "values"
    default_loss: ClassVar[str] = "mse"

    def labels(self, axes: Sequence[Size]) -> LabelShape | None:
        """A number each."""
        return LabelShape(tuple(axes), Normal())


@dataclass(frozen=True)
class Embedding(Kind):
    """A vector that stands for a row; how it is trained must be said.

    Attributes:
        norm: Its length where that is promised.
    """

    norm: float | None = None
    name: ClassVar[str] = "embedding"

    def written(self) -> dict[str, Any]:
        """With the promised length."""
        return {"kind": self.name} if self.norm is None else {"kind": self.name, "norm": self.norm}


@dataclass(frozen=True)
class CtcScores(Kind):
    """Scores of symbols along time for connectionist temporal classification (Graves et al., ICML 2006).

    Attributes:
        blank: The symbol that stands for none.
        symbols: Position of the axis of the symbols; ``classes`` in a config.
    """

    blank: int = 0
    symbols: int = -1
    name: ClassVar[str] = "ctc_scores"
    default_loss: ClassVar[str] = "ctc"

    def labels(self, axes: Sequence[Size]) -> LabelShape | None:
        """A few symbols a row, none of them the blank."""
        classes = axes[self.symbols]
        return LabelShape((BATCH, _SYMBOLS), Ids(classes, pad=self.blank)) if isinstance(classes, int) and classes > 1 else None

    def written(self) -> dict[str, Any]:
        """With the blank symbol, and the position of the symbols where it is not the last."""
        return _with_classes(self.name, self.symbols) | {"blank": self.blank}


@dataclass(frozen=True)
class Lengths(Kind):
    """The real length of each row along an axis of the outputs.

    Attributes:
        of: The axis.
    """

    of: str
    name: ClassVar[str] = "lengths"
    is_fractional: ClassVar[bool] = False

    def written(self) -> dict[str, Any]:
        """With the axis."""
        return {"kind": self.name, "of": self.of}


@dataclass(frozen=True)
class State(Kind):
    """What the next call takes, such as a hidden state or a cache, in any nesting."""

    name: ClassVar[str] = "state"


@dataclass(frozen=True)
class Loss(Kind):
    """The loss itself, a scalar."""

    name: ClassVar[str] = "loss"


@dataclass(frozen=True)
class Other(Kind):
    """Something of which only the shape is promised."""

    name: ClassVar[str] = "other"


KINDS: dict[str, type[Kind]] = {
    kind.name: kind
    for kind in (
        ClassScores,
        BinaryScores,
        Numbers,
        Probabilities,
        Embedding,
        TokenScores,
        CtcScores,
        Lengths,
        State,
        Loss,
        Other,
    )
}
"""The kinds by name."""


SCORES = (ClassScores, BinaryScores, CtcScores)
"""Kinds of outputs that may take any value, before a softmax or sigmoid."""


def mean_loss(name: str, output: Tensor, labels: Tensor, classes: int = -1) -> Tensor:
    """A loss by name, as the mean over the labels that count (a scalar; of scores in nats).

    Args:
        name: One of ``LOSSES``.
        output: What the model returned.
        labels: Its labels.
        classes: Position of the axis of the classes, for losses over classes.

    Raises:
        ValueError: There is no such loss.
        OutputError: The output has another shape than its labels, as one that is another in train mode.
    """
    import torch
    import torch.nn.functional as F

    if name in ("cross_entropy", "log_loss") and not labels.is_floating_point():
        if output.ndim < 2:
            raise OutputError(f"the output has shape {list(output.shape)}, without an axis for rows beside that of the classes")
        scores = output.movedim(classes, -1).flatten(0, -2)
        scores = scores if name == "cross_entropy" else scores.clamp_min(torch.finfo(scores.dtype).tiny).log()
        pick = F.cross_entropy if name == "cross_entropy" else F.nll_loss
        try:
            return pick(scores, labels.flatten(), ignore_index=IGNORED)
        except IndexError as error:
            raise OutputError(
                f"the output has shape {list(output.shape)}, and its labels more classes: does forward return something else in train mode?"
            ) from error
    elementwise: dict[str, Callable[..., Tensor]] = {
        "bce": F.binary_cross_entropy_with_logits,
        "log_loss": F.binary_cross_entropy,
        "mse": F.mse_loss,
        "l1": F.l1_loss,
        "huber": F.huber_loss,
    }
    if name not in elementwise:
        raise ValueError(f"no loss {name!r}; valid: {', '.join(LOSSES)}")
    if output.shape != labels.shape:
        raise OutputError(
            f"the output has shape {list(output.shape)}, its labels {list(labels.shape)}: does forward return something else in train mode?"
        )
    counts = labels != IGNORED
    if name == "log_loss":
        # A weighted mean of ones may be larger by rounding; the range itself is `declared_outputs`' matter.
        output = output.clamp(0.0, 1.0)
    return elementwise[name](output[counts], labels[counts].to(output.dtype))


def ctc_loss(scores: Tensor, symbols: Tensor, frames: Tensor, blank: int) -> Tensor:
    """The loss of connectionist temporal classification, as the mean over the rows, each divided by its symbols.

    A row with more symbols than its steps have room for is judged by as many as half of its steps, since no path spells all of them.

    Args:
        scores: Of each symbol at each step, ``[B, T, C]``; logarithms of probabilities or unnormalised.
        symbols: What is said (int64 ``[B, L]``), -100 where a row has no more.
        frames: How many steps of each row are real (int64 ``[B]``).
        blank: The symbol that stands for none.
    """
    import torch
    import torch.nn.functional as F

    frames = frames.to(symbols.device)
    said = symbols != IGNORED
    repeated = ((symbols[:, 1:] == symbols[:, :-1]) & said[:, 1:]).sum(1)
    lengths = said.sum(1)
    half = torch.div(frames, 2, rounding_mode="floor")
    room = torch.where(lengths + repeated <= frames, lengths, torch.minimum(lengths, half))
    spelt = symbols.masked_fill(~said, blank)
    told = F.ctc_loss(scores.log_softmax(-1).transpose(0, 1), spelt, frames, room, blank, reduction="none", zero_infinity=False)
    return (told / room.clamp(min=1)).mean()


def _class_labels(axes: Sequence[Size], classes: int) -> LabelShape:
    rest = list(axes)
    size = rest.pop(classes)
    return LabelShape(tuple(rest), Ids(size) if isinstance(size, int) else IndexOf(size))


def _with_classes(name: str, classes: int) -> dict[str, Any]:
    return {"kind": name} if classes == -1 else {"kind": name, "classes": classes}

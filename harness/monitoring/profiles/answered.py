"""What an output says, by its kind: classes, yes or no, numbers, symbols or vectors; a bounded number of figures a row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.evaluation.answers import widened
from harness.monitoring.features.values import Ids, Numbers, Values, Vectors, name_of_id
from harness.monitoring.profiles.fields import MOST_FIGURES, Field, measure_field, row_axes
from harness.tasks.axes import Size
from harness.tasks.kinds import (
    BinaryScores,
    ClassScores,
    CtcScores,
    Embedding,
    Lengths,
    Loss,
    Other,
    Probabilities,
    State,
)
from harness.tasks.kinds import Numbers as NumbersKind
from harness.tasks.signature import Output
from harness.tasks.values import Normal

_NO_CLASS = -1
_PIECE = 1 << 22


@dataclass(frozen=True)
class Answered:
    """An output on its way to being counted."""

    output: Output
    name: str
    names: tuple[str, ...] = ()

    @property
    def row_axes(self) -> tuple[Size, ...]:
        """Its axes in a single row."""
        return row_axes(self.output.axes)


def said_by(answered: Answered, value: Tensor, real: Tensor | None) -> dict[str, Values]:
    """What an output says of each row.

    Args:
        answered: The output.
        value: ``[B, …]``, the rows first.
        real: Which positions count of an output with one axis of them, bool ``[B, S]``; ``None`` where all do.
    """
    kind = answered.output.kind
    if isinstance(kind, (State, Loss)) or (isinstance(kind, Other) and not value.is_floating_point()):
        return {}
    if isinstance(kind, ClassScores) or (isinstance(kind, Probabilities) and kind.classes is not None):
        place = answered.output.classes
        return _classes(answered, value.movedim(-1 if place is None else place, -1), real)
    if isinstance(kind, (BinaryScores, Probabilities)):
        return _yes_or_no(answered, widened(value).sigmoid() if isinstance(kind, BinaryScores) else widened(value), real)
    if isinstance(kind, CtcScores):
        return _symbols(answered, value, real)
    if isinstance(kind, Lengths):
        return {f"{answered.name}.length": Numbers(_array(value.double()))}
    if isinstance(kind, Embedding):
        return _vectors(answered, value, real)
    return _numbers(answered, value, real, "prediction" if isinstance(kind, NumbersKind) else "value")


def _classes(answered: Answered, scores: Tensor, real: Tensor | None) -> dict[str, Values]:
    """Of scores ``[B, …, C]``."""
    name, size, positions = answered.name, scores.shape[-1], scores.ndim - 2
    are_probabilities = isinstance(answered.output.kind, Probabilities)
    rows = None
    if positions:
        counts = real if real is not None and positions == 1 else torch.ones(scores.shape[:-1], dtype=torch.bool)
        rows = torch.arange(len(scores)).reshape(-1, *[1] * positions).expand_as(counts)[counts.cpu()].numpy()
        scores_of = scores[counts.to(scores.device)]
    else:
        scores_of = scores
    predicted, numbers = _measured(scores_of, keep=not positions and size <= MOST_FIGURES, are_probabilities=are_probabilities)
    said: dict[str, Values] = {}
    if positions < 2:
        said[f"{name}.class"] = Ids(predicted, size, rows, answered.names)
    elif size <= MOST_FIGURES and rows is not None:
        for level in range(size):
            share = _row_means((predicted == level).astype(np.float64), rows, len(scores))
            said[f"{name}.share.{name_of_id(level, answered.names)}"] = Numbers(share)
    for key, values in numbers.items():
        part = f"probability.{name_of_id(int(key), answered.names)}" if key.isdigit() else key
        said[f"{name}.{part}"] = Numbers(values if rows is None else _row_means(values, rows, len(scores)))
    return said


def _measured(scores: Tensor, keep: bool, are_probabilities: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The likeliest class of each, ``-1`` where there is NaN, and numbers by name; by class where the probabilities are kept."""
    predicted: list[np.ndarray] = []
    numbers: dict[str, list[np.ndarray]] = {}
    for piece in scores.split(max(1, _PIECE // scores.shape[-1])):
        wide = widened(piece)
        logs = wide.clamp_min(torch.finfo(wide.dtype).tiny).log() if are_probabilities else F.log_softmax(wide, dim=-1)
        probabilities = logs.exp()
        best = probabilities.topk(min(2, logs.shape[-1]), dim=-1).values
        broken = logs.isnan().any(dim=-1)
        predicted.append(_array(logs.argmax(dim=-1).masked_fill(broken, _NO_CLASS)))
        found = {
            "confidence": best[:, 0],
            "entropy": -(probabilities * logs.clamp_min(torch.finfo(logs.dtype).min)).sum(dim=-1),
            "margin": best[:, 0] - best[:, -1],
            **({str(number): column for number, column in enumerate(probabilities.T)} if keep else {}),
        }
        for name, values in found.items():
            numbers.setdefault(name, []).append(_array(values.masked_fill(broken, torch.nan).cpu().double()))
    return np.concatenate(predicted), {name: np.concatenate(values) for name, values in numbers.items()}


def _yes_or_no(answered: Answered, chance: Tensor, real: Tensor | None) -> dict[str, Values]:
    """Of the probabilities of a yes ``[B, …]``: of a single one as of two classes, of several labels each, of positions their mean."""
    name, chance = answered.name, chance.cpu().double()
    entropy = torch.special.entr(chance) + torch.special.entr(1 - chance)
    axes = answered.row_axes
    if not axes:
        said = (chance > 0.5).long().masked_fill(chance.isnan(), _NO_CLASS)
        return {
            f"{name}.class": Ids(_array(said), 2),
            f"{name}.probability": Numbers(_array(chance)),
            f"{name}.confidence": Numbers(_array(torch.maximum(chance, 1 - chance))),
            f"{name}.entropy": Numbers(_array(entropy)),
        }
    if len(axes) == 1 and isinstance(axes[0], int) and axes[0] <= MOST_FIGURES:
        parts: dict[str, Values] = {
            f"{name}.probability.{place}": Numbers(_array(column)) for place, column in enumerate(chance.T)
        }
        return {**parts, f"{name}.entropy": Numbers(_array(entropy.mean(1)))}
    yes = (chance > 0.5).double().masked_fill(chance.isnan(), torch.nan)
    means = {"probability": chance, "yes": yes, "entropy": entropy}
    return {f"{name}.{part}": Numbers(_array(_mean_over(values, real))) for part, values in means.items()}


def _symbols(answered: Answered, scores: Tensor, real: Tensor | None) -> dict[str, Values]:
    """Of scores along time ``[B, T, C]``: the likeliest symbols, repeated ones once and without the blank."""
    scores = answered.output.in_steps(scores)
    kind, size = answered.output.kind, scores.shape[-1]
    best = widened(scores).softmax(-1).max(-1)
    steps, sure = best.indices.cpu(), best.values.cpu().double()
    counts = torch.ones(steps.shape, dtype=torch.bool) if real is None else real.cpu()
    texts: list[np.ndarray] = []
    for row, keep in zip(steps, counts, strict=True):
        symbols = torch.unique_consecutive(row[keep])
        texts.append(symbols[symbols != getattr(kind, "blank", 0)].numpy())
    of_rows = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    return {
        f"{answered.name}.tokens": Ids(np.concatenate([np.empty(0, np.int64), *texts]).astype(np.int64), size, of_rows),
        f"{answered.name}.length": Numbers(np.array([len(text) for text in texts], np.float64)),
        f"{answered.name}.confidence": Numbers(_array(_mean_over(sure, counts))),
    }


def _vectors(answered: Answered, value: Tensor, real: Tensor | None) -> dict[str, Values]:
    """Of vectors ``[B, …, D]``: their length, and along fixed random directions they themselves; of positions the mean of each."""
    vectors = value.cpu().double()
    norms = vectors.norm(dim=-1)
    if vectors.ndim > 2:
        counts = torch.ones(norms.shape, dtype=torch.bool) if real is None or real.shape != norms.shape else real.cpu()
        norms = _mean_over(norms, counts)
        weights = counts.double().flatten(1)
        vectors = torch.einsum("bpd,bp->bd", vectors.flatten(1, -2), weights) / weights.sum(1, keepdim=True)
    return {f"{answered.name}.norm": Numbers(_array(norms)), f"{answered.name}.embedding": Vectors(_array(vectors))}


def _numbers(answered: Answered, value: Tensor, real: Tensor | None, what: str) -> dict[str, Values]:
    axes = answered.row_axes
    free = [axis for axis in axes if isinstance(axis, str)]
    along = free[0] if len(free) == 1 and real is not None else ""
    field = Field("", f"{answered.name}.{what}", axes, Normal(), along=along)
    rows = list(_array(value.cpu().double()))
    kept = [None] * len(rows) if real is None or not along else list(real.cpu().numpy())
    return dict(measure_field(field, rows, kept))


def _mean_over(values: Tensor, real: Tensor | None) -> Tensor:
    """The mean over each row's positions that count, ``[B]``."""
    flat = values.flatten(1)
    if real is None or real.shape != values.shape:
        return flat.mean(1)
    weights = real.to(flat).flatten(1)
    return (flat * weights).sum(1) / weights.sum(1)


def _row_means(values: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """Mean of each row's values, float64 ``[B]``; NaN for a row without any."""
    with np.errstate(invalid="ignore"):
        return np.bincount(rows, values, minlength=count) / np.bincount(rows, minlength=count)


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.cpu().numpy())

"""Copies of a fresh model that are closer to a trained one: running statistics that saw a few batches, and weights moved a little.

A fresh network with batch norm normalises by mean 0 and variance 1 in eval mode, which are nobody's statistics: in a deep one the signal
fades to nothing, though in training, from the first step on, every norm keeps it up. What is asked of the signal is asked of a copy whose
statistics are those of a few batches. A branch that starts at zero, such as a gated one, is told from one that stays there by weights that
were moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor, nn

from harness.compat import NormBase
from harness.errors import UserError
from harness.models.adapter_layers import named_as_adapters
from harness.models.repeated import rows_of_alike, shorten
from harness.properties.calling import mode
from harness.properties.large_tensors import views_of
from harness.properties.noise import is_packed
from harness.properties.prerequisites import PrerequisiteFailure
from harness.properties.subject import Shared, Subject
from harness.runtime import is_large, seeded

_BATCHES = 8
_ROWS = 8


def has_running_statistics(model: nn.Module) -> bool:
    """Whether a module of the model keeps statistics of the batches it saw."""
    return any(True for _ in _statistics(model))


def untouched_statistics(model: nn.Module) -> bool:
    """Whether the model keeps running statistics, all of them as they were made: mean 0 and variance 1."""
    found = list(_statistics(model))
    return bool(found) and all(bool((mean == 0).all()) and bool((variance == 1).all()) for mean, variance in found)


def calibrated(subject: Subject) -> nn.Module:
    """The model in eval mode, or where its running statistics are untouched a copy that saw a few batches in train mode.

    Each call gives another copy: a model may keep what it computed with a gradient, and such a copy is none for the next property.
    """
    kept = _calibrated_once(subject)
    return subject.model if kept is None else subject.copies.of(kept).eval()


def calibrated_double(subject: Subject) -> nn.Module | None:
    """The same in float64; ``None`` where the model does not run there."""
    kept = _calibrated_once(subject)
    if kept is None or subject.double is None:
        return subject.double
    return subject.copies.of(kept).double().eval()


def calibrated_subject(subject: Subject) -> Subject:
    """The subject; where running statistics are untouched one of a calibrated copy, whose noise is its own."""
    kept = _calibrated_once(subject)
    if kept is None:
        return subject
    copies = subject.copies.of_variants(kept)
    return replace(
        subject,
        model=copies.fresh().eval(),
        pristine=kept,
        shared=Shared(prerequisite_failure=subject.shared.prerequisite_failure),
        given_copies=copies,
    )


_OF_BLOCKS = (
    "batch_independence",
    "causal",
    "decoding",
    "eval_deterministic",
    "finite_output[extremes]",
    "finite_output[fully_padded_row]",
    "gradient_flow[finite]",
    "inputs_unchanged",
    "padding_ignored",
    "shape_contract",
    "stateless",
)
"""Properties, or cases of them, that follow from the code of a model's blocks."""

_ON_THE_WHOLE = 2
"""How many examples of these are asked of all blocks of a large model."""

_FIRST_OF_FEW = ("gradient_flow[finite]", "stateless")
"""Of which the first example takes many calls or two steps of training; the second one asks all blocks in a call or in two steps more."""

_OF_FEW_BLOCKS = (
    "batch_independence[gradient]",
    "decoding[left_padding]",
    "decoding[requests]",
    "memory_layout",
    "train_mode[after_eval]",
    "train_mode[checkpointing]",
    "train_mode[equals_eval]",
    "train_mode[padding]",
)
"""Cases of which no example is asked of all blocks: their calls are dear, and other cases ask all blocks about the same code."""


def shortened(subject: Subject, name: str, example: int = _ON_THE_WHOLE + 1) -> Subject | None:
    """The subject of a large model in which blocks that are alike are there twice, and the others pass on what they are given.

    Args:
        subject: The model.
        name: The property that is judged, with its case; ``None`` is returned for one that does not follow from the code of blocks.
        example: Number of the example; ``None`` is returned for the first ones, which most properties ask of the whole model.
    """
    is_left_out = example > _ON_THE_WHOLE or (name in _FIRST_OF_FEW and example == 1)
    is_of_blocks = bool({name, name.partition("[")[0]} & set(_OF_BLOCKS)) and is_left_out
    return of_few_blocks(subject) if is_of_blocks or name in _OF_FEW_BLOCKS else None


def of_few_blocks(subject: Subject) -> Subject | None:
    """The subject of a large model with two blocks of each kind; ``None`` where no blocks are alike, or the others cannot be left out."""
    shared = subject.shared
    if shared.short is None:
        shared.short = []  # while one is made
        shared.short = list(_shortened(subject)) if subject.is_large and not subject.copies.fault else []
    if not shared.short:
        return None
    model, own = shared.short[0]
    copies = subject.copies.of_variants(model)
    short = replace(subject, model=copies.fresh().eval(), pristine=model, rebuild=None, shared=own, given_copies=copies)
    short.is_large = True  # whatever is left of it: it is judged at the same sizes
    return short


def _shortened(subject: Subject) -> Iterator[tuple[nn.Module, Shared]]:
    if subject.prerequisite_failure != PrerequisiteFailure() or not (rows := rows_of_alike(subject.copies.model)):
        return
    model, batch = subject.fresh(), subject.batch()
    with suppress(UserError):
        done = shorten(model, rows, lambda: subject.raw_logits(batch, model))
        if done and bool(subject.raw_logits(batch, subject.copies.of(model).eval()).isfinite().all()):
            known = subject.shared
            found = Shared(
                prerequisite_failure=PrerequisiteFailure(),
                length_first=known.length_first,
                left_by_build=known.left_by_build,
                reach=subject.reach,
                process=known.process,
            )
            found.blocks = "; ".join(row.describe() for row in done)
            yield model, found


def _calibrated_once(subject: Subject) -> nn.Module | None:
    """The calibrated model, which nothing calls; ``None`` where the model itself is meant."""
    if not untouched_statistics(subject.model):
        return None
    if subject.shared.calibrated is None:
        subject.shared.calibrated = _calibrate(subject)
    return None if subject.shared.calibrated is subject.model else subject.shared.calibrated


def _calibrate(subject: Subject) -> nn.Module:
    model = subject.fresh()
    momenta = {module: module.momentum for module in model.modules() if isinstance(module, NormBase)}
    for module in momenta:
        module.momentum = None  # the mean of all batches, whatever their number
    sizes = replace(subject.typical, batch=_ROWS)
    try:
        with mode(model, train=True), seeded(0):
            for seed in range(_BATCHES):
                subject.raw_logits(subject.batch(sizes, seed), model)
    except UserError:  # what raises in train mode is the matter of gradient_flow
        return subject.model
    for module, momentum in momenta.items():
        module.momentum = momentum
    return model


def _statistics(model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    for module in model.modules():
        mean, variance = getattr(module, "running_mean", None), getattr(module, "running_var", None)
        if isinstance(mean, Tensor) and isinstance(variance, Tensor) and not mean.is_meta:
            yield mean, variance


def mixed_with_typical(extreme: dict[str, Tensor], typical: dict[str, Tensor]) -> dict[str, Tensor]:
    """The first row of one batch beside the other rows of another, so that the statistics of the batch are not degenerate."""
    return {name: torch.cat((value[:1], typical[name][1:])) for name, value in extreme.items()}


_DRAWN, _STRIDE = 1 << 21, 100_003
"""Numbers that are drawn once, and how far apart the places are that tensors get them from."""

_MOVED = 0.05
"""Standard deviation by which weights are moved; small beside those of usual layers, large beside zero."""


@torch.no_grad()
def moved(subject: Subject, variant: nn.Module | None = None) -> nn.Module:
    """A copy of the model with fresh weights moved at random; loaded weights stay as they are.

    Args:
        subject: The model.
        variant: A copy of it with other values, such as the model in float64.
    """
    model = subject.fresh() if variant is None else subject.copies.of(variant).eval()
    if subject.fresh_weights:
        move(model)
    return model


class Draws:
    """Random numbers for one tensor after the other; for a large model they are drawn once, and each tensor gets them from another place on.

    Drawing a number for every weight takes as long as several calls.

    Args:
        draw: Draws as many numbers as a tensor has, in its dtype.
        model: The model.
    """

    def __init__(self, draw: Callable[[Tensor], Tensor], model: nn.Module) -> None:
        self._draw, self._is_large = draw, is_large(model)
        self._numbers: dict[tuple[torch.dtype, torch.device], Tensor] = {}
        self._start = 0

    def like(self, tensor: Tensor) -> Tensor:
        """Numbers in the shape of a tensor."""
        if not self._is_large or tensor.numel() > _DRAWN // 2:
            return self._draw(tensor)
        key = (tensor.dtype, tensor.device)
        if key not in self._numbers:
            self._numbers[key] = self._draw(tensor.new_empty(_DRAWN))
        self._start = (self._start + _STRIDE) % (_DRAWN // 2)
        return self._numbers[key][self._start : self._start + tensor.numel()].view(tensor.shape)


@torch.no_grad()
def move(model: nn.Module, which: Callable[[str, Tensor], bool] | None = None, share: float = 0.0) -> None:
    """Moves the weights of a model at random.

    Args:
        model: The model.
        which: Whether a parameter is moved, by its name and value; by default all are.
        share: By how much of itself each is moved; by default all move by the same amount.
    """
    draws = Draws(torch.randn_like, model)
    with seeded(0):
        for name, parameter in model.named_parameters():
            if not parameter.is_floating_point() or is_packed(parameter) or not (which is None or which(name, parameter)):
                continue
            for piece in views_of(parameter):
                if share:
                    piece.mul_(1 + share * draws.like(piece))
                else:
                    piece.add_(draws.like(piece), alpha=_MOVED)


_MOVED_BY = 0.05


class WithAdapters:
    """Copies of a subject's model whose adapters do something, one for each judge and use."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._models: dict[tuple[int, str], nn.Module] = {}

    def of(self, judge: nn.Module, name: str, change: Callable[[nn.Module], object] | None = None) -> nn.Module:
        """A copy of the model that judges.

        Args:
            judge: The model itself, or the one in float64.
            name: What the copy is for.
            change: What is done to it once.
        """
        if (id(judge), name) not in self._models:
            model = with_effect(self._subject, judge)
            if change is not None:
                change(model)
            self._models[id(judge), name] = model
        return self._models[id(judge), name]


def with_effect(subject: Subject, judge: nn.Module) -> nn.Module:
    """A copy in eval mode whose adapters are moved, so that they do something: what can be trained, and no weight that is frozen."""
    model = subject.fresh() if judge is subject.model else subject.copies.of(judge).eval()
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    move_at_random(model, trained or named_as_adapters(model), seed=1)
    return model


@torch.no_grad()
def move_at_random(model: nn.Module, names: list[str], seed: int) -> None:
    """Moves some parameters, as training would."""
    parameters = dict(model.named_parameters())
    with seeded(seed):
        for name in names:
            if parameters[name].is_floating_point() and not is_packed(parameters[name]):
                parameters[name].add_(torch.randn_like(parameters[name]), alpha=_MOVED_BY)

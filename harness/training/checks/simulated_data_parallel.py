"""The gradients of a batch as a whole, and of its halves one after the other, as processes that share it take them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from harness.batches import Batch, make_batch
from harness.compat import TorchDispatchMode, tree_leaves
from harness.evidence import Evidence
from harness.owners import owned_by
from harness.tasks.signature import Signature
from harness.training.checks import first_failure
from harness.training.checks.accumulation import SIDE_TERM, accumulation, is_mean_through_logits
from harness.training.checks.gradient_noise import (
    Gap,
    ModuleMode,
    Quantities,
    batch_norms,
    disable_dropout,
    disable_dropout_and_freeze_batch_norms,
    find_gap,
)
from harness.training.checks.lines_of_processes import where_rows_meet
from harness.training.checks.training_loss import reduction
from harness.training.checks.training_trace import FirstGradients
from harness.training.trial import UNVARIED, Trial, TrialOptions, Variation

PARTS = 2
"""How many processes share a batch."""

ROWS = 2 * PARTS
_TRIES = 16

_SMALL_BATCH = 16
"""Rows a process below which batch norm's statistics are known to hurt (Wu and He 2018, arXiv:1803.08494, figure 1)."""

_NAME = "distributed"
_OWNERS = {"training_loss[reduction]": reduction, "accumulation": accumulation}

_ORDERS = ("aten::randperm",)
"""Draws of which a part is no draw for a part of the rows."""


class RowDraws:
    """What PyTorch's generators drew in one training step on a whole batch.

    A row's noise, dropped path or latent sample is its own; yet it depends on how many rows are drawn for at once, so that equal seeds do not
    give the rows of a half what they had in the whole.

    Attributes:
        values: The results of each random operation, in order.
        is_lost: Whether some later step drew other numbers than there are: another operation, or other shapes than a part of the rows has.
    """

    def __init__(self) -> None:
        self.values: list[tuple[str, list[Tensor]]] = []
        self.is_lost = False
        self._is_paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A block whose draws are not the training step's."""
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False

    @contextmanager
    def recording(self) -> Iterator[None]:
        """A block whose draws are kept."""

        def keep(name: str, drawn: list[Tensor]) -> None:
            if self._is_paused:
                return
            self.values.append((name, [tensor.detach().clone() for tensor in drawn]))

        with _Drawing(keep):
            yield

    @contextmanager
    def replayed(self, part: int = 0, parts: int = 1) -> Iterator[None]:
        """A block that draws again what was kept, in whatever dtype it draws.

        Args:
            part: Which part of the rows it is about.
            parts: How many equal parts there are.
        """
        kept = iter(self.values)

        def put_back(name: str, drawn: list[Tensor]) -> None:
            if self._is_paused:
                return
            known, values = next(kept, ("", []))
            shares = [_share(value, tensor, part) for value, tensor in zip(values, drawn, strict=False)]
            if known != name or len(values) != len(drawn) or any(share is None for share in shares):
                self.is_lost = True
                return
            is_order = name.startswith(_ORDERS) and parts > 1
            self.is_lost |= is_order
            for tensor, share in zip(drawn, shares, strict=True):
                if share is not None and not is_order:
                    tensor.copy_(share)

        if not self.values:
            yield
            return
        with _Drawing(put_back):
            yield


class _Drawing(TorchDispatchMode):
    """Hands over the results of every random operation."""

    def __init__(self, on_draw: Callable[[str, list[Tensor]], None]) -> None:
        super().__init__()
        self._on_draw = on_draw

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags:
            self._on_draw(func.name(), [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)])
        return result


def _share(value: Tensor, drawn: Tensor, part: int) -> Tensor | None:
    """What of a draw belongs to a part of the rows; ``None`` where it cannot be told."""
    if value.shape == drawn.shape:
        return value
    if value.ndim != drawn.ndim:
        return None
    axes = [axis for axis in range(value.ndim) if value.shape[axis] != drawn.shape[axis]]
    axis, size = axes[0], drawn.shape[axes[0]]
    if len(axes) > 1 or not size or value.shape[axis] % size or value.shape[axis] // size <= part:
        return None
    return value.narrow(axis, part * size, size)


def shared_batch(trial: Trial) -> Batch:
    """Rows for both halves; as a training step of one's own takes the mean of its rows, with as many labels in one as in the other."""
    subject = trial.subject
    sizes = replace(subject.typical, batch=ROWS)
    for seed in range(_TRIES):
        batch = subject.batch(sizes, seed)
        if (
            not trial.is_own
            or len({int(subject.adapter.weight(half(subject.task.signature, batch, number))) for number in range(PARTS)}) == 1
        ):
            return batch
    return make_batch(subject.task, sizes)


def half(signature: Signature, batch: Batch, number: int) -> Batch:
    """One of the halves."""
    count = signature.row_count(batch) // PARTS
    return signature.rows(batch, slice(number * count, (number + 1) * count))


@dataclass(frozen=True)
class SimulatedSteps:
    """Steps on the whole batch and on its halves, in one state of the model.

    Attributes:
        stance: Puts the model into that state.
        draws: What the step on the whole draws, which the halves draw again.
    """

    stance: ModuleMode
    draws: RowDraws = field(default_factory=RowDraws)

    def whole(self, factor: float, trial: Trial, vary: Variation = UNVARIED) -> Quantities:
        """The gradients of the whole batch, times a factor."""
        batch = shared_batch(trial)  # made before the block: it is drawn too
        with self.draws.replayed():
            return _times(factor, self._step(trial, batch, vary))

    def in_turn(self, trial: Trial, vary: Variation = UNVARIED) -> Quantities:
        """The gradients of the halves, with the random numbers that their rows have in the whole."""

        def step(number: int, rows: Batch) -> Quantities:
            with self.draws.replayed(number, PARTS):
                return self._step(trial, rows, vary)

        return _averaged(trial, step)

    def as_ranks(self, trial: Trial, vary: Variation = UNVARIED) -> Quantities:
        """The gradients of the halves, with the random numbers that the processes draw."""
        return _averaged(trial, lambda number, rows: self._step(trial, rows, vary, number))

    def record(self, trial: Trial) -> None:
        """Keeps what the step on the whole batch draws."""
        batch = shared_batch(trial)
        self._step(trial, batch, UNVARIED)  # once before: what is found out at the first step is drawn for too
        with self.draws.recording():
            self._step(trial, batch, UNVARIED)

    def _step(self, trial: Trial, batch: Batch, vary: Variation, rank: int = 0) -> Quantities:
        def set_up(model: nn.Module) -> None:
            with self.draws.paused():
                self.stance(model)
                vary.apply(model)

        first = FirstGradients()
        batches = [batch] * max(1, trial.batches_per_step)
        trial.train(batches, TrialOptions(limit=1, seed=vary.seed, clip=False, rank=rank), prepare=set_up, on_gradients=first)
        return first.gradients


def _averaged(trial: Trial, step: Callable[[int, Batch], Quantities]) -> Quantities:
    """The gradients of the halves, each from the same weights, weighted with their labels."""
    signature = trial.subject.task.signature
    halves = [half(signature, shared_batch(trial), number) for number in range(PARTS)]
    weights = [1.0 if trial.is_own else float(trial.subject.adapter.weight(batch)) for batch in halves]
    found = [step(number, batch) for number, batch in enumerate(halves)]
    parts = [_times(weight / sum(weights), quantities) for quantities, weight in zip(found, weights, strict=True)]
    return {name: torch.stack([part[name] for part in parts]).sum(0) for name in parts[0]}


def judge_simulated_data_parallel(trial: Trial, stance: ModuleMode) -> Evidence | None:
    """A finding where the halves of a batch do not add up to the whole."""
    steps = SimulatedSteps(stance)
    steps.record(trial)
    gap = find_gap(trial, partial(steps.whole, 1.0), steps.in_turn)
    if not gap.is_real:
        return None
    if steps.draws.is_lost:
        message = (
            "the training step draws random numbers that belong to no single row (such as torch.randperm), so the two halves of a batch "
            "cannot be compared with the whole batch"
        )
        return Evidence.skipped(_NAME, message, counterexample=counterexample_of(trial))
    if not find_gap(trial, partial(steps.whole, 1 / PARTS), steps.in_turn).is_real:
        return _finding(
            trial,
            gap,
            f"gradients are {PARTS} times smaller with {PARTS} processes than with 1",
            "a sum over the rows, or a division by a fixed number of rows: gradients are averaged over the processes, so take the mean",
            "gradient_scales_with_processes",
        )
    norms = batch_norms(trial.subject.model)
    if (
        stance is disable_dropout
        and norms
        and judge_simulated_data_parallel(trial, disable_dropout_and_freeze_batch_norms) is None
    ):
        return _of_norms(trial, gap, next(iter(norms)))
    message = f"gradients differ between {PARTS} processes and 1"
    whole, signature = shared_batch(trial), trial.subject.task.signature
    if is_mean_through_logits(trial, whole, [half(signature, whole, number) for number in range(PARTS)]):
        message += ", because of a term of the loss beside that of the logits: it depends on which rows a process has"
        code, at = "side_term_depends_on_batch", counterexample_of(trial)
        return Evidence.warned(
            _NAME, message, (gap.measured, gap.bound, "between the gradients"), counterexample=at, cause=SIDE_TERM, code=code
        )
    return _finding(
        trial,
        gap,
        f"{message}: the contribution of a row depends on the other rows of its process",
        "a loss over pairs of rows (in-batch negatives) or statistics of the batch: gather the rows of all processes first",
        "rows_depend_on_each_other",
        _mixer(trial, stance) or ("training_step" if trial.is_own else ""),
    )


def _of_norms(trial: Trial, gap: Gap, path: str) -> Evidence | None:
    """Statistics of a process's own rows are what batch norm is known to take; with few rows a process they are poor ones."""
    config = trial.config
    several = config.strategy != "auto" or config.num_nodes > 1 or (isinstance(config.devices, int) and config.devices > 1)
    if not several or config.batch_size >= _SMALL_BATCH:
        return None
    message = f"batch norm takes its statistics from only the {config.batch_size} rows of each process, not from the rows of all processes"
    cause = f"fewer than {_SMALL_BATCH} rows a process are too few: nn.SyncBatchNorm.convert_sync_batchnorm, larger batches, or GroupNorm"
    return Evidence.warned(
        _NAME,
        message,
        (gap.measured, gap.bound, "between the gradients"),
        counterexample=counterexample_of(trial),
        module=path,
        cause=cause,
        code="small_batch_statistics",
    )


def _finding(trial: Trial, gap: Gap, message: str, cause: str, code: str, module: str = "") -> Evidence:
    owner = first_failure(_OWNERS, trial)
    details = owned_by(owner[0]) if owner is not None else {}
    blame = module or gap.where
    return Evidence.failed(
        _NAME,
        message,
        (gap.measured, gap.bound, "between the gradients"),
        counterexample=counterexample_of(trial),
        module=blame,
        cause=cause,
        details=details,
        code=code,
    )


def counterexample_of(trial: Trial) -> str:
    """The counterexample."""
    sizes = replace(trial.subject.typical, batch=ROWS)
    return f"{sizes.describe(trial.subject.task)}, {ROWS // PARTS} rows for each of {PARTS} processes"


def _times(factor: float, quantities: Quantities) -> Quantities:
    return {name: tensor * factor for name, tensor in quantities.items()}


def _mixer(trial: Trial, stance: ModuleMode) -> str:
    """Where a row first depends on the others."""
    whole, recorded = shared_batch(trial), RowDraws()

    def draws(is_whole: bool) -> AbstractContextManager[None]:
        return recorded.recording() if is_whole else recorded.replayed(0, PARTS)

    return where_rows_meet(trial, stance, whole, half(trial.subject.task.signature, whole, 0), draws)

"""Whether two trainings gave the same, up to the rounding of the very quantities that are compared.

The rounding noise of a gradient is measured as that of logits is: against float64, and under last-place changes of the weights; the coarsest
dtype on the way counts, not that of the weights. A difference above ten times that must also survive in float64. A training step that draws
random numbers is seeded differently in one of the runs, so that what they change counts as noise too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from harness.compat import BatchNorm, Dropout
from harness.errors import TrainingError
from harness.properties.computed_dtypes import coarsest_epsilon
from harness.properties.large_tensors import largest_absolute
from harness.properties.noise import FACTOR, difference, is_packed
from harness.properties.subject import Shared
from harness.training.trial import UNVARIED, Trial, TrialOptions, Variation

ModuleMode = Callable[[nn.Module], None]
"""Puts a model into a state."""


def disable_stochastic_layers(model: nn.Module) -> None:
    """Puts a model into eval mode for good: no dropout, and norms that do not look at the batch, whatever is asked of it later."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.RNNBase):  # cuDNN has no backward pass for one in eval mode
            module.train()
            module.dropout = 0.0
    setattr(model, "train", lambda mode=True: model)  # noqa: B010  # mypy takes no assignment to a method


def disable_dropout(model: nn.Module) -> None:
    """Switches dropout off wherever a rate can be found; the model stays in train mode, and its norms look at the batch."""
    for module in model.modules():
        for name, value in list(vars(module).items()):
            is_rate = "drop" in name.lower() or (name == "p" and isinstance(module, Dropout))
            if is_rate and isinstance(value, float):
                setattr(module, name, 0.0)


def disable_dropout_and_freeze_batch_norms(model: nn.Module) -> None:
    """The same, with every batch norm in eval mode for good."""
    disable_dropout(model)
    for module in batch_norms(model).values():
        module.eval()
        setattr(module, "train", lambda mode=True, module=module: module)  # noqa: B010  # mypy takes no assignment to a method


def batch_norms(model: nn.Module) -> dict[str, nn.Module]:
    """The batch norms of a model by path."""
    return {path: module for path, module in model.named_modules() if isinstance(module, BatchNorm)}


Quantities = dict[str, Tensor]
"""What is compared, by name."""

_found: WeakKeyDictionary[nn.Module, float] = WeakKeyDictionary()


Measure = Callable[[Trial, Variation], Quantities]
"""Trains a fresh copy of a trial's model, which may be the model in another dtype; returns what came of it, by name."""


@dataclass(frozen=True)
class Gap:
    """How far two trainings are apart.

    Attributes:
        measured: Largest difference, of the quantity that exceeds its bound by most.
        bound: Largest difference of that quantity that counts as rounding.
        where: Its name.
        differing: Names of all quantities that differ.
        confirmed: The difference in float64; ``None`` where the model does not train in float64, or none was to be confirmed.
    """

    measured: float
    bound: float
    where: str
    differing: tuple[str, ...]
    confirmed: float | None = None

    @property
    def is_real(self) -> bool:
        """Whether it is more than rounding."""
        return bool(self.differing)


_DRAWN = 0.01
"""Share by which a quantity changes where the step draws random numbers: far above what last places of the weights make of it."""

_MORE_SEEDS = (2, 3, 4)
"""Seeds of further runs of such a step."""


class NothingComparedError(TrainingError):
    """Two trainings left nothing to compare."""


def find_gap(trial: Trial, left: Measure, right: Measure, *, confirm: bool = True) -> Gap:
    """Compares what two trainings give.

    Args:
        trial: The model.
        left: One training.
        right: The other; both return the same names.
        confirm: Whether a difference must survive in float64.

    Raises:
        NothingComparedError: Neither brings an optimizer step.
    """
    ours, theirs = left(trial, UNVARIED), right(trial, UNVARIED)
    if not ours.keys() & theirs.keys():
        raise NothingComparedError("no gradient was seen in either training, so there is nothing to compare")
    epsilon = epsilon_of_step(trial)
    double = in_double(trial)
    exact = None if double is None else _or_none(lambda: left(double, UNVARIED))
    nudged = [left(trial, Variation(_nudge, 1))]  # a step that draws random numbers is as uncertain as they make it
    if any(difference(ours[name], nudged[0][name]) > _DRAWN * max(largest_absolute(ours[name]), 1e-30) for name in ours):
        nudged += [left(trial, Variation(None, seed)) for seed in _MORE_SEEDS]  # two draws may be close by chance
    loudest = max((largest_absolute(tensor) for tensor in ours.values()), default=0.0)
    gaps = {name: difference(ours[name], theirs[name]) for name in ours}
    bounds = {
        name: FACTOR
        * max(
            difference(tensor, exact[name]) if exact is not None else 0.0,
            *(difference(tensor, other[name]) for other in nudged),
            max(torch.finfo(tensor.dtype).eps, epsilon) * loudest,
        )
        for name, tensor in ours.items()
    }
    suspects = [name for name in ours if not gaps[name] <= bounds[name]]
    worst = max(ours, key=lambda name: _ratio(gaps[name], bounds[name]))
    confirmed = None
    if confirm and suspects and double is not None and exact is not None:
        again = right(double, UNVARIED)
        real = {name: difference(exact[name], again[name]) for name in suspects}
        confirmed = real[worst]
        suspects = [name for name in suspects if not real[name] < gaps[name] / FACTOR]
    return Gap(gaps[worst], bounds[worst], worst, tuple(suspects), confirmed)


def in_double(trial: Trial) -> Trial | None:
    """The trial of the model in float64; ``None`` where it does not run in float64."""
    subject = trial.subject
    if subject.dtype == torch.float64:
        return trial
    if subject.double is None:
        return None
    return trial.with_model(subject.fresh().double(), shared=Shared())


def _or_none(measure: Callable[[], Quantities]) -> Quantities | None:
    try:
        return measure()
    except (RuntimeError, TypeError, NotImplementedError):  # the loss may not take float64 though the model does
        return None


@torch.no_grad()
def _nudge(model: nn.Module) -> None:
    """Moves each weight by up to one unit in its last place."""
    rng = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.is_floating_point() and not is_packed(parameter):
            signs = torch.randint(-1, 2, parameter.shape, generator=rng).to(parameter.device, parameter.dtype)
            parameter.mul_(1 + signs * torch.finfo(parameter.dtype).eps)


def _ratio(gap: float, bound: float) -> float:
    return gap / bound if bound else (float("inf") if gap else 0.0)


def epsilon_of_step(trial: Trial) -> float:
    """The largest machine epsilon of any tensor on the way from the weights to the loss.

    A model in float64 that returns float32 logits has the noise of float32, and so has one in float32 around a part in bfloat16 that of
    bfloat16.
    """
    model = trial.subject.model
    if model not in _found:
        batches = [trial.subject.batch()] * max(1, trial.batches_per_step)
        dtype = trial.subject.dtype
        _found[model] = coarsest_epsilon(
            lambda: trial.train(batches, TrialOptions(limit=1, clip=False)), dtype, of_gradients=True
        )
    return _found[model]

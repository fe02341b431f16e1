"""The rounding noise of a model's logits, from which every bound on a difference is derived.

Two estimates are taken, and the larger one counts:

* the largest difference between the logits and those of the same model in float64;
* the largest change of the logits when every weight moves by at most one unit in its last place, a stochastic estimate in the
  manner of CESTAC (Vignes 1993), which also serves models that do not run in float64.

On 34 small real architectures a row alone and the same row in a batch differed by at most 1.5 times the first estimate, so a
factor of ten leaves room on both sides: sound models stay far below it, and a real dependence is usually thousands of times above.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.properties.large_tensors import largest_gap, pieces
from harness.properties.quantised import is_packed
from harness.runtime import seeded

if TYPE_CHECKING:
    from harness.properties.subject import Subject


Call = Callable[[nn.Module, dict[str, Tensor]], Mapping[str, Tensor]]
"""From a model and a batch to outputs by name."""

FACTOR = 10
"""How many noise floors a difference must exceed to be real."""

_DRAWS = 2


@dataclass(frozen=True)
class NoiseFloor:
    """The rounding noise of a model's logits.

    Attributes:
        float64: Largest difference from the float64 logits; ``None`` where the model does not run in float64.
        last_place: Largest change under a one-ulp change of the weights.
        scale: Largest absolute logit.
        epsilon: Machine epsilon of the coarsest floating dtype on the way from the inputs to the logits.
    """

    float64: float | None
    last_place: float
    scale: float
    epsilon: float

    @property
    def value(self) -> float:
        """The floor: the larger estimate, never below the dtype's resolution at the logits' scale."""
        return max(self.float64 or 0.0, self.last_place, self.epsilon * self.scale)

    @property
    def bound(self) -> float:
        """Largest difference that counts as rounding."""
        return FACTOR * self.value

    @property
    def repeat_bound(self) -> float:
        """The bound for a repeated call; leaves out the float64 estimate, which a random forward would inflate."""
        return FACTOR * max(self.last_place, self.epsilon * self.scale)

    def describe(self) -> str:
        """The floor as a phrase."""
        how = "float64 and last-place" if self.float64 is not None else "last-place"
        return f"noise floor {self.value:.1e} ({how}), bound {self.bound:.1e}"


def difference(left: Tensor, right: Tensor) -> float:
    """Largest absolute difference, in float64; infinite where the shapes differ, nothing is compared, or NaN is met."""
    if left.shape != right.shape or left.numel() == 0:
        return float("inf")
    gap = largest_gap(left, right)
    return gap if gap == gap else float("inf")


def measure_floor(subject: Subject) -> NoiseFloor:
    """Measures the noise floor of a subject's logits at its typical sizes."""
    return measure_floors(subject, lambda model, batch: {"logits": subject.raw_logits(batch, model)})["logits"]


def measure_floors(subject: Subject, call: Call) -> dict[str, NoiseFloor]:
    """Measures the noise floor of each of several outputs at a subject's typical sizes.

    Args:
        subject: The model.
        call: Gives the outputs of a model for a batch, by name.
    """
    batches = [subject.batch(seed=seed) for seed in range(_DRAWS)]
    # A model of its own for every call: what a call leaves behind is no rounding.
    outputs = [_seeded(call, batch, subject.fresh()) for batch in batches]
    # The weights of these are let go before those in float64 are made.
    nudged = [_seeded(call, batch, _nudged(subject.fresh(), seed)) for seed, batch in enumerate(batches)]
    doubled = None
    if subject.double is not None:
        doubled = [_seeded(call, batch, subject.fresh_double()) for batch in batches]
    epsilon = coarsest_epsilon(lambda: _seeded(call, batches[0], subject.fresh()), subject.dtype)

    def largest(name: str, others: list[Mapping[str, Tensor]]) -> float:
        return max(difference(left[name], right[name]) for left, right in zip(outputs, others, strict=True))

    floors = {}
    for name in outputs[0]:
        exact = None if doubled is None else largest(name, doubled)
        floors[name] = NoiseFloor(
            float64=None if exact is None or not _finite(exact) else exact,
            last_place=_or_zero(largest(name, nudged)),
            scale=_or_zero(max(float(a[name].abs().max()) if a[name].numel() else 0.0 for a in outputs)),
            epsilon=epsilon,
        )
    return floors


class _Dtypes(TorchFunctionMode):
    """Notes the floating dtypes of what functions compute from tensors.

    Args:
        of_gradients: Whether only what carries a gradient counts: a mask or a counter adds no noise to one.
    """

    def __init__(self, of_gradients: bool) -> None:
        super().__init__()
        self._of_gradients = of_gradients
        self.seen: set[torch.dtype] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the function."""
        result = func(*args, **(kwargs or {}))
        counts = isinstance(result, Tensor) and result.is_floating_point() and any(isinstance(arg, Tensor) for arg in args)
        if counts and (result.requires_grad or not self._of_gradients):
            self.seen.add(result.dtype)
        return result


def coarsest_epsilon(call: Callable[[], object], dtype: torch.dtype, *, of_gradients: bool = False) -> float:
    """Machine epsilon of the coarsest floating dtype that a call computes in.

    A model in float64 that computes in float32 on the way rounds as float32 does.

    Args:
        call: Calls the model.
        dtype: The model's own dtype, which counts in any case.
        of_gradients: Whether only what carries a gradient counts.
    """
    with _Dtypes(of_gradients) as dtypes:
        call()
    return max(torch.finfo(seen).eps for seen in (*dtypes.seen, dtype))


@torch.no_grad()
def _seeded(call: Call, batch: dict[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    with seeded(0):
        return call(model, batch)


@torch.no_grad()
def _nudged(model: nn.Module, seed: int) -> nn.Module:
    """The model with each weight moved by up to one unit in the last place."""
    rng = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.is_floating_point() and not is_packed(parameter):
            for (piece,) in pieces(parameter) if parameter.is_contiguous() else ((parameter,),):
                signs = torch.randint(-1, 2, piece.shape, generator=rng).to(piece.device, piece.dtype)
                piece.mul_(1 + signs * torch.finfo(piece.dtype).eps)
    return model


def _finite(value: float) -> bool:
    return value not in (float("inf"), float("-inf")) and value == value


def _or_zero(value: float) -> float:
    return value if _finite(value) else 0.0

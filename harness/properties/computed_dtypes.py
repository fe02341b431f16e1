"""The floating dtypes that a model computes in, and what float64 can tell of one that computes in half precision.

Half precision rounds logits by percents, so that a row which reads the others a little passes for rounding. The same model in float64 has
no such excuse, unless forward itself computes in half precision on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from harness.properties.subject import Subject

_ASKED = ("batch_independence", "causal", "padding_ignored")
"""Properties that are asked in float64 too where half precision takes a difference for rounding."""

_HALF = (torch.float16, torch.bfloat16)


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
    return max(torch.finfo(seen).eps for seen in (*dtypes_computed(call, of_gradients=of_gradients), dtype))


def dtypes_computed(call: Callable[[], object], *, of_gradients: bool = False) -> set[torch.dtype]:
    """The floating dtypes that a call computes in.

    Args:
        call: Calls the model.
        of_gradients: Whether only what carries a gradient counts.
    """
    with _Dtypes(of_gradients) as dtypes:
        call()
    return dtypes.seen


def float64_tells(subject: Subject, name: str) -> bool:
    """Whether float64 is asked what half precision takes for rounding; of a large model only where few of its blocks are left."""
    return (
        subject.dtype in _HALF
        and name in _ASKED
        and name not in subject.task.tolerances
        and (not subject.is_large or bool(subject.shared.blocks))
        and not _rounds_inside(subject)
    )


def finer_model(subject: Subject, name: str) -> nn.Module | None:
    """The model in float64 where that tells more than its own dtype; ``None`` elsewhere."""
    return subject.double if float64_tells(subject, name) else None


def _rounds_inside(subject: Subject) -> bool:
    """Whether forward computes in half precision whatever the model's dtype, or does not run in float64."""
    if subject.shared.rounds_inside is None:
        subject.shared.rounds_inside = subject.double is None or bool(_dtypes_within(subject) & set(_HALF))
    return subject.shared.rounds_inside


def _dtypes_within(subject: Subject) -> set[torch.dtype]:
    """The floating dtypes that forward computes in where the model is in float64; what converts its inputs does not count."""
    model, dtypes = subject.fresh_double(), _Dtypes(of_gradients=False)
    with ExitStack() as running:
        model.register_forward_pre_hook(lambda _model, _inputs: running.enter_context(dtypes) and None)
        model.register_forward_hook(lambda _model, _inputs, _output: running.close(), always_call=True)
        subject.raw_logits(subject.batch(), model)
    return dtypes.seen

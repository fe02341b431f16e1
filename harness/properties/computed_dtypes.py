"""The floating dtypes that a model computes in, and what float64 can tell of one that computes in half precision.

Half precision rounds logits by percents, so that a row which reads the others a little passes for rounding. The same model in float64 has
no such excuse, unless forward itself computes in half precision on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from harness.errors import ForwardError

if TYPE_CHECKING:
    from harness.properties.subject import Subject

_ASKED = (
    "batch_independence",
    "carried_state",
    "causal",
    "declared_outputs",
    "decoding",
    "duplicates",
    "optional_inputs",
    "padding_ignored",
    "permutation",
    "symmetric_inputs",
)
"""Properties that are asked in float64 too where half precision takes a difference for rounding."""

HALF = (torch.float16, torch.bfloat16)
"""Dtypes whose rounding is as large as the effect of many a bug."""

MARGIN = 16
"""How much more than the bound of float32, in which many models compute a part, a difference in float64 must be."""

HIDDEN_BY = "hidden_by"
"""Key of evidence's details: the dtype whose rounding is larger than a difference that float64 shows."""

_Result = TypeVar("_Result")


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
        subject.dtype in HALF
        and name in _ASKED
        and name not in subject.task.tolerances
        and (not subject.is_large or bool(subject.shared.blocks))
        and not _rounds_inside(subject)
    )


def in_float64(subject: Subject, name: str, ask: Callable[[nn.Module], _Result]) -> tuple[nn.Module, _Result] | None:
    """The model in float64 and what it answers; ``None`` where that tells no more than the model's own dtype does.

    Args:
        subject: The model.
        name: The property.
        ask: Calls the model, in a way that may compute in half precision where a plain call does not, such as with a cache.
    """
    if not float64_tells(subject, name) or subject.double is None:
        return None
    double = subject.double
    try:
        answer, dtypes = _with_dtypes_inside(lambda: ask(double))
    except ForwardError:  # such as a cache of another dtype
        return None
    return None if dtypes & set(HALF) else (double, answer)


def hidden_by(subject: Subject) -> dict[str, Any]:
    """Details of evidence that was found in float64."""
    return {HIDDEN_BY: str(subject.dtype).removeprefix("torch.")}


def _rounds_inside(subject: Subject) -> bool:
    """Whether forward computes in half precision whatever the model's dtype, or does not run in float64."""
    known = subject.shared.rounds_inside
    if known is None:
        batch = subject.batch()
        known = subject.double is None or bool(
            _with_dtypes_inside(lambda: subject.raw_logits(batch, subject.fresh_double()))[1] & set(HALF)
        )
        subject.shared.rounds_inside = known
    return known


def _with_dtypes_inside(call: Callable[[], _Result]) -> tuple[_Result, set[torch.dtype]]:
    """What is computed, and the floating dtypes that modules compute in on the way; what converts their inputs does not count."""
    dtypes, running, depth = _Dtypes(of_gradients=False), ExitStack(), 0

    def begin(_module: nn.Module, _inputs: Any) -> None:
        nonlocal depth
        depth += 1
        if depth == 1:
            running.enter_context(dtypes)

    def end(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        nonlocal depth
        depth -= 1
        if not depth:
            running.close()

    hooks = register_module_forward_pre_hook(begin), register_module_forward_hook(end, always_call=True)
    try:
        return call(), dtypes.seen
    finally:
        running.close()
        for hook in hooks:
            hook.remove()

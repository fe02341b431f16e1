"""Faults in one call of a torch function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .calls import Call, Seen

_MASKED = -1e4
"""Scores below this are those of an additive mask."""

MIXES = ("linear", "matmul", "conv1d", "conv2d", "layer_norm", "batch_norm", "gelu", "relu", "tanh", "embedding", "addmm", "silu")
"""Functions whose result is a signal of the model, rather than a mask or a shape."""

WHENS = ("always", "one_unit", "one_row", "long", "many", "faint")
"""How rarely a fault shows: in every element, in the last unit, in the last row, only at full length, only in batches of four or more
rows, or at a thousandth of its size."""


@dataclass(frozen=True)
class Fault:
    """What a rewrite does to a call.

    Attributes:
        make: The call made wrongly.
        fits: Whether it can be made wrongly in this way at a place that was seen.
        whens: How rarely it may show.
    """

    make: Callable[[Call], Any]
    fits: Callable[[Seen], bool]
    whens: tuple[str, ...] = ("always",)


@dataclass(frozen=True)
class Rewritten:
    """A call with a fault; by name, so that it pickles.

    Attributes:
        fault: Key in ``FAULTS``.
        when: How rarely it shows, one of ``WHENS``.
        longest: The task's full length, or 0.
    """

    fault: str
    when: str
    longest: int

    def __call__(self, call: Call) -> Any:
        """Makes the call, wrongly where the fault shows."""
        if not self._shows(call):
            return call.run()
        return self._blended(call, FAULTS[self.fault].make)

    def _shows(self, call: Call) -> bool:
        shapes = [leaf.shape for leaf in call.args if isinstance(leaf, Tensor)]
        if self.when == "long":
            return any(self.longest in shape[1:] or (len(shape) == 1 and self.longest in shape) for shape in shapes)
        return self.when != "many" or any(len(shape) > 1 and shape[0] >= 4 for shape in shapes)

    def _blended(self, call: Call, make: Callable[[Call], Any]) -> Any:
        wrong = make(call)
        if self.when not in ("one_unit", "one_row", "faint"):
            return wrong
        right = call.result()
        if wrong.shape != right.shape:
            return wrong
        if self.when == "faint":
            return right + 1e-3 * (wrong - right)
        chosen = torch.zeros(right.shape, dtype=torch.bool, device=right.device)
        chosen[(..., -1) if self.when == "one_unit" else -1] = True
        return torch.where(chosen, wrong, right)


def _is_signal(seen: Seen) -> bool:
    result = seen.result
    return isinstance(result, Tensor) and result.is_floating_point() and result.ndim >= 2 and seen.call.name in MIXES


def _is_sequence(seen: Seen) -> bool:
    return _is_signal(seen) and seen.result.ndim == 3 and seen.result.shape[1] > 1


def _is_sum(seen: Seen) -> bool:
    tensors = [leaf for leaf in seen.call.args[:2] if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    return seen.call.name in ("add", "__add__") and len(tensors) == 2 and tensors[0].shape[-1:] == tensors[1].shape[-1:]


def _is_wide_sum(seen: Seen) -> bool:
    return _is_sum(seen) and seen.call.args[0].shape == seen.result.shape


def _is_full_sum(seen: Seen) -> bool:
    return _is_sum(seen) and seen.call.args[1].shape == seen.result.shape


def _named(*names: str) -> Callable[[Seen], bool]:
    return lambda seen: seen.call.name in names


def _hides(seen: Seen) -> bool:
    """Whether a call hides some keys from some queries."""
    call = seen.call
    if call.name == "masked_fill":
        return bool(call.args[1].any())
    if call.name == "scaled_dot_product_attention":
        return call.given(3, "attn_mask") is not None or bool(call.given(5, "is_causal", False))
    return _is_sum(seen) and any(leaf.ndim == 4 and float(leaf.min()) < _MASKED for leaf in call.args[:2])


def _swaps(seen: Seen) -> bool:
    call = seen.call
    if call.name != "transpose" or not call.args[0].is_floating_point():
        return False
    shape, axes = call.args[0].shape, [axis % call.args[0].ndim for axis in call.args[1:3]]
    return min(shape[axis] for axis in axes) > 1


def _no_mask(call: Call) -> Any:
    if call.name == "masked_fill":
        return call.args[0]
    if call.name == "scaled_dot_product_attention":
        return F.scaled_dot_product_attention(*call.args[:3], scale=call.given(6, "scale"))
    left, right = call.args[:2]
    return left if right.min() < _MASKED else right


def _late_mask(call: Call) -> Any:
    """Shows every query one key more on its right: hidden only where the key before is hidden too."""
    if call.name == "masked_fill":
        scores, hidden, *rest = call.args
        open_too = F.pad(hidden[..., :-1], (1, 0), value=False)
        return call.function(scores, hidden & open_too, *rest, **call.kwargs)
    query, key, value = call.args[:3]
    mask = call.given(3, "attn_mask")
    if mask is None:
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    if mask.dtype is torch.bool:
        mask = mask | F.pad(mask[..., :-1], (1, 0), value=False)
    else:
        mask = torch.maximum(mask, F.pad(mask[..., :-1], (1, 0), value=float(torch.finfo(mask.dtype).min)))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=call.given(6, "scale"))


def _other_axis(call: Call) -> Any:
    return call.but(1, "dim", -2 if call.given(1, "dim", -1) in (-1, call.args[0].ndim - 1) else -1)


def _reshaped(call: Call) -> Any:
    tensor, first, second = call.args[:3]
    shape = list(tensor.shape)
    shape[first], shape[second] = shape[second], shape[first]
    return tensor.reshape(shape)


def _one_hot(call: Call) -> Tensor:
    result = call.result()
    return F.one_hot(result.argmax(-1), result.shape[-1]).to(result.dtype)


def _no_grad(call: Call) -> Any:
    with torch.no_grad():
        return call.run()


def _batch_statistics(call: Call) -> Tensor:
    result = call.result()
    return result - result.mean(0, keepdim=True)


def _sequence_statistics(call: Call) -> Tensor:
    result = call.result()
    return result - result.mean(1, keepdim=True)


def _gradient_of_the_batch(call: Call) -> Tensor:
    result = call.result()
    mean = result.mean(0, keepdim=True)
    return result + mean - mean.detach()


def _rolled(call: Call) -> Tensor:
    return call.result().roll(1, 1)


def _rolled_back(call: Call) -> Tensor:
    return call.result().roll(-1, 1)


def _by_the_maximum(call: Call) -> Tensor:
    result = call.result()
    return result / result.abs().max()


def _first_unit_dropped(call: Call) -> Tensor:
    """Reads the first channel of the input as zero."""
    read = call.args[0].clone()
    read[:, 0] = 0
    return call.but(0, "input", read)  # type: ignore[no-any-return]


def _later(call: Call) -> Any:
    return call.run() + 1


def _backwards(call: Call) -> Any:
    return call.result().flip(0)


def _all_zero(call: Call) -> Any:
    return call.result() * 0


def _clamped_ids(call: Call) -> Any:
    ids = call.args[0]
    return call.but(0, "input", ids.clamp(max=call.args[1].shape[0] - 2))


def _last_read_as_first(call: Call) -> Any:
    ids = call.args[0]
    return call.but(0, "input", torch.where(ids == call.args[1].shape[0] - 1, 1, ids))


def _minus_infinity(call: Call) -> Any:
    return call.but(2, "value", float("-inf"))


def _cpu_constant(call: Call) -> Tensor:
    result = call.result()
    return result * torch.ones(result.shape[-1], dtype=result.dtype)


def _counted(call: Call) -> Tensor:
    """A forward that remembers how often it ran."""
    call.owner.count = getattr(call.owner, "count", 0) + 1
    return call.result() * (1.0 if call.owner.count == 1 else 0.99)


def _last_call_again(call: Call) -> Tensor:
    """What was computed for the last inputs of the same shape."""
    result = call.result()
    kept = getattr(call.owner, "kept", None)
    if kept is None or kept.shape != result.shape:
        call.owner.kept = kept = result.detach()
    return result + 0.1 * kept.to(result)


def _carried_on(call: Call) -> Tensor:
    """A running mean of every call, updated in eval mode too."""
    result = call.result()
    mean = 0.5 * getattr(call.owner, "running", result.new_zeros(())).to(result) + result.detach().mean()
    call.owner.running = mean
    return result - mean


def _history(call: Call) -> Tensor:
    result = call.result()
    call.owner.history = [*getattr(call.owner, "history", []), result]
    return result


def _seeding(call: Call) -> Any:
    torch.manual_seed(0)
    return call.run()


def _drawing(call: Call) -> Any:
    torch.rand(1)
    return call.run()


def _root_of_zero(call: Call) -> Tensor:
    result = call.result()
    return result + (result - result.detach()).abs().sqrt()


def _unguarded_norm(call: Call) -> Tensor:
    result = call.result()
    return result / (result - result.mean(-1, keepdim=True)).square().sum(-1, keepdim=True).sqrt()


def _more_work(call: Call) -> Tensor:
    call.owner.steps = getattr(call.owner, "steps", 0) + 1
    result = call.result()
    for _ in range(call.owner.steps):
        result = result + 0
    return result


def _read_by_stride(call: Call) -> Any:
    tensor = call.args[0]
    return call.but(0, "input", tensor.as_strided(tensor.shape, torch.empty(tensor.shape, device="meta").stride()))


SIGNAL = ("always", "one_unit", "one_row", "many", "faint")
SEQUENCE = ("always", "one_unit", "one_row", "long", "faint")

FAULTS: dict[str, Fault] = {
    "mask_dropped": Fault(_no_mask, _hides, ("always", "one_row", "long", "many")),
    "mask_one_too_late": Fault(
        _late_mask,
        lambda s: s.call.name in ("masked_fill", "scaled_dot_product_attention") and _hides(s),
        ("always", "one_row", "long"),
    ),
    "mask_too_weak": Fault(
        lambda c: c.but(2, "value", -3.0), lambda s: s.call.name == "masked_fill" and _hides(s), ("always", "one_row")
    ),
    "mask_of_minus_infinity": Fault(_minus_infinity, lambda s: s.call.name == "masked_fill" and _hides(s)),
    "mask_beyond_half": Fault(lambda c: c.but(2, "value", -1e9), lambda s: s.call.name == "masked_fill" and _hides(s)),
    "softmax_over_queries": Fault(_other_axis, _named("softmax"), ("always", "one_row", "long", "many")),
    "softmax_argmax": Fault(_one_hot, _named("softmax")),
    "scaling_dropped": Fault(lambda c: c.args[0], lambda s: s.call.name == "div" and not isinstance(s.call.args[1], Tensor)),
    "view_for_transpose": Fault(_reshaped, _swaps, ("always", "many")),
    "detached": Fault(lambda c: c.result().detach(), _is_signal),
    "no_grad": Fault(_no_grad, _is_signal),
    "rounded": Fault(lambda c: c.result().round(), _is_signal),
    "branch_detached": Fault(lambda c: c.args[0] + c.args[1].detach(), _is_sum),
    "residual_detached": Fault(lambda c: c.args[0].detach() + c.args[1], _is_sum),
    "branch_dropped": Fault(lambda c: c.args[0], _is_wide_sum),
    "residual_dropped": Fault(lambda c: c.args[1], _is_full_sum),
    "branch_times_zero": Fault(lambda c: c.args[0] + 0 * c.args[1], _is_wide_sum),
    "dropout_in_eval": Fault(lambda c: F.dropout(c.result(), 0.2, training=True), _is_signal, SIGNAL),
    "noise_in_eval": Fault(lambda c: c.result() + 0.1 * torch.randn_like(c.result()), _is_signal, SIGNAL),
    "batch_statistics": Fault(_batch_statistics, _is_signal, SIGNAL),
    "batch_maximum": Fault(_by_the_maximum, _is_signal, SIGNAL),
    "batch_gradient": Fault(_gradient_of_the_batch, _is_signal, ("always", "one_unit")),
    "sequence_statistics": Fault(_sequence_statistics, _is_sequence, SEQUENCE),
    "sequence_rolled": Fault(_rolled, _is_sequence, SEQUENCE),
    "sequence_rolled_back": Fault(_rolled_back, _is_sequence, SEQUENCE),
    "channel_dropped": Fault(
        _first_unit_dropped, lambda s: s.call.name in ("conv2d", "linear") and s.call.args[0].ndim in (2, 4), ("always",)
    ),
    "positions_one_late": Fault(_later, _named("arange")),
    "positions_backwards": Fault(_backwards, lambda s: s.call.name == "arange" and len(s.result) > 1),
    "positions_zero": Fault(_all_zero, lambda s: s.call.name == "arange" and len(s.result) > 1),
    "ids_clamped": Fault(_clamped_ids, _named("embedding")),
    "ids_merged": Fault(_last_read_as_first, _named("embedding")),
    "squeezed": Fault(lambda c: c.result().squeeze(), _is_signal),
    "four_rows": Fault(lambda c: c.result()[:4], _is_signal),
    "hard_float": Fault(lambda c: c.result().float(), _is_signal),
    "half_and_back": Fault(
        lambda c: c.result().bfloat16().to(c.args[0].dtype), lambda s: _is_signal(s) and s.call.name != "embedding"
    ),
    "float_constant": Fault(lambda c: c.result() + torch.zeros(c.result().shape[-1], device=c.result().device), _is_signal),
    "cpu_constant": Fault(_cpu_constant, _is_signal),
    "second_call_differs": Fault(_counted, _is_signal, ("always", "one_unit", "faint")),
    "first_call_kept": Fault(_last_call_again, _is_signal, ("always", "one_unit", "long", "many", "faint")),
    "running_mean_in_eval": Fault(_carried_on, _is_signal, ("always", "one_unit", "faint")),
    "outputs_kept": Fault(_history, _is_signal),
    "more_work_each_call": Fault(_more_work, _is_signal),
    "seed_in_forward": Fault(_seeding, _is_signal),
    "random_numbers_drawn": Fault(_drawing, _is_signal),
    "root_of_zero": Fault(_root_of_zero, _is_signal, ("always", "one_unit")),
    "norm_without_eps": Fault(_unguarded_norm, _is_signal, ("always", "long")),
    "too_loud": Fault(lambda c: c.result() * 300, _is_signal, ("always", "one_unit")),
    "too_quiet": Fault(lambda c: c.result() * 1e-9, _is_signal),
    "constant": Fault(lambda c: c.result() * 0 + 1, _is_signal, ("always", "one_unit")),
    "not_a_number": Fault(
        lambda c: c.result() / c.result().clamp(max=0).sign().abs(), _is_signal, ("one_unit", "one_row", "long")
    ),
    "read_by_stride": Fault(
        _read_by_stride, lambda s: isinstance(s.call.args[0] if s.call.args else None, Tensor) and _is_signal(s)
    ),
}
"""Every fault by name."""

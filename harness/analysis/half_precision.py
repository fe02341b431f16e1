"""The model in half precision: finite wherever it is in full precision, and as near to it as its rounding allows.

How near that is depends on the model, and is measured on it: in full precision, every weight and what every innermost module returns are
moved at random by as much as rounding to the half dtype does (in the manner of CESTAC, Vignes 1993). A difference beyond ten times what that
makes of the logits counts when a module is found that strays further than what it is given, or when it is beyond what the model's noise in
full precision foretells.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.analysis import Study, each_output, padded_batch, takes_mask
from harness.batches import Batch
from harness.compat import tree_map
from harness.errors import ProbeUnsupportedError
from harness.evidence import Evidence, Status
from harness.properties.calling import ModelRaisedError
from harness.properties.large_tensors import largest_absolute, views_of
from harness.properties.model_variants import Draws
from harness.properties.noise import FACTOR, difference
from harness.properties.reading import layers_apart
from harness.properties.subject import Subject
from harness.properties.tracing import Call, finite, first_broken, recording, whole

_NAME = "half_precision"
_NESTED = (
    "`nn.TransformerEncoder` makes nested tensors of padded rows, which its attention cannot read under autocast on the CPU: "
    "`enable_nested_tensor=False`"
)
_DRAWS = 4
_MORE_DRAWS = 8
_JUMP = 2.0
"""How much further than in proportion counts as a jump."""

_NO_KERNEL = ("not implemented for", "not supported", "unsupported", "expected mat_a to be")

_NOT_FINITE = (
    "scores or sums beyond 65504 (attention that is not scaled, a sum in place of a mean), an epsilon such as 1e-8 that float16 rounds to "
    "zero, a mask constant that becomes -inf in a row that is all padding, or the logarithm of a softmax"
)
_TOO_FAR = (
    "a branch on the dtype, numbers that are added up or subtracted in half precision where their difference matters, or positions and "
    "frequencies that half precision cannot hold"
)

_TYPICAL = "typical input"


@dataclass(frozen=True)
class _Precision:
    """A way to run a model in half precision.

    Attributes:
        label: Its name, in messages.
        dtype: What it rounds to.
        is_autocast: Whether the weights stay in full precision, and operators choose.
    """

    label: str
    dtype: torch.dtype
    is_autocast: bool = False

    def model(self, subject: Subject) -> nn.Module:
        """A copy of the model to run so."""
        return subject.fresh() if self.is_autocast else subject.fresh().to(self.dtype)

    def context(self, subject: Subject) -> AbstractContextManager[object]:
        """What to run it in."""
        return torch.autocast(subject.device.type, self.dtype) if self.is_autocast else nullcontext()


@each_output
def float16(study: Study) -> Evidence:
    """In float16 the logits are finite and those of full precision, within its rounding."""
    return _judge(study, _Precision("float16", torch.float16))


@each_output
def bfloat16(study: Study) -> Evidence:
    """In bfloat16 the logits are finite and those of full precision, within its rounding."""
    return _judge(study, _Precision("bfloat16", torch.bfloat16))


@each_output
def autocast(study: Study) -> Evidence:
    """Under autocast to bfloat16 the logits are finite and those of full precision, within its rounding."""
    return _judge(study, _Precision("autocast (bfloat16)", torch.bfloat16, is_autocast=True))


def _judge(study: Study, precision: _Precision) -> Evidence:
    subject = study.subject
    if subject.dtype not in (torch.float32, torch.float64):
        return Evidence.skipped(_NAME, f"the model is already in {str(subject.dtype).removeprefix('torch.')}")
    closest = None
    for number, (content, batch) in enumerate(_contents(subject)):
        half = precision.model(subject)
        shown = f"{subject.typical.describe(subject.task)}, {content}"
        try:
            with recording(half) as coarse, precision.context(subject):
                logits = subject.logits(batch, half)
        except ModelRaisedError as error:
            return _raised(error, precision, shown)
        del half  # before another copy is rounded at random
        exact = _exact(study, number, batch)
        if not finite(exact):
            continue  # said by ``finite_output``
        if not finite(logits):
            message = f"in {precision.label} the logits of {content} are not finite, though they are in full precision"
            module = first_broken(coarse, lambda tensor: not finite(tensor))
            return Evidence.failed(_NAME, message, counterexample=shown, module=module, cause=_NOT_FINITE, code="not_finite")
        if content != _TYPICAL:
            continue
        measured, bound = difference(exact, logits), subject.task.tolerances.get(_NAME)
        if bound is None:
            bound = FACTOR * _rounding(subject, batch, exact, precision.dtype, enough=measured / FACTOR)
        facts: dict[str, Any] = {"measured": (measured, bound, ""), "counterexample": shown}
        epsilon = torch.finfo(precision.dtype).eps
        fine = _recorded(subject, batch)[1] if measured > bound else []
        module = _first_astray(fine, coarse, epsilon)
        is_told = _NAME in subject.task.tolerances
        if measured > bound and not is_told and _jumps(subject, batch, exact, precision.dtype, measured):
            message = f"rounding to {precision.label} flips a decision in the model, such as which experts a token goes to"
            return Evidence.judged(
                _NAME, Status.SKIPPED, f"{message}; the difference of the logits says nothing", module=module, **facts
            )
        if measured > bound and (module or is_told or measured > _foretold(subject, epsilon)):
            message = f"in {precision.label} the logits differ from those in full precision by more than rounding explains"
            caption = f"{precision.label} against full precision, as a share of the largest value that a module returns"
            drawn = {"plots": layers_apart(fine, coarse, whole, caption)}
            return Evidence.failed(_NAME, message, module=module, cause=_TOO_FAR, code="beyond_rounding", details=drawn, **facts)
        message = f"in {precision.label} the logits agree within its rounding"
        closest = closest or Evidence.ok(_NAME, message, **facts)
    return closest or Evidence.skipped(_NAME, "no input gives finite logits in full precision")


def _exact(study: Study, number: int, batch: Batch) -> Tensor:
    """The logits in full precision, which are computed once for all three precisions."""
    key = f"{_NAME}, {study.subject.task.signature.main.name}, {number}"
    if key not in study.kept:
        study.kept[key], _ = _recorded(study.subject, batch)
    exact: Tensor = study.kept[key]
    return exact


def _recorded(subject: Subject, batch: Batch) -> tuple[Tensor, list[Call]]:
    """The logits in full precision, and what each layer is given and returns."""
    model = subject.fresh()
    with recording(model) as calls:
        return subject.logits(batch, model), calls


def _contents(subject: Subject) -> Iterator[tuple[str, Batch]]:
    """Inputs by name: typical ones, and those at which small and large constants matter."""
    yield _TYPICAL, subject.batch(seed=0)
    yield _TYPICAL, subject.batch(seed=1)
    batch, signature, sizes = subject.batch(seed=0), subject.task.signature, subject.typical
    for axis in signature.axes.values():
        if axis.padding and takes_mask(subject, axis):
            total = signature.complete(sizes.by_axis(subject.task))[axis.name]
            lengths = [axis.shortest, *[total] * (sizes.batch - 1)]
            yield f"a batch with a row that is {axis.mostly_padding}", padded_batch(subject, batch, axis, sizes, lengths).batch
    numbers = [each for each in signature.inputs if each.name in batch and batch[each.name].is_floating_point()]
    if numbers:
        zero = {each.name: each.values.extreme(batch[each.name], "constant_zero", 0.0) for each in numbers}
        yield "an input that is zero everywhere", {**batch, **zero}


def _raised(error: ModelRaisedError, precision: _Precision, shown: str) -> Evidence:
    if isinstance(error.error, NotImplementedError) or any(words in str(error).lower() for words in _NO_KERNEL):
        message = f"an operation has no {precision.label} kernel here: {error}"
        return Evidence.skipped(_NAME, message, counterexample=shown)
    if not precision.is_autocast:
        message = f"forward raises in {precision.label}: {error} (see dtype_move)"
        return Evidence.skipped(_NAME, message, counterexample=shown)
    return Evidence.failed(
        _NAME,
        f"forward raises under {precision.label}: {error}",
        counterexample=shown,
        module=error.module,
        cause=_NESTED
        if "NestedTensor" in str(error)
        else "tensors made in the dtype of a weight, while autocast gives the other operand in half precision: use the dtype of the "
        "operand, or a matrix product that autocast knows",
        code="raises",
    )


def _rounding(
    subject: Subject,
    batch: Batch,
    exact: Tensor,
    dtype: torch.dtype,
    times: float = 1.0,
    draws: int = _DRAWS,
    enough: float = float("inf"),
) -> float:
    """How far rounding to a dtype, or so many times as much, takes the logits, as seen under random rounding.

    Args:
        subject: The model.
        batch: What it is called on.
        exact: Its logits.
        dtype: What is rounded to.
        times: How many times as much as rounding does.
        draws: How often it is drawn; the largest distance counts.
        enough: A distance that needs no further draw.
    """
    farthest = 0.0
    for seed in range(draws):
        with _rounded(subject.fresh(), dtype, seed, times) as model:
            moved = difference(exact, subject.logits(batch, model))
        farthest = max(farthest, moved if moved < float("inf") else 0.0)
        if farthest >= enough:
            break
    return farthest


def _jumps(subject: Subject, batch: Batch, exact: Tensor, dtype: torch.dtype, measured: float) -> bool:
    """Whether the logits are no smooth function of their rounding: ten times as much of it takes them much further than ten times as far.

    So it is behind a top-k or a threshold. One of few values may flip where a few draws of rounding flip none; ten times the rounding flips
    ten times as many.
    """
    coarse = _rounding(subject, batch, exact, dtype, FACTOR, _MORE_DRAWS)
    return coarse > _JUMP * FACTOR * _rounding(subject, batch, exact, dtype) and measured < _JUMP * coarse


def _foretold(subject: Subject, epsilon: float) -> float:
    """A bound for a model no module of which stands out: its noise in full precision, scaled to the coarser dtype."""
    return subject.floor.bound * epsilon / subject.floor.epsilon


@contextmanager
def _rounded(model: nn.Module, dtype: torch.dtype, seed: int, times: float = 1.0) -> Iterator[nn.Module]:
    """A model whose weights, and whatever its innermost modules return, are off by up to half a unit in the last place of a dtype."""
    epsilon = times * torch.finfo(dtype).eps
    smallest = epsilon * torch.finfo(dtype).smallest_normal  # below, numbers are that far apart
    rng = torch.Generator().manual_seed(seed)
    errors = Draws(lambda like: torch.rand(like.shape, generator=rng).to(like.device, like.dtype) - 0.5, model)

    def moved(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.is_nested:
            return value
        error = errors.like(value)
        return value + error * (epsilon * value.abs() + smallest)

    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            for piece in views_of(tensor):
                piece.copy_(moved(piece))
    leaves = [module for module in model.modules() if not any(True for _ in module.children())]
    if any(isinstance(leaf, torch.jit.ScriptModule) for leaf in leaves):
        raise ProbeUnsupportedError("a part of the model is a TorchScript module, whose rounding cannot be simulated")
    handles = [leaf.register_forward_hook(lambda _m, _a, output: tree_map(moved, output)) for leaf in leaves]
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def _first_astray(fine: list[Call], coarse: list[Call], epsilon: float) -> str:
    """Path of the first module that returns what is further from full precision than what it is given, by more than rounding."""
    for call, other in zip(fine, coarse, strict=False):
        if call.module != other.module:
            return ""
        given = max(epsilon, _deviation(call.inputs, other.inputs))
        if _deviation(call.outputs, other.outputs) > FACTOR * given:
            return call.module
    return ""


def _deviation(fine: list[Tensor], coarse: list[Tensor]) -> float:
    """Largest difference of floating tensors, relative to the largest value of each."""
    found = [0.0]
    for left, right in zip(fine, coarse, strict=False):
        if left.is_floating_point() and left.shape == right.shape and left.numel():
            scale = largest_absolute(left)
            found.append(difference(left, right) / scale if scale else 0.0)
    return max(found)

"""Whether a model gives the same logits whichever way its attention is computed.

There are several ways: the kernels of ``F.scaled_dot_product_attention``, which PyTorch chooses by device, dtype and mask; the fast path of
``nn.MultiheadAttention`` and ``nn.TransformerEncoderLayer``, taken only in eval mode; and the implementations that a Hugging Face model
can be switched between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from harness.analysis import PaddedBatch, Study, each_output, padded_batch, takes_mask
from harness.batches import Batch
from harness.evidence import Evidence, Status
from harness.models.copies import Copies
from harness.models.wrapped import without_fast_path
from harness.properties.calling import ModelRaisedError
from harness.properties.noise import judge_equal
from harness.properties.subject import Subject
from harness.properties.tracing import finite, first_broken, first_divergence, recording, whole

_NAME = "attention_kernels"

_KERNELS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
}

_IMPLEMENTATIONS = ("eager", "sdpa")
"""Of a Hugging Face model; the others need further packages."""

_FUNCTIONS = ("scaled_dot_product_attention", "multi_head_attention_forward")
_FAST_MODULES = (nn.MultiheadAttention, nn.TransformerEncoderLayer)

_CAUSE = (
    "a hand-written fallback that scales, masks or normalises differently from the kernel it replaces, or an overridden method of a PyTorch "
    "layer that the layer's fast path in eval mode does not call"
)
_NOT_FINITE = (
    "a softmax over a row of -inf: PyTorch's kernels return zeros there, a hand-written one NaN; fill the mask with the dtype's smallest number "
    "instead"
)


@dataclass(frozen=True)
class _Way:
    """A way to compute attention.

    Attributes:
        label: Its name, in messages.
        context: What to run the model in.
        implementation: What a Hugging Face model is switched to; empty for no switch.
        shuns_hooks: Whether PyTorch takes this way only in the absence of hooks.
    """

    label: str
    context: Callable[[], AbstractContextManager[object]] = nullcontext
    implementation: str = ""
    shuns_hooks: bool = False

    def prepared(self, model: nn.Module, copies: Copies) -> nn.Module:
        """The model, or a copy switched to the implementation."""
        if not self.implementation:
            return model
        switched: Any = copies.of(model)
        switched.set_attn_implementation(self.implementation)
        return switched


@each_output
def attention_kernels(study: Study) -> Evidence:
    """Every way to compute attention gives the same logits at real positions, and finite ones for a row that is all padding."""
    subject = study.subject
    ways = _ways(subject)
    if not ways:
        message = "forward does not use PyTorch's attention, and there is no other implementation to switch to"
        return Evidence.skipped(_NAME, message)
    closest, tried = None, []
    for way in ways:
        try:
            found = _judge(subject, way)
        except ModelRaisedError as error:
            if way.implementation:
                return _raised(way, error)
            continue  # no kernel for this device, dtype or mask, which PyTorch knows and would not choose
        if found.status is Status.FAIL:
            return found
        tried.append(way.label)
        closest = found if closest is None or found.excess > closest.excess else closest
    if closest is None:
        return Evidence.skipped(_NAME, "there is only one way to compute the attention here")
    message = f"the logits are the same with {', '.join(tried)}"
    facts: dict[str, Any] = {"measured": (closest.measured, closest.bound, ""), "counterexample": closest.counterexample}
    return Evidence.ok(_NAME, message, details={"ways": tried}, **facts)


def _judge(subject: Subject, way: _Way) -> Evidence:
    closest = None
    for content, batch, padded in _contents(subject):
        shown = f"{subject.typical.describe(subject.task)}, {content}"
        broken = _not_finite(subject, way, batch, content, shown)
        if broken is not None:
            return broken
        found = judge_equal(
            subject,
            _NAME,
            lambda model, batch=batch, padded=padded: (  # type: ignore[misc]  # the batch of this turn
                _at_real_positions(subject, padded, subject.logits(batch, model)),
                _at_real_positions(subject, padded, _logits(subject, way, batch, model)),
            ),
            f"the logits differ with {way.label}",
            shown,
            _CAUSE,
            lambda model, batch=batch: _blame(subject, way, batch, model),  # type: ignore[misc]
        )
        if found.status is Status.FAIL:
            return found
        closest = found if closest is None or found.excess > closest.excess else closest
    assert closest is not None
    return closest


def _not_finite(subject: Subject, way: _Way, batch: Batch, content: str, shown: str) -> Evidence | None:
    """A failure where this way gives NaN or infinity and the usual one does not."""
    if not finite(subject.logits(batch, subject.fresh())):
        return None  # said by ``finite_output``
    model = way.prepared(subject.fresh(), subject.copies)
    if finite(_logits(subject, way, batch, model)):
        return None
    with recording(model) as calls:
        _logits(subject, way, batch, model)
    module = first_broken(calls, lambda tensor: not finite(tensor))
    message = f"with {way.label} the logits of {content} are not finite"
    return Evidence.failed(_NAME, message, counterexample=shown, module=module, cause=_NOT_FINITE, code="not_finite")


def _raised(way: _Way, error: ModelRaisedError) -> Evidence:
    message = f"forward raises with {way.label}: {error}"
    return Evidence.failed(_NAME, message, module=error.module, cause="an implementation that was never run", code="raises")


def _ways(subject: Subject) -> list[_Way]:
    """The ways that make a difference to this model, other than the one it takes by itself."""
    model = subject.fresh()
    found = []
    with _CallWatch() as watch:
        subject.logits(subject.batch(), model)
    has_fast_path = any(isinstance(module, _FAST_MODULES) for module in model.modules())
    if watch.is_called or has_fast_path:
        found += [_Way(f"the {name} kernel", lambda backend=backend: sdpa_kernel(backend)) for name, backend in _KERNELS.items()]  # type: ignore[misc]
    if has_fast_path:
        found.append(_Way("the fast path of PyTorch's attention layers switched off", without_fast_path, shuns_hooks=True))
    if callable(getattr(model, "set_attn_implementation", None)):
        own = getattr(getattr(model, "config", None), "_attn_implementation", "")
        others = [name for name in _IMPLEMENTATIONS if own and name != own]
        found += [
            _Way(f"the {name!r} attention", implementation=name) for name in others if _is_offered(model, subject.copies, name)
        ]
    return found


def _is_offered(model: nn.Module, copies: Copies, implementation: str) -> bool:
    """Whether a Hugging Face model can be switched to an implementation; it refuses by an exception."""
    try:
        _Way("", implementation=implementation).prepared(model, copies)
    except Exception:  # whichever it is, this model has no such implementation
        return False
    return True


class _CallWatch(TorchFunctionMode):
    """Notes whether an attention of PyTorch's is called."""

    is_called = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Lets every call pass."""
        self.is_called = self.is_called or getattr(func, "__name__", "") in _FUNCTIONS
        return func(*args, **(kwargs or {}))


def _contents(subject: Subject) -> Iterator[tuple[str, Batch, PaddedBatch | None]]:
    """Inputs by name; of those with padding, what is real."""
    yield "typical input", subject.batch(seed=0), None
    signature, sizes = subject.task.signature, subject.typical
    for axis in signature.axes.values():
        if axis.padding and sizes.batch > 1 and takes_mask(subject, axis):
            total = signature.complete(sizes.by_axis(subject.task))[axis.name]
            lengths = [axis.shortest, max(1, axis.least, total // 2), *[total] * (sizes.batch - 2)]
            padded = padded_batch(subject, subject.batch(seed=1), axis, sizes, lengths)
            yield f"a batch with a row that is {axis.mostly_padding}", padded.batch, padded


def _at_real_positions(subject: Subject, padded: PaddedBatch | None, logits: Tensor) -> Tensor:
    """The logits of what is not padding."""
    return logits if padded is None else padded.real_values(subject.task.signature.main, logits)


def _logits(subject: Subject, way: _Way, batch: Batch, model: nn.Module) -> Tensor:
    with way.context():
        return subject.logits(batch, way.prepared(model, subject.copies))


def _blame(subject: Subject, way: _Way, batch: Batch, model: nn.Module) -> str:
    if way.shuns_hooks:
        return next((path for path, module in model.named_modules() if isinstance(module, _FAST_MODULES)), "")
    other = way.prepared(model, subject.copies)
    with recording(model) as left:
        subject.logits(batch, model)
    with recording(other) as right, way.context():
        subject.logits(batch, other)
    return first_divergence(left, right, whole)

"""The model after a move to another dtype or device.

Where no other device is at hand, one is simulated: the model and its inputs move to PyTorch's ``meta`` device, whose tensors carry
shape, dtype and device but no data, and every operator is checked for tensors that were left behind on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.compat import TorchDispatchMode, compiler_left_out, tree_leaves, without_compiler
from harness.evidence import Evidence, Status
from harness.models.wrapped import without_fast_path
from harness.properties.calling import ModelRaisedError
from harness.properties.noise import quantised_part
from harness.properties.subject import Subject
from harness.properties.tracing import Call, finite, first_broken, recording
from harness.properties.watched_lines import making_line

_NO_KERNEL = ("not implemented for", "not supported", "unsupported", "expected mat_a to be")

_TWO_DEVICES = ("same device", "different devices")

_MAY_MIX = ("_to_copy", "copy_", "index", "index_put", "index_put_", "_index_put_impl_", "unsafe_index")
"""Operators that take tensors of two devices: copies, and indexing with an index on the CPU."""


class LeftBehindError(RuntimeError):
    """An operator was given tensors of two devices."""


@without_compiler
class DeviceWatch(TorchDispatchMode):
    """Refuses operators that mix tensors of two devices, as a real device does; scalars on the CPU may mix with anything.

    Args:
        answer: What ``.item()`` of a tensor without data gives, so that control flow on values can continue.
    """

    def __init__(self, answer: int) -> None:
        super().__init__()
        self.answer = answer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operator when its tensors share a device."""
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return torch.full((), self.answer, dtype=args[0].dtype).item()
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.ndim]
        if len({tensor.is_meta for tensor in tensors}) > 1 and func.overloadpacket.__name__ not in _MAY_MIX:
            left = next(tensor for tensor in tensors if not tensor.is_meta)
            raise LeftBehindError(f"{func.overloadpacket.__name__} met a tensor of shape {tuple(left.shape)} on the CPU")
        return func(*args, **(kwargs or {}))


def dtype_move(subject: Subject, dtype: str, seed: int = 0) -> Evidence:
    """The model runs after ``.to(dtype)`` and gives finite, floating logits.

    Args:
        subject: The model.
        dtype: Name of a floating dtype, such as ``bfloat16``.
        seed: Seed of the inputs.
    """
    name, label = "dtype_move", dtype
    counterexample = f"{subject.typical.describe(subject.task)}, dtype={label}, seed={seed}"
    if not any(p.is_floating_point() for p in subject.model.parameters()):
        return Evidence.skipped(name, "the model has no floating parameters to move")
    if part := quantised_part(subject.model):
        return Evidence.skipped(name, f"`{part}` is quantised, and its kernels only support float32")
    model = _in_dtype(subject, dtype)
    calls: list[Call] = []
    try:
        with recording(model) as calls:
            values = _values(subject, model, seed)
    except ModelRaisedError as error:
        if isinstance(error.error, NotImplementedError) or any(words in str(error).lower() for words in _NO_KERNEL):
            return Evidence.skipped(name, f"an operation has no {label} kernel here: {error}", counterexample=counterexample)
        subject.logits(subject.batch(seed=seed))  # what raises before a move too is no matter of the move
        wanted = getattr(torch, dtype)
        place = making_line(
            lambda: _values(subject, _in_dtype(subject, dtype), seed),
            lambda tensor: tensor.dtype == wanted or not tensor.is_floating_point(),
            lambda tensor: tensor.to(wanted),
        )
        return Evidence.failed(
            name,
            f"forward raises after .to({label}): {error}",
            counterexample=counterexample,
            # Mostly a layer raises that is given what another one made.
            module=first_of_other_dtype(calls, wanted) or error.module,
            place=place,
            cause="a tensor made in forward without dtype=x.dtype, a hard-coded .float(), or a constant that is not a buffer",
            code="raises",
        )
    for told, value in values.items():
        if finite(value) and value.is_floating_point():
            continue
        return Evidence.failed(
            name,
            f"{told} not finite after .to({label})",
            counterexample=counterexample,
            module=first_broken(calls, lambda tensor: not finite(tensor)),
            cause="a constant such as -1e9 or 1e-8 that the dtype cannot hold",
            code="not_finite",
        )
    return Evidence.ok(name, f"runs in {label}", counterexample=counterexample)


def _in_dtype(subject: Subject, dtype: str) -> nn.Module:
    """A copy in another dtype; a large model that computes in float64 a module at a time needs no second one that holds it all."""
    if dtype == "float64" and subject.is_large and subject.double is not None:
        return subject.fresh_double()
    return subject.fresh().to(getattr(torch, dtype))


def _values(subject: Subject, model: nn.Module, seed: int) -> dict[str, Tensor]:
    """The floating outputs of a call, each with its name as the subject of a sentence; where none are declared, the logits."""
    batch = subject.batch(seed=seed)
    if subject.task.declared is None:
        return {"logits are": subject.logits(batch, model)}
    tensors = {name: value for name, value in subject.outputs(batch, model).items() if isinstance(value, Tensor)}
    main = subject.task.signature.main.name
    return {f"output `{name}` is": value for name, value in tensors.items() if name == main or value.is_floating_point()}


def device_move(subject: Subject, seed: int = 0) -> Evidence:
    """The model runs on another device, in eval and in train mode: a real one where there is one, a simulated CUDA device otherwise."""
    found = _moved(subject, seed)
    if found.status is not Status.OK:
        return found
    training = _moved(subject, seed, train=True)
    # What else train mode meets is no matter of devices.
    is_left = training.code in ("tensor_stays_behind", "output_stays_behind")
    return replace(training, message=f"in train mode {training.message}") if is_left else found


def _moved(subject: Subject, seed: int, train: bool = False) -> Evidence:
    if subject.device.type == "cpu" and torch.cuda.is_available():
        return _real_move(subject, "cuda", seed, train)
    if subject.device.type == "cpu":
        return _simulated_move(subject, seed, train)
    return _real_move(subject, "cpu", seed, train)


def _real_move(subject: Subject, device: str, seed: int, train: bool) -> Evidence:
    moved = _on(subject, device, train)
    counterexample = f"{subject.typical.describe(subject.task)}, device={device}, seed={seed}"
    try:
        values = _values(moved, moved.model, seed)
    except ModelRaisedError as error:
        code = "tensor_stays_behind" if any(words in str(error) for words in _TWO_DEVICES) else "raises"
        return _refused(code, f"forward raises after .to({device!r}): {error}", error, counterexample)
    for told, value in values.items():
        if value.device.type != device:
            return _refused("output_stays_behind", f"after .to({device!r}) {told} on {value.device.type}", None, counterexample)
    return Evidence.ok("device_move", f"runs on {device}", counterexample=counterexample)


def _simulated_move(subject: Subject, seed: int, train: bool) -> Evidence:
    counterexample = f"{subject.typical.describe(subject.task)}, simulated device, seed={seed}"
    found = _simulated_call(subject, seed, train, counterexample)
    if found.status is not Status.FAIL:
        return found
    # Code that asks which device it is on takes another path on a real one, such as that for tensors without data.
    with pretending_cuda() as pretended:
        again = _simulated_call(subject, seed, train, counterexample)
    if again.status is Status.FAIL or (again.status is not Status.OK and not pretended.asked):
        return found
    if again.status is Status.SKIPPED:
        reason = "forward queries its device, and the simulated device cannot answer as a real one would"
        return Evidence.skipped("device_move", f"no other device here: {reason} ({again.message})")
    return again


def _simulated_call(subject: Subject, seed: int, train: bool, counterexample: str) -> Evidence:
    moved = _on(subject, "meta", train)
    # A check such as `mask.all()` has no answer without data; either one leads down a path that real data can take.
    for answer in (1, 0):
        try:
            values = _simulated_values(moved, answer, seed)
            break
        except ModelRaisedError as error:
            if isinstance(error.error, LeftBehindError) or any(words in str(error) for words in _TWO_DEVICES):
                found = _refused(
                    "tensor_stays_behind",
                    f"a tensor stays on the CPU when the model moves to another device: {error}",
                    error,
                    counterexample,
                )
                run = partial(_simulated_values, moved, answer, seed)
                return found.at(making_line(run, lambda tensor: tensor.is_meta, lambda tensor: tensor.to("meta")))
            reason = f"no other device here, and the simulated one has no data for control flow or this operator ({error})"
    else:
        return Evidence.skipped("device_move", reason, counterexample=counterexample)
    if behind := next((told for told, value in values.items() if not value.is_meta), ""):
        return _refused(
            "output_stays_behind", f"{behind} on the CPU when the model moves to another device", None, counterexample
        )
    return Evidence.ok("device_move", "every tensor moves with the model (simulated device)", counterexample=counterexample)


def _simulated_values(moved: Subject, answer: int, seed: int) -> dict[str, Tensor]:
    with compiler_left_out(), without_fast_path(), DeviceWatch(answer):
        return _values(moved, moved.model, seed)


def _fresh(subject: Subject, train: bool) -> nn.Module:
    """A copy in eval or train mode, which it enters where it has data: a `train` of the user's own may ask for them."""
    model = subject.fresh()
    if train:
        model.train()
    return model


def _simulated(subject: Subject, train: bool) -> nn.Module:
    """A copy without data whose parameters are the objects they were, as a real device leaves them: a plain list may hold them too."""
    model = _fresh(subject, train)
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        # With cuDNN a recurrent layer asks for a GPU as it moves, and there may be none.
        with torch.backends.cudnn.flags(enabled=False):
            return model.to("meta")
    except RuntimeError:  # a parameter that something native, or a kept result, holds on to cannot be swapped
        torch.__future__.set_swap_module_params_on_conversion(False)
        return _fresh(subject, train).to("meta")
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


def _on(subject: Subject, device: str, train: bool) -> Subject:
    model = _simulated(subject, train) if device == "meta" else _fresh(subject, train).to(device)
    # What is found out on another device, as that forward raises there, is nothing that other tests may go by.
    moved = Subject(model, subject.adapter, subject.task, make=subject.make, shared=subject.shared.apart())
    moved.device = torch.device(device)  # a model without tensors is nowhere
    return moved


def _refused(code: str, message: str, error: ModelRaisedError | None, counterexample: str) -> Evidence:
    return Evidence.failed(
        "device_move",
        message,
        counterexample=counterexample,
        module=error.module if error else "",
        cause="a tensor made in forward without device=x.device, or a constant kept as a plain attribute instead of a buffer",
        code=code,
    )


_IS_CUDA = Tensor.is_cuda.__get__  # type: ignore[attr-defined]
_DEVICE = Tensor.device.__get__  # type: ignore[attr-defined]


class PretendedCuda(TorchFunctionMode):
    """Tensors of the ``meta`` device look like CUDA tensors.

    Attributes:
        asked: Whether anything asked, or sent something to CUDA.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answers for CUDA, or runs the function on the simulated device."""
        if func in (_IS_CUDA, _DEVICE, Tensor.get_device):
            if not args[0].is_meta:
                return func(*args)
            if func == _DEVICE:
                return torch.device("cuda", 0)
            self.asked = True
            return True if func == _IS_CUDA else 0
        if func is Tensor.cuda:
            self.asked = True
            return args[0].to("meta")
        if func is torch.device:  # a name, which is answered where it is used
            return func(*args, **(kwargs or {}))
        return func(*map(self._simulated, args), **{name: self._simulated(value) for name, value in (kwargs or {}).items()})

    def _simulated(self, value: Any) -> Any:
        """The simulated device in the place of a CUDA device."""
        named = isinstance(value, str) and value.partition(":")[0] == "cuda"
        if named or (isinstance(value, torch.device) and value.type == "cuda"):
            self.asked = self.asked or named
            return torch.device("meta")
        return value


@contextmanager
def pretending_cuda() -> Iterator[PretendedCuda]:
    """A block in which the simulated device looks like CUDA, and CUDA seems to be at hand."""
    pretended = PretendedCuda()

    def available() -> bool:
        pretended.asked = True
        return True

    with patch.object(torch.cuda, "is_available", available), pretended:
        yield pretended


def first_of_other_dtype(calls: list[Call], dtype: torch.dtype) -> str:
    """Path of the first module that is given floating tensors of a dtype and returns one of another; empty where there is none."""
    for call in calls:
        read, returned = ([t for t in tensors if t.is_floating_point()] for tensors in (call.inputs, call.outputs))
        if all(tensor.dtype == dtype for tensor in read) and any(tensor.dtype != dtype for tensor in returned):
            return call.module
    return ""

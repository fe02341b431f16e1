"""Computations on large tensors a piece at a time, so that no temporary result is larger.

Gradients are read and not kept, what is saved and loaded shares memory until it is written to, and a model computes in float64 of which only
one module at a time holds weights in it.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

import torch
from torch import Tensor, nn

from harness.compat import TorchDispatchMode, buffers_of, parameters_of, storage_key, without_compiler
from harness.models.copies import is_large_tensor, value_of
from harness.models.weights import load_state
from harness.runtime import is_large

_PIECE = 1 << 20
"""Elements of a piece."""


def pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors of one shape, flat and in pieces; those of contiguous tensors are views of them."""
    return zip(*(tensor.reshape(-1).split(_PIECE) for tensor in tensors), strict=True)


def views_of(tensor: Tensor) -> Iterator[Tensor]:
    """Views that fill a tensor between them, to write into; one whose memory is not in one piece is its only view."""
    is_plain = type(tensor) in (Tensor, nn.Parameter) and tensor.is_contiguous()
    return (piece for (piece,) in pieces(tensor)) if is_plain else iter((tensor,))


def largest_gap(left: Tensor, right: Tensor) -> float:
    """Largest absolute difference of two tensors of one shape, in float64; NaN where one is met."""
    gaps = torch.stack([(one.double() - other.double()).abs().max() for one, other in pieces(left.detach(), right.detach())])
    return float(gaps.max())


def largest_absolute(tensor: Tensor) -> float:
    """Largest absolute value of a tensor, 0 of one without elements, as an expert has that was given no rows; NaN where one is met."""
    told = tensor.detach().byte() if tensor.dtype is torch.bool else tensor.detach()
    return float(torch.stack([piece.abs().max() for (piece,) in pieces(told)]).max()) if tensor.numel() else 0.0


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity. Its sum only acquits: that of large numbers may overflow."""
    return bool(tensor.sum().isfinite()) or all(bool(piece.isfinite().all()) for (piece,) in pieces(tensor))


def root_mean_square(tensor: Tensor) -> float:
    """Root of the mean of the squares, in float64."""
    squares = [piece.abs().double().square().sum() for (piece,) in pieces(tensor.detach())]
    return float((torch.stack(squares).sum() / tensor.numel()).sqrt())


def moments(tensor: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of the absolute values of complex numbers, or of real ones, in float64."""
    values = tensor.detach()
    mean = float(sum(float(_real(piece).sum()) for (piece,) in pieces(values))) / tensor.numel()
    squares = [(_real(piece) - mean).square().sum() for (piece,) in pieces(values)]
    return mean, float((torch.stack(squares).sum() / tensor.numel()).sqrt())


def _real(piece: Tensor) -> Tensor:
    return piece.abs().double() if piece.is_complex() else piece.double()


def may_be_constant(tensor: Tensor) -> bool:
    """Whether a tensor's first numbers are all the same one."""
    (first,) = next(pieces(tensor))
    return bool((first == first[:1]).all())


def through_a_file(model: nn.Module) -> dict[str, Tensor]:
    """A model's state dict, saved and read as files are: nothing in it is shared with the model, and no code is run.

    Large tensors of a large model are not written: what a file would give back shares their memory until either of the two is written to.
    """
    state, kept = copy.copy(model.state_dict()), dict[str, Tensor]()
    if is_large(model):
        once: dict[tuple[object, ...], Tensor] = {}
        for name, value in state.items():
            if isinstance(value, Tensor) and is_large_tensor(value):  # what shares memory does so in a file, too
                place = (storage_key(value), value.shape, value.stride())
                kept[name] = once[place] = once[place] if place in once else value_of(value)
        state.update(dict.fromkeys(kept, torch.empty(0)))
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    found: dict[str, Tensor] = torch.load(file, weights_only=True)
    found.update(kept)
    return found


@contextmanager
def keeping_state(model: nn.Module) -> Iterator[None]:
    """A block after which a model has the state from before; a large one is given back only what was written to."""
    before = copy.copy(model.state_dict())  # with the versions of its modules
    before.update({name: value_of(each) if isinstance(each, Tensor) else copy.deepcopy(each) for name, each in before.items()})
    yield
    now = model.state_dict() if is_large(model) else {}
    same = [name for name, each in now.items() if isinstance(each, Tensor) and torch.equal(each, before[name])]
    for name in same:
        del before[name]
    with torch.no_grad():
        load_state(model, before, strict=not same)


@without_compiler
class RepeatedDraws(TorchDispatchMode):
    """Fills large tensors with random numbers that repeat after a while: what a second instance holds only has to be something else.

    Drawing every weight of a large model takes most of the time in which it is built.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operator; one that draws large tensors for their beginning only."""
        tensor: Any = args[0] if args else None
        if func not in _DRAWS or tensor.numel() <= _DRAWN or type(tensor) is not Tensor or not tensor.is_contiguous():
            return func(*args, **(kwargs or {}))
        first, *others = tensor.view(-1).split(_DRAWN)
        func(first, *args[1:], **(kwargs or {}))
        for part in others:
            part.copy_(first[: len(part)])
        return tensor


_DRAWS = (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default)

_DRAWN = (1 << 20) - 3
"""Numbers that are drawn of a large tensor: a prime, so that no two rows of a matrix are the same."""

_PART = 1 << 24
"""Numbers of a part of a state dict."""


def names_in_parts(state: Mapping[str, Tensor], most: float = _PART) -> list[list[str]]:
    """The names of a state dict, in parts of which none takes much memory in another dtype, or has more numbers than asked for."""
    parts, size = [list[str]()], 0
    for name, value in state.items():
        more = value.numel() if isinstance(value, Tensor) else 0
        if parts[-1] and size + more > most:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += more
    return parts


def pickled(model: nn.Module) -> nn.Module:
    """A model, pickled and read again; large tensors of a large model are not written, as in ``through_a_file``."""
    file = io.BytesIO()
    pickler = _Pickler(file) if is_large(model) else pickle.Pickler(file)
    pickler.dump(model)
    file.seek(0)
    found: nn.Module = _Unpickler(file, pickler.kept).load() if isinstance(pickler, _Pickler) else pickle.load(file)
    return found


class _Pickler(pickle.Pickler):
    """Keeps large tensors, by number, instead of writing them."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.kept: dict[int, Tensor] = {}

    def persistent_id(self, value: object) -> int | None:
        """The number of a large tensor."""
        if not isinstance(value, Tensor) or not is_large_tensor(value):
            return None
        self.kept[id(value)] = value
        return id(value)


class _Unpickler(pickle.Unpickler):
    """Gives copies in the place of numbers of large tensors."""

    def __init__(self, file: IO[bytes], kept: dict[int, Tensor]) -> None:
        super().__init__(file)
        self._kept, self._made = kept, dict[int, Tensor]()

    def persistent_load(self, number: int) -> Tensor:
        """The copy of a large tensor, the same each time."""
        if number not in self._made:
            tensor = self._kept[number]
            value = value_of(tensor)
            self._made[number] = nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value
        return self._made[number]


Read = Callable[[str, Tensor], None]
"""Takes a parameter's name and its gradient, or a part of it."""


@contextmanager
def reading_gradients(model: nn.Module, read: Read) -> Iterator[None]:
    """In the block, a backward pass gives the gradient of each parameter to a function, once it is complete, and keeps none.

    Args:
        model: The model.
        read: Takes the gradient, which is dense.
    """

    def hook(name: str) -> Callable[[Tensor], None]:
        def take(parameter: Tensor) -> None:
            gradient, parameter.grad = parameter.grad, None
            if gradient is not None:
                read(name, gradient.to_dense() if gradient.is_sparse else gradient)

        return take

    hooks = [
        parameter.register_post_accumulate_grad_hook(hook(name))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.is_leaf
    ]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


_SHARES = 3
"""In how many parts gradients of a large model are compared."""


def first_of_each_kind(model: nn.Module) -> set[str]:
    """Names of parameters of which each stands for those that are like it: of the same class of module, with the same name and shape.

    What is done to every weight is done to these of a large model, so that the others share their memory with those of its copies.
    """
    found: dict[tuple[Any, ...], str] = {}
    for path, module in model.named_modules():
        role = [part for part in path.split(".") if not part.isdigit()][-1:]
        for name, parameter in parameters_of(module).items():
            if parameter is not None:
                found.setdefault((type(module), *role, name, parameter.shape), f"{path}.{name}".lstrip("."))
    return set(found.values())


def saved_in_dtype(model: nn.Module, dtype: torch.dtype, in_parts: bool) -> Iterator[dict[str, Tensor]]:
    """A model's state dict in another dtype; or in parts, in which large tensors that are not the first of their kind keep their own."""
    saved, firsts = model.state_dict(), first_of_each_kind(model)
    for names in names_in_parts(saved) if in_parts else [list(saved)]:
        part = copy.copy(saved)  # with the versions of its modules, which a plain dict would not have
        for name in saved.keys() - set(names):
            del part[name]
        for name in names:
            value = part[name]
            if isinstance(value, Tensor) and value.is_floating_point():
                part[name] = value if in_parts and is_large_tensor(value) and name not in firsts else value.to(dtype)
        yield part


@dataclass
class GradientGap:
    """How a parameter's gradient differs between two backward passes.

    Attributes:
        largest: The largest absolute number in the first one; ``None`` where that pass has none.
        gap: The largest difference; where only one pass has a gradient, the other's is zero.
        is_lost: Whether only the first pass has one.
    """

    largest: float | None
    gap: float
    is_lost: bool


def gradient_gaps(model: nn.Module, first: Callable[[Read], object], second: Callable[[Read], object]) -> dict[str, GradientGap]:
    """How each gradient differs between two backward passes.

    Of a large model both run once for each part of the parameters, and only the gradients of that part are kept.

    Args:
        model: The model, or one with the same parameters.
        first: Runs a backward pass, whose gradients it gives to a function.
        second: Runs the other one.
    """
    found, parameters = dict[str, GradientGap](), dict(model.named_parameters())
    most = sum(parameter.numel() for parameter in parameters.values()) / _SHARES if is_large(model) else float("inf")
    for names in names_in_parts(parameters, most):
        part, kept, seen = set(names), dict[str, Tensor](), set[str]()

        def add(name: str, gradient: Tensor, part: set[str] = part, kept: dict[str, Tensor] = kept) -> None:
            if name in part and gradient.numel():
                kept[name] = kept[name] + gradient if name in kept else gradient

        def take_off(
            name: str, gradient: Tensor, part: set[str] = part, kept: dict[str, Tensor] = kept, seen: set[str] = seen
        ) -> None:
            if name in part and gradient.numel():
                seen.add(name)
                kept[name] = kept[name] - gradient if name in kept else -gradient

        first(add)
        largest = {name: largest_absolute(gradient) for name, gradient in kept.items()}
        second(take_off)
        for name in names:
            if name in kept:
                found[name] = GradientGap(largest.get(name), largest_absolute(kept[name]), name not in seen)
    return found


def gradient_of(parameter: Tensor) -> Tensor | None:
    """A parameter's gradient, dense also where an embedding keeps a sparse one."""
    gradient = parameter.grad
    return gradient.to_dense() if gradient is not None and gradient.is_sparse else gradient


@torch.no_grad()
def step_by_sign(parameters: Iterable[Tensor], size: float) -> None:
    """Moves each parameter with a gradient by the same amount against the sign of its gradient, however small that is."""
    for parameter in parameters:
        gradient = gradient_of(parameter)
        if gradient is not None:
            parameter.sub_(gradient.sgn(), alpha=size)


_WIDENED, _OWN = "_modeltiers_widened", "_modeltiers_own_weights"
"""Marks of a model that was widened, and of a module whose own weights are put aside while it runs."""

Change = Callable[[nn.Parameter], "Tensor | None"]
"""From a parameter to what stands in its place; ``None`` leaves it."""


def widened(model: nn.Module) -> nn.Module:
    """Makes a model compute in float64 while its weights stay in its own dtype: those of a module are widened while it runs.

    So the whole needs the memory of one module more, and not of a second model. For a gradient, which belongs to a weight in float64, the
    model is turned into one in float64 when it is called. Copies of a widened model are widened too.
    """
    for module in model.modules():
        for name, buffer in buffers_of(module).items():
            if buffer is not None and buffer.is_floating_point():
                buffers_of(module)[name] = buffer.double()
    lending(model, lambda _number: _wider)
    model.register_forward_pre_hook(_widen_all, prepend=True)
    vars(model)[_WIDENED] = True
    return model


def is_widened(model: nn.Module) -> bool:
    """Whether a model computes in float64 whatever the dtype of its weights."""
    return _WIDENED in vars(model)


def _widen_all(model: nn.Module, _arguments: Any) -> None:
    if torch.is_grad_enabled():
        model.double()


def _wider(parameter: nn.Parameter) -> Tensor | None:
    return parameter.double() if parameter.dtype is not torch.float64 else None


def lending(model: nn.Module, change: Callable[[int], Change]) -> nn.Module:
    """Has each module of a model compute with changed copies of its floating weights, which exist only while it runs.

    Args:
        model: The model, which is changed in place; its copies are changed too.
        change: Gives the values of a module's weights, by the number of the module.
    """
    for number, module in enumerate(model.modules()):
        if any(parameter is not None and parameter.is_floating_point() for parameter in parameters_of(module).values()):
            module.register_forward_pre_hook(partial(_lend, change(number)), prepend=True)
            module.register_forward_hook(_take_back, always_call=True)
    return model


def _lend(change: Change, module: nn.Module, _arguments: Any) -> None:
    """Puts other weights in the place of a module's own; where it calls itself, those of the outer call stay."""
    depth, own = vars(module).get(_OWN, (0, {}))
    if not depth:
        own = {}
        for name, each in parameters_of(module).items():
            value = None if each is None or not each.is_floating_point() else change(each)
            if value is not None:
                own[name] = each
                parameters_of(module)[name] = nn.Parameter(value, requires_grad=False)
    vars(module)[_OWN] = depth + 1, own


def _take_back(module: nn.Module, _arguments: Any, _result: Any) -> None:
    depth, own = vars(module).pop(_OWN)
    if depth > 1:
        vars(module)[_OWN] = depth - 1, own
    else:
        parameters_of(module).update(own)

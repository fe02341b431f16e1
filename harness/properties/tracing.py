"""Finding the module to blame.

Every module's inputs and outputs are recorded, and the first call with sound inputs and broken outputs is the culprit.
A call counts as the culprit only when its inputs are sound, so that a layer which merely passes on what an attention mixed before
it is not blamed; the module whose own code did the mixing is.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.batches import Sizes
from harness.compat import tree_leaves, unwrapped
from harness.evidence import Blame
from harness.properties.large_tensors import largest_absolute
from harness.properties.noise import difference
from harness.properties.places import users_line

_MOST_BYTES = 1 << 28
"""Of copies of what operators read and make; of what a model computes beyond that, no lines are told."""

T = TypeVar("T")
R = TypeVar("R", "Call", "Step")

View = Callable[[Tensor], "Tensor | None"]
"""The part of a tensor that must not change; ``None`` where the tensor has no such part."""


@dataclass(eq=False)
class Step:
    """One operator that a line of the user's code called.

    Attributes:
        place: The line, ``model.py:14``.
        name: Of the operator.
        inputs: Copies of the tensors it was given, as they were before.
        outputs: Copies of the tensors it returned.
    """

    place: str
    name: str
    inputs: list[Tensor]
    outputs: list[Tensor]


@dataclass
class Call:
    """One call of a module.

    Attributes:
        module: Its path, ``(model)`` for the root.
        inputs: Copies of its tensor arguments, as they were before the call.
        outputs: Copies of the tensors it returned.
        steps: What its own code computed, in order, where lines are recorded.
        finals: How many of the outputs, the last ones, are final states of a recurrent layer.
    """

    module: str
    inputs: list[Tensor]
    outputs: list[Tensor] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    finals: int = 0


def path_of(name: str) -> str:
    """A module's path as it is shown; the model itself has an empty name."""
    return name or "(model)"


@contextmanager
def hooked(
    model: nn.Module,
    enter: Callable[[str, nn.Module, tuple[Any, ...], dict[str, Any]], Any],
    leave: Callable[[str, Any], None],
) -> Iterator[None]:
    """Calls ``enter`` before and ``leave`` after the forward of every module, and unhooks them at the end of the block.

    Args:
        model: The model.
        enter: Given the path, the module, and its arguments; may return other arguments, as a pre-hook may.
        leave: Given the path and what forward returned.
    """
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue  # a compiled part runs no Python, so that nothing can be hooked into it
        path = path_of(name)
        handles.append(module.register_forward_pre_hook(lambda m, a, k, path=path: enter(path, m, a, k), with_kwargs=True))
        handles.append(module.register_forward_hook(lambda _m, _a, output, path=path: leave(path, output)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Steps(TorchFunctionMode):
    """Records the operators of the module that is running, up to the first backward pass."""

    def __init__(self, running: list[Call]) -> None:
        super().__init__()
        self._running = running
        self._bytes = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "backward":
            self._bytes = sys.maxsize
        if not self._running or self._bytes > _MOST_BYTES:
            return func(*args, **(kwargs or {}))
        call, inputs = self._running[-1], _copies((args, kwargs))
        result = func(*args, **(kwargs or {}))
        # What is written into returns nothing, or an argument; either way that is what the operator made.
        name = getattr(func, "__name__", "")
        outputs = _copies(args[0] if name == "__setitem__" else result)
        if outputs and (place := users_line(sys._getframe(1))):
            call.steps.append(Step(place, name, inputs, outputs))
            self._bytes += sum(tensor.numel() * tensor.element_size() for tensor in (*inputs, *outputs))
        return result


@contextmanager
def recording(model: nn.Module, lines: bool = False) -> Iterator[list[Call]]:
    """Records every module call, in the order in which they finish.

    Args:
        model: The model.
        lines: Whether to record what each line of its code computes too, so that a line can be blamed.
    """
    finished: list[Call] = []
    running: list[Call] = []
    recurrent = recurrent_layers(model)

    def enter(path: str, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        running.append(Call(path, _copies((rows_first(args) if path in recurrent else args, kwargs))))

    def leave(path: str, output: Any) -> None:
        call = running.pop()
        call.outputs = _copies(rows_first(output) if path in recurrent else fields_of(output))
        call.finals = len(call.outputs) - 1 if path in recurrent else 0
        finished.append(call)

    with hooked(model, enter, leave), _Steps(running) if lines else nullcontext():
        yield finished
        finished.extend(reversed(running))  # that raised


@contextmanager
def recording_steps(name: str) -> Iterator[Call]:
    """Records what each line of the user's code computes up to the first backward pass, whichever module it is of, as if it were one call.

    Args:
        name: What the call is named.
    """
    call = Call(name, [])
    with _Steps([call]):
        yield call


def along_time(calls: list[Call]) -> list[Call]:
    """The calls without the final states of recurrent layers, which sum up all positions, padded ones too, and may be read by nothing."""
    return [replace(call, outputs=call.outputs[: len(call.outputs) - call.finals]) for call in calls]


def calls_of(model: nn.Module, run: Callable[[nn.Module], object], lines: bool = True) -> list[Call]:
    """Every module call while a model runs; with ``lines`` also what each line of its code computes."""
    with recording(model, lines) as calls:
        run(model)
    return calls


@dataclass(frozen=True)
class Probe(Generic[T]):
    """What a probe read before and after a module's call."""

    module: str
    before: T
    after: T


@contextmanager
def probing(model: nn.Module, read: Callable[[], T]) -> Iterator[list[Probe[T]]]:
    """Reads something before and after every module call, in the order in which the calls finish."""
    finished: list[Probe[T]] = []
    running: list[T] = []

    def enter(*_call: Any) -> None:
        running.append(read())

    def leave(path: str, _output: Any) -> None:
        finished.append(Probe(path, running.pop(), read()))

    with hooked(model, enter, leave):
        yield finished


def first_divergence(left: list[Call], right: list[Call], view_left: View, view_right: View | None = None) -> Blame:
    """Path of the first module whose outputs differ between two recordings though its inputs agree.

    Args:
        left: One recording.
        right: The other.
        view_left: What must agree, of a tensor of ``left``.
        view_right: The same for ``right``; ``view_left`` by default.

    Returns:
        The module's path, with the line where lines are recorded; empty where no module stands out.
    """
    view_right = view_right or view_left
    found = _first_differing(numbered(left, "module"), dict(numbered(right, "module")), view_left, view_right)
    if found is None:
        return Blame("")
    return diverging_line(*found, view_left, view_right)


def diverging_line(call: Call, other: Call, view_left: View, view_right: View) -> Blame:
    """Path of a module of which two calls were recorded, with the first line of it that makes something else of inputs that agree."""
    steps, others = list(numbered(call.steps, "place", "name")), dict(numbered(other.steps, "place", "name"))
    step = _first_differing(steps, others, view_left, view_right)
    if step is None:
        return Blame(call.module)
    if _differ(step[0].inputs, step[1].inputs, view_left, view_right) and (place := _branch_before(call, other, step)):
        return Blame(call.module, place, f"line {place.rpartition(':')[2]} runs in only one of the two calls")
    # What it reads may lack the axis that the view is of, such as a mean over it: then whatever made that one mixed it.
    before = [(key, each) for key, each in steps[: [each for _, each in steps].index(step[0])] if _reduces(each)]
    mixing = _first_differing(before, others, _or_all(view_left), _or_all(view_right))
    return Blame(call.module, (mixing or step)[0].place)


def _branch_before(call: Call, other: Call, step: tuple[Step, Step]) -> str:
    """The line that only one of two calls runs, and that makes what a step of it reads; empty where there is none."""
    for one, reading, another in ((call, step[0], other), (other, step[1], call)):
        taken = {each.place for each in another.steps}
        for each in one.steps[: one.steps.index(reading)]:
            made = ((out, read) for out in each.outputs for read in reading.inputs if out.dtype == read.dtype)
            if each.place not in taken and any(torch.equal(*pair) for pair in made):
                return each.place
    return ""


def _reduces(step: Step) -> bool:
    """Whether an operator returns less than it reads, as a mean does."""
    return sum(each.numel() for each in step.outputs) < max((each.numel() for each in step.inputs), default=0)


def _or_all(view: View) -> View:
    def shown(tensor: Tensor) -> Tensor:
        part = view(tensor)
        return tensor if part is None else part

    return shown


def _first_differing(
    left: Iterable[tuple[Hashable, R]], right: dict[Hashable, R], view_left: View, view_right: View
) -> tuple[R, R] | None:
    """The first of two recordings' entries that differ in their outputs and agree in their inputs; without one, the first that differ."""
    fallback: tuple[R, R] | None = None
    for key, entry in left:
        other = right.get(key)
        if other is None or not _differ(entry.outputs, other.outputs, view_left, view_right):
            continue
        if not _differ(entry.inputs, other.inputs, view_left, view_right):
            return entry, other
        fallback = fallback or (entry, other)
    return fallback


def first_broken(calls: list[Call], broken: Callable[[Tensor], bool]) -> str:
    """Path of the first module with a broken output and no broken input; empty where there is none."""
    for call in calls:
        if any(map(broken, call.outputs)) and not any(map(broken, call.inputs)):
            steps = (step for step in call.steps if any(map(broken, step.outputs)) and not any(map(broken, step.inputs)))
            step = next(steps, None)
            return call.module if step is None else Blame(call.module, step.place)
    return ""


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor."""
    return tensor


def row_view(sizes: Sizes, row: int) -> View:
    """One row of the batch."""

    def view(tensor: Tensor) -> Tensor | None:
        split = _split_rows(tensor, sizes)
        return None if split is None else split[row]

    return view


def positions_view(batch: int, seq: int, stop: int, row: int | None = None, start: int = 0) -> View:
    """The positions from ``start`` up to ``stop`` of a sequence of length ``seq``, of every row or one; on both axes of attention weights."""
    sizes = Sizes(batch=batch, seq=seq)

    def view(tensor: Tensor) -> Tensor | None:
        split = _split_rows(tensor, sizes)
        if split is None:
            return None
        axes = [axis for axis in range(1, split.ndim) if split.shape[axis] == seq]
        if not axes and row is None:
            return None
        for axis in axes:
            split = split.narrow(axis, start, stop - start)
        return split if row is None else split[row]

    return view


def finite(tensor: Tensor) -> bool:
    """Whether a floating tensor holds neither NaN nor infinity; an additive mask's -inf is no defect."""
    if not tensor.is_floating_point() or bool(tensor.detach().sum().isfinite()):
        return True
    broken = tensor.isnan() | (tensor == float("inf"))
    return not bool(broken.any()) and not (tensor.numel() and bool(tensor.isneginf().all()))


def _split_rows(tensor: Tensor, sizes: Sizes) -> Tensor | None:
    """The tensor with the batch as its first axis, also where a module folded the sequence into it or put the sequence first."""
    if tensor.ndim == 0:
        return None
    if tensor.shape[0] == sizes.batch:
        return tensor
    if sizes.seq > 1 and tensor.shape[0] == sizes.batch * sizes.seq:
        return tensor.unflatten(0, (sizes.batch, sizes.seq))
    if tensor.ndim > 2 and tensor.shape[:2] == (sizes.seq, sizes.batch):
        return tensor.transpose(0, 1)
    if sizes.batch > 1 and tensor.shape[0] % sizes.batch == 0:
        return tensor.unflatten(0, (sizes.batch, -1))
    return None


def _differ(left: list[Tensor], right: list[Tensor], view_left: View, view_right: View) -> bool:
    return any(_differs(view_left(a), view_right(b)) for a, b in zip(left, right, strict=False))


def _differs(left: Tensor | None, right: Tensor | None) -> bool:
    if left is None or right is None or left.shape != right.shape or left.numel() == 0:
        return False
    if not left.is_floating_point():
        return not torch.equal(left, right)
    both = torch.isfinite(left) & torch.isfinite(right)
    if not torch.equal(torch.isfinite(left), torch.isfinite(right)):
        return True
    left, right = torch.where(both, left, 0), torch.where(both, right, 0)
    # Rounding left over from float32 kernels inside a float64 model must not be taken for the defect.
    resolution = 1e-9 if left.dtype == torch.float64 else 1e-5
    return difference(left, right) > resolution * largest_absolute(left)


def numbered(entries: Iterable[T], *by: str) -> Iterator[tuple[Hashable, T]]:
    """Every entry by attributes, such as a call's ``module`` or a step's ``place`` and ``name``, and which one of those it is."""
    seen: Counter[Hashable] = Counter()
    key_of = attrgetter(*by)
    for entry in entries:
        key = key_of(entry)
        yield (key, seen[key]), entry
        seen[key] += 1


def recurrent_layers(model: nn.Module) -> set[str]:
    """The paths of the layers whose states have their layers first, see ``rows_first``."""
    return {path_of(name) for name, module in model.named_modules() if isinstance(module, nn.RNNBase)}


def rows_first(given: tuple[Any, ...]) -> list[Any]:
    """What a recurrent layer reads or returns, its states with their rows first, where they have their layers."""
    states = (state for state in tree_leaves(given[1:]) if isinstance(state, Tensor))
    return [*given[:1], *(state.transpose(0, 1) if state.ndim == 3 else state for state in states)]


def _copies(tree: Any) -> list[Tensor]:
    return [unwrapped(_dense(leaf.detach()).clone()) for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _dense(tensor: Tensor) -> Tensor:
    """A tensor that has a shape: the fast path of ``nn.TransformerEncoder`` hands nested ones from layer to layer."""
    return torch.nested.to_padded_tensor(tensor, 0.0) if tensor.is_nested else tensor


def fields_of(output: Any) -> Any:
    """A module's output as something whose tensors can be listed, such as a Hugging Face ModelOutput."""
    if hasattr(output, "keys"):
        return dict(output)
    return vars(output) if hasattr(output, "logits") and hasattr(output, "__dict__") else output

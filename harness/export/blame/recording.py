"""What PyTorch computes, operator by operator: every tensor, what made it, and the module and the user's line that led to it."""

from __future__ import annotations

import linecache
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.batches import Batch
from harness.compat import TorchDispatchMode, storage_key, tree_leaves, tree_map
from harness.export.program import Program, module_path
from harness.models.wrapped import without_fast_path
from harness.properties.tracing import hooked
from harness.written_in import short_name

LAYOUT = frozenset(
    [
        "alias",
        "cast",
        "castlike",
        "clone",
        "concat",
        "cat",
        "contiguous",
        "detach",
        "expand",
        "flatten",
        "identity",
        "lift_fresh_copy",
        "permute",
        "reshape",
        "select",
        "slice",
        "split",
        "split_with_sizes",
        "squeeze",
        "stack",
        "t",
        "to",
        "_to_copy",
        "transpose",
        "unflatten",
        "unsafe_view",
        "_unsafe_view",
        "unsqueeze",
        "view",
    ]
)
"""Operators that pass values on without computing any."""


@dataclass
class Value:
    """A tensor that came up while something was computed.

    Attributes:
        operator: What made it, such as ``aten.add.Tensor`` or ``Add``; empty where nothing did.
        tensor: A copy of it.
        inputs: The values it was made from, by their index.
        name: Its own name, or that of the node that made it.
        module: Path of the module in which it came up.
        lines: The user's lines that led to it, innermost first.
        given: Whether it is right by definition: an input, a weight, or a weight in another layout.
    """

    operator: str
    tensor: Tensor
    inputs: tuple[int, ...] = ()
    name: str = ""
    module: str = ""
    lines: tuple[str, ...] = ()
    given: bool = False

    @property
    def passes_on(self) -> bool:
        """Whether its operator only moves values."""
        return self.operator.removeprefix("aten.").partition(".")[0].lower() in LAYOUT


@dataclass
class Trace:
    """The values of one run, in the order in which they came up, and which of them are the logits."""

    values: list[Value]
    output: int

    @property
    def logits(self) -> Tensor:
        """The logits."""
        return self.values[self.output].tensor

    @property
    def live(self) -> list[int]:
        """The values that led to the logits."""
        return self.led_to(self.output, range(len(self.values)))

    def made_from(self, starts: Iterable[int], among: Iterable[int]) -> list[int]:
        """The values of ``among`` that are one of ``starts`` or made from one."""
        found = set(starts)
        for index in sorted(among):
            if not found.isdisjoint(self.values[index].inputs):
                found.add(index)
        return sorted(found)

    def led_to(self, end: int, among: Iterable[int]) -> list[int]:
        """The values of ``among`` that are ``end`` or that it was made from, through such values."""
        allowed, found, open_ = set(among), {end}, [end]
        while open_:
            fresh = {i for i in self.values[open_.pop()].inputs if i in allowed} - found
            found |= fresh
            open_ += fresh
        return sorted(found)


_HARNESS = Path(__file__).parent.parent.parent
_STUBS = _HARNESS / "models" / "stubs.py"
_TORCH = Path(torch.__file__).parent
_STANDARD_LIBRARY = Path(sysconfig.get_paths()["stdlib"])
_INSTALLED = ("site-packages", "dist-packages")

_unoptimised: Any = torch.jit.optimized_execution  # type: ignore[attr-defined]

Place = tuple[str, tuple[str, ...]]
"""A module's path, and the user's lines, innermost first."""

DECISION = "aten._local_scalar_dense.default"
"""A number taken out of a tensor, which is how a branch in Python comes to depend on data."""

_PRODUCTS = {"aten.addmm.default": torch.mm, "aten.baddbmm.default": torch.bmm}
"""Products with a bias added; most other formats have the two apart."""

PART = "the product in "


class Recorder(TorchDispatchMode):
    """Records the tensors that operators make while it is active.

    Args:
        given: Names of tensors that are there from the start, by the tensor's ``id``.
        place: Says where the program is.
        replaced: Tensors to put in place of those that operators make, by their index.
    """

    def __init__(
        self, given: Mapping[int, str], place: Callable[[], Place] | None = None, replaced: Mapping[int, Tensor] | None = None
    ) -> None:
        super().__init__()
        self.values: list[Value] = []
        self._given = given
        self._place = place or (lambda: ("", ()))
        self._replaced = replaced or {}
        self._index_of: dict[int, int] = {}
        self._last_write: dict[int, int] = {}
        self._alive: list[Tensor] = []  # an id may be used again once its tensor is gone

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operator and records what it made."""
        inputs = self._inputs(tree_leaves((args, kwargs)))
        place = self._place()
        name = str(func)
        if name in _PRODUCTS and not kwargs:
            product = _PRODUCTS[name](args[1], args[2])
            self._add(product, Value(f"{PART}{name}", product, inputs[1:], "", *place))
            inputs = (inputs[0], len(self.values) - 1)
        result = func(*args, **(kwargs or {}))
        if name == DECISION:
            self.values.append(Value(name, args[0].detach().clone(), inputs, "", *place))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        writes = func._schema.is_mutable
        swapped = {id(leaf): self._record(leaf, name, inputs, place, writes) for leaf in made}
        return tree_map(lambda leaf: swapped.get(id(leaf), leaf) if isinstance(leaf, Tensor) else leaf, result)

    def trace(self, logits: Tensor) -> Trace:
        """The recording, once the logits are there."""
        output = self._index_of.get(id(logits))
        if output is None:
            # Something that is not dispatched came last, such as taking the tensor out of a wrapper.
            self._add(logits, Value("", logits.detach().clone(), tuple(range(len(self.values)))[-1:]))
            output = len(self.values) - 1
        return Trace(self.values, output)

    def _record(self, leaf: Tensor, name: str, inputs: tuple[int, ...], place: Place, writes: bool) -> Tensor:
        other = self._replaced.get(len(self.values))
        if other is not None:
            other = other.reshape(leaf.shape).to(leaf.dtype)
            leaf = leaf.copy_(other) if writes else other.clone()
        value = Value(name, leaf.detach().clone(), inputs, "", *place)
        value.given = bool(inputs) and value.passes_on and all(self.values[index].given for index in inputs)
        self._add(leaf, value)
        if writes:
            self._last_write[storage_key(leaf)] = len(self.values) - 1
        return leaf

    def _inputs(self, leaves: list[Any]) -> tuple[int, ...]:
        """Indices of the values that an operator reads; those of whoever wrote last into the same memory too."""
        found: dict[int, None] = {}
        for leaf in leaves:
            if not isinstance(leaf, Tensor):
                continue
            if id(leaf) not in self._index_of:
                self._add(leaf, Value("", leaf.detach().clone(), (), self._given.get(id(leaf), ""), given=True))
            found[self._index_of[id(leaf)]] = None
            written = self._last_write.get(storage_key(leaf), -1)
            if written > self._index_of[id(leaf)]:
                found[written] = None
        return tuple(found)

    def _add(self, tensor: Tensor, value: Value) -> None:
        self._alive.append(tensor)
        self._index_of[id(tensor)] = len(self.values)
        self.values.append(value)


def record_eager(program: Program, batch: Batch, detailed: bool = True) -> Trace:
    """Runs the model itself."""
    tensors = program.ordered(batch)
    given = {id(tensor): name for name, tensor in _named(program.forward)} | dict(
        zip(map(id, tensors), program.fields, strict=True)
    )
    running: list[str] = []

    def enter(path: str, *_call: Any) -> None:
        running.append(module_path(path))

    def leave(_path: str, _output: Any) -> None:
        running.pop()

    recorder = Recorder(given, lambda: (running[-1] if running else module_path(""), _user_lines()))
    with torch.no_grad(), hooked(program.forward, enter, leave), _kernels(detailed), recorder:
        logits = program.forward.by_name(dict(zip(program.fields, tensors, strict=True)))[program.outputs[0]]
    return recorder.trace(logits)


def record_artifact(
    runner: Callable[[Batch], Tensor], batch: Batch, detailed: bool = True, replaced: Mapping[int, Tensor] | None = None
) -> Trace:
    """Runs an artifact that PyTorch runs.

    Args:
        runner: The artifact.
        batch: Its inputs.
        detailed: Whether fused kernels are taken apart into their steps.
        replaced: Tensors to put in place of values, by their index.
    """
    recorder = Recorder({id(tensor): name for name, tensor in batch.items()}, None, replaced)
    with torch.no_grad(), _unoptimised(False), _kernels(detailed), recorder:
        logits = runner(batch)
    return recorder.trace(logits)


@contextmanager
def _kernels(detailed: bool) -> Iterator[None]:
    """With ``detailed``, attention and transformer layers in single steps, as exporters write them."""
    if not detailed:
        yield
        return
    with without_fast_path(), sdpa_kernel(SDPBackend.MATH):
        yield


def _named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        yield module_path(name), tensor


def _user_lines() -> tuple[str, ...]:
    """The user's lines that are being run, innermost first; those of installed packages where the user has none."""
    lines: dict[int, list[str]] = {_USERS: [], _PACKAGES: []}
    frame = sys._getframe(2)
    # Above the recording stands whoever asked for it, a test or a script, which is no part of the model.
    while frame is not None and frame.f_code is not record_eager.__code__:
        owner = _owner(frame.f_code.co_filename)
        if owner in lines:
            lines[owner].append(line_of(frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back  # type: ignore[assignment]
    return tuple(lines[_USERS] or lines[_PACKAGES])


def line_of(filename: str, number: int) -> str:
    """``model.py:48: x = x + 1``."""
    return f"{short_name(filename)}:{number}: {linecache.getline(filename, number).strip()}"


def is_shown(filename: str) -> bool:
    """Whether a file is the user's or an installed package's, rather than torch's or this project's."""
    return _owner(filename) != _NOBODY


_USERS, _PACKAGES, _NOBODY = range(3)


@lru_cache(maxsize=1024)
def _owner(filename: str) -> int:
    """Whose a file is."""
    path = Path(filename)
    if filename.startswith("<") or _TORCH in path.parents or (_HARNESS in path.parents and path != _STUBS):
        return _NOBODY
    if not set(_INSTALLED).isdisjoint(path.parts):
        return _PACKAGES
    return _NOBODY if _STANDARD_LIBRARY in path.parents else _USERS

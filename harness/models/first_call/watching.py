"""A call of a model, watched: the operation that failed, the tensors it got, and the arguments that those were made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

_SOURCES = "_made_of"
"""Attribute of a tensor that holds the names of the arguments it was made of."""

_READS = ("dim", "size", "ndim", "shape", "__len__", "numel", "dtype", "device", "is_cuda")

_ALIKE = (
    "new_zeros",
    "new_ones",
    "new_full",
    "new_empty",
    "new_tensor",
    "zeros_like",
    "ones_like",
    "empty_like",
    "is_floating_point",
)
"""Operations that take nothing of a tensor but its kind."""


@dataclass(frozen=True)
class Seen:
    """A tensor that an operation got.

    Attributes:
        shape: Its shape.
        dtype: Its dtype.
        sources: The arguments it was made of; empty for weights and constants.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    sources: frozenset[str]

    @classmethod
    def of(cls, tensor: Tensor) -> Seen:
        """What is seen of a tensor."""
        return cls(tuple(tensor.shape), tensor.dtype, sources_of(tensor))


@dataclass(frozen=True)
class Failure:
    """A call that raised.

    Attributes:
        error: What it raised.
        operation: Name of PyTorch's function that raised; empty where Python did.
        tensors: The tensors that it got, in order.
        plain: Its other arguments, by place and name.
        last_read: The tensor whose shape was asked for last.
        last_operation: Name of the last operation that worked.
        done: How many operations worked before.
    """

    error: BaseException
    operation: str = ""
    tensors: tuple[Seen, ...] = ()
    plain: Mapping[int | str, Any] = field(default_factory=dict)
    last_read: Seen | None = None
    last_operation: str = ""
    done: int = 0

    @property
    def sources(self) -> frozenset[str]:
        """The arguments that its tensors were made of."""
        return frozenset().union(*(seen.sources for seen in self.tensors))

    @property
    def first(self) -> Seen | None:
        """The first of its tensors that was made of an argument."""
        return next((seen for seen in self.tensors if seen.sources), None)

    @property
    def message(self) -> str:
        """What it said."""
        return str(self.error)


class Unbatched(ValueError):
    """A layer that takes batches got one row without a batch, which it takes too, in silence."""


class Watch(TorchFunctionMode):
    """Watches one call.

    Args:
        arguments: The arguments by name; tensors, or dicts and tuples of them.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        for name, argument in arguments.items():
            for path, tensor in tensors_in(argument, name):
                setattr(tensor, _SOURCES, frozenset((path,)))
        self._last_read: Seen | None = None
        self._last_operation = ""
        self._failed: tuple[BaseException, str, tuple[Seen, ...], dict[int | str, Any]] | None = None
        self._done = 0
        self._arguments = {id(tensor): path for name, value in arguments.items() for path, tensor in tensors_in(value, name)}
        self._whole: set[str] = set()
        self._columns: dict[str, int] = {}
        self.ids: dict[str, int] = {}
        """Rows of the smallest table that each argument was looked up in."""

    @property
    def columns(self) -> dict[str, int]:
        """How many columns are read of arguments of which only columns are read, one by one."""
        return {path: count for path, count in self._columns.items() if path not in self._whole}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation and remembers what it got."""
        kwargs = kwargs or {}
        name = _name(func)
        given = list(_tensors((args, tuple(kwargs.values()))))
        if name in _READS:
            self._last_read = Seen.of(given[0]) if given else None
            return func(*args, **kwargs)
        self._note_columns(name, given, args)
        sources = frozenset().union(*map(sources_of, given))
        if name in ("conv1d", "conv2d", "conv3d") and given and sources_of(given[0]) and given[0].ndim == int(name[4]) + 1:
            error = Unbatched(f"{name} got {given[0].ndim} axes")
            self._remember(error, name, args, kwargs)
            raise error
        if name == "embedding" and len(given) > 1:
            for source in sources_of(given[0]):
                self.ids[source] = min(self.ids.get(source, given[1].shape[0]), given[1].shape[0])
        try:
            result = func(*args, **kwargs)
        except BaseException as error:
            self._remember(error, name, args, kwargs)
            raise
        self._last_operation = name
        self._done += 1
        if sources:
            for tensor in _tensors((result,)):
                setattr(tensor, _SOURCES, sources_of(tensor) | sources)
        return result

    def _note_columns(self, name: str, given: list[Tensor], args: Any) -> None:
        for tensor in given if name not in _ALIKE else ():
            path = self._arguments.get(id(tensor))
            if path is None:
                continue
            index = args[1] if name == "__getitem__" and len(args) > 1 and tensor is args[0] else None
            column = index[1] if isinstance(index, tuple) and len(index) > 1 else None
            last = column + 1 if type(column) is int else column.stop if isinstance(column, slice) else None
            if type(last) is int and last > 0:
                self._columns[path] = max(self._columns.get(path, 0), last)
            else:
                self._whole.add(path)

    def _remember(self, error: BaseException, name: str, args: Any, kwargs: Any) -> None:
        plain = {
            key: value
            for key, value in [*enumerate(args), *kwargs.items()]
            if not isinstance(value, Tensor) and not any(True for _ in _tensors((value,)))
        }
        seen = tuple(Seen.of(tensor) for tensor in _tensors((args, tuple(kwargs.values()))))
        self._failed = (error, name, seen, plain)

    def failure(self, error: BaseException) -> Failure:
        """What is known of an error that the call raised."""
        if self._failed is None or self._failed[0] not in (error, error.__cause__, error.__context__):
            return Failure(error, last_read=self._last_read, last_operation=self._last_operation, done=self._done)
        _, name, seen, plain = self._failed
        return Failure(error, name, seen, plain, self._last_read, self._last_operation, self._done)


def watched_call(model: nn.Module, arguments: Mapping[str, Any], call: Callable[[], Any]) -> tuple[Any, Failure | None, Watch]:
    """Runs a call without gradients; returns what it returned, or how it failed, and what was noted.

    Args:
        model: The model that is called; recurrent and attention layers refuse rows without a batch while it is.
        arguments: The arguments by name.
        call: The call.
    """
    watch = Watch(arguments)
    try:
        with torch.no_grad(), refusing_unbatched(model), watch:
            return call(), None, watch
    except (Exception, SystemExit) as error:
        return None, watch.failure(error), watch


@contextmanager
def refusing_unbatched(model: nn.Module) -> Iterator[None]:
    """Has recurrent and attention layers refuse what has no rows, which they take for a single one."""
    layers = (nn.RNNBase, nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
    parts = [
        module for module in model.modules() if isinstance(module, layers) and not isinstance(module, torch.jit.ScriptModule)
    ]
    handles = [module.register_forward_pre_hook(_refuse_unbatched, with_kwargs=True) for module in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _refuse_unbatched(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    taken = next(iter([*args, *kwargs.values()]), None)
    if isinstance(taken, Tensor) and taken.ndim == 2:
        raise Unbatched(f"{type(module).__name__} got 2 axes")


def sources_of(tensor: Tensor) -> frozenset[str]:
    """The arguments that a tensor was made of."""
    found: frozenset[str] = getattr(tensor, _SOURCES, frozenset())
    return found


def tensors_in(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of an argument, with a dotted name where it is a dict."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from tensors_in(item, f"{path}.{key}")
    elif isinstance(value, SimpleNamespace):
        yield from tensors_in(vars(value), path)
    elif isinstance(value, (tuple, list)):
        for place, item in enumerate(value):
            yield from tensors_in(item, f"{path}.{place}")


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)
        elif isinstance(value, dict):
            yield from _tensors(value.values())


def _name(func: Any) -> str:
    """The plain name of an operation: ``add`` for ``Tensor.__add__`` and ``Tensor.add_``, ``shape`` for the attribute."""
    name = getattr(func, "__name__", "")
    if name in ("__get__", "__set__"):
        name = getattr(getattr(func, "__self__", None), "__name__", "")
    if not name:
        name = (resolve_name(func) or "").rpartition(".")[2]
    return (
        name
        if name in ("__len__", "__getitem__", "__iter__")
        else name.strip("_").removeprefix("i" if name.startswith("__i") else "")
    )

"""Every private part of PyTorch and Lightning that the project uses, and what happens in a version without it.

Nothing private of these packages, of pytest or of Hypothesis is named elsewhere, except pytest's in ``pytest_modeltiers/compat.py``, and
modes and hooks of the process in ``process_state/compat.py``. Importing this module imports neither PyTorch nor Lightning; a name is looked
up when it is first asked for. All of it was seen in torch 2.13 and Lightning 2.6; ``tests/test_compat.py`` asks the installed versions for
each.
"""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import lightning
    import torch
    from torch import Tensor, nn
    from torch._ops import OpOverload, OpOverloadPacket
    from torch.jit._trace import TracerWarning
    from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
    from torch.nn.modules.batchnorm import _NormBase as NormBase
    from torch.nn.modules.dropout import _DropoutNd as Dropout
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves, tree_map


Mode = TypeVar("Mode", bound="TorchDispatchMode")


@dataclass(frozen=True)
class Private:
    """A private name.

    Attributes:
        module: Where it is.
        name: What it is called there.
        use: What it is for.
        without: What happens in a version without it.
    """

    module: str
    name: str
    use: str
    without: str


PRIVATE = {
    "TorchDispatchMode": Private(
        "torch.utils._python_dispatch",
        "TorchDispatchMode",
        "sees every operator that runs, which hooks on modules do not: memory, devices, the first operator that diverges",
        "the properties that watch operators, and blame in exports, cannot be imported",
    ),
    "tree_leaves": Private(
        "torch.utils._pytree",
        "tree_leaves",
        "the tensors in any nesting of lists, dicts and registered classes, as PyTorch itself finds them",
        "no model can be traced",
    ),
    "tree_map": Private("torch.utils._pytree", "tree_map", "the same nesting with other tensors in it", "no model can be traced"),
    "OpOverload": Private(
        "torch._ops", "OpOverload", "tells an operator from other objects", "a model cannot be identified by a hash"
    ),
    "OpOverloadPacket": Private(
        "torch._ops", "OpOverloadPacket", "tells an operator from other objects", "a model cannot be identified by a hash"
    ),
    "TracerWarning": Private(
        "torch.jit._trace",
        "TracerWarning",
        "tells what a tracer says it froze from other warnings",
        "models cannot be exported to TorchScript",
    ),
    "BatchNorm": Private(
        "torch.nn.modules.batchnorm",
        "_BatchNorm",
        "the base class of all batch norms, of users' too",
        "batch norms of three dimensions and of users would have to be listed",
    ),
    "NormBase": Private(
        "torch.nn.modules.batchnorm", "_NormBase", "the base class of all norms with running statistics", "as for BatchNorm"
    ),
    "Dropout": Private("torch.nn.modules.dropout", "_DropoutNd", "the base class of all dropout layers", "as for BatchNorm"),
}
"""Names that stand for themselves: ``from harness.compat import TorchDispatchMode``."""

__all__ = [
    "BatchNorm",
    "Dropout",
    "NormBase",
    "OpOverload",
    "OpOverloadPacket",
    "TorchDispatchMode",
    "TracerWarning",
    "tree_leaves",
    "tree_map",
]
"""The names of ``PRIVATE``, handed on. What is defined below is public as well."""

UNDEFINED_FORWARD = "_forward_unimplemented"
"""Name of the ``forward`` of a module that defines none. Without it, torch's NotImplementedError is reported instead."""

FORWARD_FUNCTIONS = ("forward", "_call_impl", "_wrapped_call_impl")
"""Functions that run a module's forward. A version with other names blames errors inside hooks on torch instead of the model."""

FILES_OF_MODULES = "_filesbymodname"  # of inspect; without it, a folder in the place of a forgotten file makes inspect raise
BACKWARD_FUNCTION = "_engine_run_backward"
"""Torch's function that runs a backward pass. Without it, what a backward pass raises is taken for an error of this project."""

COMPILED_MODULE = "_orig_mod"
"""Where ``torch.compile`` keeps its module, and part of the names in its state dict. Without it, a compiled model's weights do not fit."""

CONTENTS_OF_MODULE = ("_modules", "_parameters", "_buffers")
"""Where a module keeps what is registered. Without one of them, a module that cannot be pickled is found under this name."""

HOOKS_OF_MODULE = ("_hooks", "_pre_hooks", "_hooks_with_kwargs", "_hooks_always_called")
"""How the names end under which a module keeps its hooks. Without one of them, a hook counts as state that a checkpoint loses."""

CONTENTS_OF_GRAPH_MODULE = ("_graph", "_code")
"""Where a traced module keeps its graph, for which its code can stand. Without one of them, its hash takes longer, or is refused."""

JIT_IS_SCRIPTING = "_jit_is_scripting"
"""Lightning's switch that lets torch read every attribute of a LightningModule. Without it, TorchScript refuses a module without trainer."""

NAMES_OF_LIGHTNING_MODULE = ("_trainer", "_fabric", "_log_hyperparams", "_hparams", "_hparams_initial", "_hparams_name")
"""What Lightning sets on a module only when it is used. A name that is missing here counts as state that a checkpoint loses."""


def lightning_of(module: object = None) -> ModuleType:
    """The package of a LightningModule: ``lightning.pytorch``, the default, or ``pytorch_lightning``, which do not take each other's classes."""
    homes = {cls.__module__.partition(".")[0] for cls in type(module).__mro__ if cls.__name__ == "LightningModule"}
    return importlib.import_module("pytorch_lightning" if "pytorch_lightning" in homes else "lightning.pytorch")


def storage_key(tensor: Tensor) -> int:
    """What tensors that share memory have in common: ``untyped_storage()._cdata``; ``data_ptr()`` is 0 on the meta device."""
    return tensor.untyped_storage()._cdata


def shared_until_written(tensor: Tensor) -> Tensor:
    """A copy of a tensor that takes memory only when either of the two is written to: ``torch._lazy_clone``.

    Without it, every copy of a model takes the memory of its weights.
    """
    import torch

    return torch._lazy_clone(tensor) if hasattr(torch, "_lazy_clone") else tensor.clone()


def is_shared_until_written(tensor: Tensor) -> bool:
    """Whether a tensor shares memory until one side is written to: ``torch._C._is_cow_tensor``.

    Asking for its ``data_ptr()`` ends that. Without it, every copy of a model takes the memory of its weights once it is asked.
    """
    import torch

    return hasattr(torch._C, "_is_cow_tensor") and torch._C._is_cow_tensor(tensor)


def memory_key(tensor: Tensor) -> int:
    """What tensors that share memory have in common, also where they do so from two storages, as those of one array of NumPy.

    Storages that share memory only until one is written to are told apart, and so are tensors without plain memory, as sparse and fake ones.
    """
    try:
        return storage_key(tensor) if is_shared_until_written(tensor) else tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        return id(tensor)


def unwrapped(tensor: Tensor) -> Tensor:
    """The values of a tensor inside ``torch.func.vmap`` or ``grad``, whose wrapper cannot be used outside; what is mapped comes first.

    ``torch._C._functorch``: there is no public way. Without it, no model that uses ``torch.func`` can be traced.
    """
    import torch

    functorch = torch._C._functorch
    with torch._C._DisableFuncTorch():
        while functorch.is_functorch_wrapped_tensor(tensor):
            axis = functorch.maybe_get_bdim(tensor)
            tensor = functorch.get_unwrapped(tensor)
            if axis > 0 and not functorch.is_functorch_wrapped_tensor(tensor):
                tensor = tensor.movedim(axis, 0)
    return tensor


def buffers_of(module: nn.Module) -> dict[str, Tensor | None]:
    """A module's own buffers by name, ``None`` included, which ``named_buffers`` leaves out: ``_buffers``."""
    return module._buffers


def parameters_of(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """A module's own parameters by name, to be replaced in place without its ``__setattr__``: ``_parameters``."""
    return module._parameters


def children_of(module: nn.Module) -> dict[str, nn.Module | None]:
    """A module's own submodules, to be replaced in place without its ``__setattr__``: ``_modules``."""
    return module._modules


def hooks_of_tensor(tensor: Tensor) -> int:
    """How many hooks a tensor has: ``_backward_hooks`` and ``_post_accumulate_grad_hooks``. Without them, one added each step is not found."""
    return len(getattr(tensor, "_backward_hooks", None) or ()) + len(getattr(tensor, "_post_accumulate_grad_hooks", None) or ())


def saved_names(module: nn.Module) -> set[str]:
    """Names of a module's own parameters, submodules, and buffers that its state dict holds.

    From ``_non_persistent_buffers_set``. Without it, buffers that a checkpoint loses would not be found.
    """
    return {*module._parameters, *module._modules, *(set(module._buffers) - module._non_persistent_buffers_set)}


def forget_compiled(module: nn.Module) -> None:
    """Undoes ``module.compile()``: sets ``_compiled_call_impl``. Without it, the module stays compiled."""
    module._compiled_call_impl = None


def type_of_script_object(value: torch.ScriptObject) -> str:
    """What TorchScript calls an object's type: ``_type()``. Without it, a model with such an object cannot be identified by a hash."""
    return str(value._type())  # type: ignore[attr-defined]


def scale_in_place(tensors: Sequence[Tensor], factor: Tensor) -> None:
    """Multiplies tensors by one number, in one call: ``torch._foreach_mul_``. Without it, training stops with an AttributeError."""
    import torch

    torch._foreach_mul_(list(tensors), factor)


def parts_of_schedule(schedule: Any) -> list[Any]:
    """The schedules that a ``SequentialLR`` or a ``ChainedScheduler`` is made of: ``_schedulers``.

    Without it, a schedule with restarts inside another one would be said to rise again.
    """
    return list(getattr(schedule, "_schedulers", ()))


def without_compiler(mode: type[Mode]) -> type[Mode]:
    """A ``TorchDispatchMode`` that does not import the compiler: ``__wrapped__`` of its ``__torch_dispatch__``.

    torch wraps the method so that it is never compiled, and imports ``torch._dynamo`` for it at the first operator, which takes as long as
    torch itself. What runs under our modes is not compiled. Without it, that time is lost.
    """
    mode.__torch_dispatch__ = getattr(mode.__torch_dispatch__, "__wrapped__", mode.__torch_dispatch__)  # type: ignore[method-assign]
    return mode


class _AbsentCompiler(ModuleType):
    """Stands for ``torch._dynamo`` where functions are only to be left as they are; whatever else is asked for imports the real one."""

    NAME = "torch._dynamo"

    def __init__(self) -> None:
        super().__init__(self.NAME)
        self._left: list[Callable[..., Any]] = []

    def disable(self, function: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
        """The function itself, which nothing compiles now."""
        self._left.append(function)
        return function

    def __getattr__(self, name: str) -> Any:
        self.leave()
        return getattr(importlib.import_module(self.NAME), name)

    def leave(self) -> None:
        """Makes way for the real module, which is asked again about every function."""
        if sys.modules.get(self.NAME) is self:
            del sys.modules[self.NAME]
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]
        for function in self._left:
            vars(function).pop("__dynamo_disable", None)
        self._left.clear()

    def find_spec(self, *_: Any) -> None:
        """Makes way where a module is imported: it may need the compiler, and importing it halfway would be a circular import."""
        self.leave()


@contextmanager
def compiler_left_out() -> Iterator[None]:
    """A block in which torch's Python code for tensors without data does not import the compiler: ``torch._dynamo``.

    torch marks these functions as not to be compiled (``torch._compile``) and imports the compiler for the mark, which takes as long as torch
    itself. In a version that marks them in another way, that time is lost.
    """
    if _AbsentCompiler.NAME in sys.modules:
        yield
        return
    # Torch's own import for these tensors is no reason to make way.
    importlib.import_module("torch.fx.experimental.symbolic_shapes")
    sys.modules[_AbsentCompiler.NAME] = absent = _AbsentCompiler()
    sys.meta_path.insert(0, absent)
    try:
        yield
    finally:
        absent.leave()


@contextmanager
def lines_of_guards(line: Callable[[FrameType], FrameType | None]) -> Iterator[None]:
    """A block in which ``torch.export`` says of what it learns about sizes in which line it did so: ``ShapeEnv._get_user_frame``.

    To it every file is the user's that is not on its list, such as NumPy's. Without it, those are named.

    Args:
        line: The frame to name, from the one that runs; ``None`` where none is to be.
    """
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    original = getattr(ShapeEnv, "_get_user_frame", None)
    if original is None:
        yield
        return
    ShapeEnv._get_user_frame = lambda self: line(sys._getframe(1))  # type: ignore[method-assign]
    try:
        yield
    finally:
        ShapeEnv._get_user_frame = original  # type: ignore[method-assign]


def compiler_counters() -> Any:
    """What the compiler counted, by ``stats`` and ``graph_break``: ``torch._dynamo.utils.counters``.

    There is no public way. Without it, graph breaks are not reported.
    """
    from torch._dynamo.utils import counters

    return counters


@contextmanager
def compiling_in_this_process() -> Iterator[None]:
    """Has the compiler start no processes: ``torch._inductor.config.compile_threads``. Without it, ``compiled`` cannot run."""
    import torch._inductor.config as inductor

    with inductor.patch(compile_threads=1):
        yield


def read_loader_states(trainer: lightning.Trainer) -> None:
    """Has a trainer continue reading its data where the checkpoint was: ``_load_combined_loader_states``.

    Lightning does it itself, but too early where a module asks for ``estimated_stepping_batches``. Without it, such a run that is resumed
    reads its data from the beginning.
    """
    trainer.fit_loop._load_combined_loader_states()


_REFUSAL = re.compile(r"checkpoint.*(incompatible|not compatible) with \.grad\(\)", re.IGNORECASE | re.DOTALL)


def refuses_gradients(error: BaseException) -> bool:
    """Whether a reentrant checkpoint refused what a check asked for; not where a module's own forward asked."""
    if not isinstance(error, RuntimeError) or not _REFUSAL.search(str(error)):
        return False
    from torch import nn

    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return not any(isinstance(frame.f_locals.get("self"), nn.Module) for frame in frames)


@contextmanager
def called_directly() -> Iterator[None]:
    """Reentrant checkpoints call their function and keep what it computes."""
    import torch.utils.checkpoint as module

    original = module.CheckpointFunction
    module.CheckpointFunction = _Direct  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        module.CheckpointFunction = original  # type: ignore[misc]


class _Direct:
    """Stands for torch's autograd function."""

    @staticmethod
    def apply(function: Callable[..., Any], _preserve_rng_state: bool, *args: Any) -> Any:
        """What the function returns."""
        return function(*args)


def __getattr__(name: str) -> Any:
    """A private name, imported when it is first asked for."""
    if name not in PRIVATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    private = PRIVATE[name]
    globals()[name] = found = getattr(importlib.import_module(private.module), private.name)
    return found

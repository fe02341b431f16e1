"""What belongs to a process and not to a model: every setting, as a function that reads it and one that puts it back."""

from __future__ import annotations

import gc
import logging
import operator
import os
import signal
import sys
import sysconfig
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from inspect import isclass
from types import CodeType, ModuleType
from typing import Any

import numpy as np
import torch

from harness.process_state.compat import ModeStacks, global_hooks, set_global_hooks
from harness.runtime import RandomState
from harness.user_code import FOLDERS_OF_CONFIGS

RANDOM_NUMBERS = "random numbers"
"""The setting of which another property, ``rng_untouched``, says more."""


@dataclass(frozen=True)
class Setting:
    """Something that belongs to the whole process.

    Attributes:
        name: What it is, in words.
        read: Its value now.
        write: Makes a value that was read the present one again.
        same: Whether two values that were read are equal.
        told: Words for a change; by default both values.
        grave: Whether another value makes other models compute something else.
        per_call: Whether it is put back after each call, so that all else is judged as if the model left it alone.
    """

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]
    same: Callable[[Any, Any], bool] = operator.eq
    told: Callable[[Any, Any], str] | None = None
    grave: bool = True
    per_call: bool = False


def all_settings() -> Iterator[Setting]:
    """Every setting, in the order in which they have to be put back: what others are read through comes first."""
    yield Setting(
        "replaced functions", Functions, lambda value: value.put_back(), lambda a, b: not any(a.patches(b)), _told_patches
    )
    yield Setting("modules", lambda: dict(sys.modules), _set_modules, _same_modules, _told_modules)
    yield Setting("sys.path", lambda: list(sys.path), _set_path, lambda a, b: b == _path_after(a, b), told=_nothing, grave=False)
    yield Setting(
        "import hooks",
        lambda: list(sys.meta_path),
        _set_finders,
        lambda a, b: b == _finders_after(a, b),
        told=_nothing,
        grave=False,
    )
    yield Setting("the default device", lambda: ModeStacks().device, torch.set_default_device, per_call=True)
    yield Setting("modes of torch", ModeStacks, lambda stacks: stacks.trim(), told=_nothing, per_call=True)
    yield Setting("hooks on all modules", global_hooks, set_global_hooks, told=_differing, per_call=True)
    yield from _settings_of_torch()
    yield Setting(RANDOM_NUMBERS, RandomState, lambda state: state.restore(), lambda a, b: not a.changes(b), _told_random)
    yield Setting("numpy's floating-point errors", np.geterr, lambda value: np.seterr(**value), told=_differing, grave=False)
    yield from _settings_of_python()


def _settings_of_torch() -> Iterator[Setting]:
    yield Setting("inference mode", torch.is_inference_mode_enabled, _set_inference, per_call=True)
    yield Setting("grad mode", torch.is_grad_enabled, torch.set_grad_enabled, per_call=True)
    yield Setting("the default dtype", torch.get_default_dtype, torch.set_default_dtype, per_call=True)
    yield Setting("autocast", _autocast, _set_autocast, told=_nothing, per_call=True)
    yield Setting(
        "anomaly detection", _anomaly, lambda value: torch.autograd.set_detect_anomaly(*value), told=_nothing, grave=False
    )
    yield Setting(
        "deterministic algorithms",
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
        told=_nothing,
        grave=False,
    )
    yield Setting("the number of threads", torch.get_num_threads, torch.set_num_threads, grave=False)
    yield Setting("flushing of denormal numbers", _flushes_denormals, torch.set_flush_denormal)
    yield Setting(
        "the precision of matrix products", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, grave=False
    )
    yield Setting("backends of torch", _backends, _set_backends, told=_nothing, grave=False)


def _settings_of_python() -> Iterator[Setting]:
    yield Setting("warning filters", lambda: list(warnings.filters), _set_filters, told=_nothing, grave=False)
    yield Setting("the current folder", os.getcwd, os.chdir)
    yield Setting("environment variables", lambda: dict(os.environ), _set_environment, told=_differing, grave=False)
    yield Setting("signal handlers", _handlers, _set_handlers, told=_differing, grave=False)
    yield Setting("logging", _loggers, _set_loggers, _same_where_known, _told_where_known, grave=False)
    yield _attributes("standard streams", sys, "stdin", "stdout", "stderr")
    yield _attributes("hooks of sys", sys, "excepthook", "unraisablehook", "displayhook", grave=False)
    yield Setting("tracing", lambda: (sys.gettrace(), sys.getprofile()), _set_tracing, _identical, _nothing, grave=False)
    yield Setting("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit, grave=False)
    yield Setting(
        "the garbage collector", gc.isenabled, lambda value: gc.enable() if value else gc.disable(), told=_nothing, grave=False
    )
    yield Setting("the garbage collector's thresholds", gc.get_threshold, lambda value: gc.set_threshold(*value), grave=False)
    if sys.platform != "win32":
        yield Setting("resource limits", _limits, _set_limits, told=_nothing, grave=False)
        yield Setting("the umask", _umask, os.umask, grave=False)


def _nothing(_before: Any, _now: Any) -> str:
    return ""


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return ", ".join(str(key) for key in {**before, **now} if before.get(key, _ABSENT) != now.get(key, _ABSENT))


def _identical(before: Sequence[Any], now: Sequence[Any]) -> bool:
    return len(before) == len(now) and all(map(operator.is_, before, now))


_ABSENT = object()


def _attributes(name: str, place: Any, *names: str, grave: bool = True) -> Setting:
    """Attributes of a module as one setting."""

    def read() -> tuple[Any, ...]:
        return tuple(getattr(place, each) for each in names)

    def write(value: tuple[Any, ...]) -> None:
        for each, held in zip(names, value, strict=True):
            setattr(place, each, held)

    return Setting(name, read, write, _identical, _nothing, grave)


# Python.


def _path_after(before: list[str], now: list[str]) -> list[str]:
    """``sys.path`` as it should be: with what configs and installed packages brought since."""
    wanted = [folder for folder in now if folder in before or folder in FOLDERS_OF_CONFIGS or str(folder).startswith(_LIBRARIES)]
    return [*wanted, *(folder for folder in before if folder not in wanted and folder not in FOLDERS_OF_CONFIGS)]


def _set_path(value: list[str]) -> None:
    sys.path[:] = _path_after(value, sys.path)


def _finders_after(before: list[Any], now: list[Any]) -> list[Any]:
    """``sys.meta_path`` as it should be: with what installed packages brought since, which they need."""
    wanted = [finder for finder in now if finder in before or _is_library(sys.modules.get(_type_of(finder).__module__))]
    return [*wanted, *(finder for finder in before if finder not in wanted)]


def _type_of(value: Any) -> type:
    return value if isclass(value) else type(value)


def _set_finders(value: list[Any]) -> None:
    sys.meta_path[:] = _finders_after(value, sys.meta_path)


def _set_filters(value: list[Any]) -> None:
    warnings.resetwarnings()  # has Python forget which filter it took for which line
    warnings.filters[:] = value  # type: ignore[index]


def _set_environment(value: Mapping[str, str]) -> None:
    for name in [name for name in os.environ if name not in value]:
        del os.environ[name]
    os.environ.update({name: text for name, text in value.items() if os.environ.get(name) != text})


_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGCHLD", "SIGPIPE", "SIGUSR1", "SIGUSR2", "SIGSEGV")
_SIGNALS = tuple(signal.Signals[name] for name in _NAMES if hasattr(signal, name))


def _handlers() -> dict[str, Any]:
    return {number.name: signal.getsignal(number) for number in _SIGNALS}


def _set_handlers(value: Mapping[str, Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if value[number.name] is not None and signal.getsignal(number) is not value[number.name]:
                signal.signal(number, value[number.name])


def _loggers() -> dict[str, Any]:
    """What can be set of every logger, of the root under an empty name."""
    known = {name: each for name, each in logging.root.manager.loggerDict.items() if isinstance(each, logging.Logger)}
    found: dict[str, Any] = {
        name: (each.level, each.disabled, each.propagate, (*each.handlers,), (*each.filters,))
        for name, each in {**known, "root": logging.root}.items()
    }
    return {**found, "disable()": (logging.root.manager.disable, logging.raiseExceptions)}


def _set_loggers(value: Mapping[str, Any]) -> None:
    disabled, logging.raiseExceptions = value["disable()"]
    logging.disable(disabled)
    for name, (level, off, propagate, handlers, filters) in [item for item in value.items() if item[0] != "disable()"]:
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.disabled, logger.propagate, logger.handlers[:], logger.filters[:] = off, propagate, handlers, filters


def _same_where_known(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether all that was there is as it was; loggers of modules that were imported since are new."""
    return not _told_where_known(before, now)


def _told_where_known(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return ", ".join(name for name, value in before.items() if now.get(name) != value)


def _set_tracing(value: tuple[Any, Any]) -> None:
    sys.settrace(value[0])
    sys.setprofile(value[1])


def _limits() -> dict[str, tuple[int, int]]:
    import resource

    return {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")}


def _set_limits(value: Mapping[str, tuple[int, int]]) -> None:
    import resource

    for name, limits in value.items():
        if resource.getrlimit(getattr(resource, name)) != limits:
            with suppress(OSError, ValueError):
                resource.setrlimit(getattr(resource, name), limits)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


# Modules and functions. What is of the user's own may be imported anew for the next model, and is left alone.

_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def _is_library(module: Any) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(module, ModuleType) and (file is None or str(file).startswith(_LIBRARIES))


def _lost_modules(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [name for name, module in before.items() if now.get(name, _ABSENT) is not module and _is_library(module)]


def _same_modules(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    return not _lost_modules(before, now)


def _told_modules(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return ", ".join(_lost_modules(before, now))


def _set_modules(value: Mapping[str, Any]) -> None:
    sys.modules.update({name: value[name] for name in _lost_modules(value, sys.modules)})


_PATCHABLE = (
    *("builtins", "copy", "json", "logging", "math", "os", "pickle", "random", "time", "warnings", "numpy", "numpy.random"),
    *("torch", "torch.autograd", "torch.fft", "torch.jit", "torch.linalg", "torch.nn", "torch.nn.functional", "torch.nn.init"),
    *("torch.nn.utils", "torch.optim", "torch.random", "torch.utils.checkpoint", "torch.utils.data"),
)
"""Modules whose functions are watched."""

_WITH_CLASSES = ("torch.nn", "torch.optim", "torch.utils.data")
"""Modules whose classes are watched too."""


@cache
def _places() -> tuple[Any, ...]:
    """Modules and classes whose functions are watched."""
    modules = [sys.modules[name] for name in _PATCHABLE if isinstance(sys.modules.get(name), ModuleType)]
    classes = [value for each in modules if each.__name__ in _WITH_CLASSES for value in vars(each).values() if isclass(value)]
    own = [each for each in classes if each.__module__.partition(".")[0] == "torch"]
    return tuple(dict.fromkeys([*modules, torch.Tensor, torch.autograd.Function, *own]))


@dataclass(frozen=True)
class Functions:
    """What the watched modules and classes hold under their names."""

    held: tuple[dict[str, Any], ...] = field(default_factory=lambda: tuple(dict(vars(place)) for place in _places()))

    def patches(self, later: Functions) -> Iterator[tuple[Any, str, Any]]:
        """Places and names whose function is another one in a later state, and not by a library's doing; with the earlier function."""
        for place, before, now in zip(_places(), self.held, later.held, strict=True):
            for name, value in before.items():
                if now.get(name, _ABSENT) is not value and _is_patch(name, value, now.get(name, _ABSENT)):
                    yield place, name, value
            yield from ((place, name, _ABSENT) for name in now.keys() - before.keys() if _is_of_user(now[name]))

    def put_back(self) -> None:
        """Puts back what was replaced since."""
        for place, name, function in [*self.patches(Functions())]:
            with suppress(AttributeError, TypeError):
                delattr(place, name) if function is _ABSENT else setattr(place, name, function)


def _is_patch(name: str, before: Any, now: Any) -> bool:
    """Whether a function was replaced by another one, and not wrapped by an installed package, as torch's compiler does on import."""
    if isinstance(before, ModuleType) or not (callable(before) or isinstance(before, (property, staticmethod, classmethod))):
        return False
    if isclass(before) and isclass(now):  # such as `torch.Storage`, which follows the default dtype
        return False
    return _is_of_user(now) or getattr(now, "__name__", None) != name


def _is_of_user(value: Any) -> bool:
    """Whether a function is written in no installed package."""
    inner = getattr(value, "fget", None) or getattr(value, "__func__", None) or value
    code = getattr(inner, "__code__", None)
    return isinstance(code, CodeType) and not code.co_filename.startswith((*_LIBRARIES, "<"))


def _told_patches(before: Functions, now: Functions) -> str:
    return ", ".join(f"{place.__name__}.{name}" for place, name, _ in before.patches(now))


# torch.


def _told_random(before: RandomState, now: RandomState) -> str:
    return ", ".join(before.changes(now))


_guards: list[Any] = []
"""Inference modes that were entered to leave a model's, which nobody else can leave."""


def _set_inference(value: bool) -> None:
    _guards.append(torch.inference_mode(value))
    _guards[-1].__enter__()


_AUTOCAST = ("cpu", "cuda")


def _autocast() -> tuple[Any, ...]:
    each = [(torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in _AUTOCAST]
    return (*each, torch.is_autocast_cache_enabled())


def _set_autocast(value: tuple[Any, ...]) -> None:
    for kind, (enabled, dtype) in zip(_AUTOCAST, value[:-1], strict=True):
        torch.set_autocast_enabled(kind, enabled)
        torch.set_autocast_dtype(kind, dtype)
    torch.set_autocast_cache_enabled(value[-1])


def _anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _flushes_denormals() -> bool:
    return sys.float_info.min / (os.getpid() + 2) == 0.0  # not of constants, which are computed before


def _backends() -> tuple[Any, ...]:
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    attention = (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled())
    return (torch.backends.mkldnn.enabled, cudnn.enabled, cudnn.benchmark, cudnn.deterministic, *attention)


def _set_backends(value: tuple[Any, ...]) -> None:
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    torch.backends.mkldnn.set_flags(value[0])
    cudnn.set_flags(_enabled=value[1], _benchmark=value[2], _deterministic=value[3])
    for write, held in zip((cuda.enable_flash_sdp, cuda.enable_mem_efficient_sdp, cuda.enable_math_sdp), value[4:], strict=True):
        write(held)

"""Settings that belong to the process and not to a model: for each, a function that reads it and one that restores it."""

from __future__ import annotations

import decimal
import gc
import io
import locale
import logging
import operator
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from inspect import isclass
from typing import Any

import numpy as np
import torch

from harness.process_state.compat import ModeStacks, global_hooks, print_options, set_global_hooks
from harness.process_state.modules import (
    ABSENT,
    LIBRARIES,
    Functions,
    is_library,
    same_modules,
    set_modules,
    told_modules,
    told_patches,
)
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
        "replaced functions", Functions, lambda value: value.put_back(), lambda a, b: not any(a.patches(b)), told_patches
    )
    yield Setting("modules", lambda: dict(sys.modules), set_modules, same_modules, told_modules)
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
    yield Setting(
        "numpy's print options", np.get_printoptions, lambda value: np.set_printoptions(**value), told=_differing, grave=False
    )
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
    yield Setting(
        "torch's print options", print_options, lambda value: torch.set_printoptions(**value), told=_differing, grave=False
    )
    yield Setting("backends of torch", _backends, _set_backends, told=_nothing, grave=False)


def _settings_of_python() -> Iterator[Setting]:
    yield Setting("warning filters", lambda: list(warnings.filters), _set_filters, told=_nothing, grave=False)
    yield Setting("the current folder", os.getcwd, os.chdir)
    yield Setting("environment variables", lambda: dict(os.environ), _set_environment, told=_differing, grave=False)
    yield Setting("signal handlers", _handlers, _set_handlers, told=_differing, grave=False)
    yield Setting("logging", _loggers, _set_loggers, _same_where_known, _told_where_known, grave=False)
    yield _attributes("standard streams", sys, "stdin", "stdout", "stderr")
    if sys.platform != "win32":
        yield Setting("descriptors of standard streams", _descriptors, _set_descriptors, told=_differing, per_call=True)
    yield Setting("closed streams", _closed_streams, _reopen_streams, told=_differing, per_call=True)
    yield Setting(
        "the locale", lambda: locale.setlocale(locale.LC_ALL), lambda value: locale.setlocale(locale.LC_ALL, value), grave=False
    )
    yield Setting("the context of decimal numbers", _decimals, _set_decimals, told=_differing, grave=False)
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
    return ", ".join(str(key) for key in {**before, **now} if before.get(key, ABSENT) != now.get(key, ABSENT))


def _identical(before: Sequence[Any], now: Sequence[Any]) -> bool:
    return len(before) == len(now) and all(map(operator.is_, before, now))


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
    wanted = [folder for folder in now if folder in before or folder in FOLDERS_OF_CONFIGS or str(folder).startswith(LIBRARIES)]
    return [*wanted, *(folder for folder in before if folder not in wanted and folder not in FOLDERS_OF_CONFIGS)]


def _set_path(value: list[str]) -> None:
    sys.path[:] = _path_after(value, sys.path)


def _finders_after(before: list[Any], now: list[Any]) -> list[Any]:
    """``sys.meta_path`` as it should be: with what installed packages brought since, which they need."""
    wanted = [finder for finder in now if finder in before or is_library(sys.modules.get(_type_of(finder).__module__))]
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


def _closed_streams() -> dict[str, bool]:
    return {name: bool(getattr(getattr(sys, name), "closed", False)) for name in ("stdout", "stderr")}


def _reopen_streams(value: Mapping[str, bool]) -> None:
    """Opens closed streams again, as the same objects: pytest and loggers hold them."""
    for name, was_closed in value.items():
        stream = getattr(sys, name)
        if was_closed or not isinstance(stream, io.TextIOWrapper) or not stream.closed:
            continue
        if isinstance(stream.buffer, io.BytesIO):
            buffer: Any = io.BytesIO()
        elif isinstance(stream.buffer, io.RawIOBase):  # a file that pytest reads too
            buffer = os.fdopen(os.dup(_DESCRIPTORS[name]), "r+b", 0)
        else:
            buffer = os.fdopen(os.dup(_DESCRIPTORS[name]), "wb")
        options = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
        io.TextIOWrapper.__init__(stream, buffer, stream.encoding, stream.errors, newline="", **options)


_DESCRIPTORS = {"stdout": 1, "stderr": 2}
_opened: dict[tuple[int, int], int] = {}
"""A second descriptor of every file that a standard descriptor was seen to stand for, by the file's device and number."""

_MOST_OPENED = 8


def _descriptors() -> dict[str, tuple[int, int] | None]:
    """The files of the standard descriptors, ``None`` for one that is closed: what is opened next would take its number."""
    return {name: _file_of(descriptor) for descriptor, name in enumerate(("stdin", "stdout", "stderr"))}


def _file_of(descriptor: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    file = (found.st_dev, found.st_ino)
    if file not in _opened:
        if len(_opened) == _MOST_OPENED:
            os.close(_opened.pop(next(iter(_opened))))
        _opened[file] = os.dup(descriptor)
    return file


def _set_descriptors(value: Mapping[str, tuple[int, int] | None]) -> None:
    for descriptor, file in enumerate(value.values()):
        if file in _opened and _file_of(descriptor) != file:
            os.dup2(_opened[file], descriptor)


_DECIMALS = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")


def _decimals() -> dict[str, Any]:
    context = decimal.getcontext()
    return {**{name: getattr(context, name) for name in _DECIMALS}, "traps": dict(context.traps)}


def _set_decimals(value: Mapping[str, Any]) -> None:
    context = decimal.getcontext()
    for name in _DECIMALS:
        setattr(context, name, value[name])
    context.traps.update(value["traps"])


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

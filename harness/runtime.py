"""How model code is run: with a seeded random state, few threads for small models, and processor time in place of wall time."""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy


class RandomState:
    """The global random state at the moment the object was made."""

    def __init__(self) -> None:
        self._torch = torch.default_generator.get_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        self._python = random.getstate()
        self._numpy = np.random.get_state()

    def restore(self) -> None:
        """Restores it as the global random state."""
        torch.default_generator.set_state(self._torch)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
        random.setstate(self._python)
        np.random.set_state(self._numpy)

    def changes(self, later: RandomState) -> list[str]:
        """The generators whose state is another one in ``later``."""
        moved = {
            "torch": not torch.equal(self._torch, later._torch),
            "torch.cuda": not all(map(torch.equal, self._cuda, later._cuda)),
            "random": self._python != later._python,
            "numpy": pickle.dumps(self._numpy) != pickle.dumps(later._numpy),
        }
        return [name for name, changed in moved.items() if changed]


def seed_everything(seed: int) -> None:
    """Seeds the generators in use; ``torch.manual_seed`` would also format a stack trace for every accelerator that is not."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # all it takes; a seed that was counted up may be larger


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Runs a block under a seed and leaves the global random state as it was."""
    state = RandomState()
    seed_everything(seed)
    try:
        yield
    finally:
        state.restore()


def give_back_memory() -> None:
    """Collects garbage, and has the C library return free memory to the system.

    Models that a closure or an error still refers to are freed by the collector, which counts objects and not their bytes.
    """
    gc.collect()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):  # glibc has it
        trim(0)


def bytes_of_weights(model: nn.Module) -> int:
    """Bytes of a model's parameters."""
    return sum(parameter.nbytes for parameter in model.parameters() if not is_lazy(parameter))


_LARGE = 1 << 26


def is_large(model: nn.Module) -> bool:
    """Whether a model has 64 MiB of weights or more, so that its memory use and its longest calls are limited."""
    return bytes_of_weights(model) >= _LARGE


def free_memory(device: torch.device | str = "cpu") -> int:
    """Bytes that are free, or can be freed, on a device; on the CPU also within the limit of a container. 0 where nothing says so."""
    if torch.device(device).type == "cuda":
        # What PyTorch keeps for later calls is free to them, and taken as the driver sees it.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    found = [int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemAvailable:")]
    limit, used = _lines("/sys/fs/cgroup/memory.max"), _lines("/sys/fs/cgroup/memory.current")
    if limit and used and limit[0].isdigit():
        cache = [int(line.split()[1]) for line in _lines("/sys/fs/cgroup/memory.stat") if line.startswith("inactive_file ")]
        found.append(max(0, int(limit[0]) - int(used[0]) + sum(cache)))
    return min(found, default=0)


_SHORT = 10.0


def short_of_memory() -> str:
    """A message about a machine that waits for memory, as by swapping; empty for others, and where it is unknown."""
    lines = _lines("/proc/pressure/memory")
    share = float(lines[0].partition("avg10=")[2].partition(" ")[0]) if lines and lines[0].startswith("some avg10=") else 0.0
    if share < _SHORT:
        return ""
    return f"this machine is short of memory: of the last 10 s, programs waited {share:.0f}% for it, as where it swaps; end others, or wait"


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().splitlines()
    except OSError:
        return []


_SMALL = 1_000_000


@contextmanager
def threads_for(model: nn.Module) -> Iterator[None]:
    """Runs a block on one thread when the model has fewer than a million parameters.

    Its operators are too short to share out, and where the cores are busy with something else, as in CI, threads that wait for each
    other make a run several times slower.
    """
    before = torch.get_num_threads()
    if sum(parameter.numel() for parameter in model.parameters()) < _SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_ends: list[Callable[[], BaseException | None]] = []


@contextmanager
def ended_by(end: Callable[[], BaseException | None]) -> Iterator[None]:
    """Runs a block that an alarm may end.

    Args:
        end: Tells by what it was ended; ``None`` while it was not.
    """
    _ends.append(end)
    try:
        yield
    finally:
        _ends.pop()


def raise_lost_end() -> None:
    """Raises the error that was to end the running block, if it was lost or replaced by another one.

    Code between that swallows everything, and native code, do so. Called before something is remembered: what a block found after its
    end is no finding.
    """
    for end in _ends:
        if (lost := end()) is not None:
            raise lost


def processor_seconds() -> float:
    """Processor time that this process has used, and the child processes that have ended."""
    try:
        import resource
    except ImportError:  # Windows
        return time.process_time()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


class ComputedSince:
    """What was computed since the object was made.

    A child process is counted when it ends, with what it used before that moment as well. So no more is counted than all cores could
    compute since then.
    """

    def __init__(self) -> None:
        self._processor, self._clock = processor_seconds(), time.monotonic()

    @property
    def clock(self) -> float:
        """Seconds by the clock."""
        return time.monotonic() - self._clock

    @property
    def seconds(self) -> float:
        """Processor seconds."""
        return min(processor_seconds() - self._processor, self.clock * (os.cpu_count() or 1))


_WAITING = 4
"""How many times as long as it may compute something may take."""


class Allowance:
    """A time limit that computing uses up, and waiting a quarter as fast, so that a busy machine does not exhaust it.

    Args:
        seconds: How long.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._computed = ComputedSince()

    @property
    def is_over(self) -> bool:
        """Whether the time is used up."""
        return self.used > self._seconds

    @property
    def used(self) -> float:
        """Seconds that are used up."""
        return max(self._computed.seconds, self._computed.clock / _WAITING)

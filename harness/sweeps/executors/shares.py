"""What of the machine each of several workers gets."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_GPUS = "CUDA_VISIBLE_DEVICES"


def cores() -> int:
    """The cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The CUDA devices this process may use, by the names that ``CUDA_VISIBLE_DEVICES`` has for them."""
    named = os.environ.get(_GPUS)
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def share(worker: int, workers: int, number_of_cores: int, gpus: Sequence[str]) -> dict[str, str]:
    """Environment variables that give a worker its share of the cores and GPUs.

    Args:
        worker: Which one, counted from 0.
        workers: How many there are.
        number_of_cores: Cores to be shared out; each worker has one thread at least.
        gpus: GPUs to be shared out; where there are fewer than workers, several workers have the same.
    """
    threads = str(max(1, number_of_cores // workers))
    own = gpus[worker::workers] if len(gpus) >= workers else gpus[worker % max(len(gpus), 1) :][:1]
    return {**dict.fromkeys(_THREADS, threads), **({_GPUS: ",".join(own)} if len(gpus) > 1 else {})}


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets variables for the processes that a block starts; a number of threads that the user has set stays."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update({name: value for name, value in variables.items() if name not in _THREADS or before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

"""The environment of a run: versions, hardware, and the variables that change what is computed."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from harness.experiments.runs import provenance
from harness.repro.distributions import installed

VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_VISIBLE_DEVICES",
    "DNNL_MAX_CPU_ISA",
    "KMP_DETERMINISTIC_REDUCTION",
    "MKL_CBWR",
    "MKL_DYNAMIC",
    "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_DYNAMIC",
    "OMP_NUM_THREADS",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_NUM_THREADS",
    "PYTHONHASHSEED",
    "PYTORCH_ENABLE_MPS_FALLBACK",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "WORLD_SIZE",
)
"""The only environment variables that are looked at: they change numbers, and hold no secrets."""


def env_snapshot() -> dict[str, Any]:
    """What a training depends on beside its config and code, as JSON values; no host, user, path or secret is in it.

    Returns:
        ``python``, ``platform``, ``cpu``, ``packages`` (every installed distribution), ``torch``, ``threads``, ``gpus``, ``git`` (the commit
        of the current folder), and ``variables``: those of ``VARIABLES`` that are set.
    """
    import torch

    origin = provenance()
    return {
        "python": {"version": platform.python_version(), "implementation": platform.python_implementation()},
        "platform": {"system": platform.system(), "machine": platform.machine(), "release": platform.platform()},
        "cpu": {"model": _cpu_model(), "count": os.cpu_count(), "capability": torch.backends.cpu.get_cpu_capability()},
        "packages": installed(),
        "torch": {
            "version": torch.__version__,
            "commit": torch.version.git_version,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
            "build": torch.__config__.show().splitlines()[1:],
        },
        "threads": {"intra_op": torch.get_num_threads(), "inter_op": torch.get_num_interop_threads()},
        "gpus": _gpus(),
        "git": {"commit": origin["git_commit"], "dirty": origin["git_dirty"]},
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def _gpus() -> list[dict[str, Any]]:
    import torch

    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return [{"name": gpu.name, "capability": f"{gpu.major}.{gpu.minor}", "bytes": gpu.total_memory} for gpu in found]
    return [{"name": "mps"}] if torch.backends.mps.is_available() else []


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    found = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return found or platform.processor()

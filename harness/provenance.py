"""Where a result comes from: the commit, the machine, and the versions that computed it, without users, paths or secrets."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_GIT_SECONDS = 5.0


def provenance(folder: Path | None = None) -> dict[str, Any]:
    """The host, the process id, and the commit of a folder.

    Args:
        folder: A folder in a Git repository; the current one by default.

    Returns:
        ``host``, ``pid``, ``git_commit``, and ``git_dirty``: whether tracked files differ from it. The last two are ``None`` outside of
        a repository, or where Git is missing or slow.
    """
    folder = folder or Path.cwd()
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no") if commit else None
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "git_commit": commit or None,
        "git_dirty": None if changes is None else bool(changes),
    }


def _git(folder: Path, *arguments: str) -> str | None:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # looking at a repository must not write to it
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


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


def gpus() -> list[dict[str, Any]]:
    """The accelerators that torch sees, with their names."""
    import torch

    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return [{"name": gpu.name, "capability": f"{gpu.major}.{gpu.minor}", "bytes": gpu.total_memory} for gpu in found]
    return [{"name": "mps"}] if torch.backends.mps.is_available() else []


def cpu_model() -> str:
    """The processor's name; empty where it is unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    found = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return found or platform.processor()


_COMPUTES = ("torch", "numpy", "lightning", "transformers", "onnx", "onnxruntime", "hypothesis", "pytest-modeltiers")
"""Distributions whose version can change a verdict."""


def surroundings(folder: Path) -> dict[str, Any]:
    """What a verdict depends on besides the config and the model's code, as JSON values.

    Args:
        folder: The folder of the model, whose commit is told.

    Returns:
        ``commit`` and ``changed`` (see ``provenance``), ``python``, ``platform``, ``cpu``, ``cores``, ``gpus``, ``versions``, ``threads``, and
        ``variables``: those of ``VARIABLES`` that are set.
    """
    import torch

    origin = provenance(folder)
    return {
        "commit": origin["git_commit"],
        "changed": origin["git_dirty"],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "gpus": [gpu["name"] for gpu in gpus()],
        "versions": dict(filter(lambda pair: pair[1], ((name, _version(name)) for name in _COMPUTES))),
        "threads": torch.get_num_threads(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""

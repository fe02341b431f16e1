"""Installs the project into ``.venv`` and runs its suite on a small language model, and says at each step what it does and how long it takes.

    python3 examples/first_run.py

On Linux, PyPI's PyTorch brings several GB of CUDA libraries along. The CPU build comes from PyTorch's own index, which is asked as well unless
you chose an index yourself (``PIP_INDEX_URL``, ``PIP_EXTRA_INDEX_URL``) or it cannot be reached.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / ".venv" / ("Scripts" if os.name == "nt" else "bin")
CPU_BUILDS = "https://download.pytorch.org/whl/cpu"

INSTALL = ("-m", "pip", "install", "--disable-pip-version-check", "-c", "constraints.txt")


def main() -> int:
    """Runs the steps; returns the exit status of the one that failed, or of the suite."""
    if sys.version_info < (3, 10):  # noqa: UP036  # whoever runs this has installed nothing that checked it
        print(f"This is Python {platform.python_version()}; the project needs 3.10 or newer: python3.12 examples/first_run.py")
        return 2
    for number, (what, command) in enumerate(steps(), 1):
        status = run(f"[{number}/3] {what}", command)
        if status:
            return status
    print("\nOpen out/health_report.html in a browser. Then judge a model of yours:")
    print(f"  {PROGRAMS.relative_to(ROOT) / 'modeltiers'} check model.py")
    return 0


def steps() -> Iterator[tuple[str, list[str]]]:
    """What each step does, and its command."""
    python = str(PROGRAMS / "python")
    yield "an environment in .venv: a few seconds", [sys.executable, "-m", "venv", ".venv"]
    yield (
        "PyTorch and the other packages into .venv: 2 GB, one to ten minutes, most of them for downloads",
        [python, *INSTALL, *cpu_builds(), "-e", "."],
    )
    yield (
        "the suite on a small language model: half a minute on two idle cores",
        [str(PROGRAMS / "modeltiers"), "check", "examples/lm_tiny.json", "--report", "out"],
    )


def run(what: str, command: Sequence[str]) -> int:
    """Runs a step in the project's folder; returns its exit status."""
    print(f"\n{what}\n$ {' '.join(command)}", flush=True)
    began = time.monotonic()
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    ended = "done" if status == 0 else f"ended with status {status}"
    print(f"{ended} after {time.monotonic() - began:.0f} s", flush=True)
    return status


def cpu_builds() -> list[str]:
    """Options of pip that keep CUDA out, on Linux, where PyPI has it in PyTorch."""
    chosen = any(os.environ.get(name) for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"))
    if chosen or sys.platform != "linux":
        return []
    try:
        urllib.request.urlopen(f"{CPU_BUILDS}/torch/", timeout=5).close()
    except OSError:
        print(f"{CPU_BUILDS} cannot be reached: PyTorch comes from the usual index")
        return []
    return ["--extra-index-url", CPU_BUILDS]


if __name__ == "__main__":
    sys.exit(main())

"""Work done in child processes."""

from __future__ import annotations

import pickle
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.processes import end_in_words, environment_of_child, module_command, start_process, stop_process
from harness.training.checks.pickled_payload import ANSWER, PAYLOAD, STAGE, pack

_LOG = "log.txt"
_GRACE = 5.0
"""Seconds that the others have after one of them has ended badly."""

_POLL = 0.02


@dataclass(frozen=True)
class Answer:
    """What a process made of its work.

    Attributes:
        result: What the work returned; ``None`` after an error.
        error: What went wrong, in one line; empty where nothing did.
        text: The whole message of what was raised.
        kind: Name of its class.
        began: Whether it came to do the work at all.
        is_late: Whether it was stopped because time was up.
    """

    result: Any = None
    error: str = ""
    text: str = ""
    kind: str = ""
    began: bool = False
    is_late: bool = False


@dataclass(frozen=True)
class Settings:
    """What of this process decides on the bits of a result.

    Attributes:
        threads: Of each operator.
        dtype: Of new floating tensors.
        precision: Of float32 matrix products.
        deterministic: Whether kernels that vary are refused.
    """

    threads: int
    dtype: torch.dtype
    precision: str
    deterministic: bool

    @staticmethod
    def here() -> Settings:
        """Those of this process."""
        return Settings(
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.get_float32_matmul_precision(),
            torch.are_deterministic_algorithms_enabled(),
        )

    def apply(self) -> None:
        """Makes them this process's."""
        torch.set_num_threads(self.threads)
        torch.set_default_dtype(self.dtype)
        torch.set_float32_matmul_precision(self.precision)
        torch.use_deterministic_algorithms(self.deterministic)


def run_in_processes(
    work: Callable[[Any], Any],
    contents: Sequence[Any],
    timeout: float,
    environments: Sequence[Mapping[str, str]] | None = None,
) -> list[Answer]:
    """Runs a function in several processes at once, each on something of its own.

    Args:
        work: A function at the top of a module.
        contents: What each process is given.
        timeout: Seconds until they, and what they started, are stopped.
        environments: Further environment variables of each.

    Returns:
        An answer from each; one that raises, dies or hangs answers with an error.

    Raises:
        PackingError: What they are given cannot be pickled.
    """
    environments = environments or [{} for _ in contents]
    payloads = [pack((work, content, Settings.here())) for content in contents]
    with tempfile.TemporaryDirectory(prefix="modeltiers-apart-", ignore_cleanup_errors=True) as name:
        folders = [Path(name) / str(number) for number in range(len(payloads))]
        children: list[subprocess.Popen[bytes]] = []
        try:
            for folder, payload, environment in zip(folders, payloads, environments, strict=True):
                folder.mkdir()
                payload.write(folder / PAYLOAD)
                command = module_command("harness.training.checks.pickled_payload", str(folder))
                own = {**environment_of_child(torch.get_num_threads()), **environment}
                children.append(start_process(command, folder / _LOG, own))
            late = _wait(children, timeout)
        finally:
            for child in children:
                stop_process(child)
        return [
            _answer(folder, child.returncode, number in late)
            for number, (folder, child) in enumerate(zip(folders, children, strict=True))
        ]


def _wait(children: Sequence[subprocess.Popen[bytes]], timeout: float) -> set[int]:
    """Waits for all; returns the numbers of those that were not done in time."""
    end = time.monotonic() + timeout
    while True:
        status = [child.poll() for child in children]
        if all(code is not None for code in status):
            return set()
        if any(code for code in status):
            end = min(end, time.monotonic() + _GRACE)
            timeout_is_ours = False
        else:
            timeout_is_ours = True
        if time.monotonic() > end:
            return {number for number, code in enumerate(status) if code is None and timeout_is_ours}
        time.sleep(_POLL)


def _answer(folder: Path, status: int, is_late: bool) -> Answer:
    file, stage = folder / ANSWER, folder / STAGE
    began = stage.is_file() and stage.read_text(encoding="utf-8") == "working"
    if not file.is_file():
        how = "it did not finish in time" if is_late else f"it {end_in_words(status, folder / _LOG)}"
        return Answer(error=how, began=began, is_late=is_late)
    answer = pickle.loads(file.read_bytes())
    return Answer(answer["result"], answer["error"], answer["text"], answer["kind"], answer["unpacked"])

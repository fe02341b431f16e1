"""The parent's side of a recording: the command in a child process, or in one under the sandbox."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from harness.errors import IsolationError, ModelSourceError, did_you_mean
from harness.processes import end_in_words, module_command, start_process, stop_process
from harness.recording import INPUTS, RESULT, TENSORS, WEIGHTS, Command, Recording

_CHILD = "harness.recording.child"
_GRACE = 30.0
"""Seconds beyond the time of a command, to import PyTorch and to write what was seen."""

_CHECKED_EVERY = 0.2
_NOT_COMPILED = {"TORCH_COMPILE_DISABLE": "1", "TORCHDYNAMO_DISABLE": "1"}
"""A model that is compiled is called as it is written, which takes no compiler and shows its modules."""


def record(command: Command, say: Callable[[str], None] = lambda _: None) -> Recording:
    """Runs a command of the user's as it is, until enough was seen of its model.

    Args:
        command: The command.
        say: Is told what it is waited for.

    Raises:
        ModelSourceError: There is no such script, or its process died.
    """
    script = Path(command.target)
    if not command.is_module and not script.is_file():
        near = [each.name for each in script.parent.glob("*.py")] if script.parent.is_dir() else []
        raise ModelSourceError(f"no such file {script}.{did_you_mean(script.name, near)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job, log = folder / "command.json", folder / "output.txt"
        job.write_text(json.dumps(asdict(command)), encoding="utf-8")
        environment = {**os.environ, **_NOT_COMPILED}
        process = start_process(module_command(_CHILD, str(job)), log, environment, Path.cwd())
        began = time.monotonic()
        try:
            while process.poll() is None and time.monotonic() - began < command.seconds + _GRACE:
                say(f"{command.shown} runs: {time.monotonic() - began:.0f} s")
                time.sleep(_CHECKED_EVERY)
        finally:
            stop_process(process)
        if not (folder / RESULT).is_file():
            raise ModelSourceError(
                f"{command.shown}: its process {end_in_words(process.returncode, log)}; nothing was seen of a model"
            )
        return _read(folder)


def record_isolated(command: Command, own: Sequence[Path]) -> Recording:
    """Runs a command under the sandbox: without network, in a folder that is removed, and without writing elsewhere.

    Args:
        command: The command.
        own: Folders of its code.

    Raises:
        IsolationError: There is no sandbox here, or the process died.
    """
    from harness.isolation.process import IsolatedProcess

    with IsolatedProcess(
        f"{_CHILD}:isolated", asdict(command), own=own, preload=("torch",), environment=_NOT_COMPILED
    ) as process:
        answer = process.receive(command.seconds + _GRACE)
        try:
            return _read(Path(answer["folder"]))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise IsolationError(f"{command.shown} left nothing that can be read: {error}") from None


def _read(folder: Path) -> Recording:
    kept = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    weights = folder / WEIGHTS
    return Recording.from_json(
        {
            **kept,
            "inputs": torch.load(folder / INPUTS, weights_only=True),
            "tensors": torch.load(folder / TENSORS, weights_only=True),
            "weights": torch.load(weights, weights_only=True) if weights.is_file() else None,
        }
    )

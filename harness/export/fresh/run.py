"""An artifact in a process of its own that never saw the exporter, as a deployment would load it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.batches import Batch
from harness.export.fresh.loaders import WEIGHTS_ONLY
from harness.export.fresh.replay import ANSWER, INPUTS, OUTPUTS, STAGE
from harness.export.fresh.tensor_facts import TensorFacts, facts_of
from harness.processes import end_in_words, environment_of_child, last_line, module_command, start_process, stop_process

_REPLAY = "harness.export.fresh.replay"
_REQUEST, _LOG = "request.json", "log.txt"


@dataclass(frozen=True)
class FreshRun:
    """What a fresh process made of an artifact. Figures are ``None`` where it did not get that far.

    Attributes:
        outputs: Logits of each batch, bfloat16 as float32. Empty after an error, and where weights alone were held to the expected
            ones because no config says how to build the model.
        import_seconds: To import what the format needs.
        load_seconds: To load it; for weights, to build the model too.
        first_call_seconds: The first call, on the first batch.
        warm_call_seconds: Median of a few further calls on it.
        peak_bytes: Most memory the process held at once, interpreter and libraries included.
        packages: What it had imported at the end, other than the standard library and private modules.
        error: Why there are no outputs, in one line; empty when all went well.
    """

    outputs: list[Tensor] = field(default_factory=list, repr=False)
    import_seconds: float | None = None
    load_seconds: float | None = None
    first_call_seconds: float | None = None
    warm_call_seconds: float | None = None
    peak_bytes: int | None = None
    packages: tuple[str, ...] = ()
    error: str = ""


def run_fresh(
    format: str,
    path: Path,
    fields: Sequence[str],
    batches: Sequence[Batch],
    *,
    config: Path | None = None,
    expected: Mapping[str, Tensor | TensorFacts] | None = None,
    timeout: float = 120.0,
    threads: int = 1,
) -> FreshRun:
    """Loads an artifact in a fresh process and runs it.

    Args:
        format: One of ``torchscript``, ``onnx``, ``pytorch``, ``safetensors``, ``torch_export``.
        path: The artifact.
        fields: Names of the inputs, in order.
        batches: The inputs; each holds the fields. Weights that are held to the expected ones need none.
        config: For formats that hold weights alone, the config file to build the model from.
        expected: For those without a config, the model's state dict, or what was recorded of it: names, shapes, dtypes and values that
            the file must hold.
        timeout: Seconds until the process, and what it started, is stopped.
        threads: Of each operator.

    Returns:
        The outputs and figures; a process that raises, dies or hangs gives an ``error`` instead.
    """
    weights_only = format in WEIGHTS_ONLY
    if not batches and not (weights_only and config is None):
        return FreshRun(error="there is no batch to run it on")
    with tempfile.TemporaryDirectory(prefix="modeltiers-fresh-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        rebuilds = weights_only and config is not None
        write_request(
            folder,
            format,
            path,
            fields,
            batches,
            threads=threads,
            config=str(config.resolve()) if config is not None else None,
            expected=_expected(expected or {}) if weights_only and config is None else {},
            # Only the user's own model may need the user's files.
            run_in=str(Path.cwd()) if rebuilds else None,
            import_paths=sys.path if rebuilds else [],
        )
        status = run_child(folder, timeout, threads, _REPLAY)
        return _result(folder, status, timeout, 0 if weights_only and config is None else len(batches))


def write_request(
    folder: Path, format: str, path: Path, fields: Sequence[str], batches: Sequence[Batch], *, threads: int = 1, **more: Any
) -> None:
    """Writes what a child is asked for, and its inputs, into its folder.

    Args:
        folder: Where the child runs.
        format: Name of the format.
        path: The artifact.
        fields: Names of the inputs, in order.
        batches: The inputs.
        threads: Of each operator.
        more: What else the child is told.
    """
    request = {
        "format": format,
        "artifact": str(path.resolve()),
        "fields": {name: _dtype(batches[0][name]) for name in fields} if batches else {},
        "batches": len(batches),
        "threads": threads,
        **more,
    }
    (folder / _REQUEST).write_text(json.dumps(request), encoding="utf-8")
    np.savez(folder / INPUTS, *(_array(batch[name]) for batch in batches for name in fields))


def _expected(known: Mapping[str, Tensor | TensorFacts]) -> dict[str, dict[str, Any]]:
    recorded = {name: facts for name, facts in known.items() if isinstance(facts, TensorFacts)}
    return {name: asdict(facts) for name, facts in {**facts_of(known), **recorded}.items()}


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()


def run_child(folder: Path, timeout: float, threads: int, module: str) -> int | None:
    """The exit status of a module run in its folder; ``None`` when it had to be stopped."""
    command = module_command(module, _REQUEST)
    child = start_process(command, folder / _LOG, environment_of_child(threads), folder)
    try:
        return child.wait(timeout)
    except subprocess.TimeoutExpired:
        return None
    finally:
        stop_process(child)


def _result(folder: Path, status: int | None, timeout: float, batches: int) -> FreshRun:
    answered = folder / ANSWER
    answer: dict[str, Any] = json.loads(answered.read_text(encoding="utf-8")) if answered.is_file() else {}
    error = answer.pop("error", "")
    if not error and (status != 0 or not answer):
        error = f"{why_no_answer(folder, status, timeout)} while {_stage(folder)}"
    outputs = [] if error else _outputs(folder / OUTPUTS)
    if not error and len(outputs) != batches:
        error = f"gave {len(outputs)} outputs for {batches} batches"
    packages = tuple(answer.pop("packages", ()))
    return FreshRun([] if error else outputs, **answer, packages=packages, error=error)


def _outputs(path: Path) -> list[Tensor]:
    if not path.is_file():
        return []
    with np.load(path, allow_pickle=False) as stored:
        return [torch.from_numpy(stored[name]) for name in stored.files]


def _stage(folder: Path) -> str:
    path = folder / STAGE
    return path.read_text(encoding="utf-8") if path.is_file() else "starting"


def why_no_answer(folder: Path, status: int | None, timeout: float) -> str:
    """How a child ended that did not answer."""
    if status is None:
        return f"not done after {timeout:g} s, so it was stopped"
    if status < 0:
        return end_in_words(status, folder / _LOG)
    said = last_line(folder / _LOG)
    return f"ended with status {status} and no answer" + (f" ({said})" if said else "")

"""Runs an exported file in a process that never saw the exporter: on all batches at once, or one by one where any may crash it.

A file that was traced is also tried at sizes other than its example's.
"""

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

from harness.batches import Batch, make_batch
from harness.export.clean_process_child import ANSWER, INPUTS, OUTPUTS, STAGE
from harness.export.formats import Exporter, ExportError
from harness.export.formats.weights_files import TensorFacts, facts_of
from harness.export.program import LOGITS, Outputs, Program, as_exported
from harness.export.shape_grid import shape_grid
from harness.processes import end_in_words, environment_of_child, last_line, module_command, start_process, stop_process

_CHILD = "harness.export.clean_process_child"
_REQUEST, _LOG = "request.json", "log.txt"


@dataclass(frozen=True)
class CleanRun:
    """What a clean process made of a file. Figures are ``None`` where it did not get that far.

    Attributes:
        outputs: The outputs of each batch by name, bfloat16 as float32. Empty after an error, and where weights were only compared with the
            expected ones because no config says how to build the model.
        import_seconds: To import what the format needs.
        load_seconds: To load it; for weights, to build the model too.
        first_call_seconds: The first call, on the first batch.
        warm_call_seconds: Median of a few further calls on it.
        peak_bytes: Most memory the process held at once, interpreter and libraries included.
        packages: What it had imported at the end, other than the standard library and private modules.
        error: Why there are no outputs, in one line; empty when all went well.
    """

    outputs: list[Outputs] = field(default_factory=list, repr=False)
    import_seconds: float | None = None
    load_seconds: float | None = None
    first_call_seconds: float | None = None
    warm_call_seconds: float | None = None
    peak_bytes: int | None = None
    packages: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Answer:
    """What a file gives for a batch.

    Attributes:
        outputs: The outputs by name; ``None`` where there are none.
        refusal: Why there are none, in one line.
        is_fatal: Whether the process crashed.
    """

    outputs: Outputs | None = None
    refusal: str = ""
    is_fatal: bool = False


@dataclass(frozen=True)
class ExportedFile:
    """An exported file, to be run in clean processes.

    Attributes:
        exporter: The exporter of its format.
        path: The file.
        fields: Names of the inputs, in order.
        outputs: Names of the outputs, in order.
        timeout: Seconds until a process, and what it started, is stopped.
        threads: Of each operator.
    """

    exporter: type[Exporter]
    path: Path
    fields: Sequence[str]
    outputs: Sequence[str] = (LOGITS,)
    timeout: float = 120.0
    threads: int = 1

    def run(
        self,
        batches: Sequence[Batch],
        *,
        config: Path | None = None,
        expected: Mapping[str, Tensor | TensorFacts] | None = None,
    ) -> CleanRun:
        """Loads it in a clean process and runs it.

        Args:
            batches: The inputs; each holds the fields. Weights that are compared with the expected ones need none.
            config: For formats of weights, the config file to build the model from.
            expected: For those without a config, the model's state dict, or what was recorded of it: names, shapes, dtypes and values that
                the file must hold.

        Returns:
            The outputs and figures; a process that raises, dies or hangs gives an ``error`` instead.
        """
        builds = self.exporter.kind == "weights" and config is not None
        only_compared = self.exporter.kind == "weights" and config is None
        if not batches and not only_compared:
            return CleanRun(error="there is no batch to run it on")
        asked = {
            "config": str(config.resolve()) if builds and config is not None else None,
            "expected": _expected(expected) if only_compared and expected is not None else None,
            "run_in": str(Path.cwd()) if builds else None,  # only the user's own model may need the user's files
        }
        with tempfile.TemporaryDirectory(prefix="modeltiers-clean-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            self._write_request(folder, batches, **asked)
            status = self._run_child(folder)
            return _result(folder, status, self.timeout, 0 if only_compared else len(batches), self.outputs)

    def answers(self, batches: Sequence[Batch]) -> list[Answer]:
        """Runs it on one batch after another; where that crashes, another process continues after the batch."""
        given: list[Answer] = []
        while len(given) < len(batches):
            given += self._answers_of_one_process(batches[len(given) :])
        return given

    def _answers_of_one_process(self, batches: Sequence[Batch]) -> list[Answer]:
        """The answers of one process, up to where it crashed."""
        with tempfile.TemporaryDirectory(prefix="modeltiers-answers-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            self._write_request(folder, batches, one_by_one=True)
            status = self._run_child(folder)
            given = [_answer(folder, number, self.outputs) for number in range(len(batches))]
            if status == 0:
                return [answer for answer in given if answer is not None]
            end = Answer(refusal=_why_no_answer(folder, status, self.timeout), is_fatal=True)
            stage = folder / STAGE
            if not stage.is_file():  # it cannot even be loaded
                return [end] * len(batches)
            last = int(stage.read_text(encoding="utf-8"))
            return [answer or end for answer in given[: last + 1]]

    def _write_request(self, folder: Path, batches: Sequence[Batch], **asked: Any) -> None:
        """Writes what the child is asked for, and its inputs, into its folder."""
        request = {
            "exporter": f"{self.exporter.__module__}:{self.exporter.__qualname__}",
            "artifact": str(self.path.resolve()),
            "fields": {name: _dtype(batches[0][name]) for name in self.fields} if batches else {},
            "batches": len(batches),
            "outputs": list(self.outputs),
            "threads": self.threads,
            "one_by_one": False,
            "run_in": None,
            # An exporter of another package is found where this process found it.
            "import_paths": sys.path if asked.get("run_in") or not self.exporter.is_built_in() else [],
            **asked,
        }
        (folder / _REQUEST).write_text(json.dumps(request), encoding="utf-8")
        np.savez(folder / INPUTS, *(_array(batch[name]) for batch in batches for name in self.fields))

    def _run_child(self, folder: Path) -> int | None:
        """The exit status of the child, run in its folder; ``None`` when it had to be stopped."""
        command = module_command(_CHILD, _REQUEST)
        child = start_process(command, folder / _LOG, environment_of_child(self.threads), folder)
        try:
            return child.wait(self.timeout)
        except subprocess.TimeoutExpired:
            return None
        finally:
            stop_process(child)


def _answer(folder: Path, number: int, outputs: Sequence[str]) -> Answer | None:
    given, refusal = folder / f"{number}.npz", folder / f"{number}.txt"
    if refusal.is_file():
        return Answer(refusal=refusal.read_text(encoding="utf-8"))
    return Answer(dict(zip(outputs, _tensors(given), strict=True))) if given.is_file() else None


def _expected(known: Mapping[str, Tensor | TensorFacts]) -> dict[str, dict[str, Any]]:
    recorded = {name: facts for name, facts in known.items() if isinstance(facts, TensorFacts)}
    return {name: asdict(facts) for name, facts in {**facts_of(known), **recorded}.items()}


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()


def _result(folder: Path, status: int | None, timeout: float, batches: int, names: Sequence[str]) -> CleanRun:
    answered = folder / ANSWER
    answer: dict[str, Any] = json.loads(answered.read_text(encoding="utf-8")) if answered.is_file() else {}
    error = answer.pop("error", "")
    if not error and (status != 0 or not answer):
        error = f"{_why_no_answer(folder, status, timeout)} while {_stage(folder)}"
    tensors = [] if error else _tensors(folder / OUTPUTS)
    starts = range(0, len(tensors), len(names))
    outputs = [dict(zip(names, tensors[start : start + len(names)], strict=False)) for start in starts]
    if not error and len(tensors) != batches * len(names):
        error = f"gave {len(tensors)} outputs for {batches} batches"
    packages = tuple(answer.pop("packages", ()))
    return CleanRun([] if error else outputs, **answer, packages=packages, error=error)


def _tensors(path: Path) -> list[Tensor]:
    if not path.is_file():
        return []
    with np.load(path, allow_pickle=False) as stored:
        return [torch.from_numpy(stored[name]) for name in stored.files]


def _stage(folder: Path) -> str:
    path = folder / STAGE
    return path.read_text(encoding="utf-8") if path.is_file() else "starting"


def _why_no_answer(folder: Path, status: int | None, timeout: float) -> str:
    """How a child ended that did not answer."""
    if status is None:
        return f"not done after {timeout:g} s, so it was stopped"
    if status < 0:
        return end_in_words(status, folder / _LOG)
    said = last_line(folder / _LOG)
    return f"ended with status {status} and no answer" + (f" ({said})" if said else "")


_TRIED, _ROUGHLY = 6, 1e-3


def try_other_sizes(exporter: type[Exporter], path: Path, program: Program, *, outputs: bool) -> None:
    """Runs a traced file at other sizes, in its own process: kernels of recurrent layers do not survive sizes that were frozen.

    Args:
        exporter: The exporter of its format.
        path: The file.
        program: What it was traced from.
        outputs: Whether it must also give about the model's outputs; the checks of tier 4 look closely.

    Raises:
        ExportError: It does not survive, or gives other outputs.
    """
    points = shape_grid(program)[:_TRIED]
    made = [make_batch(program.task, point.sizes, seed) for seed, point in enumerate(points)]
    batches = [as_exported(program.forward.adapter, {name: batch[name] for name in program.fields}) for batch in made]
    given = ExportedFile(exporter, path, program.fields, program.outputs).answers(batches)
    for point, batch, answer in zip(points, batches, given, strict=True):
        at = point.sizes.describe(program.task)
        if answer.is_fatal:
            raise ExportError(f"the process that runs it does not survive {at}: {answer.refusal}")
        if outputs and (answer.outputs is None or not _alike(answer.outputs, program.eager_outputs(batch))):
            raise ExportError(f"it does not give the model's outputs at {at}")


def _alike(left: Outputs, right: Outputs) -> bool:
    return all(
        left[name].shape == tensor.shape and torch.allclose(left[name].double(), tensor.double(), rtol=_ROUGHLY, atol=_ROUGHLY)
        for name, tensor in right.items()
    )

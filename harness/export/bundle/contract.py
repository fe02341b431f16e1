"""What a bundle promises: its signature, and golden batches with the model's own outputs for them."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.batches import Batch, make_batch
from harness.documents import without_secrets
from harness.errors import UserError
from harness.export import one_line
from harness.export.bundle.folder import GOLDEN, SIGNATURE
from harness.export.checks.numerical_consistency import compare
from harness.export.exports import Exports
from harness.export.formats import ExportError, exporter_class
from harness.export.formats.weights_files import TensorFacts, facts_of
from harness.export.program import Outputs, promised_outputs
from harness.export.shape_grid import Point
from harness.formats import formats as known_formats
from harness.tasks.keys import declared_keys
from harness.tasks.signature import Input
from harness.tasks.values import Ids, MaskOf, Uniform

_TASK_KEYS = (
    "task_type",
    "task_name",
    "modality",
    "vocab_size",
    "target_vocab_size",
    "min_seq_len",
    "max_seq_len",
    "pad_token_id",
    "image_size",
    "num_classes",
    "num_features",
)
"""What is told of a task that is no declared one."""


def make_signature(exports: Exports, files: Mapping[str, str]) -> dict[str, Any]:
    """What a caller must know: inputs, outputs, and the sizes of their free axes, which have names; and the file of each format."""
    program, task = exports.program, exports.program.task
    found = exports.eager(program.example)
    outputs = [_described(name, found[name], program.output_axes[name]) for name in program.outputs]
    steps = {axis: program.step(axis) for axis in program.limits if program.step(axis) > 1}
    told = {key: without_secrets(getattr(task, key)) for key in _TASK_KEYS}
    if task.declared is not None:
        told = {"task_type": told["task_type"], "task_name": told["task_name"], "declared": declared_keys(task.declared)}
    return {
        "model": type(exports.subject.model).__name__,
        "task": told,
        "inputs": [
            {**_described(name, program.example[name], program.axes[name]), **_range_of(task.signature.input(name))}
            for name in program.fields
        ],
        "output": outputs[0],
        **({"outputs": outputs} if len(outputs) > 1 else {}),
        "limits": {axis: list(limits) for axis, limits in program.limits.items()},
        **({"multiples": steps} if steps else {}),
        "artifacts": {
            format: {"file": f"artifacts/{name}", "runtime": exporter_class(format).runtime()} for format, name in files.items()
        },
    }


def _range_of(each: Input) -> dict[str, Any]:
    """Smallest and largest value of an input, where it has them whatever its size."""
    values = each.values
    if isinstance(values, Ids):
        return {"range": [0, (max(values.count) if isinstance(values.count, tuple) else values.count) - 1]}
    if isinstance(values, MaskOf) and each.dtype != "bool":
        return {"range": [0, 1]}
    return {"range": [values.low, values.high]} if isinstance(values, Uniform) else {}


def read_signature(folder: Path, formats: Mapping[str, str]) -> dict[str, torch.dtype]:
    """The dtype of each input of a bundle.

    Raises:
        ValueError: It names other files or runtimes than the manifest.
        ValueError, LookupError, TypeError, AttributeError, OSError: It is no signature.
    """
    signature = json.loads((folder / SIGNATURE).read_text(encoding="utf-8"))
    for format, name in formats.items():
        # The script loads what the signature names, by the runtime it names: that must not be another file, or one that runs code.
        known = known_formats().get(format)
        if known is not None and signature["artifacts"][format] != {"file": name, "runtime": known.runtime()}:
            raise ValueError(f"{SIGNATURE} has another file or runtime for {format} than the manifest")
    return {str(declared["name"]): _dtype(declared["dtype"]) for declared in signature["inputs"]}


def outputs_in(signature: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The outputs that a signature declares, in order."""
    found: list[dict[str, Any]] = signature.get("outputs") or [signature["output"]]
    return found


def sizes_of(declared: Mapping[str, Any]) -> tuple[int, ...]:
    """Sizes of an input or output that is declared in a signature, -1 for a free one."""
    return tuple(axis if isinstance(axis, int) else -1 for axis in declared["axes"])


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name} is not a dtype")
    return dtype


def _described(name: str, tensor: Tensor, free: Mapping[int, str]) -> dict[str, Any]:
    axes = [free.get(position, size) for position, size in enumerate(tensor.shape)]
    return {"name": name, "dtype": str(tensor.dtype).removeprefix("torch."), "axes": axes}


Arrays = dict[str, np.ndarray[Any, Any]]

_MOST_LOGITS = 1 << 26
"""Further batches with more than these are left out, so that a bundle is not mostly golden outputs."""

_SLACK = 2
"""Rounding that was seen when the bundle was made may be this many times as large on another machine."""


@dataclass(frozen=True)
class Golden:
    """The golden batches, with which the outputs of artifacts are compared.

    Attributes:
        names: Files of the inputs.
        inputs: The inputs, in the dtypes of the signature.
        outputs: The model's outputs for them, by name.
        tolerances: By format, the largest difference of each output for each batch; ``None`` for one that it does not take.
        state: What is known of each tensor of the model's state dict.
    """

    names: tuple[str, ...]
    inputs: tuple[Batch, ...]
    outputs: tuple[Outputs, ...]
    tolerances: dict[str, tuple[dict[str, float] | None, ...]]
    state: dict[str, TensorFacts]

    def taken(self, format: str) -> list[int]:
        """Numbers of the batches that a format takes."""
        return [number for number, tolerance in enumerate(self.tolerances[format]) if tolerance is not None]


def make_golden(exports: Exports) -> tuple[dict[str, Arrays], dict[str, Any]]:
    """The golden batches by file name, and what ``golden.json`` says of them.

    Raises:
        ExportError: There is a format that takes none of them.
        UserError: The model itself does not.
    """
    made_up = exports
    if exports.subject.make is not make_batch:  # rows of the user's data are no one else's business
        made_up = Exports(replace(exports.subject, make=make_batch), exports.options, cache=exports.cache)
    points = _points(made_up)
    files: dict[str, Arrays] = {}
    for number, point in enumerate(points):
        files[f"inputs_{number}.npz"] = {name: _array(tensor) for name, tensor in made_up.batch(point).items()}
        files[f"outputs_{number}.npz"] = {name: _array(tensor) for name, tensor in made_up.expected(point).items()}
    facts = {
        "batches": [
            {"inputs": f"inputs_{number}.npz", "outputs": f"outputs_{number}.npz", "sizes": point.describe(made_up.program)}
            for number, point in enumerate(points)
        ],
        "noise_floor": max(floor.value for floor in made_up.floors.values()),
        "formats": {format: _held(exports, format, made_up, points) for format in exports.formats},
        "state": {name: asdict(known) for name, known in facts_of(exports.reference.state_dict()).items()},
    }
    return files, facts


def read_golden(folder: Path, listed: Container[str], formats: Mapping[str, str]) -> Golden:
    """The golden batches of a bundle.

    Raises:
        ValueError, LookupError, TypeError, AttributeError, OSError, BadZipFile: They are not what a bundle has.
    """
    dtypes = read_signature(folder, formats)
    golden = json.loads((folder / GOLDEN).read_text(encoding="utf-8"))
    inputs, outputs = [], []
    for batch in golden["batches"]:
        for name in (batch["inputs"], batch["outputs"]):
            if f"golden/{name}" not in listed:
                raise ValueError(f"golden/{name} is not in the manifest")
        arrays = load_arrays(folder / "golden" / batch["inputs"])
        inputs.append({name: torch.from_numpy(arrays[name]).to(dtype) for name, dtype in dtypes.items()})
        arrays = load_arrays(folder / "golden" / batch["outputs"])
        outputs.append({name: torch.from_numpy(array) for name, array in arrays.items()})
    tolerances = {
        format: tuple(_tolerances(held, found) for held, found in zip(golden["formats"][format], outputs, strict=False))
        for format in formats
    }
    if not all(outputs) or any(len(golden["formats"][format]) != len(inputs) for format in formats):
        raise ValueError("its batches are not complete")
    if any(all(tolerance is None for tolerance in held) for held in tolerances.values()):
        raise ValueError("no batch to compare a format on")
    names = tuple(batch["inputs"] for batch in golden["batches"])
    state = {str(name): TensorFacts.from_json(entry) for name, entry in golden["state"].items()}
    return Golden(names, tuple(inputs), tuple(outputs), tolerances, state)


def _tolerances(held: Mapping[str, Any], outputs: Outputs) -> dict[str, float] | None:
    """How far each output may be from the golden one: a number where there is one output, else by name."""
    if "refused" in held:
        return None
    told = held["tolerance"]
    return {name: float(told[name] if isinstance(told, Mapping) else told) for name in outputs}


def load_arrays(path: Path) -> Arrays:
    """The arrays of an ``.npz`` file; pickled objects are refused."""
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _points(exports: Exports) -> tuple[Point, ...]:
    """The exporter's own example; the nearest shape it did not see; and one of those that is padded, where that means anything."""
    first, *others = exports.points

    own = exports.program.sizes.by_axis(exports.program.task)

    def distance(point: Point) -> int:
        return sum(abs(size - own[axis]) for axis, size in point.sizes.by_axis(exports.program.task).items())

    plain = [point for point in others if point.content == "typical"]
    unseen = sorted((point for point in plain if not point.padded), key=lambda p: (p.seen(exports.program), distance(p)))
    padded = sorted((point for point in plain if point.padded), key=lambda p: (p.seen(exports.program), distance(p)))
    small = [p for p in (*unseen[:1], *padded[:1]) if _fits(exports, p)]
    return tuple(dict.fromkeys((first, *small)))


def _fits(exports: Exports, point: Point) -> bool:
    """Whether the outputs of a batch are small enough to be stored."""
    signature = exports.program.task.signature
    whole = signature.complete(point.sizes.by_axis(exports.program.task))
    return sum(math.prod(promised.shape(whole)) for promised in promised_outputs(exports.program).values()) <= _MOST_LOGITS


def _held(exports: Exports, format: str, made_up: Exports, points: Sequence[Point]) -> list[dict[str, Any]]:
    """For each batch, how far a format's outputs are from the model's, and how far they may be; or why it does not take the batch."""
    held: list[dict[str, Any]] = []
    exporter = exports.exporter(format)
    for point in points:
        try:
            found = compare(made_up, point, exports.runner(format)(made_up.batch(point)))
        except Exception as error:  # runtimes raise their own exceptions
            held.append({"refused": str(error) if isinstance(error, UserError) else one_line(error)})
            continue
        differences, tolerances = {}, dict.fromkeys(made_up.program.outputs, 0.0)
        for each in found:
            tolerance, sound = each.bound, math.isfinite(each.absolute)
            if sound and (each.relative <= exporter.tolerance or exporter.quantised_from):  # a quantised file is an approximation
                tolerance = max(tolerance, _SLACK * each.absolute)
            differences[each.output] = each.absolute if sound else None
            tolerances[each.output] = tolerance
        several = len(tolerances) > 1
        only = made_up.program.outputs[0]
        held.append(
            {
                "difference": differences if several else differences.get(only),
                "tolerance": tolerances if several else tolerances[only],
            }
        )
    if all("refused" in batch for batch in held):
        raise ExportError(f"no bundle was written: the {format} file does not even take its own example: {held[0]['refused']}")
    return held


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()

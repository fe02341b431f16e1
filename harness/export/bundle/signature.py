"""The signature of a bundle: what a caller must know of its inputs, its output and its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.export.bundle.configs import json_ready
from harness.export.bundle.manifest import SIGNATURE
from harness.export.exports import Exports
from harness.export.formats.exporter import exporter_class
from harness.formats import formats as known_formats


def make_signature(exports: Exports, files: Mapping[str, str]) -> dict[str, Any]:
    """What a caller must know: inputs, output, and the sizes of their free axes, which have names; and the file of each format.

    Args:
        exports: The exports.
        files: Names of the formats' files.
    """
    program, task = exports.program, exports.program.task
    logits = exports.eager(program.example)
    values = {
        name: {"range": [0, vocab - 1]}
        for name in ("input_ids", "decoder_input_ids")
        if (vocab := task.vocabulary_of(name)) is not None
    } | {"attention_mask": {"range": [0, 1]}}
    sizes = (
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
    return {
        "model": type(exports.subject.model).__name__,
        "task": {key: json_ready(getattr(task, key)) for key in sizes},
        "inputs": [
            {**_described(name, program.example[name], program.axes[name]), **values.get(name, {})} for name in program.fields
        ],
        "output": _described("logits", logits, program.output_axes),
        "limits": {axis: list(limits) for axis, limits in program.limits.items()},
        "artifacts": {
            format: {"file": f"artifacts/{name}", "runtime": exporter_class(format).runtime()} for format, name in files.items()
        },
    }


def read_signature(folder: Path, formats: Mapping[str, str]) -> dict[str, torch.dtype]:
    """The dtype of each input of a bundle.

    Args:
        folder: The bundle.
        formats: The file of each format, as the manifest has it.

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


def sizes_of(declared: Mapping[str, Any]) -> tuple[int, ...]:
    """Sizes of an input or output that is declared in a signature, -1 for a free one."""
    return tuple(axis if isinstance(axis, int) else -1 for axis in declared["axes"])


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name} is no dtype")
    return dtype


def _described(name: str, tensor: Tensor, free: Mapping[int, str]) -> dict[str, Any]:
    axes = [free.get(position, size) for position, size in enumerate(tensor.shape)]
    return {"name": name, "dtype": str(tensor.dtype).removeprefix("torch."), "axes": axes}

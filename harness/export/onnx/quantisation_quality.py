"""What the rounding of a quantised ``.onnx`` cost, and what it brought.

The signal-to-quantisation-noise ratio is the usual measure of the cost (Nagel et al., "A White Paper on Neural Network Quantization", 2021,
arXiv:2106.08295).
"""

from __future__ import annotations

import ast
import math
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from harness.batches import Batch
from harness.export.formats import QuantisationQuality, TensorQuality, outputs_by_name
from harness.export.onnx.quantisation import check_available, prepare, silent, size_of
from harness.export.program import Outputs, module_path

if TYPE_CHECKING:
    import onnx

    Array = np.ndarray[Any, Any]

_WEIGHT_POSITION = {"Gather": 0, "MatMul": 1, "Gemm": 1, "Conv": 1, "LSTM": 1, "MatMulInteger": 1, "DynamicQuantizeLSTM": 1}
_TRANSPOSED = re.compile(r"_Transposed(_\d+)?$")
"""What dynamic quantisation appends to the weight of a Gemm, which it turns over to make a MatMul of it."""

_WORST = 3
_ROUNDING = 10 * torch.finfo(torch.float32).eps


def measure_quality(
    float_path: Path, quantised_path: Path, batches: Iterable[Batch], fields: Sequence[str], expected: Sequence[Outputs]
) -> QuantisationQuality:
    """Holds a quantised file to the float file and to the model's own outputs.

    Raises:
        ExportError: One of the files cannot be read or run.
        MissingPackageError: ONNX or ONNX Runtime is not installed.
    """
    check_available()
    from harness.export.onnx import read, runner, session

    run = runner(session(quantised_path))
    names = list(expected[0]) if expected else []
    found = [outputs_by_name(names, run({name: batch[name] for name in fields})) for batch in batches]
    ratios = {name: logits_sqnr([each[name] for each in expected], [each[name] for each in found]) for name in names}
    worst = min(ratios, key=lambda name: ratios[name], default="")
    first = names[0] if names else ""
    main = [each[first] for each in expected], [each[first] for each in found]
    after = read(quantised_path)
    with tempfile.TemporaryDirectory(prefix="modeltiers-prepared-") as name, silent():
        # The float weights as the quantiser saw them: constants folded, under the names it gave them.
        prepare(float_path, Path(name) / "prepared.onnx")
        prepared = read(Path(name) / "prepared.onnx")
    return QuantisationQuality(
        sqnr_db=ratios.get(worst, -math.inf),
        argmax_agreement=_agreement(*main, ratios.get(first, -math.inf)),
        worst_tensors=_worst_tensors(prepared, after, _module_paths(read(float_path))),
        operators_quantised=_operators_with_weights(after, ("INT8", "UINT8")),
        operators_quantisable=_operators_with_weights(prepared, ("FLOAT", "FLOAT16")),
        bytes_before=size_of(float_path),
        bytes_after=size_of(quantised_path),
        output=worst if len(names) > 1 else "",
    )


def logits_sqnr(expected: Sequence[Tensor], outputs: Sequence[Tensor]) -> float:
    """``10 log10(sum x^2 / sum (x - y)^2)`` over all batches, in dB.

    Minus infinity where the comparison could show nothing: no logits, other shapes, values that are not finite, or logits that are the same
    everywhere up to rounding.
    """
    if not expected or [x.shape for x in expected] != [y.shape for y in outputs]:
        return -math.inf
    signal = torch.cat([x.detach().cpu().double().flatten() for x in expected])
    output = torch.cat([y.double().flatten() for y in outputs])
    if signal.numel() == 0 or float(signal.max() - signal.min()) <= _ROUNDING * float(signal.abs().max()):
        return -math.inf
    return _sqnr(signal.numpy(), output.numpy())


def _agreement(expected: Sequence[Tensor], outputs: Sequence[Tensor], sqnr: float) -> float | None:
    if any(x.ndim < 2 or x.shape[-1] < 2 for x in expected):
        return None
    if sqnr == -math.inf:
        return 0.0
    same = [(x.detach().cpu().argmax(-1) == y.argmax(-1)).flatten() for x, y in zip(expected, outputs, strict=True)]
    return float(torch.cat(same).double().mean())


def _sqnr(signal: Array, output: Array) -> float:
    signal, output = signal.astype(np.float64), output.astype(np.float64)
    if not (np.isfinite(signal).all() and np.isfinite(output).all()):
        return -math.inf
    noise, power = float(np.square(signal - output).sum()), float(np.square(signal).sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(power / noise) if power else -math.inf


def _worst_tensors(prepared: onnx.ModelProto, after: onnx.ModelProto, modules: Mapping[str, str]) -> tuple[TensorQuality, ...]:
    """The weights that are farthest from what they were."""
    floats, users = _initialisers(prepared), {name: node.name for node in prepared.graph.node for name in node.input}
    found = [
        TensorQuality(name, _module_of(name, modules.get(users.get(name, ""), "")), _sqnr(floats[name], values))
        for name, values in _dequantised(after).items()
        if name in floats and floats[name].shape == values.shape
    ]
    return tuple(sorted(found, key=lambda tensor: tensor.sqnr_db)[:_WORST])


def _module_of(name: str, user: str) -> str:
    """The module of a weight: in its name, unless that was lost when constants were folded; then it is who uses it."""
    owner = name.rpartition(".")[0]
    return module_path(owner) if owner else user


def _dequantised(model: onnx.ModelProto) -> dict[str, Array]:
    """The values of the quantised weights and biases by the names that they had before."""
    tensors, axes = _initialisers(model), _channel_axes(model)
    swapped = {name for node in model.graph.node if node.op_type == "DynamicQuantizeLSTM" for name in node.input[1:3]}
    values = {}
    for quantised, integers in tensors.items():
        name = quantised.removesuffix("_quantized")
        stem = next((stem for stem in (name, quantised) if f"{stem}_scale" in tensors), None)
        if name == quantised or stem is None:
            continue
        shape = [1] * integers.ndim
        if tensors[f"{stem}_scale"].size > 1:
            shape[axes.get(quantised, 0)] = -1
        scale, zero = (tensors.get(f"{stem}_{part}", np.zeros(1)).reshape(shape) for part in ("scale", "zero_point"))
        with np.errstate(all="ignore"):
            value = (integers.astype(np.float64) - zero.astype(np.float64)) * scale
        before = _TRANSPOSED.sub("", name)
        values[before] = value.swapaxes(-1, -2) if quantised in swapped or before != name else value
    return values


def _channel_axes(model: onnx.ModelProto) -> dict[str, int]:
    """The axis along which a weight's scales lie, by the weight's name."""
    axes = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            axes[node.input[0]] = next((int(a.i) for a in node.attribute if a.name == "axis"), 1)
        elif node.op_type in ("MatMulInteger", "DynamicQuantizeLSTM"):
            axes |= dict.fromkeys(node.input[1:3], -1)
    return axes


def _operators_with_weights(model: onnx.ModelProto, types: tuple[str, ...]) -> int:
    """Number of operators whose weight is a tensor of the graph with one of some types, as it stands or behind a DequantizeLinear."""
    from onnx import TensorProto

    known = {tensor.name for tensor in model.graph.initializer if TensorProto.DataType.Name(tensor.data_type) in types}
    sources = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    weights = [node.input[_WEIGHT_POSITION[node.op_type]] for node in model.graph.node if node.op_type in _WEIGHT_POSITION]
    return sum(sources.get(name, name) in known for name in weights)


def _module_paths(model: onnx.ModelProto) -> dict[str, str]:
    """The module each named node comes from: in the metadata of the dynamo exporter, in the names of the older one."""
    paths = {}
    for node in model.graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "")
        if scopes:
            paths[node.name] = module_path(ast.literal_eval(scopes)[-2])
        elif node.name.startswith("/"):
            paths[node.name] = module_path(".".join(node.name.split("/")[1:-1]))
    return paths


def _initialisers(model: onnx.ModelProto) -> dict[str, Array]:
    from onnx import numpy_helper

    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}

"""int8 copies of an exported ``.onnx`` by ONNX Runtime, and what they lose in accuracy and gain in size.

Weights become int8 with a scale for each channel, activations uint8: while the model runs (dynamic), or over ranges seen on calibration
batches (static). The signal-to-quantisation-noise ratio is the usual measure of the cost (Nagel et al., "A White Paper on Neural Network
Quantization", 2021, arXiv:2106.08295).
"""

from __future__ import annotations

import ast
import importlib.util
import logging
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from harness.batches import Batch
from harness.errors import MissingPackageError
from harness.export.formats import ExportError, QuantisationQuality, TensorQuality, outputs_by_name
from harness.export.formats.exported_program import quiet
from harness.export.program import Outputs, module_path
from harness.user_code import raised

if TYPE_CHECKING:
    import onnx

    Array = np.ndarray[Any, Any]


Kind = Literal["dynamic", "static"]

OPERATORS: dict[Kind, tuple[str, ...]] = {
    "dynamic": ("MatMul", "Gemm", "Gather", "LSTM"),
    "static": ("MatMul", "Gemm", "Gather", "Conv"),
}
"""What each kind quantises.

A convolution whose input is quantised while it runs takes five to seven times as long as in float32, so ``dynamic`` leaves it alone.
Sums and activation functions stay in float32, since the range of an attention mask would leave nothing of the scores it is added to.
"""

_PREPARATIONS: dict[str, dict[str, bool]] = {
    "symbolic and ONNX shape inference": {},
    "ONNX shape inference": {"skip_symbolic_shape": True},
    "no shape inference": {"skip_symbolic_shape": True, "skip_onnx_shape": True},
}
_PER_CHANNEL_OPSET = 13
_PROTOBUF_LIMIT = 1 << 31


@dataclass(frozen=True)
class QuantisationFacts:
    """How a file was quantised.

    Attributes:
        kind: ``dynamic`` or ``static``.
        calibration_batches: Batches the ranges of a static one were seen on.
        preparation: The shape inference that worked on the model.
        per_channel: Whether each channel of a weight has its own scale.
    """

    kind: Kind
    calibration_batches: int
    preparation: str
    per_channel: bool


def quantise(path: Path, target: Path, kind: Kind, batches: Iterable[Batch], fields: Sequence[str]) -> QuantisationFacts:
    """Writes an int8 copy of an ONNX file.

    Args:
        path: The float file.
        target: Where the copy goes; it appears there whole or not at all.
        kind: ``dynamic`` for language models, ``static`` for convolutions.
        batches: What ``static`` is calibrated on; ``dynamic`` leaves them unread.
        fields: Names of the inputs.

    Raises:
        ExportError: It cannot be quantised, or there is nothing to calibrate on.
        MissingPackageError: ONNX or ONNX Runtime is not installed.
    """
    check_available()
    from harness.export.onnx import opset, read

    if size_of(path) >= _PROTOBUF_LIMIT:
        raise ExportError(f"{path.name}: 2 GiB or more, which ONNX Runtime's tools do not quantise; quantise its parts")
    with tempfile.TemporaryDirectory(prefix=".quantise-", dir=target.parent) as name, silent():
        prepared, result = Path(name) / "prepared.onnx", Path(name) / target.name
        preparation = prepare(path, prepared)
        model = read(prepared)
        per_channel = opset(model) >= _PER_CHANNEL_OPSET
        reader = _Calibration(batches, [value.name for value in model.graph.input if value.name in fields])
        try:
            _quantise(prepared, result, kind, reader, per_channel)
        except ExportError:
            raise
        except Exception as error:  # the tools' errors share no base class
            raise ExportError(f"{path.name}: {kind} quantisation raised {raised(error)}") from error
        os.replace(result, target)
    return QuantisationFacts(kind, reader.count, preparation, per_channel)


def prepare(path: Path, prepared: Path) -> str:
    """Writes a copy with shapes inferred and constants folded, as far as the model lets it; returns how far that was.

    Raises:
        ExportError: The model does not let it at all.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    failures = []
    for name, options in _PREPARATIONS.items():
        try:
            quant_pre_process(str(path), str(prepared), **options)
            return name
        except Exception as error:  # each kind of inference gives up on other models
            failures.append(f"{name}: {raised(error)}")
    raise ExportError(f"{path.name}: no model that can be prepared for quantisation; {'; '.join(failures)}")


def size_of(path: Path) -> int:
    """Bytes of a file, and of those beside it that hold its weights."""
    from harness.export.onnx import external_files, read

    return sum(file.stat().st_size for file in (path, *(path.parent / name for name in external_files(read(path)))))


def check_available() -> None:
    """Makes sure that there is what quantises.

    Raises:
        MissingPackageError: ONNX or ONNX Runtime is not installed.
    """
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPackageError(
            f"quantisation needs {', '.join(missing)}, not installed here: pip install 'pytest-modeltiers[onnx]'"
        )


@contextmanager
def silent() -> Iterator[None]:
    """Keeps to itself what ONNX Runtime's tools print, log and warn of."""
    root, before = logging.getLogger(), logging.root.manager.disable
    own = logging.NullHandler()
    root.addHandler(own)  # without any handler, logging.warning() would install one for good
    logging.disable(logging.CRITICAL)
    try:
        with quiet():
            yield
    finally:
        logging.disable(before)
        root.removeHandler(own)


class _Calibration:
    """Batches for ONNX Runtime's calibration, which asks for one at a time (its ``CalibrationDataReader``).

    Attributes:
        count: Batches handed out.
    """

    def __init__(self, batches: Iterable[Batch], names: Sequence[str]) -> None:
        self.count = 0
        self._batches = iter(batches)
        self._names = names

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        """The next batch; ``None`` after the last.

        Raises:
            ExportError: There was not even one.
        """
        batch = next(self._batches, None)
        if batch is None and self.count == 0:
            raise ExportError(
                "static quantisation needs a batch to calibrate on and got none; give some, or quantise dynamically"
            )
        if batch is None:
            return None
        self.count += 1
        return {name: batch[name].cpu().numpy() for name in self._names}


def _quantise(prepared: Path, result: Path, kind: Kind, reader: _Calibration, per_channel: bool) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    options: dict[str, Any] = {
        "per_channel": per_channel,
        "op_types_to_quantize": list(OPERATORS[kind]),
        "weight_type": QuantType.QInt8,
        # Weights of 7 bits: without VNNI, AVX2 and AVX-512 add two products in 16 bits, which those of 8 bits fill.
        "reduce_range": True,
    }
    if kind == "dynamic":
        quantize_dynamic(prepared, result, **options)
        return
    quantize_static(prepared, result, reader, quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8, **options)


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

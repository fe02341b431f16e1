"""int8 copies of an exported ``.onnx`` by ONNX Runtime.

Weights become int8 with a scale for each channel, activations uint8: while the model runs (dynamic), or over ranges seen on calibration
batches (static).
"""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.batches import Batch
from harness.errors import MissingPackageError
from harness.export.formats import ExportError
from harness.export.formats.exported_program import quiet
from harness.user_code import raised

if TYPE_CHECKING:
    import numpy as np

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
        per_channel: Whether each channel of a weight has a scale of its own.
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
        except Exception as error:  # each kind of inference gives up on models of its own
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
    }
    if kind == "dynamic":
        quantize_dynamic(prepared, result, **options)
        return
    quantize_static(prepared, result, reader, quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8, **options)

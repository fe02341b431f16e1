"""The formats a model can be exported to: the attributes of a format, and the table of all formats.

A format is one file with one class, its exporter, and one line in ``EXPORTERS``. Everything else asks the exporter: the config which names are
valid, the catalogue which properties apply, the checks what may be expected, the bundle how a file is loaded. A package of your own adds
formats by an entry point of the group ``modeltiers.formats``.

Exporters import torch and the packages of their format inside their methods, so that this table is read in milliseconds.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Literal

from harness.errors import MissingPackageError, did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Kind = Literal["computation", "weights"]

EXPORTERS = (
    "harness.export.formats.torchscript:TorchScriptExporter",
    "harness.export.formats.onnx:ONNXExporter",
    "harness.export.formats.onnx:QuantisedONNXExporter",
    "harness.export.formats.weights_files:PyTorchExporter",
    "harness.export.formats.weights_files:SafetensorsExporter",
    "harness.export.formats.torch_export:TorchExportExporter",
    "harness.export.formats.openvino:OpenVINOExporter",
    "harness.export.formats.executorch:ExecuTorchExporter",
)
"""The exporters of this project. Their order is that of reports and of the documentation."""

ENTRY_POINTS = "modeltiers.formats"
"""The group of entry points by which other packages add formats: ``name = package.module:Class``."""


class Format:
    """The description of a format, as class attributes.

    Attributes:
        name: Its name in configs and tests.
        filename: Name of its file.
        kind: ``computation`` where a file can be run by itself; ``weights`` where it fills a model that is built from its code.
        packages: Packages that exporting and judging a file needs, by import name.
        extra: The extra of this project that brings them.
        runs_with: Modules that load and run a file elsewhere, besides NumPy.
        by_default: Whether it is exported where a config names no formats.
        tolerance: Largest difference of logits, relative to their scale where that is above 1, that rounding is ever taken to explain.
        quantised_from: The format that its files are quantised from; empty where they hold the model's own numbers. A config asks for such a
            format by ``quantization``.
        runs_as: The format whose runtime reads its files, where that is another one.
        last_resort: Name of the exporter's way that is tried last and may lose something, which is worth a warning.
        holds_code: Whether loading a file can run code from it.
        accepts_any_id: Whether its runtime looks up token ids outside the vocabulary without an error.
        plans_memory: Whether memory is planned at export, so that a batch without a limit gets one.
        may_crash: Whether a wrong input may crash its runtime, and the process with it.
    """

    name: ClassVar[str]
    filename: ClassVar[str]
    kind: ClassVar[Kind] = "computation"
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    runs_with: ClassVar[tuple[str, ...]] = ("torch",)
    by_default: ClassVar[bool] = False
    tolerance: ClassVar[float] = 1e-6
    quantised_from: ClassVar[str] = ""
    runs_as: ClassVar[str] = ""
    last_resort: ClassVar[str] = ""
    holds_code: ClassVar[bool] = False
    accepts_any_id: ClassVar[bool] = False
    plans_memory: ClassVar[bool] = False
    may_crash: ClassVar[bool] = False

    @classmethod
    def runtime(cls) -> str:
        """The format whose runtime reads its files."""
        return cls.runs_as or cls.name

    @classmethod
    def is_built_in(cls) -> bool:
        """Whether it is one of this project's formats, not one of another package."""
        return cls.__module__.startswith("harness.")

    @classmethod
    def requirements(cls) -> tuple[str, ...]:
        """Packages that run a file elsewhere, besides NumPy."""
        return tuple(dict.fromkeys(module.partition(".")[0] for module in cls.runs_with))

    @classmethod
    def check_available(cls) -> None:
        """Makes sure that the packages are installed.

        Raises:
            MissingPackageError: One is not; the message names the extra that brings it.
        """
        missing = [name for name in cls.packages if importlib.util.find_spec(name) is None]
        if missing:
            brings = f"pip install 'pytest-modeltiers[{cls.extra}]'" if cls.extra else f"pip install {' '.join(missing)}"
            raise MissingPackageError(f"format {cls.name!r} needs {', '.join(missing)}, not installed here: {brings}")


@cache
def formats() -> dict[str, type[Format]]:
    """Every format by name: those of this project, then those that other packages add."""
    return {**{exporter.name: exporter for exporter in map(_load, EXPORTERS)}, **_of_other_packages()[0]}


def default_formats() -> list[str]:
    """Formats that are exported if the config names none."""
    return [name for name, format in formats().items() if format.by_default]


def valid_formats() -> list[str]:
    """Formats that a config may name; quantised ones come by ``quantization``."""
    return [name for name, format in formats().items() if not format.quantised_from]


def quantised_formats(names: Iterable[str]) -> list[str]:
    """Formats that are quantised from one of some formats."""
    wanted = set(names)
    return [name for name, format in formats().items() if format.quantised_from in wanted]


def quantisable_formats() -> list[str]:
    """Formats from which another one is quantised."""
    return list(dict.fromkeys(format.quantised_from for format in formats().values() if format.quantised_from))


def no_such_format(name: object) -> str:
    """Why a format is unknown: with the nearest name, or what is wrong with the package that should bring it."""
    broken = _of_other_packages()[1].get(str(name))
    if broken:
        return f"the format {name!r} cannot be loaded: {broken}"
    valid = valid_formats()
    return f"no export format {name!r}.{did_you_mean(name, valid)} Valid: {', '.join(valid)}"


@cache
def _of_other_packages() -> tuple[dict[str, type[Format]], dict[str, str]]:
    """The formats that other packages add, and what is wrong with those that cannot be loaded; no package replaces a format of this project."""
    from importlib.metadata import entry_points

    found: dict[str, type[Format]] = {}
    broken: dict[str, str] = {}
    for point in entry_points(group=ENTRY_POINTS):
        try:
            exporter = _load(point.value)
            found.setdefault(exporter.name, exporter)
        except Exception as error:  # whatever another package's code raises when it is imported
            broken[point.name] = f"the entry point {point.value!r}{_origin(point)}: {type(error).__name__}: {error}"
    return found, broken


def _load(path: str) -> type[Format]:
    """The exporter at ``module:Class``.

    Raises:
        TypeError: There is something else.
    """
    module, _, name = path.partition(":")
    exporter = getattr(importlib.import_module(module), name)
    if not (
        isinstance(exporter, type)
        and issubclass(exporter, Format)
        and hasattr(exporter, "name")
        and hasattr(exporter, "filename")
    ):
        raise TypeError("expected a subclass of harness.export.formats.Exporter with a `name` and a `filename`")
    return exporter


def _origin(point: EntryPoint) -> str:
    return f" of {point.dist.name}" if point.dist is not None else ""

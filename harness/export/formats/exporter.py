"""The base class of exporters: how a format is written, read, run elsewhere and blamed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

from harness.errors import UserError
from harness.formats import Format, formats, no_such_format, valid_formats

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from harness.batches import Batch
    from harness.config import ExportConfig
    from harness.export.blame.verdict import Blame
    from harness.export.program import Program, Runner

    Arrays = dict[str, np.ndarray[Any, Any]]
    Run = Callable[[Arrays], np.ndarray[Any, Any]]


class ExportError(UserError, RuntimeError):
    """A model could not be exported to a format, or an artifact could not be used."""


@dataclass(frozen=True)
class Attempt:
    """One way an exporter tried.

    Attributes:
        way: Its name, such as ``dynamo, free batch and seq``.
        error: Why it did not work, in one line; empty for the way that did.
    """

    way: str
    error: str = ""


@dataclass(frozen=True)
class Exported:
    """What an exporter says of the file it wrote.

    Attributes:
        attempts: The ways it tried, the last of which worked.
        limits: Smallest and largest size of each axis as the exporter derived them, where it did; ``None`` for no upper limit.
        static: Axes that came out fixed though they were to stay free, with the reason.
        notes: Further facts, JSON-ready.
    """

    attempts: tuple[Attempt, ...]
    limits: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    static: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Inspection:
    """What can be read from a file without running it.

    Attributes:
        facts: JSON-ready facts, such as counts of operators.
        problems: What is wrong with it, a sentence each.
        training: Operators that belong only in training, such as an active Dropout, with the module where it is known.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    training: tuple[str, ...] = ()


@dataclass(frozen=True)
class TensorQuality:
    """A weight after rounding.

    Attributes:
        name: Its name in the prepared graph.
        module: Path of the module that uses it; empty where the graph does not say.
        sqnr_db: Its signal-to-quantisation-noise ratio, in dB.
    """

    name: str
    module: str
    sqnr_db: float


@dataclass(frozen=True)
class QuantisationQuality:
    """What quantisation cost, and what it brought.

    Attributes:
        sqnr_db: Signal-to-quantisation-noise ratio of the logits, in dB; minus infinity where they are constant, not finite, of another
            shape, or none.
        argmax_agreement: Share of positions with the same most likely class, 0 where ``sqnr_db`` is minus infinity; ``None`` where there
            are no classes.
        worst_tensors: The weights that lost most, worst first.
        operators_quantised: Operators that have an int8 weight.
        operators_quantisable: Operators of a kind that can have one.
        bytes_before: Size of the float file, with the data beside it.
        bytes_after: Size of the int8 file.
    """

    sqnr_db: float
    argmax_agreement: float | None
    worst_tensors: tuple[TensorQuality, ...]
    operators_quantised: int
    operators_quantisable: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class WrongFile:
    """A file whose logits differ from the model's, for ``Exporter.blame``.

    Attributes:
        path: The file.
        run: The file, loaded.
        program: The model.
        batch: Inputs at which the logits differ.
        bound: Largest difference up to which logits count as equal.
        is_ours: Whether the file is, to the byte, what the exporter wrote of this model.
        original: Gives the path of what the exporter wrote, which is kept in the cache.
        save_to: Folder for a small file that shows the difference by itself; ``None`` where nothing is written.
    """

    path: Path
    run: Runner
    program: Program
    batch: Batch
    bound: float
    is_ours: bool
    original: Callable[[], Path]
    save_to: Path | None


@dataclass(frozen=True)
class Port:
    """An input or output as a file declares it.

    Attributes:
        name: Its name.
        dtype: Its dtype, such as ``int64``.
        dims: Its sizes, -1 for a free one.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]


class TritonBackend(NamedTuple):
    """How Triton serves a format: its backend and platform, and the name that the file must have."""

    backend: str
    platform: str
    filename: str


class Exporter(Format, ABC):
    """A format: what it says of itself (``Format``), how it is written, and how it is run.

    Attributes:
        standalone: Functions that load a file without this project: helpers first, and last the loader, which takes the path, the dtype of each
            input by name and the number of threads (0 for the runtime's own choice), and returns a function from named NumPy arrays to logits.
            Each imports what it needs inside. They run in the clean process, and their source goes into a bundle's ``inference.py``. Empty for
            weights.
        triton: How NVIDIA's Triton serves a file; ``None`` where it does not.
        mlflow_flavour: The flavour of MLflow that loads a file; empty where there is none.
    """

    standalone: ClassVar[tuple[Callable[..., Any], ...]] = ()
    triton: ClassVar[TritonBackend | None] = None
    mlflow_flavour: ClassVar[str] = ""

    @classmethod
    def from_options(cls, options: ExportConfig) -> Exporter:
        """The exporter as a config wants it."""
        return cls()

    @property
    def settings(self) -> tuple[Any, ...]:
        """Those of its options on which a file depends, JSON-ready."""
        return ()

    @abstractmethod
    def export(self, program: Program, path: Path) -> Exported:
        """Writes a program to a file.

        Raises:
            ExportError: No way worked; the message has the reason of each.
        """

    @abstractmethod
    def load(self, path: Path, program: Program) -> Runner:
        """Reads a file of this format.

        Raises:
            ExportError: It is damaged, or no file of this format.
        """

    def read_weights(self, path: Path) -> dict[str, Tensor]:
        """The tensors of a file of weights by name, read as a deployment would; only for formats of this kind."""
        raise NotImplementedError(f"{self.name} holds a computation, not weights")

    def risk(self, path: Path) -> str:
        """Why a file of unknown origin should not be loaded without consent; empty where nothing speaks against it."""
        return f"loading a {self.name} file can run code from it" if self.holds_code else ""

    def check_contained(self, path: Path) -> None:
        """Makes sure that loading a file reads nothing outside its folder.

        Raises:
            ExportError: It would.
        """

    def inspect(self, path: Path, program: Program) -> Inspection:
        """What can be read from a file without running it; by default only its size."""
        return Inspection({"file_bytes": path.stat().st_size})

    def static_axes(self, path: Path, program: Program) -> dict[str, str]:
        """Axes that were to stay free and have a fixed size in the file, with a sentence each; none where a file does not say."""
        return {}

    def ports(self, path: Path) -> tuple[list[Port], list[Port]] | None:
        """Inputs and outputs as the file names them; ``None`` where it names none."""
        return None

    def run_in_float64(self, path: Path, batch: Batch) -> Tensor | None:
        """The logits with everything computed in float64; ``None`` where that is not possible.

        Raises:
            ExportError: The file cannot be computed in float64.
        """
        return None

    def blame(self, wrong: WrongFile) -> Blame:
        """The first operator that diverges, and what is at fault; empty where the runtime shows no operators."""
        from harness.export.blame.verdict import Blame

        return Blame()

    def quality(self, plain: Path, path: Path, batches: Sequence[Batch], expected: Sequence[Tensor]) -> QuantisationQuality:
        """What quantisation cost and brought; only for quantised formats.

        Args:
            plain: The file that was quantised.
            path: The quantised file.
            batches: Inputs.
            expected: The logits of the plain file for each.
        """
        raise NotImplementedError(f"{self.name} is not quantised")


def by_position(module: Callable[..., Any], inputs: dict[str, str], threads: int = 0) -> Run:
    """A torch module that takes its inputs by position, as a function from named arrays to logits; a part of ``standalone``."""
    import torch

    if threads:
        torch.set_num_threads(threads)

    def run(arrays: Arrays) -> Any:
        tensors = [torch.from_numpy(arrays[name]).to(getattr(torch, dtype)) for name, dtype in inputs.items()]
        with torch.no_grad():
            logits = module(*tensors)
        if not isinstance(logits, torch.Tensor):
            raise TypeError(f"it returns a {type(logits).__name__}, expected the logits")
        return (logits.float() if logits.dtype is torch.bfloat16 else logits).numpy()

    return run


def exporter_class(name: str) -> type[Exporter]:
    """The exporter of a format.

    Raises:
        ExportError: There is no such format; the message has the nearest name.
    """
    if name not in formats():
        raise ExportError(no_such_format(name))
    return cast("type[Exporter]", formats()[name])


def check_formats(names: Iterable[str]) -> None:
    """Makes sure that formats exist and can be asked for.

    Raises:
        ExportError: One cannot; the message has the nearest name.
    """
    for name in names:
        if name not in valid_formats():
            raise ExportError(no_such_format(name))


def make_exporter(name: str, options: ExportConfig) -> Exporter:
    """The exporter of a format, as the options want it.

    Raises:
        ExportError: There is no such format; the message has the nearest name.
    """
    return exporter_class(name).from_options(options)

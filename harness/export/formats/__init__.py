"""The base class of exporters: how a format is written, read, run elsewhere and blamed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

from harness.errors import UserError
from harness.formats import Format, formats, no_such_format, valid_formats
from harness.wording import counted

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from harness.batches import Batch
    from harness.config import ExportConfig
    from harness.export.blame import Blame
    from harness.export.program import Outputs, Program, Runner

    Arrays = dict[str, np.ndarray[Any, Any]]
    Run = Callable[[Arrays], np.ndarray[Any, Any] | Sequence[np.ndarray[Any, Any]] | Arrays]


class ExportError(UserError, RuntimeError):
    """A model could not be exported to a format, or an artifact could not be used."""

    code = "export"


def outputs_by_name(names: Sequence[str], returned: Any) -> dict[str, Any]:
    """What a file returns, by the names of the model's outputs: by name where it has all of them, else by position.

    Args:
        names: The model's outputs, in order.
        returned: One array or tensor, or several in order or by name.

    Raises:
        ExportError: There are fewer.
    """
    if isinstance(returned, Mapping):
        if all(name in returned for name in names):
            return {name: returned[name] for name in names}
        returned = list(returned.values())
    found = returned if isinstance(returned, (list, tuple)) else [returned]
    if len(found) < len(names):
        raise ExportError(f"it returns {counted(len(found), 'output')}, the model {len(names)}: {', '.join(names)}")
    return dict(zip(names, found, strict=False))


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
        sqnr_db: Signal-to-quantisation-noise ratio of the output that lost most, in dB; minus infinity where it is constant, not finite,
            of another shape, or none.
        argmax_agreement: Share of positions of the first output with the same largest score along its last axis, 0 where its ratio is minus
            infinity; ``None`` where there are no scores.
        worst_tensors: The weights that lost most, worst first.
        operators_quantised: Operators that have an int8 weight.
        operators_quantisable: Operators of a kind that can have one.
        bytes_before: Size of the float file, with the data beside it.
        bytes_after: Size of the int8 file.
        output: The output that lost most; empty where there is only one.
    """

    sqnr_db: float
    argmax_agreement: float | None
    worst_tensors: tuple[TensorQuality, ...]
    operators_quantised: int
    operators_quantisable: int
    bytes_before: int
    bytes_after: int
    output: str = ""


@dataclass(frozen=True)
class WrongFile:
    """A file one of whose outputs differs from the model's, for ``Exporter.blame``.

    Attributes:
        path: The file.
        run: The file, loaded, as a function from a batch to that output.
        program: The model with only that output.
        place: Which output of the whole model it is, from 0.
        batch: Inputs at which it differs.
        bound: Largest difference up to which outputs count as equal.
        is_ours: Whether the file is, to the byte, what the exporter wrote of this model.
        original: Gives the path of what the exporter wrote, which is kept in the cache.
        save_to: Folder for a small file that shows the difference by itself; ``None`` where nothing is written.
    """

    path: Path
    run: Callable[[Batch], Tensor]
    program: Program
    place: int
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
            input by name and the number of threads (0 for the runtime's own choice), and returns a function from named NumPy arrays to an
            array, or to several in order or by name. Each imports what it needs inside. They run in the clean process, and their source
            goes into a bundle's ``inference.py``. Empty for weights.
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
        """Reads a file of this format; what it returns of a batch is a tensor, or several by name or in the order of ``program.outputs``.

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

    def run_in_float64(self, path: Path, batch: Batch) -> Any:
        """The outputs with everything computed in float64, as ``load`` gives them; ``None`` where that is not possible.

        Raises:
            ExportError: The file cannot be computed in float64.
        """
        return None

    def blame(self, wrong: WrongFile) -> Blame:
        """The first operator that diverges, and what is at fault; empty where the runtime shows no operators."""
        from harness.export.blame import Blame

        return Blame()

    def quality(self, plain: Path, path: Path, batches: Sequence[Batch], expected: Sequence[Outputs]) -> QuantisationQuality:
        """What quantisation cost and brought; only for quantised formats.

        Args:
            plain: The file that was quantised.
            path: The quantised file.
            batches: Inputs.
            expected: The floating outputs of the plain file for each.
        """
        raise NotImplementedError(f"{self.name} is not quantised")


class TorchExporter(Exporter):
    """A format whose file torch loads as a module that takes its inputs by position."""

    @abstractmethod
    def module(self, path: Path) -> Callable[..., Any]:
        """The module in a file.

        Raises:
            ExportError: It is damaged, or no file of this format.
        """

    def load(self, path: Path, program: Program) -> Runner:
        """The module as a function of a batch."""
        import torch

        module = self.module(path)

        def run(batch: Batch) -> Tensor | tuple[Tensor, ...]:
            with torch.no_grad():
                return cast("Tensor | tuple[Tensor, ...]", module(*program.ordered(batch)))

        return run


def by_position(module: Callable[..., Any], inputs: dict[str, str], threads: int = 0) -> Run:
    """A torch module that takes its inputs by position, as a function from named arrays to its outputs; a part of ``standalone``."""
    import torch

    if threads:
        torch.set_num_threads(threads)

    def array(output: Any) -> Any:
        if not isinstance(output, torch.Tensor):
            raise TypeError(f"it returns a {type(output).__name__}, expected tensors")
        return (output.float() if output.dtype is torch.bfloat16 else output).numpy()

    def run(arrays: Arrays) -> Any:
        tensors = [torch.from_numpy(arrays[name]).to(getattr(torch, dtype)) for name, dtype in inputs.items()]
        with torch.no_grad():
            outputs = module(*tensors)
        if isinstance(outputs, dict):
            return {name: array(output) for name, output in outputs.items()}
        return [array(output) for output in outputs] if isinstance(outputs, (list, tuple)) else array(outputs)

    return run


def check_shapes(program: Program, returned: Any) -> None:
    """Holds what a file gives for the example to the model's shapes.

    Raises:
        ExportError: An output is of another shape, or not there.
    """
    found = outputs_by_name(program.outputs, returned)
    for name, expected in program.eager_outputs(program.example).items():
        if found[name].shape != expected.shape:
            what = "logits" if name == "logits" else f"output `{name}`"
            raise ExportError(f"{what} of shape {tuple(found[name].shape)} instead of {tuple(expected.shape)}")


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

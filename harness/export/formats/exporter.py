"""What every exporter does, and the table of them."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from harness.config import ExportConfig
from harness.errors import MissingPackageError, UserError
from harness.export.program import Program, Runner


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
    """What a file says of itself.

    Attributes:
        facts: JSON-ready facts, such as counts of operators.
        problems: What is wrong with it, a sentence each.
        training: Operators that only belong into training, such as a Dropout that is active, with the module where it is known.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    training: tuple[str, ...] = ()


class Exporter(ABC):
    """A format: how it is written and how it is run.

    Attributes:
        name: Name of the format in configs and tests.
        runs_as: The format whose runtime reads its files, where that is another one.
        filename: Name of its file.
        packages: Packages it needs, by import name.
        extra: The extra of this project that brings them.
        holds_code: Whether loading a file of the format can run code from it.
        weights_only: Whether a file holds weights without the computation.
        plans_memory: Whether memory is planned at export, so that a batch without a limit gets one.
        accepts_any_id: Whether its runtime looks up ids that no table holds without a word.
        is_quantised: Whether its files hold integers in place of weights, so that their logits are not the model's up to rounding.
        runs_natively: Whether its runtime is one that a wrong input may end together with the process.
    """

    name: ClassVar[str]
    runs_as: ClassVar[str] = ""
    filename: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    holds_code: ClassVar[bool] = False
    weights_only: ClassVar[bool] = False
    plans_memory: ClassVar[bool] = False
    accepts_any_id: ClassVar[bool] = False
    is_quantised: ClassVar[bool] = False
    runs_natively: ClassVar[bool] = False

    @classmethod
    def from_options(cls, options: ExportConfig) -> Exporter:
        """The exporter as a config wants it."""
        return cls()

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

    def risk(self, path: Path) -> str:
        """Why a file of unknown origin should not be loaded without consent; empty where nothing speaks against it."""
        return f"loading a {self.name} file can run code from it" if self.holds_code else ""

    def inspect(self, path: Path, program: Program) -> Inspection:
        """What can be read from a file without running it; by default its size alone."""
        return Inspection({"file_bytes": path.stat().st_size})

    def check_available(self) -> None:
        """Makes sure that the packages are there.

        Raises:
            MissingPackageError: One is not; the message names the extra.
        """
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if missing:
            brings = f"pip install 'pytest-modeltiers[{self.extra}]'" if self.extra else f"pip install {' '.join(missing)}"
            raise MissingPackageError(f"format {self.name!r} needs {', '.join(missing)}, not installed here: {brings}")

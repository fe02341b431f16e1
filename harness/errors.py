"""The mistakes a user can make, one class each.

Every message is a single line that says what is wrong, where, and what to do, so that the plugin and the command line can
print it as it stands. Each class also subclasses the builtin that a caller would try to catch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

from harness.wording import visible

_LONGEST_LINE = 1500


class UserError(Exception):
    """Something that only the user can correct; shown without a traceback.

    Attributes:
        code: What kind of mistake it is, in snake case; stays the same when the message is reworded.
    """

    code: ClassVar[str] = "wrong_input"

    def __str__(self) -> str:
        """The message, with control characters escaped and long lines shortened."""
        lines = visible(super().__str__(), lines=True).split("\n")
        return "\n".join(line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 1]}…" for line in lines)


class LeavesProcessError(RuntimeError):
    """The user's code would have ended the process that judges it."""


class MemoryFullError(BaseException):
    """The memory of the machine, or of a device, is full. It passes through every ``except Exception``: no model is to blame for it."""


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong in a config.

    Attributes:
        code: What kind of mistake it is, in snake case, such as ``unknown_key``; stays the same when the message is reworded.
        key: The path of the key, such as ``eval.path``; empty where the mistake is in none, or in several together.
        message: What is wrong and what to do, without the file.
        suggestion: The nearest valid name; empty where none is near.
        line: The line of the file, from 1; 0 where no place is known.
        column: The column, from 1.
    """

    code: str
    key: str
    message: str
    suggestion: str = ""
    line: int = 0
    column: int = 0

    def told(self, file: object) -> str:
        """``cfg.toml:4:1: unknown key ...``."""
        return f"{file}:{self.line}:{self.column}: {self.message}" if self.line else f"{file}: {self.message}"


class ConfigError(UserError, ValueError):
    """The config file is missing, unreadable, or says something impossible.

    Attributes:
        mistakes: What is wrong, where the config was read; empty for an error that was found later.
    """

    code = "config"

    def __init__(self, message: str, mistakes: Sequence[Mistake] = ()) -> None:
        super().__init__(message)
        self.mistakes = tuple(mistakes)

    @classmethod
    def of(cls, file: object, mistakes: Sequence[Mistake]) -> ConfigError:
        """The error of a file: one line a mistake."""
        return cls("\n".join(mistake.told(file) for mistake in mistakes), mistakes)


class ModelSourceError(UserError, ImportError):
    """The model's file or import path cannot be imported."""

    code = "model_source"


class FactoryError(UserError, TypeError):
    """The model factory is missing, raises, or returns something that is not an ``nn.Module``."""

    code = "factory"


class WeightsError(UserError, ValueError):
    """The weights file is missing, unsafe, or does not fit the model."""

    code = "weights"


class ForwardError(UserError, RuntimeError):
    """The model refused inputs that the task says it takes."""

    code = "forward"


class OutputError(UserError, ValueError):
    """The model's output holds no logits of the shape the task promises."""

    code = "output"


class MissingOutputError(OutputError):
    """A declared output is not in what forward returns."""


class ExampleError(UserError, ValueError):
    """An example of a model's inputs is missing, cannot be called with, or contradicts what the config declares."""

    code = "example"


class DataError(UserError, ValueError):
    """A data file is missing, unreadable, or does not fit the task."""

    code = "data"


class MissingPackageError(UserError, ImportError):
    """A package is not installed; the message names the extra that brings it."""

    code = "missing_package"


def optional_package(module: str, purpose: str, extra: str = "data") -> Any:
    """Imports a module of an optional package.

    Args:
        module: The module's full name.
        purpose: What needs it, to begin the message with.
        extra: The extra of this distribution that brings it.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = {"PIL": "pillow"}.get(module.partition(".")[0], module.partition(".")[0])
        raise MissingPackageError(
            f"{purpose} needs {package}, which is not installed: pip install 'pytest-modeltiers[{extra}]'"
        ) from error


class ProbeUnsupportedError(UserError, NotImplementedError):
    """A check cannot be applied to this kind of model, which is sound; the message is the reason of a skip."""

    code = "unsupported"


class TimeBudgetError(UserError, TimeoutError):
    """The model did not answer within the time budget."""

    code = "time_budget"


class IsolationError(UserError, RuntimeError):
    """The isolated process could not be started, died, or did not answer in time."""

    code = "isolation"


class TrainingError(UserError, RuntimeError):
    """The model cannot be trained as the config asks."""

    code = "training"


class DivergedError(TrainingError, ArithmeticError):
    """The loss or a gradient became NaN or infinite."""

    code = "diverged"


class CheckpointError(UserError, ValueError):
    """A checkpoint is missing, damaged, of another model, or cannot be written."""

    code = "checkpoint"


class ExperimentError(UserError, RuntimeError):
    """The experiment database cannot be opened, read or written, or was asked for something impossible."""

    code = "experiments"


class DatabaseAwayError(ExperimentError):
    """The experiment database cannot be reached or written just now; what was to be written may be written later."""


class UnknownRunError(ExperimentError, LookupError):
    """No run has that id or name."""

    code = "unknown_run"


class ComparisonError(UserError, ValueError):
    """Two sets of per-sample scores, or two reports, cannot be compared as was asked."""

    code = "comparison"


class ProfileError(UserError, ValueError):
    """A profile cannot be made, read or merged."""

    code = "profile"


class ProfileVersionError(ProfileError):
    """A profile was written by a newer version."""

    code = "newer_profile"


class ProfileMismatchError(ProfileError):
    """Two profiles, or a profile and data, were not made to be compared."""

    code = "profile_mismatch"


def nearest(name: object, valid: Iterable[str]) -> str:
    """The nearest valid name; empty when none is near."""
    return next(iter(difflib.get_close_matches(str(name), list(valid), n=1, cutoff=0.6)), "")


def did_you_mean(name: object, valid: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the nearest valid name, or an empty string when none is near."""
    near = nearest(name, valid)
    return f" Did you mean {near!r}?" if near else ""

"""Evidence: what was measured, the bound, and the verdict. Everything that judges a model returns it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from harness.compat import called_directly, refuses_gradients
from harness.errors import ProbeUnsupportedError, TimeBudgetError
from harness.excerpts import Excerpt, Fix
from harness.internal_errors import CODE, describe, is_internal, missing_operator, refuse_full_memory
from harness.wording import figure, with_unit

if TYPE_CHECKING:
    from typing_extensions import Unpack

WHOLE = "(model)"
"""The module that is blamed where the model's own forward is at fault."""


class Status(str, Enum):
    """A verdict."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "skipped"

    @property
    def severity(self) -> int:
        """Larger is worse."""
        return ("skipped", "ok", "warn", "fail").index(self.value)


class Blame(str):
    """The path of a module to blame, with the line of the user's code that is at fault.

    Attributes:
        place: File and line, ``model.py:14``; empty where they are not known.
        note: What is odd about that line, in words that end the message; empty where nothing is.
    """

    place: str
    note: str

    def __new__(cls, module: str, place: str = "", note: str = "") -> Blame:
        """The path, with the place beside it."""
        blame = super().__new__(cls, module)
        blame.place, blame.note = place, note
        return blame


Measured: TypeAlias = "tuple[float | None, float | None, str]"
"""What was measured, what it was held to, and the unit of both; ``(3, 0, "layers")`` where none are allowed."""


class Facts(TypedDict, total=False):
    """What evidence says beside its verdict and what was measured; see ``Evidence``."""

    counterexample: str
    module: str
    place: str
    investigate: Callable[[], str] | None
    cause: str
    details: dict[str, Any]
    compared: str
    code: str
    excerpt: Excerpt | None


@dataclass(frozen=True)
class Evidence:
    """What one check of one property found.

    Attributes:
        name: Name of the property in the catalogue.
        status: The verdict.
        message: One sentence in the user's terms; of a failure, what is wrong with the model.
        measured: The quantity the verdict rests on; ``None`` where the verdict is not numeric.
        bound: What ``measured`` was held to.
        unit: Unit of both.
        counterexample: The inputs that show it, such as ``batch=2, seq=6, position=3``.
        module: Path of the module or parameter to blame, ``(model)`` for the model's own forward; empty where none stands out.
        place: File and line of the user's code to look at, ``model.py:14``, relative to the current folder; empty where it is not known.
        excerpt: The lines around it; ``None`` where they are not known.
        fix: A change of the code with which the property was seen to hold; ``None`` where none was found.
        cause: What usually causes it.
        details: Further facts, JSON-ready.
        compared: How ``measured`` and ``bound`` are shown, where the usual words do not fit.
        code: What kind of finding it is, in snake case, such as ``reads_later_positions``: stays the same when the message is reworded. Empty
            where a property has one kind only.
        investigate: Finds ``module``, and ``place`` where it returns a ``Blame``; slow, so it is left until the finding is reported.
    """

    name: str
    status: Status
    message: str
    measured: float | None = None
    bound: float | None = None
    unit: str = ""
    counterexample: str = ""
    module: str = ""
    cause: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    investigate: Callable[[], str] | None = field(default=None, compare=False, repr=False)
    place: str = ""
    compared: str = ""
    code: str = ""
    excerpt: Excerpt | None = None
    fix: Fix | None = None

    @classmethod
    def ok(cls, name: str, message: str, measured: Measured | None = None, **facts: Unpack[Facts]) -> Evidence:
        """The property holds: what was seen, and how far it is from its bound."""
        return cls.judged(name, Status.OK, message, measured, **facts)

    @classmethod
    def warned(cls, name: str, message: str, measured: Measured | None = None, **facts: Unpack[Facts]) -> Evidence:
        """Something to look at, which may be meant."""
        return cls.judged(name, Status.WARN, message, measured, **facts)

    @classmethod
    def failed(cls, name: str, message: str, measured: Measured | None = None, **facts: Unpack[Facts]) -> Evidence:
        """The property does not hold: what is wrong with the model, and what shows it."""
        return cls.judged(name, Status.FAIL, message, measured, **facts)

    @classmethod
    def judged(
        cls, name: str, status: Status, message: str, measured: Measured | None = None, **facts: Unpack[Facts]
    ) -> Evidence:
        """The property holds or not, by a status that was worked out."""
        value, bound, unit = measured or (None, None, "")
        value, bound = (None if each is None else float(each) for each in (value, bound))
        return cls(name, status, message, value, bound, unit, **facts)

    @classmethod
    def skipped(cls, name: str, why: str, counterexample: str = "", details: dict[str, Any] | None = None) -> Evidence:
        """The property was not judged, and why."""
        return cls(name, Status.SKIPPED, why, counterexample=counterexample, details=details or {})

    def investigated(self) -> Evidence:
        """The evidence with the module to blame.

        The finding stands, whether or not a broken model can be looked into. An error of this project's own code is added to it.
        """
        if self.investigate is None:
            return self
        try:
            module = self.module or self.investigate()
        except Exception as error:
            if is_internal(error):
                message, details = describe(self.name, error)
                told = f"{self.message}; where it comes from could not be found: {message}"
                return replace(
                    self, status=Status.FAIL, message=told, details=self.details | details, code=CODE, investigate=None
                )
            module = ""
        place, note = self.place or getattr(module, "place", ""), getattr(module, "note", "")
        message = f"{self.message}: {note}" if note else self.message
        return replace(self, message=message, module=str(module), place=place, investigate=None)

    def at(self, place: str) -> Evidence:
        """The evidence with a line to look at."""
        return replace(self, place=place)

    @property
    def headline(self) -> str:
        """The message, and where it was first seen."""
        lead = "first seen in " if self._shown_module else "look at " if ", line " in self.message else ""
        return f"{self.message} ({lead}{self.where})" if self.where else self.message

    @property
    def where(self) -> str:
        """The module and the line to look at, as far as they are known and the message does not say them."""
        place = "" if self._says_line else self.place
        return ", ".join(part for part in (self._shown_module, place) if part)

    @property
    def _shown_module(self) -> str:
        # That something is wrong in the model itself says nothing: only a line of it does.
        return f"`{self.module}`" if self.module not in ("", WHOLE) else ""

    @property
    def _says_line(self) -> bool:
        name, _, line = self.place.rpartition(":")
        file = Path(name).name
        said = (f"({file}{between}{line}{after}" for between in (", line ", ":") for after in "),")
        return any(each in self.message for each in (*said, f" {file}:{line}: "))

    @property
    def excess(self) -> float:
        """How far the measurement is beyond its bound, as a ratio; 0 where nothing was measured."""
        if self.measured is None or self.bound is None:
            return 0.0
        if self.bound == 0:
            return float("inf") if self.measured else 0.0
        return self.measured / self.bound

    def explain(self) -> str:
        """The whole finding as a short paragraph: the message first, then a line for each fact that is known."""
        facts = {
            "counterexample": self.counterexample,
            "measured": self.comparison,
            "usual cause": self.cause,
            f"with this change of {self.fix.place} the property holds" if self.fix else "": _indented(self.fix),
        }
        lines = [f"    {line}" for line in self.excerpt.text.splitlines()] if self.excerpt is not None else []
        newline = "\n"
        told = (f"  {name}:{text if text[0] == newline else f' {text}'}" for name, text in facts.items() if text)
        return "\n".join([self.headline, *lines, *told])

    @property
    def comparison(self) -> str:
        """``3.1e-02, allowed 4.0e-07``; empty where nothing was measured, or nothing found that must not be there."""
        if self.compared:
            return self.compared
        if self.measured is None or (self.measured == 0 and self.bound == 0):
            return ""
        if self.bound is None:
            return with_unit(self.measured, self.unit)
        if self.bound == 0 and self.unit:
            return f"{with_unit(self.measured, self.unit)}, allowed none"
        return f"{figure(self.measured)}, allowed {with_unit(self.bound, self.unit)}"

    def to_json(self) -> dict[str, Any]:
        """The evidence as JSON-ready values."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("investigate", "excerpt", "fix")}
        code = {"excerpt": self.excerpt, "fix": self.fix}
        return {**plain, "status": self.status.value, **{name: each.to_json() for name, each in code.items() if each is not None}}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Evidence:
        """The inverse of ``to_json``."""
        code = {"excerpt": Excerpt.from_json(data.get("excerpt")), "fix": Fix.from_json(data.get("fix"))}
        return cls(**{**data, "status": Status(data["status"]), **code})


def _indented(fix: Fix | None) -> str:
    return "".join(f"\n    {line}" for line in fix.text.splitlines()) if fix else ""


def internal_error(check: str, error: BaseException) -> Evidence:
    """The failure that an error of this project is reported as; its traceback is in a file.

    Args:
        check: The check that raised.
        error: What it raised.
    """
    message, details = describe(check, error)
    return Evidence(check, Status.FAIL, message, details=details, code=CODE)


def guarded(
    check: str, measure: Callable[[], Evidence], otherwise: Callable[[Exception], Evidence], libraries: bool = True
) -> Evidence:
    """The evidence of a check; if it raises, a failure of this project, or what an error of the model means.

    Args:
        check: The check.
        measure: The check itself.
        otherwise: What an error of the model, of a library it calls, or of the user means.
        libraries: See ``is_internal``.

    Raises:
        TimeBudgetError: The time is up, whatever was being done.
        MemoryFullError: Memory is full, whatever was being done.
    """
    try:
        return _measured(measure)
    except TimeBudgetError:
        raise
    except ProbeUnsupportedError as error:
        return Evidence.skipped(check, str(error))
    except Exception as error:
        refuse_full_memory(error)
        if operator := missing_operator(error):
            return Evidence.skipped(check, f"weights of the model are of a kind without `{operator}`, which this check needs")
        return internal_error(check, error) if is_internal(error, libraries) else otherwise(error)


def _measured(measure: Callable[[], Evidence]) -> Evidence:
    try:
        return measure()
    except RuntimeError as error:
        if not refuses_gradients(error):
            raise
    with called_directly():
        return measure()

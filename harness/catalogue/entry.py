"""What a property is, as data: a statement about sound models, and everything that follows from it.

An entry names its function by a dotted path, so that a config can be checked, and tests be collected, without an import of torch.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.formats import Format, formats
from harness.tasks import TaskSpec

if TYPE_CHECKING:
    from harness.evidence import Evidence

Needs = Callable[[TaskSpec], "bool | str"]
"""Whether a property applies to a task: ``True``, or the reason as text, such as ``axis `time` is causal``; empty where it does not."""


DIFFERENCE = "largest absolute difference of the logits that still counts as equal"
"""The meaning of a tolerance for properties that compare logits."""


def any_task(_task: TaskSpec) -> str:
    """The ``needs`` of a property that applies to every task."""
    return "it holds of every model"


GRADIENTS, SECOND, FLOAT64 = "gradients", "second models", "float64"
"""What a test may hold in memory besides the model and its calls, see ``harness.properties.plan``.

The peaks of a GPT-2 with 35 million parameters, in times of its weights and beyond the model and Python: gradients 2 to 3, second models 4
to 6 (``compiled`` 12, more than is planned), with float64 7 to 9. All others hold copies that share its weights, and float64 only where it fits.
"""


@dataclass(frozen=True)
class FurtherOutputs:
    """Which outputs besides the logits a property of tier 1 also judges.

    Attributes:
        shape: What they must be: ``by_row``, ``by_position``, ``by_padding``, ``is_score``, or empty for any.
        function: The function that judges them; empty for the property's own.
        declared: Whether only those are judged that a signature declares.
        at: What they are judged on, by its name in ``pytest_modeltiers.strategies``; empty for typical sizes, or what is given.
    """

    shape: str = ""
    function: str = ""
    declared: bool = False
    at: str = ""


@dataclass(frozen=True)
class Search:
    """How inputs on which a property of tier 1 may fail are searched.

    Attributes:
        draws: The strategy that draws inputs, by its name in ``pytest_modeltiers.strategies``; empty where nothing is drawn.
        examples: How many inputs are drawn, as far as the time budget allows.
        given: Arguments of the function where nothing is drawn, one call each.
        first: Functions that are judged once beforehand, without arguments.
        anchors_first: Whether the fixed sizes and seeds of every subject are judged before any are drawn.
        corner: Inputs that are always judged, even if there is no time to draw any, by their name in ``pytest_modeltiers.strategies``.
        outputs: Which further outputs are judged at typical sizes.
    """

    draws: str = ""
    examples: int = 8
    given: tuple[Mapping[str, Any], ...] = ({},)
    first: tuple[str, ...] = ()
    anchors_first: bool = False
    corner: str = ""
    outputs: FurtherOutputs | None = None


ONCE = Search()
"""A single call; the function makes its own inputs."""


@dataclass(frozen=True)
class Sign:
    """A name that the code of a model must contain for a property to apply, as ``merge`` for adapters that can be merged.

    Attributes:
        pattern: A regular expression for one of the names that ``harness.model_file.names_of_model`` finds, in any case of letters.
        absent: The message for a model whose code has no such name.
    """

    pattern: str
    absent: str

    def is_in(self, names: Collection[str]) -> bool:
        """Whether one of the names matches."""
        return any(re.search(self.pattern, name, re.IGNORECASE) for name in names)


@dataclass(frozen=True)
class Case:
    """A part of a property that is judged by itself.

    Attributes:
        statement: What must hold.
        function: Dotted path of the function, ``module:name``; empty for the property's own.
        needs: Whether the case applies to a task.
        owned_by: What explains a violation of this case, besides the property's own owners.
        search: How inputs are searched.
        sign: What the model's code must name for the case to apply.
        memory: What it holds besides the model and its calls; empty for the property's own.
    """

    statement: str
    function: str = ""
    needs: Needs = any_task
    owned_by: tuple[str, ...] = ()
    search: Search = ONCE
    sign: Sign | None = None
    memory: str = ""


@dataclass(frozen=True)
class Property:
    """One thing that must hold of a model.

    Attributes:
        name: Key in the config's ``properties`` and ``tolerances``; the test is ``test_<name>``.
        tier: 1 to 5.
        statement: What must hold, as a sentence about a sound model.
        function: Dotted path of the function that judges it, ``module:name``. It takes what the tests of its tier are given, such as a
            ``Subject``, and returns ``Evidence``. Empty where each case has its own.
        tolerance: What a number under this name in ``tolerances`` means, with its unit; ``None`` where the property is exact.
        needs: Whether the property applies to a task.
        cases: Parts that are separate tests; empty for a property with a single test.
        formats: Whether it applies to an export format, each of which is a case; ``None`` for a property that has nothing to do with formats.
        owned_by: Properties, or cases ``name[case]``, whose failure explains a failure of this one: one bug, one card in the report.
        search: How inputs are searched, in tier 1.
        marks: Marks of its test, such as ``slow``.
        sign: What the model's code must name for the property to apply; a case may have its own.
        memory: What it holds besides the model and its calls, such as ``GRADIENTS``; a case may have its own.
    """

    name: str
    tier: int
    statement: str
    function: str = ""
    tolerance: str | None = None
    needs: Needs = any_task
    cases: Mapping[str, Case] = field(default_factory=dict)
    formats: Callable[[type[Format]], bool] | None = None
    owned_by: tuple[str, ...] = ()
    search: Search = ONCE
    marks: tuple[str, ...] = ()
    sign: Sign | None = None
    memory: str = ""

    def owners(self, case: str = "") -> tuple[str, ...]:
        """The properties, or cases ``name[case]``, whose failure explains one of this property, or of one case of it."""
        return self.owned_by + (self.cases[case].owned_by if case in self.cases else ())

    def applies_to(self, task: TaskSpec) -> bool:
        """Whether the property is tested for a task: it applies, in some case if it has cases, and the user has not switched it off."""
        has_any = not self.cases or any(bool(case.needs(task)) for case in self.cases.values())
        return bool(self.needs(task)) and has_any and task.properties.get(self.name, True)

    def absent(self, names: Collection[str] | None, case: str = "") -> str:
        """Why the property, or a case of it, cannot apply to a model, by its code; empty where it may.

        Args:
            names: What its code names; ``None`` where not all of it could be read.
            case: The case.
        """
        sign = (self.cases[case].sign if case in self.cases else None) or self.sign
        return sign.absent if names is not None and sign is not None and not sign.is_in(names) else ""

    def why(self, task: TaskSpec, case: str = "") -> str:
        """Why the property, or a case of it, applies to a task; empty where its entry does not say."""
        needs = [self.needs, *([self.cases[case].needs] if case in self.cases else [])]
        told = [reason for each in needs if each is not any_task and isinstance(reason := each(task), str) and reason]
        if not told:
            return any_task(task) if all(each is any_task for each in needs) else ""
        return " and ".join(dict.fromkeys(told))

    @property
    def has_cases(self) -> bool:
        """Whether it has a test for each case."""
        return bool(self.cases or self.formats)

    def is_judged_for(self, format: str) -> bool:
        """Whether it is judged for an export format."""
        return self.formats is not None and self.formats(formats()[format])

    def cases_for(self, task: TaskSpec, exported: Collection[str] = ()) -> tuple[str, ...]:
        """The cases that apply to a task and the formats of its export, in a fixed order."""
        if self.formats:
            return tuple(name for name in exported if self.is_judged_for(name))
        return tuple(name for name, case in self.cases.items() if case.needs(task))

    def statement_of(self, case: str = "") -> str:
        """What must hold in one case; the property's own statement where the case has none."""
        return self.cases[case].statement if case in self.cases else self.statement

    def search_of(self, case: str = "") -> Search:
        """How inputs are searched for one case."""
        return self.cases[case].search if case in self.cases else self.search

    def memory_of(self, case: str = "") -> str:
        """What one case holds in memory besides the model and its calls; empty for nothing."""
        return (self.cases[case].memory if case in self.cases else "") or self.memory

    def path_of(self, case: str = "") -> str:
        """Dotted path of the function that judges a case."""
        return (self.cases[case].function if case in self.cases else "") or self.function

    @property
    def functions(self) -> tuple[str, ...]:
        """Dotted paths of all its functions, one for each case."""
        return tuple(map(self.path_of, self.cases or ("",)))

    def load(self, case: str = "") -> Callable[..., Evidence]:
        """The function that judges a case; its module is imported now."""
        return load(self.path_of(case))


def load(path: str) -> Callable[..., Evidence]:
    """The function at a dotted path.

    Args:
        path: ``module:name``.
    """
    module, _, name = path.partition(":")
    function: Callable[..., Evidence] = getattr(importlib.import_module(module), name)
    return function

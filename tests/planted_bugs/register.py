"""What an entry says of a planted bug, and the register of all of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from harness.catalogue import CATALOGUE
from harness.evidence import Status
from harness.tasks import TaskSpec

from .setups import Factory, Model, Setup

FAMILIES: dict[int, tuple[str, ...]] = {
    1: (
        "decoders",
        "decoder_life",
        "decoder_copies",
        "loaded",
        "adapted",
        "encoders",
        "vision",
        "mixers",
        "recurrent",
        "seq2seq",
        "tabular",
        "declared",
        "declared_policies",
        "declared_texts",
        "declared_shapes",
        "images",
        "series",
        "states",
        "graphs",
        "heads",
        "scenes",
        "sequences",
        "elements",
        "lightning_bugs",
        "decoding",
        "modes",
        "reshapes",
        "starts",
        "answers",
    ),
    2: (
        "attention",
        "attribution",
        "robustness",
        "units",
        "rank",
        "precision",
        "kernels",
        "compiled",
        "declared",
        "gradients",
        "calibration",
    ),
    3: (
        "losses",
        "learning",
        "optimizers",
        "groups",
        "schedules",
        "clipping",
        "validation",
        "memory",
        "divisors",
        "averages",
        "experts",
        "activations",
        "accumulation",
        "runs",
        "declared_tasks",
    ),
    4: ("bugs", "declared"),
}
"""Modules that register bugs, by tier: ``tier<number>.<family>`` of this package."""

FORUM = "PyTorch forums"
HUGGING_FACE = "Hugging Face forum, labels are shifted inside the model"
HUMBATOVA = "Humbatova et al. 2020, Taxonomy of Real Faults in Deep Learning Systems"
ISLAM = "Islam et al. 2019, A Comprehensive Study on Deep Learning Bug Characteristics"
LIGHTNING = "Lightning documentation"
PYTORCH = "PyTorch documentation"
RECIPE = "Karpathy 2019, A Recipe for Training Neural Networks"
ZHANG = "Zhang et al. 2018, An Empirical Study on TensorFlow Program Bugs"


@dataclass(frozen=True)
class PlantedBug:
    """A planted bug, its sound twin, and what must be found.

    Attributes:
        name: Unique name within its tier.
        test: The test that must catch it, such as ``finite_output[extremes]``.
        buggy: The model with the bug.
        sound: The same without it; several bugs may share it.
        module: What must be blamed, or a prefix of its path; empty where no module can be named.
        code: What kind of finding it is, where the property has several kinds.
        says: Part of the message, for one bug of each kind whose message names an input, a number or a suggestion.
        source: Where this kind of bug is described.
        status: What the finding must be; a warning where the property warns by design.
        also: Other tests that the bug may make red too.
        line: Part of the line of code that must be named, where one can be.
        missed: Why the test passes all the same, of a bug that nothing can find yet without an alarm on sound models.
    """

    name: str
    test: str
    buggy: Setup
    sound: Setup
    module: str = ""
    code: str = ""
    says: str = ""
    source: str = ""
    status: Status = Status.FAIL
    also: tuple[str, ...] = ()
    line: str = ""
    missed: str = ""

    def __str__(self) -> str:
        return f"tier{self.tier}-{self.test}-{self.name}"

    @property
    def tier(self) -> int:
        """The tier of the property."""
        return CATALOGUE[self.property].tier

    @property
    def property(self) -> str:
        """The property of the expected finding."""
        return self.test.partition("[")[0]

    def blames(self, module: str) -> bool:
        """Whether a finding that blames a module blames the right one: in tiers 2 and 3 that very one, elsewhere a part of it too."""
        if self.tier in (2, 3):
            return module == self.module
        return not self.module or module == self.module or module.startswith((f"{self.module}.", f"{self.module}["))


_REGISTER: dict[tuple[int, str], PlantedBug] = {}


def register(*bugs: PlantedBug) -> None:
    """Adds bugs.

    Raises:
        ValueError: A tier has a bug of that name already.
    """
    for bug in bugs:
        if (bug.tier, bug.name) in _REGISTER:
            raise ValueError(f"two bugs of tier {bug.tier} are named {bug.name!r}")
        _REGISTER[bug.tier, bug.name] = bug


def planted(
    test: str,
    *,
    task: TaskSpec,
    sound: Factory,
    source: str,
    module: str = "",
    code: str = "",
    status: Status = Status.FAIL,
    also: tuple[str, ...] = (),
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Registers a class as a model with a bug of tier 1, named after the class; see ``PlantedBug`` for the arguments."""

    def decorate(buggy: type[nn.Module]) -> type[nn.Module]:
        expected: dict[str, Any] = {"module": module, "code": code, "source": source, "status": status, "also": also}
        register(PlantedBug(buggy.__name__, test, Model(task, buggy), Model(task, sound), **expected))
        return buggy

    return decorate


def all_bugs(*tiers: int) -> list[PlantedBug]:
    """Every bug of some tiers, or of all."""
    for tier, families in FAMILIES.items():
        for family in families if not tiers or tier in tiers else ():
            importlib.import_module(f".tier{tier}.{family}", __package__)
    return [bug for bug in _REGISTER.values() if not tiers or bug.tier in tiers]

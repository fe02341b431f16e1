"""The register of wild bugs: what was reported, where, and which test must find it.

A module of this package adds its pairs with ``wild``. All code is written for this project from the words of a report; the report says what was
wrong, and ``wrong`` shows in plain PyTorch that the model has it and its twin has not, so that no pair rests on what our own checks find.
"""

from __future__ import annotations

import importlib
import linecache
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.catalogue import CATALOGUE
from harness.config import SuiteConfig
from harness.evidence import Evidence, Status
from harness.tasks import TaskSpec
from tests.planted_bugs.setups import Factory, Setup

AREAS = {
    "decoding": "caches, left padding, prompts in batches",
    "loading": "built on meta, saved and loaded, tied weights, buffers that no file holds",
    "train_mode": "what training computes that evaluation does not, checkpointing, padding in training",
    "contents": "rare values: padding ids that are real tokens, constant rows, one class, zeros",
    "optimisation": "parameter groups, schedules, accumulation, clipping, averaged weights",
    "state": "what is frozen, what a call or a hook leaves behind",
    "losses": "auxiliary losses, activations before a loss, masks and weights of a mean",
    "axes": "odd heights and widths, sizes below a patch or a window",
    "start": "signals and gradients over depth and time before any training",
    "adapters": "LoRA and the like: merged, disabled, saved",
    "exports": "files that answer another size, dtype or input than the model",
}
FIELDS = ("text", "speech", "vision", "recommenders", "forecasting", "graphs", "diffusion", "tables", "policies")

NOISE = 1e-4
"""What rounding may do to a model without the bug; all bugs are at least ten times as large."""


@dataclass(frozen=True)
class FirstRun:
    """What the suite said of a pair when it met it for the first time: history, which no later change of the checks may touch.

    Attributes:
        commit: The commit whose checks judged the pair.
        found: Whether a right test was red.
        named: Whether the right module, or the line of the bug, was named; without meaning where nothing was found.
        said: What was red, with the place that was named, or why nothing was.
        alarms: Tests that failed on the twin.
    """

    commit: str
    found: bool
    named: bool
    said: str
    alarms: tuple[str, ...] = ()


@dataclass(frozen=True)
class WildBug:
    """A reported bug, its correction, and what must be found.

    Attributes:
        name: Unique; also the name of the test.
        title: What was wrong, in one line.
        report: Where it was reported or mended: ``owner/repository#number`` or ``owner/repository@commit``.
        area: One of ``AREAS``.
        field: One of ``FIELDS``.
        test: The test that must find it, such as ``serialisation[tied_weights]``.
        or_tests: Other tests of its tier that are about the bug as well; any of them finds it.
        setup: What judges a model.
        buggy: Makes the model with the bug.
        sound: Makes the same without it.
        wrong: How wrong a model is, in plain PyTorch: 0 or rounding noise without the bug.
        module: What must be blamed, or the start of its path; empty where no module can be named.
        line: A part of the line of the pair's file that must be named; empty where no line is asked for.
        status: What the finding must be; a warning where the property warns by design.
        draw: In which draw of reports it was written, once the checks were finished; 0 where it was written before or while its check was.
        missed: Why nothing finds it, where nothing does; its test then demands that this is still so.
        unnamed: Why another module or none is blamed, where that is so; its test then demands that this is still so.
        first_run: What the suite said of it at first, of pairs that were drawn after the checks; ``None`` where that was not kept.
        long: Whether its tests run with ``--long`` only.
    """

    name: str
    title: str
    report: str
    area: str
    field: str
    test: str
    setup: Callable[[Factory], Setup]
    buggy: Factory
    sound: Factory
    wrong: Callable[[nn.Module], float]
    module: str = ""
    line: str = ""
    status: Status = Status.FAIL
    draw: int = 0
    missed: str = ""
    or_tests: tuple[str, ...] = ()
    unnamed: str = ""
    first_run: FirstRun | None = None
    long: bool = False

    def __str__(self) -> str:
        return f"{self.area}-{self.name}"

    @property
    def drawn_after(self) -> bool:
        """Whether it was written when its check was finished already."""
        return self.draw > 0

    @property
    def tier(self) -> int:
        """The tier of that property."""
        return CATALOGUE[self.property].tier

    @property
    def tests(self) -> tuple[str, ...]:
        """All tests that are about the bug."""
        return (self.test, *self.or_tests)

    @property
    def judged(self) -> tuple[str, ...]:
        """The properties of those tests."""
        return tuple(dict.fromkeys(test.partition("[")[0] for test in self.tests))

    def finding(self, found: dict[str, Evidence]) -> Evidence | None:
        """The finding that is about the bug, if there is one."""
        return next((found[test] for test in self.tests if test in found and found[test].status is self.status), None)

    def blames(self, found: Evidence) -> bool:
        """Whether a finding names the right module, or a part of it, and the right line, as far as these are asked for."""
        module, (file, _, number) = found.module, Path(found.place).name.rpartition(":")
        is_there = not self.module or module == self.module or module.startswith((f"{self.module}.", f"{self.module}["))
        line = linecache.getline(str(Path(__file__).parent / file), int(number)) if file else ""
        return is_there and self.line in line

    @property
    def property(self) -> str:  # last, as it hides the decorator
        """The property that must find it."""
        return self.test.partition("[")[0]


_REGISTER: dict[str, WildBug] = {}


def wild(name: str, **facts: Any) -> None:
    """Adds a pair; see ``WildBug`` for the facts.

    Raises:
        ValueError: Another pair has the name.
    """
    if name in _REGISTER:
        raise ValueError(f"two wild bugs are named {name!r}")
    _REGISTER[name] = WildBug(name, **facts)


def pair_of_one_class(
    name: str,
    title: str,
    report: str,
    field: str,
    test: str,
    model: Callable[..., nn.Module],
    wrong: Callable[[Any], float],
    task: TaskSpec,
    *,
    judge: Callable[[TaskSpec, Factory], Setup],
    **facts: Any,
) -> None:
    """Adds a pair that is one class, whose first argument says whether it has the bug.

    Args:
        name: The pair.
        title: As of ``WildBug``, like the facts that follow.
        report: Where it was reported.
        field: Its field.
        test: The test that must find it.
        model: The class.
        wrong: How wrong a model is.
        task: What the model is for.
        judge: Makes what judges it, from the task and one of the two models.
        **facts: Other facts of ``WildBug``.
    """
    made: dict[str, Any] = {"setup": partial(judge, task), "buggy": partial(model, True), "sound": model, "wrong": wrong}
    wild(name, title=title, report=report, field=field, test=test, **{**made, **facts})


def wild_bugs() -> list[WildBug]:
    """Every pair of this package."""
    for module in pkgutil.iter_modules(importlib.import_module(__package__).__path__):
        if module.name != "register" and not module.name.startswith("test_"):
            importlib.import_module(f".{module.name}", __package__)
    return list(_REGISTER.values())


def task_of(**keys: Any) -> TaskSpec:
    """The task of a config's keys: a task type with its sizes, or a declared signature."""
    return SuiteConfig.model_validate({"model_file": "model.py", **keys}).task_spec()


def wrongness(bug: WildBug, build: Factory) -> float:
    """How wrong one of the two models of a pair is, built with the weights of seed 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return float(bug.wrong(build()))

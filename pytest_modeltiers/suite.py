"""A config file as a suite: its model, and the module of tests that pytest collects."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

import harness
from harness.catalogue import Property, of_tier
from harness.config import SuiteConfig, TrainingConfig, load_config
from harness.errors import ConfigError, UserError
from harness.model_file import names_of_model
from harness.tasks import TaskSpec
from pytest_modeltiers.checks import REGISTERED, ModelCheck, as_test
from pytest_modeltiers.property_tests import TIERS, make_test
from pytest_modeltiers.time_budget import Budget, CutShortError, time_limit

if TYPE_CHECKING:
    from torch import nn

    from harness.adapters import Adapter
    from harness.analysis import Study
    from harness.export.exports import Exports
    from harness.models.copies import Copies
    from harness.models.loading import ModelSource
    from harness.monitoring.monitor import Monitor
    from harness.process_state import Change
    from harness.properties.plan import Plan
    from harness.properties.subject import Shared, Subject
    from harness.training.trial import Trial
    from pytest_modeltiers.property_tests import Answers

_MONITORING = 5
"""The tier that holds data against what is remembered."""


@dataclass
class Suite:
    """The tests of one config file, and the model they share.

    Attributes:
        config: The config.
        selected: How many of its tests this process was asked to run; ``None`` before they are known.
        finished: How many of them have ended.
    """

    config: SuiteConfig
    selected: int | None = None
    finished: int = 0

    @staticmethod
    def of(path: Path) -> Suite:
        """The suite of a config file; the same object for the same file.

        Raises:
            ConfigError: The file is refused.
        """
        return _suite(Path(os.path.abspath(path)))

    @cached_property
    def budget(self) -> Budget:
        """The processor time that this process may use: for a large model more, where none is named and nobody ends the process on time."""
        is_fixed = "time_budget" in self.config.model_fields_set or self.config.isolation is not None
        return Budget(self.config.time_budget, is_fixed=is_fixed)

    @cached_property
    def task(self) -> TaskSpec:
        """The task of the config."""
        return self.config.task_spec()

    @cached_property
    def source(self) -> ModelSource:
        """Where the model comes from."""
        from harness.models.loading import model_source

        return model_source(self.config, takes_compiled=self.config.tiers == (1,))

    @cached_property
    def adapter(self) -> Adapter:
        """How the model is called."""
        from harness.adapters import make_adapter

        return make_adapter(self.task, self.config.adapter, self.config.path.parent)

    @cached_property
    def pristine(self) -> nn.Module:
        """The model, built once and never called."""
        from harness.models.structure import build_if_it_fits

        with self.budget.building():
            return build_if_it_fits(self.source, self.config.seed)

    @cached_property
    def plan(self) -> Plan:
        """What the tests take, and which of them this machine's memory does not hold."""
        from harness.properties.plan import plan_of_built

        tests, without_data = {tier: self.tests_of(tier) for tier in self.config.tiers}, self.model().to("meta").eval()
        return plan_of_built(self.pristine, without_data, self.adapter, self.task, self.config.device, tests)

    @cached_property
    def is_large(self) -> bool:
        """Whether the model is so large that memory is looked after."""
        from harness.runtime import is_large

        return is_large(self.pristine)

    @cached_property
    def home(self) -> tuple[Change, ...]:
        """What importing and building the model changed of the process: it holds while the suite's tests run, and not elsewhere."""
        from harness.process_state import in_words, left_by

        changes = left_by(lambda: (self.adapter, self.pristine))
        self.shared.left_by_build = in_words([change for change in changes if change.setting.grave])
        return changes

    def no_memory_for(self, test: str) -> str:
        """Why there is not enough memory for a test, such as ``gradient_flow[finite]``; empty where there is."""
        return self.plan.left_out(test) if self.is_large else ""

    @cached_property
    def shared(self) -> Shared:
        """What is found out once about the model."""
        from harness.properties.subject import Shared

        return Shared()

    @cached_property
    def copies(self) -> Copies:
        """How the model is copied; the serialisation property says where deep copies are none."""
        from harness.models.copies import Copies

        return Copies(self.pristine, lambda: self.source.build(self.config.seed))

    @cached_property
    def answers(self) -> Answers:
        """Verdicts of owners that are not part of the run."""
        from pytest_modeltiers.property_tests import Answers

        return Answers(self.task, TIERS)

    def model(self) -> nn.Module:
        """A copy of the model with no past."""
        from harness.process_state import kept_process

        with kept_process(self.home):
            return self.copies.fresh()

    def subject(self, model: nn.Module) -> Subject:
        """A copy of the suite's own model as the properties take it."""
        from harness.data.examples import example_maker
        from harness.properties.subject import Subject

        return Subject(
            model,
            self.adapter,
            self.task,
            pristine=self.pristine,
            rebuild=self.source.build,
            seed=self.config.seed,
            fresh_weights=self.source.has_fresh_weights,
            make=example_maker(self.config),
            shared=self.shared,
            given_copies=self.copies,
        )

    @cached_property
    def exports(self) -> Exports:
        """The exports of the suite's own model."""
        return self.exports_of(self.subject(self.model()), self.config.path)

    def exports_of(self, subject: Subject, config: Path | None = None) -> Exports:
        """The exports of a subject."""
        from harness.export.exports import Exports

        options = self.config.export_options
        folder = self.config.resolve(options.export_dir) if options.export_dir else None
        # The workers of pytest-xdist share what is exported, also where the model's identity cannot be told.
        return Exports(subject, options, folder, config=config, run=os.environ.get("PYTEST_XDIST_TESTRUNUID", ""))

    @cached_property
    def study(self) -> Study:
        """The suite's own model as the checks of tier 2 take it."""
        return self.study_of(self.subject(self.model()), self.config)

    @staticmethod
    def study_of(subject: Subject, source: SuiteConfig | None = None) -> Study:
        """A subject as the checks of tier 2 take it."""
        from harness.analysis import Study

        return Study(subject, source)

    @cached_property
    def trial(self) -> Trial:
        """Short trainings of the suite's own model."""
        return self.trial_of(self.subject(self.model()), self.config.training_config(), self.config)

    @staticmethod
    def trial_of(subject: Subject, training_config: TrainingConfig, source: SuiteConfig | None = None) -> Trial:
        """Short trainings of a subject."""
        from harness.training.trial import Trial

        return Trial.of(subject, training_config, source)

    @cached_property
    def monitor(self) -> Monitor:
        """The suite's own model and what it is compared with."""
        return self.monitor_of(self.subject(self.model()))

    def monitor_of(self, subject: Subject) -> Monitor:
        """A subject and what it is compared with."""
        from harness.monitoring.run import monitor_of

        return monitor_of(self.config, subject.model, subject.adapter)

    def foreign_subject(self, model: nn.Module, adapter: Adapter, task: TaskSpec) -> Subject:
        """A subject in which a user's fixture took the place of the suite's model, adapter or task; nothing of the suite's is shared."""
        from harness.data.examples import example_maker
        from harness.models.copies import Copies
        from harness.properties.subject import Subject

        return Subject(model, adapter, task, pristine=Copies(model).fresh(), make=example_maker(self.config))

    def check_model(self) -> None:
        """Builds the model and makes inputs for it, so that what keeps every test from running is said once.

        A model that raises, or whose logits have the wrong shape, is no such thing: it is a failure of ``shape_contract``.

        Raises:
            UserError: The model cannot be built, or inputs cannot be made for it.
        """
        from harness.errors import TimeBudgetError
        from harness.process_state import kept_process
        from harness.runtime import threads_for

        try:
            with self.budget.counting(), time_limit(self.budget), kept_process(self.home), threads_for(self.pristine):
                self._prepare_once()
                if self.is_large:
                    self.budget.grow_for(self.plan.seconds)
        except CutShortError as cut:
            within = f"within the `time_budget` of {self.budget.seconds:g} s"
            raise TimeBudgetError(f"the model did not answer {within}; it was {cut.place}") from None

    def told_of_size(self) -> str:
        """What is said of a large model before its tests run: how long they take, and which time they have; empty of others."""
        is_known = "is_large" in vars(self) and self.is_large
        return self.budget.told(self.plan.structure.parameters, self.plan.seconds) if is_known else ""

    def _prepare_once(self) -> None:
        from harness.user_code import raised

        subject = self.subject(self.model())
        self.adapter.plan(subject.model)
        try:
            subject.batch()
        except UserError:
            raise
        except (RuntimeError, MemoryError) as error:  # what torch makes of sizes that no memory holds
            sizes = ", ".join(f"`{key}`" for key in self.task.facts.requires or ("inputs", "axes"))
            at = subject.typical.describe(self.task)
            if self.task.image_size:
                at += f", image_size={list(self.task.image_size)}"
            raise ConfigError(f"{self.config.path}: {sizes}: making inputs at {at} raised {raised(error)}") from error

    @cached_property
    def _names(self) -> frozenset[str] | None:
        """What the code of the model names, read before anything is built; ``None`` where not all of it can be read."""
        config = self.config
        if config.model or config.gist_id or config.model_import or config.call:
            return None
        if config.model_file:
            return names_of_model(config.resolve(config.model_file))
        return names_of_model(Path(harness.__file__).parent / "models" / "stubs.py", packages=("harness",))

    def absent(self, entry: Property, case: str = "") -> str:
        """Why the model has nothing that a property, or a case of it, could judge; empty where it may have. Its test is left out then."""
        return entry.absent(self._names, case)

    def left_out(self, tier: int) -> dict[str, str]:
        """The properties of a tier, or cases ``name[case]`` of them, whose tests are left out, with the reason."""
        found: dict[str, str] = {}
        for entry in self.properties(tier):
            reasons = {case: self.absent(entry, case) for case in (self.cases(entry) if entry.has_cases else ("",))}
            if all(reasons.values()):
                found[entry.name] = "; ".join(dict.fromkeys(reasons.values()))
            else:
                found |= {f"{entry.name}[{case}]": reason for case, reason in reasons.items() if reason}
        return found

    def properties(self, tier: int) -> list[Property]:
        """The properties generated for a tier."""
        if tier == _MONITORING and not self.config.is_monitored:
            return []
        fitting = [p for p in of_tier(tier) if tier in self.config.tiers and p.applies_to(self.task)]
        return [p for p in fitting if self.cases(p) or not p.has_cases]

    def cases(self, entry: Property) -> tuple[str, ...]:
        """The cases of a property that are judged for this config."""
        return entry.cases_for(self.task, self.config.export_options.artifacts)

    def tests_of(self, *tiers: int) -> tuple[str, ...]:
        """The tests of a full run, or of some of its tiers, such as ``gradient_flow[finite]``, without those that are left out."""
        entries = [entry for tier in tiers or self.config.tiers for entry in self.properties(tier)]
        pairs = [(entry, case) for entry in entries for case in (self.cases(entry) if entry.has_cases else ("",))]
        return tuple(f"{entry.name}[{case}]" if case else entry.name for entry, case in pairs if not self.absent(entry, case))

    @property
    def share(self) -> float:
        """Processor seconds the next test may draw examples."""
        return self.budget.share(self._tests_left)

    @property
    def limit(self) -> float:
        """Processor seconds after which the next test is cut short."""
        return self.budget.limit(self._tests_left)

    @property
    def _tests_left(self) -> float:
        """How many tests this process still runs, with the next one."""
        selected = len(self.tests_of()) if self.selected is None else self.selected
        return max(1.0, selected / int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) - self.finished)

    def let_go(self) -> None:
        """Frees the memory of the models of a test that is over, where it is large enough to matter."""
        from harness.runtime import give_back_memory

        if "is_large" in vars(self) and self.is_large:
            if "study" in vars(self):  # in float64 it holds twice the memory of the weights once a gradient was asked of it
                vars(self.study.subject).pop("double", None)
            give_back_memory()

    def forget_shared_work(self) -> None:
        """Lets what several tests build on be made again, as a test that was cut short may have left it half done."""
        for name in ("exports", "study", "trial", "monitor", "answers"):
            self.__dict__.pop(name, None)


def test_module(suite: Suite, pytest_config: pytest.Config | None = None) -> ModuleType:
    """The module of test classes that a config stands for."""
    module = ModuleType(suite.config.path.name)
    module.__file__ = str(suite.config.path)
    module.__doc__ = f"Generated tests of {suite.config.path.name}."
    vars(module).update(test_classes(suite, pytest_config))
    return module


def test_classes(suite: Suite, pytest_config: pytest.Config | None = None) -> dict[str, type]:
    """The test classes of a suite by name, one a tier, with the tests that apply and the user's own checks."""
    checks = _own_checks(suite, pytest_config)
    classes: dict[str, type] = {}
    for tier in suite.config.tiers:
        generated = {f"test_{entry.name}": make_test(entry) for entry in suite.properties(tier)}
        own = {f"test_{check.name}": staticmethod(as_test(check)) for check in checks if check.tier == tier}
        if generated or own:
            body: dict[str, Any] = {"suite": suite, "pytestmark": getattr(pytest.mark, f"tier{tier}"), **generated, **own}
            classes[f"TestTier{tier}"] = type(f"TestTier{tier}", (), body)
    return classes


def tests_for(path: str | Path) -> dict[str, type]:
    """The test classes of a config file, for a ``test_model.py`` that editors can discover.

    The file needs two statements::

        from pytest_modeltiers.suite import tests_for

        globals().update(tests_for("modeltiers.json"))

    Args:
        path: The config, relative to the file that calls.
    """
    caller = Path(sys._getframe(1).f_globals["__file__"])
    return test_classes(Suite.of(caller.parent / path))


for _function in (test_module, test_classes, tests_for):
    _function.__test__ = False  # type: ignore[union-attr]  # about tests, but none


def forget_suites() -> None:
    """Lets every config be read, and its model be built, again."""
    _suite.cache_clear()


@cache
def _suite(path: Path) -> Suite:
    return Suite(load_config(path))


def _own_checks(suite: Suite, pytest_config: pytest.Config | None) -> list[ModelCheck]:
    hooked = [] if pytest_config is None else pytest_config.hook.pytest_modeltiers_checks(task_spec=suite.task)
    return [*REGISTERED.values(), *(check for group in hooked for check in group or ())]

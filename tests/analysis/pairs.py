"""A planted bug and its sound twin, and what tier 2 must say of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from harness.adapters import make_adapter
from harness.analysis.study import Study, judge_analysis
from harness.catalogue import CATALOGUE
from harness.evidence import Evidence, Status
from harness.properties.subject import Subject
from harness.randomness import seeded
from harness.tasks import TaskSpec, TaskType
from harness.threads import threads_for

Factory = Callable[[], nn.Module]

FAMILIES = (
    "attention",
    "attribution",
    "robustness",
    "units",
    "rank",
    "precision",
    "kernels",
    "compiled",
    "gradients",
    "calibration",
)
"""The files ``test_planted_<family>.py``, each with its pairs in ``PAIRS``."""

VOCAB, LENGTH, CLASSES, FEATURES, CHANNELS, SIDE = 37, 12, 4, 6, 3, 8

CAUSAL = TaskSpec(TaskType.CAUSAL_LM, vocab_size=VOCAB, max_seq_len=LENGTH, pad_token_id=0)
TEXT = TaskSpec(TaskType.SEQUENCE_CLASSIFICATION, vocab_size=VOCAB, max_seq_len=LENGTH, pad_token_id=0, num_classes=CLASSES)
SEQ2SEQ = TaskSpec(TaskType.SEQ2SEQ_LM, vocab_size=VOCAB, max_seq_len=LENGTH, pad_token_id=0)
IMAGES = TaskSpec(TaskType.IMAGE_CLASSIFICATION, image_size=(CHANNELS, SIDE, SIDE), num_classes=CLASSES)
TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=FEATURES, num_classes=CLASSES)
NUMBER = TaskSpec(TaskType.TABULAR_REGRESSION, num_features=FEATURES)

TESTS = {f"{p.name}[{case}]" if case else p.name for p in CATALOGUE.values() if p.tier == 2 for case in (p.cases or ("",))}
"""Every test of tier 2 by name."""


@dataclass(frozen=True)
class Pair:
    """A planted bug.

    Attributes:
        name: Unique name.
        task: What both models are for.
        buggy: Makes the model with the bug.
        sound: Makes the corrected twin; several pairs may share it.
        test: The test that must find it, such as ``attention_patterns[causal]``.
        says: Part of the finding's message.
        module: The module that must be named; empty where none can be.
        also: Other tests that the bug makes red too.
        status: What the finding must be.
    """

    name: str
    task: TaskSpec
    buggy: Factory
    sound: Factory
    test: str
    says: str
    module: str = ""
    also: tuple[str, ...] = ()
    status: Status = Status.FAIL

    def __str__(self) -> str:
        return self.name


def study_of(factory: Factory, task: TaskSpec, seed: int = 0) -> Study:
    """A model with the weights of a seed, to be looked into."""

    def build(weights_seed: int) -> nn.Module:
        with seeded(weights_seed):
            return factory().eval()

    pristine = build(seed)
    return Study(Subject(build(seed), make_adapter(task), task, pristine=pristine, rebuild=build))


def judge_all(study: Study, only: tuple[str, ...]) -> dict[str, Evidence]:
    """What tier 2 finds in a model, by test; of the properties named.

    Args:
        study: The model.
        only: Names of properties.
    """
    task, found = study.subject.task, {}
    with threads_for(study.subject.model):
        for name in only:
            entry = CATALOGUE[name]
            for case in (entry.cases_for(task) if entry.cases else ("",)) if entry.applies_to(task) else ():
                found[f"{name}[{case}]" if case else name] = judge_analysis(name, study, case, only).investigated()
    return found


def red(found: dict[str, Evidence]) -> dict[str, str]:
    """The findings that fail or warn, explained."""
    return {test: each.explain() for test, each in found.items() if each.status in (Status.FAIL, Status.WARN)}


def assert_found(pair: Pair, family: tuple[str, ...]) -> None:
    """Holds that the bug is found by its test, named, and not said again by the family's other tests.

    Args:
        pair: The bug.
        family: The properties that are judged.
    """
    found = judge_all(study_of(pair.buggy, pair.task), family)
    evidence = found[pair.test]
    assert evidence.status is pair.status, evidence.explain()
    assert pair.says in evidence.message, evidence.explain()
    assert evidence.module == pair.module, evidence.explain()
    assert evidence.cause
    assert "\n" not in evidence.headline
    assert set(red(found)) - {pair.test} <= set(pair.also), red(found)


def assert_twin_passes(pair: Pair, family: tuple[str, ...]) -> None:
    """Holds that the bug's own test passes on the twin, and that nothing is red there.

    Args:
        pair: The bug.
        family: The properties that are judged.
    """
    found = judge_all(study_of(pair.sound, pair.task), family)
    assert red(found) == {}
    assert found[pair.test].status is Status.OK, found[pair.test].explain()

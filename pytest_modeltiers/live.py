"""Tiers 1 and 2 on a model object, without a config file or a pytest run: for notebooks, benchmarks and the project's own tests.

findings = judge_model(lambda: MyModel(), TaskSpec(TaskType.CAUSAL_LM, vocab_size=100, max_seq_len=32))
print(findings["causal"].explain())
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection

import pytest
from torch import nn

from harness.adapters import Adapter, make_adapter
from harness.catalogue import CATALOGUE
from harness.evidence import Evidence, Status
from harness.models.copies import Copies
from harness.properties.subject import Shared, Subject
from harness.randomness import seeded
from harness.tasks import TaskSpec
from harness.threads import threads_for
from pytest_modeltiers.judge import Judge
from pytest_modeltiers.tiers.critical import CriticalTier


def judge_model(
    factory: Callable[[], nn.Module],
    task: TaskSpec,
    *,
    adapter: Adapter | None = None,
    seed: int = 0,
    share: float = 5.0,
    only: Collection[str] | None = None,
    tiers: Collection[int] = (1,),
) -> dict[str, Evidence]:
    """Judges every property of some tiers that applies to a task.

    Args:
        factory: Returns a fresh model; called again for the properties that need a second instance.
        task: What the model is for.
        adapter: How it is called; by default the task's own.
        seed: Seed of the weights and of what is drawn.
        share: Seconds that one property may go on drawing examples.
        only: Names of properties, where not all are wanted.
        tiers: Which tiers; those that need nothing but a model are 1 and 2.

    Returns:
        The worst evidence of every test, by its name, such as ``finite_output[extremes]``.

    Raises:
        ValueError: A tier needs more than a model.
    """
    classes = {number: _tier(number) for number in sorted(tiers)}
    judged = [
        (name, entry)
        for name, entry in CATALOGUE.items()
        if entry.tier in classes and entry.applies_to(task) and (only is None or name in only)
    ]
    names = {name for name, _ in judged}

    def build(weights_seed: int) -> nn.Module:
        with seeded(weights_seed):
            return factory().eval()

    pristine = build(seed)
    adapter = adapter or make_adapter(task)
    shared, copies = Shared(), Copies(pristine, lambda: build(seed))
    found: dict[str, Evidence] = {}
    for name, entry in judged:
        for case in entry.cases_for(task) if entry.cases else (None,):
            subject = Subject(
                copies.fresh(), adapter, task, pristine=pristine, rebuild=build, seed=seed, shared=shared, given_copies=copies
            )
            with threads_for(pristine):
                judge = Judge(name, subject, share, seed, names)
                found[name if case is None else f"{name}[{case}]"] = _worst(classes[entry.tier](), judge, case)
    return found


def _tier(number: int) -> Callable[[], object]:
    """The tests of a tier."""
    if number == 1:
        return CriticalTier
    if number == 2:
        from pytest_modeltiers.tiers.analysis import AnalysisTier

        return AnalysisTier
    raise ValueError(f"tier {number} needs more than a model: name a config to pytest, or judge tiers 1 and 2")


def _worst(tests: object, judge: Judge, case: str | None) -> Evidence:
    test = getattr(tests, f"test_{judge.name}")
    wanted = inspect.signature(test).parameters
    available = {"subject": judge.subject, "judge": judge, "case": case}
    if "study" in wanted:
        from harness.analysis.study import Study

        available["study"] = Study(judge.subject)
    try:
        test(**{parameter: available[parameter] for parameter in wanted})
    except pytest.skip.Exception as skipped:
        return Evidence(judge.name, Status.SKIPPED, str(skipped))
    return judge.worst or Evidence(judge.name, Status.FAIL, "nothing was compared")

"""The model under analysis, with what the checks of tier 2 share; and how one of them is run."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import nn

from harness.adapters import SignatureAdapter
from harness.batches import Sizes
from harness.catalogue import CATALOGUE, names_of
from harness.config import SuiteConfig
from harness.data.loader import Loader, make_loader
from harness.data.opening import open_dataset
from harness.errors import UserError
from harness.evidence import Evidence, Status, guarded, internal_error
from harness.internal_errors import is_from_backward
from harness.owners import Selection, left_to, settled
from harness.properties.calling import BackwardRaisedError
from harness.properties.model_variants import calibrated_subject, moved
from harness.properties.prerequisites import GRADIENT_OWNER, hidden_by, left_to_weights
from harness.properties.subject import Shared, Subject
from harness.tasks.axes import BATCH
from harness.user_code import raised

_BATCH = 32


@dataclass
class Study:
    """A model that is looked into; nothing a check does may change it.

    Attributes:
        subject: The model under test.
        source: The config it came from, which names its data; ``None`` for a model without one.
        seconds: What one check may take; what would need longer is left out, with the reason.
    """

    subject: Subject
    source: SuiteConfig | None = None
    seconds: float = math.inf
    _seen_from: dict[str, Study] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """A fresh model with batch norm is looked into with statistics that saw a few batches."""
        self.subject = calibrated_subject(self.subject)

    def too_long(self, needed: float) -> str:
        """Why a check that needs so many seconds is left out; empty where there is time for it."""
        return "" if needed <= self.seconds else f"`time_budget` leaves {self.seconds:.0f} s, and this would take {needed:.0f}"

    def moved(self) -> nn.Module:
        """A copy of the model with fresh weights moved at random, as a little training would; loaded weights stay as they are."""
        return moved(self.subject)

    def seen_from(self, output: str) -> Study:
        """The same model, with another of its outputs in the place of the logits."""
        if output not in self._seen_from:
            adapter = self.subject.adapter
            assert isinstance(adapter, SignatureAdapter)
            other = adapter.with_main(output)
            subject = replace(self.subject, adapter=other, task=other.task, shared=Shared())
            self._seen_from[output] = Study(subject, self.source, self.seconds)
        return self._seen_from[output]

    @cached_property
    def labelled(self) -> Loader | None:
        """The rows that ``eval`` of the config names, in their order; ``None`` where it names none.

        Raises:
            DataError: The data is missing, unreadable, or does not fit the task.
        """
        data = self.source.eval if self.source is not None else None
        if self.source is None or data is None or not data.is_named:
            return None
        task, folder, train = self.subject.task, self.source.path.parent, self.source.train
        like = (
            open_dataset(train, task, folder, "train") if train is not None and train.is_named and not data.dataset_id else None
        )
        dataset = open_dataset(data, task, folder, "validation", like=like)
        return make_loader(dataset, task, data.batch_size or _BATCH)


def judge_analysis(name: str, study: Study, case: str = "", judged: Collection[str] | None = None) -> Evidence:
    """The verdict of one check; see ``find_analysis``.

    Args:
        name: The check.
        study: The model.
        case: The case, of a check that has them.
        judged: Names of the checks of this run; by default all of this tier.
    """
    return settled(
        find_analysis(name, study, case),
        f"{name}[{case}]" if case else name,
        Selection(names_of(2) if judged is None else judged),
    )


def find_analysis(name: str, study: Study, case: str = "") -> Evidence:
    """What one check finds, whatever else is judged.

    A model that raises, is not finite or is random is a finding of tier 1; nothing more can be learnt by looking into it.

    Args:
        name: The check.
        study: The model.
        case: The case, of a check that has them.
    """
    check, subject = CATALOGUE[name].load(case), study.subject

    def measured() -> Evidence:
        return hidden_by(subject.prerequisite_failure, name) or left_to_weights(subject.prerequisite_failure, check(study))

    return guarded(name, measured, lambda error: _without_answer(name, subject, error))


def _without_answer(name: str, subject: Subject, error: Exception) -> Evidence:
    """What it means that the model, or torch on its behalf, raises under a check."""
    if isinstance(error, BackwardRaisedError) or is_from_backward(error):
        if subject.backward_raises():
            return left_to(name, GRADIENT_OWNER, subject.backward_raises(), code="backward_raises")
        if not (subject.backward_raises(train=False) or isinstance(error, UserError)):
            return internal_error(name, error)
    said = str(error) if isinstance(error, UserError) else raised(error)
    return Evidence(name, Status.SKIPPED, f"the model cannot be analysed: {said}")


def with_rows(subject: Subject, count: int) -> Sizes:
    """Typical sizes with so many rows, or as near to that as the task allows."""
    axis = subject.task.signature.axes.get(BATCH)
    allowed = [count] if axis is None or axis.allows(count) else [size for size in axis.choices() if size <= count]
    return replace(subject.typical, batch=allowed[-1]) if allowed else subject.typical

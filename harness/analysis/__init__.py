"""What the checks of tier 2 share: the model under analysis, how a check runs, which outputs are judged, and padded rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, wraps
from typing import Any

import torch
from torch import Tensor, nn

from harness.adapters import SignatureAdapter
from harness.batches import Batch, Sizes
from harness.catalogue import CATALOGUE
from harness.config import SuiteConfig
from harness.data.loader import Loader, make_loader
from harness.data.opening import open_dataset
from harness.errors import UserError
from harness.evidence import Evidence, Status, guarded, internal_error
from harness.internal_errors import is_from_backward
from harness.owners import left_to
from harness.properties import padding
from harness.properties.calling import BackwardRaisedError
from harness.properties.model_variants import calibrated_subject, moved, of_few_blocks
from harness.properties.prerequisites import GRADIENT_OWNER, hidden_by, left_to_weights
from harness.properties.subject import Shared, Subject
from harness.tasks.axes import BATCH, Axis, Formula, Size, rows_first
from harness.tasks.kinds import Lengths, Loss, Other, State
from harness.tasks.signature import Output, Signature
from harness.tasks.values import Ids, MaskOf
from harness.user_code import raised
from harness.wording import listed

_BATCH = 32


@dataclass
class Study:
    """A model that is looked into; nothing a check does may change it.

    Attributes:
        subject: The model under test.
        source: The config it came from, which names its data; ``None`` for a model without one.
        seconds: What one check may take; what would need longer is left out, with the reason.
        kept: What a check computed that another one needs too, by name.
    """

    subject: Subject
    source: SuiteConfig | None = None
    seconds: float = math.inf
    kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
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
        is_apart = train is not None and train.is_named and not data.dataset_id
        like = open_dataset(train.beside(data), task, folder, "train") if train is not None and is_apart else None
        dataset = open_dataset(data, task, folder, "validation", like=like)
        return make_loader(dataset, task, data.batch_size or _BATCH)


_OF_FEW_BLOCKS = ("attention_kernels", "attribution", "compiled", "gradcheck")
"""Checks of the code of a model's blocks, of which a large model is asked two of each kind; all of them only where those fail."""


def find_analysis(name: str, study: Study, case: str = "") -> Evidence:
    """What one check finds, whatever else is judged.

    A model that raises, is not finite or is random is a finding of tier 1; nothing more can be learnt by looking into it.

    Args:
        name: The check.
        study: The model.
        case: The case, of a check that has them.
    """
    check, subject = CATALOGUE[name].load(case), study.subject

    def of_few(short: Subject) -> Evidence:
        of_short = replace(study, subject=short)
        return guarded(name, lambda: check(of_short), lambda error: _without_answer(name, short, error))

    def measured() -> Evidence:
        if hidden := hidden_by(subject.prerequisite_failure, name):
            return hidden
        short = of_few_blocks(subject) if name in _OF_FEW_BLOCKS else None
        if short is not None and (held := of_few(short)).status is Status.OK:
            return replace(held, details={**held.details, "blocks": short.shared.blocks})
        return left_to_weights(subject.prerequisite_failure, check(study))

    return guarded(name, measured, lambda error: _without_answer(name, subject, error))


def _without_answer(name: str, subject: Subject, error: Exception) -> Evidence:
    """What it means that the model, or torch on its behalf, raises under a check."""
    if isinstance(error, BackwardRaisedError) or is_from_backward(error):
        if subject.backward_raises():
            return left_to(name, GRADIENT_OWNER, subject.backward_raises(), code="backward_raises")
        if not (subject.backward_raises(train=False) or isinstance(error, UserError)):
            return internal_error(name, error)
    said = str(error) if isinstance(error, UserError) else raised(error)
    return Evidence.skipped(name, f"the model cannot be analysed: {said}")


def with_rows(subject: Subject, count: int) -> Sizes:
    """Typical sizes with so many rows, or as near to that as the task allows."""
    axis = subject.task.signature.axes.get(BATCH)
    allowed = [count] if axis is None or axis.allows(count) else [size for size in axis.choices() if size <= count]
    return replace(subject.typical, batch=allowed[-1]) if allowed else subject.typical


_WITHOUT_VALUES = (State, Lengths, Loss, Other)
"""Kinds of which no values are promised that a check could hold to anything."""


def judged_outputs(subject: Subject) -> tuple[Output, ...]:
    """The outputs whose values follow from the inputs and mean something, the main one first."""
    outputs = subject.task.signature.outputs
    if not isinstance(subject.adapter, SignatureAdapter):
        return outputs[:1]  # an adapter of the user's own finds the logits, and nothing else
    return (
        outputs[0],
        *(each for each in outputs[1:] if not each.constant and not isinstance(each.kind, _WITHOUT_VALUES)),
    )


def values_of(subject: Subject, batch: Batch, model: nn.Module) -> dict[str, Tensor]:
    """The values of all judged outputs by name, with the graph."""
    judged = judged_outputs(subject)
    if len(judged) == 1:
        return {judged[0].name: subject.logits_with_grad(batch, model)}
    found = subject.outputs_with_grad(batch, model)
    values = {each.name: found[each.name] for each in judged}
    return {name: value for name, value in values.items() if isinstance(value, Tensor) and value.is_floating_point()}


def combined(values: Mapping[str, Tensor], seed: int = 0) -> Tensor:
    """All outputs in a random combination, a scalar in float64."""
    rng = torch.Generator().manual_seed(seed)
    parts = []
    for value in values.values():
        weights = torch.randn(value.shape, generator=rng, dtype=torch.float64).to(value.device)
        parts.append((value.double() * weights).sum() / math.sqrt(max(1, value.numel())))
    return torch.stack(parts).sum()


def each_output(check: Callable[[Study], Evidence]) -> Callable[[Study], Evidence]:
    """A check that is made of every judged output in turn, as if it were the main one; a finding names the output."""

    @wraps(check)
    def judged(study: Study) -> Evidence:
        names = [each.name for each in judged_outputs(study.subject)]
        if len(names) == 1:
            return check(study)
        first: Evidence | None = None
        passed: dict[str, Evidence] = {}
        for name in names:
            seen = study if name == names[0] else study.seen_from(name)
            evidence = (hidden_by(seen.subject.prerequisite_failure, "") if seen is not study else None) or check(seen)
            first = first or evidence
            if evidence.status in (Status.FAIL, Status.WARN):
                return replace(evidence, name=first.name, message=f"output `{name}`: {evidence.message}")
            if evidence.status is Status.OK:
                passed[name] = evidence
        if not passed:
            assert first is not None
            return first
        shown = listed(list(passed), len(passed))
        closest = max(passed.values(), key=lambda evidence: evidence.excess)
        return replace(closest, message=f"{closest.message} (judged of {shown})")

    return judged


@dataclass(frozen=True)
class PaddedBatch:
    """A batch with rows of several lengths along an axis.

    Attributes:
        signature: Of the task.
        axis: The axis.
        batch: The inputs.
        real: Which elements along it are real, bool ``[B, S]``.
    """

    signature: Signature
    axis: Axis
    batch: Batch
    real: Tensor

    def real_along(self, name: str) -> Tensor | None:
        """Which elements are real along the axis, or one whose size follows from it (bool ``[B, S]``); ``None`` along any other."""
        if name == self.axis.name:
            return self.real
        source = self.signature.axes[name].source
        if self.axis.padding == "left" or not isinstance(source, Formula) or source.axes != (self.axis.name,):
            return None
        lengths = source.value({self.axis.name: self.real.sum(1)})
        whole = int(source.value({self.axis.name: self.real.shape[1]}))
        return torch.arange(whole, device=lengths.device) < lengths[:, None]

    def real_values(self, output: Output, value: Tensor) -> Tensor:
        """The values of an output at what is real: at its real positions, or in the rows that have any."""
        axes = rows_first_axes(output.axes)
        rows = self.real.any(1)
        if not axes or axes[0] != BATCH:
            return value
        for place, name in enumerate(axes):
            real = self.real_along(name) if isinstance(name, str) and name != BATCH else None
            if real is not None:
                return value.movedim(place, 1)[real & rows[:, None]]
        return value[rows]


def rows_first_axes(axes: Sequence[Size]) -> list[Size]:
    """The axes in the order in which the suite holds a tensor."""
    return [axes[place] for place in rows_first(axes)]


def tells_padding(subject: Subject, axis: Axis) -> bool:
    """Whether the model is given anything that says which elements along an axis are real."""
    ids = (each.values for each in subject.task.signature.inputs if axis.name in each.axes and isinstance(each.values, Ids))
    return padding.tells_padding(subject, axis.name) or any(values.pad is not None for values in ids)


def takes_mask(subject: Subject, axis: Axis) -> bool:
    """Whether the model is given a mask of an axis, in which a row may have no real element."""
    masks = (each for each in subject.task.signature.inputs if isinstance(each.values, MaskOf) and each.values.axis == axis.name)
    return any(subject.adapter.takes(subject.model, each.name) for each in masks)


def padded_batch(subject: Subject, batch: Batch, axis: Axis, sizes: Sizes, lengths: Sequence[int]) -> PaddedBatch:
    """A batch whose rows are cut to lengths, on the side where the axis has its padding."""
    signature = subject.task.signature
    total = signature.complete(sizes.by_axis(subject.task))[axis.name]
    real = padding.placed("left" if axis.padding == "left" else "right", lengths, total).to(subject.device)
    return PaddedBatch(signature, axis, padding.padded(signature, batch, axis.name, real), real)

"""What must hold before anything else of a model can be judged: it runs, its logits are finite, and they are not random.

Each subject is tried once at its anchors. A model that fails there would fail nearly every property: one property reports it, and the others
leave their findings to that one.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from harness.adapters import LENGTH_FIRST
from harness.batches import Batch
from harness.errors import OutputError, UserError
from harness.evidence import Evidence, Status
from harness.owners import left_to, owned_by, owners_of
from harness.properties.calling import BackwardRaisedError, ModelRaisedError, mode
from harness.properties.large_tensors import all_finite, reading_gradients
from harness.properties.noise import difference
from harness.runtime import seeded
from harness.wording import counted

if TYPE_CHECKING:
    from harness.properties.subject import Subject


SHAPE_OWNER = "shape_contract"
"""The test that fails when the model cannot be called, or its logits have the wrong shape."""

FINITE_OWNER = "finite_output[typical]"
"""The test that fails when the logits are not finite."""

RANDOM_OWNER = "eval_deterministic"
"""The test that fails when the logits are random in eval mode."""

GRADIENT_OWNER = "gradient_flow[reaches_every_parameter]"
"""The test that fails when the backward pass raises."""

WEIGHTS_OWNERS = ("parameter_validation", FINITE_OWNER)
"""The tests that fail on NaN weights; the second one where the first does not run."""

BACKWARD_RAISES = "the backward pass raises "

RANDOM = "logits in eval mode are random"

READS_LENGTH_FIRST = "forward reads token ids as [length, batch]"

LENGTH_FIRST_CAUSE = (
    "a recurrent layer or an attention without `batch_first=True`; where [length, batch] is meant, "
    f'`adapter = "{LENGTH_FIRST}"` in the config'
)

LENGTH_FIRST_OWNER = "batch_independence[forward]"
"""The test that fails when a model reads token ids as ``[length, batch]``."""

REPEATS = 4
"""How often a call is repeated to see whether it is random; one more draw may show what is random only now and then."""

_CHECKED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_COUNT_NAN = ("finite_output", "gradient_flow")
"""Properties whose measurement is the number of values that are NaN or infinite."""


@dataclass(frozen=True)
class BrokenWeight:
    """A parameter or buffer that no model can compute with.

    Attributes:
        path: Its path.
        holds: What it holds, such as ``2 NaN values``.
    """

    path: str
    holds: str

    def evidence(self, name: str) -> Evidence:
        """A failure of a property that cannot hold because of it."""
        return Evidence(
            name,
            Status.FAIL,
            f"`{self.path}` holds {self.holds}",
            module=self.path,
            cause="a training run that diverged, or an initialisation that divides by zero",
            details=owned_by(*WEIGHTS_OWNERS),
            code="weight_not_finite",
        )


@dataclass(frozen=True)
class PrerequisiteFailure:
    """What keeps other properties from being judged, and is itself judged by one.

    Attributes:
        raises: What forward raised at an anchor; ``shape_contract`` fails on it, or leaves it to ``full_vocabulary``.
        not_finite: At which anchor the logits are not finite; ``finite_output`` fails on it.
        random: Whether logits, or other outputs of a declared task, depend in eval mode on the global random state;
            ``eval_deterministic`` fails on it.
        weight: A weight that is NaN or infinite; ``parameter_validation`` fails on it, or ``finite_output``.
    """

    raises: str = ""
    not_finite: str = ""
    random: bool = False
    weight: BrokenWeight | None = None


@dataclass(frozen=True)
class AnchorLogits:
    """What a copy of the model that was never called gave at an anchor.

    Attributes:
        like: A tensor of the shape and dtype of the logits, without data.
        finite: Whether all of them are finite.
    """

    like: Tensor
    finite: bool


@dataclass(frozen=True)
class Unusable:
    """Why no property can be judged; false where it can.

    Attributes:
        owner: The test that fails for it.
        reason: What is wrong.
    """

    owner: str = ""
    reason: str = ""

    def __bool__(self) -> bool:
        return bool(self.owner)


def find_prerequisite_failure(subject: Subject) -> PrerequisiteFailure:
    """Calls fresh copies of a model at its anchors, and notes what they gave."""
    raises, not_finite, random = "", "", False
    for number, (sizes, seed) in enumerate(subject.reach.anchors):
        batch, at = subject.batch(sizes, seed), f"{sizes.describe(subject.task)}, seed={seed}"
        try:
            # Where a model is random at all, it is at typical sizes; the seeds are those of ``eval_deterministic``.
            first, *again = [_drawn(subject, batch, 1 + draw) for draw in range(1 if number else 1 + REPEATS)]
        except ModelRaisedError as error:
            raises = raises or f"forward raises at {at}: {error}"
            continue
        seen = AnchorLogits(first[0].to("meta"), bool(first[0].isfinite().all()))
        subject.shared.anchor_logits[sizes, seed] = seen
        not_finite = not_finite or ("" if seen.finite else f"logits are not finite at {at}")
        random = random or any(
            difference(one.nan_to_num(), other.nan_to_num()) > subject.floor.repeat_bound
            for others in again
            for one, other in zip(first, others, strict=True)
        )
    return PrerequisiteFailure(raises, not_finite, random, broken_weight(subject.model))


def find_backward_error(subject: Subject, train: bool) -> str:
    """What a backward pass on a fresh copy at typical sizes raises; empty where it does not, or there is none."""
    model = subject.fresh()
    try:
        with mode(model, train), seeded(0), reading_gradients(model, lambda _name, _gradient: None):
            subject.backward(subject.batch(), model)
    except BackwardRaisedError as error:
        return BACKWARD_RAISES + re.split(r" Hint: |: \[torch\.", str(error))[0]  # what follows are numbers of torch's own
    except UserError:
        return ""
    return ""


def broken_weight(model: nn.Module) -> BrokenWeight | None:
    """The first parameter that holds NaN or infinity, or buffer that holds NaN; an infinite buffer is usual, such as a mask."""
    parameters = {id(parameter) for parameter in model.parameters()}
    for path, tensor in chain(model.named_parameters(), model.named_buffers()):
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.dtype not in _CHECKED or tensor.layout is not torch.strided:
            continue
        if tensor.is_meta or not tensor.numel() or all_finite(tensor):
            continue
        if nan := int(tensor.isnan().sum()):
            return BrokenWeight(path, counted(nan, "NaN value"))
        if id(tensor) in parameters:
            return BrokenWeight(path, counted(int(tensor.isinf().sum()), "infinite value"))
    return None


def hidden_by(failure: PrerequisiteFailure, name: str) -> Evidence | None:
    """Why a model has to be put right before it can be looked into; ``None`` where it need not be.

    Args:
        failure: What is wrong with the model at its anchors.
        name: The property that is not judged.
    """
    if failure.raises:
        return left_to(name, SHAPE_OWNER, failure.raises, code="raises")
    if failure.not_finite:
        return not_finite(failure, name)
    return left_to(name, RANDOM_OWNER, RANDOM, code="random_logits") if failure.random else None


def not_finite(failure: PrerequisiteFailure, name: str) -> Evidence:
    """A finding of a model whose logits are not finite, left to the property that says why."""
    if failure.weight:
        return failure.weight.evidence(name)
    return left_to(name, FINITE_OWNER, failure.not_finite, code="not_finite")


def left_to_weights(failure: PrerequisiteFailure, evidence: Evidence) -> Evidence:
    """A finding that NaN weights explain, left to the property that names them.

    That is one that measured no number, counts those that are none, or blames the same weight.
    """
    if failure.weight is None or evidence.status not in (Status.FAIL, Status.WARN) or owners_of(evidence):
        return evidence
    is_measured = evidence.measured is not None and math.isfinite(evidence.measured)
    if is_measured and evidence.name not in _COUNT_NAN and evidence.module != failure.weight.path:
        return evidence
    return failure.weight.evidence(evidence.name)


def left_to_batch_independence(subject: Subject, evidence: Evidence) -> Evidence:
    """The evidence; where the order of the axes explains what is wrong, it is left to ``batch_independence``."""
    if evidence.status in (Status.OK, Status.SKIPPED) or not subject.reads_length_first:
        return evidence
    message = f"{READS_LENGTH_FIRST}, and cannot be judged with [batch, length]"
    return left_to(
        evidence.name,
        LENGTH_FIRST_OWNER,
        message,
        counterexample=evidence.counterexample,
        cause=LENGTH_FIRST_CAUSE,
        code="reads_length_first",
    )


def _drawn(subject: Subject, batch: Batch, draw: int) -> list[Tensor]:
    """The logits, and in float64 what a declared task promises beside them, such as actions that a policy samples."""
    main = subject.task.signature.main.name
    with seeded(draw):
        if subject.task.declared is None or len(subject.task.declared.outputs) == 1:
            return [subject.raw_logits(batch, subject.fresh())]
        try:
            outputs = subject.outputs_with_grad(batch, subject.fresh())
        except OutputError:  # `declared_outputs` says which one is not there
            return [subject.raw_logits(batch, subject.fresh())]
    further = [value.double() for name, value in outputs.items() if name != main and isinstance(value, Tensor)]
    return [outputs[main], *further]

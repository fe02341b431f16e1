"""What must hold before anything else of a model can be judged: it runs, its logits are finite, and they are not random.

Each subject is tried once at its anchors. A model that fails there would fail nearly every property: one property reports it, and the others
leave their findings to that one.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from harness.adapters import LENGTH_FIRST, same_shape
from harness.batches import Batch, Sizes, smallest_sizes
from harness.errors import OutputError, UserError
from harness.evidence import WHOLE, Evidence, Status
from harness.owners import left_to, owned_by, owners_of
from harness.properties.calling import BackwardRaisedError, ModelRaisedError, mode
from harness.properties.large_tensors import all_finite, reading_gradients
from harness.properties.noise import difference
from harness.runtime import seeded
from harness.tasks.axes import BATCH, shape_text
from harness.tasks.signature import MODEL
from harness.tasks.values import Ids
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

TRAIN_MODE_OWNER = "train_mode[equals_eval]"
"""The test that says that train mode cannot be called as eval mode is, or returns something else."""

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

_ASSUMED = "an assumed size: a hard-coded batch or length, a squeeze() without dim, a view with fixed sizes"

REPEATS = 4
"""How often a call is repeated to see whether it is random; one more draw may show what is random only now and then."""

_CHECKED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers that read as many axes besides rows and channels as their place here says."""

_READ: tuple[tuple[Any, str, int], ...] = (
    (nn.Linear, "in_features", -1),
    (nn.LayerNorm, "normalized_shape", -1),
    (nn.RNNBase, "input_size", -1),
    (nn.MultiheadAttention, "embed_dim", -1),
    (_CONVOLUTIONS, "in_channels", 1),
    ((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), "num_features", 1),
    (nn.GroupNorm, "num_channels", 1),
)
"""How layers call the size that they read, and along which axis."""

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
        return Evidence.failed(
            name,
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
        small_only: Whether it raises, or is not finite, at the smallest sizes only, so that others are judged.
    """

    raises: str = ""
    not_finite: str = ""
    random: bool = False
    weight: BrokenWeight | None = None
    small_only: bool = False


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
    raises, not_finite, random, failed = "", "", False, set[Sizes]()
    for number, (sizes, seed) in enumerate(subject.reach.anchors):
        batch, at = subject.batch(sizes, seed), f"{sizes.describe(subject.task)}, seed={seed}"
        try:
            # Where a model is random at all, it is at typical sizes; the seeds are those of ``eval_deterministic``.
            first, *again = [_drawn(subject, batch, 1 + draw) for draw in range(1 if number else 1 + REPEATS)]
            bound = subject.floor.repeat_bound if again else 0.0
        except ModelRaisedError as error:
            raises = raises or f"forward raises at {at}: {error}"
            failed.add(sizes)
            continue
        seen = AnchorLogits(first[0].to("meta"), all_finite(first[0]))
        subject.shared.anchor_logits[sizes, seed] = seen
        if not seen.finite:
            failed.add(sizes)
            not_finite = not_finite or f"logits are not finite at {at}"
        random = random or any(
            difference(one.nan_to_num(), other.nan_to_num()) > bound
            for others in again
            for one, other in zip(first, others, strict=True)
        )
    weight = broken_weight(subject.model)
    small_only = weight is None and failed == {smallest_sizes(subject.task)}
    return PrerequisiteFailure(raises, not_finite, random, weight, small_only)


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


def find_train_mode_failure(subject: Subject) -> str:
    """Why nothing can be judged in train mode, where it can in eval mode: forward wants more, or its labels do not fit; else empty."""
    model, expected = subject.fresh(), subject.typical.logits_shape(subject.task)
    try:
        with mode(model, True):
            logits = subject.raw_logits(subject.batch(), model)
    except UserError as error:
        raises = isinstance(error, ModelRaisedError)
        return f"in train mode {'forward raises' if raises else 'the declared output is not there'}: {error}"
    signature = subject.task.signature
    if same_shape(logits, expected) or not (signature.main.loss and signature.has_labels(signature.main)):
        return ""
    return f"in train mode output `{signature.main.name}` has shape {tuple(logits.shape)}, in eval mode {shape_text(expected)}"


def other_in_train_mode(subject: Subject, name: str) -> Evidence:
    """What is said of a model that is another function in train mode; by design where the config says that forward returns the loss."""
    if subject.task.signature.whole_loss == MODEL:
        return Evidence.skipped(name, f"forward returns the loss in train mode: {subject.train_mode_failure}")
    return Evidence.warned(
        name,
        f"{subject.train_mode_failure}; so what is trained is not judged",
        module=WHOLE,
        cause="a head that only one mode has, or a loss that forward makes of labels in train mode: declare those `labels`, and "
        "`loss: model` where forward returns the loss, or take the branch on `self.training` out of forward",
        code="other_in_train_mode",
    )


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
    if failure.raises and not failure.small_only:
        return left_to(name, SHAPE_OWNER, failure.raises, code="raises")
    if failure.not_finite and not failure.small_only:
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


def is_lookup(error: ModelRaisedError) -> bool:
    """Whether an id beyond a table may be what made forward raise."""
    return isinstance(error.error, IndexError) or "indices" in str(error) or "out of range" in str(error)


def cause_of_raising(subject: Subject, error: ModelRaisedError, sizes: Sizes) -> str:
    """What usually makes forward raise: ids beyond a table, inputs of another kind or with other axes than a layer reads, an assumed size."""
    rows = {path: m.num_embeddings for path, m in subject.model.named_modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}
    at = {path: count for path, count in rows.items() if path == error.module} or rows
    for each in subject.task.signature.inputs if subject.task.declared and is_lookup(error) else ():
        ids = each.values.count if isinstance(each.values, Ids) else 0
        if short := next((path for path, count in at.items() if count < (max(ids) if isinstance(ids, tuple) else ids)), None):
            return f"ids beyond a table: `inputs.{each.name}` declares `ids: {ids}`, and `{short}` has {at[short]} rows"
    if subject.task.declared is None:
        if "features" in subject.task.facts.inputs and is_lookup(error) and rows:
            return (
                "features that are ids of an embedding, where the task draws real numbers: an adapter can turn them into ids, such as "
                "`features.abs().mul(100).long() % size`, with `half_precision` off, as rounding changes such ids"
            )
        return _ASSUMED
    if told := _read_otherwise(subject, error, sizes):
        return told
    limited = [axis.name for axis in subject.task.signature.free_axes if axis.name != BATCH]
    end = (
        f"; or an axis that not every size fits: say so in `axes.{limited[-1]}` by `min`, `max` or `multiple_of`"
        if limited
        else ""
    )
    declared = (_declared_as(subject, sizes, each.name) for each in subject.task.signature.inputs[:2])
    return f"{_ASSUMED}{end}; {', '.join(declared)}"


def _read_otherwise(subject: Subject, error: ModelRaisedError, sizes: Sizes) -> str:
    """Which layer reads an input otherwise than it is declared, where forward raises in a layer that says what it reads; else empty."""
    layer = dict(subject.model.named_modules()).get(error.module)
    given = _given_to(layer, error.error)
    if layer is None or given is None:
        return ""
    named = f"`{error.module}` ({type(layer).__name__})"
    if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)) and given.is_floating_point():
        made = _made_as(subject, sizes, given)
        return f"{made}, and {named} looks up ids: declare `values: {{ids: {layer.num_embeddings}}}`" if made else ""
    reads, place = next(((getattr(layer, name), at) for kind, name, at in _READ if isinstance(layer, kind)), (None, 0))
    reads = reads[-1] if isinstance(reads, tuple) else reads
    if reads is None:
        return ""
    axes = next((3 + place for place, kind in enumerate(_CONVOLUTIONS) if isinstance(layer, kind)), given.ndim)
    made = _made_as(subject, sizes, given)
    if given.ndim != axes:
        return f"{made}, and {named} reads {axes} axes, [batch, {reads}, …]" if made else ""
    if given.ndim > max(place, 0) and given.shape[place] != reads:
        where = "the last axis" if place == -1 else "axis 1"
        found = made or ", ".join(_declared_as(subject, sizes, each.name) for each in subject.task.signature.inputs[:3])
        passed = "" if made else f" and is given {list(given.shape)}"
        return f"{found}; {named} reads {reads} along {where}{passed}: declare what the model reads, in the order in which it reads it"
    if not given.is_floating_point() and made:
        return f"{made}, as whole numbers, and {named} reads floating point: declare `values: normal` or a `range`"
    return ""


def _given_to(layer: nn.Module | None, error: BaseException) -> Tensor | None:
    """The first tensor that a layer was called with when it raised."""
    frame, found = error.__traceback__, None
    while frame is not None:
        known = frame.tb_frame.f_locals
        if layer is not None and known.get("self") is layer and frame.tb_frame.f_code.co_name == "forward":
            found = next((value for name, value in known.items() if name != "self" and isinstance(value, Tensor)), found)
        frame = frame.tb_next
    return found


def _made_as(subject: Subject, sizes: Sizes, given: Tensor) -> str:
    """The declaration of the input that a layer is given as it is; empty where it is given something else."""
    made = subject.batch(sizes)
    same = (each.name for each in subject.task.signature.inputs if made.get(each.name) is not None)
    name = next((name for name in same if made[name].shape == given.shape and made[name].dtype == given.dtype), "")
    return _declared_as(subject, sizes, name) if name else ""


def _declared_as(subject: Subject, sizes: Sizes, name: str) -> str:
    axes = ", ".join(map(str, subject.task.signature.axes_of(name)))
    made = subject.batch(sizes).get(name)
    return f"`inputs.{name}` is declared [{axes}]" + (f", here {list(made.shape)}" if isinstance(made, Tensor) else "")

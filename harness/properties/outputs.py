"""What a forward returns beside its logits: auxiliary scores, values, hidden states; each is followed and named.

A declared signature names its outputs, and their axes say what holds of each. Elsewhere every floating tensor counts as reached by a
gradient, and its shape tells which promises hold of it: rows are independent where its first axis is the batch, and an output of the logits'
shape is a prediction as the logits are. A cache or a hidden state, which a later call is given back, promises nothing here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from harness.adapters import Adapter, CallPlan, same_shape
from harness.batches import Batch, Sizes
from harness.errors import OutputError, UserError
from harness.evidence import Evidence, Status
from harness.owners import left_to
from harness.properties.causality import causality
from harness.properties.gradient_tracing import is_finite
from harness.properties.numerics import finite_output
from harness.properties.prerequisites import FINITE_OWNER, RANDOM_OWNER
from harness.properties.subject import Shared, Subject
from harness.tasks.axes import BATCH
from harness.tasks.kinds import SCORES

MOST = 4
"""Further outputs that are judged."""

_STATE = re.compile(
    r"(^|_)(past|past_key_values|cache|kv|hiddens?|hidden_states?|states?|mems?|memory|attn|attentions?|attn_weights)$"
)
"""Keys of what is given back in the next call, or shown for looking into the model."""


@dataclass(frozen=True)
class FurtherOutput:
    """A floating tensor that forward returns beside the logits.

    Attributes:
        name: ``output 1`` of a tuple, or the key in quotes.
        key: Where it is: a position, a key or an attribute; of a declared one its name.
        by_row: Whether its first axis is the batch, and no other axis grows with it.
        by_position: Whether its second axis is that of the logits' positions; of a declared one, whether a causal axis is among its own.
        by_padding: Whether rows of it may be padded.
        is_score: Whether it is scores, which may take any value.
        declared: Whether the signature names it.
    """

    name: str
    key: int | str
    by_row: bool = False
    by_position: bool = False
    by_padding: bool = False
    is_score: bool = False
    declared: bool = False


@dataclass
class _Capture:
    """What the model itself returned in the last call."""

    output: Any = None


class OutputAdapter(Adapter):
    """Calls a model as another adapter does, and takes one of its further outputs for the logits."""

    def __init__(self, adapter: Adapter, output: FurtherOutput) -> None:
        super().__init__(adapter.task)
        self._adapter = adapter
        self._output = output
        self.length_first = getattr(adapter, "length_first", False)

    def plan(self, model: nn.Module) -> CallPlan:
        """As the adapter does."""
        return self._adapter.plan(model)

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """The further output.

        Raises:
            OutputError: This call does not return it.
        """
        with _capturing(model) as capture:
            self._adapter.logits(model, batch)
        found = _tensors(capture.output).get(self._output.key)
        if found is None:
            raise OutputError(f"forward returns {self._output.name} in some calls, and not in all")
        return found.transpose(0, 1) if self.length_first and self._output.by_position else found


def further_outputs(subject: Subject) -> tuple[FurtherOutput, ...]:
    """The floating tensors that forward returns beside the logits at typical sizes; states and caches are left out."""
    if subject.shared.outputs is None:
        subject.shared.outputs = tuple(_declared(subject) if subject.task.declared else _find(subject))
    found: tuple[FurtherOutput, ...] = subject.shared.outputs
    return found


def judge_output(subject: Subject, name: str, output: FurtherOutput, check: Callable[..., Evidence], **values: Any) -> Evidence:
    """What a check of the logits finds when a further output takes their place.

    Args:
        subject: The model.
        name: The property.
        output: What is judged.
        check: A property function.
        values: Its arguments.
    """
    if output.declared:
        stand_in = subject.judging(str(output.key))
    else:
        shared = Shared(prerequisite_failure=subject.prerequisite_failure)
        stand_in = replace(subject, adapter=OutputAdapter(subject.adapter, output), shared=shared)
    try:
        found = check(stand_in, **values)
    except OutputError as error:
        return Evidence.skipped(name, str(error))
    if found.status is Status.FAIL and stand_in.prerequisite_failure.random and name in ("batch_independence", "padding_ignored"):
        return left_to(
            name, RANDOM_OWNER, f"{output.name} in eval mode is random", counterexample=found.counterexample, code="random_logits"
        )
    if found.measured == float("inf") and stand_in.prerequisite_failure.not_finite and name != "finite_output":
        return left_to(name, FINITE_OWNER, f"{output.name} is not finite", counterexample=found.counterexample, code="not_finite")
    message = f"{output.name}: {found.message.replace('logits', 'values')}"
    return replace(found, message=message, details={**found.details, "output": output.name})


def finite_further_output(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """A further output holds no NaN and no positive infinity at typical inputs; minus infinity is how scores say never."""
    if subject.task.declared is not None:
        return finite_output(subject, sizes, seed=seed)
    values = subject.logits(subject.batch(sizes, seed))
    bad = int((values.isnan() | values.isposinf()).sum())
    return Evidence.judged(
        "finite_output",
        Status.FAIL if bad else Status.OK,
        f"{bad} of {values.numel()} logits are NaN or infinite at typical inputs" if bad else "logits are finite",
        (bad, 0, "elements"),
        counterexample=f"{sizes.describe(subject.task)}, seed={seed}",
        cause="a division by zero, log or sqrt of a non-positive number, or exp that overflows" if bad else "",
        code="not_finite" if bad else "",
    )


def further_causality(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """As of the logits; of an output that has not their shape a warning, as it may be meant for training only."""
    found = causality(subject, sizes, seed)
    if subject.task.declared is not None:
        return found
    shape = sizes.logits_shape(subject.task)
    if found.status is not Status.FAIL or same_shape(subject.logits(subject.batch(sizes, seed)), shape):
        return found
    return replace(found, status=Status.WARN)


def reached_by_outputs(subject: Subject, model: nn.Module, seed: int = 0) -> dict[str, set[str]]:
    """Names of the parameters that receive a gradient from each further output, by the output's name; the model is in train mode.

    What is a state by its name does not count: a key or value that only a later call reads is cut off from this one.
    """
    reached: dict[str, set[str]] = {}
    batch = subject.batch(seed=seed)
    with _capturing(model) as capture, torch.enable_grad():
        logits = subject.logits_with_grad(batch, model)
    rng = torch.Generator().manual_seed(seed)
    for key, tensor in _beside_logits(capture.output, logits).items():
        if not tensor.requires_grad:
            continue
        weights = torch.randn(tensor.shape, generator=rng).to(tensor)
        parameters = {path: p for path, p in model.named_parameters() if p.requires_grad}
        gradients = torch.autograd.grad((tensor * weights).sum(), list(parameters.values()), allow_unused=True, retain_graph=True)
        reached[_name(key)] = {
            path
            for path, gradient in zip(parameters, gradients, strict=True)
            if gradient is not None and (not is_finite(gradient) or bool((gradient != 0).any()))
        }
    return reached


def _declared(subject: Subject) -> Iterator[FurtherOutput]:
    """The outputs that the signature names beside the main one: floating tensors, of which a typical call says which are."""
    signature = subject.task.signature
    try:
        returned = subject.outputs(subject.batch(), subject.fresh())
    except UserError:
        return
    causal = {axis.name for axis in signature.with_order("causal")}
    padded = {axis.name for axis in signature.padded}
    for output in signature.outputs:
        value = returned.get(output.name)
        if output is not signature.main and isinstance(value, Tensor) and value.is_floating_point():
            yield FurtherOutput(
                f"output `{output.name}`",
                output.name,
                by_row=BATCH in output.axes and signature.axes[BATCH].independent,
                by_position=any(
                    signature.axes[str(axis)].follows(each) for axis in output.axes if axis in signature.axes for each in causal
                ),
                by_padding=bool(padded) and BATCH in output.axes,
                is_score=isinstance(output.kind, SCORES),
                declared=True,
            )


def _find(subject: Subject) -> Iterator[FurtherOutput]:
    small = Sizes(2, max(subject.task.min_seq_len, subject.typical.seq - 2), max(1, subject.typical.target_seq - 2))
    try:
        there = _returned(subject, subject.typical)
        here = _returned(subject, small) if there else {}
    except UserError:
        return
    along = "target_seq" if subject.task.is_seq2seq else "seq"
    for key in list(there)[:MOST]:
        if key not in here:
            continue
        shapes = [tuple(tensors[key].shape) for tensors in (there, here)]
        if len(shapes[0]) != len(shapes[1]):
            continue
        sizes = (subject.typical, small)
        if getattr(subject.adapter, "length_first", False) and subject.task.is_per_position:
            shapes = [(shape[1], shape[0], *shape[2:]) if len(shape) > 1 else shape for shape in shapes]
        growing = [
            axis for axis in range(len(shapes[0])) if all(shape[axis] == s.batch for shape, s in zip(shapes, sizes, strict=True))
        ]
        by_position = len(shapes[0]) > 1 and all(shape[1] == getattr(s, along) for shape, s in zip(shapes, sizes, strict=True))
        yield FurtherOutput(
            _name(key),
            key,
            by_row=growing == [0],
            by_position=by_position and growing == [0] and subject.task.is_per_position,
        )


def _returned(subject: Subject, sizes: Sizes) -> dict[int | str, Tensor]:
    """What a fresh copy returns beside the logits."""
    model = subject.fresh()
    with _capturing(model) as capture:
        logits = subject.logits(subject.batch(sizes), model)
    return _beside_logits(capture.output, logits)


@contextmanager
def _capturing(model: nn.Module) -> Iterator[_Capture]:
    capture = _Capture()

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        capture.output = output

    handle = model.register_forward_hook(keep)
    try:
        yield capture
    finally:
        handle.remove()


def _beside_logits(output: Any, logits: Tensor) -> dict[int | str, Tensor]:
    """The tensors of an output but for the logits and what is a state by its name."""
    return {
        key: tensor
        for key, tensor in _tensors(output).items()
        if not (isinstance(key, str) and _STATE.search(key)) and not _same(tensor, logits)
    }


def _same(tensor: Tensor, logits: Tensor) -> bool:
    return tensor is logits or (tensor.shape == logits.shape and bool(torch.equal(tensor, logits)))


def _tensors(output: Any) -> dict[int | str, Tensor]:
    """The floating tensors of an output by where they are; what is nested deeper is a cache or a list of layers, and left out."""
    items: Mapping[Any, Any]
    if isinstance(output, Mapping):
        items = output
    elif hasattr(output, "_asdict"):
        items = output._asdict()
    elif isinstance(output, (tuple, list)):
        items = dict(enumerate(output))
    elif hasattr(output, "logits") and hasattr(output, "__dict__"):
        items = vars(output)
    else:
        return {}
    return {key: value for key, value in items.items() if isinstance(value, Tensor) and value.is_floating_point()}


def _name(key: int | str) -> str:
    return f"output {key}" if isinstance(key, int) else f"output `{key}`"

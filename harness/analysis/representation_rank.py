"""Whether hidden states and logits tell inputs apart, or have collapsed to one vector or one direction on their way.

What counts as a collapse is what float32 can no longer tell: differences of a few units in the last place. They are measured in float64,
where the model runs there, and must survive on a copy whose weights were moved a little: a gate or a head that starts at zero opens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.analysis import Study, each_output, rows_first_axes, with_rows
from harness.batches import Sizes
from harness.compat import BatchNorm
from harness.evidence import Evidence, Status
from harness.properties.large_tensors import largest_absolute
from harness.properties.noise import FACTOR, is_packed
from harness.properties.subject import Subject
from harness.properties.tracing import Call, path_of, recording
from harness.tasks.axes import BATCH

_NAME = "representation_rank"
_ROWS = 12
"""Examples; no other axis of a typical batch is as long."""

_MOST_ROWS = 512
"""Positions that an effective rank is measured on."""

_RESOLUTION = torch.finfo(torch.float32).eps
_NUDGE = 1e-2
_FEWEST = 3
"""Examples, positions or features below which nothing can be said."""

_CAUSE = (
    "a deep stack without residual connections or norms, squashing functions one after the other, a softmax or a mean over the wrong axis, "
    "an attention that looks everywhere alike, or a layer that is one unit wide"
)

Kind = Callable[[Tensor], "float | None"]
"""From ``[examples, positions, features]`` to the spread along what should tell them apart, relative to the size of the whole."""


@dataclass(frozen=True)
class _Collapse:
    """A way to collapse.

    Attributes:
        spread: Measures what is left.
        bound: What float32 cannot tell from nothing; ``None`` for a rank, whose bound depends on the shape.
        wrong: What is wrong where it is below.
        status: The verdict.
        code: What kind of finding it is.
    """

    spread: Kind
    bound: Callable[[Tensor], float]
    wrong: str
    status: Status
    code: str


@each_output
def representation_rank(study: Study) -> Evidence:
    """Neither the logits nor the last hidden states have collapsed.

    Logits that are alike for all examples, or for all positions of an example, are a failure; hidden states whose positions are alike, and
    logits that vary along one direction only, are a warning. The first module that is given what varies and returns what does not is named.
    """
    subject = study.subject
    sizes = _sizes(subject)
    shown = f"{sizes.describe(subject.task)}, seed=0"
    seen = _look(subject, _exact(subject), sizes)
    details = {"layers": _ranks(seen)}
    for what, collapse in seen.judged():
        states = seen.final(what)
        left = None if states is None else collapse.spread(states)
        if states is None or left is None or left > collapse.bound(states):
            continue
        opened = _look(subject, _nudged(_exact(subject)), sizes)
        again = opened.final(what)
        if again is None or not _is_collapsed(collapse, again):
            continue
        module = opened.first(collapse)
        return Evidence.judged(
            _NAME,
            collapse.status,
            f"{what}: {collapse.wrong}",
            (left, collapse.bound(states), "of their size"),
            counterexample=shown,
            module=module,
            cause=_CAUSE,
            details=details,
            code=collapse.code,
        )
    spreads = [left for what, collapse in seen.judged() if (left := _spread(collapse, seen.final(what))) is not None]
    if not spreads:
        return Evidence.skipped(_NAME, "the output is too small to have a rank", counterexample=shown, details=details)
    message = "examples and positions can be told apart down to the logits"
    return Evidence.ok(
        _NAME, message, (min(spreads), FACTOR * _RESOLUTION, "of their size"), counterexample=shown, details=details
    )


@dataclass(frozen=True)
class _Seen:
    """A forward.

    Attributes:
        calls: Of every module.
        logits: What came out, the examples first.
        examples: How many there are.
        positions: Axes of the logits along which there are positions of an example, rather than features of one.
    """

    calls: list[Call]
    logits: Tensor
    examples: int
    positions: tuple[int, ...]

    def judged(self) -> list[tuple[str, _Collapse]]:
        """What is judged, the gravest first."""
        inner = [("the last hidden states", _POSITIONS_ALIKE_INSIDE)] if not self.positions else []
        return [("the logits", _EXAMPLES_ALIKE), ("the logits", _POSITIONS_ALIKE), ("the logits", _ONE_DIRECTION), *inner]

    def final(self, what: str) -> Tensor | None:
        """The logits, or the last hidden states that have positions, as ``[examples, positions, features]``."""
        if what == "the logits":
            count = len(self.positions)
            moved = self.logits.movedim(self.positions, tuple(range(1, 1 + count))).double()
            if not count:
                return moved.reshape(len(moved), 1, -1)
            # A number each, where no axis of features is left.
            return moved.reshape(*moved.shape[: 1 + count], -1).flatten(1, count)
        # What a module returns beside its first output is often for show: an input repeated for each unit, as in pykan, has no positions.
        inner = (self.states(tensor) for call in reversed(self.calls) for tensor in call.outputs[:1])
        return next((states for states in inner if states is not None and min(states.shape[1:]) >= _FEWEST), None)

    def first(self, collapse: _Collapse) -> str:
        """Path of the first module that is given what varies and returns what does not."""
        for call in self.calls:
            states = [found for tensor in call.outputs if (found := self.states(tensor)) is not None]
            measurable = [found for found in states if collapse.spread(found) is not None]
            given = [found for tensor in call.inputs if (found := self.states(tensor)) is not None]
            varies = any(_EXAMPLES_ALIKE.spread(found) != 0 and not _is_collapsed(collapse, found) for found in given)
            if measurable and varies and all(_is_collapsed(collapse, found) for found in measurable):
                return call.module
        return path_of("")

    def states(self, tensor: Tensor) -> Tensor | None:
        """A tensor as ``[examples, positions, features]`` in float64; ``None`` for one without a row an example."""
        if tensor.is_complex() or tensor.ndim < 2 or tensor.ndim > 4 or len(tensor) != self.examples or not tensor.numel():
            return None
        if tensor.ndim == 4:  # an image's channels are its features
            tensor = tensor.flatten(2).mT
        wide = tensor.double()
        return wide.unsqueeze(1) if wide.ndim == 2 else wide


def _spread_of_examples(states: Tensor) -> float | None:
    return _relative(states - states[:1], states) if len(states) >= _FEWEST else None


def _spread_of_positions(states: Tensor) -> float | None:
    return _relative(states - states[:, :1], states) if states.shape[1] >= _FEWEST else None


def _second_direction(states: Tensor) -> float | None:
    """The second largest singular value of the centred states, relative to the largest."""
    rows = states.flatten(0, 1)
    if min(rows.shape) < _FEWEST:
        return None
    largest, second = torch.linalg.svdvals(rows - rows.mean(0))[:2].tolist()
    return second / largest if largest else 0.0


def _relative(differences: Tensor, states: Tensor) -> float:
    scale = largest_absolute(states)
    return largest_absolute(differences) / scale if scale else 0.0


def _few_units(_states: Tensor) -> float:
    return FACTOR * _RESOLUTION


def _rank_tolerance(states: Tensor) -> float:
    """What rounding alone makes of a singular value that is zero (Golub and Van Loan, Matrix Computations, section 5.4.1)."""
    return _RESOLUTION * max(states.flatten(0, 1).shape)


_EXAMPLES_ALIKE = _Collapse(_spread_of_examples, _few_units, "they are the same for all examples", Status.FAIL, "examples_alike")
_POSITIONS_ALIKE = _Collapse(
    _spread_of_positions, _few_units, "they are the same for all positions of an example", Status.FAIL, "positions_alike"
)
_POSITIONS_ALIKE_INSIDE = _Collapse(
    _spread_of_positions,
    _few_units,
    "they are the same for all positions of an example",
    Status.WARN,
    "positions_alike",
)
_ONE_DIRECTION = _Collapse(_second_direction, _rank_tolerance, "they vary along one direction only", Status.WARN, "one_direction")


def _spread(collapse: _Collapse, states: Tensor | None) -> float | None:
    return None if states is None or collapse is _ONE_DIRECTION else collapse.spread(states)


def _is_collapsed(collapse: _Collapse, states: Tensor) -> bool:
    left = collapse.spread(states)
    return left is not None and left <= collapse.bound(states)


def _exact(subject: Subject) -> nn.Module:
    """A copy, in float64 where it runs there; a batch norm that has seen no batch takes the statistics of this one."""
    model = subject.copies.of(subject.double) if subject.double is not None else subject.fresh()
    for module in model.modules():
        if isinstance(module, BatchNorm) and module.num_batches_tracked is not None:
            module.train(not bool(module.num_batches_tracked))
    return model


def _look(subject: Subject, model: nn.Module, sizes: Sizes) -> _Seen:
    with recording(model) as calls:
        logits = subject.logits(subject.batch(sizes), model)
    main = subject.task.signature.main
    axes = rows_first_axes(main.axes)
    free = (place for place, axis in enumerate(axes) if place and isinstance(axis, str))
    positions = tuple(place for place in free if place - len(axes) != main.classes)  # scores of positions are features of a row
    return _Seen(calls, logits, len(logits), positions)


def _sizes(subject: Subject) -> Sizes:
    """Typical sizes with enough examples: rows, or where there are none the elements that the output is about, as the nodes of a graph."""
    signature = subject.task.signature
    axis = signature.axes[str(rows_first_axes(signature.main.axes)[0])]
    if axis.name == BATCH or not axis.is_free:
        return with_rows(subject, _ROWS)
    size = next((size for size in axis.choices() if size >= _ROWS), axis.choices()[-1])
    return Sizes.of({**subject.typical.by_axis(subject.task), axis.name: size})


@torch.no_grad()
def _nudged(model: nn.Module) -> nn.Module:
    """The model, with weights moved by a hundredth of their size, or of one where they are zero."""
    rng = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.is_floating_point() and not is_packed(parameter):
            scale = _NUDGE * (float(parameter.abs().mean()) or 1.0)
            parameter.add_(scale * torch.randn(parameter.shape, generator=rng).to(parameter))
    return model


def _ranks(seen: _Seen) -> list[dict[str, object]]:
    """The effective rank of what each module returns: the entropy of its singular values as a number of directions (Roy and Vetterli 2007)."""
    found: list[dict[str, object]] = []
    for call in seen.calls:
        states = next(
            (s for tensor in call.outputs if tensor.is_floating_point() and (s := seen.states(tensor)) is not None), None
        )
        if states is None or not bool(states.isfinite().all()):
            continue
        rows = states.flatten(0, 1)
        rows = rows[:: -(-len(rows) // _MOST_ROWS)]
        shares = _singular_values(rows - rows.mean(0))
        shares = shares / shares.sum().clamp(min=torch.finfo(shares.dtype).tiny)
        rank = float(torch.special.entr(shares).sum().exp())
        found.append({"module": call.module, "effective_rank": round(rank, 2), "width": rows.shape[1]})
    return found


def _singular_values(rows: Tensor) -> Tensor:
    """The singular values, to half the digits: the products of the rows take a fraction of the time where there are few."""
    products = rows @ rows.mT if len(rows) < rows.shape[1] else rows.mT @ rows
    return torch.linalg.eigvalsh(products).clamp(min=0).sqrt()

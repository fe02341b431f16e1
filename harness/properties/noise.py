"""The rounding noise of a model's logits, the bounds on differences that are derived from it, and the verdict on logits that should be equal.

Two estimates are taken, and the larger one counts:

* the largest difference between the logits and those of the same model in float64;
* the largest change of the logits when every weight moves by at most one unit in its last place, a stochastic estimate in the
  manner of CESTAC (Vignes 1993), which also serves models that do not run in float64.

On 34 small real architectures a row alone and the same row in a batch differed by at most 1.5 times the first estimate, so a
factor of ten leaves room on both sides: sound models stay far below it, and a real dependence is usually thousands of times above.

PyTorch's quantised modules run only in float32 and have no gradient. The dynamic ones also take the scale of their integers from the
range of the whole batch, so that a row's rounding depends on what stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from harness.errors import ForwardError
from harness.evidence import WHOLE, Evidence, Status
from harness.models.wrapped import without_fast_path
from harness.properties.computed_dtypes import HIDDEN_BY, MARGIN, coarsest_epsilon, float64_tells, hidden_by, in_float64
from harness.properties.large_tensors import largest_absolute, largest_gap, lending, views_of
from harness.runtime import seeded

if TYPE_CHECKING:
    from harness.properties.subject import Subject

Call = Callable[[nn.Module, dict[str, Tensor]], Mapping[str, Tensor]]
"""From a model and a batch to outputs by name."""

FACTOR = 10
"""How many noise floors a difference must exceed to be real."""

_DRAWS = 2


@dataclass(frozen=True)
class NoiseFloor:
    """The rounding noise of a model's logits.

    Attributes:
        float64: Largest difference from the float64 logits; ``None`` where the model does not run in float64.
        last_place: Largest change under a one-ulp change of the weights.
        scale: Largest absolute logit.
        epsilon: Machine epsilon of the coarsest floating dtype on the way from the inputs to the logits.
    """

    float64: float | None
    last_place: float
    scale: float
    epsilon: float

    @property
    def value(self) -> float:
        """The floor: the larger estimate, never below the dtype's resolution at the logits' scale."""
        return max(self.float64 or 0.0, self.last_place, self.epsilon * self.scale)

    @property
    def bound(self) -> float:
        """Largest difference that counts as rounding."""
        return FACTOR * self.value

    @property
    def repeat_bound(self) -> float:
        """The bound for a repeated call; leaves out the float64 estimate, which a random forward would inflate."""
        return FACTOR * max(self.last_place, self.epsilon * self.scale)

    def describe(self) -> str:
        """The floor as a phrase."""
        how = "float64 and last-place" if self.float64 is not None else "last-place"
        return f"noise floor {self.value:.1e} ({how}), bound {self.bound:.1e}"


def difference(left: Tensor, right: Tensor) -> float:
    """Largest absolute difference, in float64; infinite where the shapes differ, nothing is compared, or NaN is met."""
    if left.shape != right.shape or left.numel() == 0:
        return float("inf")
    gap = largest_gap(left, right)
    return gap if gap == gap else float("inf")


def differs(left: Tensor, right: Tensor) -> bool:
    """Whether two outputs differ by more than rounding in their dtype."""
    scale = largest_absolute(left)
    return difference(left, right) > FACTOR * torch.finfo(left.dtype).eps * scale


def measure_floor(subject: Subject) -> NoiseFloor:
    """Measures the noise floor of a subject's logits at its typical sizes."""
    return measure_floors(subject, lambda model, batch: {"logits": subject.raw_logits(batch, model)})["logits"]


def measure_floors(subject: Subject, call: Call) -> dict[str, NoiseFloor]:
    """Measures the noise floor of each of several outputs at a subject's typical sizes.

    Args:
        subject: The model.
        call: Gives the outputs of a model for a batch, by name.
    """
    batches = [subject.batch(seed=seed) for seed in range(_DRAWS)]
    # A new model for every call: what a call leaves behind is not rounding.
    outputs: list[Mapping[str, Tensor]] = []
    epsilon = coarsest_epsilon(lambda: outputs.append(_seeded(call, batches[0], subject.fresh())), subject.dtype)
    outputs += [_seeded(call, batch, subject.fresh()) for batch in batches[1:]]
    shifted = [_seeded(call, batch, _nudged_copy(subject, seed)) for seed, batch in enumerate(batches)]
    doubled = None
    if subject.double is not None:
        doubled = [_seeded(call, batch, subject.fresh_double()) for batch in batches]

    def largest(name: str, others: list[Mapping[str, Tensor]]) -> float:
        return max(difference(left[name], right[name]) for left, right in zip(outputs, others, strict=True))

    floors = {}
    for name in outputs[0]:
        exact = None if doubled is None else largest(name, doubled)
        floors[name] = NoiseFloor(
            float64=None if exact is None or not _finite(exact) else exact,
            last_place=_or_zero(largest(name, shifted)),
            scale=_or_zero(max(largest_absolute(a[name]) for a in outputs)),
            epsilon=epsilon,
        )
    return floors


@torch.no_grad()
def _seeded(call: Call, batch: dict[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    # Hooks and modes keep PyTorch from its fast path: on it in some of the calls only, what it leaves out would be taken for rounding.
    with seeded(0), without_fast_path():
        return call(model, batch)


@torch.no_grad()
def nudged(model: nn.Module, seed: int) -> nn.Module:
    """The model with each weight moved by up to one unit in the last place."""
    rng = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.is_floating_point() and not is_packed(parameter):
            _nudge(parameter, rng)
    return model


def _nudged_copy(subject: Subject, seed: int) -> nn.Module:
    """A copy whose weights are nudged; those of a large model while their module runs, so that no second set of them is made."""
    if not subject.is_large:
        return nudged(subject.fresh(), seed)
    return lending(subject.fresh(), lambda number: partial(_nudged_value, seed * 1_000_003 + number))


@torch.no_grad()
def _nudged_value(seed: int, parameter: nn.Parameter) -> Tensor | None:
    if is_packed(parameter):
        return None
    value = parameter.detach().clone()
    _nudge(value, torch.Generator().manual_seed(seed))
    return value


def _nudge(tensor: Tensor, rng: torch.Generator) -> None:
    """Moves each number by up to one unit in the last place; the pieces of a large tensor alike, as drawing takes longest."""
    factors: Tensor | None = None
    for piece in views_of(tensor):
        if factors is None or factors.numel() < piece.numel():
            signs = torch.randint(-1, 2, piece.shape, generator=rng).to(piece.device, piece.dtype)
            factors = 1 + signs * torch.finfo(piece.dtype).eps
        piece.mul_(factors if factors.shape == piece.shape else factors[: len(piece)])


def _finite(value: float) -> bool:
    return value not in (float("inf"), float("-inf")) and value == value


def _or_zero(value: float) -> float:
    return value if _finite(value) else 0.0


_COMPARES_CALLS = ("batch_independence", "causal", "padding_ignored", "eval_deterministic", "memory_layout")
"""Properties that compare calls of one model, which earlier calls may disturb."""

Result = TypeVar("Result")

Run = Callable[[nn.Module], Tensor]
"""From a model to its logits."""

Comparison = Callable[[nn.Module], "tuple[Tensor, Tensor]"]
"""From a model to two tensors that should be equal."""


def judge_equal(
    subject: Subject,
    name: str,
    compare: Comparison,
    wrong: str | Callable[[], str],
    counterexample: str,
    cause: str | Callable[[], str],
    investigate: Callable[[nn.Module], str] | None = None,
    bound: float | None = None,
    code: str = "differs",
) -> Evidence:
    """Holds two results of a model to the bound derived from its noise.

    A difference above the bound must also survive in float64, where the model runs there: rounding shrinks by nine orders of
    magnitude, a real dependence stays as large as it was.

    Args:
        subject: The model.
        name: The property.
        compare: Computes the two results.
        wrong: What is wrong with the model when they differ.
        counterexample: The inputs, for people.
        cause: What usually causes it.
        investigate: Finds the module to blame, given the model on which to look.
        bound: Bound on the difference; by default the subject's for this property.
        code: What kind of finding a difference is.
    """
    bound = subject.bound(name) if bound is None else subject.task.tolerances.get(name, bound)
    found = _confirmed(subject, name, compare, bound)
    facts: dict[str, Any] = {"counterexample": counterexample, "details": found.details}
    if not found.differ:
        vanishes = " (the difference vanishes in float64)" if found.details else ""
        return Evidence.ok(name, f"equal within rounding{vanishes}", found.seen, **facts)
    told = wrong if isinstance(wrong, str) else wrong()
    if part := dynamically_quantised_part(subject.model):
        message = f"{told}; `{part}` quantises its inputs by the range of the whole batch, so some of that is by design"
        usual = "dynamic quantisation; judge the model before it is quantised, and the quantised one by its answers"
        return Evidence.warned(name, message, found.seen, module=part, cause=usual, code="quantised_by_batch", **facts)
    if name in _COMPARES_CALLS and _is_state(subject, compare, found):
        message = f"{told}, but not on fresh copies of the model: an earlier call leaves state behind (see stateless)"
        usual = "a hidden state, key/value cache, mask or counter kept on the module between calls"
        return Evidence.warned(name, message, found.seen, cause=usual, code="depends_on_earlier_calls", **facts)
    return Evidence.failed(
        name,
        told,
        found.seen,
        cause=cause if isinstance(cause, str) else cause(),
        investigate=None if investigate is None else lambda: investigate(found.witness),
        code=code,
        **facts,
    )


@dataclass(frozen=True)
class _Compared:
    """How far two results of a model are apart.

    Attributes:
        differ: Whether by more than rounding.
        seen: The largest difference, its bound, and what it is a difference of.
        model: The model that gave the results: in float64 where rounding hides their difference.
        witness: The model on which to look for what is to blame.
        details: What float64 said, for the report.
    """

    differ: bool
    seen: tuple[float, float, str]
    model: nn.Module
    witness: nn.Module
    details: dict[str, Any] = field(default_factory=dict)


def _confirmed(subject: Subject, name: str, compare: Comparison, bound: float) -> _Compared:
    """Compares two results, and asks float64 where the model runs there: of a difference, and of what its own rounding may hide."""
    plain = subject.model
    measured = difference(*compare(plain))
    seen = (measured, bound, "(largest difference)")
    if measured <= bound:
        precise, finer = in_float64(subject, name, lambda model: difference(*compare(model))) or (None, 0.0)
        if precise is None or not (fine := finer_bound(subject, bound)) < finer < float("inf"):
            return _Compared(False, seen, plain, plain)
        details = hidden_by(subject)
        seen = (finer, fine, f"(largest difference in float64; rounding in {details[HIDDEN_BY]} hides it)")
        return _Compared(True, seen, precise, _double(subject, name) or plain, details)
    double = _double(subject, name)
    if double is None:
        return _Compared(True, seen, plain, plain)
    try:
        confirmed = difference(*compare(double))
    except ForwardError:  # what raises in float64 only cannot be confirmed there
        return _Compared(True, seen, plain, plain)
    if confirmed < measured / FACTOR:
        return _Compared(False, seen, plain, plain, {"float64_difference": confirmed})
    return _Compared(True, seen, plain, double)


def _double(subject: Subject, name: str) -> nn.Module | None:
    """The model in float64; ``None`` where it does not run there, or where the config says what may differ."""
    return None if name in subject.task.tolerances else subject.double


def finer_bound(subject: Subject, bound: float) -> float:
    """Largest difference in float64 that counts as equal, from the bound of half precision."""
    return bound * MARGIN * torch.finfo(torch.float32).eps / torch.finfo(subject.dtype).eps


def judge_rows(
    subject: Subject, name: str, pairs: Sequence[tuple[Tensor, Tensor]], by_itself: Callable[[int], Evidence], counterexample: str
) -> Evidence:
    """Judges questions that the rows of shared calls answered; one whose answer is wrong is asked again, in separate calls.

    So many questions cost two calls, and a row that reads other rows makes none of them fail.

    Args:
        subject: The model.
        name: The property.
        pairs: For each question the two parts of results that should be equal.
        by_itself: Judges one question, by its number, with calls that ask nothing else.
        counterexample: The inputs of all, for people.
    """
    gaps, bound = [difference(*pair) for pair in pairs], subject.bound(name)
    doubtful = [number for number, gap in enumerate(gaps) if not gap <= bound]
    if not doubtful and float64_tells(subject, name):
        doubtful = sorted({0, len(pairs) // 2, len(pairs) - 1})
    if doubtful:
        return first_failure(map(by_itself, doubtful))
    return Evidence.ok(name, "equal within rounding", (max(gaps), bound, ""), counterexample=counterexample)


def _is_state(subject: Subject, compare: Comparison, found: _Compared) -> bool:
    """Whether two results agree as soon as each call is made on its own copy, so that only ``stateless`` is violated."""
    _, bound, _ = found.seen
    with subject.isolating():
        return difference(*compare(found.model)) <= bound


def first_failure(findings: Iterable[Evidence]) -> Evidence:
    """The first failure; where nothing fails a warning, and else the finding that came closest to one."""
    closest: Evidence | None = None
    for evidence in findings:
        if evidence.status is Status.FAIL:
            return evidence
        if closest is None or _nearness(evidence) > _nearness(closest):
            closest = evidence
    if closest is None:
        raise ValueError("nothing was compared")
    return closest


def _nearness(evidence: Evidence) -> tuple[bool, float]:
    return evidence.status is Status.WARN, evidence.excess


def remembered(subject: Subject, run: Callable[[nn.Module], Result]) -> Callable[[nn.Module], Result]:
    """Runs once for each model, and once more on a copy without a past where calls are isolated."""
    results: dict[tuple[nn.Module, bool], Result] = {}

    def once(model: nn.Module) -> Result:
        key = (model, subject.isolated)
        if key not in results:
            results[key] = run(model)
        return results[key]

    return once


_PACKAGES = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")


def quantised_part(model: nn.Module) -> str:
    """Path of the first quantised module; empty where there is none."""
    found = (
        path for path, module in model.named_modules() if type(module).__module__.startswith(_PACKAGES) or _holds_packed(module)
    )
    return next((path or WHOLE for path in found), "")


def is_packed(tensor: Tensor) -> bool:
    """Whether a tensor is made of others, as the quantised weights of torchao are: most arithmetic in place is not defined for it."""
    return hasattr(tensor, "__tensor_flatten__")


def _holds_packed(module: nn.Module) -> bool:
    return any(map(is_packed, module.parameters(recurse=False)))


def dynamically_quantised_part(model: nn.Module) -> str:
    """Path of the first module that quantises what it is given by the range of the whole batch; empty where there is none."""
    quantised = ((path, type(module).__module__) for path, module in model.named_modules())
    return next((path or WHOLE for path, home in quantised if home.startswith(_PACKAGES) and ".dynamic" in home), "")

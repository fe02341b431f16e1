"""Fresh weights: the loss before training, symmetry between units, and the scale of the signal."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from harness.evidence import Blame, Evidence, Status
from harness.properties.calling import NoGradientError, mode
from harness.properties.large_tensors import largest_absolute, reading_gradients, root_mean_square
from harness.properties.model_variants import calibrated, untouched_statistics
from harness.properties.noise import is_packed
from harness.properties.places import line_that_calls
from harness.properties.subject import Subject
from harness.properties.tracing import recording
from harness.properties.watched_lines import LinesOfParameters
from harness.runtime import seeded
from harness.wording import listed

_NAME = "initialisation"
_BATCHES = 4
_HALF_PRECISION_MAX = 65504.0
_NEVER = -1e8
"""Below it a score is a mask, where no other value is large: activations that explode do so in both directions."""

_SMALL = 0.02
"""Standard deviation of weights that are filled in where a layer starts at zero."""

_MOST_RESCALED = 8
"""Parameters that are given their usual scale one by one."""

_TELLING = 8
"""Numbers at the beginning of a row that tell it from nearly all others."""

_NOT_FRESH = Evidence.skipped(_NAME, "the weights are loaded, not freshly initialised")


def initial_loss(subject: Subject, seed: int = 0) -> Evidence:
    """Before training the loss is near log C, that of a uniform guess.

    It is measured in train mode, where training would meet it, against labels that say nothing about the inputs. A warning from 1 nat
    above log C (the model bets e to 1 on its guesses before it saw data); a failure from log C + 1 above, where the loss is more than
    twice that of a guess and the first part of training goes into unlearning.
    """
    if not subject.fresh_weights:
        return _NOT_FRESH
    signature = subject.task.signature
    classes = signature.main.class_count_at(signature.complete(subject.typical.by_axis(subject.task))) or 1
    uniform = math.log(classes)

    def loss_of(model: nn.Module) -> float:
        losses = []
        with mode(model, train=True), seeded(seed), torch.no_grad():
            for draw in range(_BATCHES):
                batch = subject.batch(seed=seed + draw)
                losses.append(float(subject.adapter.loss(subject.logits(batch, model), batch)))
        return sum(losses) / len(losses)

    loss = loss_of(subject.fresh())
    excess = loss - uniform
    allowed = subject.task.tolerances.get(_NAME, uniform + 1.0)
    # Scores drawn at random rather than from a model make the mean loss vary by about their spread over the root of the count.
    status = Status.FAIL if not excess <= allowed else (Status.WARN if excess > min(1.0, allowed) else Status.OK)
    what = f"the loss before training is {loss:.2f}, that of a uniform guess over {classes} classes {uniform:.2f}"
    return Evidence.judged(
        _NAME,
        status,
        what if status is Status.OK else f"{what}: the fresh model is confidently wrong",
        (excess, allowed, "nats above the loss of a uniform guess"),
        counterexample=f"{_BATCHES} batches of {subject.typical.describe(subject.task)}, train mode, seed={seed}",
        cause=""
        if status is Status.OK
        else "an embedding or head initialised with too large a scale (nn.Embedding's default of 1, tied to the "
        "head), a missing final norm, or inputs that are not normalised",
        details={"loss": loss, "uniform": uniform},
        compared=f"loss {loss:.3g}, uniform guess {uniform:.3g} (allowed up to {uniform + allowed:.3g})",
        code="" if status is Status.OK else "too_large",
        investigate=lambda: _rescaled(subject, lambda model: loss_of(model) - uniform <= min(1.0, allowed)),
    )


def _rescaled(subject: Subject, holds: Callable[[nn.Module], bool], is_up: bool = False) -> Blame:
    """The parameter with which a model is in order once its scale is the usual one, and the line that last wrote into it.

    Args:
        subject: The model.
        holds: Whether a model is in order.
        is_up: Whether parameters that are too small are meant, all of which are changed at once, rather than one that is too large.
    """
    scales = {}
    for path, parameter in subject.model.named_parameters():
        if parameter.ndim > 1 and parameter.is_floating_point() and parameter.numel() and not is_packed(parameter):
            usual = (len(parameter) / parameter.numel()) ** 0.5
            scales[path] = root_mean_square(parameter) / usual
    odd = {path: scale for path, scale in scales.items() if (0 < scale < 0.5 if is_up else scale > 2)}
    ranked = sorted(odd, key=odd.__getitem__, reverse=not is_up)
    for paths in [ranked] if is_up else [[path] for path in ranked[:_MOST_RESCALED]]:
        model = subject.fresh()
        with torch.no_grad():
            for path in paths:
                model.get_parameter(path).div_(odd[path])
        if paths and holds(model):
            return Blame(paths[0], line_of_parameter(subject, paths[0]))
    return Blame("")


def line_of_parameter(subject: Subject, path: str) -> str:
    """The line that last wrote into a parameter, where the model can be built once more."""
    if subject.rebuild is None or subject.is_large:
        return ""
    return LinesOfParameters(partial(subject.rebuild, subject.seed)).written(path)


def symmetry(subject: Subject, seed: int = 0) -> Evidence:
    """No two units of a layer are the same and stay the same.

    Two rows of a weight matrix that are equal and receive equal, non-zero gradients are one unit that is stored twice, forever.
    """
    if not subject.fresh_weights:
        return _NOT_FRESH
    model = subject.fresh()
    alike = {path: groups for path, p in model.named_parameters() if not _is_scale(model, path, p) and (groups := _equal_rows(p))}
    slopes: dict[str, list[Tensor]] = {}

    def read(path: str, gradient: Tensor) -> None:
        rows = [_real(gradient)[members].flatten(1) for members in alike.get(path, [])]
        slopes[path] = [before + more for before, more in zip(slopes[path], rows, strict=True)] if path in slopes else rows

    with mode(model, train=False), seeded(seed), reading_gradients(model, read):
        try:
            subject.backward(subject.batch(seed=seed), model)
        except NoGradientError:
            return Evidence.skipped(_NAME, "the model has no trainable parameter")
    twins = [(path, *pair) for path, groups in alike.items() if (pair := _twins(groups, slopes.get(path, [])))]
    twins = twins or [(path, 0, 1) for path in _stuck_at_one_value(subject, model, seed)]
    counterexample = f"{subject.typical.describe(subject.task)}, seed={seed}"
    if not twins and (repeated := _called_in_vain(subject, model, counterexample, seed)):
        return repeated
    if not twins:
        return Evidence.ok(_NAME, "all units differ, or their gradients do", (0, 0, "layers"), counterexample=counterexample)
    path, first, second = twins[0]
    return Evidence.failed(
        _NAME,
        f"units {first} and {second} of `{path}` start equal and receive equal gradients, so they can never differ",
        (len(twins), 0, "layers"),
        counterexample=counterexample,
        module=path,
        cause="weights filled with a constant (zeros_, ones_, constant_) or copied from one unit to all",
        details={"layers": [name for name, *_ in twins]},
        place=line_of_parameter(subject, path),
        code="units_start_equal",
    )


def signal_scale(subject: Subject, seed: int = 0) -> Evidence:
    """Parameters and signals are finite and in range, and different inputs give logits that differ by more than rounding."""
    model = subject.fresh()
    weights = [path for path, t in model.named_parameters() if t.is_floating_point() and not bool(_values(t).isfinite().all())]
    # An infinite buffer is usual, such as a mask.
    broken = weights + [path for path, t in model.named_buffers() if t.is_floating_point() and bool(_values(t).isnan().any())]
    counterexample = f"{subject.typical.describe(subject.task)}, seed={seed}"
    if broken:
        return Evidence.failed(
            _NAME,
            f"`{broken[0]}` holds NaN or infinity before any input is seen",
            (len(broken), 0, "tensors"),
            counterexample=counterexample,
            module=broken[0],
            cause="memory that was never initialised (torch.empty), or weights saved after training diverged",
            place=line_of_parameter(subject, broken[0]),
            code="not_finite",
        )
    if untouched_statistics(model):
        model = calibrated(subject)

    def spread_of(model: nn.Module) -> float:
        first, second = (subject.logits(subject.batch(seed=number), model).double() for number in (seed, seed + 1))
        return largest_absolute(first - second)

    def loudest_of(model: nn.Module) -> tuple[float, str]:
        with recording(model) as calls:
            subject.logits(subject.batch(seed=seed), model)
        return max(((_largest(call.outputs), call.module) for call in calls), default=(0.0, ""))

    spread = spread_of(model)
    floor = subject.rounding
    if not spread > floor:
        spread = _spread_with_filled_zeros(subject, seed, spread_of)
    if not spread > floor:
        return Evidence.failed(
            _NAME,
            "different inputs give the same logits up to rounding: the signal vanishes on the way",
            (spread, floor, "between two inputs"),
            counterexample=counterexample,
            cause="weights too small for the depth, units that are all dead, or a norm that divides by too much",
            code="signal_vanishes",
            investigate=lambda: _rescaled(subject, lambda model: spread_of(model) > floor, is_up=True),
        )
    loudest, module = loudest_of(model)
    if loudest > _HALF_PRECISION_MAX:
        return Evidence.warned(
            _NAME,
            f"activations reach {loudest:.1e}, beyond half precision's {_HALF_PRECISION_MAX:.0f}",
            (loudest, _HALF_PRECISION_MAX, ""),
            counterexample=counterexample,
            cause="a residual stream without norm, or an initial scale that grows with depth",
            code="too_large",
            investigate=lambda: Blame(
                module, _rescaled(subject, lambda other: loudest_of(other)[0] <= _HALF_PRECISION_MAX).place
            ),
        )
    return Evidence.ok(
        _NAME,
        "parameters and signals are in range",
        (loudest, _HALF_PRECISION_MAX, "largest activation"),
        counterexample=counterexample,
    )


def _spread_with_filled_zeros(subject: Subject, seed: int, spread_of: Callable[[nn.Module], float]) -> float:
    """How far the logits of two inputs are apart once weights that are zero throughout are small instead; 0 where no weights are.

    A head or the last layer of a branch may start at zero on purpose, and moves with the first step.
    """
    model = subject.fresh()
    zeros = [p for p in model.parameters() if p.ndim > 1 and p.is_floating_point() and p.numel() and not bool(p.any())]
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in zeros:
            parameter.copy_(_SMALL * torch.randn(parameter.shape, generator=rng))
    return spread_of(model) if zeros else 0.0


def _stuck_at_one_value(subject: Subject, model: nn.Module, seed: int) -> list[str]:
    """Weight matrices that hold one value and still do after a few steps of gradient descent; a gate at zero moves at once.

    Those whose gradient is not zero are not meant: behind a factor of 1e-6 their steps are lost in rounding, for now.
    """
    constant = {
        path: p.detach().clone()
        for path, p in model.named_parameters()
        if p.ndim > 1 and len(p) > 1 and p.numel() and bool((p == p.flatten()[0]).all())
    }
    if not constant:
        return []
    trained = subject.fresh()
    with mode(trained, train=True), seeded(seed):  # a model may keep what it computes from its weights, but not while it trains
        for step in range(4):
            trained.zero_grad(set_to_none=True)
            subject.backward(subject.batch(seed=seed + step), trained)
            with torch.no_grad():
                for p in trained.parameters():
                    if p.grad is not None:
                        p.sub_(p.grad, alpha=0.1)
    return [
        path
        for path, p in trained.named_parameters()
        if path in constant and p.grad is not None and not bool(p.grad.any()) and torch.equal(p, constant[path])
    ]


def _called_in_vain(subject: Subject, model: nn.Module, counterexample: str, seed: int) -> Evidence | None:
    """The warning on one module in several entries of a list that reads the same in each of its calls; ``None`` where there is none.

    Layers that share their weights on purpose are called one after the other, so that each reads what the last one wrote.
    """
    entries = _one_in_several_entries(model)
    if not entries:
        return None
    with recording(model) as calls:
        subject.logits(subject.batch(seed=seed), model)
    for paths in entries:
        first, *others = [call.inputs for call in calls if call.module == paths[0]] or [[]]
        if others and first and all(len(each) == len(first) and all(map(torch.equal, each, first)) for each in others):
            kind = type(model.get_submodule(paths[0])).__name__
            return Evidence.warned(
                _NAME,
                f"{listed(paths)} are one module: its {len(others) + 1} calls read the same and compute the same, whatever is learnt",
                counterexample=counterexample,
                module=paths[0],
                cause=f"a list that is multiplied, `[{kind}(...)] * {len(paths)}`, or one instance in every entry: make one for each, "
                f"`[{kind}(...) for _ in range({len(paths)})]`; where one is meant, call it once",
                place=line_that_calls(model, paths[0].rpartition(".")[0], (kind,)),
                code="one_module_repeated",
            )
    return None


def _one_in_several_entries(model: nn.Module) -> list[list[str]]:
    """The paths of each module with parameters that several entries of one ``ModuleList`` are, or hold at the same place."""
    paths: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(module, []).append(path)
    found = list[list[str]]()
    for module, each in paths.items():
        inside = found and each[0].startswith(f"{found[-1][0]}.")
        if len(each) > 1 and not inside and _are_entries(model, each) and any(True for _ in module.parameters()):
            found.append(each)
    return found


def _are_entries(model: nn.Module, paths: list[str]) -> bool:
    parts = [path.split(".") for path in paths]
    if len({len(each) for each in parts}) > 1:
        return False
    differing = [place for place, names in enumerate(zip(*parts, strict=True)) if len(set(names)) > 1]
    return len(differing) == 1 and isinstance(model.get_submodule(".".join(parts[0][: differing[0]])), nn.ModuleList)


def _is_scale(model: nn.Module, path: str, parameter: Tensor) -> bool:
    """Whether a parameter is a factor for each unit rather than the weights of units: such factors start equal and may well stay so."""
    owner = model.get_submodule(path.rpartition(".")[0])
    return (
        parameter.ndim > 1
        and parameter[:1].numel() == 1
        and not isinstance(owner, (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d))
    )


def _equal_rows(weight: Tensor) -> list[Tensor]:
    """The numbers of the rows that are equal, in groups of at least two."""
    if weight.ndim < 2 or len(weight) < 2 or not weight.numel():
        return []
    rows = _real(weight.detach()).flatten(1)
    few = _grouped(rows[:, :_TELLING])  # tell nearly all rows apart
    return [group[again] for group in few for again in _grouped(rows[group])]


def _grouped(rows: Tensor) -> list[Tensor]:
    _, group, counts = torch.unique(rows, dim=0, return_inverse=True, return_counts=True)
    return [(group == index).nonzero().flatten() for index in (counts > 1).nonzero().flatten().tolist()]


def _twins(groups: list[Tensor], slopes: list[Tensor]) -> tuple[int, int] | None:
    """Two rows of a group of equal ones whose gradients are equal, up to rounding, and not zero."""
    for members, own in zip(groups, slopes, strict=False):
        scale = own.abs().max()
        if scale == 0:
            continue
        same = (own[1:] - own[0]).abs().amax(1) <= 1e-5 * scale
        nonzero = own[1:].abs().amax(1) > 0
        found = (same & nonzero).nonzero().flatten()
        if len(found):
            return int(members[0]), int(members[1:][found[0]])
    return None


def _values(tensor: Tensor) -> Tensor:
    """A tensor's values, of a sparse one those it stores."""
    return tensor.detach().coalesce().values() if tensor.is_sparse else tensor


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _largest(tensors: list[Tensor]) -> float:
    plain = [t for t in tensors if t.is_floating_point() and not t.is_nested and t.numel()]
    values = [_without_masked(t).abs() for t in plain]
    return max((float(v.max()) for v in values if v.numel() and bool(v.isfinite().all())), default=0.0)


def _without_masked(values: Tensor) -> Tensor:
    """The values but those by which additive masks say "never": the most negative number of a dtype, or one far below all others."""
    real = values[values > torch.finfo(values.dtype).min]
    far = real < _NEVER
    return real[~far] if bool(far.any()) and not bool((real > _HALF_PRECISION_MAX).any()) else real

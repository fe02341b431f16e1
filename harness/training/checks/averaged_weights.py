"""Whether a moving average of weights is one: of all that it needs, and from where the weights began."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.evidence import Evidence, Status
from harness.training.checks.idle_copies import never_follows
from harness.training.trial import Trial, TrialOptions, too_long
from harness.wording import and_others, counted

_NAME = "averaged_weights"
_EPOCHS, _BATCHES = 2, 3
_OFF = 1e-2
"""Share of what a tensor moved that a weighted sum may leave open; it is rounding."""

_WHOLE = 1e-2
"""How far the weights of such a sum may be from 1 in all."""

_SAME_WAY = 0.85
"""Cosine from which a tensor moved the way that another one went, as a moving average does; unrelated ones have at most 0.7."""

_MORE = 8
"""Epochs after which the warm-up of an average has given way."""

_MOST, _COPIED = 0.45, 1 - 1e-4
"""Shares of the newest weights between which an average is none, and yet no copy."""

_CONSTANT, _SAME_SHARE = 3, 1e-4
"""Updates whose shares must be the same, and how far apart they may be."""

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Average:
    """A part of a model that is built as a part which is trained, and is frozen or begins as a copy of it.

    Attributes:
        path: Its path.
        source: The path of that part.
    """

    path: str
    source: str

    def of(self, name: str) -> str:
        """The name of a tensor of the average, from its name in the part."""
        return f"{self.path}.{name}"

    def source_of(self, name: str) -> str:
        """The name of the tensor that it is an average of."""
        return f"{self.source}.{name}" if self.source else name


@dataclass
class _Watch:
    """What the parts of a model held while it was trained.

    Attributes:
        pairs: Parts that may be averages.
        before: All tensors before the first step.
        copies: Parts that may be averages and are trained.
        path: Parameters at each step.
        stepped: Parameters once each step was taken.
        taught: Names of the parameters that had a gradient.
    """

    pairs: list[Average] = field(default_factory=list)
    copies: list[Average] = field(default_factory=list)
    before: Values = field(default_factory=dict)
    path: list[Values] = field(default_factory=list)
    stepped: dict[int, Values] = field(default_factory=dict)
    taught: set[str] = field(default_factory=set)

    def start(self, model: nn.Module) -> None:
        """The model before it is trained."""
        self.pairs, self.copies = find_pairs(model), find_trained_copies(model)
        self.before = _tensors(model)

    def look(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """A step is about to be taken."""
        number = len(self.path)
        self.path.append(_parameters(model))
        self.taught |= {name for name, each in model.named_parameters() if each.grad is not None and bool(each.grad.any())}
        for optimizer in optimizers if self.copies and not number else ():
            optimizer.register_step_post_hook(lambda *_call: self.stepped.update({len(self.path): _parameters(model)}))


def find_pairs(model: nn.Module) -> list[Average]:
    """The outermost frozen parts of a model that have the parameters of a part that is trained, by name and shape."""
    shapes = {path: _shapes(module) for path, module in model.named_modules()}
    trained = {
        path: shapes[path]
        for path, module in model.named_modules()
        if shapes[path] and any(parameter.requires_grad for parameter in module.parameters())
    }
    found: list[Average] = []
    for path, module in model.named_modules():
        own = shapes[path]
        if not own or any(p.requires_grad for p in module.parameters()) or any(_holds(pair.path, path) for pair in found):
            continue
        source = next((other for other, theirs in trained.items() if theirs == own and not _holds(other, path)), None)
        if source is not None:
            found.append(Average(path, source))
    return found


def find_trained_copies(model: nn.Module) -> list[Average]:
    """The outermost parts of a model that are trained and begin with the weights of another such part, each as a copy of the other."""
    parts = {path: dict(module.named_parameters()) for path, module in model.named_modules() if path}
    trained = {path: own for path, own in parts.items() if own and all(each.requires_grad for each in own.values())}
    found: list[Average] = []
    for path, own in trained.items():
        source = next((other for other, theirs in trained.items() if other != path and _are_copies(own, theirs)), None)
        if source is not None and not any(_holds(pair.path, path) for pair in found):
            found += [Average(path, source), Average(source, path)]
    return found


def _are_copies(own: Values, theirs: Values) -> bool:
    """Whether some parameters have the values of others and are not these; ones that all hold one number are alike by chance."""
    alike = own.keys() == theirs.keys() and all(torch.equal(each, theirs[name]) for name, each in own.items())
    return alike and any(each is not theirs[name] and bool((each != each.flatten()[0]).any()) for name, each in own.items())


def _parameters(model: nn.Module) -> Values:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters(remove_duplicate=False)}


def _tensors(model: nn.Module) -> Values:
    """All parameters and buffers, each by every name that it has."""
    return _parameters(model) | {name: buffer.detach().clone() for name, buffer in model.named_buffers(remove_duplicate=False)}


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in module.named_parameters()}


def _holds(outer: str, inner: str) -> bool:
    return not outer or inner == outer or inner.startswith(f"{outer}.")


def averaged_weights(trial: Trial) -> Evidence:
    """A part that follows the weights of another one begins where these began, leaves none of them out, and follows their running statistics.

    Which part is an average is found by training a little: it is built as another part, is frozen, and moves all the same, to a weighted mean
    of where the other one was.
    """
    if not find_pairs(trial.subject.model) and not find_trained_copies(trial.subject.model):
        return Evidence.skipped(
            _NAME, "no part of the model is a copy of another one, nor frozen and built as one that is trained"
        )
    count = _BATCHES * max(1, trial.batches_per_step)
    if reason := too_long(trial, count * _EPOCHS):
        return Evidence.skipped(_NAME, reason)
    watch = _Watch()
    batches = [trial.subject.batch(seed=seed) for seed in range(count)]
    model = trial.train(batches, TrialOptions(epochs=_EPOCHS), prepare=watch.start, on_gradients=watch.look).model
    after = _tensors(model)
    for pair in watch.copies:
        if found := _judge_trained(pair, model, watch, after):
            return found
    averages = [pair for pair in watch.pairs if _moved(pair, model, watch.before, after)]
    if not averages:
        told = f"no frozen part moves in {counted(len(watch.path), 'step')} of {_EPOCHS} epochs"
        return never_follows(trial, watch.pairs, batches) or Evidence.skipped(_NAME, told)
    if any(_is_late(_shares(pair, model, watch, after)) for pair in averages):  # still warming up, or for good
        watch = _Watch()
        model = trial.train(batches, TrialOptions(epochs=_MORE), prepare=watch.start, on_gradients=watch.look).model
        after = _tensors(model)
    for pair in averages:
        found = (
            _judge_way(pair, model, watch, after)
            or _judge_buffers(trial, pair, model, watch.before, after)
            or _judge_start(pair, model, watch, after)
            or _judge_part(pair, model, watch.before, after)
            or _judge_pace(pair, model, watch, after)
        )
        if found is not None:
            return found
    message = f"`{averages[0].path}` is an average of `{averages[0].source}`, its running statistics included"
    return Evidence.ok(_NAME, message)


def _moved(pair: Average, model: nn.Module, before: Values, after: Values) -> list[str]:
    """Names of the parameters of an average that moved, within it."""
    names = [name for name, _ in model.get_submodule(pair.path).named_parameters()]
    return [name for name in names if not torch.equal(before[pair.of(name)], after[pair.of(name)])]


def _judge_trained(pair: Average, model: nn.Module, watch: _Watch, after: Values) -> Evidence | None:
    """A finding where a copy is moved towards its part between the steps, and by the steps as well."""
    between = [
        (watch.stepped[number], then) for number, then in enumerate([*watch.path[1:], after], 1) if number in watch.stepped
    ]
    towards = [
        name
        for name, _ in model.get_submodule(pair.path).named_parameters()
        if pair.of(name) in watch.taught
        and any(not torch.equal(stepped[pair.of(name)], then[pair.of(name)]) for stepped, then in between)
        and all(
            follows(stepped[pair.of(name)], then[pair.of(name)], [stepped[pair.source_of(name)]]) for stepped, then in between
        )
    ]
    if not towards:
        return None
    return _finding(
        f"`{pair.path}` follows the weights of `{pair.source}`, and is trained as well: `{pair.of(towards[0])}`"
        f"{and_others(len(towards) - 1, 'parameter')} has a gradient",
        "a copy that was not frozen: copy.deepcopy(...).requires_grad_(False), compute targets with it under torch.no_grad(), and give the "
        "optimizer the parameters of the trained part only",
        "average_is_trained",
        pair.path,
        Status.FAIL,
    )


def _judge_buffers(trial: Trial, pair: Average, model: nn.Module, before: Values, after: Values) -> Evidence | None:
    """A finding where running statistics of the trained part moved, and those of the average never did."""
    still = [
        name
        for name, buffer in model.get_submodule(pair.path).named_buffers()
        if buffer.is_floating_point()
        and (source := pair.source_of(name)) in after
        and not torch.equal(before[source], after[source])
        and torch.equal(before[pair.of(name)], after[pair.of(name)])
    ]
    if not still:
        return None
    first = pair.of(still[0])
    answers = _answers(trial, pair, model)
    what = "so it normalises by statistics of before the training" if answers else "which it needs before it can answer"
    return _finding(
        f"`{pair.path}` follows the weights of `{pair.source}`, and not its buffers: `{first}`{and_others(len(still) - 1, 'buffer')} never "
        f"changes, {what}",
        "an average over parameters() only: copy the buffers too, or call torch.optim.swa_utils.update_bn at the end",
        "average_without_buffers",
        first.rpartition(".")[0],
        Status.FAIL if answers else Status.WARN,
    )


def _answers(trial: Trial, pair: Average, model: nn.Module) -> bool:
    """Whether the model answers with the average in eval mode."""
    called: list[bool] = []
    hook = model.get_submodule(pair.path).register_forward_hook(lambda *_call: called.append(True))
    try:
        trial.subject.outputs(trial.subject.batch(), model.eval())
    finally:
        hook.remove()
    return bool(called)


def _judge_start(pair: Average, model: nn.Module, watch: _Watch, after: Values) -> Evidence | None:
    """A finding where an average holds a share of something that the weights never were."""
    name = max(_moved(pair, model, watch.before, after), key=lambda name: after[pair.of(name)].numel())
    begun, ended, source = watch.before[pair.of(name)], after[pair.of(name)], pair.source_of(name)
    if torch.equal(begun, watch.before[source]):
        return None
    places = [*(step[source] for step in watch.path), after[source]]
    if ended.numel() <= 2 * (len(places) + 1):
        return None
    weights = _weights(ended, places)
    if weights is not None and abs(sum(weights) - 1) <= _WHOLE:
        return None
    with_start = _weights(ended, [begun, *places])
    if with_start is None:
        return None  # it moves in another way than an average does
    left = with_start[0] if bool(begun.any()) else 1 - sum(with_start[1:])
    what = "other values" if bool(begun.any()) else "zeros"
    return _finding(
        f"`{pair.path}` is an average of `{pair.source}` that begins with {what}: after {counted(len(watch.path), 'step')} {left:.0%} of it is "
        "still these",
        "an average that is not a copy: begin with a deepcopy of the trained part, or load its state dict; or divide by 1 - decay ** steps",
        "average_starts_elsewhere",
        pair.path,
        Status.WARN,
    )


def _weights(ended: Tensor, places: Sequence[Tensor]) -> list[float] | None:
    """The weights with which a tensor is a sum of others; ``None`` where it is none."""
    columns = torch.stack([place.double().flatten() for place in places], 1).cpu()
    wanted = ended.double().flatten().cpu()
    found = torch.linalg.lstsq(columns, wanted[:, None], driver="gelsd").solution[:, 0]
    left = float((columns @ found - wanted).norm())
    spread = max(float((place.cpu().double().flatten() - wanted).norm()) for place in places)
    return found.tolist() if left <= _OFF * spread else None


def _judge_part(pair: Average, model: nn.Module, before: Values, after: Values) -> Evidence | None:
    """A finding where some weights moved, and their average never did."""
    moved = set(_moved(pair, model, before, after))
    names = [name for name, _ in model.get_submodule(pair.path).named_parameters() if name not in moved]
    left = [name for name in names if not torch.equal(before[pair.source_of(name)], after[pair.source_of(name)])]
    if not left:
        return None
    return _finding(
        f"`{pair.path}` follows the weights of `{pair.source}`, except `{pair.of(left[0])}`{and_others(len(left) - 1, 'parameter')}, which "
        "never changes",
        "two lists of parameters that are not in the same order or of the same length, or a filter by name",
        "average_in_part",
        pair.of(left[0]),
        Status.WARN,
    )


def _judge_pace(pair: Average, model: nn.Module, watch: _Watch, after: Values) -> Evidence | None:
    """A finding where the newest weights have the same large share at each update, so that nothing is averaged."""
    shares = _shares(pair, model, watch, after)[-_CONSTANT:]
    if len(shares) < _CONSTANT or not _is_late(shares) or max(shares) - min(shares) > _SAME_SHARE:
        return None
    return _finding(
        f"`{pair.path}` takes {shares[-1]:.1%} of the newest weights of `{pair.source}` at each step, so it is hardly an average",
        "a decay and its complement in each other's place (tau * slow + (1 - tau) * fast), or a warm-up that overwrites the final decay",
        "average_follows_at_once",
        pair.path,
        Status.WARN,
    )


def _judge_way(pair: Average, model: nn.Module, watch: _Watch, after: Values) -> Evidence | None:
    """A failure where an average moves straight away from the weights at each update, which drives it to infinity."""
    away = _shares(pair, model, watch, after, sign=-1.0)
    if len(away) < _CONSTANT or _shares(pair, model, watch, after):
        return None
    return _finding(
        f"`{pair.path}` moves away from the weights of `{pair.source}`: each update makes the gap {1 - away[-1]:.3g} times as large",
        "a sign: average += (weights - average) * (1 - decay), or average -= (average - weights) * (1 - decay)",
        "average_moves_away",
        pair.path,
        Status.FAIL,
    )


def _shares(pair: Average, model: nn.Module, watch: _Watch, after: Values, sign: float = 1.0) -> list[float]:
    """The share that the newest weights had at each update of an average: of those after the step, or else of those before it.

    Args:
        pair: The average.
        model: The model.
        watch: What it held while it was trained.
        after: What it holds now.
        sign: -1 for the shares of updates that move away from the weights.
    """
    names = _moved(pair, model, watch.before, after)
    states = [watch.before, *watch.path, after]
    found = []
    for old, new in pairwise(states):
        was, now = (torch.cat([each[pair.of(name)].double().flatten() for name in names]) for each in (old, new))
        for fast in (new, old):
            way = torch.cat([fast[pair.source_of(name)].double().flatten() for name in names]) - was
            share = float((now - was) @ way / way.square().sum().clamp(min=1e-30))
            if sign * share > 0 and float((now - was - share * way).norm()) <= _OFF * float((now - was).norm()):
                found.append(share)
                break
    return found


def _is_late(shares: Sequence[float]) -> bool:
    """Whether the newest weights have most of an average, and are not simply copied."""
    return bool(shares) and _MOST < shares[-1] < _COPIED


def _finding(message: str, cause: str, code: str, module: str, status: Status) -> Evidence:
    return Evidence(_NAME, status, message, module=module, cause=cause, code=code)


def is_mean_of(before: Tensor, after: Tensor, places: Sequence[Tensor]) -> bool:
    """Whether a tensor moved by a weighted sum of its ways to some places, which of more numbers than places cannot be chance."""
    if not after.is_floating_point() or after.numel() <= 2 * len(places):
        return False
    ways = torch.stack([(place - before).double().flatten() for place in places], 1)
    moved = (after - before).double().flatten()
    shares = torch.linalg.lstsq(ways, moved[:, None], driver="gelsd" if ways.device.type == "cpu" else None).solution
    # A slow average moves by few last places.
    rounding = len(places) * torch.finfo(after.dtype).eps * float(after.double().norm())
    return float((ways @ shares - moved[:, None]).norm()) <= _OFF * float(moved.norm()) + rounding


def follows(before: Tensor, after: Tensor, leaders: Iterable[Tensor]) -> bool:
    """Whether a tensor moved straight towards where one of the leaders went."""
    if not before.is_floating_point() or before.shape != after.shape:
        return False
    moved = (after - before).double()
    for leader in leaders:
        if leader.shape != before.shape:
            continue
        way = (leader - before).double()
        went_along = float((moved * way).sum()) >= _SAME_WAY * float(moved.norm() * way.norm())
        if went_along and float(moved.norm()) <= float(way.norm()):
            return True
    return False

"""Whether the loss that keeps experts equally busy does so: it has a gradient, and that gradient leads away from a router that has collapsed.

A router gives each token a score an expert. Here it is made to prefer one expert for every token, by the smallest change of its weights that
does so on one batch; the gradient of all that the loss holds beside the outputs must then lower that expert's scores. What the loss sends back
through the outputs is computed apart, and subtracted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.batches import Batch
from harness.evidence import Blame, Evidence, Status
from harness.properties.calling import mode
from harness.runtime import seeded
from harness.tasks.signature import Output
from harness.training.checks.gradient_noise import disable_dropout_and_freeze_batch_norms
from harness.training.checks.lines import ScalarLines
from harness.training.checks.observation import Observation, loss_name, observe
from harness.training.checks.training_loss import share_of
from harness.training.trial import Prepare, Trial, TrialOptions, Variation

_NAME = "training_loss"
_ROUTER = re.compile(r"rout|gat(e|ing)|switch", re.IGNORECASE)
_LEAD = 1.5
"""By how much an expert's score is raised above all others: enough to be the first choice, and not enough to saturate a softmax."""

_NOISE = 1e-4
"""Share of a gradient, or of a loss, below which what is left is rounding."""

_SAME = 1e-3
"""Share of a value within which another one is the same."""

_MOST = 2
"""Routers that are judged."""


@dataclass(frozen=True)
class Router:
    """The weights of a router.

    Attributes:
        path: The module that holds them.
        name: The parameter.
        by_rows: Whether each expert has a row of them, and not a column.
        experts: How many experts there are.
    """

    path: str
    name: str
    by_rows: bool
    experts: int

    def direction(self, along: Tensor, weight: Tensor) -> Tensor:
        """A change of the weights that raises the scores of the first expert."""
        change = torch.zeros_like(weight)
        (change if self.by_rows else change.mT)[0] = along.to(weight)
        return change


def find_routers(model: nn.Module) -> list[Router]:
    """The routers of a model: a matrix with a row or column an expert, named as one, beside as many experts."""
    found: list[Router] = []
    for path, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            if parameter.ndim != 2 or not _ROUTER.search(f"{path.rpartition('.')[2]}.{leaf}.{type(module).__name__}"):
                continue
            counts = set(_expert_counts(model, path))
            experts = next((size for size in parameter.shape if size in counts), 0)
            if experts:
                name = f"{path}.{leaf}".lstrip(".")
                found.append(Router(path, name, parameter.shape[0] == experts, experts))
    return found


def _expert_counts(model: nn.Module, path: str) -> Iterator[int]:
    """Numbers of equal parts that a module, or one of the two around it, has: a list of modules, or the first axis of stacked matrices."""
    for _ in range(3):
        owner = model.get_submodule(path)
        for child in (owner, *owner.children()):
            if isinstance(child, nn.ModuleList) and len(child) > 1 and len(set(map(type, child))) == 1:
                yield len(child)
            yield from (p.shape[0] for p in child.parameters(recurse=False) if p.ndim == 3 and p.shape[0] > 1)
        if not path:
            return
        path = path.rpartition(".")[0]


def balance(trial: Trial) -> Evidence:
    """The auxiliary loss of a mixture of experts lowers the scores of an expert that every token prefers."""
    routers = [each for each in find_routers(trial.subject.model) if trial.subject.model.get_parameter(each.name).requires_grad]
    if not routers:
        return Evidence.skipped(_NAME, "the model has no router that is trained beside its experts")
    batch = trial.subject.batch()
    judged = 0
    for router in routers[:_MOST]:
        found = _judge(trial, router, batch)
        if found is None:
            continue
        if found.status is not Status.OK:
            return found
        judged += 1
    if not judged:
        return Evidence.skipped(_NAME, f"{loss_name(trial)} holds no term for the routers beside that of the outputs")
    return Evidence.ok(_NAME, f"the auxiliary loss leads away from one expert for all, at router `{routers[0].path}`")


@dataclass(frozen=True)
class _Aside:
    """What the loss holds beside the outputs.

    Attributes:
        slope: Its gradient with respect to the router's weights.
        size: The norm of its gradient with respect to all parameters, as a share of that of the whole loss.
        value: Its value; ``None`` where it is not known what the outputs contribute.
        loss: The whole loss.
    """

    slope: Tensor
    size: float
    value: float | None
    loss: float


def _judge(trial: Trial, router: Router, batch: Batch) -> Evidence | None:
    """A verdict; ``None`` where there is nothing beside the outputs, or the router cannot be moved as wanted."""
    given = _given(trial, router, batch)
    along = _raises_all(given)
    if along is None:
        return None
    collapse = _collapse(router, given, along)
    before, after = _aside(trial, router, batch, None), _aside(trial, router, batch, collapse)
    if before is None or after is None:
        return None
    who = loss_name(trial)

    def find() -> str:
        return Blame(router.path, "" if before.value is None else _line_of_term(trial, batch, before.value))

    if max(before.size, after.size) <= _NOISE:
        if after.value is None or abs(after.value) <= _NOISE * abs(after.loss):
            return None
        return _finding(
            find,
            Status.FAIL,
            f"{who} holds a term of {after.value:.3g} beside that of the outputs, which has no gradient, so it keeps no expert busy",
            "a balance loss over the wrong axis, which is then a constant, or of choices or detached shares only: the mean share of each expert "
            "must keep its gradient",
            "balance_without_gradient",
        )
    push = float((after.slope * router.direction(along, after.slope)).sum())
    scale = float(after.slope.norm()) * float(along.norm())
    if push < -_NOISE * scale:
        falls = before.value is not None and after.value is not None and after.value < before.value
        return _finding(
            find,
            Status.FAIL if falls else Status.WARN,
            f"where router `{router.path}` prefers one expert for every token, the auxiliary part of {who} raises that expert's scores further",
            "a balance loss with the wrong sign, or one that rewards confident choices and is larger than what balances them",
            "rewards_collapse",
        )
    return Evidence.ok(_NAME, "", module=router.path)


def _given(trial: Trial, router: Router, batch: Batch) -> Tensor:
    """What a router is given for a batch, ``[T, W]``."""
    model, seen = trial.subject.fresh(), list[Tensor]()
    disable_dropout_and_freeze_batch_norms(model)
    width = model.get_parameter(router.name).shape[1 if router.by_rows else 0]

    def note(_module: nn.Module, arguments: tuple[object, ...]) -> None:
        fitting = [each for each in arguments if isinstance(each, Tensor) and each.shape[-1:] == (width,)]
        seen.extend(each.detach().flatten(0, -2) for each in fitting[:1])

    model.get_submodule(router.path).register_forward_pre_hook(note)
    with mode(model, train=True), seeded(0), torch.no_grad():
        trial.subject.outputs(batch, model)
    return seen[0].double() if seen else torch.empty(0, width, dtype=torch.float64)


def _raises_all(given: Tensor) -> Tensor | None:
    """A direction of an expert's weights that raises its score by about 1 for every token; ``None`` where there is none."""
    if not given.numel():
        return None
    ones = given.new_ones(len(given), 1)
    along = torch.linalg.lstsq(given.cpu(), ones.cpu(), driver="gelsd").solution[:, 0].to(given.device)
    return along if float((given @ along).min()) > 0.3 else None


def _collapse(router: Router, given: Tensor, along: Tensor) -> Prepare:
    """Changes a model's router so that every token of the batch prefers the first expert."""

    def change(model: nn.Module) -> None:
        weight = model.get_parameter(router.name)
        with torch.no_grad():
            rows = (weight if router.by_rows else weight.mT).double()
            scores = given @ rows.mT
            lead = float((scores.max(1).values - scores[:, 0]).max()) + _LEAD
            weight.add_(router.direction(along * lead / float((given @ along).min()), weight))

    return change


def _aside(trial: Trial, router: Router, batch: Batch, change: Prepare | None) -> _Aside | None:
    """What the loss of a step holds beside the outputs; ``None`` where the outputs of the step are not seen or not repeatable."""

    def prepare(model: nn.Module) -> None:
        disable_dropout_and_freeze_batch_norms(model)
        if change is not None:
            change(model)

    signature = trial.subject.task.signature
    seen = observe(trial, [batch], train=True, vary=Variation(prepare))
    if seen.loss is None or not seen.took_step or {output.name for output in signature.taught} - seen.slopes.keys():
        return None
    through = _through_outputs(trial, batch, prepare, seen)
    if through is None:
        return None
    aside = {name: gradient - through[name] for name, gradient in seen.gradients.items() if name in through}
    whole = torch.cat([gradient.flatten() for gradient in seen.gradients.values()]).norm()
    size = float(torch.cat([gradient.flatten() for gradient in aside.values()]).norm() / whole)
    known = [_value(trial, output, seen, batch) for output in signature.taught]
    value = None if None in known else float(seen.loss) - sum(each for each in known if each is not None)
    return _Aside(aside[router.name], size, value, float(seen.loss))


def _value(trial: Trial, output: Output, seen: Observation, batch: Batch) -> float | None:
    """What an output contributes to the loss of a step; ``None`` where it is trained by another loss than that of its kind."""
    signature, value, slope = trial.subject.task.signature, seen.values[output.name], seen.slopes[output.name]
    share = None if ":" in output.loss else share_of(signature, output, value, slope, batch)
    return None if share is None else share * float(signature.loss_of(output, value, batch))


def _through_outputs(trial: Trial, batch: Batch, prepare: Prepare, seen: Observation) -> dict[str, Tensor] | None:
    """The gradients that a step sends back through the outputs only; ``None`` where forward returns other outputs than the step saw."""
    model = trial.subject.fresh()
    prepare(model)
    names = [name for name in seen.slopes if name in seen.values]
    with mode(model, train=True), seeded(0), torch.enable_grad():
        outputs = trial.subject.adapter.outputs(model, batch)
        found = [outputs[name] for name in names]
        for name, output in zip(names, found, strict=True):
            wanted = seen.values[name].reshape(output.shape) if seen.values[name].numel() == output.numel() else None
            if wanted is None or float((wanted - output.detach()).abs().max()) > _NOISE * max(
                1.0, float(output.detach().abs().max())
            ):
                return None
        parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        slopes = [seen.slopes[name].reshape(output.shape) for name, output in zip(names, found, strict=True)]
        gradients = torch.autograd.grad(found, [*parameters.values()], slopes, allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
    }


def _line_of_term(trial: Trial, batch: Batch, value: float) -> str:
    """The user's line that last makes a scalar of a value in a training step."""
    found = [""]

    def note(made: Tensor, line: str) -> None:
        if line and abs(float(made.detach()) - value) <= _SAME * abs(value):
            found.append(line)

    with suppress(Exception), ScalarLines(note):
        trial.train(
            [batch] * max(1, trial.batches_per_step), TrialOptions(limit=1), prepare=disable_dropout_and_freeze_batch_norms
        )
    return found[-1]


def _finding(find: Callable[[], str], status: Status, message: str, cause: str, code: str) -> Evidence:
    return Evidence(_NAME, status, message, investigate=find, cause=cause, code=code)

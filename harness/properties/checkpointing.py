"""Activation checkpointing changes nothing: how a model switches it on, and its loss, gradients and statistics with it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from harness.compat import NormBase
from harness.evidence import WHOLE, Evidence
from harness.properties.calling import ModelRaisedError, NoGradientError, mode
from harness.properties.large_tensors import GradientGap, Read, gradient_gaps, reading_gradients
from harness.properties.places import line_that_calls
from harness.properties.prerequisites import hidden_by
from harness.properties.subject import Subject, floating_dtype
from harness.properties.tracing import Call, first_divergence, recording, whole
from harness.properties.train_mode import NAME
from harness.runtime import seeded
from harness.user_code import raised
from harness.wording import and_others

_METHODS = (
    ("gradient_checkpointing_enable", "gradient_checkpointing_disable"),
    ("enable_gradient_checkpointing", "disable_gradient_checkpointing"),
)
"""How the models of transformers and diffusers are switched on and off."""

_SETTER = "set_grad_checkpointing"
"""How those of timm are, with the state as argument."""

_FUNCTION = "_gradient_checkpointing_func"
"""What those of transformers and diffusers give, when they are switched on, each of their parts that has a flag."""

_FLAG = re.compile(
    r"_?(use|with|do|enable|grad|gradient|activation|act|memory|_)*_?(checkpoint|checkpointing|ckpt|recompute|cp)(_activations)?"
)
"""Names of the flags of other models: `use_checkpoint`, `gradient_checkpointing`, `with_cp`."""

_NOISE = 1e3
"""How many units in the last place of its largest value a gradient may differ by: the same operators run, some of them twice."""

_SMALL = 1e-3
"""A gradient so much smaller than the largest one of the model is held to the noise of that one."""


def same_with_checkpointing(subject: Subject, seed: int = 0) -> Evidence:
    """With the model's own activation checkpointing the loss, every gradient and every statistic are those without it."""
    if failure := hidden_by(subject.prerequisite_failure, NAME):
        return failure
    counterexample = f"{subject.typical.describe(subject.task)}, train mode, seed={seed}"
    try:
        how = switch(subject.fresh(), on=True)
        switch(subject.fresh(), on=False)
    except Exception as error:  # whatever a model says that cannot do it
        return Evidence.skipped(NAME, f"activation checkpointing cannot be switched on: {raised(error)}")
    if not how:
        return Evidence.skipped(NAME, "the model has no switch for activation checkpointing")
    try:
        differing = _Comparison(subject, _unchecked, _checked, seed)
    except NoGradientError:
        return _without_any_gradient(subject, how, counterexample, seed)
    except ModelRaisedError as error:
        return _raising(subject, how, error, counterexample, seed)
    if not differing.is_wrong or _is_rounding(subject, seed):
        if differing.statistics and _is_on(subject.model):
            return _updated_twice(subject, differing.statistics, how, counterexample)
        message = f"{how} changes neither the loss nor a gradient"
        if differing.statistics:
            message += (
                f"; `{differing.statistics[0]}` is updated twice in a step{and_others(len(differing.statistics) - 1, 'buffer')}"
            )
        return Evidence.ok(NAME, message, (differing.worst, _NOISE, "units in the last place"), counterexample=counterexample)
    if _Comparison(subject, _unchecked, _unchecked, seed).is_wrong:
        told = "with the same seed, a training step gives different gradients each time, whatever is checkpointed"
        return Evidence.skipped(NAME, told)
    return _judge_difference(subject, differing, how, counterexample, seed)


def _judge_difference(subject: Subject, differing: _Comparison, how: str, counterexample: str, seed: int) -> Evidence:
    """The failure of a step that checkpointing changes: a gradient is absent, the loss is another one, or a gradient is."""
    plain, checked = differing.plain, differing.checked
    place = line_that_calls(subject.model, WHOLE, ("checkpoint",))
    found: dict[str, Any] = {"counterexample": counterexample, "place": place}
    if differing.absent:
        path = differing.absent[0]
        return Evidence.failed(
            NAME,
            f"with {how} parameter `{path}` receives no gradient{and_others(len(differing.absent) - 1, 'parameter')}",
            (len(differing.absent), 0, "parameters"),
            module=path.rpartition(".")[0],
            cause="`use_reentrant=True` where no input of the checkpointed block asks for a gradient, as behind frozen layers: use False",
            code="no_gradient",
            **found,
        )
    if differing.loss:
        return Evidence.failed(
            NAME,
            f"with {how} the loss is {checked.loss:.6g}, without {plain.loss:.6g}",
            (abs(checked.loss - plain.loss), differing.loss_bound, ""),
            cause="an argument that the checkpointed call of a block leaves out (a mask, positions), or gives in another order",
            investigate=lambda: first_divergence(_recorded(subject, False, seed), _recorded(subject, True, seed), whole),
            code="loss_differs",
            **found,
        )
    path = differing.last_called()
    return Evidence.failed(
        NAME,
        f"with {how} the gradient of `{path}` differs{and_others(len(differing.gradients) - 1, 'parameter')}, though the "
        "loss is the same",
        (differing.worst, _NOISE, "units in the last place"),
        module=path.rpartition(".")[0],
        cause="random masks that are drawn again when the block is recomputed: `preserve_rng_state=False`, or a checkpoint of your own "
        "that does not put the random state back",
        code="gradient_differs",
        **found,
    )


def switch(model: nn.Module, on: bool) -> str:
    """Switches a model's activation checkpointing, and returns how, as a phrase; empty where it has no switch.

    Raises:
        Exception: Whatever a model raises that has a switch and cannot do it.
    """
    switched: set[nn.Module] = set()
    used = ""
    for module in model.modules():
        name = next((pair[not on] for pair in _METHODS if all(callable(getattr(module, each, None)) for each in pair)), "")
        if module in switched or not _is_supported(module):
            continue
        if name:
            getattr(module, name)()
            used = used or f"`{name}()`"
        elif callable(setter := getattr(module, _SETTER, None)):
            setter(on)
            used = used or f"`{_SETTER}()`"
        else:
            continue
        switched |= set(module.modules())
    if used:
        return used
    for holder, name in _flags(model):
        setattr(holder, name, on)
        if name == "gradient_checkpointing" and isinstance(holder, nn.Module) and not hasattr(holder, _FUNCTION):
            setattr(holder, _FUNCTION, partial(checkpoint, use_reentrant=False))
        used = used or f"`{name}`"
    return used


def _is_on(model: nn.Module) -> bool:
    """Whether a model computes its blocks again as it was built."""
    return any(getattr(holder, name) for holder, name in _flags(model))


def _flags(model: nn.Module) -> list[tuple[Any, str]]:
    """The flags of its modules, and of the settings that they keep, that say so: who holds them, and their names."""
    found: list[tuple[Any, str]] = []
    for module in model.modules():
        holders = [module, *(value for name, value in vars(module).items() if "conf" in name and hasattr(value, "__dict__"))]
        found += [(holder, name) for holder in holders for name, value in vars(holder).items() if _is_flag(name, value)]
    return found


def _is_flag(name: str, value: object) -> bool:
    return type(value) is bool and _FLAG.fullmatch(name) is not None


def _is_supported(module: nn.Module) -> bool:
    """Whether a class says that it can do it; one that says nothing can."""
    return all(getattr(module, name, True) for name in ("supports_gradient_checkpointing", "_supports_gradient_checkpointing"))


@dataclass(frozen=True)
class _Step:
    """A training step up to its gradients.

    Attributes:
        loss: The loss.
        statistics: The running statistics and other buffers after it.
        called: Paths of the modules in the order in which their calls began.
        epsilon: Of the dtype it was computed in.
    """

    loss: float
    statistics: Mapping[str, Tensor]
    called: list[str]
    epsilon: float


def _step(subject: Subject, model: nn.Module, seed: int, read: Read = lambda _name, _gradient: None) -> _Step:
    called: list[str] = []
    paths = {module: path for path, module in model.named_modules()}
    handles = [
        module.register_forward_pre_hook(lambda module, _: called.append(paths[module]))
        for module in paths
        if not isinstance(module, torch.jit.ScriptModule)
    ]
    try:
        with mode(model, train=True), seeded(seed), warnings.catch_warnings(), reading_gradients(model, read):
            warnings.simplefilter("ignore")  # of what is found here
            loss = subject.backward(subject.batch(seed=seed), model)
    finally:
        for handle in handles:
            handle.remove()
    return _Step(
        float(loss),
        {path: buffer.detach().clone() for path, buffer in model.named_buffers()},
        list(dict.fromkeys(called)),
        torch.finfo(floating_dtype(model)).eps,
    )


class _Comparison:
    """What differs between a step without checkpointing and one with it.

    Attributes:
        plain: The step without it.
        checked: The step with it.
        absent: Parameters that lack a gradient with it only.
        gradients: Parameters whose gradient differs.
        statistics: Buffers that differ.
        loss: Whether the loss differs.
        loss_bound: What it may differ by.
        worst: The largest difference of a gradient, in units in the last place.
    """

    def __init__(
        self, subject: Subject, without: Callable[[Subject], nn.Module], with_it: Callable[[Subject], nn.Module], seed: int
    ) -> None:
        steps: tuple[list[_Step], list[_Step]] = [], []

        def run(number: int, make: Callable[[Subject], nn.Module], read: Read) -> None:
            steps[number].append(_step(subject, make(subject), seed, read))

        gaps = gradient_gaps(subject.model, partial(run, 0, without), partial(run, 1, with_it))
        self.plain, self.checked = plain, checked = steps[0][0], steps[1][0]
        self.absent = [path for path, gap in gaps.items() if gap.is_lost]
        both = {path: gap for path, gap in gaps.items() if gap.largest is not None and not gap.is_lost}
        least = _SMALL * max((gap.largest or 0.0 for gap in gaps.values()), default=0.0)
        units = {path: _units(gap, least, plain.epsilon) for path, gap in both.items()}
        self.worst = max(units.values(), default=0.0)
        self.gradients = [path for path, number in units.items() if not number <= _NOISE]
        self.loss_bound = _NOISE * plain.epsilon * max(abs(plain.loss), 1.0)
        self.loss = not abs(plain.loss - checked.loss) <= self.loss_bound
        self.statistics = [
            path
            for path, before in plain.statistics.items()
            if path in checked.statistics and not torch.allclose(before.double(), checked.statistics[path].double(), rtol=1e-4)
        ]

    @property
    def is_wrong(self) -> bool:
        """Whether the loss or a gradient differs."""
        return bool(self.absent or self.gradients or self.loss)

    def last_called(self) -> str:
        """Of the parameters whose gradient differs one of the module that was called last: what comes before it only passes that on."""
        order = {path: place for place, path in enumerate(self.plain.called)}
        return max(self.gradients, key=lambda path: order.get(path.rpartition(".")[0], -1))


def _units(gap: GradientGap, least: float, epsilon: float) -> float:
    """A difference in units in the last place of the gradient's largest number, or of the least that counts."""
    scale = max(gap.largest or 0.0, least)
    return gap.gap / (scale * epsilon) if scale else 0.0


def _is_rounding(subject: Subject, seed: int) -> bool:
    """Whether the differences vanish in float64, where the model runs there."""
    if subject.double is None:
        return False

    def double(on: bool, _subject: Subject) -> nn.Module:
        model = subject.fresh_double()
        switch(model, on)
        return model

    try:
        return not _Comparison(subject, partial(double, False), partial(double, True), seed).is_wrong
    except (NoGradientError, ModelRaisedError):
        return False


def _unchecked(subject: Subject) -> nn.Module:
    """A copy of the model with checkpointing off."""
    model = subject.fresh()
    switch(model, on=False)
    return model


def _checked(subject: Subject) -> nn.Module:
    """A copy of the model with checkpointing on."""
    model = subject.fresh()
    switch(model, on=True)
    return model


def _recorded(subject: Subject, checked: bool, seed: int) -> list[Call]:
    model = subject.fresh()
    switch(model, checked)
    with mode(model, train=True), seeded(seed), recording(model, lines=True) as calls:
        subject.logits_with_grad(subject.batch(seed=seed), model)
    return calls


def _updated_twice(subject: Subject, statistics: list[str], how: str, counterexample: str) -> Evidence:
    path = statistics[0]
    owner = path.rpartition(".")[0]
    is_norm = isinstance(subject.model.get_submodule(owner), NormBase)
    return Evidence.warned(
        NAME,
        f"with {how} a step leaves `{path}` at another value{and_others(len(statistics) - 1, 'buffer')}: the block is computed twice",
        (len(statistics), 0, "buffers"),
        counterexample=counterexample,
        module=owner,
        cause="a batch norm in a checkpointed block updates its statistics once more when the block is computed again: use the square root of "
        "1 - momentum, or leave norms out of the block"
        if is_norm
        else "a counter or a statistic that is updated in forward, and once more when the block is computed again",
        code="statistics_updated_twice",
    ).at(line_that_calls(subject.model, WHOLE, ("checkpoint",)))


def _without_any_gradient(subject: Subject, how: str, counterexample: str, seed: int) -> Evidence:
    try:
        _step(subject, _unchecked(subject), seed)
    except NoGradientError:
        return Evidence.skipped(NAME, "the model has no trainable parameter")
    return Evidence.failed(
        NAME,
        f"with {how} the loss has no gradient at all",
        counterexample=counterexample,
        cause="`use_reentrant=True` where no input of the checkpointed block asks for a gradient, as behind frozen layers: use False",
        code="no_gradient_at_all",
    )


def _raising(subject: Subject, how: str, error: ModelRaisedError, counterexample: str, seed: int) -> Evidence:
    """The step raised; without checkpointing that is the matter of others.

    Raises:
        UserError: The step raises without it too.
    """
    _step(subject, _unchecked(subject), seed)
    return Evidence.failed(
        NAME,
        f"with {how} a training step raises: {error}",
        counterexample=counterexample,
        module=error.module,
        cause="an argument that the checkpointed call of a block lacks, or a block that computes something else the second time",
        code="raises",
    )

"""Train mode computes what eval mode computes, apart from random layers and the statistics of a batch; and an eval pass leaves it alone.

What is meant to differ is taken out: what drops at random drops nothing, every rate that is named as one is zero, and modules that keep
statistics of the batches they saw are in eval mode too. What still differs, and draws no random number, is another function than the
one that is trained.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from harness.batches import Batch
from harness.compat import Dropout, NormBase
from harness.errors import UserError
from harness.evidence import Evidence, Status
from harness.owners import left_to, owned_by
from harness.properties.adapter_layers import merged_equals_unmerged
from harness.properties.calling import NoGradientError, WithoutDropout, WithoutNoise
from harness.properties.large_tensors import reading_gradients
from harness.properties.noise import difference, judge_equal
from harness.properties.prerequisites import hidden_by, other_in_train_mode
from harness.properties.subject import Subject
from harness.properties.tracing import Call, calls_of, first_divergence, recording, whole
from harness.runtime import RandomState, seeded
from harness.wording import and_others

NAME = "train_mode"

DRAWS = "in train mode forward draws random numbers that do not belong to a layer or a rate of dropout"
"""Why a model cannot be compared with itself."""

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "a sigmoid": torch.sigmoid,
    "a tanh": torch.tanh,
    "a ReLU": torch.relu,
    "an exponential": torch.exp,
    "a limit to values between 0 and 1": lambda value: value.clamp(0, 1),
    "a limit to values between -1 and 1": lambda value: value.clamp(-1, 1),
}
"""What a model may add to its outputs when it is not trained, as its loss does so in training."""
_ALONG_AN_AXIS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "a softmax": torch.softmax,
    "a log-softmax": torch.log_softmax,
    "a normalisation": lambda value, axis: nn.functional.normalize(value, dim=axis),
}

_DRAWN = 64
"""Calls in train mode whose mean tells whether eval mode gives the mean."""

_BESIDE = 3.0
"""Standard errors that eval mode is off the mean of what is drawn, in the median of the logits, where it gives another mean."""

_NOISE = re.compile(r"noise|epsilon$", re.IGNORECASE)
"""Names of buffers that hold drawn noise, as of the noisy layers of a DQN."""

_RATE = re.compile(r".*drop.*|mask_(\w+_)?prob", re.IGNORECASE)
"""Names of settings that say how much is dropped, or masked in training only, as by SpecAugment."""

_DROPS = re.compile(r"drop|stochastic_?depth", re.IGNORECASE)
"""Names of the classes of layers that drop something at random."""


def equals_eval(subject: Subject, seed: int = 0) -> Evidence:
    """With random layers still and norms fixed, train mode gives the logits of eval mode."""
    if failure := hidden_by(subject.prerequisite_failure, NAME):
        return failure
    batch = subject.batch(seed=seed)
    counterexample = f"{subject.typical.describe(subject.task)}, rates of dropout 0, norms in eval mode, seed={seed}"
    if subject.train_mode_failure:
        return other_in_train_mode(subject, NAME)
    try:
        trained = _Stilled(subject, batch, seed)
    except UserError as error:
        return Evidence.skipped(NAME, f"forward cannot be called in train mode: {error}")
    evaluated = subject.logits(batch)
    if not _of_one_form(trained.calls, calls_of(subject.model, partial(subject.logits, batch))):
        return Evidence.skipped(NAME, "forward returns other tensors in train mode than in eval mode")
    if subject.bound(NAME) < difference(trained.logits, evaluated):
        if trained.draws:
            return _judge_drawn(subject, batch, trained, counterexample)
        if added := _added_in_eval_mode(trained.logits, evaluated, subject.bound(NAME)):
            return Evidence.ok(NAME, f"eval mode adds {added} to what train mode gives", counterexample=counterexample)
        if trained.is_weighted_by_rates(evaluated):
            message = "eval mode weights what train mode drops at random by how often it is kept"
            return Evidence.ok(NAME, message, counterexample=counterexample)

    def compare(model: nn.Module) -> tuple[Tensor, Tensor]:
        return (evaluated, trained.logits) if model is subject.model else (subject.logits(batch, model), trained.logits_of(model))

    def culprit(model: nn.Module) -> str:
        return first_divergence(calls_of(model, partial(subject.logits, batch)), trained.calls_of(model), whole)

    found = judge_equal(
        subject,
        NAME,
        compare,
        "without dropout, and with its norms fixed, the model gives other logits in train mode than in eval mode",
        counterexample,
        "weights that are merged, scaled or averaged on a switch of the mode and not as forward uses them, or a step that one branch of "
        "`if self.training` leaves out",
        culprit,
        code="differs_from_eval_mode",
    )
    if found.status is Status.FAIL and depends_on_earlier_calls(subject, batch, subject.batch(seed=seed + 1), seed, train=False):
        return left_to(NAME, "stateless", "a call changes the next one in eval mode too", code="depends_on_earlier_calls")
    if found.status is Status.FAIL and merged_equals_unmerged(subject, seed).status is Status.FAIL:
        return replace(found, details=owned_by("adapter_layers[merged]"), investigate=None)
    return found


def _judge_drawn(subject: Subject, batch: Batch, trained: _Stilled, counterexample: str) -> Evidence:
    """The verdict on a train mode that draws noise: eval mode gives what the noise's mean gives, or the mean of what train mode gives."""
    evaluated, bound = subject.logits(batch), subject.bound(NAME)

    def culprit() -> str:
        with WithoutNoise():
            calls = trained.calls_of(subject.model)
        return first_divergence(calls_of(subject.model, partial(subject.logits, batch)), calls, whole)

    with WithoutNoise():
        middle, again = trained.logits_of_draw(0), trained.logits_of_draw(1)
    if difference(middle, again) > bound:  # it draws other things than Gaussian noise
        return Evidence.skipped(NAME, DRAWS)
    if difference(middle, evaluated) <= bound:
        message = "eval mode gives what train mode gives at the mean of the noise that it draws"
        return Evidence.ok(NAME, message, counterexample=counterexample)
    draws = torch.stack([trained.logits_of_draw(number).double() for number in range(_DRAWN)])
    error = draws.std(0) / math.sqrt(_DRAWN)
    off = ((draws.mean(0) - evaluated.double()).abs() - bound).clamp(min=0) / error.clamp(min=torch.finfo(error.dtype).tiny)
    if float(off.median()) < _BESIDE:
        return Evidence.ok(NAME, "eval mode gives the mean of what train mode draws", counterexample=counterexample)
    return Evidence.warned(
        NAME,
        "eval mode gives neither what train mode gives at the mean of the noise that it draws, nor the mean of what it gives",
        (difference(middle, evaluated), bound, "between the logits"),
        counterexample=counterexample,
        cause="noise that eval mode adds as a number, such as one standard deviation, or another latent than the mean that training scatters "
        "around",
        investigate=culprit,
        code="beside_the_mean_of_noise",
    )


def after_eval(subject: Subject, seed: int = 0) -> Evidence:
    """An eval pass between two training steps changes neither the next step's logits nor which parameters it trains."""
    if failure := hidden_by(subject.prerequisite_failure, NAME):
        return failure
    batch, other = subject.batch(seed=seed), subject.batch(seed=seed + 1)
    counterexample = f"{subject.typical.describe(subject.task)}, a call in eval mode before one in train mode, seed={seed}"

    def fresh(like: nn.Module, evaluated: bool) -> nn.Module:
        model = subject.fresh_like(like)
        model.train()
        if evaluated:
            model.eval()
            with seeded(seed + 1):
                subject.raw_logits(other, model)
            model.train()
        return model

    def logits(model: nn.Module) -> Tensor:
        with seeded(seed):
            return subject.raw_logits(batch, model)

    def compare(model: nn.Module) -> tuple[Tensor, Tensor]:
        return logits(fresh(model, evaluated=False)), logits(fresh(model, evaluated=True))

    def culprit(model: nn.Module) -> str:
        return first_divergence(calls_of(fresh(model, False), logits), calls_of(fresh(model, True), logits), whole)

    models = [fresh(subject.model, evaluated) for evaluated in (False, True)]
    before, after = map(_trainable, models)
    if stopped := [path for path in before if path not in after]:
        return _untrained(
            stopped,
            "is not trained any more: its `requires_grad` is False",
            "a forward, or an `eval()` of your own, that freezes parameters and does not undo it in train mode",
            "freezes_in_eval_mode",
            counterexample,
        )
    try:
        without, reached = (_with_gradient(subject, batch, each, seed) for each in models)
        if lost := [path for path in without if path not in reached]:
            return _untrained(
                lost,
                f"receives no gradient{and_others(len(lost) - 1, 'parameter')}",
                "what forward keeps of a call without gradients, and still uses in train mode",
                "no_gradient_after_eval",
                counterexample,
            )
        evidence = judge_equal(
            subject,
            NAME,
            compare,
            "a call in eval mode changes what the model computes in train mode afterwards",
            counterexample,
            "a rate of dropout that eval mode sets to zero for good, or a layer that stays in eval mode",
            culprit,
            bound=subject.floor.repeat_bound,
            code="eval_pass_changes_training",
        )
    except UserError as error:
        return Evidence.skipped(NAME, f"forward cannot be called in train mode: {error}")
    if evidence.status is Status.FAIL and depends_on_earlier_calls(subject, batch, other, seed, train=False):
        return left_to(NAME, "stateless", "a call changes the next one in eval mode too", code="depends_on_earlier_calls")
    if evidence.status is Status.FAIL and depends_on_earlier_calls(subject, batch, other, seed, train=True):
        return Evidence.skipped(
            NAME, "a call in train mode depends on the calls before it, in whichever mode, as on masks they drew"
        )
    return evidence


def _untrained(paths: list[str], said: str, cause: str, code: str, counterexample: str) -> Evidence:
    """A failure of parameters that a call in eval mode has left untrained."""
    return Evidence.failed(
        NAME,
        f"after a call in eval mode parameter `{paths[0]}` {said}",
        (len(paths), 0, "parameters"),
        counterexample=counterexample,
        module=paths[0].rpartition(".")[0],
        cause=cause,
        code=code,
    )


def _with_gradient(subject: Subject, batch: Batch, model: nn.Module, seed: int) -> list[str]:
    """Names of the parameters that a training step gives a gradient."""
    reached: set[str] = set()
    with seeded(seed), reading_gradients(model, lambda path, _gradient: reached.add(path)), suppress(NoGradientError):
        subject.backward(batch, model)
    return [path for path, _ in model.named_parameters() if path in reached]


def depends_on_earlier_calls(subject: Subject, batch: Batch, other: Batch, seed: int, train: bool) -> bool:
    """Whether the logits of a batch change where another one was read before, in a mode."""
    found = []
    for before in ([], [other]):
        model = subject.fresh()
        model.train(train)
        for number, each in enumerate((*before, batch)):
            with seeded(seed if each is batch else seed + 1 + number):
                logits = subject.raw_logits(each, model)
        found.append(logits.nan_to_num())  # NaN in both is finite_output's matter
    return difference(*found) > subject.rounding


class _Stilled:
    """Calls of the model in train mode with what is random, and what looks at the batch, taken out.

    Attributes:
        logits: What the model gives.
        calls: The calls of its modules.
        draws: Whether random numbers were drawn all the same.
    """

    def __init__(self, subject: Subject, batch: Batch, seed: int) -> None:
        self._subject, self._batch, self._seed = subject, batch, seed
        self._keeps_state = changed_by_a_call(subject, batch, seed)
        model = self._model(subject.model)
        with seeded(seed), WithoutDropout():
            before = RandomState()
            with recording(model) as self.calls:
                self.logits = subject.raw_logits(batch, model)
            self.draws = bool(before.changes(RandomState()))

    def logits_of(self, like: nn.Module) -> Tensor:
        """The logits of a model, as those of ``logits``."""
        with seeded(self._seed), WithoutDropout():
            return self._subject.raw_logits(self._batch, self._model(like))

    def logits_of_draw(self, number: int) -> Tensor:
        """The logits of the model itself under another seed."""
        with seeded(self._seed + number), WithoutDropout():
            return self._subject.raw_logits(self._batch, self._model(self._subject.model))

    def is_weighted_by_rates(self, evaluated: Tensor) -> bool:
        """Whether eval mode gives the mean of what train mode draws, and only because it reads the rates.

        As in the first papers on dropout and stochastic depth, which weight in eval mode and not in training.
        """
        without_rates = self._subject.fresh()
        still(without_rates)
        bound = self._subject.bound(NAME)
        if difference(self._subject.logits(self._batch, without_rates.eval()), self.logits) > bound:
            return False
        drawing = self._model(self._subject.model, is_still=False)
        total = torch.zeros_like(evaluated, dtype=torch.float64)
        for number in range(_DRAWN):
            with seeded(self._seed + number):
                total += self._subject.raw_logits(self._batch, drawing).double()
        mean = total / _DRAWN
        return difference(mean, evaluated.double()) < difference(mean, self.logits.double())

    def calls_of(self, like: nn.Module) -> list[Call]:
        """The calls of the modules of a model, as those of ``calls``."""
        model = self._model(like)
        with seeded(self._seed), WithoutDropout(), recording(model, lines=True) as calls:
            self._subject.raw_logits(self._batch, model)
        return calls

    def _model(self, like: nn.Module, is_still: bool = True) -> nn.Module:
        model = self._subject.fresh_like(like)
        model.train()
        if is_still:
            still(model)
        for path, module in model.named_modules():
            if isinstance(module, NormBase) or path in self._keeps_state:
                module.training = False
        return model


def changed_by_a_call(subject: Subject, batch: Batch, seed: int = 0) -> set[str]:
    """Paths of the modules whose tensors or numbers a call in train mode changes: they keep statistics, whatever their class."""
    model = subject.fresh()
    model.train()
    still(model)
    before = {path: _state_of(module) for path, module in model.named_modules()}
    with seeded(seed), WithoutDropout():
        subject.raw_logits(batch, model)
    return {path for path, module in model.named_modules() if not _is_same(before.get(path, {}), _state_of(module))}


def still(model: nn.Module) -> None:
    """Puts layers of dropout into eval mode, and sets rates of dropout to zero, in a configuration too, and noise that is kept in buffers."""
    for module in model.modules():
        if isinstance(module, Dropout) or _DROPS.search(type(module).__name__):
            module.training = False
            if isinstance(getattr(module, "p", None), float):  # which attention may read instead of calling the layer
                module.p = 0.0  # type: ignore[assignment]
        for name, noise in list(module.named_buffers(recurse=False)):
            if _NOISE.search(name) and noise.is_floating_point() and noise.numel() > 1:
                setattr(module, name, torch.zeros_like(noise))  # not in place: copies share memory
        for holder in (module, *_settings_of(module)):
            for name, value in list(vars(holder).items()):
                if type(value) is float and _RATE.fullmatch(name):
                    setattr(holder, name, 0.0)


def _settings_of(module: nn.Module) -> Iterator[Any]:
    """The objects of settings that a module keeps, such as the configuration of a Hugging Face model."""
    for name, value in vars(module).items():
        if "conf" in name.lower() and hasattr(value, "__dict__") and not isinstance(value, (nn.Module, type)):
            yield value


def _of_one_form(left: list[Call], right: list[Call]) -> bool:
    """Whether two recordings end in tensors of the same shapes, as the model returned them."""
    ends = [[list(tensor.shape) for tensor in calls[-1].outputs] if calls else [] for calls in (left, right)]
    return ends[0] == ends[1]


def _added_in_eval_mode(trained: Tensor, evaluated: Tensor, bound: float) -> str:
    """What an eval mode adds to the outputs of train mode, as a phrase; empty where it is nothing known."""
    if trained.shape != evaluated.shape:
        return ""
    for told, function in _ACTIVATIONS.items():
        if difference(function(trained), evaluated) <= bound:
            return told
    for told, along in _ALONG_AN_AXIS.items():
        if any(difference(along(trained, axis), evaluated) <= bound for axis in range(trained.ndim)):
            return told
    return ""


def _state_of(module: nn.Module) -> dict[str, Any]:
    """A module's own buffers, tensors and numbers, as they are now."""
    found: dict[str, Any] = {name: value.clone() for name, value in module.named_buffers(recurse=False)}
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            found[name] = value.detach().clone()
        elif type(value) in (int, float):
            found[name] = value
    return found


def _is_same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    for name, value in right.items():
        other = left.get(name)
        if isinstance(value, Tensor):
            # What was not there before is a cache, and no statistic.
            if isinstance(other, Tensor) and (other.shape != value.shape or not torch.equal(other.to_dense(), value.to_dense())):
                return False
        elif other is not None and other != value:
            return False
    return True


def _trainable(model: nn.Module) -> list[str]:
    return [path for path, parameter in model.named_parameters() if parameter.requires_grad]

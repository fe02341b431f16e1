"""Adapters on frozen weights in training: only they change, and what is saved of them is enough."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import ProbeUnsupportedError, UserError
from harness.evidence import Evidence, Status
from harness.models.adapter_layers import Adapters, disabled, own_state
from harness.owners import failing_owner, owned_by
from harness.properties.adapter_layers import NAME, NONE, adapters_of
from harness.properties.calling import ModelRaisedError, mode
from harness.properties.initialisation import line_of_parameter
from harness.properties.large_tensors import largest_absolute, step_by_sign, through_a_file
from harness.properties.loading import load_into, second_instance
from harness.properties.model_variants import with_effect
from harness.properties.noise import is_packed, judge_equal
from harness.properties.places import method_of, placed_at
from harness.properties.subject import Subject
from harness.properties.watched_lines import LinesOfParameters, writing_line
from harness.runtime import seeded
from harness.user_code import raised

_STEPS = 3
"""As many steps as a pair of matrices needs of which one starts at zero, and one more."""

_STEP = 0.01
_ROUNDING = 1e-5
"""What merging and unmerging may do to a weight, as a share of its largest value."""

_NOTHING_FROZEN = "no parameter is frozen, so adapters are trained with all the rest"


def only_adapters_move(subject: Subject, seed: int = 0) -> Evidence:
    """A few training steps, with an evaluation before each, change every adapter and nothing that is frozen."""
    adapters = adapters_of(subject)
    if adapters is None and not hasattr(subject.model, "peft_config"):
        return Evidence.skipped(NAME, NONE)
    model = subject.fresh()
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    if not any(parameter.requires_grad for parameter in model.parameters()):
        told = (
            "every parameter is frozen, adapters too, so there is nothing to train (peft: is_trainable=True in from_pretrained)"
        )
        return Evidence.skipped(NAME, told)
    if not frozen:
        return Evidence.skipped(NAME, _NOTHING_FROZEN)
    model.train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train_a_little(subject, model, seed)
    model.train()
    after = dict(model.named_parameters())
    counterexample = f"{subject.typical.describe(subject.task)}, {_STEPS} training steps, an evaluation before each, seed={seed}"
    for name in frozen:
        change = largest_absolute(after[name].detach() - before[name])
        bound = _ROUNDING * largest_absolute(before[name])
        if change > bound:
            return Evidence.failed(
                NAME,
                f"`{name}` is frozen, and training changes it",
                (change, bound, ""),
                counterexample=counterexample,
                module=name,
                cause="adapters that eval() merges and train() does not take out again, or a forward that writes into a weight",
                details=owned_by("mode_round_trip") if _switching_moves(subject, name) else {},
                place=writing_line(lambda: subject.backward(subject.batch(seed=seed), model.train()), after[name]),
                code="frozen_parameter_changes",
            )
    return _stuck(subject, model, adapters, before, counterexample) or _trained_bases(subject, adapters, counterexample)


def _stuck(
    subject: Subject, model: nn.Module, adapters: Adapters | None, before: dict[str, Tensor], counterexample: str
) -> Evidence | None:
    """A failure where an adapter that is to be trained stays as it is; ``None`` where all move."""
    after = dict(model.named_parameters())
    for path in adapters.layers if adapters is not None else ():
        own = [name for name in after if name.startswith(f"{path}.") and after[name].requires_grad]
        if not own or not all(torch.equal(after[name], before[name]) for name in own):
            continue
        owner = failing_owner(NAME, subject, "trained", (Status.FAIL,))
        return Evidence.failed(
            NAME,
            f"the adapter of `{path}` does not move in {_STEPS} training steps",
            counterexample=counterexample,
            module=path,
            cause="both of its matrices start at zero, so that neither ever has a gradient: one of them must start at random",
            details=owned_by(owner) if owner else {},
            place=line_of_parameter(subject, own[0]),
            code="adapter_does_not_move",
        )
    return None


def _trained_bases(subject: Subject, adapters: Adapters | None, counterexample: str) -> Evidence:
    """A warning where some of the weights that adapters are merged into are trained as well, while others are frozen."""
    sound = Evidence.ok(NAME, "training changes adapters, and nothing that is frozen", counterexample=counterexample)
    if adapters is None:
        return sound
    if (beside := _trained_beside(subject.model, adapters)) and _has_switch(subject, adapters):
        return Evidence.warned(
            NAME,
            f"`{beside}` is trained with the adapter of its layer: with the adapter off, the layer is not what it was before",
            counterexample=counterexample,
            module=beside,
            cause="a bias that is not frozen with its weight",
            place=_line_that_thaws(subject, beside),
            code="trained_beside_adapter",
        )
    if not adapters.pair[0]:
        return sound
    model, merged = subject.fresh(), subject.fresh()
    for each in (model, merged):
        with torch.no_grad(), seeded(1):
            for parameter in each.parameters():
                if not is_packed(parameter) and parameter.is_floating_point():
                    parameter.add_(torch.randn_like(parameter), alpha=_STEP)
    try:
        adapters.merge(merged)
    except Exception:  # what keeps them from being merged is said by the case `merged`
        return sound
    theirs = dict(merged.named_parameters())
    bases = [
        (name, value.requires_grad)
        for name, value in model.named_parameters()
        if name.endswith("weight") and name in theirs and not torch.equal(value, theirs[name])
    ]
    trained = [name for name, is_trained in bases if is_trained]
    if not trained or len(trained) == len(bases):
        return sound
    return Evidence.warned(
        NAME,
        f"`{trained[0]}`, which an adapter is merged into, is trained as well, while other such weights are frozen",
        (len(trained), 0, "weights"),
        counterexample=counterexample,
        module=trained[0],
        cause="a loop that freezes the base model and misses a layer",
        place=_line_that_thaws(subject, trained[0]),
        code="base_is_trained",
    )


def _line_that_thaws(subject: Subject, name: str) -> str:
    """The line that says that a parameter is trained; empty where none does."""
    if subject.rebuild is None or subject.is_large:
        return ""
    return LinesOfParameters(partial(subject.rebuild, subject.seed)).frozen(name)


def _has_switch(subject: Subject, adapters: Adapters) -> bool:
    with disabled(subject.fresh(), adapters) as how:
        return bool(how)


def _trained_beside(model: nn.Module, adapters: Adapters) -> str:
    """Name of a bias that is trained although the weight of the same module, which an adapter is for, is frozen; empty where there is none."""
    known = dict(model.named_parameters())
    for name, parameter in known.items():
        owner, _, last = name.rpartition(".")
        weight = known.get(f"{owner}.weight")
        inside = any(path and f"{owner}.".startswith(f"{path}.") for path in adapters.layers)
        if inside and last == "bias" and parameter.requires_grad and weight is not None and not weight.requires_grad:
            return name
    return ""


def saved_adapters_load(subject: Subject, seed: int = 0) -> Evidence:
    """What is saved of adapters after some training, loaded over the same base model, gives the same logits."""
    adapters = adapters_of(subject)
    if adapters is None and not hasattr(subject.model, "peft_config"):
        return Evidence.skipped(NAME, NONE)
    if subject.rebuild is None:
        return Evidence.skipped(NAME, "the model has no factory, so the base model cannot be built once more")
    if adapters is not None and adapters.by_mode and (twice := _merged_after_loading(subject, seed)) is not None:
        return _unless_owned(subject, replace(twice, module=adapters.layers[0]))
    source = subject.fresh()
    if not any(parameter.requires_grad for parameter in source.parameters()):
        return Evidence.skipped(NAME, "every parameter is frozen, adapters too, so there is nothing to save")
    train_a_little(subject, source, seed, noise=True)
    batch = subject.batch(seed=seed)
    expected = subject.logits(batch, source)
    same_base = subject.rebuild(subject.seed)
    try:
        other, how = _loaded(subject, source, same_base)
    except UserError:
        raise
    except Exception as error:
        return Evidence.failed(
            NAME,
            f"saved adapters do not load over the same base model: {raised(error)}",
            cause="names that saving and loading make differently, or parts that are not saved",
            code="does_not_load",
        )
    given = subject.logits(batch, other.eval())
    found = judge_equal(
        subject,
        NAME,
        lambda _judge: (expected, given),
        f"what is saved of the adapters ({how}) gives different logits when it is loaded over the same base model",
        f"{subject.typical.describe(subject.task)}, after {_STEPS} training steps, seed={seed}",
        "something that is trained and not saved with the adapters: a bias, a head, statistics of a norm, a scale kept as an attribute",
        lambda _judge: _first_unsaved(source, other),
        code="adapter_state_incomplete",
    )
    return _unless_owned(subject, placed_at(found, method_of(source, how.removesuffix("()"))))


def _unless_owned(subject: Subject, found: Evidence) -> Evidence:
    """A finding of saved adapters, left to the case that explains it where that one fails."""
    owner = failing_owner(NAME, subject, "saved", (Status.FAIL,)) if found.status in (Status.FAIL, Status.WARN) else ""
    return replace(found, details=owned_by(owner), investigate=None) if owner else found


def _merged_after_loading(subject: Subject, seed: int) -> Evidence | None:
    """A warning where weights that were saved in eval mode, adapters folded in, get them once more after loading; ``None`` otherwise."""
    batch = subject.batch(seed=seed)

    def compare(judge: nn.Module) -> tuple[Tensor, Tensor]:
        source, other = with_effect(subject, judge), second_instance(subject, judge)
        other.train()  # as a model is when it was just made
        load_into(other, through_a_file(source))
        return subject.logits(batch, source), subject.logits(batch, other.eval())

    found = judge_equal(
        subject,
        NAME,
        compare,
        "a state dict that is saved in eval mode holds the merged weights, to which eval() adds the adapters once more after loading",
        f"{subject.typical.describe(subject.task)}, saved in eval mode, loaded in train mode, seed={seed}",
        "whether the adapters are merged is a plain attribute; make it a buffer, or unmerge before saving",
        code="saved_merged",
    )
    return replace(found, status=Status.WARN) if found.status is Status.FAIL else None


def _loaded(subject: Subject, source: nn.Module, base: nn.Module) -> tuple[nn.Module, str]:
    """A model over the same base with what was saved of the adapters, and how they were saved."""
    if (
        hasattr(source, "peft_config")
        and callable(getattr(source, "save_pretrained", None))
        and callable(getattr(base, "unload", None))
    ):
        package: Any = source
        with tempfile.TemporaryDirectory() as folder:
            package.save_pretrained(folder)
            return type(package).from_pretrained(base.unload(), folder), "save_pretrained()"  # type: ignore[attr-defined, operator]
    state, how = own_state(source)
    if state is None:
        trained = {name: value for name, value in source.named_parameters() if value.requires_grad}
        if len(trained) == sum(1 for _ in source.parameters()):
            raise ProbeUnsupportedError(_NOTHING_FROZEN)
        state, how = {name: value.detach().clone() for name, value in trained.items()}, "every parameter that is trained"
    base.train()  # adapters that eval() merges are loaded before they are
    missing = base.load_state_dict(state, strict=False)
    if missing.unexpected_keys:
        raise KeyError(f"the model has no {missing.unexpected_keys[0]!r}, which {how} holds")
    return base, how


def train_a_little(subject: Subject, model: nn.Module, seed: int, noise: bool = False) -> None:
    """A few steps in train mode with an evaluation before each, in which what can be trained moves by the sign of its gradient.

    Args:
        subject: The model's subject.
        model: The copy that is trained; in eval mode afterwards.
        seed: Seed of the inputs.
        noise: Whether everything that can be trained is moved at random first, so that adapters do something after few steps.

    Raises:
        ProbeUnsupportedError: It cannot be trained here.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad and not is_packed(parameter)]
    model.train()
    with torch.no_grad(), seeded(1):
        for parameter in trained if noise else ():
            parameter.add_(torch.randn_like(parameter), alpha=5 * _STEP)
    for step in range(_STEPS):
        model.eval()
        subject.logits(subject.batch(seed=seed), model)
        model.train()
        with mode(model, train=True), seeded(seed + step):
            try:
                subject.backward(subject.batch(seed=seed + step), model)
            except ModelRaisedError as error:
                raise ProbeUnsupportedError(f"the model cannot be trained here: {error}") from None
        step_by_sign(trained, _STEP)
        model.zero_grad(set_to_none=True)
    model.eval()


def _first_unsaved(source: nn.Module, other: nn.Module) -> str:
    """Name of the first parameter or buffer that differs."""
    theirs = other.state_dict()
    for name, value in source.state_dict().items():
        if name in theirs and isinstance(value, Tensor) and not torch.allclose(value, theirs[name], rtol=1e-4, atol=1e-6):
            return name
    return ""


def _switching_moves(subject: Subject, name: str) -> bool:
    """Whether a switch to eval mode and back changes a weight for good."""
    model = with_effect(subject, subject.model).train()
    before = dict(model.named_parameters())[name].detach().clone()
    model.eval().train()
    after = dict(model.named_parameters())[name].detach()
    return largest_absolute(after - before) > _ROUNDING * largest_absolute(before)

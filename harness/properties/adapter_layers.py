"""Adapters on frozen weights, such as LoRA: merging, disabling and saving them does not change what they compute.

Fresh adapters often start at zero, where nothing can go wrong. So their parameters are moved first, as training would.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from harness.errors import ProbeUnsupportedError, UserError
from harness.evidence import WHOLE, Blame, Evidence, Status
from harness.models.adapter_layers import (
    Adapters,
    adapter_parameters,
    disabled,
    find_adapters,
    has_signs_of_adapters,
    named_as_adapters,
)
from harness.properties.initialisation import line_of_parameter
from harness.properties.large_tensors import largest_absolute
from harness.properties.loading import tied_and_changed
from harness.properties.model_variants import WithAdapters, move_at_random, with_effect
from harness.properties.noise import difference, is_packed, judge_equal
from harness.properties.places import line_that_changes_a_weight, method_of, placed_at
from harness.properties.subject import Subject
from harness.properties.tracing import calls_of, first_divergence, recording, whole
from harness.properties.watched_lines import last_written_line
from harness.runtime import seeded
from harness.user_code import raised

NAME = "adapter_layers"
_REFUSES = re.compile(
    r"impossible|not (yet )?(supported|implemented|possible)|unsupported|cannot (be )?merge|can't merge", re.IGNORECASE
)
"""How a method says that it does not merge such adapters."""

NONE = "the model has no adapters (LoRA and the like) that can be merged or disabled"
_MOVED = 0.05
_LOW_RANK = re.compile(r"lora|low_?rank", re.IGNORECASE)

_ACTS = 0.01
"""Share of the largest logit by which fresh adapters may change the logits: more than a matrix that begins near zero does."""

_RESTORED = 1e-3
"""What merging and unmerging may leave of a change, as a share of the largest value of a weight: far more than rounding."""


def merged_equals_unmerged(subject: Subject, seed: int = 0) -> Evidence:
    """Adapters that are merged into the weights give the same logits, and unmerging restores them."""
    adapters = adapters_of(subject)
    if adapters is None:
        return Evidence.skipped(NAME, NONE)
    if not adapters.can_merge:
        return Evidence.skipped(NAME, "the model has no methods that merge its adapters and unmerge them")
    batch, models = subject.batch(seed=seed), WithAdapters(subject)

    def apart(judge: nn.Module) -> Tensor:
        return _unmerged_logits(subject, adapters, models.of(judge, "apart"), seed)

    def merged(judge: nn.Module) -> nn.Module:
        return models.of(judge, "merged", lambda model: None if adapters.by_mode else adapters.merge(model))

    try:
        merged(subject.model)
    except UserError:
        raise
    except Exception as error:
        return raises(adapters.merging, error)
    at = f"{subject.typical.describe(subject.task)}, adapters moved at random, seed={seed}"
    found = judge_equal(
        subject,
        NAME,
        lambda judge: (apart(judge), subject.logits(batch, merged(judge))),
        f"merged by {adapters.merging}, the adapters change the logits",
        at,
        "a scale, a transpose, or a bias that forward has and the merge has not, or the other way round",
        lambda judge: _first_layer(subject, adapters, models.of(judge, "apart"), merged(judge), seed, are_merged=True),
        code="merged_differs",
    )
    if found.status is not Status.OK:
        return found
    if adapters.by_mode:
        twice = _merged_once(subject, models, seed)
        return found if twice is None else placed_at(twice, line_that_changes_a_weight(subject.model, adapters.layers[0]))
    undone = _judge_undone(subject, adapters, models, apart, at, seed)
    if undone.status is not Status.OK or not _unmerge_asks(adapters, models.of(subject.model, "asked")):
        return undone
    return _merged_again(subject, adapters, models, apart, seed)


def _judge_undone(
    subject: Subject, adapters: Adapters, models: WithAdapters, apart: Callable[[nn.Module], Tensor], at: str, seed: int
) -> Evidence:
    """Whether merging and unmerging leave the logits and every weight as they were."""
    batch = subject.batch(seed=seed)
    try:
        back = partial(models.of, name="back", change=adapters.merge_and_unmerge)
        back(subject.model)
    except UserError:
        raise
    except Exception as error:
        return raises(adapters.unmerging, error)
    found = judge_equal(
        subject,
        NAME,
        lambda judge: (apart(judge), subject.logits(batch, back(judge))),
        f"after {adapters.merging} and {adapters.unmerging} the logits are not what they were",
        at,
        "an unmerge that leaves out, or does otherwise, what the merge does: a bias, a scale, a transpose, a flag",
        lambda judge: _first_layer(subject, adapters, models.of(judge, "apart"), back(judge), seed, is_undone=True),
        code="unmerge_does_not_restore",
    )
    if found.status is Status.OK and (name := _not_restored(models.of(subject.model, "apart"), back(subject.model))):
        layer = next((path for path in adapters.layers if name.startswith(f"{path}.")), "")
        found = Evidence.failed(
            NAME,
            f"after {adapters.merging} and {adapters.unmerging} `{name}` is not what it was, which shows once the adapters are off",
            counterexample=at,
            module=name,
            cause="an unmerge that puts back what was kept elsewhere, and not what the merge replaced",
            code="weight_not_restored",
        )
        place = line_that_changes_a_weight(subject.model, layer, is_undone=True)
        return placed_at(found, place or _line_of_writes(subject, adapters, models.of(subject.model, "apart"), name))
    return found


def _unmerge_asks(adapters: Adapters, model: nn.Module) -> bool:
    """Whether unmerging leaves a model alone whose adapters are not merged; then merging is expected to ask as well."""
    before = [parameter.detach().clone() for parameter in model.parameters()]
    try:
        adapters.unmerge(model)
    except Exception:  # it needs what a merge keeps
        return False
    return all(torch.equal(now, then) for now, then in zip(model.parameters(), before, strict=True))


def _merged_again(
    subject: Subject, adapters: Adapters, models: WithAdapters, apart: Callable[[nn.Module], Tensor], seed: int
) -> Evidence:
    """A warning where adapters that are merged once more, and then unmerged, leave something in the weights.

    Only where unmerging knows whether they are merged: elsewhere both count on being called in turn.
    """
    batch = subject.batch(seed=seed)

    def twice(model: nn.Module) -> None:
        adapters.merge(model)
        adapters.merge_and_unmerge(model)

    def culprit(judge: nn.Module) -> str:
        found = _first_layer(subject, adapters, models.of(judge, "apart"), again(judge), seed)
        merges = "" if adapters.on_model else method_of(judge.get_submodule(adapters.layers[0]), adapters.pair[0])
        return Blame(found, merges or getattr(found, "place", ""))

    again = partial(models.of, name="again", change=twice)
    try:
        again(subject.model)
    except UserError:
        raise
    except Exception:  # merged adapters may refuse to be merged
        again = partial(models.of, name="apart")
    found = judge_equal(
        subject,
        NAME,
        lambda judge: (apart(judge), subject.logits(batch, again(judge))),
        f"{adapters.merging} a second time merges once more, and {adapters.unmerging} takes out only one of the two",
        f"{subject.typical.describe(subject.task)}, adapters moved at random, seed={seed}",
        "a merge that does not ask whether the adapters are merged, or an unmerge that keeps only what was merged last",
        culprit,
        code="second_merge_counts",
    )
    return replace(found, status=Status.WARN) if found.status is Status.FAIL else found


def _not_restored(before: nn.Module, after: nn.Module) -> str:
    """Name of a parameter that differs by more than rounding."""
    theirs = dict(after.named_parameters())
    for name, value in before.named_parameters():
        if name not in theirs or is_packed(value) or not value.numel():
            continue
        if largest_absolute(theirs[name] - value) > _RESTORED * largest_absolute(value):
            return name
    return ""


def _merged_once(subject: Subject, models: WithAdapters, seed: int) -> Evidence | None:
    """A failure where a second ``eval()`` merges once more; ``None`` where it does not."""
    batch = subject.batch(seed=seed)

    def compare(judge: nn.Module) -> tuple[Tensor, Tensor]:
        once = models.of(judge, "once", lambda model: model.train().eval())
        twice = models.of(judge, "twice", lambda model: model.train().eval().eval())
        return subject.logits(batch, once), subject.logits(batch, twice)

    found = judge_equal(
        subject,
        NAME,
        compare,
        "eval() merges the adapters once more each time that it is called",
        f"{subject.typical.describe(subject.task)}, eval() called twice, seed={seed}",
        "a train() that does not remember whether the adapters are merged",
        code="merged_twice",
    )
    return found if found.status is not Status.OK else None


def disabled_is_base(subject: Subject, seed: int = 0) -> Evidence:
    """With adapters switched off the logits are those of the base model, and switched on again they are as before."""
    adapters = adapters_of(subject)
    if adapters is None and not hasattr(subject.model, "peft_config"):
        return Evidence.skipped(NAME, NONE)
    batch = subject.batch(seed=seed)
    models = WithAdapters(subject)
    names = _parameters_of(subject, adapters, models)

    def switched_off(judge: nn.Module, name: str) -> Tensor:
        model = models.of(judge, name, partial(move_at_random, names=names, seed=2) if name == "other" else None)
        with disabled(model, adapters):
            return subject.logits(batch, model)

    def on_again(judge: nn.Module) -> tuple[Tensor, Tensor]:
        model = models.of(judge, "on")
        before = subject.logits(batch, model)
        with disabled(model, adapters):
            subject.logits(batch, model)
        return before, subject.logits(batch, model)

    with disabled(models.of(subject.model, "one"), adapters) as how:
        if not how:
            return Evidence.skipped(NAME, "the model has no method or attribute that switches its adapters off")
    at = f"{subject.typical.describe(subject.task)}, {how}, seed={seed}"
    found = judge_equal(
        subject,
        NAME,
        lambda judge: (switched_off(judge, "one"), switched_off(judge, "other")),
        f"adapters that are switched off by {how} still change the logits",
        at,
        "a branch of forward that does not ask whether adapters are on, or weights that stay merged",
        lambda judge: _layer_that_is_on(subject, adapters, models, judge, seed),
        code="disabled_adapter_acts",
    )
    if found.status is not Status.OK:
        return found
    found = judge_equal(
        subject,
        NAME,
        on_again,
        f"adapters that are switched off by {how} and on again give different logits than before",
        at,
        "a switch that changes the weights, or leaves them merged",
        code="enabling_does_not_restore",
    )
    return found if found.status is not Status.OK else _fresh_ones_act(subject, adapters, batch, at) or found


def _fresh_ones_act(subject: Subject, adapters: Adapters | None, batch: dict[str, Tensor], at: str) -> Evidence | None:
    """A warning where low-rank adapters that nothing has trained change the logits; not of peft's, which may change the base weights too."""
    is_of_low_rank = adapters is not None and (adapters.can_merge or any(map(_LOW_RANK.search, named_as_adapters(subject.model))))
    if not (is_of_low_rank and subject.fresh_weights) or hasattr(subject.model, "peft_config"):
        return None
    model = subject.fresh()
    with recording(model, lines=True) as acting:
        fresh = subject.logits(batch, model)
    with disabled(model, adapters), recording(model, lines=True) as base:
        without = subject.logits(batch, model)
    apart, bound = difference(fresh, without), max(_ACTS * largest_absolute(without), subject.bound(NAME))
    message = "adapters change the logits before they have learnt anything"
    cause = (
        "both matrices of an adapter that begin at random: one of them begins at zero, so that training begins with the base model; fine where "
        "the frozen weights were changed to make up for it, or the adapters are trained already"
    )
    found = Evidence.warned(
        NAME, message, (apart, bound, "between the logits"), counterexample=at, cause=cause, code="fresh_adapter_acts"
    )

    def culprit() -> Blame:
        layer = first_divergence(base, acting, whole)
        own = [name for name, value in model.named_parameters() if name.startswith(f"{layer}.") and value.requires_grad]
        matrices = [
            name for name in own if model.get_parameter(name).ndim > 1
        ]  # the last of them is added to what is not adapted
        return Blame(layer, (line_of_parameter(subject, matrices[-1]) if matrices else "") or layer.place)

    return replace(found, investigate=culprit) if apart > bound else None


def adapters_of(subject: Subject) -> Adapters | None:
    """The adapters of the model; ``None`` where it has none."""
    if not has_signs_of_adapters(subject.model):
        return None
    return find_adapters(with_effect(subject, subject.model))


def _parameters_of(subject: Subject, adapters: Adapters | None, models: WithAdapters) -> list[str]:
    """Names of the adapters' parameters."""
    model, merged = models.of(subject.model, "named"), None
    if adapters is not None and adapters.pair[0]:
        try:
            merged = models.of(subject.model, "merged", adapters.merge)
        except Exception:  # what keeps them from being merged is said by the case `merged`
            merged = None
    return adapter_parameters(model, adapters or Adapters(("",)), merged)


@torch.no_grad()
def _unmerged_logits(subject: Subject, adapters: Adapters, model: nn.Module, seed: int) -> Tensor:
    """Logits with the adapters beside the weights.

    Where the mode merges them, that is train mode, with everything else as in eval mode.

    Raises:
        ProbeUnsupportedError: The layers that merge draw random numbers in train mode.
    """
    batch = subject.batch(seed=seed)
    if not adapters.by_mode:
        return subject.logits(batch, model)
    model.train()
    layers = {model.get_submodule(path) for path in adapters.layers} | {model}
    for module in model.modules():
        if module not in layers:
            module.training = False
    try:
        first, second = (_under(draw, subject, batch, model) for draw in (1, 2))
    finally:
        model.eval()
    if difference(first, second) > subject.floor.repeat_bound:
        raise ProbeUnsupportedError("layers that merge their adapters in eval mode draw random numbers in train mode")
    return first


def _under(draw: int, subject: Subject, batch: dict[str, Tensor], model: nn.Module) -> Tensor:
    with seeded(draw):
        return subject.raw_logits(batch, model)


def _first_layer(
    subject: Subject,
    adapters: Adapters,
    apart: nn.Module,
    merged: nn.Module,
    seed: int,
    is_undone: bool = False,
    are_merged: bool = False,
) -> str:
    """The first layer with adapters whose output differs though its inputs agree, with the line that changes its weight."""
    before = calls_of(apart, lambda model: _unmerged_logits(subject, adapters, model, seed))
    after = calls_of(merged, partial(subject.logits, subject.batch(seed=seed)))
    left, right = ([call for call in calls if call.module in adapters.layers] for calls in (before, after))
    found = first_divergence(left, right, whole)
    if not found:
        return tied_and_changed(apart, merged)
    if are_merged and _still_reads(subject, adapters, merged, found, seed):
        return found
    undoing = _line_of_writes(subject, adapters, apart, found) if is_undone else ""
    return Blame(found, line_that_changes_a_weight(merged, found, is_undone) or undoing or found.place)


def _line_of_writes(subject: Subject, adapters: Adapters, model: nn.Module, name: str) -> str:
    """The line of merging and unmerging that last writes into a parameter, or one of a layer's."""
    model = subject.copies.of(model)
    own = [parameter for path, parameter in model.named_parameters() if f"{path}.".startswith(f"{name}.")]
    return last_written_line(lambda: adapters.merge_and_unmerge(model), own)


def _still_reads(subject: Subject, adapters: Adapters, merged: nn.Module, layer: str, seed: int) -> bool:
    """Whether the forward of a merged layer still reads its adapters, which it then adds a second time."""
    batch, other = subject.batch(seed=seed), subject.copies.of(merged).eval()
    names = [name for name in adapter_parameters(other, adapters, None) if name.startswith(f"{layer}.") or layer == WHOLE]
    move_at_random(other, names, seed=3)
    return bool(names) and difference(subject.logits(batch, merged), subject.logits(batch, other)) > subject.rounding


def _layer_that_is_on(subject: Subject, adapters: Adapters | None, models: WithAdapters, judge: nn.Module, seed: int) -> str:
    traces = []
    for name in ("one", "other"):
        model = models.of(judge, name)
        with disabled(model, adapters), recording(model, lines=True) as calls:
            subject.logits(subject.batch(seed=seed), model)
        traces.append(calls)
    return first_divergence(traces[0], traces[1], whole)


def raises(method: str, error: Exception) -> Evidence:
    """A failure of a method that merges or unmerges; where it says that it cannot, a skip."""
    if _REFUSES.search(str(error)):
        return Evidence.skipped(NAME, f"{method} refuses: {raised(error)}")
    return Evidence.failed(
        NAME,
        f"{method} raises {raised(error)}",
        cause="a merge that was written for another layer: its shape, the groups of a convolution, or a change in place of a trained weight",
        code="merge_raises",
    )

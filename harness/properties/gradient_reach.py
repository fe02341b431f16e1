"""Which parameters a gradient reaches: over a few batches, in eval mode, with other weights, at larger inputs, from other outputs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from harness.batches import Batch, Sizes, with_rows
from harness.properties.calling import ModelRaisedError, NoGradientError, mode
from harness.properties.carried_state import going_on
from harness.properties.large_tensors import reading_gradients, root_mean_square
from harness.properties.noise import is_packed
from harness.properties.optional_inputs import lacking, without
from harness.properties.outputs import reached_by_outputs
from harness.properties.places import names_read
from harness.properties.subject import Subject
from harness.runtime import seeded

STEPS = 3
"""Batches at typical sizes that are asked first."""

_STEPS_WHERE_ABSENT = 16
_NUDGE = 1e-2
_OTHER_WEIGHTS = 3
_MANY_ROWS = 512

_STEP = "training_step"
TRAINING_METHODS = (_STEP, "loss", "compute_loss", "get_loss", "calculate_loss", "loss_function")
"""Methods that a training calls, beside forward."""


def largest_gradients(
    subject: Subject, model: nn.Module, seed: int, train: bool = True, steps: int = STEPS, sizes: Sizes | None = None
) -> dict[str, float]:
    """Largest gradient rms of each parameter over a few batches; a parameter without a gradient is absent."""
    found: dict[str, float] = {}

    def read(path: str, gradient: Tensor) -> None:
        rms = root_mean_square(gradient)
        found[path] = max(found.get(path, 0.0), rms if rms == rms else float("inf"))

    with mode(model, train), seeded(seed), reading_gradients(model, read):
        for number, batch in enumerate(_calls(subject, model, seed, steps, sizes)):
            model.zero_grad(set_to_none=True)
            try:
                subject.backward(batch, model)
            except NoGradientError:
                return {}
            except ModelRaisedError:
                if number < steps:
                    raise
                continue  # that a call without an optional input raises is the matter of `optional_inputs`
    model.zero_grad(set_to_none=True)
    return {path: value for path, value in found.items() if value == value}


def _calls(subject: Subject, model: nn.Module, seed: int, steps: int, sizes: Sizes | None) -> Iterator[Batch]:
    """A few batches; then calls that continue from a state, and that lack optional inputs: what a gradient reaches there counts too."""
    batches = [subject.batch(sizes, seed + step) for step in range(steps)]
    yield from batches
    if subject.task.signature.states:
        yield going_on(subject, batches[-1], subject.outputs(batches[0], model))
    if subject.task.declared is not None:
        yield from (without(batches[0], names) for names in lacking(subject))


def _nudged(model: nn.Module) -> nn.Module:
    """The model, with weights moved by a hundredth of their size."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and not is_packed(parameter):
                scale = _NUDGE * max(float(parameter.abs().mean()), 1.0)
                parameter.add_(scale * torch.randn(parameter.shape, generator=rng).to(parameter))
    return model


def unreached_again(
    subject: Subject, model: nn.Module, unreached: list[str], gradients: dict[str, float], seed: int
) -> list[str]:
    """Of some parameters without a gradient those that have none on a nudged copy either.

    A gradient of exactly zero in train mode is forgiven where eval mode shows another one: a bias before a batch norm has none in train mode,
    where the norm takes the mean away. One that is absent is not: autograd knows of no way to the parameter. A layer that training leaves out
    at random has a few more batches to be met in.
    """
    absent = any(path not in gradients for path in unreached)
    trained = largest_gradients(subject, _nudged(subject.copies.of(model)), seed, steps=_STEPS_WHERE_ABSENT if absent else STEPS)
    left = [path for path in unreached if trained.get(path, 0.0) == 0.0]
    zero = [path for path in left if path in gradients or path in trained]
    if not zero:
        return left
    evaluated = largest_gradients(subject, _nudged(subject.copies.of(model)), seed, train=False)
    return [path for path in left if path not in zero or evaluated.get(path, 0.0) == 0.0]


def reached_by_other_weights(
    subject: Subject, unreached: list[str], sizes: Sizes | None, seed: int
) -> tuple[list[str], list[str]]:
    """Seeds of fresh weights with which a gradient reaches parameters that it does not reach here, and those that none of them reaches."""
    if subject.rebuild is None or not subject.fresh_weights:
        return [], unreached
    left, seeds = unreached, []
    for other in range(subject.seed + 1, subject.seed + 1 + _OTHER_WEIGHTS):
        found = largest_gradients(subject, subject.rebuild(other), seed, sizes=sizes)
        still = [path for path in left if not found.get(path, 0.0)]
        if len(still) < len(left):
            seeds.append(f"seed {other}")
        left = still
        if not left:
            break
    return seeds, left


def reached_otherwise(
    subject: Subject, model: nn.Module, unreached: list[str], gradients: dict[str, float], seed: int
) -> dict[str, str]:
    """Of some parameters that the loss of the logits does not reach those that have a gradient otherwise, each with the way in words."""
    found = _reached_from_outputs(subject, model, unreached, seed)
    found |= _trained_by_a_step(model, [path for path in unreached if path not in found and path not in gradients])
    left = [path for path in unreached if path not in found]
    return found | (_reached_at_larger_sizes(subject, model, left, gradients, seed) if left else {})


def _reached_from_outputs(subject: Subject, model: nn.Module, unreached: list[str], seed: int) -> dict[str, str]:
    """Of some parameters that the loss of the logits does not reach those that another output does, each with the output's name."""
    nudged = _nudged(subject.copies.of(model))
    with mode(nudged, True), seeded(seed):
        by_output = reached_by_outputs(subject, nudged, seed)
    return {path: name for name, paths in by_output.items() for path in unreached if path in paths}


def _reached_at_larger_sizes(
    subject: Subject, model: nn.Module, unreached: list[str], gradients: dict[str, float], seed: int
) -> dict[str, str]:
    """Of some parameters without a gradient those that have one at larger inputs, each with these in words.

    Behind strides a short input is a single step, of which a recurrent layer has nothing to remember and attention nothing to choose.
    Of experts that are chosen by the input, a few rows reach a few.
    """
    found: dict[str, str] = {}
    nudged = _nudged(subject.copies.of(model))
    more = [many_rows(subject)] if among_chosen(model, unreached, gradients) else []
    for sizes in (*more, *subject.reach.longer()):
        try:
            trained = largest_gradients(subject, nudged, seed, steps=1, sizes=sizes)
        except ModelRaisedError:  # a limit that the config does not say
            break
        found |= {
            path: f"inputs of {sizes.describe(subject.task)}"
            for path in unreached
            if path not in found and trained.get(path, 0.0)
        }
        if len(found) == len(unreached):
            break
    return found


def many_rows(subject: Subject) -> Sizes:
    """Sizes at which each of many experts has rows, where a router spreads them; of a large model the typical ones."""
    return subject.typical if subject.is_large else with_rows(subject.task, subject.typical, _MANY_ROWS)


def among_chosen(model: nn.Module, unreached: list[str], gradients: dict[str, float]) -> bool:
    """Whether each of some parameters without a gradient lies in an entry of a list of modules of which another entry has one, as experts do."""
    reached = [path for path, gradient in gradients.items() if gradient]

    def is_one_of_several(path: str) -> bool:
        names = path.split(".")
        for end in range(1, len(names) - 1):
            listed = ".".join(names[:end])
            if isinstance(model.get_submodule(listed), nn.ModuleList):
                others = (other for other in reached if not other.startswith(f"{listed}.{names[end]}."))
                return any(other.startswith(f"{listed}.") for other in others)
        return False

    return all(map(is_one_of_several, unreached))


def _trained_by_a_step(model: nn.Module, unreached: list[str]) -> dict[str, str]:
    """Of some parameters without a gradient those that a Lightning module's training step, or a model's own loss, reads and forward does not.

    Such are the critic of a GAN, the head that projects features for a contrastive loss, and the scale of similarities in a model's ``loss``.
    """
    method = next((each for each in TRAINING_METHODS if callable(getattr(model, each, None))), _STEP)
    step, forward = (names_read(type(model), each) for each in (method, "forward"))
    return {path: f"`{method}`" for path in unreached if path.partition(".")[0] in step - forward}

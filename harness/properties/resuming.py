"""A model that is saved in the middle of its training, and continues in another process."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from harness.batches import Batch
from harness.errors import ProbeUnsupportedError, UserError
from harness.evidence import Evidence, Status
from harness.models.copies import objects_reached
from harness.owners import left_to
from harness.properties.calling import ModelRaisedError, mode
from harness.properties.large_tensors import first_of_each_kind, reading_gradients, step_by_sign, through_a_file
from harness.properties.loading import judge_loading, load_into, unless_owned
from harness.properties.model_variants import move
from harness.properties.noise import difference, is_packed
from harness.properties.subject import Subject
from harness.properties.train_mode import depends_on_earlier_calls
from harness.runtime import seeded

_STEP = 0.01
"""By how much a training step changes each weight, whatever the size of its gradient."""

_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def after_training(subject: Subject, seed: int = 0) -> Evidence:
    """A model that took a training step is saved and loaded: it gives the same logits, and so it does in train mode, and after that.

    It was evaluated before that step, as models are: what it kept of that call must not outlive its weights.
    """
    batch, found = subject.batch(seed=seed), dict[nn.Module, Tensor]()

    def load(source: nn.Module, other: nn.Module) -> nn.Module:
        subject.logits(batch, source)
        _train(subject, source, seed + 1)
        load_into(other, through_a_file(source))
        return other

    def call(model: nn.Module) -> Tensor:
        found[model] = subject.logits(batch, model)
        if any(isinstance(value, _GENERATORS) for value in objects_reached(model)):
            return found[model]  # in train mode it draws from a generator whose state no state dict holds
        trained = in_train_mode(subject, model, seed)
        return torch.cat([each.flatten() for each in (found[model], trained, subject.logits(batch, model))])

    def wrong() -> str:
        source, other = list(found.values())[:2]
        if difference(source, other) > subject.rounding:
            return "a second instance with the state dict of a trained model gives different logits: what training changed is not all in it"
        return "a second instance with the state dict of a trained model computes something else in train mode, so training starts over in part"

    evidence = judge_loading(
        subject,
        load,
        wrong,
        "a flag, counter or statistic that training sets, kept as a plain attribute: the loaded model starts it over, and may initialise "
        "weights once more; make it a buffer",
        "lost_by_saving",
        seed,
        call=call,
    )
    if evidence.status is Status.FAIL and depends_on_earlier_calls(
        subject, batch, subject.batch(seed=seed + 1), seed, train=False
    ):
        return left_to(evidence.name, "stateless", "a call changes the next one", code="depends_on_earlier_calls")
    if evidence.status is Status.FAIL and _keeps_old_weights(subject, batch, seed):
        return replace(
            evidence,
            message="evaluated before a training step and after it, the model answers with weights from before the step",
            cause="something that is computed from the weights at the first call in eval mode and kept (embeddings, a fused weight); drop it in "
            "train(), or compute it in each call",
            code="keeps_old_weights",
        )
    return unless_owned(subject, "after_training", evidence)


def _keeps_old_weights(subject: Subject, batch: Batch, seed: int) -> bool:
    """Whether a model that was evaluated before its weights changed gives something else after that than one that was not."""
    found = []
    for is_evaluated in (True, False):
        model = subject.fresh()
        if is_evaluated:
            subject.logits(batch, model)
        model.train().eval()
        move(model)
        found.append(subject.logits(batch, model))
    return difference(*found) > subject.rounding


def _train(subject: Subject, model: nn.Module, seed: int) -> None:
    """One step in train mode, in which every weight with a gradient moves by the same small amount."""
    batch = subject.batch(seed=seed)
    if subject.is_large and _stepped_as_gradients_come(subject, model, batch, seed):
        return
    with mode(model, train=True), seeded(seed):
        try:
            subject.backward(batch, model)
        except ModelRaisedError as error:
            raise ProbeUnsupportedError(f"the model cannot be trained here: {error}") from None
        except UserError:  # without a loss, the statistics of a batch are what training leaves behind
            in_train_mode(subject, model, seed)
    step_by_sign((parameter for parameter in model.parameters() if not is_packed(parameter)), _STEP)
    model.zero_grad(set_to_none=True)


def _stepped_as_gradients_come(subject: Subject, model: nn.Module, batch: Batch, seed: int) -> bool:
    """Whether a step could be taken in which a weight of each kind moves once its gradient is there, so that no set of gradients is kept."""
    kinds = first_of_each_kind(model)
    parameters = {name: parameter for name, parameter in model.named_parameters() if name in kinds and not is_packed(parameter)}

    @torch.no_grad()
    def step(name: str, gradient: Tensor) -> None:
        if name in parameters:
            parameters[name].sub_(gradient.sgn_(), alpha=_STEP)  # the gradient is needed no more

    with mode(model, train=True), seeded(seed), reading_gradients(model, step):
        try:
            subject.backward(batch, model)
        # It cannot be trained, or still needs a weight that has moved: what moved already stays, and is no less random.
        except UserError:
            return False
    return True


def in_train_mode(subject: Subject, model: nn.Module, seed: int) -> Tensor:
    """What a model gives in train mode, which leaves the statistics of the batch with it.

    Raises:
        ProbeUnsupportedError: It raises.
    """
    with mode(model, train=True), seeded(seed):
        try:
            return subject.raw_logits(subject.batch(seed=seed), model)
        except ModelRaisedError as error:
            raise ProbeUnsupportedError(f"forward raises in train mode: {error}") from None

"""Tier 1: what must hold of any model before it is worth training."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from harness.batches import Sizes
from harness.properties import (
    contracts,
    dependence,
    determinism,
    gradients,
    independence,
    initialisation,
    moves,
    numerics,
    outputs,
    resources,
    scores,
    serialisation,
    structure,
    vocabulary,
)
from harness.properties.subject import Subject
from pytest_modeltiers import strategies as draw
from pytest_modeltiers.judge import Check, Judge

INITIALISATION = {
    "loss": initialisation.initial_loss,
    "symmetry": initialisation.symmetry,
    "scale": initialisation.signal_scale,
}
SERIALISATION = {
    "state_dict": serialisation.state_dict_round_trip,
    "pickle": serialisation.pickle_round_trip,
    "deepcopy": serialisation.deepcopy_independent,
    "tied_weights": serialisation.tied_weights,
}


class CriticalTier:
    """Each method states one property of a sound model."""

    def test_shape_contract(self, subject: Subject, judge: Judge) -> None:
        """Logits have the promised shape at every batch size, length and image size."""
        judge.holds_at_anchors(contracts.shape_contract)
        judge.for_all(contracts.shape_contract, draw.shapes(subject.task), examples=15)

    def test_full_length(self, subject: Subject, judge: Judge) -> None:
        """The model works at the whole declared length."""
        judge.holds(contracts.full_length, batch=1)
        judge.holds(contracts.full_length, batch=3)

    def test_full_vocabulary(self, judge: Judge) -> None:
        """Every token id of the vocabulary can be read and predicted."""
        judge.holds(vocabulary.full_vocabulary)

    def test_finite_output(self, subject: Subject, judge: Judge, case: str) -> None:
        """Logits are finite, at typical and at extreme inputs."""
        if case == "fully_padded_row":
            judge.for_all(numerics.fully_padded_row, draw.several_rows(subject.task))
        else:
            contents = numerics.EXTREMES if case == "extremes" else ("typical",)
            if case == "typical":
                judge.holds_at_anchors(numerics.finite_output)
                for output in outputs.further_outputs(subject):
                    check = outputs.finite_further_output
                    judge.holds(partial(outputs.judge_output, name=judge.name, output=output, check=check), sizes=subject.typical)
            judge.for_all(partial(numerics.finite_output, contents=contents), draw.batches(subject.task))

    def test_eval_deterministic(self, subject: Subject, judge: Judge) -> None:
        """In eval mode the same input gives the same logits."""
        judge.holds_at_anchors(determinism.eval_deterministic)
        judge.for_all(determinism.eval_deterministic, draw.batches(subject.task))
        for output in outputs.further_outputs(subject):
            judge.holds(
                partial(outputs.judge_output, name=judge.name, output=output, check=determinism.eval_deterministic),
                sizes=subject.typical,
            )

    def test_batch_independence(self, subject: Subject, judge: Judge, case: str) -> None:
        """A row's logits and gradients do not depend on the other rows of its batch."""
        check = independence.batch_independence if case == "forward" else independence.gradient_independence
        judge.for_all(check, draw.several_rows(subject.task), examples=14)
        _at_the_corner(judge, check, sizes=_corner(subject))
        for output in outputs.further_outputs(subject) if case == "forward" else ():
            if output.by_row:
                judge.holds(partial(outputs.judge_output, name=judge.name, output=output, check=check), sizes=subject.typical)

    def test_causal(self, subject: Subject, judge: Judge) -> None:
        """A position's logits never depend on later tokens."""
        judge.for_all(independence.causality, draw.several_tokens(subject.task), examples=14)
        _at_the_corner(judge, independence.causality, sizes=_corner(subject))
        for output in outputs.further_outputs(subject):
            if output.by_position:
                judge.holds(
                    partial(outputs.judge_output, name=judge.name, output=output, check=outputs.further_causality),
                    sizes=subject.typical,
                )

    def test_padding_ignored(self, subject: Subject, judge: Judge) -> None:
        """Right padding changes nothing at the real positions."""
        _needs_padding(subject)
        judge.for_all(independence.padding_ignored, draw.pad_patterns(subject.task), examples=12)
        corner = _corner(subject)
        lengths = tuple(max(subject.task.min_seq_len, corner.seq - 1 - 2 * row) for row in range(corner.batch))
        _at_the_corner(judge, independence.padding_ignored, sizes=corner, lengths=lengths)

    def test_input_dependence(self, judge: Judge, case: str) -> None:
        """The output depends on every input it should."""
        judge.holds(dependence.DEPENDENCE[case])

    def test_gradient_flow(self, subject: Subject, judge: Judge, case: str) -> None:
        """Every trainable parameter receives a gradient, and every gradient is finite."""
        if case == "finite":
            everything = partial(numerics.finite_gradients, contents=("typical", *numerics.EXTREMES))
            judge.for_all(everything, draw.training_steps(subject.task), examples=4)
        else:
            judge.holds(gradients.gradient_reaches)

    def test_logit_range(self, judge: Judge) -> None:
        """Scores of classes may take any value: no ReLU, softmax or sigmoid stands behind the last layer."""
        judge.holds(scores.logit_range)

    def test_registration(self, judge: Judge) -> None:
        """Every parameter, module and tensor the model uses is registered with it."""
        judge.holds(structure.registration)

    def test_initialisation(self, judge: Judge, case: str) -> None:
        """Fresh weights break symmetry, keep a sane scale, and start at the loss of a uniform guess."""
        judge.holds(INITIALISATION[case])

    def test_mode_round_trip(self, subject: Subject, judge: Judge) -> None:
        """train() and eval() reach every module, and going there and back changes nothing."""
        judge.for_all(determinism.mode_round_trip, draw.several_rows(subject.task), examples=3)

    def test_stateless(self, subject: Subject, judge: Judge) -> None:
        """A call leaves nothing behind that changes the next one."""
        judge.holds(determinism.repeated_backward)
        judge.for_all(determinism.stateless, draw.call_sequences(subject.task), examples=6)
        _at_the_corner(judge, determinism.stateless, calls=(subject.typical, _corner(subject)))

    def test_rng_untouched(self, subject: Subject, judge: Judge) -> None:
        """Forward neither seeds nor, in eval mode, consumes the global random state."""
        judge.for_all(determinism.rng_untouched, draw.several_rows(subject.task), examples=2)

    def test_inputs_unchanged(self, subject: Subject, judge: Judge) -> None:
        """Forward does not write into the tensors it is given."""
        judge.for_all(contracts.inputs_unchanged, draw.several_rows(subject.task), examples=4)

    def test_memory_layout(self, subject: Subject, judge: Judge) -> None:
        """The same values in another memory layout give the same logits."""
        judge.for_all(contracts.memory_layout, draw.batches(subject.task), examples=4)
        _at_the_corner(judge, contracts.memory_layout, sizes=_corner(subject))

    def test_dtype_move(self, judge: Judge, case: str) -> None:
        """The model runs after a move to another floating dtype."""
        judge.holds(moves.dtype_move, dtype=getattr(torch, case))

    def test_device_move(self, judge: Judge) -> None:
        """The model runs after a move to another device."""
        judge.holds(moves.device_move)

    def test_serialisation(self, judge: Judge, case: str) -> None:
        """Saved, pickled and copied models give the same logits, and tied weights stay tied."""
        judge.holds(SERIALISATION[case])

    def test_memory_footprint(self, judge: Judge) -> None:
        """Memory is bounded and does not grow from call to call."""
        judge.holds(resources.memory_footprint)

    def test_inference_speed(self, judge: Judge) -> None:
        """Work does not grow from call to call."""
        judge.holds(resources.inference_speed)


def _corner(subject: Subject) -> Sizes:
    """Many rows at full length, where faults show that show at some sizes only."""
    longest = subject.task.max_seq_len or 1
    return Sizes(5, longest, longest)


def _at_the_corner(judge: Judge, check: Check, **values: Any) -> None:
    """Where time was up before every example was drawn, judges the sizes that matter most all the same."""
    if judge.cut:
        judge.holds(check, **values)


def _needs_padding(subject: Subject) -> None:
    if (subject.task.max_seq_len or 0) <= subject.task.min_seq_len:
        pytest.skip("sequences of one length have no room for padding")
    if subject.task.pad_token_id is None and not subject.adapter.takes(subject.model, "attention_mask"):
        pytest.skip("the task has no `pad_token_id` and forward takes no `attention_mask`")

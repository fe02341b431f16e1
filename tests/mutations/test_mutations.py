"""Mutants are at random places, copy and pickle like any model, and the oracle knows which of them are broken."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from mutations.bases import Base, bases
from mutations.mutant import Mutant, draw, sites
from mutations.oracle.verdict import judge, violations_of
from mutations.rewrites import FAULTS
from mutations.surgery import SURGERIES

from harness.adapters import make_adapter
from harness.batches import make_batch, typical_sizes
from harness.runtime import seeded

BASES = {base.name: base for base in bases()}
OPERATORS = (*FAULTS, *SURGERIES)

BROKEN = [
    ("Perceptron", "batch_statistics", "batch_independence"),
    ("Perceptron", "batch_gradient", "batch_independence"),
    ("Perceptron", "detached", "gradient_flow"),
    ("Perceptron", "root_of_zero", "gradient_flow"),
    ("Perceptron", "noise_in_eval", "eval_deterministic"),
    ("Perceptron", "seed_in_forward", "rng_untouched"),
    ("Perceptron", "second_call_differs", "stateless"),
    ("Perceptron", "outputs_kept", "memory_footprint"),
    ("Perceptron", "more_work_each_call", "inference_speed"),
    ("Perceptron", "four_rows", "shape_contract"),
    ("Perceptron", "float_constant", "dtype_move"),
    ("Perceptron", "cpu_constant", "device_move"),
    ("Perceptron", "channel_dropped", "input_dependence"),
    ("Perceptron", "not_a_number@head", "finite_output"),
    ("Perceptron", "too_loud@head", "initialisation"),
    ("Perceptron", "read_by_stride", "memory_layout"),
    ("Perceptron", "input_written", "inputs_unchanged"),
    ("Perceptron", "eval_in_forward", "mode_round_trip"),
    ("Perceptron", "hidden_from_registration", "registration"),
    ("Perceptron", "gain_not_saved", "serialisation"),
    ("Perceptron", "lambda_attribute", "serialisation"),
    ("RecurrentLM", "sequence_rolled_back", "causal"),
    ("RecurrentLM", "ids_clamped", "full_vocabulary"),
    ("RecurrentLM", "embedding_one_row_short", "full_vocabulary"),
    ("TextClassifier", "mask_dropped", "padding_ignored"),
    ("TextClassifier", "mask_of_minus_infinity", "finite_output"),
    ("TextClassifier", "positions_one_late", "full_length"),
]
HARMLESS = [("Perceptron", "weights_times_2"), ("Perceptron", "layer_frozen"), ("Mixer", "residual_dropped")]


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_has_a_place(operator: str) -> None:
    assert any(sites(base, operator) for base in BASES.values())


def test_mutants_are_drawn_by_seed_and_a_longer_list_begins_with_a_shorter() -> None:
    assert [m.name for m in draw(20, seed=3)] == [m.name for m in draw(30, seed=3)][:20]
    assert [m.name for m in draw(20, seed=3)] != [m.name for m in draw(20, seed=4)]


def test_no_mutant_is_drawn_twice() -> None:
    names = [mutant.name for mutant in draw(60)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("operator", [operator for operator in OPERATORS if operator != "lambda_attribute"])
def test_mutants_copy_and_pickle(operator: str) -> None:
    base = next(base for base in reversed(BASES.values()) if sites(base, operator))
    model = _made(sites(base, operator)[0])
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        patched = [module.forward.module for module in copied.modules() if "forward" in vars(module)]
        assert all(any(module is own for own in copied.modules()) for module in patched)


def test_a_fault_changes_nothing_but_its_place() -> None:
    base = BASES["Perceptron"]
    mutant = next(m for m in sites(base, "too_loud") if m.path == "head" and m.when == "one_unit")
    with seeded(0):
        sound = base.factory().eval()
    batch = make_batch(base.task, typical_sizes(base.task))
    right, wrong = (make_adapter(base.task).logits(model, batch) for model in (sound, _made(mutant)))
    assert torch.equal(right[:, :-1], wrong[:, :-1])
    assert torch.allclose(300 * right[:, -1], wrong[:, -1])


@pytest.mark.parametrize("name", ["Perceptron", "ConvNet", "RecurrentLM", "TextClassifier"])
def test_a_sound_model_keeps_every_promise(name: str) -> None:
    assert not {promise: found for promise, found in violations_of(BASES[name]).items() if found}


@pytest.mark.parametrize(("name", "operator", "promise"), BROKEN, ids=lambda value: value)
def test_the_oracle_knows_what_is_broken(name: str, operator: str, promise: str) -> None:
    verdict = judge(_first(BASES[name], operator))
    assert promise in verdict.broken, verdict
    assert not verdict.equivalent


@pytest.mark.parametrize(("name", "operator"), HARMLESS, ids=lambda value: value)
def test_another_sound_model_is_no_bug(name: str, operator: str) -> None:
    verdict = judge(_first(BASES[name], operator))
    assert not verdict.broken
    assert not verdict.equivalent


def test_a_mutant_that_cannot_be_told_apart_is_equivalent() -> None:
    verdict = judge(_first(BASES["VisionTransformer"], "norms_swapped"))  # fresh norms are all alike
    assert verdict.equivalent
    assert not verdict.broken


def _first(base: Base, operator: str) -> Mutant:
    """The first mutant by an operator, at any place or at ``operator@place``."""
    operator, _, path = operator.partition("@")
    return next(mutant for mutant in sites(base, operator) if path in ("", mutant.path))


def _made(mutant: Mutant) -> torch.nn.Module:
    with seeded(0):
        return mutant().eval()

"""Tier 2 of declared tasks: which checks follow, what of each input can be moved, and which output is named."""

from __future__ import annotations

import pytest
import torch
from planted_bugs import setups
from planted_bugs.tester import red
from planted_bugs.tier1.declared import CASES, Keys, task_of
from planted_bugs.tier2.analysed import judge_all, study_of
from planted_bugs.tier2.declared import EMBEDDED, GRAPH, LOANS, NODES, POLICY, SERIES, Centred, Loans, TwoHeads
from torch import Tensor, nn

from harness.analysis.neighbourhood import IdsRead, Lookups, RealInputs, neighbourhood
from harness.catalogue import CATALOGUE
from harness.evidence import Status

JUDGED = tuple(name for name, entry in CATALOGUE.items() if entry.tier == 2 and name != "compiled")


def names_for(keys: Keys) -> set[str]:
    task = task_of(keys)
    return {test for name in JUDGED for test, _ in setups.tests_of(name, task)}


@pytest.mark.parametrize(
    ("test", "has", "has_not"),
    [
        ("attention_patterns[causal]", SERIES, NODES),
        ("attention_patterns[padding]", NODES, SERIES),
        ("robustness[adversarial_step]", GRAPH, LOANS),
        ("calibration", POLICY, LOANS),
    ],
)
def test_a_check_follows_from_a_fact(test: str, has: Keys, has_not: Keys) -> None:
    assert test in names_for(has)
    assert test not in names_for(has_not)


@pytest.mark.parametrize("name", CASES)
def test_a_sound_model_of_a_declared_task_is_quiet_in_tier_2(name: str) -> None:
    model, keys, _ = CASES[name]
    found = judge_all(study_of(model, task_of(keys)), JUDGED)

    # Sums over indices do not mix dtypes, so that a graph written by hand does not run under autocast.
    known = {"half_precision[autocast]"} if name == "graph" else set()
    assert red(found).keys() <= known, red(found)
    assert sum(each.status is Status.OK for each in found.values()) >= 5


class Places(nn.Module):
    """A number for each place of a text; the bug says the same of each text."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 1)

    def forward(self, words: Tensor) -> Tensor:
        scores = self.head(self.embed(words)).squeeze(-1)
        return torch.zeros_like(scores) + self.head.bias if self.wrong else scores


@pytest.mark.parametrize("kind", ["class_scores", "values"])
@pytest.mark.parametrize(("wrong", "status"), [(False, Status.OK), (True, Status.FAIL)])
def test_an_output_without_an_axis_of_features_has_a_rank(kind: str, wrong: bool, status: Status) -> None:
    task = task_of(
        {
            "inputs": {"words": {"axes": ["batch", "time"], "values": {"ids": 11}}},
            "outputs": {"starts": {"axes": ["batch", "time"], "kind": kind}},
            "axes": {"time": {"min": 2, "max": 9}},
        }
    )
    found = judge_all(study_of(lambda: Places(wrong), task), ("representation_rank",))["representation_rank"]
    assert found.status is status, found.message


def test_what_is_looked_up_for_each_place_of_ids_is_a_real_input() -> None:
    study = study_of(Loans, task_of(LOANS))
    near = neighbourhood(study, study.subject.fresh())

    assert {name: tuple(value.shape) for name, value in near.here.items()} == {
        "amounts": (8, 2),
        "kinds[0]": (8, 4),
        "kinds[1]": (8, 4),
    }
    assert near.parts == [("amounts", 0), ("amounts", 1), ("kinds[0]", -1), ("kinds[1]", -1)]
    other = near.keeping(("kinds[0]", -1))
    assert torch.equal(other["kinds[0]"], near.here["kinds[0]"])
    assert not torch.equal(other["kinds[1]"], near.here["kinds[1]"])


def test_places_that_share_one_table_are_found_behind_their_offsets() -> None:
    table, ids = nn.Embedding(10, 4), torch.tensor([[0, 1], [2, 0], [3, 1]])
    with Lookups({"kinds": IdsRead(ids, has_tables=True)}) as lookups:
        table(ids + torch.tensor([0, 4]))
    assert torch.equal(lookups.seen["kinds"], table(ids + torch.tensor([0, 4])))


def test_indices_masks_and_lengths_stay_what_they_are() -> None:
    model, keys, _ = CASES["graph"]
    study = study_of(model, task_of(keys))
    real = RealInputs(study.subject, study.subject.fresh(), study.subject.batch())
    assert set(real.point()) == {"x"}


class Stopped(nn.Module):
    """Scores and a value; the value reads what the scores are made of without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.actions, self.value = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 1)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(observation).tanh()
        return self.actions(hidden), self.value(hidden.detach()).squeeze(-1)


def test_a_gradient_that_is_stopped_before_one_output_names_it() -> None:
    found = judge_all(study_of(Stopped, task_of(POLICY)), ("gradcheck",))["gradcheck"]
    assert (found.status, found.code) == (Status.WARN, "detached")
    assert found.message.startswith("output `value`: `detach()` in forward")


def test_every_output_is_judged_and_named() -> None:
    found = judge_all(study_of(TwoHeads, task_of(POLICY)), ("robustness", "representation_rank"))
    assert {each.message.partition(" (judged of ")[2] for each in found.values()} == {"`actions`, `value`)"}
    found = judge_all(study_of(Centred, task_of(EMBEDDED)), ("half_precision",))
    assert all(each.status is Status.OK for each in found.values())

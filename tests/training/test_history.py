"""The history of a training: exact while it fits, bounded when it does not, and whole after a resume."""

from __future__ import annotations

import io
import json
import math
import random
import subprocess
import sys
import time
from typing import Any

import pytest
import torch

from harness.training import Epoch, Plan, Step
from harness.training.history import CURVES, LIMIT, History


def step(number: int, loss: float = 1.0, **fields: Any) -> Step:
    wanted: dict[str, Any] = {"epoch": 0, "learning_rate": 1e-3, "grad_norm": 2.0, "examples": 8, "seconds": 0.5} | fields
    return Step(number, loss=loss, **wanted)


def noisy(number: int) -> Step:
    """A step whose every figure differs from its neighbours', the same for the same number."""
    draw = random.Random(number)
    norm = None if number % 7 == 0 else math.inf if number % 501 == 0 else draw.random() * 5
    loss = math.nan if number % 997 == 0 else draw.random() * 3
    return step(number, loss, learning_rate=draw.random(), grad_norm=norm, examples=draw.randint(1, 64), seconds=draw.random())


def history_of(*steps: Step, epochs: tuple[Epoch, ...] = ()) -> History:
    history = History()
    for one in steps:
        history.on_step(one)
    for epoch in epochs:
        history.on_epoch(epoch)
    return history


def same(first: History, second: History) -> bool:
    return first.state_dict() == second.state_dict() and first.to_json() == second.to_json()


def values(history: History, name: str) -> list[float]:
    return [value for value in history.curve(name) if value is not None]


def test_a_new_history_is_empty() -> None:
    history = History()
    assert (history.steps, history.spans, history.epochs, history.seconds, history.examples) == ([], [], [], 0.0, 0)
    assert all(history.curve(name) == [] and history.last(name) is None for name in CURVES)
    assert history.broken_at is None
    assert history.best("val_loss") is None


def test_every_step_is_a_point_while_they_fit() -> None:
    history = history_of(
        step(1, 3.0, learning_rate=0.1, grad_norm=None, examples=4, seconds=2.0), step(2, 2.0, learning_rate=0.2)
    )
    assert history.steps == [1, 2]
    assert history.spans == [(1, 1), (2, 2)]
    assert history.curve("loss") == history.curve("loss_min") == history.curve("loss_max") == [3.0, 2.0]
    assert history.curve("learning_rate") == [0.1, 0.2]
    assert history.curve("grad_norm") == [None, 2.0]
    assert history.curve("throughput") == [2.0, 16.0]
    assert (history.last("loss"), history.last("throughput")) == (2.0, 16.0)
    assert (history.seconds, history.examples) == (2.5, 12)


def test_a_step_that_took_no_time_has_no_throughput() -> None:
    assert history_of(step(1, seconds=0.0)).curve("throughput") == [None]


def test_one_step_more_than_fits_merges_neighbours() -> None:
    history = history_of(*(step(number, loss=number) for number in range(1, LIMIT + 2)))
    assert len(history.steps) == LIMIT // 2 + 1
    assert history.spans[:2] == [(1, 2), (3, 4)]
    assert history.spans[-1] == (LIMIT + 1, LIMIT + 1)
    assert history.curve("loss")[:2] == [1.5, 3.5]
    assert (history.curve("loss_min")[0], history.curve("loss_max")[0]) == (1.0, 2.0)


@pytest.mark.parametrize("count", [LIMIT, LIMIT + 1, 2 * LIMIT, 2 * LIMIT + 1, 9_999, 70_001])
def test_merged_points_keep_what_was_measured(count: int) -> None:
    steps = [noisy(number) for number in range(1, count + 1)]
    history = history_of(*steps)
    assert LIMIT // 2 < len(history.steps) <= LIMIT
    assert [first for first, _ in history.spans] == [1, *(last + 1 for last in history.steps[:-1])]
    assert history.steps[-1] == count
    assert history.examples == sum(one.examples for one in steps)
    assert history.seconds == pytest.approx(sum(one.seconds for one in steps))
    for index in (0, len(history.steps) // 3, -1):
        first, last = history.spans[index]
        inside = steps[first - 1 : last]
        losses = [one.loss for one in inside if math.isfinite(one.loss)]
        norms = [one.grad_norm for one in inside if one.grad_norm is not None and math.isfinite(one.grad_norm)]
        assert history.curve("loss")[index] == pytest.approx(sum(losses) / len(losses))
        assert (history.curve("loss_min")[index], history.curve("loss_max")[index]) == (min(losses), max(losses))
        assert history.curve("grad_norm")[index] == (pytest.approx(sum(norms) / len(norms)) if norms else None)
        assert history.curve("learning_rate")[index] == pytest.approx(sum(one.learning_rate for one in inside) / len(inside))
        assert history.curve("throughput")[index] == pytest.approx(
            sum(one.examples for one in inside) / sum(one.seconds for one in inside)
        )


def test_a_spike_of_one_step_stays_in_sight_among_many() -> None:
    history = history_of(*(step(number, 1e4 if number == 12_345 else 1.0) for number in range(1, 50_001)))
    assert max(values(history, "loss_max")) == 1e4
    assert history.last("loss") == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e308])
def test_a_loss_that_is_not_finite_is_counted_and_spoils_no_mean(bad: float) -> None:
    history = history_of(*(step(number, bad if number == 3 else 2.0) for number in range(1, LIMIT + 2)))
    assert history.broken_at == 3
    assert history.broken("loss")[:3] == [0, 1, 0]
    assert history.curve("loss")[:3] == [2.0, 2.0, 2.0]


def test_a_point_of_nothing_but_nan_is_nan() -> None:
    history = history_of(step(1), step(2, math.inf, grad_norm=math.nan))
    assert [str(value) for value in history.curve("loss")] == ["1.0", "nan"]
    assert [str(value) for value in history.curve("grad_norm_max")] == ["2.0", "nan"]
    assert str(history.last("loss")) == "nan"


def test_an_unknown_curve_is_named_with_the_nearest() -> None:
    with pytest.raises(KeyError, match=r"no curve 'grad_nrm'.*Did you mean 'grad_norm'"):
        History().curve("grad_nrm")
    with pytest.raises(KeyError, match="no curve 'throughput'"):
        History().broken("throughput")


def test_the_best_epoch_has_the_smallest_finite_value_and_the_first_of_equals() -> None:
    found = [5.0, math.nan, 3.0, 3.0, -math.inf, 4.0]
    history = history_of(epochs=tuple(Epoch(index, 10 * index, {"val_loss": value}) for index, value in enumerate(found)))
    assert history.best("val_loss") == (2, 3.0)
    assert history.best("val_loss", largest=True) == (0, 5.0)
    assert history.best("val_accuracy") is None


def test_the_evaluation_before_training_is_kept_but_is_never_the_best() -> None:
    history = history_of(epochs=(Epoch(-1, 0, {"val_loss": 1.0}), Epoch(0, 10, {"val_loss": 2.0})))
    assert [epoch.epoch for epoch in history.epochs] == [-1, 0]
    assert history.best("val_loss") == (0, 2.0)


def test_the_newest_value_of_a_metric_that_not_every_epoch_has() -> None:
    history = history_of(epochs=(Epoch(0, 10, {"val_f1": 0.5}), Epoch(1, 20, {"val_loss": 2.0})))
    assert (history.last("val_f1"), history.last("val_loss"), history.last("val_bleu")) == (0.5, 2.0, None)


@pytest.mark.parametrize("through", ["itself", "json", "torch"])
@pytest.mark.parametrize(("before", "after"), [(0, 5), (3, 4), (LIMIT, 1), (LIMIT + 1, 2 * LIMIT), (9_001, 3_000)])
def test_a_resumed_history_is_the_uninterrupted_one(before: int, after: int, through: str) -> None:
    whole, first, second = History(), History(), History()
    for number in range(1, before + after + 1):
        for history in (whole, first if number <= before else second):
            if number == before + 1 and history is second:
                second.load_state_dict(carried(first.state_dict(), through))
                second.on_start(Plan("run", 1, before + after, start=before))
            history.on_step(noisy(number))
            if number % 1000 == 0:
                history.on_epoch(Epoch(number // 1000, number, {"val_loss": 1 / number, "val_f1": math.nan, "worst": math.inf}))
    assert same(whole, second)


def carried(state: dict[str, Any], through: str) -> Any:
    if through == "json":
        return json.loads(json.dumps(state, allow_nan=False))
    if through == "torch":
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        return torch.load(file, weights_only=True)
    return state


def test_a_saved_state_does_not_change_with_the_run() -> None:
    history = history_of(step(1))
    state = history.state_dict()
    loaded = History()
    loaded.load_state_dict(state)
    for other in (history, loaded):
        other.on_step(step(2))
        other.on_epoch(Epoch(0, 2, {"val_loss": 1.0}))
    assert state["last"] == state["filled"] == [1]
    assert state["loss"]["counts"] == [1]
    assert state["epochs"] == []


def test_loading_takes_the_place_of_what_was_there() -> None:
    history = history_of(step(1, math.nan), epochs=(Epoch(0, 1, {"val_loss": 1.0}),))
    history.load_state_dict(History().state_dict())
    assert same(history, History())


def test_a_run_that_goes_on_from_an_earlier_step_drops_what_lay_beyond() -> None:
    epochs = (Epoch(-1, 0, {"val_loss": 9.0}), Epoch(0, 4, {"val_loss": 3.0}), Epoch(1, 8, {"val_loss": 2.0}))
    history = history_of(*(step(number, math.nan if number == 7 else number) for number in range(1, 9)), epochs=epochs)
    history.on_step(step(5, 50.0))
    assert history.steps == [1, 2, 3, 4, 5]
    assert history.curve("loss") == [1.0, 2.0, 3.0, 4.0, 50.0]
    assert [epoch.epoch for epoch in history.epochs] == [-1, 0]
    assert history.broken_at is None


def test_starting_from_an_earlier_step_drops_what_lay_beyond_before_any_step() -> None:
    history = history_of(*map(step, range(1, 9)), epochs=(Epoch(0, 4), Epoch(1, 8)))
    history.on_start(Plan("run", 2, 8, start=4))
    assert (history.steps, [epoch.epoch for epoch in history.epochs]) == ([1, 2, 3, 4], [0])
    history.on_start(Plan("run", 2, 8))
    assert same(history, History())


def test_a_merged_point_that_reaches_beyond_is_dropped_whole() -> None:
    history = history_of(*map(step, range(1, LIMIT + 3)))
    history.on_step(step(100, 7.0))
    assert history.spans[-2:] == [(97, 98), (100, 100)]
    assert history.last("loss") == 7.0


@pytest.mark.long
def test_many_resumes_never_break_the_bound() -> None:
    history, draw = History(), random.Random(0)
    number = 0
    for _ in range(40):
        for _ in range(draw.randint(1, 3000)):
            number += 1
            history.on_step(noisy(number))
        assert len(history.steps) <= LIMIT
        assert history.steps == sorted(set(history.steps))
        number = draw.randint(number // 2, number)
    fresh = History()
    fresh.load_state_dict(history.state_dict())
    assert same(fresh, history)


def test_an_epoch_that_comes_again_takes_the_place_of_the_first() -> None:
    history = history_of(epochs=(Epoch(0, 4, {"val_loss": 3.0}), Epoch(1, 8, {"val_loss": 2.0}), Epoch(0, 4, {"val_loss": 2.5})))
    assert [(epoch.epoch, dict(epoch.metrics)) for epoch in history.epochs] == [(0, {"val_loss": 2.5})]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 9}, "format 9"),
        ({"last": [1, 2]}, "differ in length"),
        ({"loss": {}}, "not the state"),
        ({"epochs": [3]}, "not the state"),
        ({"first": None}, "not the state"),
    ],
)
def test_a_damaged_state_is_refused_and_leaves_the_history_alone(change: dict[str, Any], words: str) -> None:
    history = history_of(step(1))
    before = history.state_dict()
    with pytest.raises(ValueError, match=words):
        history.load_state_dict({**before, **change})
    assert history.state_dict() == before


def test_json_holds_null_for_what_is_not_finite() -> None:
    history = history_of(step(1), step(2, math.nan, grad_norm=None), epochs=(Epoch(0, 2, {"val_loss": math.inf}),))
    document = json.loads(history.to_json(), parse_constant=pytest.fail)
    assert document["steps"] == [1, 2]
    assert set(document["curves"]) == set(CURVES)
    assert document["curves"]["loss"] == [1.0, None]
    assert document["epochs"] == [{"epoch": 0, "step": 2, "metrics": {"val_loss": None}}]


def test_numbers_of_other_libraries_become_plain_floats() -> None:
    tensor: Any = torch.tensor(1.5)
    history = history_of(step(1, tensor, grad_norm=tensor), epochs=(Epoch(0, 1, {"val_loss": tensor}),))
    assert carried(history.state_dict(), "json") == history.state_dict()


def test_a_step_costs_microseconds() -> None:
    steps = [step(number) for number in range(1, 100_001)]
    fastest = math.inf
    for _ in range(3):
        history, begin = History(), time.process_time()
        for one in steps:
            history.on_step(one)
        fastest = min(fastest, (time.process_time() - begin) / len(steps))
    assert fastest < 10e-6  # 2 µs where it was measured; the rest is room for busy machines


def test_the_history_alone_imports_no_torch() -> None:
    code = "import harness.training.history, sys; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Models of tasks that no type names: sound ones are quiet in tier 1; what does not fit is said; `modeltiers explain`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from planted_bugs.tier1.declared import CASES, SCORES, Keys, Pair, Policy, task_of
from torch import Tensor, nn

from harness.adapters import SignatureAdapter, make_adapter
from harness.cli import main
from harness.config import load_config
from harness.errors import ConfigError, ForwardError, OutputError
from harness.evidence import Evidence, Status
from harness.owners import owners_of
from harness.tasks.declared import SignatureError
from harness.tasks.keys import declared_keys
from harness.tasks.kinds import mean_loss
from harness.user_code import import_named
from pytest_modeltiers.live import judge_model


def judged(build: Callable[[], nn.Module], keys: Keys) -> dict[str, Evidence]:
    torch.manual_seed(0)
    return judge_model(build, task_of(keys))


@pytest.mark.parametrize("name", CASES)
def test_a_sound_model_of_a_declared_task_is_quiet(name: str) -> None:
    model, keys, _ = CASES[name]
    found = judged(model, keys)

    assert {label: each.message for label, each in found.items() if each.status in (Status.FAIL, Status.WARN)} == {}
    assert sum(each.status is Status.OK for each in found.values()) >= 20


def test_no_extreme_input_of_an_autoencoder_is_a_label_that_counts_for_nothing() -> None:
    keys = {
        "inputs": {"x": {"axes": ["batch", 4]}},
        "outputs": {"y": {"axes": ["batch", 4]}},
        "labels": {"y": {"from": "x"}},
    }
    found = judge_model(lambda: nn.Linear(4, 4), task_of(keys), only=["gradient_flow"])

    assert {each.status for each in found.values()} == {Status.OK}, [each.explain() for each in found.values()]


class Sampler(nn.Module):
    """A policy that samples in forward, as agents do that act by it."""

    def __init__(self) -> None:
        super().__init__()
        self.actions, self.value = nn.Linear(8, 4), nn.Linear(8, 1)

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        chances = self.actions(observation).log_softmax(-1)
        action = torch.multinomial(chances.exp(), 1)
        return action.squeeze(-1), self.value(observation).squeeze(-1), chances.gather(-1, action).squeeze(-1)


def test_an_output_that_is_sampled_beside_one_that_is_not_is_told_once() -> None:
    keys = {
        "inputs": {"observation": {"axes": ["batch", 8]}},
        "outputs": {
            "value": {"axes": ["batch"], "at": 1},
            "action": {"axes": ["batch"], "kind": "other", "at": 0},
            "log_prob": {"axes": ["batch"], "kind": "other", "at": 2},
        },
    }
    found = judged(Sampler, keys)
    assert {label for label, each in found.items() if each.status is Status.FAIL and not owners_of(each)} == {
        "eval_deterministic",
        "rng_untouched",
    }


class Pointer(nn.Module):
    """Scores of the places of a text, as of where an answer begins."""

    def __init__(self, loudness: float = 1.0) -> None:
        super().__init__()
        self.loudness = loudness
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 1)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.loudness * self.head(self.embed(words)).squeeze(-1)


POINTED: Keys = {
    "inputs": {"words": {"axes": ["batch", "time"], "values": {"ids": 11}}},
    "outputs": {"starts": {"axes": ["batch", "time"], "kind": "class_scores"}},
    "axes": {"time": {"min": 2, "max": 9}},
}


def test_classes_that_are_places_are_as_many_as_there_are_places() -> None:
    sound = judged(Pointer, POINTED)["initialisation[loss]"]
    loud = judged(lambda: Pointer(50.0), POINTED)["initialisation[loss]"]

    assert (sound.status, loud.status) == (Status.OK, Status.FAIL)
    places = re.search(r"uniform guess over (\d+) classes", sound.message)
    assert places is not None
    assert 2 <= int(places[1]) <= 9
    assert sound.details["uniform"] == pytest.approx(math.log(int(places[1])))


class Choosing(nn.Module):
    """Returns which class it chose, or whether that is the first one."""

    def __init__(self, is_first: bool = False) -> None:
        super().__init__()
        self.head, self.is_first = nn.Linear(8, 4), is_first

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        chosen = self.head(observation).argmax(-1)
        return chosen == 0 if self.is_first else chosen


@pytest.mark.parametrize(("is_first", "dtype"), [(False, "torch.int64"), (True, "torch.bool")])
def test_whole_numbers_in_place_of_scores_are_told_by_their_dtype(is_first: bool, dtype: str) -> None:
    keys = {"inputs": {"observation": {"axes": ["batch", 8]}}, "outputs": {"action": {"axes": ["batch"]}}}
    found = judged(lambda: Choosing(is_first), keys)["shape_contract"]
    assert found.status is Status.FAIL
    assert found.code == "wrong_dtype"
    assert f"logits are {dtype}" in found.message
    assert "expected floating point" in found.message


class Strided(nn.Module):
    """Frames whose number nobody wrote down."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.frames = nn.Conv1d(1, classes, 3, stride=2)

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        return self.frames(audio[:, None]).transpose(1, 2)


MEASURED: Keys = {
    "inputs": {"audio": {"axes": ["batch", "time"]}},
    "outputs": {"scores": {"axes": ["batch", "frames", 5], "kind": "class_scores"}},
    "axes": {"time": {"min": 3, "max": 20}, "frames": {"from": "measured"}},
}


def test_an_output_axis_that_is_measured_is_quiet_at_any_size_and_the_other_axes_are_kept() -> None:
    found = judged(Strided, MEASURED)
    assert {label: each.message for label, each in found.items() if each.status in (Status.FAIL, Status.WARN)} == {}

    found = judged(lambda: Strided(4), MEASURED)
    assert "expected (1, any size, 5)" in found["shape_contract"].message


def test_an_input_that_forward_has_no_place_for_is_named() -> None:
    keys = {"inputs": {"a": {"axes": ["batch", 8]}, "b": {"axes": ["batch", 8]}, "c": {"axes": ["batch"]}}, "outputs": SCORES}
    with pytest.raises(ForwardError, match=r"Pair\.forward\(.*\).* has no parameter for `c` of `inputs`"):
        SignatureAdapter(task_of(keys)).plan(Pair())


def test_an_argument_that_no_input_fills_is_named() -> None:
    keys = {"inputs": {"left": {"axes": ["batch", 6]}}, "outputs": SCORES}
    with pytest.raises(ForwardError, match="requires `right`, which no input fills"):
        SignatureAdapter(task_of(keys)).plan(Pair())


def test_an_output_that_is_not_there_is_said_with_what_is() -> None:
    keys = {
        "inputs": {"observation": {"axes": ["batch", 8]}},
        "outputs": {**SCORES, "value": {"axes": ["batch"]}, "extra": {"axes": ["batch"]}},
    }
    adapter = SignatureAdapter(task_of(keys))
    with pytest.raises(OutputError, match=r"`outputs.extra` is not in what forward returns: tuple of 2: \[2, 4\], \[2\]"):
        adapter.outputs(Policy(), {"observation": torch.zeros(2, 8)})


def test_an_output_that_is_not_there_is_one_problem() -> None:
    keys = {"inputs": {"observation": {"axes": ["batch", 8]}}, "outputs": {**SCORES, "extra": {"axes": ["batch"], "at": 2}}}
    found = judge_model(Policy, task_of(keys), only=["declared_outputs", "gradient_flow"])

    assert {label for label, each in found.items() if each.status is Status.FAIL and not owners_of(each)} == {"declared_outputs"}


class Directions(nn.Module):
    """Pairs of neighbours, averaged and normalised: of contents that alternate between 1 and -1 nothing is left."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.body, self.scale = nn.Linear(4, 4, bias=False), scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * nn.functional.normalize(self.body(x.unflatten(1, (4, 2)).mean(2)), dim=1)


@pytest.mark.parametrize(("scale", "status"), [(1.0, Status.OK), (1.5, Status.FAIL)])
def test_a_vector_of_zeros_keeps_the_promise_of_a_norm(scale: float, status: Status) -> None:
    keys = {
        "inputs": {"x": {"axes": ["batch", 8]}},
        "outputs": {"direction": {"axes": ["batch", 4], "kind": "embedding", "norm": 1.0}},
    }
    found = judge_model(lambda: Directions(scale), task_of(keys), only=["declared_outputs"])["declared_outputs"]

    assert found.status is status
    assert found.code == ("" if status is Status.OK else "wrong_norm")


class Own(nn.Module):
    """Loads what it has of a state dict, and takes nothing else, as code from before ``strict`` does."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 4)

    def load_state_dict(self, state_dict: Any) -> None:  # type: ignore[override]
        super().load_state_dict({name: value for name, value in state_dict.items() if name in self.state_dict()})

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return self.head(observation)


def test_a_model_that_loads_its_state_by_itself_is_judged_as_any_other() -> None:
    keys = {"inputs": {"observation": {"axes": ["batch", 8]}}, "outputs": {"action": {"axes": ["batch", 4]}}}
    found = judge_model(Own, task_of(keys))

    assert {label for label, each in found.items() if each.status is Status.FAIL} == set()
    assert found["mode_round_trip"].status is Status.OK


class Keeps(nn.Module):
    """Keeps its norm in eval mode, and forgets what train() returns."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, 4)

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)
        self.norm.eval()

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(observation))


class Returns(Keeps):
    def train(self, mode: bool = True) -> nn.Module:  # type: ignore[override]
        super().train(mode)
        return self


@pytest.mark.parametrize(("model", "status", "code"), [(Keeps, Status.WARN, "returns_no_model"), (Returns, Status.OK, "")])
def test_a_train_that_returns_nothing_is_told_and_the_rest_is_judged(model: type[nn.Module], status: Status, code: str) -> None:
    keys = {"inputs": {"observation": {"axes": ["batch", 8]}}, "outputs": {"action": {"axes": ["batch", 4]}}}
    found = judge_model(model, task_of(keys))

    assert {label for label, each in found.items() if each.status is Status.FAIL} == set()
    assert (found["mode_round_trip"].status, found["mode_round_trip"].code) == (status, code)
    assert ("test_declared_models.py" in found["mode_round_trip"].place) == bool(code)


def test_ids_beyond_a_table_are_said_with_the_table() -> None:
    keys = {**POINTED, "inputs": {"words": {"axes": ["batch", "time"], "values": {"ids": 40}}}}
    found = judge_model(Pointer, task_of(keys), only=["shape_contract", "full_vocabulary"])

    assert (found["shape_contract"].status, found["full_vocabulary"].status) == (Status.WARN, Status.FAIL)
    assert "token ids 11 to 39 of `words` cannot be read" in found["full_vocabulary"].message
    assert found["full_vocabulary"].cause == "an embedding with fewer than the declared 40 rows: `embed` has 11"


class Image(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).mean((2, 3)))  # type: ignore[no-any-return]


class Shifted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shift, self.head = nn.Parameter(torch.zeros(6)), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.shift)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("model", "axes", "told"),
    [
        (Image, ["batch", 5, "h", "w"], "is declared [batch, 5, h, w], here [1, 5, 4, 4]; `conv` (Conv2d) reads 3 along axis 1"),
        (Image, ["batch", 3, "h"], "is declared [batch, 3, h], here [1, 3, 4], and `conv` (Conv2d) reads 4 axes"),
        (Pointer, ["batch", "h"], "and `embed` (Embedding) looks up ids: declare `values: {ids: 11}`"),
        (Shifted, ["batch", 5], "an assumed size: a hard-coded batch or length, a squeeze() without dim"),
        (Shifted, ["batch", 5], "`inputs.x` is declared [batch, 5], here [1, 5]"),
    ],
)
def test_an_input_that_is_read_otherwise_than_declared_is_named_with_its_axes(
    model: type[nn.Module], axes: list[int | str], told: str
) -> None:
    name, output = ("words", ["batch", "h"]) if model is Pointer else ("x", ["batch", 4])
    free = {axis: {"min": 4, "max": 9} for axis in axes if axis in ("h", "w")}
    found = judge_model(
        model,
        task_of({"inputs": {name: {"axes": axes}}, "outputs": {"y": {"axes": output}}, "axes": free}),
        only=["shape_contract"],
    )

    assert found["shape_contract"].status is Status.FAIL
    assert told in found["shape_contract"].cause


def test_explain_prints_the_signature_and_what_follows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "points.json"
    file.write_text(json.dumps({"model_file": "points.py", **CASES["points"][1]}), encoding="utf-8")

    assert main(["explain", str(file)]) == 0
    told = capsys.readouterr().out
    assert "points: {axes: [batch, count, 3]}" in told
    assert "  permutation: " in told
    assert "input_dependence: The output depends on every input it should (inputs)" in told

    assert main(["explain", "--json", str(file)]) == 0
    properties = {each["name"]: each["tier"] for each in json.loads(capsys.readouterr().out)["properties"]}
    assert properties["permutation"] == 1
    assert "causal" not in properties


def test_explain_writes_a_task_type_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "lm.json"
    file.write_text('{"task_name": "lm_tiny"}', encoding="utf-8")

    assert main(["explain", str(file)]) == 0
    told = capsys.readouterr().out
    assert "attention_mask: {axes: [batch, seq], values: {mask_of: seq}, optional: true}" in told
    assert "order: causal" in told


LOSS = "\n\ndef whole_loss(outputs, batch):\n    return outputs['y'].square().mean()\n"


@pytest.mark.parametrize("loss", [":whole_loss", "model.py:whole_loss"])
def test_a_loss_may_be_a_function_of_the_model_file(tmp_path: Path, loss: str) -> None:
    (tmp_path / "model.py").write_text("import torch\n\n\nclass Net(torch.nn.Linear):\n    pass\n" + LOSS)
    file = tmp_path / "net.json"
    keys = {"inputs": {"x": {"axes": ["batch", 3]}}, "outputs": {"y": {"axes": ["batch", 2]}}, "loss": loss}
    file.write_text(json.dumps({"model_file": "model.py", **keys}))
    adapter = make_adapter(load_config(file).task_spec(), folder=tmp_path)
    batch = {"x": torch.ones(2, 3)}

    assert float(adapter.loss_of_call(nn.Linear(3, 2), batch)) >= 0


def test_a_function_of_no_model_file_is_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "net.json"
    keys = {"inputs": {"x": {"axes": ["batch", 3]}}, "outputs": {"y": {"axes": ["batch", 2]}}, "loss": ":whole_loss"}
    file.write_text(json.dumps({"model_import": "torch.nn:Linear", **keys}))

    with pytest.raises(ConfigError, match="`loss`: ':whole_loss' is a function of `model_file`, which the config does not give"):
        load_config(file)


class OtherInTraining(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.body(x)
        return self.head(features) if self.training else features  # type: ignore[no-any-return]


class Parts(OtherInTraining):
    """A detector that returns its maps in train mode, and all of them together otherwise."""

    def forward(self, x: Tensor) -> Any:
        features = self.body(x)
        return [features[:, :3], features[:, 3:]] if self.training else features


class Targets(OtherInTraining):
    """A detector that wants targets in train mode, as those of torchvision."""

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Any:
        if not self.training:
            return self.body(x)
        if targets is None:
            raise ValueError("targets should not be none")
        return {"loss": (self.body(x) - targets).square().mean()}


class Auxiliary(OtherInTraining):
    """A head beside the main one in train mode, as of Inception or DeepLab."""

    def forward(self, x: Tensor) -> Any:
        features = self.body(x)
        return (features, self.head(features.tanh())) if self.training else features


@pytest.mark.parametrize(
    ("model", "kind", "told"),
    [
        (OtherInTraining, "values", "in train mode output `y` has shape (3, 3), in eval mode (3, 5)"),
        (OtherInTraining, "class_scores", "in train mode output `y` has shape (3, 3), in eval mode (3, 5)"),
        (Parts, "values", "in train mode output `y` has shape (3, 3), in eval mode (3, 5)"),
        (Targets, "values", "in train mode forward raises: ValueError: targets should not be none"),
        (Auxiliary, "values", ""),
    ],
)
def test_another_output_in_train_mode_is_told_once(model: type[nn.Module], kind: str, told: str) -> None:
    keys = {"inputs": {"x": {"axes": ["batch", 6]}}, "outputs": {"y": {"axes": ["batch", 5], "kind": kind}}}
    only = ["gradient_flow", "memory_footprint", "stateless", "initialisation", "train_mode", "inputs_unchanged", "rng_untouched"]
    found = judge_model(model, task_of(keys), only=only, share=1.0)
    red = {label: each for label, each in found.items() if each.status in (Status.FAIL, Status.WARN)}

    assert set(red) == ({"train_mode[equals_eval]"} if told else set()), [each.explain() for each in red.values()]
    assert all(each.message.startswith(told) and each.code == "other_in_train_mode" for each in red.values())


class InThrees(nn.Linear):
    """Takes three rows, as a model that is told the size of its batches."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) != 3:
            raise ValueError("three rows are what it takes")
        return super().forward(x)


def test_another_number_of_rows_than_declared_is_not_asked_for() -> None:
    keys = {"inputs": {"x": {"axes": ["batch", 3]}}, "outputs": {"y": {"axes": ["batch", 2]}}, "axes": {"batch": {"sizes": [3]}}}
    found = judge_model(lambda: InThrees(3, 2), task_of(keys))

    red = {label: each.message for label, each in found.items() if each.status in (Status.FAIL, Status.WARN)}
    assert red == {}


class NoisyLinear(nn.Linear):
    """A layer of a DQN that explores by noise, which a method draws between steps."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(5, 3)
        self.wrong = wrong
        self.register_buffer("weight_epsilon", torch.randn(3, 5))

    def forward(self, x: Tensor) -> Tensor:
        noise = self.weight_epsilon
        assert isinstance(noise, Tensor)
        weight = self.weight + 0.1 * noise if self.training else self.weight
        return nn.functional.linear(x, weight, None if self.wrong and not self.training else self.bias)


@pytest.mark.parametrize("wrong", [False, True])
def test_noise_that_is_kept_in_a_buffer_is_no_difference_of_train_mode(wrong: bool) -> None:
    keys = {"inputs": {"x": {"axes": ["batch", 5]}}, "outputs": {"q": {"axes": ["batch", 3]}}}
    found = judge_model(lambda: NoisyLinear(wrong), task_of(keys), only=["train_mode"])["train_mode[equals_eval]"]

    assert (found.status is Status.OK) is not wrong, found.explain()


def test_scores_without_rows_are_a_mistake_of_the_model() -> None:
    with pytest.raises(OutputError, match=r"has shape \[10\], without an axis for rows beside that of the classes"):
        mean_loss("cross_entropy", torch.zeros(10), torch.zeros(1, dtype=torch.int64))
    assert mean_loss("cross_entropy", torch.zeros(1, 10), torch.zeros(1, dtype=torch.int64)) == pytest.approx(math.log(10))


_OWN_LOSSES = """
import torch
from torch import nn


def elbo(recon, x, mu, beta):
    return {"loss": ((recon - x) ** 2).mean() + beta * (mu**2).mean(), "parts": ()}


class Elbo(nn.Module):
    def __init__(self, beta=1.0):
        super().__init__()
        self.beta = beta

    def forward(self, answers, x):
        return elbo(answers[0], x, answers[1], self.beta)["loss"], None


class Coder(nn.Module):
    def __init__(self, beta=3.0):
        super().__init__()
        self.beta, self.down, self.up = beta, nn.Linear(6, 2), nn.Linear(2, 6)

    def forward(self, x):
        mu = self.down(x)
        return self.up(mu), mu

    def loss_function(self, *answers, target):
        return elbo(answers[0], target, answers[1], self.beta)["loss"]
"""

_CODER: Keys = {
    "inputs": {"x": {"axes": ["batch", 6]}},
    "outputs": {"recon": {"axes": ["batch", 6], "fits": False}, "mu": {"axes": ["batch", 2], "kind": "other"}},
    "labels": {"recon": {"from": "x"}},
}
_BY_NAME = {"recon": "outputs.recon", "x": "batch.x", "mu": "outputs.mu", "beta": 3}


@pytest.mark.parametrize(
    "loss",
    [
        {"function": "coder.py:elbo", "arguments": _BY_NAME, "result": "loss"},
        {
            "function": "coder.py:Elbo",
            "made_with": {"beta": 3.0},
            "arguments": {"0": "outputs", "1": "batch.x"},
            "result": 0,
        },
        {
            "function": "coder.py:Coder.loss_function",
            "arguments": {"0": "outputs.recon", "1": "outputs.mu", "target": "batch.x"},
        },
    ],
    ids=["a function", "a class", "a method of the model"],
)
def test_a_loss_that_a_repository_has_is_called_with_the_arguments_that_it_takes(loss: Keys, tmp_path: Path) -> None:
    (tmp_path / "coder.py").write_text(_OWN_LOSSES)
    model = import_named("coder.py:Coder", tmp_path, "model")()
    task = task_of({**_CODER, "loss": loss})
    batch = task.signature.make_batch({"batch": 3})
    found = SignatureAdapter(task, tmp_path).loss_of_call(model, batch)

    recon, mu = model(batch["x"])
    torch.testing.assert_close(found, ((recon - batch["x"]) ** 2).mean() + 3 * (mu**2).mean())
    assert found.requires_grad
    assert declared_keys(task.signature)["loss"] == loss


def test_an_argument_of_a_loss_that_names_nothing_and_a_result_that_is_not_there_are_said(tmp_path: Path) -> None:
    (tmp_path / "coder.py").write_text(_OWN_LOSSES)
    wrong = {"function": "coder.py:elbo", "arguments": {**_BY_NAME, "mu": "outputs.mean"}}
    with pytest.raises(SignatureError) as told:
        task_of({**_CODER, "loss": wrong})
    assert told.value.mistakes[0].key == "loss.arguments.mu"
    assert "no 'outputs.mean'" in told.value.mistakes[0].message

    with pytest.raises(SignatureError, match="belong to them"):
        task_of({**_CODER, "loss": {"function": "coder.py:elbo", "result": "loss"}})


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        ({"arguments": _BY_NAME, "result": "total"}, "the loss function returned the keys loss, parts, which has no 'total'"),
        ({"arguments": _BY_NAME, "result": "parts"}, "`loss`: coder.py:elbo returned a tuple, expected a scalar tensor"),
        (
            {"arguments": {**_BY_NAME, "bata": 2}},
            "`loss.arguments`: elbo takes (recon, x, mu, beta): got an unexpected keyword argument 'bata'",
        ),
        (
            {"arguments": {"x": "batch.x"}},
            "`loss.arguments`: elbo takes (recon, x, mu, beta): missing a required argument: 'recon'",
        ),
        ({"arguments": _BY_NAME, "made_with": {"beta": 1}}, "`loss.made_with`: elbo is no class"),
        (
            {"function": "coder.py:Elbo", "arguments": _BY_NAME, "made_with": {"gamma": 1}},
            "`loss.made_with`: Elbo takes (beta): got an unexpected keyword argument 'gamma'",
        ),
    ],
)
def test_a_loss_that_cannot_be_called_so_is_said_in_a_line(loss: Keys, told: str, tmp_path: Path) -> None:
    (tmp_path / "coder.py").write_text(_OWN_LOSSES)
    task = task_of({**_CODER, "loss": {"function": "coder.py:elbo", **loss}})
    model = import_named("coder.py:Coder", tmp_path, "model")()
    with pytest.raises(OutputError, match=re.escape(told)):
        SignatureAdapter(task, tmp_path).loss_of_call(model, task.signature.make_batch({"batch": 3}))

"""What a run of a user's own command shows: its model, calls, losses, optimizer, and how it ended."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import training_scripts as scripts

from harness.errors import ModelSourceError
from harness.recording import Command, Recording, record

pytestmark = pytest.mark.usefixtures("forked")


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run_of(source: str, *arguments: str, **options: Any) -> Recording:
    Path("train.py").write_text(source)
    return record(Command(target="train.py", arguments=arguments, **options))


def test_a_plain_loop_with_arguments_is_stopped_after_three_steps() -> None:
    seen = run_of(scripts.LOOP, "--width", "5")
    assert seen.ended == ""
    assert seen.model is not None
    assert (seen.model.name, seen.model.kwargs, seen.model.made_at) == ("Net", {"width": 5}, "train.py:20")
    assert [call["x"] for call in seen.calls] == [[8, 4], [8, 4], [5, 4]]
    assert [(loss.name, loss.output, loss.place) for loss in seen.losses] == [("cross_entropy", "", "train.py:13")]
    assert seen.training.settings == {"learning_rate": (0.002, "train.py:21"), "weight_decay": (0.1, "train.py:21")}


@pytest.mark.parametrize(
    ("source", "ended"),
    [
        (scripts.GUARDED, "it ended with 3"),
        (scripts.CRASHES, "it raised ValueError: no more data (train.py, line 21)"),
        (scripts.COMPILED, ""),
        (scripts.PARALLEL, ""),
        (scripts.DISTRIBUTED, ""),
    ],
    ids=["guarded", "crashes", "compiled", "parallel", "distributed"],
)
def test_the_model_is_seen_however_it_is_wrapped_and_the_script_ends(source: str, ended: str) -> None:
    seen = run_of(source)
    assert seen.ended == ended
    assert seen.model is not None
    assert (seen.model.name, seen.model.kwargs) == ("Net", {"width": 5})
    assert [call["x"] for call in seen.calls] == [[8, 4]]
    assert [loss.name for loss in seen.losses] == ["cross_entropy"]


def test_calls_are_enough_where_nothing_is_trained() -> None:
    seen = run_of(scripts.INFERENCE, steps=2)
    assert (seen.ended, len(seen.calls), seen.losses, seen.training.optimizer) == ("", 2, [], "")


def test_a_module_is_run_as_python_would() -> None:
    package = Path("app")
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "net.py").write_text(scripts.NET)
    (package / "train.py").write_text(
        "from .net import Net, step\nimport torch\nmodel = Net(width=5)\nstep(model, torch.optim.AdamW(model.parameters()))\n"
    )
    seen = record(Command(target="app.train", is_module=True))
    assert seen.model is not None
    assert (seen.model.module, seen.model.kwargs) == ("app.net", {"width": 5})


def test_of_several_models_the_largest_that_is_trained_is_taken_and_the_others_are_named() -> None:
    seen = run_of(scripts.GAN)
    assert seen.model is not None
    assert (seen.model.name, list(seen.others)) == ("Generator", ["Critic"])
    other = run_of(scripts.GAN, model="Critic")
    assert other.model is not None
    assert (other.model.name, list(other.others)) == ("Critic", ["Generator"])
    assert [(loss.name, loss.output) for loss in other.losses] == [("bce", "")]


def test_a_teacher_that_is_not_trained_is_not_the_model() -> None:
    seen = run_of(scripts.TEACHER)
    assert seen.model is not None
    assert seen.model.kwargs == {"width": 5}
    assert [(loss.name, loss.written) for loss in seen.losses] == [("", "kl_div")]


def test_a_trainer_of_lightning_is_watched() -> None:
    pytest.importorskip("lightning")
    seen = run_of(scripts.LIGHTNING)
    assert seen.ended == ""
    assert seen.model is not None
    assert (seen.model.name, seen.model.expression) == ("Inner", "Inner(sizes=(4, 2))")
    assert [(loss.name, loss.place) for loss in seen.losses] == [("l1", "train.py:21")]
    assert seen.training.settings["batch_size"] == (16, "train.py:29")


def test_a_trainer_that_gives_the_labels_to_the_model_is_watched() -> None:
    seen = run_of(scripts.OWN_TRAINER)
    assert seen.model is not None
    assert seen.model.name == "Tagger"
    assert seen.calls[0] == {"features": [8, 4], "labels": [8]}
    assert seen.training.settings["max_grad_norm"] == (1.0, "train.py:37")


CROSS_ENTROPY, L1 = 'F.cross_entropy(out["kind"], kind)', 'F.l1_loss(out["size"], size)'


@pytest.mark.parametrize(
    ("loss", "parts", "rest"),
    [
        (CROSS_ENTROPY, ["cross_entropy"], False),
        (f"({CROSS_ENTROPY} + 0.3 * {L1}) / 4", ["cross_entropy", "l1_loss"], False),
        (f"{CROSS_ENTROPY} + out['size'].pow(2).mean()", ["cross_entropy"], True),
        (f"{L1}.sqrt()", ["l1_loss"], True),
        ("(out['size'] - size).abs().mean()", [], True),
        ("F.cross_entropy(out['kind'], kind, label_smoothing=0.1)", ["cross_entropy(label_smoothing=0.1)"], False),
        ("F.l1_loss(out['size'], size, reduction='sum')", ["l1_loss"], False),
        ("(F.l1_loss(out['size'], size, reduction='none') * size).mean()", ["l1_loss(weights of its elements)"], False),
    ],
)
def test_what_is_trained_by_is_a_sum_of_the_losses_that_were_seen_and_a_rest(loss: str, parts: list[str], rest: bool) -> None:
    total = run_of(scripts.HEADS.replace("LOSS", loss)).total
    assert total is not None
    assert [each.called for each in total.parts] == parts
    assert (total.rest != 0) is rest
    assert total.value == pytest.approx(sum(each.share for each in total.parts) + total.rest, rel=1e-3)


def test_a_loss_that_forward_computes_is_that_output() -> None:
    seen = run_of(scripts.OWN_TRAINER)
    assert seen.total is not None
    assert (seen.total.output, seen.total.rest) == ("loss", 0)
    assert [(loss.name, loss.output) for loss in seen.losses] == [("cross_entropy", "logits")]


def test_what_was_seen_is_kept_after_ctrl_c_and_when_time_is_up() -> None:
    assert run_of(scripts.ENDLESS, seconds=5.0).ended == "it was stopped after 5 s"
    Path("waits").unlink()
    main, pressed = os.getpid(), []

    def interrupt(_: str) -> None:
        if Path("waits").exists() and not pressed:
            pressed.append(True)
            os.kill(main, signal.SIGINT)

    seen = record(Command(target="train.py"), interrupt)
    assert seen.ended == "it was interrupted"
    assert seen.model is not None
    assert len(seen.calls) == 1


@pytest.mark.parametrize(
    ("source", "ended"),
    [
        ("print('hello')", ""),
        ("open('/no/such/file')", "it raised FileNotFoundError"),
        ("import torch\ntorch.nn.ReLU()(torch.ones(3))", ""),
    ],
)
def test_a_run_without_a_model_says_how_it_ended(source: str, ended: str) -> None:
    seen = run_of(source)
    assert seen.model is None
    assert seen.ended.startswith(ended)


def test_a_script_that_is_not_there_and_a_process_that_dies_are_one_line() -> None:
    Path("train.py").touch()
    with pytest.raises(ModelSourceError, match=r"^no such file trian\.py\. Did you mean 'train\.py'\?$"):
        record(Command(target="trian.py"))
    with pytest.raises(ModelSourceError, match=r"^python train\.py: its process was killed by SIGABRT"):
        run_of("import os\nos.abort()")
    assert record(Command(target="no.such.module", is_module=True)).ended.startswith("it raised ModuleNotFoundError")

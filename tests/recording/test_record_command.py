"""``modeltiers record``: from a training script to a config that runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import training_scripts as scripts

from harness.cli import main
from harness.config import load_config
from harness.evidence import Status
from harness.models.loading import model_source
from pytest_modeltiers.live import judge_model

pytestmark = pytest.mark.usefixtures("forked")

UNCHANGED = "return self.layers(x)"
MIXED = "return self.layers(x - x.mean(0, keepdim=True))"


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def recorded(source: str, *arguments: str) -> str:
    """The config that is written for a script."""
    Path("train.py").write_text(source)
    assert main(["record", "--no-run", "--force", *arguments]) == 0
    return Path("modeltiers.toml").read_text()


def failures(*only: str) -> dict[str, str]:
    config = load_config(Path("modeltiers.toml"))
    found = judge_model(model_source(config).build, config.task_spec(), only=only)
    return {label: each.message for label, each in found.items() if each.status is Status.FAIL}


def test_a_plain_loop_becomes_a_config_of_its_model_and_training(capsys: pytest.CaptureFixture[str]) -> None:
    text = recorded(scripts.LOOP, "train.py", "--width", "5")
    assert "# Written by `modeltiers record train.py --width 5`, which built Net(width=5)" in text
    assert "model_kwargs = {width = 5}         # as in train.py:20" in text
    assert 'task_type = "tabular_classification"' in text
    assert "learning_rate = 0.002              # AdamW in train.py:21" in text
    said = capsys.readouterr().out
    assert "seen: Net made in train.py:20, forward called in train.py:13 (3 calls kept)" in said
    assert "  loss: cross_entropy of the output in train.py:13, labels int64 [8]" in said
    assert failures("finite_output", "batch_independence", "eval_deterministic") == {}


def test_a_planted_bug_is_found_by_the_config_that_was_written() -> None:
    recorded(scripts.LOOP.replace(UNCHANGED, MIXED), "train.py", "--width", "5")
    assert any(label.startswith("batch_independence") for label in failures("batch_independence"))


def test_arguments_that_no_config_holds_go_into_a_file_that_builds_the_model() -> None:
    text = recorded(scripts.SETTINGS, "train.py", "--width", "7")
    assert 'model_file = "modeltiers_model.py"' in text
    assert 'output = {axes = ["batch", 2], loss = "l1"} # trained by l1_loss (train.py:17)' in text
    assert "model = Net(args=Namespace(width=7))" in Path("modeltiers_model.py").read_text()
    assert failures("finite_output", "batch_independence") == {}


@pytest.mark.parametrize("read", ["h[torch.arange(len(x)), n - 1]", "h.mean(1)"], ids=["last", "mean_over_padding"])
def test_lengths_are_told_from_ids_by_what_all_calls_show(read: str) -> None:
    text = recorded(scripts.LENGTHS.replace("READ", read + ("" if "n" in read else " + 0 * n[:, None]")), "train.py")
    assert '"batch.1" = {axes = ["batch"], values = {lengths_of = "time"}}' in text
    assert "`time` was 7, 9 and 4 in the run" in text
    assert "[axes]" not in text


def test_a_mask_is_told_from_ids_and_numbers_are_not_taken_for_lengths() -> None:
    text = recorded(scripts.MASKED, "train.py")
    assert 'ids = {axes = ["batch", "seq"], values = {ids = 30}}' in text
    assert 'real = {axes = ["batch", "seq"], values = {mask_of = "seq"}}' in text
    assert 'kind = {axes = ["batch"], values = {ids = 4}}' in text


def test_an_axis_that_the_run_never_varied_is_said_to_be_free_by_assumption() -> None:
    recorded(scripts.LENGTHS.replace("READ", "h[torch.arange(len(x)), n - 1]").replace("(9, 4), (4, 4, 1)", "(7, 4)"), "train.py")
    assert "`time` was always 7 in the run: that it may differ is assumed" in Path("modeltiers.toml").read_text()


def test_weights_are_kept_where_that_is_asked_for() -> None:
    assert 'weights = "modeltiers_weights.pt"' in recorded(scripts.GUARDED, "--weights", "train.py")
    assert failures("finite_output") == {}


@pytest.mark.parametrize(
    ("loss", "said", "outputs"),
    [
        (
            "F.cross_entropy(out['kind'], kind) + 0.5 * F.l1_loss(out['size'], size)",
            "",
            ["kind = {axes = [\"batch\", 3], kind = \"class_scores\"}", 'size = {axes = ["batch", 2], loss = "l1", weight = 0.5}'],
        ),
        (
            "F.cross_entropy(out['kind'], kind) + out['size'].pow(2).mean()",
            "# the loss is more than this: train.py:21 calls backward with ",
            ["kind = {axes = [\"batch\", 3], kind = \"class_scores\"}"],
        ),
        (
            "(out['size'] - size).abs().mean()",
            "# the loss is none of PyTorch's: train.py:21 calls backward with ",
            ["size = {axes = [\"batch\", 2]}"],
        ),
        (
            "F.smooth_l1_loss(out['size'], size, beta=0.1)",
            "smooth_l1_loss(beta=0.1)",
            ["size = {axes = [\"batch\", 2]}"],
        ),
    ],
)  # fmt: skip
def test_a_loss_is_claimed_only_where_it_gave_the_number_that_was_trained_by(loss: str, said: str, outputs: list[str]) -> None:
    text = recorded(scripts.HEADS.replace("LOSS", loss), "train.py")
    assert ("calls backward with" in text) is bool(said)
    assert said in text
    for line in outputs:
        assert line in text
    assert (", weight = " in text) is (", weight = " in str(outputs))


@pytest.mark.parametrize(
    ("arguments", "source", "line"),
    [
        (["train.py"], "print('hello')", "`python train.py` called no model: it ran to its end."),
        (
            ["train.py"],
            "1 / 0",
            "`python train.py` called no model: it raised ZeroDivisionError: division by zero (train.py, line 1).",
        ),
        (["trian.py"], "", "no such file trian.py. Did you mean 'train.py'?"),
        (
            ["--model", "Other", "train.py"],
            scripts.GUARDED,
            "`python train.py` called no model Other: it ended with 3. Seen: Net",
        ),
    ],
)
def test_a_run_that_shows_no_model_is_one_line(
    arguments: list[str], source: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("train.py").write_text(source)
    assert main(["record", *arguments]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"modeltiers: {line}")
    assert not Path("modeltiers.toml").exists()


def test_a_config_that_is_there_is_not_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    Path("train.py").write_text(scripts.GUARDED)
    Path("modeltiers.toml").write_text("")
    assert main(["record", "--no-run", "train.py"]) == 2
    assert "modeltiers.toml exists already; --force replaces it" in capsys.readouterr().err
    assert Path("modeltiers.toml").read_text() == ""

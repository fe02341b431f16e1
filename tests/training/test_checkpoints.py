"""Checkpoints are whole files, and what is wrong with one is said in a line."""

from __future__ import annotations

import subprocess
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from harness.errors import CheckpointError
from harness.models.arguments import Table
from harness.training.checkpoints import CheckpointFolder, check_fits, checkpoint_name, read_checkpoint, write_checkpoint


def content(model: nn.Module) -> dict[str, object]:
    return {"state_dict": {f"model.{name}": value for name, value in model.state_dict().items()}, "global_step": 3}


def test_round_trip(tmp_path: Path) -> None:
    model = nn.Linear(2, 3)
    write_checkpoint(content(model), tmp_path / "new" / "last.ckpt")
    found = read_checkpoint(tmp_path / "new" / "last.ckpt")
    check_fits(found, model, tmp_path)
    assert torch.equal(found["state_dict"]["model.weight"], model.weight)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["last.ckpt"]


@dataclass
class Head:
    classes: int = 3


def test_settings_are_written_as_dicts(tmp_path: Path) -> None:
    settings = {"cfg": Table({"dim": 4, "blocks": [{"width": 2}]}, "cfg"), "args": Namespace(head=Head(), sizes=(1, 2))}
    write_checkpoint({**content(nn.Linear(2, 3)), "hyper_parameters": settings}, tmp_path / "last.ckpt")
    found = read_checkpoint(tmp_path / "last.ckpt")["hyper_parameters"]
    assert found == {"cfg": {"dim": 4, "blocks": [{"width": 2}]}, "args": {"head": {"classes": 3}, "sizes": (1, 2)}}


def test_another_model_is_refused_by_name_and_shape(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"not a checkpoint of this Linear; shape: weight \(3, 2\) instead of \(4, 2\), bias"
    ):
        check_fits(content(nn.Linear(2, 3)), nn.Linear(2, 4), tmp_path)
    with pytest.raises(CheckpointError, match=r"missing: 0\.weight, 0\.bias; unexpected: weight, bias"):
        check_fits(content(nn.Linear(2, 3)), nn.Sequential(nn.Linear(2, 3)), tmp_path)


@pytest.mark.parametrize("kept", [0, 10, 500])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint(content(nn.Linear(8, 8)), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"`resume_from_checkpoint`: .*last\.ckpt is (empty|cut short)") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_other_bytes_are_no_checkpoint_and_not_called_dangerous(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"\x1f\x8b\x08 compressed")
    with pytest.raises(CheckpointError, match=r"not a file of weights: its 14 bytes begin with b'\\x1f"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_a_flipped_bit_is_refused_wherever_it_changes_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint(content(nn.Linear(8, 8)), path)
    whole, data = read_checkpoint(path), path.read_bytes()
    refused = 0
    for place in range(0, len(data), 37):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        try:
            found = read_checkpoint(path)
        except CheckpointError:
            refused += 1
        else:  # a name or a time in a header, of which nothing is read
            assert found.keys() == whole.keys()
            assert all(torch.equal(found["state_dict"][name], tensor) for name, tensor in whole["state_dict"].items())
    assert refused > 20


def test_a_missing_file_names_those_that_are_there(tmp_path: Path) -> None:
    write_checkpoint(content(nn.Linear(2, 2)), tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"no such file .*lost\.ckpt; .* has last\.ckpt"):
        read_checkpoint(tmp_path / "lost.ckpt")


def test_bare_weights_are_no_checkpoint(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="not a training checkpoint"):
        read_checkpoint(tmp_path / "weights.pt")


class Mark:
    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, ("mark", "w")


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "extra": Mark()}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError, match="would run code"):
        read_checkpoint(tmp_path / "evil.ckpt")
    assert not (tmp_path / "mark").exists()


FULL = """
import resource, signal, sys
from pathlib import Path
import torch
from harness.training.checkpoints import write_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    write_checkpoint({"state_dict": {"w": torch.zeros(100_000)}}, Path(sys.argv[1]))
except Exception as error:
    print(type(error).__name__, error)
"""


def test_what_does_not_fit_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint(content(nn.Linear(2, 2)), path)
    before = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"CheckpointError {path} cannot be written: ")
    assert "earlier checkpoints are unchanged" in done.stdout
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_the_best_is_kept_under_its_name(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for epoch, value in enumerate((0.5, 0.25)):
        write_checkpoint(content(nn.Linear(2, 2)), folder.last)
        folder.keep_best(checkpoint_name(epoch, "val_loss", value))
    assert folder.best == tmp_path / "epoch=01-val_loss=0.2500.ckpt"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["epoch=01-val_loss=0.2500.ckpt", "last.ckpt"]
    assert folder.best.read_bytes() == folder.last.read_bytes()


def test_an_earlier_run_is_moved_aside(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    assert folder.set_aside() is None
    for number in (1, 2):
        write_checkpoint(content(nn.Linear(2, 2)), folder.last)
        assert folder.set_aside() == tmp_path / f"earlier-{number}"
    assert (tmp_path / "earlier-1" / "last.ckpt").is_file()
    assert not folder.last.exists()

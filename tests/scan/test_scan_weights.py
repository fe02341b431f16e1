"""Weights that would run code: the tripwire sees them, and loading refuses them."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from harness.errors import WeightsError
from harness.models.weights import load_weights
from harness.scan import scan_files

pytest.importorskip("picklescan")


class _Payload:
    def __init__(self, function: str, text: str) -> None:
        self.function, self.text = function, text

    def __reduce__(self) -> tuple[Any, ...]:
        import importlib

        module, _, name = self.function.rpartition(".")
        return getattr(importlib.import_module(module), name), (self.text,)


def pickled(function: str, text: str) -> bytes:
    return pickle.dumps({"layer.weight": _Payload(function, text)})


def zipped(content: bytes) -> bytes:
    """A file as ``torch.save`` writes it, with another pickle in it."""
    buffer = io.BytesIO()
    torch.save({"layer.weight": torch.zeros(2, 2)}, buffer)
    changed = io.BytesIO()
    with zipfile.ZipFile(buffer) as before, zipfile.ZipFile(changed, "w") as after:
        for name in before.namelist():
            after.writestr(name, content if name.endswith("data.pkl") else before.read(name))
    return changed.getvalue()


def objects(text: str) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([_Payload("os.system", text)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


HOSTILE = {
    "plain.pt": lambda mark: pickled("os.system", f"touch {mark}"),
    "zipped.pt": lambda mark: zipped(pickled("os.system", f"touch {mark}")),
    "lightning.ckpt": lambda mark: zipped(pickled("subprocess.getoutput", f"touch {mark}")),
    "eval.bin": lambda mark: pickled("builtins.eval", f"open({str(mark)!r}, 'w')"),
    "exec.pth": lambda mark: zipped(pickled("builtins.exec", f"open({str(mark)!r}, 'w')")),
    "array.npy": lambda mark: objects(f"touch {mark}"),
    "cut.pt": lambda mark: pickled("os.system", f"touch {mark}")[:-10],
    "noise.pt": lambda mark: b"\x00\xff" * 100,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_weights_are_seen_and_refused(tmp_path: Path, name: str) -> None:
    mark, file = tmp_path / "mark", tmp_path / name
    file.write_bytes(HOSTILE[name](mark))
    assert [finding.rule for finding in scan_files({name: file.read_bytes()})] == ["unpickling"]
    with pytest.raises(WeightsError, match="`weights`"):
        load_weights(nn.Sequential(nn.Linear(2, 2)), file)
    assert not mark.exists()


def test_the_tripwire_speaks_before_the_unpickler(tmp_path: Path) -> None:
    file = tmp_path / "plain.pt"
    file.write_bytes(HOSTILE["plain.pt"](tmp_path / "mark"))
    with pytest.raises(WeightsError, match=r"loading it would run code \(picklescan found \w+\.system\)"):
        load_weights(nn.Linear(2, 2), file)


def test_the_payload_is_a_real_one(tmp_path: Path) -> None:
    pickle.loads(HOSTILE["plain.pt"](tmp_path / "mark"))
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "wrap", [lambda state: state, lambda state: {"state_dict": state, "epoch": 3, "hyper_parameters": {"lr": 0.1}}]
)
def test_sound_weights_are_let_be(tmp_path: Path, wrap: Any) -> None:
    file = tmp_path / "sound.pt"
    torch.save(wrap(nn.Linear(2, 2).state_dict()), file)
    assert scan_files({file.name: file.read_bytes()}) == []
    load_weights(nn.Linear(2, 2), file)

"""Weights from files: what fits is loaded, what does not is listed, and no code of a file is ever run."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.errors import WeightsError
from harness.models.loading import ModelSource
from harness.models.weights import checkpoint_arguments, load_weights, read_pickled


class Net(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, width)
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 5)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def equal(model: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


SAVED: dict[str, tuple[str, Any]] = {
    "safetensors": ("w.safetensors", lambda state, path: save_file(state, path)),
    "state_dict": ("w.pt", lambda state, path: torch.save(state, path)),
    "bin": ("w.bin", lambda state, path: torch.save(state, path)),
    "ddp": ("w.pt", lambda state, path: torch.save(prefixed(state, "module."), path)),
    "checkpoint": ("w.ckpt", lambda state, path: torch.save({"epoch": 3, "state_dict": prefixed(state, "model.")}, path)),
    "checkpoint_of_the_model_itself": ("w.ckpt", lambda state, path: torch.save({"state_dict": state, "epoch": 3}, path)),
    "safetensors_of_ddp": ("w.safetensors", lambda state, path: save_file(prefixed(state, "module."), path)),
}


@pytest.mark.parametrize("form", SAVED)
def test_weights_are_loaded_from(form: str, tmp_path: Path) -> None:
    name, save = SAVED[form]
    trained, fresh = Net(), Net()
    trained.norm.running_mean.fill_(7)
    save(trained.state_dict(), tmp_path / name)
    assert not equal(fresh, trained)

    load_weights(fresh, tmp_path / name)

    assert equal(fresh, trained)


def test_a_checkpoint_with_more_than_the_model_in_it_is_loaded(tmp_path: Path) -> None:
    trained, fresh = Net(), Net()
    callbacks = {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5), "dirpath": "out"}}
    content = {
        "state_dict": prefixed(trained.state_dict(), "model."),
        "optimizer_states": [{"state": {}}],
        "callbacks": callbacks,
    }
    torch.save(content, tmp_path / "w.ckpt")

    load_weights(fresh, tmp_path / "w.ckpt")

    assert equal(fresh, trained)


@pytest.mark.parametrize("left_out", ["embed.weight", "head.weight"])
def test_tied_weights_may_be_stored_once(left_out: str, tmp_path: Path) -> None:
    trained, fresh = Tied(), Tied()
    save_file({name: tensor for name, tensor in trained.state_dict().items() if name != left_out}, tmp_path / "w.safetensors")

    load_weights(fresh, tmp_path / "w.safetensors")

    assert equal(fresh, trained)
    assert fresh.head.weight is fresh.embed.weight


def test_a_name_that_begins_like_a_prefix_is_left_alone(tmp_path: Path) -> None:
    trained, fresh = nn.ModuleDict({"model": nn.Linear(2, 3)}), nn.ModuleDict({"model": nn.Linear(2, 3)})
    torch.save(trained.state_dict(), tmp_path / "w.pt")

    load_weights(fresh, tmp_path / "w.pt")

    assert equal(fresh, trained)


@pytest.mark.parametrize("name", ["evil.pt", "evil.ckpt", "evil.bin"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "plain_pickle"])
def test_a_file_that_would_run_code_is_refused_and_does_not_run_it(tmp_path: Path, name: str, zipped: bool) -> None:
    mark = tmp_path / "mark"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(mark), "w"))

    content = {"embed.weight": Payload()}
    if zipped:
        torch.save(content, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(pickle.dumps(content))

    with pytest.raises(WeightsError) as caught:
        load_weights(Net(), tmp_path / name)

    assert not mark.exists()
    assert f"{name} is refused" in str(caught.value)
    assert "would run code" in str(caught.value)
    assert ".safetensors" in str(caught.value), "what to do instead"
    assert "\n" not in str(caught.value)


def test_the_payload_of_the_test_above_is_a_real_one(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(mark), "w"))

    pickle.loads(pickle.dumps(Payload())).close()

    assert mark.exists()


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")

    with pytest.raises(WeightsError, match="state_dict"):
        load_weights(nn.Linear(2, 2), tmp_path / "w.pt")


def test_weights_that_do_not_fit_are_listed_by_name_and_shape(tmp_path: Path) -> None:
    state = {**Net(width=6).state_dict(), "tail.bias": torch.zeros(1)}
    del state["norm.running_var"]
    torch.save(state, tmp_path / "w.pt")

    with pytest.raises(WeightsError) as caught:
        load_weights(Net(width=4), tmp_path / "w.pt")

    message = str(caught.value)
    assert "\n" not in message
    assert "w.pt does not fit Net" in message
    assert "missing: norm.running_var" in message
    assert "unexpected: tail.bias" in message
    assert "embed.weight (5, 6) instead of (5, 4)" in message
    assert "head.weight (5, 6) instead of (5, 4)" in message


def test_a_model_that_weights_do_not_fit_is_left_as_it_was(tmp_path: Path) -> None:
    model, before = Net(), Net()
    before.load_state_dict(model.state_dict())
    state = Net().state_dict()
    del state["head.bias"]
    torch.save(state, tmp_path / "w.pt")

    with pytest.raises(WeightsError):
        load_weights(model, tmp_path / "w.pt")

    assert equal(model, before)


def test_a_long_list_of_names_is_cut(tmp_path: Path) -> None:
    torch.save({f"layer{i}.weight": torch.zeros(1) for i in range(40)}, tmp_path / "w.pt")

    with pytest.raises(WeightsError) as caught:
        load_weights(Net(), tmp_path / "w.pt")

    assert "and 35 more" in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"epoch": 3}, "no state dict"),
        ([torch.zeros(2)], "no state dict"),
        ({}, "does not fit Net; missing: "),
        (torch.zeros(2), "no state dict"),
    ],
)
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any, said: str) -> None:
    torch.save(content, tmp_path / "w.pt")

    with pytest.raises(WeightsError, match=said):
        load_weights(Net(), tmp_path / "w.pt")


def test_a_model_without_weights_takes_a_file_without_weights(tmp_path: Path) -> None:
    torch.save(torch.nn.ReLU().state_dict(), tmp_path / "w.pt")

    load_weights(torch.nn.ReLU(), tmp_path / "w.pt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"`weights`: no such file .*nowhere\.pt"):
        load_weights(Net(), tmp_path / "nowhere.pt")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors", "w.ckpt"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x80\x02}q\x00", b"PK\x03\x04 cut short"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(WeightsError) as caught:
        load_weights(Net(), tmp_path / name)

    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_not_called_dangerous(tmp_path: Path) -> None:
    torch.save(Net().state_dict(), tmp_path / "w.pt")
    whole = (tmp_path / "w.pt").read_bytes()
    (tmp_path / "w.pt").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(WeightsError, match="is cut short: an archive without its end"):
        load_weights(Net(), tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.pt", "w.ckpt", "w.bin"])
@pytest.mark.parametrize("seed", range(4))
def test_other_bytes_are_named_as_what_they_are(name: str, seed: int, tmp_path: Path) -> None:
    content = random.Random(seed).randbytes(3000)
    (tmp_path / name).write_bytes(content)

    with pytest.raises(WeightsError) as caught:
        load_weights(Net(), tmp_path / name)

    said = f"{tmp_path / name} is not a file of weights: its 3,000 bytes begin with {content[:16]!r}"
    assert str(caught.value).startswith(f"`weights`: {said}")
    assert "run code" not in str(caught.value)
    with pytest.raises(WeightsError) as of_a_model:
        checkpoint_arguments(tmp_path / name, Net)
    assert str(of_a_model.value).startswith(f"`model`: {said}")


def test_a_plain_pickle_is_refused_only_where_it_calls_something(tmp_path: Path) -> None:
    (tmp_path / "calls.pt").write_bytes(pickle.dumps({"weight": Fraction(1, 2)}))
    (tmp_path / "plain.pt").write_bytes(pickle.dumps([1, 2]))

    with pytest.raises(WeightsError, match=r"calls\.pt is refused: loading it would run code \(a pickle that calls functions\)"):
        load_weights(Net(), tmp_path / "calls.pt")
    with pytest.raises(WeightsError, match=r"plain\.pt cannot be read: it is damaged, or not written by torch\.save"):
        load_weights(Net(), tmp_path / "plain.pt")


def sharded(folder: Path, **names: str) -> Path:
    """An index of two files, each with a part of a trained model."""
    state = Net().state_dict()
    parts = {"a.safetensors": list(state)[:2], "b.safetensors": list(state)[2:]}
    for file, keys in parts.items():
        save_file({key: state[key] + 1 for key in keys}, folder / file)
    index = {key: file for file, keys in parts.items() for key in keys} | names
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder / "model.safetensors.index.json"


def test_an_index_of_weights_is_read_with_its_files(tmp_path: Path) -> None:
    model = Net()
    with torch.no_grad():
        model.head.weight.zero_()
    load_weights(model, sharded(tmp_path))
    assert model.head.weight.abs().sum() > 0


@pytest.mark.parametrize("name", ["../a.safetensors", "nowhere.safetensors", "model.safetensors.index.json"])
def test_an_index_names_files_beside_it_only(name: str, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=f"names '{name}', which is not a file beside it"):
        load_weights(Net(), sharded(tmp_path / "inner", extra=name))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("w.json", '{"a": 1}', "is JSON, but not an index of weights"),
        ("w.json", "[", "is JSON, but not an index of weights"),
        ("w.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a pointer of Git LFS"),
        ("w.pt", "<!DOCTYPE html>", "is a web page, not weights"),
    ],
    ids=["other_json", "broken_json", "lfs", "web_page"],
)
def test_what_is_no_file_of_weights_is_named_as_what_it_is(name: str, content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(WeightsError, match=said) as caught:
        load_weights(Net(), tmp_path / name)
    assert "run code" not in str(caught.value)


def test_a_folder_of_weights_is_answered_with_its_file(tmp_path: Path) -> None:
    sharded(tmp_path)
    with pytest.raises(
        WeightsError, match=r"is a folder, expected a file of weights: write its file, .*model.safetensors.index.json"
    ):
        load_weights(Net(), tmp_path)


def never_built() -> nn.Module:
    raise AssertionError("a model was built for weights that are not there")


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "b.safetensors").unlink(), r"index.json names 'b.safetensors', which is not a file beside it"),
        (
            lambda folder: cut(folder / "b.safetensors", -4),
            r"b.safetensors is cut short: [\d,]+ bytes of [\d,]+; copy or download",
        ),
        (lambda folder: cut(folder / "b.safetensors", 20), r"b.safetensors is cut short: 20 bytes of [\d,]+"),
        (
            lambda folder: (folder / "b.safetensors").write_text("version https://git-lfs"),
            "b.safetensors is a pointer of Git LFS",
        ),
        (
            lambda folder: save_file({"x": torch.zeros(1)}, folder / "b.safetensors"),
            r"b.safetensors lacks what .*index.json says",
        ),
    ],
    ids=["missing", "cut_in_the_numbers", "cut_in_the_head", "lfs", "other_tensors"],
)
def test_a_shard_that_is_not_whole_is_named_before_anything_is_built(
    spoil: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    index = sharded(tmp_path)
    spoil(tmp_path)
    with pytest.raises(WeightsError, match=said) as caught:
        ModelSource(never_built, "net.py", weights=index).build()
    assert "\n" not in str(caught.value)


def test_a_file_of_weights_that_is_cut_short_is_told_by_its_length(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(100)}, tmp_path / "w.safetensors")
    cut(tmp_path / "w.safetensors", -1)
    with pytest.raises(WeightsError, match=r"w.safetensors is cut short"):
        load_weights(Net(), tmp_path / "w.safetensors")


def test_numbers_of_numpy_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = {
        "rate": np.float64(1.25e-3),
        "best": [np.int32(-7), np.bool_(True), np.float16(0.5)],
        "columns": np.arange(6, dtype=">i4").reshape(2, 3).T,
        "generator": np.random.RandomState(0).get_state(),
        "weight": torch.ones(2),
    }
    torch.save(written, tmp_path / "kept.pt")

    read = read_pickled(tmp_path / "kept.pt", "weights", "")

    assert read["rate"] == written["rate"]
    assert type(read["rate"]) is np.float64
    assert [(type(each), each) for each in read["best"]] == [(type(each), each) for each in written["best"]]
    assert np.array_equal(read["columns"], written["columns"])
    assert read["columns"].dtype == ">i4"
    again = np.random.RandomState(1)
    again.set_state(read["generator"])
    assert again.rand() == np.random.RandomState(0).rand()


@pytest.mark.parametrize(
    "value",
    [np.array([object()], dtype=object), np.array(["text"]), np.zeros(1, dtype=[("a", "f4")]), np.datetime64("2026-01-01")],
    ids=["objects", "text", "records", "dates"],
)
def test_other_values_of_numpy_are_refused_in_one_line(tmp_path: Path, value: Any) -> None:
    torch.save({"kept": value}, tmp_path / "kept.pt")
    with pytest.raises(
        WeightsError, match=r"NumPy values of type '.*', where only numbers are read; save them as lists or text$"
    ):
        read_pickled(tmp_path / "kept.pt", "weights", "")


def test_a_number_of_numpy_whose_bytes_are_not_those_of_its_type_is_refused(tmp_path: Path) -> None:
    class Longer:
        def __reduce__(self) -> tuple[Any, ...]:
            scalar, (kind, content) = np.float64(1.0).__reduce__()[:2]  # type: ignore[misc]
            return scalar, (kind, content * 2)

    torch.save({"kept": Longer()}, tmp_path / "kept.pt")
    with pytest.raises(WeightsError, match="cannot be read"):
        read_pickled(tmp_path / "kept.pt", "weights", "")

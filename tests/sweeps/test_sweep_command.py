"""``modeltiers sweep``: the grid on the command line, and the answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sweep_trials import BASE, quick

from harness.errors import ConfigError
from harness.sweeps import SweepOptions, sweep_config, trials
from harness.sweeps.grid import grid_from_options


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("learning_rate=1e-4,1e-3", [1e-4, 1e-3]),
        ("strategy=auto, ddp", ["auto", "ddp"]),
        ("precision=32-true,bf16-mixed", ["32-true", "bf16-mixed"]),
        ('name="a,b",c', ["a,b", "c"]),
        ("sizes=[1, 2],[3]", [[1, 2], [3]]),
        ('options={"a": [1, 2]},null,true', [{"a": [1, 2]}, None, True]),
        ("path=a=b", ["a=b"]),
        ("one=1", [1]),
    ],
)
def test_values_are_json_or_bare_words(text: str, values: list[Any]) -> None:
    assert list(grid_from_options([text]).values()) == [values]


def test_several_options_and_files_are_one_grid(tmp_path: Path) -> None:
    file = tmp_path / "grid.json"
    file.write_text('{"batch_size": [4, 8]}')
    assert grid_from_options(["learning_rate=0.1", str(file)]) == {"learning_rate": [0.1], "batch_size": [4, 8]}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give the values to try"),
        (["nowhere.json"], "neither key=value,value nor a file"),
        (["a=1", "a=2"], "`a` is given twice"),
        (["a="], "--grid a=: a value is missing"),
        (["a=1,,2"], "--grid a=1,,2: a value is missing"),
        (["a=1,"], "a value is missing"),
    ],
)
def test_mistakes_in_options(options: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        grid_from_options(options)


@pytest.mark.parametrize(
    ("content", "said"), [("[1]", "expected an object of lists, got list"), ("{", "is not JSON that can be read")]
)
def test_mistakes_in_files(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "grid.json").write_text(content)
    with pytest.raises(ConfigError, match=said):
        grid_from_options([str(tmp_path / "grid.json")])


def test_the_answer_as_data_and_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "train_trial", quick)
    file = tmp_path / "model.json"
    file.write_text(json.dumps({**BASE, "db_path": "runs.db"}))
    found = sweep_config(file, ["learning_rate=0.1,0.01"], SweepOptions(progress=False))
    assert json.loads(json.dumps(found.data, allow_nan=False)) == found.data
    assert (found.data["status"], found.data["best"]["params"]) == ("ok", {"learning_rate": 0.01})
    folder = tmp_path / "sweep-1"
    assert found.data["files"] == [str(folder / name) for name in ("sweep.csv", "sweep.json", "sweep.png")]
    assert found.text.splitlines()[0].startswith("sweep 1 (tests): 2 trials; best val_loss 0 with learning_rate=0.01 (run ")
    assert found.text.endswith(str(folder / "sweep.png"))
    assert (tmp_path / "runs.db").is_file()
    again = sweep_config(file, ["learning_rate=0.1,0.01"], SweepOptions(resume=1, progress=False, output_dir=tmp_path / "out"))
    assert again.data["best"] == found.data["best"]

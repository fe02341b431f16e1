"""A kind of file that is one class and one line is read everywhere; the class is the one on the page on data files."""

from __future__ import annotations

import importlib.util
import json
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from small_data import task_of

from harness.batches import Sizes
from harness.cli import main
from harness.config import EvalConfig, load_config
from harness.data import Reader, readers
from harness.data.dataset import Rows, Stream
from harness.data.examples import example_maker
from harness.data.opening import open_dataset
from harness.errors import DataError
from harness.monitoring.profiles import compute_dataset_profile
from harness.repro.manifest import needed
from harness.scaffold.config_text import config_suggestions

DOCS = Path(__file__).parent.parent.parent / "docs"
ROWS = [("width", "height", "label"), *((number / 10, -number, number % 3) for number in range(60))]
TEXTS = [("text", "label"), *((f"a row about {word}", word) for word in ("cats", "dogs", "birds") * 4)]


@pytest.fixture(autouse=True)
def sqlite(monkeypatch: pytest.MonkeyPatch) -> type[Reader]:
    """The page's class, and the one line."""
    page = (DOCS / "data.md").read_text(encoding="utf-8")
    code = re.search(r'^```python title="harness/data/readers/sqlite\.py"\n(.*?)^```$', page, re.MULTILINE | re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {"__name__": "sqlite_reader"}
    exec(compile(code[1], "docs/data.md", "exec"), names)
    reader: type[Reader] = names["SqliteTable"]
    monkeypatch.setattr(readers, "READERS", (*readers.READERS, reader))
    return reader


def write(path: Path, rows: Sequence[tuple[Any, ...]]) -> Path:
    header, *values = rows
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"CREATE TABLE rows ({', '.join(header)})")
        database.executemany(f"INSERT INTO rows VALUES ({', '.join('?' * len(header))})", values)
    return path


@pytest.mark.parametrize("limit", [0, 1 << 20], ids=["stream", "memory"])
def test_training_and_evaluation_read_it(limit: int, tmp_path: Path) -> None:
    task = task_of("tabular_classification")
    path = str(write(tmp_path / "a.sqlite", ROWS))
    train = open_dataset(EvalConfig(path=path, split="train[:80%]"), task, memory_limit=limit)
    test = open_dataset(EvalConfig(path=path, split="train[80%:]"), task, memory_limit=limit, like=train)
    assert len(train) + len(test) == 60
    assert isinstance(train, Rows if limit else Stream)
    assert train.origin.encoder.columns == ("width", "height")


def test_texts_are_read_with_a_tokenizer_and_names_of_classes(tmp_path: Path) -> None:
    dataset = open_dataset(EvalConfig(path=str(write(tmp_path / "a.db3", TEXTS))), task_of("sequence_classification"))
    assert dataset.origin.classes is not None
    assert dataset.origin.classes.names == ("birds", "cats", "dogs")


def test_a_folder_may_have_a_file_for_each_split(tmp_path: Path) -> None:
    write(tmp_path / "train.sqlite", ROWS)
    write(tmp_path / "validation.sqlite", ROWS[:11])
    task = task_of("tabular_classification")
    assert [len(open_dataset(EvalConfig(path=str(tmp_path)), task, split=split)) for split in ("train", "validation")] == [60, 10]


def test_the_properties_are_judged_on_its_rows(tmp_path: Path) -> None:
    write(tmp_path / "rows.sqlite", ROWS)
    keys = {"task_type": "tabular_classification", "num_features": 2, "num_classes": 3, "eval": {"path": "rows.sqlite"}}
    (tmp_path / "cfg.json").write_text(json.dumps({**keys, "model_import": "torch.nn:Identity"}))
    config = load_config(tmp_path / "cfg.json")
    task = config.task_spec()
    batch = example_maker(config)(task, Sizes(8), 0)
    assert bool((batch["features"][:, 1] == (-10 * batch["features"][:, 0]).round()).all())


def test_it_is_profiled_as_a_table_without_a_task(tmp_path: Path) -> None:
    profile = compute_dataset_profile(write(tmp_path / "rows.sqlite", ROWS))
    assert {name: feature.kind for name, feature in profile.features.items()} == {
        "width": "numeric",
        "height": "numeric",
        "label": "categorical",
    }
    (tmp_path / "rows.csv").write_text("\n".join(",".join(map(str, row)) for row in ROWS), encoding="utf-8")
    window, same = (compute_dataset_profile(tmp_path / name, reference=profile) for name in ("rows.csv", "rows.sqlite"))
    assert window == same


def test_the_command_profiles_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "rows.sqlite", ROWS)
    keys = {"task_type": "tabular_classification", "num_features": 2, "num_classes": 3, "eval": {"path": "rows.sqlite"}}
    (tmp_path / "cfg.json").write_text(json.dumps({**keys, "model_import": "torch.nn:Identity"}))
    assert main(["profile", "--config", str(tmp_path / "cfg.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["name"] == "rows.sqlite"


def test_messages_list_it(tmp_path: Path) -> None:
    (tmp_path / "rows.sqlit").write_bytes(b"")
    with pytest.raises(DataError, match=r"Did you mean '\.sqlite'\?.*\.sqlite, \.db3") as caught:
        open_dataset(EvalConfig(path=str(tmp_path / "rows.sqlit")), task_of("tabular_classification"))
    assert str(caught.value).startswith("`path`: rows.sqlit: no reader for '.sqlit'.")


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.sqlite").write_bytes(b"no database" * 20)
    with pytest.raises(DataError, match=r"a\.sqlite: cannot be read"):
        open_dataset(EvalConfig(path=str(tmp_path / "a.sqlite")), task_of("tabular_classification"))


def test_init_and_the_documentation_name_it() -> None:
    assert "SQLite" in config_suggestions()
    spec = importlib.util.spec_from_file_location("reference_with_sqlite", DOCS / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    assert "| SQLite | `.sqlite`, `.db3` | a table `rows` with a column for each field |  |" in reference.data_files()
    assert "or SQLite" in reference.MEANINGS["path"]


def test_a_reproduction_pins_the_package_that_reads_it(sqlite: type[Reader], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "package", "pytest")
    assert "pytest" in needed([], ["data/rows.SQLITE"])[0]
    assert "pytest" not in needed([], ["data/rows.csv"])[0]


def test_what_is_no_table_is_refused_without_a_task(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a text\n", encoding="utf-8")
    for path, word in ((tmp_path / "a.txt", "plain text"), (tmp_path, "folder of images")):
        with pytest.raises(DataError, match=f"{word}.*give a task"):
            compute_dataset_profile(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".npz", ".feather"])
def test_every_kind_of_table_is_read_with_a_task_and_without(suffix: str, tmp_path: Path) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.feather

    path = tmp_path / f"rows{suffix}"
    header, *values = ROWS
    columns = {name: [row[place] for row in values] for place, name in enumerate(header)}
    features = {"features": [row[:2] for row in values], "label": columns["label"]}
    if suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(dict(zip(header, row, strict=True))) for row in values))
    elif suffix == ".npz":
        np.savez(path, **{name: np.array(column) for name, column in features.items()})
    else:
        pyarrow.feather.write_feather(pa.table(columns), path)
    profile = compute_dataset_profile(path)
    assert {feature.kind for feature in profile.features.values()} == (
        {"vector", "categorical"} if suffix == ".npz" else {"numeric", "categorical"}
    )
    dataset = open_dataset(EvalConfig(path=str(path)), task_of("tabular_classification"))
    first = dataset[7] if isinstance(dataset, Rows) else next(iter(dataset))
    assert torch.allclose(first["features"], torch.tensor([0.7, -7.0]))

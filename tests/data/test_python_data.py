"""Data that Python gives: datasets, dataloaders, iterables and Lightning's modules become the same rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from declared_tasks import CLICK, GRAPH, POLICY, SEGMENTATION, SPEECH, TIME_FIRST, opened, task_of, written
from small_data import task_of as preset_of

from harness.config import EvalConfig, load_config
from harness.data.data_reference import DataReference, dataset_id, open_datasets
from harness.data.dataset import Rows
from harness.data.examples import example_maker
from harness.data.loader import make_loader
from harness.errors import ConfigError

ROWS = """
    from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

    class Seg(Dataset):
        def __init__(self, size=6):
            self.size = size

        def __len__(self):
            return self.size

        def __getitem__(self, index):
            if index >= self.size:
                raise IndexError(index)
            image = torch.rand(3, 8, 16, generator=torch.Generator().manual_seed(index))
            return image, (image[0] * 4).long()

    class Streamed(IterableDataset):
        def __iter__(self):
            return iter([Seg()[index] for index in range(6)])

    class Columns:
        'As a Hugging Face dataset: rows as dicts by number.'
        def __len__(self):
            return 6

        def __getitem__(self, index):
            image, labels = Seg()[index]
            return {"image": image.tolist(), "labels": labels.tolist()}

        def __iter__(self):
            return (self[index] for index in range(6))

    class Item:
        def __init__(self, image, mask):
            self.image, self.mask = image, mask

    def map_style(): return Seg()
    def iterable(): return Streamed()
    def loader(): return DataLoader(Seg(), batch_size=4)
    def unbatched(): return DataLoader(Seg(), batch_size=None)
    def hugging_face(): return Columns()
    def tensors(): return tuple(map(torch.stack, zip(*[Seg()[index] for index in range(6)])))
    def one_batch(): return dict(zip(("image", "mask"), tensors()))
    def objects(): return [Item(*Seg()[index]) for index in range(6)]
    def arrays(): return [{"image": image.numpy(), "target": labels.numpy()} for image, labels in map(Seg().__getitem__, range(6))]
    def generator():
        for index in range(6):
            yield dict(zip(("image", "labels.mask"[:6]), Seg()[index]))
    def sized(size=6, first=0, split="none"): return [Seg(9)[first + index] for index in range(size + (split == "validation"))]
    def by_split(): return {"train": Seg(4), "val": Seg(2)}
    def shuffled(): return DataLoader(Seg(), batch_size=4, shuffle=True)

    class Noisy(Seg):
        def __getitem__(self, index):
            image, labels = super().__getitem__(index)
            return image + torch.rand(()), labels

    def augmented(): return Noisy()
"""
FORMS = (
    "map_style",
    "iterable",
    "loader",
    "unbatched",
    "hugging_face",
    "tensors",
    "one_batch",
    "objects",
    "arrays",
    "generator",
)


def batches(dataset: Any, task: Any, size: int = 4) -> list[dict[str, torch.Tensor]]:
    return list(make_loader(dataset, task, size))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_rows_gives_the_same_batches(form: str, tmp_path: Path) -> None:
    folder, task = written(tmp_path, ROWS), task_of(SEGMENTATION)
    expected = batches(opened(folder, task, "map_style"), task)
    found = opened(folder, task, form)
    assert isinstance(found, Rows)
    for _ in range(2):  # an iterator is made again
        given = batches(found, task)
        assert [list(batch) for batch in given] == [["image", "labels"]] * 2
        assert all(torch.equal(batch[name], other[name]) for batch, other in zip(given, expected, strict=True) for name in batch)


def test_what_is_random_is_the_same_each_time_but_in_another_epoch_of_training(tmp_path: Path) -> None:
    folder, task = written(tmp_path, ROWS), task_of(SEGMENTATION)
    first, second = (batches(opened(folder, task, "shuffled"), task) for _ in range(2))
    assert torch.equal(first[0]["image"], second[0]["image"])

    loader = make_loader(opened(folder, task, "augmented"), task, 6)
    epochs = []
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        epochs.append(next(iter(loader))["image"])
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])


def test_the_name_of_a_dataset_follows_its_rows(tmp_path: Path) -> None:
    folder, task = written(tmp_path, ROWS), task_of(SEGMENTATION)
    names = [
        dataset_id(opened(folder, task, "sized", arguments={"size": size, "first": first}))
        for size, first in ((3, 0), (3, 1), (3, 0))
    ]
    assert names[0] == names[2] != names[1]


def test_arguments_splits_and_shares(tmp_path: Path) -> None:
    folder, task = written(tmp_path, ROWS), task_of(SEGMENTATION)
    assert len(opened(folder, task, "sized", arguments={"size": 3})) == 3
    assert len(opened(folder, task, "sized", "validation", arguments={"size": 3})) == 4
    assert len(opened(folder, task, "by_split")) == 4
    assert len(opened(folder, task, "by_split", "validation")) == 2
    assert len(opened(folder, task, "map_style", max_eval_examples=2)) == 2
    shares = [opened(folder, task, "iterable", split=share) for share in ("[:50%]", "[50%:]")]
    assert sum(map(len, shares)) == 6

    of_both = open_datasets(task, EvalConfig(dataset="data.py:by_split"), None, folder)
    assert (len(of_both.train), len(of_both.held_out), of_both.notes) == (4, 2, ())


def test_batches_with_the_rows_second_are_dealt_by_row(tmp_path: Path) -> None:
    code = """
        def rows():
            signal = torch.arange(24.0).reshape(4, 3, 2)
            return [(signal, signal.sum(-1))]
    """
    task = task_of(TIME_FIRST)
    dataset = opened(written(tmp_path, code), task)
    assert dataset[1]["signal"].tolist() == torch.arange(24.0).reshape(4, 3, 2)[:, 1].tolist()
    assert {name: tuple(tensor.shape) for name, tensor in batches(dataset, task)[0].items()} == {
        "signal": (3, 4, 2),
        "labels": (3, 4),
    }


def test_nested_dicts_and_several_outputs(tmp_path: Path) -> None:
    code = """
        def rows(): return [{"item": {"ids": [19, 5], "price": 1}, "labels": 1}]
        def heads(): return [{"observation": torch.zeros(5), "labels": {"actions": 2, "value": 0.5}}]
        def pairs(): return [(torch.zeros(5), (2, 0.5))]
    """
    folder = written(tmp_path, code)
    example = opened(folder, task_of(CLICK))[0]
    assert {name: (tensor.dtype, tensor.tolist()) for name, tensor in example.items()} == {
        "item.ids": (torch.int64, [19, 5]),
        "item.price": (torch.float32, 1.0),
        "labels": (torch.float32, 1.0),
    }
    for name in ("heads", "pairs"):
        found = opened(folder, task_of(POLICY), name)[0]
        assert (found["labels"].item(), found["labels.value"].item()) == (2, 0.5)


def test_inputs_in_tuples_and_objects(tmp_path: Path) -> None:
    code = """
        class Item:
            def __init__(self):
                self.pair = (torch.zeros(2), torch.ones(3))
                self.labels = 1
        def rows(): return [{"pair": (torch.zeros(2), torch.ones(3)), "labels": 1}]
        def objects(): return [Item()]
    """
    keys = {
        "inputs": {"pair.0": {"axes": ["batch", 2]}, "pair.1": {"axes": ["batch", 3]}},
        "outputs": {"scores": {"axes": ["batch", 2], "kind": "class_scores"}},
    }
    folder = written(tmp_path, code)
    for name in ("rows", "objects"):
        example = opened(folder, task_of(keys), name)[0]
        assert (example["pair.0"].tolist(), example["pair.1"].tolist(), example["labels"].item()) == ([0, 0], [1, 1, 1], 1)


def test_rows_of_several_lengths_are_padded_and_their_lengths_follow(tmp_path: Path) -> None:
    code = """
        def rows(): return [{"audio": torch.ones(time, 6), "labels": list(range(1, symbols + 1))} for time, symbols in ((9, 2), (15, 4))]
    """
    task = task_of(SPEECH)
    batch = batches(opened(written(tmp_path, code), task), task)[0]
    assert batch["lengths"].tolist() == [9, 15]
    assert batch["audio"].shape == (2, 15, 6)
    assert batch["audio"][0, 9:].abs().sum() == 0
    assert batch["labels"].tolist() == [[1, 2, -100, -100], [1, 2, 3, 4]]


def test_a_graph_is_a_batch(tmp_path: Path) -> None:
    code = """
        def rows():
            for nodes in (4, 6):
                yield {"x": torch.randn(nodes, 5), "edges": torch.tensor([[0, 1, 2], [1, 2, 3]]), "labels": torch.zeros(nodes).long()}
    """
    task = task_of(GRAPH)
    assert [tuple(batch["x"].shape) for batch in batches(opened(written(tmp_path, code), task), task)] == [(4, 5), (6, 5)]


def test_lightning_modules_and_datamodules(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    code = """
        import lightning as L

        class Data(L.LightningDataModule):
            def __init__(self, size=4):
                super().__init__()
                self.size = size
            def setup(self, stage):
                self.train, self.val = Seg(self.size), Seg(2)
            def train_dataloader(self): return DataLoader(self.train, batch_size=2)
            def val_dataloader(self): return [DataLoader(self.val), DataLoader(self.val)]

        class Model(L.LightningModule):
            def __init__(self):
                super().__init__()
                self.net = torch.nn.Conv2d(3, 4, 1)
            def forward(self, image): return self.net(image)
            def train_dataloader(self): return DataLoader(Seg(3))
            def val_dataloader(self): return DataLoader(Seg(1))
    """
    folder, task = written(tmp_path, ROWS, code), task_of(SEGMENTATION)
    found = open_datasets(task, EvalConfig(datamodule="data.py:Data", arguments={"size": 5}), None, folder)
    assert (len(found.train), len(found.held_out)) == (5, 4)

    config = tmp_path / "suite.json"
    keys = {"model_file": "data.py", "model_factory": "Model", "train": {"datamodule": "model"}}
    config.write_text(json.dumps({**SEGMENTATION, **keys}), encoding="utf-8")
    loaded = load_config(config)
    found = open_datasets(loaded.task_spec(), loaded.train, loaded.eval, tmp_path)
    assert (len(found.train), len(found.held_out)) == (3, 1)

    keys = {"model_file": "data.py", "train": {"datamodule": "model"}}
    config.write_text(json.dumps({**SEGMENTATION, **keys}), encoding="utf-8")
    loaded = load_config(config)
    assert len(open_datasets(loaded.task_spec(), loaded.train, None, tmp_path).train) == 3


def test_a_name_without_a_file_is_in_the_models_file(tmp_path: Path) -> None:
    written(tmp_path, ROWS)
    config = tmp_path / "suite.json"
    keys = {"model_file": "data.py", "eval": {"dataset": ":map_style"}}
    config.write_text(json.dumps({**SEGMENTATION, **keys}), encoding="utf-8")
    loaded = load_config(config)
    assert loaded.eval is not None
    assert loaded.eval.dataset == "data.py:map_style"
    assert ("eval.dataset", "data.py") in list(loaded.named_paths())
    assert DataReference.from_json(DataReference(None, loaded.eval, tmp_path).to_json()) == DataReference(
        None, loaded.eval, tmp_path
    )

    config.write_text(json.dumps({"task_name": "lm_tiny", "eval": {"dataset": ":rows"}}), encoding="utf-8")
    with pytest.raises(ConfigError, match="`eval`: ':rows' means the model's file: give `model_file`"):
        load_config(config)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"dataset": "data.py"}, '`eval.dataset`: got "data.py", expected file.py:function'),
        ({"dataset": "lm_tiny_v1"}, "a built-in set is named by `dataset_id`"),
        ({"dataset": "data.py:rows", "path": "rows.csv"}, "give `path` or `dataset`, not both"),
        ({"path": "rows.csv", "arguments": {"size": 1}}, "`arguments` are those of `dataset` or `datamodule`"),
    ],
)
def test_mistakes_in_the_keys_are_one_line(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = tmp_path / "suite.json"
    config.write_text(json.dumps({"task_name": "lm_tiny", "eval": keys}), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(config)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_presets_take_python_too(tmp_path: Path) -> None:
    code = """
        from torch.utils.data import DataLoader
        def rows(): return [{"text": "a bird", "label": "pets"}, {"text": "snow", "label": "weather"}]
        def images(): return DataLoader([(torch.full((3, 8, 8), float(n)), n % 3) for n in range(5)], batch_size=2)
        def table(): return (torch.zeros(4, 2), torch.arange(4.0))
        def tokens(): return [{"input_ids": torch.arange(5, 60)}]
    """
    folder = written(tmp_path, code)
    text = opened(folder, preset_of("sequence_classification"))
    assert text.origin.classes.names == ("pets", "weather")
    image = preset_of("image_classification")
    assert [batch["labels"].tolist() for batch in batches(opened(folder, image, "images"), image)] == [[0, 1, 2, 0], [1]]
    table = preset_of("tabular_regression")
    assert batches(opened(folder, table, "table"), table)[0]["labels"].tolist() == [0, 1, 2, 3]
    tokens = opened(folder, preset_of("causal_lm"), "tokens")
    assert [len(tokens[number]["input_ids"]) for number in range(len(tokens))] == [24, 24, 7]


def test_the_tests_get_real_rows_in_every_size(tmp_path: Path) -> None:
    written(tmp_path, ROWS)
    config = tmp_path / "suite.json"
    keys = {"model_file": "data.py", "eval": {"dataset": ":map_style"}}
    config.write_text(json.dumps({**SEGMENTATION, **keys}), encoding="utf-8")
    task = load_config(config).task_spec()
    make = example_maker(load_config(config))
    from harness.batches import Sizes

    for height, width in ((8, 16), (16, 8), (32, 24)):
        batch = make(task, Sizes.of({"batch": 8, "height": height, "width": width}), 0)
        assert batch["image"].shape == (8, 3, height, width)
        assert torch.equal(batch["labels"], (batch["image"][:, 0] * 4).long())
    assert torch.equal(batch["image"][:, :, :8], batch["image"][:, :, 8:16])


def test_padding_of_the_data_is_not_dealt_as_content(tmp_path: Path) -> None:
    code = "def rows(): return [(torch.tensor([[1.0] * 6] * 8 + [[9.0] * 6] * 4), 8, [1, 2])]"
    written(tmp_path, code)
    config = tmp_path / "suite.json"
    config.write_text(json.dumps({**SPEECH, "model_file": "data.py", "eval": {"dataset": ":rows"}}), encoding="utf-8")
    from harness.batches import Sizes

    make = example_maker(load_config(config))
    batch = make(load_config(config).task_spec(), Sizes.of({"batch": 2, "time": 12}), 0)
    assert set(batch["audio"].flatten().tolist()) == {1.0}
    assert batch["lengths"].tolist() == [12, 12]


def test_rows_of_several_sizes_without_padding_are_refused_together(tmp_path: Path) -> None:
    code = "def rows(): return [(torch.zeros(3, size, 8), torch.zeros(size, 8).long()) for size in (8, 16)]"
    task = task_of(SEGMENTATION)
    dataset = opened(written(tmp_path, code), task)
    assert len(batches(dataset, task, 1)) == 2
    with pytest.raises(
        Exception, match=r"rows with 8 and 16 along 'height' cannot be put into one batch: declare `axes.height.padding`"
    ):
        batches(dataset, task)


def test_a_dataset_that_does_not_fit_into_memory_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.data.opening._HELD", 2000)
    folder, task = written(tmp_path, ROWS), task_of(SEGMENTATION)
    found = opened(folder, task, "iterable")
    assert not isinstance(found, Rows)
    assert len(found) == 6
    assert torch.equal(batches(found, task)[0]["image"], batches(opened(folder, task, "map_style"), task)[0]["image"])

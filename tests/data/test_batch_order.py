"""Which example is in which batch is a matter of seed, epoch and rank; a run that is cut off continues where it was."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import opened, preset_task, task_of, write_images, write_rows
from torch.utils.data import DistributedSampler

from harness.config import EvalConfig
from harness.data.loader import Loader, make_loader
from harness.data.opening import open_dataset
from harness.data.order import BatchOrder, permutation, shuffled
from harness.errors import DataError

TABLE = task_of("tabular_regression", num_features=1)


def dataset_of(folder: Path, count: int, streamed: bool) -> Any:
    path = folder / f"{count}.csv"
    if not path.exists():
        write_rows(path, [{"x": float(number), "label": 0} for number in range(count)])
    return opened(path, TABLE, memory_limit=0 if streamed else 1 << 20)


def numbers(loader: Loader) -> list[list[int]]:
    return [batch["features"].flatten().int().tolist() for batch in loader]


def flat(batches: list[list[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("order")


sizes = {"count": st.integers(1, 60), "batch": st.integers(1, 9), "world": st.integers(1, 5), "streamed": st.booleans()}


@settings(max_examples=60, deadline=None)
@given(**sizes, shuffle=st.booleans(), epoch=st.integers(0, 3))
def test_ranks_share_every_row_and_get_as_many_batches(
    folder: Path, count: int, batch: int, world: int, streamed: bool, shuffle: bool, epoch: int
) -> None:
    dataset = dataset_of(folder, count, streamed)
    loaders = [make_loader(dataset, TABLE, batch, 0, (rank, world), shuffle=shuffle) for rank in range(world)]
    for loader in loaders:
        loader.set_epoch(epoch)
    shares = [numbers(loader) for loader in loaders]
    assert {len(share) for share in shares} == {len(loaders[0])}
    assert len({len(flat(share)) for share in shares}) == 1
    dealt = Counter(number for share in shares for number in flat(share))
    assert set(dealt) == set(range(count))
    assert sum(dealt.values()) == -(-count // world) * world
    assert max(dealt.values()) <= -(-world // count) + 1


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.booleans())
def test_unmixed_ranks_share_rows_as_distributed_sampler_does(folder: Path, count: int, world: int, streamed: bool) -> None:
    dataset = dataset_of(folder, count, streamed)
    for rank in range(world):
        expected = list(DistributedSampler(dataset, world, rank, shuffle=False))
        assert flat(numbers(make_loader(dataset, TABLE, 3, share=(rank, world)))) == expected


@settings(max_examples=60, deadline=None)
@given(**sizes, data=st.data())
def test_a_restored_loader_gives_exactly_what_was_left(
    folder: Path, count: int, batch: int, world: int, streamed: bool, data: st.DataObject
) -> None:
    dataset = dataset_of(folder, count, streamed)

    def fresh() -> Loader:
        return make_loader(dataset, TABLE, batch, 7, (0, world), shuffle=True)

    whole, cut = fresh(), fresh()
    whole.set_epoch(2)
    cut.set_epoch(2)
    expected = numbers(whole)
    stop = data.draw(st.integers(0, len(expected)))
    turns = iter(cut)
    first = [next(turns)["features"].flatten().int().tolist() for _ in range(stop)]
    restored = fresh()
    restored.load_state_dict(cut.state_dict())
    restored.set_epoch(2)
    assert first + numbers(restored) == expected
    restored.set_epoch(3)
    whole.set_epoch(3)
    assert numbers(restored) == numbers(whole)


def test_a_restored_position_is_forgotten_with_its_epoch(tmp_path: Path) -> None:
    loader = make_loader(dataset_of(tmp_path, 20, False), TABLE, 4, shuffle=True)
    loader.load_state_dict({**loader.state_dict(), "epoch": 2, "batch": 3})
    loader.set_epoch(3)
    assert sorted(flat(numbers(loader))) == list(range(20))


@pytest.mark.parametrize("streamed", [False, True])
def test_epochs_and_seeds_have_orders_of_their_own(streamed: bool, tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, 50, streamed)
    loader = make_loader(dataset, TABLE, 5, seed=1, shuffle=True)
    orders = []
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        orders.append(numbers(loader))
    orders.append(numbers(make_loader(dataset, TABLE, 5, seed=2, shuffle=True)))
    assert orders[0] == orders[2]
    assert orders[0] != orders[1] != orders[3] != orders[0]
    assert all(sorted(flat(order)) == list(range(50)) for order in orders)
    assert flat(numbers(make_loader(dataset, TABLE, 5))) == list(range(50))


@pytest.mark.parametrize("streamed", [False, True])
def test_workers_change_nothing_but_who_does_the_work(streamed: bool, tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, 41, streamed)
    alone = make_loader(dataset, TABLE, 4, seed=3, shuffle=True)
    crowd = make_loader(dataset, TABLE, 4, seed=3, shuffle=True, num_workers=2)
    for epoch in (0, 1):
        alone.set_epoch(epoch)
        crowd.set_epoch(epoch)
        assert numbers(alone) == numbers(crowd)
    turns = iter(crowd)
    for _ in range(3):
        next(turns)
    restored = make_loader(dataset, TABLE, 4, seed=3, shuffle=True, num_workers=2)
    restored.load_state_dict(crowd.state_dict())
    assert numbers(restored) == numbers(alone)[3:]
    assert numbers(restored) == numbers(alone)


def test_workers_mask_decode_and_tokenise_like_a_single_process(tmp_path: Path) -> None:
    masked = preset_task("lm_tiny", task_type="masked_lm")
    images = opened(write_images(tmp_path / "pets", {"cat": 5, "dog": 6}), task_of("image_classification"))
    texts = write_rows(
        tmp_path / "a.jsonl", [{"text": f"row {number} " * number, "label": number % 3} for number in range(1, 20)]
    )
    sentences = task_of("sequence_classification", vocab_size=600)
    cases = [
        (open_dataset(EvalConfig(max_eval_examples=30), masked), masked),
        (images, images.origin.task),
        (opened(texts, sentences, memory_limit=0), sentences),
    ]
    for dataset, task in cases:
        alone, crowd = (list(make_loader(dataset, task, 4, shuffle=True, num_workers=workers)) for workers in (0, 2))
        assert len(alone) == len(crowd)
        for one, other in zip(alone, crowd, strict=True):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_line_in_the_middle_of_a_stream_is_one_line_from_a_worker_too(workers: int, tmp_path: Path) -> None:
    rows = [{"text": "fine", "label": 0}] * 20 + [{"text": "fine", "label": 9}] + [{"text": "fine", "label": 0}] * 20
    task = task_of("sequence_classification")
    loader = make_loader(opened(write_rows(tmp_path / "a.jsonl", rows), task, memory_limit=0), task, 4, num_workers=workers)
    with pytest.raises(DataError, match=r"^a.jsonl:21: `label` 9 is out of range[^\n]*$"):
        list(loader)


def test_masks_differ_from_epoch_to_epoch_and_repeat_within_one() -> None:
    task = preset_task("lm_tiny", task_type="masked_lm")
    loader = make_loader(open_dataset(EvalConfig(max_eval_examples=10), task), task, 10)
    first, again = (next(iter(loader))["labels"] for _ in range(2))
    loader.set_epoch(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, next(iter(loader))["labels"])


def test_a_state_of_other_batches_is_refused(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, 20, False)
    state = make_loader(dataset, TABLE, 4).state_dict()
    for other in (
        make_loader(dataset, TABLE, 5),
        make_loader(dataset, TABLE, 4, seed=1),
        make_loader(dataset, TABLE, 4, share=(0, 2)),
    ):
        with pytest.raises(DataError, match="the data cannot be resumed: `"):
            other.load_state_dict(state)
    with pytest.raises(DataError, match="`rows` was 20 and is now 21"):
        make_loader(dataset_of(tmp_path, 21, False), TABLE, 4).load_state_dict(state)


def test_loading_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, 11, False)
    before = torch.get_rng_state()
    numbers(make_loader(dataset, TABLE, 4, shuffle=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_any_dataset_whose_items_are_examples_can_be_loaded() -> None:
    items = [{"features": torch.tensor([float(number)]), "labels": torch.tensor(0.0)} for number in range(5)]
    assert numbers(make_loader(items, TABLE, 2)) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("make", [lambda d: BatchOrder(d, 0), lambda d: BatchOrder(d, 1, rank=2, world_size=2)])
def test_impossible_sizes_are_refused(make: Callable[[Any], BatchOrder]) -> None:
    with pytest.raises(ValueError, match="impossible"):
        make([1, 2])


@given(st.integers(0, 200), st.integers(1, 50), st.integers())
def test_a_buffer_mixes_without_losing_and_never_holds_more_than_its_size(count: int, size: int, seed: int) -> None:
    mixed = list(shuffled(iter(range(count)), Random(seed), size))
    assert sorted(mixed) == list(range(count))
    assert all(number <= place + size for place, number in enumerate(mixed))


def test_a_permutation_is_the_one_it_always_was() -> None:
    assert permutation(10, Random("0:0")) == [3, 8, 5, 7, 1, 2, 0, 9, 4, 6]


def test_a_stream_is_never_held(tmp_path: Path) -> None:
    line = '{"text": "' + "a bird in the garden " * 20 + '", "label": "bird"}\n'
    (tmp_path / "a.jsonl").write_text(line * 20_000)
    task = task_of("sequence_classification")
    tracemalloc.start()
    loader = make_loader(opened(tmp_path / "a.jsonl", task, memory_limit=1 << 20), task, 64, shuffle=True)
    for turn, _ in enumerate(loader):
        if turn == 100:
            break
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "a.jsonl").stat().st_size > 8 << 20
    assert peak < 3 << 20

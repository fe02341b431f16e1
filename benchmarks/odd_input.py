"""Feeds odd files and damaged ones to what reads weights, configs and data: each must be read, or refused in one line, in bounded time.

python benchmarks/odd_input.py [--configs 3000] [--data 1000] [--seed 0]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.config import EvalConfig, SuiteConfig, load_config
from harness.data.loader import make_loader
from harness.data.opening import open_dataset
from harness.data.readers import table_of
from harness.errors import UserError
from harness.models.weights import load_weights
from harness.tasks import TaskSpec

SECONDS = 10
"""How long one file may take."""

MODEL_KEYS = ("weight", "bias")


class HangError(BaseException):
    """A file took too long."""


def model() -> nn.Module:
    """Whose weights the files should be."""
    return nn.Linear(3, 2)


def odd_weights(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files of weights that are no plain state dict of the model."""

    def saved(name: str, content: Any) -> tuple[str, Path]:
        path = folder / f"{len(list(folder.iterdir()))}.pt"
        torch.save(content, path)
        return name, path

    good = dict(model().state_dict())
    yield saved("keys that are numbers", {1: torch.ones(2), **good})
    yield saved("keys that are None", {None: torch.ones(2), **good})
    yield saved("keys of bytes", {b"weight": good["weight"], "bias": good["bias"]})
    yield saved("keys that are tuples", {("weight",): good["weight"], "bias": good["bias"]})
    yield saved("a key that is empty", {"": torch.ones(1), **good})
    yield saved("keys with control characters", {"weight\x1b[31m": good["weight"], "bias\n::error::": good["bias"]})
    yield saved("a key of a megabyte", {"w" * 1_000_000: good["weight"]})
    yield saved("a sparse tensor", {**good, "weight": good["weight"].to_sparse()})
    yield saved("a sparse CSR tensor", {**good, "weight": good["weight"].to_sparse_csr()})
    yield saved("a meta tensor", {**good, "weight": good["weight"].to("meta")})
    yield saved("a quantised tensor", {**good, "weight": torch.quantize_per_tensor(good["weight"], 0.1, 0, torch.qint8)})
    yield saved("a complex tensor", {**good, "weight": good["weight"].to(torch.complex64)})
    yield saved("a nested tensor", {**good, "weight": torch.nested.nested_tensor([torch.ones(3), torch.ones(2)])})
    yield saved("integers", {**good, "weight": torch.ones(2, 3, dtype=torch.int64)})
    yield saved("booleans", {**good, "weight": torch.ones(2, 3, dtype=torch.bool)})
    yield saved("a scalar", {**good, "bias": torch.tensor(1.0)})
    yield saved("nested dicts", {"layer": {"weight": good["weight"]}, "bias": good["bias"]})
    yield saved("a list", [good["weight"], good["bias"]])
    yield saved("a tensor", good["weight"])
    yield saved("None", None)
    yield saved("nothing", {})
    yield saved("an empty state_dict", {"state_dict": {}})
    yield saved("a state_dict of None", {"state_dict": None})
    yield saved("a state_dict of numbers", {"state_dict": {"weight": 1.0}})
    huge = torch.ones(1).expand(10**9)
    yield saved("a tensor that claims a billion values", {**good, "weight": huge})
    for number in range(6):
        path = folder / f"random{number}.{('pt', 'pth', 'bin', 'ckpt', 'safetensors', 'json')[number]}"
        path.write_bytes(random.Random(number).randbytes(3000))
        yield f"random bytes as .{path.suffix[1:]}", path
    path = folder / "header.safetensors"
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    yield "a safetensors header of 2^62 bytes", path
    path = folder / "empty.pt"
    path.touch()
    yield "an empty file", path
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.pt")
        yield "a named pipe", folder / "pipe.pt"
    (folder / "loop.pt").symlink_to(folder / "loop.pt")
    yield "a link to itself", folder / "loop.pt"
    if Path("/dev/zero").exists():
        (folder / "zero.pt").symlink_to("/dev/zero")
        yield "a device", folder / "zero.pt"


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes with a few of them changed, cut off, doubled or put in."""
    content = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(content) + 1)
        what = rng.randrange(5)
        if what == 0 and content:
            content[min(place, len(content) - 1)] ^= 1 << rng.randrange(8)
        elif what == 1:
            del content[place:]
        elif what == 2:
            content[place:place] = rng.choice(
                [b"null", b"\x00", b"\xff\xfe", b"NaN", b'"', b"{", b"]", b"1e999", b"\n\n", b"-1", "é".encode()]
            )
        elif what == 3:
            content[place:place] = content[place : place + rng.randint(1, 60)]
        else:
            del content[place : place + rng.randint(1, 30)]
    return bytes(content)


def odd_value(rng: random.Random, depth: int = 2) -> Any:
    """A JSON value that few expect."""
    numbers = [0, -1, 10**30, 1e308, 0.5, float("nan"), float("inf")]
    texts = ["", " ", "x" * 5000, "\x00", "\u202e", "cuda:99", "../../..", "/dev/zero", "~nobody/x", "1", "null", "a:b", "auto"]
    plain: list[Any] = [None, True, False, [], {}, *numbers, *texts]
    if depth and rng.random() < 0.3:
        return [odd_value(rng, depth - 1) for _ in range(rng.randrange(3))]
    if depth and rng.random() < 0.3:
        return {str(odd_value(rng, 0))[:20]: odd_value(rng, depth - 1) for _ in range(rng.randrange(3))}
    return rng.choice(plain)


DECLARED = {
    "inputs": {"x": {"axes": ["batch", "time"], "values": {"ids": 20}}},
    "outputs": {"y": {"axes": ["batch", "time", 20], "kind": "token_scores"}},
    "axes": {"time": {"min": 1, "max": 8, "order": "causal"}},
}
PRESET = {"task_name": "lm_tiny", "tier": "1", "epochs": 1, "train": {"dataset_id": "lm_tiny_v1"}, "model_kwargs": {"width": 8}}


def odd_configs(folder: Path, count: int, rng: random.Random) -> Iterator[tuple[str, Path]]:
    """Configs with keys, values and bytes that are wrong."""
    keys = [*SuiteConfig.model_fields]
    for number in range(count):
        content: dict[str, Any] = json.loads(json.dumps(rng.choice([PRESET, DECLARED])))
        for _ in range(rng.randint(1, 3)):
            place: Any = content
            while rng.random() < 0.5 and (inner := [value for value in place.values() if isinstance(value, dict) and value]):
                place = rng.choice(inner)
            key = rng.choice([*keys, *place, "tsak_type", "", "None", "inputs", "axes"])
            place[key] = odd_value(rng)
        path = folder / f"c{number}.{rng.choice(['json', 'json', 'json', 'yaml'])}"
        text = json.dumps(content)
        path.write_bytes(damaged(text.encode(), rng) if rng.random() < 0.3 else text.encode())
        yield f"config {number}: {text[:100]}", path


def good_files(folder: Path) -> list[Path]:
    """A small file of each kind, which is then damaged."""
    rows = [{"text": f"a {n} b c", "label": n % 3, "x": n / 7} for n in range(8)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "rows.csv").write_text("text,label,x\n" + "\n".join(f"a {n} b c,{n % 3},{n / 7}" for n in range(8)))
    (folder / "plain.txt").write_text("one two three four\n" * 12)
    np.savez(folder / "rows.npz", features=np.random.default_rng(0).normal(size=(8, 4)).astype("float32"), label=np.arange(8) % 3)
    torch.save({"input_ids": torch.arange(64).view(8, 8) % 16, "labels": torch.arange(8) % 3}, folder / "rows.pt")
    files = ["rows.jsonl", "rows.csv", "plain.txt", "rows.npz", "rows.pt"]
    try:
        import pyarrow as pa
        import pyarrow.feather as feather
        import pyarrow.parquet as parquet
    except ImportError:
        return [folder / name for name in files]
    table = pa.table({name: [row[name] for row in rows] for name in rows[0]})
    parquet.write_table(table, folder / "rows.parquet")
    feather.write_feather(table, folder / "rows.arrow")
    return [folder / name for name in (*files, "rows.parquet", "rows.arrow")]


def odd_data(folder: Path, count: int, rng: random.Random) -> Iterator[tuple[str, Path]]:
    """Data files that are damaged, and some whose content is odd."""
    files = good_files(folder)
    for number in range(count):
        if rng.random() < 0.3:
            path = folder / f"v{number}.jsonl"
            rows = [{"text": f"a {n}", "label": n % 3, "features": [0.1] * 4} for n in range(4)]
            for _ in range(rng.randint(1, 3)):
                rng.choice(rows)[rng.choice(["text", "label", "features", "more"])] = odd_value(rng)
            path.write_text("\n".join(map(json.dumps, rows)))
            yield f"values {number}", path
            continue
        source = rng.choice(files)
        path = folder / f"d{number}{source.suffix}"
        path.write_bytes(damaged(source.read_bytes(), rng))
        yield f"data {number}: {source.name}", path
    null = folder / "null.jsonl"
    null.write_text('null\n{"text": null, "label": null}\n{"text": "a", "label": 1}\n[]\n3\n')
    yield "JSON Lines with null", null
    yield "an .npz that claims 10^10 rows", claiming(folder / "claims.npz", (10**10, 4))
    yield "an .npz with a negative size", claiming(folder / "negative.npz", (-5, 4))
    np.savez(folder / "objects.npz", features=np.array([{}, []], dtype=object), label=np.arange(2))
    yield "an .npz of objects", folder / "objects.npz"
    for suffix in (".jsonl", ".csv", ".npz", ".pt", ".txt") if hasattr(os, "mkfifo") else ():
        os.mkfifo(folder / f"pipe{suffix}")
        yield f"a named pipe as {suffix}", folder / f"pipe{suffix}"


def claiming(path: Path, shape: tuple[int, ...]) -> Path:
    """An archive of NumPy whose header says a shape that its bytes do not have."""
    import zipfile

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("features.npy", header.getvalue() + b"\x00" * 64)
        archive.writestr("label.npy", header.getvalue() + b"\x00" * 64)
    return path


def read_weights(path: Path) -> None:
    """As a suite does."""
    load_weights(model(), path)


def read_config(path: Path) -> None:
    """As every command does, with what follows from the keys."""
    config = load_config(path)
    if not config.needs_example:
        config.task_spec()
    config.training_config()


TASKS: tuple[dict[str, Any], ...] = (
    {"task_name": "lm_tiny"},
    {"task_name": "cls_tiny", "num_classes": 3},
    {
        "model_file": "model.py",
        "inputs": {"features": {"axes": ["batch", 4]}},
        "outputs": {"label": {"axes": ["batch", 3], "kind": "class_scores"}},
    },
)


def tasks() -> Iterator[TaskSpec]:
    """Tasks that the data is read for."""
    if not _tasks:
        _tasks.extend(SuiteConfig.model_validate(keys).task_spec() for keys in TASKS)
    yield from _tasks


_tasks: list[TaskSpec] = []


def read_data(path: Path) -> None:
    """As a table, and as the examples of each task; refused where none of them can read it."""
    refusals = []
    for read in (_as_table, *(partial(_as_examples, task=task) for task in tasks())):
        try:
            read(path)
        except UserError as error:
            refusals.append(error)
    long = next((error for error in refusals if len(str(error).splitlines()) != 1), None)
    if long or len(refusals) == len(TASKS) + 1:
        raise long or refusals[-1]


def _as_table(path: Path) -> None:
    table = table_of(path)
    for number, _ in enumerate(table.columns(4)):
        if number > 4:
            break


def _as_examples(path: Path, task: TaskSpec) -> None:
    data = open_dataset(EvalConfig(path=str(path), max_eval_examples=8), task)
    for _ in make_loader(data, task, 4):
        pass


def judged(read: Callable[[Path], None], path: Path) -> str:
    """``read``, ``refused``, or what went wrong: a traceback, more than one line, or more time than there is."""

    def late(*_: object) -> None:
        raise HangError

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        read(path)
    except UserError as error:
        text = str(error)
        lines = text.splitlines()
        if not text or (len(lines) > 1 and read is not read_config) or re.search(r"[\x00-\x08\x0b-\x1f]", text):
            return f"not one line: {text[:160]!r}"
        return "refused" if max(map(len, lines)) < 2000 else f"a line of {max(map(len, lines)):,} characters"
    except HangError:
        return "hang"
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "harness" in frame.filename]
        where = ours[-1] if ours else place
        return f"{type(error).__name__}: {str(error)[:90]} at {Path(where.filename).name}:{where.lineno}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "read"


def main() -> int:
    """Prints how many files of each kind were read, refused, and what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", type=int, default=3000)
    parser.add_argument("--data", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    wrong = 0
    with tempfile.TemporaryDirectory() as root:
        for kind, read, make in (
            ("weights", read_weights, odd_weights),
            ("configs", read_config, lambda folder: odd_configs(folder, given.configs, random.Random(given.seed))),
            ("data", read_data, lambda folder: odd_data(folder, given.data, random.Random(given.seed))),
        ):
            folder = Path(root) / kind
            folder.mkdir()
            counts: Counter[str] = Counter()
            for name, path in make(folder):  # type: ignore[operator]
                found = judged(read, path)
                counts[found if found in ("read", "refused", "hang") else "traceback or text"] += 1
                if found not in ("read", "refused"):
                    print(f"  {name}: {found}", flush=True)
                    wrong += 1
            print(
                f"{kind}: {sum(counts.values()):,} files, {', '.join(f'{count:,} {what}' for what, count in counts.items())}",
                flush=True,
            )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())

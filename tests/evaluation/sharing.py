"""Evaluations that one process does alone or several share; as a script, one of those processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed
from torch import nn

from harness.adapters import make_adapter
from harness.batches import IGNORED
from harness.config import EvalConfig, SuiteConfig
from harness.data.dataset import Stream
from harness.data.loader import make_loader
from harness.data.opening import open_dataset
from harness.errors import DataError, ForwardError, UserError
from harness.evaluation.evaluation import Evaluation, evaluate
from harness.models.stubs import build_stub
from harness.runtime import seeded
from harness.tasks import TaskSpec

WORLD = 2
CASES: dict[str, dict[str, Any]] = {
    "texts": {"task_name": "cls_tiny", "rows": 11},
    "an even number of texts": {"task_name": "cls_tiny", "rows": 12},
    "a single text": {"task_name": "cls_tiny", "rows": 1},
    "a last batch that is dealt twice": {"task_name": "cls_tiny", "rows": 9},
    "next tokens": {"task_name": "lm_tiny", "rows": 7},
    "masked tokens": {"task_type": "masked_lm", "vocab_size": 64, "max_seq_len": 32, "pad_token_id": 0, "rows": 5},
    "translations": {"task_name": "seq2seq_tiny", "rows": 5, "metrics": ["accuracy", "bleu", "rouge_l"]},
}


def case(name: str) -> tuple[nn.Module, TaskSpec, Any]:
    keys = dict(CASES[name])
    rows = keys.pop("rows")
    task = SuiteConfig.model_validate(keys).task_spec()
    with seeded(0):
        model = build_stub(task)
    return model, task, open_dataset(EvalConfig(max_eval_examples=rows), task)


def evaluated(name: str, rank: int = 0, world: int = 1) -> Evaluation:
    model, task, data = case(name)
    return evaluate(model, make_adapter(task), task, make_loader(data, task, 2, share=(rank, world)))


def numbers(rank: int = 0, world: int = 1, labels: int = 9) -> Evaluation:
    """Regression on rows of a list, in batches of 4."""
    task = SuiteConfig.model_validate({"task_type": "tabular_regression", "num_features": 1}).task_spec()
    rng = np.random.default_rng(0)
    rows = [
        {"features": torch.tensor([value], dtype=torch.float32), "labels": torch.tensor(1e4 + value + error)}
        for value, error in rng.normal(size=(labels, 2))
    ]
    model = nn.Linear(1, 1)
    nn.init.ones_(model.weight)
    nn.init.constant_(model.bias, 1e4)
    return evaluate(model, make_adapter(task), task, make_loader(rows, task, 4, share=(rank, world)))


def streamed(folder: Path, rank: int = 0, world: int = 1) -> Evaluation:
    """Texts of a file that is never held."""
    model, task, _ = case("texts")
    data = open_dataset(EvalConfig(path="texts.jsonl"), task, folder, memory_limit=0)
    assert isinstance(data, Stream)
    return evaluate(model, make_adapter(task), task, make_loader(data, task, 2, share=(rank, world)))


def write_texts(folder: Path) -> None:
    rows = [{"input_ids": [1 + number, 5, 9 + 2 * number][: 1 + number % 3], "label": number % 4} for number in range(11)]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def failure(rank: int, bad_row: int, label: int) -> tuple[str, int]:
    """What a rank says where one row of seven has a bad label, and how many forwards it did."""
    model, task, data = case("texts")
    forwards: list[int] = []
    model.register_forward_hook(lambda *_: forwards.append(1))
    rows = [dict(data[number]) for number in range(7)]
    rows[bad_row]["labels"] = torch.tensor(label)
    try:
        evaluate(model, make_adapter(task), task, make_loader(rows, task, 2, share=(rank, WORLD)))
    except DataError as error:
        return str(error), len(forwards)
    return "", len(forwards)


def forward_failure(rank: int) -> str:
    """What a rank says where the model of the other one raises."""

    class Failing(nn.Module):
        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            raise ZeroDivisionError("oops")

    model, task, data = case("texts")
    loader = make_loader(data, task, 2, share=(rank, WORLD))
    try:
        evaluate(Failing() if rank == 1 else model, make_adapter(task), task, loader)
    except UserError as error:
        return f"{'own' if isinstance(error, ForwardError) else 'other'}: {error}"
    return ""


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    scores = {name: values.tolist() for name, values in evaluation.scores.items()}
    return {"summary": evaluation.summary, "scores": scores, "examples": evaluation.examples}


def main(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    found: dict[str, Any] = {name: as_json(evaluated(name, rank, WORLD)) for name in CASES}
    found["numbers"] = as_json(numbers(rank, WORLD))
    found["stream"] = as_json(streamed(folder, rank, WORLD))
    found["failure"] = failure(rank, bad_row=1, label=99)
    found["no labels"] = [failure(rank, bad_row=number, label=IGNORED) for number in range(7)]
    found["forward failure"] = forward_failure(rank)
    if rank == 0:
        found["alone"] = as_json(evaluated("texts"))
    (folder / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))

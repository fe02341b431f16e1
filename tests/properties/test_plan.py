"""What a plan says of memory is what a real call takes, and the suite leaves out what it says does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.batches import make_batch, typical_sizes
from harness.catalogue.entry import FLOAT64, GRADIENTS
from harness.cli import main
from harness.errors import MemoryFullError
from harness.evidence import Evidence, guarded
from harness.internal_errors import refuse_full_memory
from harness.properties.calling import blaming
from harness.properties.plan import Machine, Plan, machine_of, names_of_tests, plan_of
from harness.properties.resources import LiveBytes
from harness.tasks import TaskSpec, TaskType

TASK = TaskSpec(TaskType.CAUSAL_LM, vocab_size=64, max_seq_len=16)


class Model(nn.Module):
    """Asks its mask whether anything is padded, as models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, 32)
        self.layer = nn.Linear(32, 64)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if attention_mask is not None and not bool(attention_mask.bool().all()):
            raise ValueError("padded")
        return self.layer(self.embedding(input_ids).tanh())


def planned(free: int = 0, model: nn.Module | None = None) -> Plan:
    model = (model or Model()).to("meta").eval()
    return plan_of(model, make_adapter(TASK), TASK, Machine("cpu", 1, free), names_of_tests(TASK, (1, 2, 3)))


def test_a_call_without_data_costs_what_a_real_one_does() -> None:
    model, sizes = Model(), typical_sizes(TASK)
    batch = make_batch(TASK, sizes)
    adapter = make_adapter(TASK)
    with torch.no_grad(), LiveBytes() as held:
        logits = adapter.logits(model, {name: torch.ones_like(value) for name, value in batch.items()})
    call = planned().calls[0]
    assert call.logits == tuple(logits.shape)
    assert call.bytes == pytest.approx(held.peak, rel=0.1)
    assert call.flops == 2 * batch["input_ids"].numel() * 32 * 64


def test_what_does_not_fit_is_left_out_with_its_reason() -> None:
    whole = planned()
    assert not whole.left_out("serialisation[pickle]")
    needed = {step.name: step.bytes for step in whole.steps}
    tight = planned(free=needed[GRADIENTS] - 1)
    assert tight.is_possible
    assert tight.left_out("gradient_flow[finite]").startswith("not enough memory on cpu: ")
    assert not tight.left_out("causal")
    assert tight.peak <= tight.machine.free
    assert "gradient_flow[finite]" in tight.without
    assert "left out for want of memory: " in tight.text()
    assert tight.number_of_calls < whole.number_of_calls
    none = planned(free=needed["weights"] - 1)
    assert none.left_out("causal")
    assert none.number_of_calls == 0
    assert "None of the " in none.text()
    assert FLOAT64 in needed


def test_tests_are_counted_for_the_tiers_that_need_a_model_only() -> None:
    assert set(names_of_tests(TASK, (1, 2, 3, 4))) == {1, 2}


def test_a_model_that_needs_data_is_planned_by_its_weights() -> None:
    class Reads(Model):
        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            return super().forward(input_ids[:, : int(input_ids.max()) + 1])

    found = planned(model=Reads())
    assert not found.calls
    assert "meta" in found.problem
    assert "cannot be called without data" in found.text()


MODEL = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(64, 32), nn.Linear(32, 64)
    def forward(self, input_ids):
        return self.head(self.embedding(input_ids))
def build_model():
    return Net()
"""


def test_the_command_prints_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.py").write_text(MODEL, encoding="utf-8")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_file": "model.py", "task_type": "causal_lm", "vocab_size": 64, "max_seq_len": 16}))
    assert main(["plan", str(config)]) == 0
    told = capsys.readouterr().out
    assert "64 GFLOP" not in told
    assert "memory for" in told
    assert "of tier 2: about" in told
    assert main(["plan", str(config), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["structure"]["parameters"] == 64 * 32 * 2 + 64


REFUSED = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate {} bytes."
)


def test_full_memory_is_no_fault_of_the_model() -> None:
    class Fills(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError(REFUSED.format(1 << 20))

    model = Fills()
    with pytest.raises(MemoryFullError, match=r"memory is full: .*1048576 bytes"), blaming(model):
        model(torch.ones(1))

    def measure() -> Evidence:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    with pytest.raises(MemoryFullError, match="Tried to allocate"):
        guarded("causal", measure, lambda error: Evidence.from_json({}))


def test_more_than_any_memory_is_a_mistake_of_the_model() -> None:
    refuse_full_memory(RuntimeError(REFUSED.format(1 << 60)))
    refuse_full_memory(RuntimeError("shapes do not match"))


def test_a_machine_that_swaps_is_told_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    pressure = "some avg10={} avg60=1.00 avg300=0.00 total=33"
    monkeypatch.setattr("harness.runtime._lines", lambda path: [pressure.format("42.31")] if "pressure" in path else [])
    machine = machine_of("cpu")
    assert "programs waited 42% for it" in replace(planned(), machine=machine).text()
    monkeypatch.setattr("harness.runtime._lines", lambda path: [pressure.format("0.00")] if "pressure" in path else [])
    assert "short of memory" not in replace(planned(), machine=machine_of("cpu")).text()
    monkeypatch.setattr("harness.runtime._lines", lambda _path: [])
    assert machine_of("cpu").short == ""


def test_the_plan_of_another_machine_differs_in_what_fits_only() -> None:
    whole = planned()
    other = replace(whole, machine=Machine("cuda", 1, 10))
    assert other.steps == whole.steps
    assert not other.is_possible

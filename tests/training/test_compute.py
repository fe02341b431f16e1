"""What a training runs on: every guardrail, with its message."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from harness.config import TrainingConfig
from harness.errors import TrainingError
from harness.training.compute import Compute, Machine, choose_compute, leads

DESK = Machine()
SERVER = Machine(gpus=4)
ONE_GPU = Machine(gpus=1)
OLD_GPU = Machine(gpus=1, bf16=False)
NOTEBOOK = Machine(interactive=True)
NOTEBOOK_GPUS = Machine(gpus=2, interactive=True)
BARE = Machine(lightning=False)
BARE_GPUS = Machine(gpus=2, lightning=False)
MAC = Machine(mps=True)
TORCHRUN = Machine(environment={"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"})
BARE_TORCHRUN = Machine(lightning=False, environment={"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"})
SLURM = Machine(environment={"SLURM_JOB_ID": "7"})


def chosen(machine: Machine, **keys: Any) -> Compute:
    return choose_compute(TrainingConfig(**keys), machine)


@pytest.mark.parametrize(
    ("machine", "keys", "expected"),
    [
        (DESK, {}, Compute()),
        (SERVER, {}, Compute("cuda", 4, strategy="ddp")),
        (SERVER, {"use_gpu": False}, Compute()),
        (SERVER, {"devices": [1, 3], "strategy": "ddp"}, Compute("cuda", (1, 3), strategy="ddp")),
        (SERVER, {"devices": 2, "strategy": "fsdp_native"}, Compute("cuda", 2, strategy="fsdp")),
        (DESK, {"devices": 2}, Compute(devices=2, strategy="ddp")),
        (DESK, {"devices": 2, "strategy": "ddp"}, Compute(devices=2, strategy="ddp")),
        (TORCHRUN, {"strategy": "ddp"}, Compute(devices=2, num_nodes=2, strategy="ddp")),
        (TORCHRUN, {"devices": 2}, Compute(devices=2, num_nodes=2, strategy="ddp")),
        (SLURM, {"num_nodes": 2, "devices": 2}, Compute(devices=2, num_nodes=2, strategy="ddp")),
        (DESK, {"precision": "bf16"}, Compute(precision="bf16-mixed")),
        (DESK, {"use_amp": True}, Compute(precision="bf16-mixed")),
        (OLD_GPU, {"use_amp": True}, Compute("cuda", precision="16-mixed")),
        (Machine(mps=True), {"use_gpu": True}, Compute("mps")),
        (NOTEBOOK, {}, Compute()),
        (BARE, {}, Compute()),
    ],
)
def test_what_is_chosen(machine: Machine, keys: dict[str, Any], expected: Compute) -> None:
    assert chosen(machine, **keys) == expected


def test_ddp_with_one_device_warns_and_goes_on_with_auto() -> None:
    compute = chosen(DESK, strategy="ddp", devices="auto", precision="bf16-mixed", use_amp=True)
    assert compute.strategy == "auto"
    assert compute.notes == ('`strategy`: "ddp" needs at least 2 devices and there is 1: "auto" is used',)


def test_fsdp_on_one_gpu_warns_and_goes_on() -> None:
    compute = chosen(ONE_GPU, strategy="fsdp_native")
    assert compute.strategy == "fsdp"
    assert "shards nothing" in compute.notes[0]
    assert '"ddp" or "auto"' in compute.notes[0]


@pytest.mark.parametrize(
    ("machine", "keys", "expected", "note"),
    [
        (DESK, {"use_gpu": True}, Compute(), "`use_gpu`: this machine has no GPU, so training runs on the CPU"),
        (DESK, {"devices": [0]}, Compute(), "`devices`: [0] are ids of CUDA GPUs, and training runs on the CPU: one process"),
        (
            SERVER,
            {"devices": 8},
            Compute("cuda", 4, strategy="ddp"),
            "`devices`: 8 requested, this machine has 4 (id 0, 1, 2, 3): training on 4",
        ),
        (
            ONE_GPU,
            {"devices": [0, 2]},
            Compute("cuda", (0,)),
            "`devices`: [0, 2] requested, this machine has 1 (id 0): training on [0]",
        ),
        (
            ONE_GPU,
            {"devices": [5]},
            Compute("cuda", (0,)),
            "`devices`: [5] requested, this machine has 1 (id 0): training on [0]",
        ),
        (
            ONE_GPU,
            {"devices": 2, "strategy": "ddp"},
            Compute("cuda", 1),
            '`strategy` "ddp" needs at least 2 devices, so "auto" is used',
        ),
        (
            MAC,
            {"use_gpu": True, "devices": 2},
            Compute("mps"),
            "`devices`: 2 requested, this machine has 1 (id 0): training on 1",
        ),
        (
            DESK,
            {"strategy": "fsdp_native"},
            Compute(),
            '`strategy`: "fsdp_native" shards a model over CUDA devices, and this machine has none',
        ),
        (DESK, {"strategy": "fsdp_native", "devices": 2}, Compute(devices=2, strategy="ddp"), '("ddp" and "auto" train on CPUs)'),
        (
            NOTEBOOK_GPUS,
            {},
            Compute("cuda", 1),
            "`devices`: training on 1 instead of 2: several processes cannot be started from a notebook",
        ),
        (NOTEBOOK_GPUS, {"devices": [1, 0]}, Compute("cuda", (1,)), "cannot be started from a notebook"),
        (NOTEBOOK_GPUS, {"strategy": "fsdp_native"}, Compute("cuda", 1), '`strategy` "fsdp_native" needs at least 2 devices'),
        (NOTEBOOK_GPUS, {"strategy": "fsdp_native", "devices": 1}, Compute("cuda", 1), "does not run in a notebook"),
        (NOTEBOOK, {"devices": 2}, Compute(), "(use `modeltiers train --config FILE`)"),
        (
            BARE_GPUS,
            {},
            Compute("cuda", 1),
            "`devices`: training on 1 instead of 2: training in several processes needs Lightning",
        ),
        (BARE, {"devices": 2}, Compute(), "(pip install lightning)"),
    ],
)
def test_where_the_machine_has_less_one_warning_names_the_key_and_training_goes_on(
    machine: Machine, keys: dict[str, Any], expected: Compute, note: str
) -> None:
    compute = chosen(machine, **keys)
    assert replace(compute, notes=()) == expected
    assert len(compute.notes) == 1
    assert note in compute.notes[0]
    assert compute.notes[0].startswith(tuple(f"`{key}`" for key in (*keys, "devices")))


def test_a_gpu_that_only_emulates_bfloat16_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a T4, on which ``torch.cuda.is_bf16_supported()`` is true."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not Machine.here().bf16
    with pytest.raises(TrainingError, match="needs bfloat16, which this GPU does not have"):
        choose_compute(TrainingConfig(precision="bf16"), Machine.here())


@pytest.mark.parametrize(
    ("machine", "keys", "message"),
    [
        (SERVER, {"devices": [1, 1]}, "[1, 1] is not a list of different GPU ids"),
        (SERVER, {"devices": []}, "[] is not a list of different GPU ids"),
        (BARE_TORCHRUN, {}, "in 2 processes needs Lightning: pip install lightning"),
        (DESK, {"precision": "16-mixed"}, 'needs a GPU; use "bf16-mixed" or "32-true" here'),
        (OLD_GPU, {"precision": "bf16-true"}, "needs bfloat16, which this GPU does not have"),
        (Machine(mps=True), {"use_gpu": True, "precision": "64-true"}, "no float64"),
        (DESK, {"num_nodes": 2}, "torchrun --nnodes=2"),
        (TORCHRUN, {"devices": 3}, "torchrun started 2 processes"),
    ],
)
def test_what_is_refused(machine: Machine, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError) as caught:
        chosen(machine, **keys)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, True), ({"LOCAL_RANK": "1"}, False), ({"RANK": "0", "LOCAL_RANK": "0"}, True), ({"SLURM_PROCID": "3"}, False)],
)
def test_one_process_leads(environment: dict[str, str], expected: bool) -> None:
    assert leads(environment) is expected

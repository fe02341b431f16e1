"""What a training runs on: every guardrail, with its message."""

from __future__ import annotations

from typing import Any

import pytest

from harness.config import TrainingConfig
from harness.training.compute import Compute, Machine, choose_compute, leads
from harness.training.errors import TrainingError

DESK = Machine()
SERVER = Machine(gpus=4)
ONE_GPU = Machine(gpus=1)
OLD_GPU = Machine(gpus=1, bf16=False)
NOTEBOOK = Machine(interactive=True)
BARE = Machine(lightning=False)
TORCHRUN = Machine(environment={"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"})
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
    assert compute.notes == ('`strategy`: "ddp" needs two devices or more and there is one: going on with "auto"',)


def test_fsdp_on_one_gpu_warns_and_goes_on() -> None:
    compute = chosen(ONE_GPU, strategy="fsdp_native")
    assert compute.strategy == "fsdp"
    assert "shards nothing" in compute.notes[0]
    assert '"ddp" or "auto"' in compute.notes[0]


@pytest.mark.parametrize(
    ("machine", "keys", "message"),
    [
        (
            DESK,
            {"strategy": "fsdp_native", "devices": 2},
            'shards a model over CUDA devices, and there is none here; use "ddp" or "auto"',
        ),
        (DESK, {"use_gpu": True}, "there is no GPU here"),
        (SERVER, {"devices": 8}, "8 asked for, there are 4 here"),
        (ONE_GPU, {"devices": [0, 2]}, "[0, 2] asked for, there is 1 here (id 0)"),
        (DESK, {"devices": [0]}, "ids of GPUs, and training is on the CPU"),
        (DESK, {"precision": "16-mixed"}, 'needs a GPU; use "bf16-mixed" or "32-true" here'),
        (OLD_GPU, {"precision": "bf16-true"}, "this GPU has no bfloat16"),
        (Machine(mps=True), {"use_gpu": True, "precision": "64-true"}, "no float64"),
        (DESK, {"num_nodes": 2}, "torchrun --nnodes=2"),
        (TORCHRUN, {"devices": 3}, "torchrun started 2 processes"),
        (NOTEBOOK, {"devices": 2}, "cannot be started from a notebook"),
        (BARE, {"devices": 2}, "needs Lightning: pip install lightning"),
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

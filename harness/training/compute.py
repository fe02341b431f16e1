"""What a training runs on: devices, processes, strategy and precision, as the config asks and this machine allows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from harness.config import TrainingConfig
from harness.training.errors import TrainingError

_SHORT = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "64": "64-true"}
_LAUNCHERS = ("MASTER_ADDR", "SLURM_JOB_ID", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE", "KUBERNETES_PORT")


@dataclass(frozen=True)
class Machine:
    """What is here.

    Attributes:
        gpus: CUDA devices.
        mps: Whether Apple's GPU can be used.
        bf16: Whether the GPU calculates in bfloat16.
        lightning: Whether Lightning is installed.
        environment: Environment variables, in which launchers say how many processes there are.
        interactive: Whether Python runs in a notebook or at a prompt, so that there is no script to start again.
    """

    gpus: int = 0
    mps: bool = False
    bf16: bool = True
    lightning: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    interactive: bool = False

    @staticmethod
    def here() -> Machine:
        """This machine."""
        import sys
        from importlib.util import find_spec

        import torch

        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return Machine(
            gpus=gpus,
            mps=torch.backends.mps.is_available(),
            bf16=not gpus or torch.cuda.is_bf16_supported(),
            lightning=find_spec("lightning") is not None,
            environment=os.environ,
            interactive=hasattr(sys, "ps1") or "ipykernel" in sys.modules,
        )


@dataclass(frozen=True)
class Compute:
    """Where and how the model is trained.

    Attributes:
        accelerator: ``cpu``, ``cuda`` or ``mps``.
        devices: How many, or the ids of GPUs.
        num_nodes: Machines.
        strategy: Lightning's name of it.
        precision: Lightning's name of it.
        notes: What differs from what was asked for, a sentence each.
    """

    accelerator: Literal["cpu", "cuda", "mps"] = "cpu"
    devices: int | tuple[int, ...] = 1
    num_nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    precision: str = "32-true"
    notes: tuple[str, ...] = ()

    @property
    def world_size(self) -> int:
        """How many processes train together."""
        return (self.devices if isinstance(self.devices, int) else len(self.devices)) * self.num_nodes


def choose_compute(config: TrainingConfig, machine: Machine) -> Compute:
    """Settles what a training runs on.

    Raises:
        TrainingError: The machine lacks what the config asks for; the message says what it has.
    """
    accelerator = _accelerator(config, machine)
    devices, num_nodes = _devices(config, machine, accelerator)
    notes: list[str] = []
    count = (devices if isinstance(devices, int) else len(devices)) * num_nodes
    strategy = _strategy(config, machine, accelerator, count, notes)
    if strategy == "auto" and count > 1:
        strategy = "ddp"
    if strategy != "auto" and machine.interactive:
        raise TrainingError(
            f"`devices`: {count} processes cannot be started from a notebook or a prompt, as each runs the script anew; "
            "use `modeltiers train --config FILE`, or `devices` 1"
        )
    if strategy != "auto" and not machine.lightning:
        raise TrainingError(f"`strategy` {config.strategy!r} on {count} devices needs Lightning: pip install lightning")
    precision = _precision(config, machine, accelerator, notes)
    return Compute(accelerator, devices, num_nodes, strategy, precision, tuple(notes))


def leads(environment: Mapping[str, str] | None = None) -> bool:
    """Whether this process is the one that writes files and says what happens."""
    environment = os.environ if environment is None else environment
    ranks = (environment.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return next((rank for rank in ranks if rank is not None), "0") == "0"


def _accelerator(config: TrainingConfig, machine: Machine) -> Literal["cpu", "cuda", "mps"]:
    if config.use_gpu is False:
        return "cpu"
    if machine.gpus:
        return "cuda"
    if config.use_gpu and machine.mps:
        return "mps"
    if config.use_gpu:
        raise TrainingError("`use_gpu`: there is no GPU here; leave it out to train on what there is")
    return "cpu"


def _devices(config: TrainingConfig, machine: Machine, accelerator: str) -> tuple[int | tuple[int, ...], int]:
    launched = machine.environment.get("LOCAL_WORLD_SIZE")
    if launched is not None:
        return _launched(config, int(launched), int(machine.environment.get("WORLD_SIZE", launched)))
    if config.num_nodes > 1 and not any(name in machine.environment for name in _LAUNCHERS):
        raise TrainingError(
            f"`num_nodes` {config.num_nodes}: nothing says where the other nodes are; start the same command on each of them "
            f"by torchrun --nnodes={config.num_nodes} --nproc_per_node=N --rdzv_endpoint=HOST:PORT -m harness train --config FILE, "
            "or by SLURM's srun"
        )
    if config.devices == "auto":
        return (max(1, machine.gpus) if accelerator == "cuda" else 1), config.num_nodes
    if isinstance(config.devices, int):
        if accelerator == "cuda" and config.devices > machine.gpus:
            raise TrainingError(f"`devices`: {config.devices} asked for, {_there_are(machine)}")
        return config.devices, config.num_nodes
    if accelerator != "cuda":
        raise TrainingError(
            f"`devices`: {config.devices} are ids of GPUs, and training is on the CPU; give a number of processes"
        )
    missing = [index for index in config.devices if index >= machine.gpus]
    if missing or not config.devices:
        raise TrainingError(f"`devices`: {config.devices} asked for, {_there_are(machine)}")
    return tuple(config.devices), config.num_nodes


def _launched(config: TrainingConfig, local: int, world: int) -> tuple[int, int]:
    """As many processes as torchrun started."""
    asked = len(config.devices) if isinstance(config.devices, list) else config.devices
    if asked not in ("auto", local):
        raise TrainingError(
            f"`devices`: {config.devices} asked for, but torchrun started {local} processes on this node; "
            f'give "auto", or --nproc_per_node={asked}'
        )
    return local, max(1, world // local)


def _there_are(machine: Machine) -> str:
    ids = ", ".join(map(str, range(machine.gpus)))
    return f"there {'is' if machine.gpus == 1 else 'are'} {machine.gpus} here (id {ids})"


def _strategy(
    config: TrainingConfig, machine: Machine, accelerator: str, count: int, notes: list[str]
) -> Literal["auto", "ddp", "fsdp"]:
    if config.strategy == "fsdp_native":
        if accelerator != "cuda":
            raise TrainingError(
                '`strategy`: "fsdp_native" shards a model over CUDA devices, and there is none here; use "ddp" or "auto"'
            )
        if count < 2:
            notes.append('`strategy`: "fsdp_native" on one CUDA device shards nothing; "ddp" or "auto" would be faster')
        return "fsdp"
    if config.strategy == "ddp" and count < 2:
        notes.append('`strategy`: "ddp" needs two devices or more and there is one: going on with "auto"')
        return "auto"
    return config.strategy


def _precision(config: TrainingConfig, machine: Machine, accelerator: str, notes: list[str]) -> str:
    precision = _SHORT.get(config.precision, config.precision)
    if config.use_amp and precision == "32-true":
        precision = "16-mixed" if accelerator == "cuda" and not machine.bf16 else "bf16-mixed"
    if precision.startswith("16") and accelerator == "cpu":
        raise TrainingError(f'`precision`: {config.precision!r} needs a GPU; use "bf16-mixed" or "32-true" here')
    if precision.startswith("bf16") and accelerator == "cuda" and not machine.bf16:
        raise TrainingError(f'`precision`: this GPU has no bfloat16 for {config.precision!r}; use "16-mixed" or "32-true"')
    if precision.startswith("64") and accelerator == "mps":
        raise TrainingError('`precision`: Apple\'s GPU has no float64; use "32-true", or `use_gpu` false')
    if config.use_amp and precision.endswith("-true") and precision != "32-true":
        notes.append(f"`use_amp` changes nothing at `precision` {config.precision!r}")
    return precision

"""What a training runs on: devices, processes, strategy and precision, as the config asks and this machine allows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from harness.config import TrainingConfig
from harness.errors import TrainingError

_SHORT = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "64": "64-true"}
_LAUNCHERS = ("MASTER_ADDR", "SLURM_JOB_ID", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE", "KUBERNETES_PORT")


@dataclass(frozen=True)
class Machine:
    """What is here.

    Attributes:
        gpus: CUDA devices.
        mps: Whether Apple's GPU can be used.
        bf16: Whether the GPU calculates in bfloat16 natively; emulated, it is slower than float32.
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
            bf16=not gpus or torch.cuda.is_bf16_supported(including_emulation=False),
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
        return _count(self.devices) * self.num_nodes


def choose_compute(config: TrainingConfig, machine: Machine) -> Compute:
    """Settles what a training runs on.

    Where the machine has less than the config asks for, a note says so, names the key, and training continues with what there is. What has no
    such fallback, or is a mistake on every machine, is an error.

    Raises:
        TrainingError: The config cannot be followed here; the message says what the machine has.
    """
    notes: list[str] = []
    accelerator = _accelerator(config, machine, notes)
    devices, num_nodes = _devices(config, machine, accelerator, notes)
    devices, num_nodes = _startable(config, machine, devices, num_nodes, notes)
    strategy = _strategy(config, machine, accelerator, _count(devices) * num_nodes, notes)
    precision = _precision(config, machine, accelerator, notes)
    return Compute(accelerator, devices, num_nodes, strategy, precision, tuple(notes))


def leads(environment: Mapping[str, str] | None = None) -> bool:
    """Whether this process is the one that writes files and says what happens."""
    environment = os.environ if environment is None else environment
    ranks = (environment.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return next((rank for rank in ranks if rank is not None), "0") == "0"


def _count(devices: int | tuple[int, ...]) -> int:
    return devices if isinstance(devices, int) else len(devices)


def _accelerator(config: TrainingConfig, machine: Machine, notes: list[str]) -> Literal["cpu", "cuda", "mps"]:
    if config.use_gpu is False:
        return "cpu"
    if machine.gpus:
        return "cuda"
    if config.use_gpu and machine.mps:
        return "mps"
    if config.use_gpu:
        notes.append("`use_gpu`: this machine has no GPU, so training runs on the CPU")
    return "cpu"


def _devices(config: TrainingConfig, machine: Machine, accelerator: str, notes: list[str]) -> tuple[int | tuple[int, ...], int]:
    if _is_launched(machine):
        local = int(machine.environment["LOCAL_WORLD_SIZE"])
        return _launched(config, local, int(machine.environment.get("WORLD_SIZE", local)))
    if config.num_nodes > 1 and not any(name in machine.environment for name in _LAUNCHERS):
        raise TrainingError(
            f"`num_nodes` {config.num_nodes}: the addresses of the other nodes are unknown; start the same command on each of them "
            f"with torchrun --nnodes={config.num_nodes} --nproc_per_node=N --rdzv_endpoint=HOST:PORT -m harness train --config FILE, "
            "or by SLURM's srun"
        )
    if config.devices == "auto":
        return (max(1, machine.gpus) if accelerator == "cuda" else 1), config.num_nodes
    if isinstance(config.devices, int):
        return _number(config.devices, machine, accelerator, notes), config.num_nodes
    return _ids(config.devices, machine, accelerator, notes), config.num_nodes


def _number(asked: int, machine: Machine, accelerator: str, notes: list[str]) -> int:
    """As many devices as asked for, or as there are."""
    there = {"cuda": machine.gpus, "mps": 1}.get(accelerator, asked)  # a CPU takes any number of processes
    if asked <= there:
        return asked
    notes.append(f"`devices`: {asked} requested, {_there_are(there)}: training on {there}")
    return there


def _ids(asked: list[int], machine: Machine, accelerator: str, notes: list[str]) -> int | tuple[int, ...]:
    """The GPUs asked for that are there."""
    if len(set(asked)) < len(asked) or not asked:
        raise TrainingError(f'`devices`: {asked} is not a list of different GPU ids; give ids, a number, or "auto"')
    if accelerator != "cuda":
        place = "CPU" if accelerator == "cpu" else "only GPU"
        notes.append(f"`devices`: {asked} are ids of CUDA GPUs, and training runs on the {place}: one process")
        return 1
    there = tuple(index for index in asked if index < machine.gpus) or (0,)
    if there != tuple(asked):
        notes.append(f"`devices`: {asked} requested, {_there_are(machine.gpus)}: training on {list(there)}")
    return there


def _startable(
    config: TrainingConfig, machine: Machine, devices: int | tuple[int, ...], num_nodes: int, notes: list[str]
) -> tuple[int | tuple[int, ...], int]:
    """The devices, or one of them where several processes cannot be started here."""
    count = _count(devices) * num_nodes
    if count < 2:
        return devices, num_nodes
    if not machine.lightning and _is_launched(machine):
        raise TrainingError(f"`strategy` {config.strategy!r} in {count} processes needs Lightning: pip install lightning")
    if not machine.lightning:
        reason = "training in several processes needs Lightning (pip install lightning)"
    elif machine.interactive and not _is_launched(machine):
        reason = (
            "several processes cannot be started from a notebook or a prompt, because each runs the script again "
            "(use `modeltiers train --config FILE`)"
        )
    else:
        return devices, num_nodes
    notes.append(f"`devices`: training on 1 instead of {count}: {reason}")
    return (devices[:1] if isinstance(devices, tuple) else 1), 1


def _is_launched(machine: Machine) -> bool:
    """Whether a launcher such as torchrun has started the processes already."""
    return "LOCAL_WORLD_SIZE" in machine.environment


def _launched(config: TrainingConfig, local: int, world: int) -> tuple[int, int]:
    """As many processes as torchrun started."""
    asked = len(config.devices) if isinstance(config.devices, list) else config.devices
    if asked not in ("auto", local):
        raise TrainingError(
            f"`devices`: {config.devices} requested, but torchrun started {local} processes on this node; "
            f'set "auto", or --nproc_per_node={asked}'
        )
    return local, max(1, world // local)


def _there_are(gpus: int) -> str:
    ids = ", ".join(map(str, range(gpus)))
    return f"this machine has {gpus} (id {ids})"


def _strategy(
    config: TrainingConfig, machine: Machine, accelerator: str, count: int, notes: list[str]
) -> Literal["auto", "ddp", "fsdp"]:
    auto: Literal["auto", "ddp"] = "ddp" if count > 1 else "auto"
    if config.strategy == "auto":
        return auto
    if count < 2 and notes and notes[-1].startswith("`devices`"):  # one warning for one cause
        notes[-1] += f'; `strategy` "{config.strategy}" needs at least 2 devices, so "auto" is used'
        return auto
    if config.strategy == "ddp":
        if count < 2:
            notes.append('`strategy`: "ddp" needs at least 2 devices and there is 1: "auto" is used')
        return auto
    if accelerator != "cuda":
        notes.append(
            '`strategy`: "fsdp_native" shards a model over CUDA devices, and this machine has none; "auto" is used '
            '("ddp" and "auto" train on CPUs)'
        )
        return auto
    if not machine.lightning or (machine.interactive and not _is_launched(machine)):
        reason = "does not run in a notebook" if machine.lightning else "needs Lightning (pip install lightning)"
        notes.append(f'`strategy`: "fsdp_native" {reason}; "auto" is used')
        return auto
    if count < 2:
        notes.append('`strategy`: "fsdp_native" on one CUDA device shards nothing; "ddp" or "auto" would be faster')
    return "fsdp"


def _precision(config: TrainingConfig, machine: Machine, accelerator: str, notes: list[str]) -> str:
    precision = _SHORT.get(config.precision, config.precision)
    if config.use_amp and precision == "32-true":
        precision = "16-mixed" if accelerator == "cuda" and not machine.bf16 else "bf16-mixed"
    if precision.startswith("16") and accelerator == "cpu":
        raise TrainingError(f'`precision`: {config.precision!r} needs a GPU; use "bf16-mixed" or "32-true" here')
    if precision.startswith("bf16") and accelerator == "cuda" and not machine.bf16:
        raise TrainingError(
            f'`precision`: {config.precision!r} needs bfloat16, which this GPU does not have; use "16-mixed" or "32-true"'
        )
    if precision.startswith("64") and accelerator == "mps":
        raise TrainingError('`precision`: Apple GPUs have no float64; use "32-true", or set `use_gpu` to false')
    if config.use_amp and precision.endswith("-true") and precision != "32-true":
        notes.append(f"`use_amp` has no effect with `precision` {config.precision!r}")
    return precision

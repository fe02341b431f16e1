"""A command of the user's that runs their model: run, watched, and stopped after a few steps; what it did is what a config is written from.

The command runs in a child process (``child.py``). ``watch.py`` sees the calls of modules, ``constructions.py`` their arguments, ``losses.py``
what is computed from what they return, and ``training.py`` the rest of a training. ``written.py`` writes a model as the Python that makes it.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.errors import ModelSourceError, did_you_mean
from harness.processes import end_in_words, module_command, start_process, stop_process

RESULT, INPUTS, WEIGHTS, TENSORS = "recording.json", "inputs.pt", "weights.pt", "tensors.pt"
"""The files in which the child leaves what it saw."""

_CHILD = "harness.recording.child"
_GRACE = 30.0
"""Seconds beyond the time of a command, to import PyTorch and to write what was seen."""

_CHECKED_EVERY = 0.2
_NOT_COMPILED = {"TORCH_COMPILE_DISABLE": "1", "TORCHDYNAMO_DISABLE": "1"}
"""A model that is compiled is called as it is written, which takes no compiler and shows its modules."""


class EndOfRecording(BaseException):
    """Ends the user's code once enough was seen; it passes through every ``except Exception``."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What is run, and when it is stopped.

    Attributes:
        target: A script, or the name of a module.
        is_module: Whether it is a module, as for ``python -m``.
        arguments: What it finds in ``sys.argv[1:]``.
        steps: Steps of an optimizer after which it is stopped; calls of the model where there is no optimizer.
        seconds: The time it has.
        model: The class of the model that is wanted; empty for the largest one that is trained or called.
        weights: Whether the weights at the end are kept.
    """

    target: str
    is_module: bool = False
    arguments: tuple[str, ...] = ()
    steps: int = 3
    seconds: float = 300.0
    model: str = ""
    weights: bool = False

    @property
    def shown(self) -> str:
        """As one would type it."""
        return f"python {self._rest}"

    @property
    def written_by(self) -> str:
        """The command of this package that runs it."""
        return f"modeltiers record {self._rest}"

    @property
    def _rest(self) -> str:
        return shlex.join([*(["-m"] if self.is_module else []), self.target, *self.arguments])


@dataclass(frozen=True)
class SeenLoss:
    """A loss that was computed from what the model returned.

    Attributes:
        name: As a config names it; empty for one that it has no name for.
        written: The function of PyTorch.
        output: The key or place of the output; empty for a single tensor.
        moved: Whether axes of the output were joined or put in another order before.
        squash: ``sigmoid``, ``softmax`` or ``log_softmax``, where it went through one.
        label: The input that is the label too; empty for another label.
        place: The line that computed it.
        target: The shape of the label.
        dtype: And its dtype.
        options: By which it is another than the loss of its name, such as ``label_smoothing=0.1``.
        plain: What it gives without them, as a config has it.
        share: What it adds to what ``backward`` was called with.
    """

    name: str
    written: str
    output: str
    moved: bool
    squash: str
    label: str
    place: str
    target: tuple[int, ...] = ()
    dtype: str = ""
    options: str = ""
    plain: float = 0.0
    share: float = 0.0

    @property
    def called(self) -> str:
        """``cross_entropy(label_smoothing=0.1)``."""
        return f"{self.written}({self.options})" if self.options else self.written


@dataclass(frozen=True)
class SeenTotal:
    """What ``backward`` was called with, as a sum.

    Attributes:
        place: The line.
        value: Its value.
        rest: What the losses leave of it; 0 where they are all of it.
        parts: The losses that have a part in it.
        output: The output of the model that it is, where forward computes it.
    """

    place: str
    value: float
    rest: float
    parts: tuple[SeenLoss, ...] = ()
    output: str = ""


@dataclass(frozen=True)
class SeenModel:
    """The model: how it was made, and how it was called.

    Attributes:
        name: The name of its class.
        module: The module of that.
        file: The file of that.
        kwargs: Its arguments, where a config can hold all of them; ``None`` where it cannot.
        expression: The Python that makes it; empty where there is none.
        imports: The lines which that needs.
        folders: The folders that these are imported from.
        edits: Submodules that were put in afterwards, as Python by their name.
        refused: Why it cannot be written.
        made_at: The line that made it.
        called_at: The line that called it.
        method: The method that was called; empty for ``forward``.
        shapes: The shape of each entry of its state dict.
    """

    name: str
    module: str
    file: str
    made_at: str
    called_at: str
    kwargs: dict[str, Any] | None = None
    expression: str = ""
    imports: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    edits: dict[str, str] = field(default_factory=dict)
    refused: str = ""
    method: str = ""
    shapes: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class SeenTraining:
    """The rest of a training.

    Attributes:
        settings: Keys of a config by name, each with its value and the line where it was seen.
        optimizer: What the optimizer was made as, for people.
        place: Where it was made.
    """

    settings: dict[str, tuple[Any, str]] = field(default_factory=dict)
    optimizer: str = ""
    place: str = ""


@dataclass(frozen=True)
class Recording:
    """What a run of a command showed.

    Attributes:
        ended: What ended it before it was stopped, such as an exception; empty where it was stopped, or ran to its end.
        model: The model; ``None`` where none was called.
        others: Other models that were called, each with the line that called it.
        calls: The shapes of the inputs of each call, by name.
        losses: The losses.
        total: What the model was trained by; ``None`` where it was not.
        training: The rest of the training.
        inputs: The arguments of the first calls, by parameter.
        tensors: Tensors that the model's arguments hold.
        weights: The weights at the end; ``None`` where they were not asked for.
    """

    ended: str = ""
    model: SeenModel | None = None
    others: dict[str, str] = field(default_factory=dict)
    calls: list[dict[str, list[int]]] = field(default_factory=list)
    losses: list[SeenLoss] = field(default_factory=list)
    total: SeenTotal | None = None
    training: SeenTraining = field(default_factory=SeenTraining)
    inputs: list[dict[str, Any]] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] | None = None

    def to_json(self) -> dict[str, Any]:
        """Without tensors, ready for JSON."""
        return {key: value for key, value in asdict(self).items() if key not in ("inputs", "tensors", "weights")}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Recording:
        """From what ``to_json`` returned."""
        model, training, total = kept["model"], kept["training"], kept["total"]
        return cls(
            **{
                **kept,
                "model": SeenModel(**model) if model else None,
                "losses": [SeenLoss(**each) for each in kept["losses"]],
                "total": SeenTotal(**{**total, "parts": tuple(SeenLoss(**each) for each in total["parts"])}) if total else None,
                "training": SeenTraining(
                    **{**training, "settings": {key: tuple(each) for key, each in training["settings"].items()}}
                ),
            }
        )


def record(command: Command, say: Callable[[str], None] = lambda _: None) -> Recording:
    """Runs a command of the user's as it is, until enough was seen of its model.

    Ctrl-C ends the command early, and keeps what was seen until then.

    Args:
        command: The command.
        say: Is told what it is waited for.

    Raises:
        ModelSourceError: There is no such script, or its process died.
    """
    script = Path(command.target)
    if not command.is_module and not script.is_file():
        near = [each.name for each in script.parent.glob("*.py")] if script.parent.is_dir() else []
        raise ModelSourceError(f"no such file {script}.{did_you_mean(script.name, near)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job, log = folder / "command.json", folder / "output.txt"
        job.write_text(json.dumps(asdict(command)), encoding="utf-8")
        process = start_process(module_command(_CHILD, str(job)), log, {**os.environ, **_NOT_COMPILED}, Path.cwd())
        began = time.monotonic()
        try:
            while process.poll() is None and time.monotonic() - began < command.seconds + _GRACE:
                say(f"{command.shown} runs: {time.monotonic() - began:.0f} s")
                time.sleep(_CHECKED_EVERY)
        except KeyboardInterrupt:
            say("interrupted: waiting for what was seen")
            os.kill(process.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
        finally:
            stop_process(process)
        if not (folder / RESULT).is_file():
            raise ModelSourceError(
                f"{command.shown}: its process {end_in_words(process.returncode, log)}; nothing was seen of a model"
            )
        weights = folder / WEIGHTS
        return Recording.from_json(
            {
                **json.loads((folder / RESULT).read_text(encoding="utf-8")),
                "inputs": torch.load(folder / INPUTS, weights_only=True),
                "tensors": torch.load(folder / TENSORS, weights_only=True),
                "weights": torch.load(weights, weights_only=True) if weights.is_file() else None,
            }
        )

"""Whether a file that was traced runs at sizes other than its example's."""

from __future__ import annotations

from pathlib import Path

import torch

from harness.batches import make_batch
from harness.export.clean_process.run import answers
from harness.export.formats.exporter import Exporter, ExportError
from harness.export.program import Outputs, Program, as_exported
from harness.export.shape_grid import shape_grid

_TRIED, _ROUGHLY = 6, 1e-3


def try_other_sizes(exporter: type[Exporter], path: Path, program: Program, *, outputs: bool) -> None:
    """Runs a traced file at other sizes, in a process of its own: kernels of recurrent layers do not survive sizes that were frozen.

    Args:
        exporter: The exporter of its format.
        path: The file.
        program: What it was traced from.
        outputs: Whether it must also give about the model's outputs; the checks of tier 4 look closely.

    Raises:
        ExportError: It does not survive, or gives other outputs.
    """
    points = shape_grid(program)[:_TRIED]
    made = [make_batch(program.task, point.sizes, seed) for seed, point in enumerate(points)]
    batches = [as_exported(program.forward.adapter, {name: batch[name] for name in program.fields}) for batch in made]
    given = answers(exporter, path, program.fields, batches, program.outputs)
    for point, batch, answer in zip(points, batches, given, strict=True):
        at = point.sizes.describe(program.task)
        if answer.is_fatal:
            raise ExportError(f"the process that runs it does not survive {at}: {answer.refusal}")
        if outputs and (answer.outputs is None or not _alike(answer.outputs, program.eager_outputs(batch))):
            raise ExportError(f"it does not give the model's outputs at {at}")


def _alike(left: Outputs, right: Outputs) -> bool:
    return all(
        left[name].shape == tensor.shape and torch.allclose(left[name].double(), tensor.double(), rtol=_ROUGHLY, atol=_ROUGHLY)
        for name, tensor in right.items()
    )

"""Inputs that a call may lack: forward works with and without each, and a mask that hides nothing gives what no mask gives."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import combinations

import torch
from torch import Tensor, nn

from harness.adapters import same_shape
from harness.batches import Batch, Sizes
from harness.errors import OutputError
from harness.evidence import Evidence
from harness.properties.calling import ModelRaisedError
from harness.properties.noise import first_failure, judge_equal, remembered
from harness.properties.subject import Subject
from harness.properties.tracing import calls_of, first_divergence, whole
from harness.tasks.axes import shape_text
from harness.tasks.values import LengthsOf, MaskOf
from harness.wording import listed

_NAME = "optional_inputs"


def works_without(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """Without each optional input, and without all of them, the outputs have their shape and are finite."""
    base = subject.batch(sizes, seed)
    return first_failure(_without(subject, sizes, base, names, seed) for names in lacking(subject))


def full_mask_is_none(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """Where nothing is padded, an optional mask or optional lengths change no output."""
    base = subject.batch(sizes, seed)
    told = [each for each in subject.task.signature.inputs if each.optional and isinstance(each.values, (MaskOf, LengthsOf))]
    given = remembered(subject, lambda model: subject.outputs(base, model))
    found = []
    for each in told:
        without = remembered(subject, partial(_outputs_without, subject, base, each.name))
        for output in subject.task.signature.outputs:
            if isinstance(given(subject.model).get(output.name), Tensor):

                def compare(model: nn.Module, name: str = output.name, bare: object = without) -> tuple[Tensor, Tensor]:
                    return given(model)[name], bare(model)[name]  # type: ignore[operator]

                def culprit(model: nn.Module, name: str = each.name) -> str:
                    calls = [
                        calls_of(model, partial(subject.outputs, base)),
                        calls_of(model, partial(_outputs_without, subject, base, name)),
                    ]
                    return first_divergence(calls[0], calls[1], whole)

                found.append(
                    judge_equal(
                        subject.judging(output.name),
                        _NAME,
                        compare,
                        f"output `{output.name}` changes when `{each.name}`, which hides nothing, is left out",
                        f"{sizes.describe(subject.task)}, seed={seed}",
                        f"a branch for `{each.name} is None` that computes something else, or a mask that is inverted",
                        culprit,
                        code="depends_on_absence",
                    )
                )
    return first_failure(found) if found else Evidence.skipped(_NAME, "no mask and no lengths are optional")


def lacking(subject: Subject) -> Iterator[tuple[str, ...]]:
    """The optional inputs that a call may lack: one at a time, and all of them."""
    names = [each.name for each in subject.task.signature.inputs if each.optional and not each.state]
    yield from combinations(names, 1)
    if len(names) > 1:
        yield tuple(names)


def without(batch: Batch, names: tuple[str, ...]) -> Batch:
    """A batch that lacks some inputs."""
    return {name: value for name, value in batch.items() if name not in names}


def _outputs_without(subject: Subject, base: Batch, name: str, model: nn.Module) -> dict[str, Tensor]:
    return subject.outputs(without(base, (name,)), model)


def _without(subject: Subject, sizes: Sizes, base: Batch, names: tuple[str, ...], seed: int) -> Evidence:
    told = listed(names, len(names))
    counterexample = f"{sizes.describe(subject.task)}, without {told}, seed={seed}"
    try:
        outputs = subject.outputs(without(base, names))
    except (ModelRaisedError, OutputError) as error:
        if subject.prerequisite_failure.raises:
            raise
        return Evidence.failed(
            _NAME,
            f"without {told} forward raises: {error}" if isinstance(error, ModelRaisedError) else f"without {told}: {error}",
            counterexample=counterexample,
            module=getattr(error, "module", ""),
            cause="code that uses the argument before it asks whether it is None",
            code="raises",
        )
    whole = subject.task.signature.complete(sizes.by_axis(subject.task))
    for output in subject.task.signature.outputs:
        value = outputs.get(output.name)  # an adapter of the user's finds the main output only
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        problem = code = ""
        if not same_shape(value, output.shape(whole)):
            problem, code = f"has shape {list(value.shape)}, promised {shape_text(output.shape(whole))}", "wrong_shape"
        elif not bool(torch.isfinite(value).all()) and not subject.prerequisite_failure.not_finite:
            problem, code = "is not finite", "not_finite"
        if problem:
            message = f"without {told} output `{output.name}` {problem}"
            return Evidence.failed(_NAME, message, counterexample=counterexample, code=code)
    return Evidence.ok(_NAME, f"works without {told}", counterexample=counterexample)

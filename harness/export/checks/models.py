"""Whether a model is fit to be exported at all."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from harness.batches import Sizes
from harness.errors import UserError
from harness.evidence import WHOLE, Blame, Evidence, Status
from harness.export.exports import Exports
from harness.export.program import LOGITS, Outputs, promised_outputs
from harness.export.shape_grid import Point, is_possible
from harness.properties.calling import ModelRaisedError
from harness.properties.misshapen import where_shaped
from harness.properties.places import method_of
from harness.properties.resources import MIB, LiveBytes, find_out_first
from harness.properties.tracing import calls_of, first_broken
from harness.properties.watched_lines import drawing_line, largest_line
from harness.tasks.axes import BATCH, fits_shape
from harness.wording import counted

_BATCHES = (1, 2, 4, 8)
_WARN_BYTES = 1 << 30
_SHOWN = 3


def architecture_validation(exports: Exports) -> Evidence:
    """The model has modules and parameters, and a forward that takes the task's fields; counts the modules by type."""
    name, model = "architecture_validation", exports.reference
    counts = Counter(type(module).__name__ for module in model.modules() if not list(module.children()))
    total = sum(1 for _ in model.modules())
    details = {"total_modules": total, "layer_counts": dict(counts.most_common()), "inputs": list(exports.program.fields)}
    training = [path for path, module in model.named_modules() if module.training]
    if training:
        return Evidence.failed(
            name,
            f"{counted(len(training), 'module')} stay in train mode after eval(), `{training[0]}` first",
            module=training[0],
            cause="an eval() or train() that was overridden and does not call super()",
            details=details,
            place=_line_of_modes(model),
            code="stays_in_train_mode",
        )
    common = ", ".join(f"{count} {kind}" for kind, count in counts.most_common(_SHOWN))
    return Evidence.ok(name, f"{counted(sum(counts.values()), 'leaf module')}: {common}", details=details)


def _line_of_modes(model: nn.Module) -> str:
    """Where a class of the user's overrides how modes are switched."""
    owners = {type(module): module for module in model.modules()}
    places = (method_of(module, name) for module in owners.values() for name in ("train", "eval"))
    return next(filter(None, places), "")


def parameter_validation(exports: Exports) -> Evidence:
    """No parameter or buffer holds NaN or infinity."""
    name, model = "parameter_validation", exports.reference
    parameters = dict(model.named_parameters())
    tensors = {**parameters, **dict(model.named_buffers())}
    floating = {path: tensor.detach() for path, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel()}
    nan = {path: int(tensor.isnan().sum()) for path, tensor in floating.items()}
    infinite = {path: int(tensor.isinf().sum()) for path, tensor in floating.items() if path in parameters}
    every = torch.cat([floating[path].flatten().double() for path in parameters if path in floating] or [torch.zeros(1)])
    sound = every[every.isfinite()]
    trainable = sum(p.numel() for p in parameters.values() if p.requires_grad)
    details = {
        "total_params": sum(p.numel() for p in parameters.values()),
        "trainable_params": trainable,
        "nan_params": sum(nan.values()),
        "inf_params": sum(infinite.values()),
        "mean": float(sound.mean()) if sound.numel() else None,
        "std": float(sound.std(correction=0)) if sound.numel() else None,
        "min": float(sound.min()) if sound.numel() else None,
        "max": float(sound.max()) if sound.numel() else None,
    }
    bad = [path for path in floating if nan[path] or infinite.get(path)]
    if bad:
        message = f"`{bad[0]}` holds {nan[bad[0]]} NaN and {infinite.get(bad[0], 0)} infinite values"
        others = f" (and {counted(len(bad) - 1, 'other tensor')})" if len(bad) > 1 else ""
        cause = "a training run that diverged: lower the learning rate, clip gradients, or go back to an earlier checkpoint"
        return Evidence.failed(
            name,
            message + others,
            (len(bad), 0, "tensors"),
            module=bad[0],
            cause=cause,
            details=details,
            code="weight_not_finite",
        )
    if not parameters:
        return Evidence.warned(name, "the model has no parameters", details=details, code="no_parameters")
    message = f"{details['total_params']:,} parameters ({trainable:,} trainable), none of them NaN or infinite"
    return Evidence.ok(name, message, details=details)


def shape_validation(exports: Exports) -> Evidence:
    """Logits have the promised shape at several batch sizes and lengths; says what the model makes of another image size."""
    return _at_input_shapes(exports, "shape_validation")


def forward_pass_validation(exports: Exports) -> Evidence:
    """Forward gives finite logits at several batch sizes, and the same ones again."""
    if exports.subject.prerequisite_failure.random:
        cause = "F.dropout without `training=self.training`, or random numbers drawn in forward"
        return Evidence.failed(
            "forward_pass_validation",
            "logits are random in eval mode, so no file can reproduce them",
            cause=cause,
            code="random_logits",
            investigate=lambda: Blame(WHOLE, drawing_line(lambda: exports.call(exports.reference, exports.program.example))),
        )
    return _at_input_shapes(exports, "forward_pass_validation")


def memory_requirements(exports: Exports) -> Evidence:
    """Bytes of parameters and of one call at its peak; more than 1 GB is a warning."""
    name, program = "memory_requirements", exports.program
    find_out_first(exports.subject)
    parameters = sum(t.numel() * t.element_size() for t in (*exports.reference.parameters(), *exports.reference.buffers()))
    tracker = LiveBytes()
    batch = exports.batch(exports.points[0])
    try:
        with tracker:
            exports.eager(batch)
    except ModelRaisedError as error:
        return Evidence.failed(name, f"cannot be measured, forward raises: {error}", module=error.module, code="raises")
    peak = parameters + tracker.peak
    details = {"parameter_bytes": parameters, "activation_peak_bytes": tracker.peak, "peak_bytes": peak}
    message = f"{peak / MIB:.2f} MiB at {program.sizes.describe(program.task)}, {parameters / MIB:.2f} of it parameters"
    status = Status.WARN if peak > _WARN_BYTES else Status.OK
    cause = "a model of this size; quantise it, or serve it in half precision" if status is Status.WARN else ""
    return Evidence.judged(
        name,
        status,
        message,
        (peak / MIB, _WARN_BYTES / MIB, "MiB"),
        cause=cause,
        details=details,
        code="" if status is Status.OK else "too_much_memory",
        investigate=None if parameters > tracker.peak else lambda: Blame(WHOLE, largest_line(lambda: exports.eager(batch))),
    )


def _at_input_shapes(exports: Exports, name: str) -> Evidence:
    """Shape or finiteness of the outputs at each input shape; each failure belongs to one of the two."""
    task = exports.program.task
    shapes: dict[str, Any] = {}
    for seed, sizes in enumerate(_sizes(exports)):
        at = sizes.describe(task)
        try:
            outputs = exports.eager(exports.batch(Point(sizes, seed)))
        except UserError as error:
            module = error.module if isinstance(error, ModelRaisedError) else ""
            return Evidence.failed(name, f"forward raises at {at}: {error}", counterexample=at, module=module, code="raises")
        found = {output: list(tensor.shape) for output, tensor in outputs.items()}
        shapes[at] = found.get(LOGITS, found)
        message = _wrong_shape(exports, sizes, outputs) if name == "shape_validation" else ""
        if message:
            where = partial(where_shaped, exports.subject, sizes, seed)
            return Evidence.failed(name, message, counterexample=at, code="wrong_shape", investigate=where)
        bad = [(output, tensor) for output, tensor in outputs.items() if not bool(tensor.isfinite().all())]
        if name == "forward_pass_validation" and bad:
            output, tensor = bad[0]
            count = int((~tensor.isfinite()).sum())
            what = counted(count, "logit") if output == LOGITS else f"{counted(count, 'value')} of output `{output}`"
            cause = "weights that diverged in training, or a softmax over a row that is all masked"
            where = partial(_first_not_finite, exports, Point(sizes, seed))
            message = f"{what} NaN or infinite at {at}"
            return Evidence.failed(name, message, counterexample=at, cause=cause, code="not_finite", investigate=where)
    details: dict[str, object] = {"shapes": shapes}
    if name == "shape_validation" and task.image_size:
        details["other_image_size"] = _other_image_size(exports)
    what = "the promised shape" if name == "shape_validation" else f"finite {exports.program.returns}"
    return Evidence.ok(name, f"{what} at {counted(len(shapes), 'input shape')}", details=details)


def _first_not_finite(exports: Exports, point: Point) -> str:
    """The module that first returns what is not finite, and its line."""
    calls = calls_of(exports.reference, lambda model: exports.call(model, exports.batch(point)))
    return first_broken(calls, lambda tensor: not bool(tensor.isfinite().all()))


def _wrong_shape(exports: Exports, sizes: Sizes, outputs: Outputs) -> str:
    """What is wrong with the shape of an output; empty where all are as promised."""
    task, at = exports.program.task, sizes.describe(exports.program.task)
    whole = task.signature.complete(sizes.by_axis(task))
    for output, promised in promised_outputs(exports.program).items():
        shape = tuple(outputs[output].shape)
        wanted = tuple(axis if isinstance(axis, int) else whole[axis] for axis in promised.axes)
        if fits_shape(shape, wanted):
            continue
        if output == LOGITS:
            return f"logits of shape {shape} at {at}; {task.title} promises {wanted}"
        return f"output `{output}` of shape {shape} at {at}; promised [{', '.join(map(str, promised.axes))}], which is {wanted}"
    return ""


def _other_image_size(exports: Exports) -> str:
    """What the model makes of images half as large again; a model may be made for one size, so that this is no verdict."""
    task = exports.program.task
    channels, height, width = task.image_size or (0, 0, 0)
    other = replace(task, image_size=(channels, height + height // 2, width + width // 2))
    batch = {name: tensor.cpu() for name, tensor in exports.subject.make(other, Sizes(2), 0).items()}
    at = "x".join(map(str, batch["pixel_values"].shape[2:]))
    try:
        outputs = exports.eager(batch)
    except UserError as error:
        return f"{at} is refused: {error}"
    return f"{at} gives logits of shape {tuple(outputs[LOGITS].shape)}"


def _sizes(exports: Exports) -> list[Sizes]:
    """Several batch sizes at the example's other sizes, and each other axis at its smallest and its largest, where those may differ."""
    program, task = exports.program, exports.program.task
    example = program.sizes.by_axis(task)
    low, high = program.limits.get(BATCH, (0, 0))
    found = [{**example, BATCH: size} for size in _BATCHES if low <= size <= high] or [example]
    found += [{**example, axis: size} for axis in program.limits if axis != BATCH for size in program.sizes_tried(axis)]
    return list(dict.fromkeys(Sizes.for_task(task, sizes) for sizes in found if is_possible(task.signature, sizes)))

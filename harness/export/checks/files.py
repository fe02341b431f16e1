"""Checks of an exported file: it is intact and valid, runs in another process, keeps its axes free, and holds nothing of training."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from harness.batches import Sizes
from harness.errors import UserError
from harness.evidence import Evidence, Status
from harness.export import outcome
from harness.export.checks.lines import line_of_a_size, line_of_operator, line_of_what_is_lost
from harness.export.clean_process import CleanRun, ExportedFile
from harness.export.exports import Exports, Run
from harness.export.program import LOGITS, UNLIMITED, Outputs, Program
from harness.export.shape_grid import Point, is_possible
from harness.export.store.identity import versions
from harness.files import json_hash
from harness.properties.noise import difference
from harness.properties.watched_lines import drawing_line
from harness.runtime import seeded
from harness.wording import counted

_REPLAYED = 2
"""Batches of the shape grid that are run in the clean process."""


def validation(exports: Exports, format: str) -> Evidence:
    """The file can be read, is whole, has the opset asked for, and gives finite logits.

    Raises:
        UserError: There is no artifact.
    """
    name = "validation"
    artifact = exports.artifact(format)
    try:
        inspection = exports.inspection(format)
        outputs = exports.example_outputs(format)
    except UserError as error:
        cause = "a file that was cut short or damaged, weights of another model, or an operator that the runtime cannot run as written"
        return Evidence.failed(
            name, f"{format}: {error}", cause=cause, details={"path": str(artifact.path)}, code="unreadable_file"
        )
    details: dict[str, Any] = {"path": str(artifact.path), **inspection.facts}
    problems = list(inspection.problems)
    for output, tensor in outputs.items():
        if not bool(tensor.isfinite().all()):
            bad = int((~tensor.isfinite()).sum())
            problems.append(
                f"{bad} logits are NaN or infinite" if output == LOGITS else f"{bad} values of `{output}` are NaN or infinite"
            )
    if problems:
        cause = "weights that diverged, a file changed by hand, or an exporter that could not give what was asked for"
        return Evidence.failed(name, f"{format}: {'; '.join(problems)}", cause=cause, details=details, code="unsound_file")
    known = {"opset": "opset", "nodes": "nodes", "tensors": "tensors"}
    facts = ", ".join(f"{label} {inspection.facts[key]}" for key, label in known.items() if key in inspection.facts)
    return Evidence.ok(name, f"sound, {artifact.size / 2**20:.2f} MiB" + (f", {facts}" if facts else ""), details=details)


def fresh_process(exports: Exports, format: str) -> Evidence:
    """The file loads in a clean process and gives the model's logits there; cold start, first call and peak memory are measured.

    Raises:
        UserError: There is no artifact.
    """
    artifact = exports.artifact(format)
    exports.runner(format)  # a file that must not be loaded is not loaded elsewhere either
    key = json_hash(
        "fresh process", artifact.manifest and artifact.manifest.files, exports.identity, versions(), torch.get_num_threads()
    )
    if not artifact.ours:
        return _judge_clean_process(exports, format)
    found = exports.cache.values(
        key,
        lambda: _judge_clean_process(exports, format).to_json(),
        lambda e: e["status"] == Status.OK.value,
        read=Evidence.from_json,
    )
    return Evidence.from_json(found)


def _judge_clean_process(exports: Exports, format: str) -> Evidence:
    name = "fresh_process"
    points = exports.points[:_REPLAYED]
    path, program = exports.artifact(format).path, exports.program
    file = ExportedFile(type(exports.exporter(format)), path, program.fields, program.outputs, threads=torch.get_num_threads())
    batches = [exports.batch(point) for point in points]
    run = file.run(batches, config=exports.config, expected=exports.reference.state_dict())
    details = _figures(run)
    if run.error:
        cause = "code or weights that exist only in this process, such as a tensor that is not in the state dict"
        return Evidence.failed(name, f"{format}: {run.error}", cause=cause, details=details, code="clean_process_failed")
    here = _outputs_here(exports, format, points)
    if here is None:
        return Evidence.skipped(
            name,
            f"{format}: gives different {exports.program.returns} at every call (see inference_mode[{format}])",
            details=details,
        )
    output, measured, bound = _worst(exports, list(map(_gaps, run.outputs, here)))
    if measured is not None and measured > bound:
        what = (
            "its logits in a new process differ from those"
            if output == LOGITS
            else f"output `{output}` in a new process differs from that"
        )
        message = f"{format}: {what} in this one"
        cause = "code or weights that exist only in this process, such as a tensor that is not in the state dict"
        place = line_of_what_is_lost(exports.reference)
        return Evidence.failed(
            name, message, (measured, bound, ""), cause=cause, details=details, place=place, code="clean_process_differs"
        )
    message = (
        f"loads in {details['load_ms']:.0f} ms, first call {details['first_call_ms']:.1f} ms, peak {details['peak_mib']:.0f} MiB"
    )
    return Evidence.ok(name, message, (measured, bound, ""), details=details)


def _outputs_here(exports: Exports, format: str, points: Sequence[Point]) -> list[Outputs] | None:
    """The artifact's outputs in this process; ``None`` where they change from call to call."""
    run = exports.runner(format)
    first, again = ([run(exports.batch(point)) for point in points] for _ in range(2))
    return first if all(gap == 0 for a, b in zip(first, again, strict=True) for gap in _gaps(a, b).values()) else None


def _gaps(left: Outputs, right: Outputs) -> dict[str, float]:
    """How far outputs are from each other; of those that are empty on both sides, not at all."""
    return {
        name: 0.0 if left[name].shape == right[name].shape and not left[name].numel() else difference(left[name], right[name])
        for name in right
    }


def _worst(exports: Exports, gaps: Sequence[dict[str, float]]) -> tuple[str, float | None, float]:
    """The output that differs most from one call to another, by how much, and how much may be rounding; ``None`` where none was compared."""
    bounds = {name: floor.repeat_bound for name, floor in exports.floors.items()}
    found = [(name, gap) for each in gaps for name, gap in each.items()]
    if not found:
        return LOGITS, None, max(bounds.values())
    name, gap = max(found, key=lambda pair: (pair[1] > bounds[pair[0]], pair[1]))
    return name, gap, bounds[name]


def _figures(run: CleanRun) -> dict[str, Any]:
    def ms(seconds: float | None) -> float:
        return 0.0 if seconds is None else round(seconds * 1e3, 3)

    return {
        "import_ms": ms(run.import_seconds),
        "load_ms": ms(run.load_seconds),
        "first_call_ms": ms(run.first_call_seconds),
        "warm_call_ms": ms(run.warm_call_seconds),
        "cold_start_ms": round(ms(run.import_seconds) + ms(run.load_seconds) + ms(run.first_call_seconds), 3),
        "peak_mib": 0.0 if run.peak_bytes is None else round(run.peak_bytes / 2**20, 1),
    }


def exports_to(exports: Exports, format: str) -> Evidence:
    """The model can be exported, by the way that is meant to work, and the file is the one that was exported.

    Raises:
        MissingPackageError: The format needs a package that is not installed.
    """
    name = "exports"
    exporter = exports.exporter(format)
    try:
        artifact = exports.artifact(format)
    except UserError as error:
        return Evidence.failed(
            name,
            f"{format}: cannot be exported: {error}",
            cause=_works_instead(exports, format),
            place=line_of_operator(exports, str(error)),
            code="export_failed",
        )
    details: dict[str, Any] = {"path": str(artifact.path), "bytes": artifact.size, "seconds": round(artifact.seconds, 3)}
    if artifact.manifest is None:
        message = f"{artifact.path.name} was already there and was not written by this project; it is checked as it is"
        return Evidence.ok(name, message, details=details)
    details |= {"attempts": [f"{a.way}: {a.error}" if a.error else a.way for a in artifact.manifest.attempts]}
    if artifact.changed:
        return Evidence.failed(
            name,
            f"{artifact.path.name} is not the file that was exported: its sha256 differs",
            cause="the file was edited, damaged or replaced after its export; delete it, and it is exported again",
            code="file_changed",
            details=details,
        )
    failed = [attempt for attempt in artifact.manifest.attempts if attempt.error]
    way = artifact.manifest.attempts[-1].way
    size = f"{artifact.size / 2**20:.2f} MiB"
    if exporter.last_resort and way.startswith(exporter.last_resort) and failed:
        return Evidence.warned(
            name, f"{format}: exported only by the {way}; {failed[0].way}: {failed[0].error}", details=details, code="last_resort"
        )
    if artifact.manifest.notes.get("frozen"):
        frozen = artifact.manifest.notes["frozen"]
        return Evidence.ok(name, f"{size}, by {way}, which warns about {counted(len(frozen), 'line')}", details=details)
    return Evidence.ok(name, f"{size}, by {way}" if exporter.kind == "weights" else f"{size}, {way}", details=details)


def dynamic_axes(exports: Exports, format: str) -> Evidence:
    """Every axis that was to stay free takes every size it was declared for.

    Raises:
        UserError: There is no artifact that can be loaded.
    """
    name, program = "dynamic_axes", exports.program
    run, artifact = exports.runner(format), exports.artifact(format)
    if not program.limits:
        return Evidence.skipped(name, "no axis is declared free (`dynamic_shapes`)")
    manifest = artifact.manifest
    static = dict(manifest.static) if manifest else {}
    static = {**exports.exporter(format).static_axes(artifact.path, program), **static}
    narrowed = _narrowed(program, manifest.limits if manifest else {})
    guards = manifest.notes.get("guards", {}) if manifest else {}
    refused = {point: reason for point in exports.points if (reason := _refusal(run, exports, point))}
    details = {
        "declared": {axis: list(limits) for axis, limits in program.limits.items()},
        "derived": {axis: list(limits) for axis, limits in (manifest.limits if manifest else {}).items()},
        "refused": {point.describe(program): reason for point, reason in refused.items()},
    }
    if not static and not narrowed and not refused:
        sizes = ", ".join(
            f"{axis} {low} to {high}{_in_steps(program.step(axis))}" for axis, (low, high) in program.limits.items()
        )
        return Evidence.ok(name, f"free as declared: {sizes}", details=details)
    reasons = [*static.values(), *(_narrowing(axis, limits, program, guards) for axis, limits in narrowed.items())]
    if not reasons:
        point, reason = next(iter(refused.items()))
        reasons = [f"it refuses {point.sizes.describe(program.task)}: {reason}"]
    planned = exports.exporter(format).plans_memory and not refused and _is_planned(program, static, narrowed)
    return Evidence.judged(
        name,
        Status.WARN if planned else Status.FAIL,
        f"{format}: {'; '.join(reasons)}{'; memory is planned for these sizes' if planned else ''}",
        (float(len(refused)) if refused else None, 0.0 if refused else None, "shapes refused"),
        counterexample=next((point.describe(program) for point in refused), ""),
        place=line_of_a_size(exports, format) if refused and not (static or narrowed) else "",
        code="fixed_axis" if static else "narrower_axis" if narrowed else "size_refused",
        cause=_what_works(
            exports, format, {**dict.fromkeys(static or ({} if narrowed else _suspects(exports, run, refused))), **narrowed}
        ),
        details=details,
    )


def inference_mode(exports: Exports, format: str) -> Evidence:
    """Nothing of training is left in the file: no active Dropout, no norm over the batch, nothing random.

    Raises:
        UserError: There is no artifact that can be loaded.
    """
    name = "inference_mode"
    run = exports.runner(format)
    inspection = exports.inspection(format)
    batch = exports.batch(exports.points[0])
    outputs = []
    for draw in (1, 2):
        with seeded(draw):
            outputs.append(run(batch))
    output, spread, bound = _worst(exports, [_gaps(outputs[0], outputs[1])])
    left = [found for found in inspection.training if not ("orm" in found and _norms_over_the_batch(exports))]
    cause = "an export in train mode, F.dropout without `training=self.training`, or an eval() that does not reach a module"
    is_random = bool(left) or (spread is not None and spread > bound)
    draws = drawing_line(lambda: exports.call(exports.reference, batch)) if is_random else ""
    if left:
        others = f" and {len(left) - 1} more" if len(left) > 1 else ""
        module = left[0].partition(" in `")[2].rstrip("`")
        return Evidence.failed(
            name,
            f"{format}: the file still contains training operators: {left[0]}{others}",
            module=module,
            place=draws,
            cause=cause,
            code="training_operators",
        )
    if spread is not None and spread > bound:
        given = "logits" if output == LOGITS else f"values of output `{output}`"
        message = f"{format}: two calls with the same batch give different {given}"
        return Evidence.failed(name, message, (spread, bound, ""), cause=cause, code="random_logits", place=draws)
    message = f"no training operators, and the same {exports.program.returns} at every call"
    return Evidence.ok(name, message, (spread, bound, ""))


def _in_steps(step: int) -> str:
    return f" in steps of {step}" if step > 1 else ""


def _refusal(run: Run, exports: Exports, point: Point) -> str:
    """Why an artifact does not take a shape; empty where it does, or where the model itself does not either."""
    _, reason = outcome(lambda: run(exports.batch(point)))
    if not reason:
        return ""
    _, unable = outcome(lambda: exports.expected(point))
    return "" if unable else reason


def _narrowed(program: Program, derived: dict[str, tuple[int, int | None]]) -> dict[str, tuple[int, int | None]]:
    """Axes that the exporter found to take fewer sizes than declared."""
    narrowed = {}
    for axis, (low, high) in program.limits.items():
        found = derived.get(axis)
        if found is not None and (found[0] > low or (found[1] is not None and found[1] < high)):
            narrowed[axis] = found
    return narrowed


def _is_planned(program: Program, static: dict[str, str], narrowed: dict[str, tuple[int, int | None]]) -> bool:
    """Whether all that is narrower is the batch, to which the user gave no limit."""
    return not static and set(narrowed) == {"batch"} and program.limits["batch"][1] == UNLIMITED


def _narrowing(axis: str, limits: tuple[int, int | None], program: Program, guards: dict[str, str]) -> str:
    low, high = program.limits[axis]
    upper = "any size" if limits[1] is None else str(limits[1])
    why = f": the model's code checks {guards[axis]}" if axis in guards else ""
    return f"{axis} is valid only from {limits[0]} to {upper}, declared from {low} to {high}{why}"


def _suspects(exports: Exports, run: Run, refused: Iterable[Point]) -> list[str]:
    """The axes at whose other sizes alone a file refuses a batch; where it is none of them, all of which it refuses every size but one."""
    task, limits = exports.program.task, exports.program.limits
    own = exports.program.sizes.by_axis(task)
    sizes = [point.sizes.by_axis(task) for point in refused]

    def is_refused(axis: str) -> bool:
        others = dict.fromkeys(each[axis] for each in sizes if each[axis] != own[axis])
        tried = ({**own, axis: size} for size in others)
        points = (Point(Sizes.for_task(task, each)) for each in tried if is_possible(task.signature, each))
        return any(_refusal(run, exports, point) for point in points)

    alone = [axis for axis in limits if is_refused(axis)]
    return alone or [axis for axis in limits if all(each[axis] != own[axis] for each in sizes)] or [*limits]


def _what_works(exports: Exports, format: str, axes: dict[str, tuple[int, int | None] | None]) -> str:
    """What a user can do about axes that are fixed (``None``) or take fewer sizes than declared."""
    declared = {axis: [low, high] for axis, (low, high) in exports.program.limits.items()}
    honest = {axis: [limits[0], limits[1] or declared[axis][1]] if limits else False for axis, limits in axes.items()}
    shown = json.dumps({"dynamic_shapes": honest})
    text = f"the model's code fixes this size, as `len(x)` and `int(x.shape[0])` do, or branches on it; or declare the sizes that work: {shown}"
    others = [other for other in exports.formats if other != format and _is_free(exports, other)]
    return f"{text}; exported as {', '.join(others)}, the model takes every size" if others else text


def _is_free(exports: Exports, format: str) -> bool:
    try:
        if exports.exporter(format).kind == "weights":
            return False
        artifact, run = exports.artifact(format), exports.runner(format)
    except UserError:
        return False
    manifest = artifact.manifest
    if manifest is None or manifest.static or _narrowed(exports.program, manifest.limits):
        return False
    return not any(_refusal(run, exports, point) for point in exports.points)


def _works_instead(exports: Exports, format: str) -> str:
    """Formats that the model can be exported to, for a user whose format failed."""
    works = []
    for other in exports.formats:
        try:
            if other != format:
                exports.artifact(other)
                works.append(other)
        except UserError:
            continue
    return (
        f"the format cannot express an operator or a decision of the model; these formats work: {', '.join(works)}"
        if works
        else ""
    )


def _norms_over_the_batch(exports: Exports) -> bool:
    """Whether the model itself, in eval mode, normalises over the batch."""
    return any(getattr(module, "track_running_stats", True) is False for module in exports.reference.modules())

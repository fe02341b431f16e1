"""Tiers 4 and 5: what must hold of a model that is ready to ship, of each of its exported files, and of it and its data as time goes by."""

from __future__ import annotations

from harness.catalogue.entry import DIFFERENCE, Case, Property
from harness.formats import Format


def _every(_format: type[Format]) -> bool:
    return True


def _holds_computation(format: type[Format]) -> bool:
    return format.kind == "computation"


def _is_quantised(format: type[Format]) -> bool:
    return bool(format.quantised_from)


def _is_not_quantised(format: type[Format]) -> bool:
    return not format.quantised_from


EXPORT = (
    Property(
        "architecture_validation",
        4,
        "The model has modules and a forward, all of them in eval mode",
        "harness.export.checks.models:architecture_validation",
    ),
    Property(
        "parameter_validation",
        4,
        "No parameter or buffer holds NaN or infinity",
        "harness.export.checks.models:parameter_validation",
    ),
    Property(
        "shape_validation",
        4,
        "Logits have the promised shape at several batch sizes",
        "harness.export.checks.models:shape_validation",
        owned_by=("shape_contract",),
    ),
    Property(
        "memory_requirements",
        4,
        "Parameters and one call fit into a gigabyte",
        "harness.export.checks.models:memory_requirements",
    ),
    Property(
        "forward_pass_validation",
        4,
        "Forward gives finite logits at several batch sizes",
        "harness.export.checks.models:forward_pass_validation",
        owned_by=("parameter_validation", "finite_output"),
    ),
    Property(
        "exports",
        4,
        "The model exports, and the file is the one that was exported",
        "harness.export.checks.files:exports_to",
        formats=_every,
    ),
    Property(
        "validation",
        4,
        "The file is whole, well formed, of the opset asked for, and gives finite logits",
        "harness.export.checks.files:validation",
        formats=_every,
    ),
    Property(
        "fresh_process",
        4,
        "A process that never saw the exporter loads the file and gets the same logits",
        "harness.export.checks.files:fresh_process",
        formats=_every,
    ),
    Property(
        "numerical_consistency",
        4,
        "The file gives the model's logits at shapes its exporter never saw",
        "harness.export.checks.numerical_consistency:numerical_consistency",
        DIFFERENCE,
        formats=_is_not_quantised,
    ),
    Property(
        "dynamic_axes",
        4,
        "Every axis declared free takes every size it was declared for",
        "harness.export.checks.files:dynamic_axes",
        formats=_holds_computation,
    ),
    Property(
        "inference_mode",
        4,
        "No active Dropout and no norm over the batch is left in the file",
        "harness.export.checks.files:inference_mode",
        formats=_holds_computation,
        owned_by=("eval_deterministic",),
    ),
    Property(
        "invalid_input",
        4,
        "The file refuses what the model refuses",
        "harness.export.checks.invalid_input:invalid_input",
        formats=_holds_computation,
    ),
    Property(
        "quantisation",
        4,
        "The quantised file keeps the model's answers and is no slower",
        "harness.export.checks.performance:quantisation",
        "decibels of signal over quantisation noise that the logits must keep",
        formats=_is_quantised,
    ),
    Property(
        "performance_benchmark",
        4,
        "The file is no slower than the model itself",
        "harness.export.checks.performance:performance_benchmark",
        "milliseconds that the file's median call may take",
        formats=_every,
    ),
)


MONITORING = (
    Property(
        "evaluation",
        5,
        "The metrics on the evaluation data are finite and within the config's thresholds",
        "harness.monitoring.checks:evaluation",
        owned_by=("harm",),
    ),
    Property(
        "baseline_regression",
        5,
        "The model is not worse than its baseline on the same samples",
        "harness.monitoring.checks:baseline_regression",
    ),
    Property(
        "drift",
        5,
        "The data is distributed as the reference profile's",
        "harness.monitoring.checks:drift",
        cases={
            "inputs": Case("The inputs are distributed as in the reference profile"),
            "labels": Case(
                "The labels are distributed as in the reference profile", needs=lambda task: not task.has_inputs_as_labels
            ),
            "outputs": Case("The model's outputs are distributed as in the reference profile", owned_by=("drift[inputs]",)),
            "scores": Case(
                "The model makes no more mistakes, nor graver ones, than in the reference profile",
                needs=lambda task: not task.has_random_labels,
                owned_by=("harm",),
            ),
        },
    ),
    Property(
        "harm",
        5,
        "The model is as often right as on the reference, as far as labels or its confidence tell",
        "harness.monitoring.checks:harm",
        needs=lambda task: task.signature.has_one_answer,
    ),
)

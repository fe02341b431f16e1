"""Tier 5: what must hold of a model and its data as time goes by."""

from __future__ import annotations

from harness.catalogue.entry import Case, Property

MONITORING = (
    Property(
        "evaluation",
        5,
        "The metrics on the evaluation data are finite and within the config's thresholds",
        "harness.monitoring.checks:evaluation",
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
            "outputs": Case("The model's outputs are distributed as in the reference profile"),
            "scores": Case(
                "The model makes no more mistakes, nor graver ones, than in the reference profile",
                needs=lambda task: not task.has_random_labels,
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

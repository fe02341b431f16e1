"""Tier 1, continued: what must hold of a model in train mode, and at contents that are rare."""

from __future__ import annotations

from harness.catalogue import facts
from harness.catalogue.entry import DIFFERENCE, GRADIENTS, SECOND, Case, Property

MODES = (
    Property(
        "train_mode",
        1,
        "Train mode trains the function that eval mode computes, whatever the padding, and with activation checkpointing too",
        tolerance=DIFFERENCE,
        memory=GRADIENTS,
        cases={
            "equals_eval": Case(
                "Without dropout, and with norms fixed, train mode gives the logits of eval mode",
                "harness.properties.train_mode:equals_eval",
                owned_by=("eval_deterministic", "stateless", "adapter_layers[merged]"),
            ),
            "after_eval": Case(
                "An eval pass leaves training as it was",
                "harness.properties.train_mode:after_eval",
                owned_by=("eval_deterministic", "stateless"),
            ),
            "statistics": Case(
                "Statistics of the batches lead eval mode to where train mode is",
                "harness.properties.running_statistics:statistics_settle",
                owned_by=("train_mode[equals_eval]",),
            ),
            "padding": Case(
                "In train mode padding changes neither outputs, running statistics, loss nor gradients",
                "harness.properties.padding_in_training:padding_in_training",
                needs=facts.padded,
                owned_by=("padding_ignored",),
                memory=SECOND,
            ),
            "checkpointing": Case(
                "The model's own activation checkpointing gives the same loss, gradients and statistics",
                "harness.properties.checkpointing:same_with_checkpointing",
                owned_by=("eval_deterministic",),
                sign=facts.CHECKPOINTING,
                memory=SECOND,
            ),
        },
    ),
    Property(
        "rare_contents",
        1,
        "Contents that are rare and allowed are read and trained as others",
        cases={
            "padding_id": Case(
                "A token with the id of padding that a mask or lengths say is real is read",
                "harness.properties.contents:padding_id_is_read",
                needs=facts.masked_padding_id,
                owned_by=("padding_ignored",),
            ),
            "flat_rows": Case(
                "A row whose numbers are all the same teaches the model",
                "harness.properties.contents:flat_rows_are_taught",
                needs=facts.numbers,
                owned_by=("gradient_flow",),
            ),
        },
    ),
)

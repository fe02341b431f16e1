"""Tier 2: what must hold inside a model."""

from __future__ import annotations

from harness.catalogue.entry import DIFFERENCE, FLOAT64, SECOND, Case, Property

ANALYSIS = (
    Property(
        "attention_patterns",
        2,
        "Attention weights follow their mask and their softmax, head by head",
        cases={
            "rows_sum_to_one": Case(
                "Each query's attention weights are a distribution",
                "harness.analysis.attention_patterns:rows_sum_to_one",
                owned_by=("batch_independence[forward]",),
            ),
            "causal": Case(
                "No head attends to a later position",
                "harness.analysis.attention_patterns:causal",
                needs=lambda task: any(task.signature.with_order("causal")),
                owned_by=("causal",),
            ),
            "padding": Case(
                "No head attends to padding",
                "harness.analysis.attention_patterns:padding",
                needs=lambda task: bool(task.signature.visible_padding),
                owned_by=("padding_ignored",),
            ),
            "collapsed_heads": Case(
                "No two heads of a layer attend alike, and none ignores its input",
                "harness.analysis.attention_patterns:collapsed_heads",
            ),
        },
    ),
    Property(
        "attribution",
        2,
        "The gradients at the input, integrated, add up to the change of the output",
        "harness.analysis.attribution:attribution",
        owned_by=("gradcheck",),
    ),
    Property(
        "robustness",
        2,
        "The output is robust to small noise and does not hang on a single input",
        cases={
            "noise": Case("Small noise on the input changes the output only a little", "harness.analysis.robustness:noise"),
            "masking": Case(
                "The output does not hang on a single token, channel or feature", "harness.analysis.robustness:masking"
            ),
            "adversarial_step": Case(
                "A step along the gradient changes the output more than a random step",
                "harness.analysis.robustness:adversarial_step",
                # Features are put into bins by design, whose edges no gradient knows.
                needs=lambda task: not all(each.is_flat for each in task.signature.inputs),
                owned_by=("robustness[noise]", "attribution"),
            ),
        },
    ),
    Property(
        "dead_units",
        2,
        "Every unit responds to its input",
        cases={
            "dead": Case("No unit is silent whatever the input", "harness.analysis.units:dead"),
            "saturated": Case("No unit is saturated whatever the input", "harness.analysis.units:saturated"),
        },
    ),
    Property(
        "representation_rank",
        2,
        "Hidden states and logits distinguish inputs",
        "harness.analysis.representation_rank:representation_rank",
        needs=lambda task: task.signature.has_examples,
    ),
    Property(
        "half_precision",
        2,
        "In half precision the logits agree within its rounding",
        tolerance=DIFFERENCE,
        cases={
            "float16": Case("In float16 the logits agree within its rounding", "harness.analysis.half_precision:float16"),
            "bfloat16": Case("In bfloat16 the logits agree within its rounding", "harness.analysis.half_precision:bfloat16"),
            "autocast": Case("Under autocast the logits agree within its rounding", "harness.analysis.half_precision:autocast"),
        },
        owned_by=("dtype_move",),
        memory=SECOND,
    ),
    Property(
        "attention_kernels",
        2,
        "Every way to compute attention gives the same logits",
        "harness.analysis.attention_kernels:attention_kernels",
        DIFFERENCE,
    ),
    Property(
        "compiled",
        2,
        "torch.compile gives the same logits and gradients",
        "harness.analysis.compiled:compiled",
        DIFFERENCE,
        memory=SECOND,
        marks=("slow",),
    ),
    Property(
        "gradcheck", 2, "Gradients are the derivatives of the output", "harness.analysis.gradcheck:gradcheck", memory=FLOAT64
    ),
    Property(
        "calibration",
        2,
        "The confidence of a trained model says how often it is right",
        "harness.analysis.calibration:calibration",
        "allowed root mean square difference between confidence and accuracy, between 0 and 1",
        needs=lambda task: task.signature.main.has_class_scores,
    ),
)

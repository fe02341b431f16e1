"""Tier 1: what must hold of any model before it is worth training."""

from __future__ import annotations

from harness.catalogue import facts
from harness.catalogue.entry import DIFFERENCE, FLOAT64, GRADIENTS, Case, FurtherOutputs, Property, Search
from harness.catalogue.in_use import RESOURCES, SAVING

_WRITES = ("inputs_unchanged",)

CRITICAL = (
    Property(
        "shape_contract",
        1,
        "Logits have the promised shape at every batch size, length and image size",
        "harness.properties.contracts:shape_contract",
        search=Search("shapes", examples=7, anchors_first=True),
    ),
    Property(
        "full_length",
        1,
        "The model works at the whole declared length",
        "harness.properties.contracts:full_length",
        needs=facts.longest,
        search=Search(given=({"batch": 1}, {"batch": 3})),
    ),
    Property(
        "full_vocabulary",
        1,
        "Every token id of the vocabulary can be read and predicted",
        "harness.properties.vocabulary:full_vocabulary",
        needs=facts.ids,
        owned_by=_WRITES,
    ),
    Property(
        "finite_output",
        1,
        "Logits are finite, at typical and at extreme inputs",
        cases={
            "typical": Case(
                "Logits are finite at typical inputs",
                "harness.properties.numerics:finite_output",
                search=Search(
                    "batches",
                    examples=2,
                    anchors_first=True,
                    outputs=FurtherOutputs(function="harness.properties.outputs:finite_further_output"),
                ),
            ),
            "extremes": Case(
                "Logits are finite at extreme inputs",
                "harness.properties.numerics:finite_at_extremes",
                search=Search("batches", examples=5, outputs=FurtherOutputs(declared=True)),
            ),
            "fully_padded_row": Case(
                "A row that is all padding makes neither logits nor gradients NaN",
                "harness.properties.numerics:fully_padded_row",
                needs=facts.empty_rows,
                search=Search("several_rows", examples=4, outputs=FurtherOutputs(declared=True)),
                memory=GRADIENTS,
            ),
        },
    ),
    Property(
        "eval_deterministic",
        1,
        "In eval mode the same input gives the same logits",
        "harness.properties.determinism:eval_deterministic",
        DIFFERENCE,
        search=Search("batches", examples=1, anchors_first=True, outputs=FurtherOutputs()),
    ),
    Property(
        "batch_independence",
        1,
        "A row's logits and gradients do not depend on the other rows of its batch",
        tolerance=DIFFERENCE,
        needs=facts.apart,
        cases={
            "forward": Case(
                "A row's logits do not depend on the other rows of its batch",
                "harness.properties.independence:batch_independence",
                search=Search("several_rows", examples=4, corner="largest_sizes", outputs=FurtherOutputs("by_row")),
            ),
            "gradient": Case(
                "A row's gradient does not reach the other rows of its batch",
                "harness.properties.gradients_of_rows:gradient_independence",
                needs=facts.rows,
                owned_by=("batch_independence[forward]",),
                search=Search(
                    "several_rows", examples=3, corner="largest_cheap_sizes", outputs=FurtherOutputs("by_row", declared=True)
                ),
                memory=GRADIENTS,
            ),
        },
    ),
    Property(
        "declared_outputs",
        1,
        "Every declared output is there, with the shape, range and length that are promised",
        "harness.properties.promises:declared_outputs",
        needs=facts.declared,
        owned_by=("shape_contract",),
        search=Search("batches", anchors_first=True),
    ),
    Property(
        "symmetric_inputs",
        1,
        "Swapping inputs that are declared symmetric changes nothing",
        "harness.properties.promises:symmetric_inputs",
        DIFFERENCE,
        needs=facts.symmetric,
        search=Search("batches", examples=6),
    ),
    Property(
        "permutation",
        1,
        "Another order of a set's elements gives the outputs in that order, and the same outputs elsewhere",
        "harness.properties.promises:permutation",
        DIFFERENCE,
        needs=facts.sets,
        search=Search("batches", examples=8),
    ),
    Property(
        "duplicates",
        1,
        "Repeating an element of a set changes nothing",
        "harness.properties.promises:duplicates",
        DIFFERENCE,
        needs=facts.duplicates,
        search=Search("batches", examples=6),
    ),
    Property(
        "optional_inputs",
        1,
        "Forward works with and without each optional input",
        tolerance=DIFFERENCE,
        needs=facts.optional,
        cases={
            "left_out": Case(
                "Without optional inputs the outputs have their shape and are finite",
                "harness.properties.optional_inputs:works_without",
                search=Search("batches", examples=5),
            ),
            "full_mask": Case(
                "A mask that hides nothing gives what no mask gives",
                "harness.properties.optional_inputs:full_mask_is_none",
                needs=facts.optional_mask,
                search=Search("batches", examples=5),
            ),
        },
    ),
    Property(
        "carried_state",
        1,
        "A call that continues from the state of an earlier one gives what one call gives",
        tolerance=DIFFERENCE,
        needs=facts.state,
        cases={
            "shape": Case(
                "States have their declared shape, and forward takes what it returned",
                "harness.properties.carried_state:state_shape",
                search=Search("batches", examples=4),
            ),
            "chunks": Case(
                "A call that is cut into pieces gives what the whole gives",
                "harness.properties.carried_state:chunks_equal_whole",
                needs=facts.chunks,
                owned_by=("causal", "stateless"),
                search=Search("several_tokens", examples=6, corner="largest_sizes"),
            ),
            "requests": Case(
                "Another request between two calls changes nothing",
                "harness.properties.carried_state:requests_apart",
                owned_by=("stateless",),
                search=Search("batches", examples=3),
            ),
            "used": Case(
                "A call depends on the state it continues from",
                "harness.properties.carried_state:state_is_used",
                owned_by=("carried_state[chunks]",),
                search=Search("several_rows", examples=2),
            ),
        },
    ),
    Property(
        "causal",
        1,
        "A position's logits never depend on later tokens",
        "harness.properties.causality:causality",
        DIFFERENCE,
        needs=facts.causal,
        owned_by=("reshaped_axes",),
        search=Search(
            "several_tokens",
            examples=5,
            corner="longest_sizes",
            outputs=FurtherOutputs("by_position", "harness.properties.outputs:further_causality"),
        ),
    ),
    Property(
        "padding_ignored",
        1,
        "Padding changes nothing at the real positions",
        "harness.properties.padding:padding_ignored",
        DIFFERENCE,
        needs=facts.padded,
        owned_by=("causal",),
        search=Search(
            "pad_patterns",
            examples=4,
            corner="largest_padding",
            outputs=FurtherOutputs("by_padding", declared=True, at="largest_padding"),
        ),
    ),
    Property(
        "input_dependence",
        1,
        "The output depends on every input it should",
        cases={
            "tokens": Case(
                "The output depends on every token",
                "harness.properties.dependence:depends_on_tokens",
                needs=facts.text,
                owned_by=_WRITES,
            ),
            "context": Case(
                "A position's logits depend on the tokens around it",
                "harness.properties.dependence:depends_on_context",
                needs=facts.positions,
            ),
            "order": Case(
                "The output depends on the order of the tokens",
                "harness.properties.dependence:depends_on_order",
                needs=facts.positions_of_one_text,
            ),
            "source": Case(
                "The output depends on every source token",
                "harness.properties.dependence:depends_on_source",
                needs=facts.source,
                owned_by=_WRITES,
            ),
            "channels": Case(
                "The scores depend on every channel",
                "harness.properties.dependence:depends_on_channels",
                needs=facts.image,
            ),
            "regions": Case(
                "The scores depend on every quarter of the image",
                "harness.properties.dependence:depends_on_regions",
                needs=facts.image,
            ),
            "inputs": Case(
                "Some output depends on each input, part by part, and each output on some input",
                "harness.properties.input_parts:depends_on_inputs",
                needs=facts.declared_inputs,
            ),
            "features": Case(
                "The output depends on every feature",
                "harness.properties.dependence:depends_on_features",
                needs=facts.features,
            ),
        },
    ),
    Property(
        "reshaped_axes",
        1,
        "Reshapes split and merge axes: none gives an axis the place of another",
        "harness.properties.reshaped_axes:reshaped_axes",
        owned_by=("batch_independence[forward]",),
    ),
    Property(
        "gradient_flow",
        1,
        "Every trainable parameter receives a gradient, and every gradient is finite",
        memory=GRADIENTS,
        cases={
            "reaches_every_parameter": Case(
                "Every trainable parameter receives a gradient", "harness.properties.gradients:gradient_reaches"
            ),
            "finite": Case(
                "Every gradient is finite, at typical and at extreme inputs",
                "harness.properties.numerics:finite_gradients",
                search=Search("training_steps", examples=3, first=("harness.properties.numerics:finite_gradients_by_content",)),
            ),
        },
    ),
    Property(
        "logit_range",
        1,
        "Class scores may take any value: no ReLU, softmax or sigmoid follows the last layer",
        "harness.properties.score_range:logit_range",
        needs=facts.scores,
        search=Search(outputs=FurtherOutputs("is_score", declared=True)),
    ),
    Property(
        "registration",
        1,
        "Every parameter, module and tensor the model uses is registered with it",
        "harness.properties.state:registration",
    ),
    Property(
        "initialisation",
        1,
        "Fresh weights break symmetry, keep signals in range, and start at the loss of a uniform guess",
        tolerance="how far the first loss may be above that of a uniform guess, in nats (case `loss`)",
        memory=GRADIENTS,
        cases={
            "loss": Case(
                "Training starts at the loss of a uniform guess",
                "harness.properties.initialisation:initial_loss",
                needs=facts.class_scores,
            ),
            "symmetry": Case("No two units start equal and stay equal", "harness.properties.initialisation:symmetry"),
            "scale": Case("Signals are in range and distinguish inputs", "harness.properties.initialisation:signal_scale"),
            "applied": Case(
                "What a model has to initialise its weights reaches them", "harness.properties.applied_initialisation:applied"
            ),
            "depth": Case("Signals and gradients keep their scale over depth", "harness.properties.signal_growth:over_depth"),
            "time": Case(
                "Gradients do not grow on their way back through time",
                "harness.properties.signal_growth:over_time",
                needs=facts.causal,
            ),
        },
    ),
    Property(
        "mode_round_trip",
        1,
        "train() and eval() reach every module, and switching back and forth changes nothing",
        "harness.properties.determinism:mode_round_trip",
        DIFFERENCE,
        owned_by=("serialisation", "stateless"),
        search=Search("several_rows", examples=2),
    ),
    Property(
        "stateless",
        1,
        "A call does not change the result of the next one",
        "harness.properties.determinism:stateless",
        DIFFERENCE,
        owned_by=_WRITES,
        search=Search(
            given=(),
            first=("harness.properties.state:leaves_the_process", "harness.properties.determinism:repeated_backward"),
            corner="typical_then_largest",
            outputs=FurtherOutputs(declared=True, at="typical_then_largest"),
        ),
        memory=GRADIENTS,
    ),
    Property(
        "rng_untouched",
        1,
        "forward neither seeds nor, in eval mode, consumes the global random state",
        "harness.properties.determinism:rng_untouched",
        owned_by=("eval_deterministic",),
        memory=GRADIENTS,
        search=Search("several_rows", examples=1),
    ),
    Property(
        "inputs_unchanged",
        1,
        "forward does not write into the tensors it is given",
        "harness.properties.contracts:inputs_unchanged",
        search=Search("several_rows", examples=2),
    ),
    Property(
        "memory_layout",
        1,
        "The same values in another memory layout give the same logits",
        "harness.properties.contracts:memory_layout",
        DIFFERENCE,
        owned_by=_WRITES,
        search=Search(given=(), corner="largest_cheap_sizes"),
    ),
    Property(
        "dtype_move",
        1,
        "The model runs after a move to another floating dtype",
        "harness.properties.device_and_dtype:dtype_move",
        cases={
            dtype: Case(f"The model runs in {dtype}", search=Search(given=({"dtype": dtype},)), memory=memory)
            for dtype, memory in (("float64", FLOAT64), ("bfloat16", ""), ("float16", ""))
        },
    ),
    Property(
        "device_move", 1, "The model runs after a move to another device", "harness.properties.device_and_dtype:device_move"
    ),
    *SAVING,
    *RESOURCES,
)

"""Tier 1, continued: what must hold of a model as it is used: saved and loaded, in train mode, at rare contents, and writing a text."""

from __future__ import annotations

from harness.catalogue import facts
from harness.catalogue.entry import DIFFERENCE, GRADIENTS, SECOND, Case, Property, Search

_UNSAVED = ("serialisation[state_dict]",)

SAVING = (
    Property(
        "serialisation",
        1,
        "Saved, pickled and copied models give the same logits, and tied weights stay tied",
        tolerance=DIFFERENCE,
        memory=SECOND,
        cases={
            "state_dict": Case(
                "A second instance with the saved state dict gives the same logits",
                "harness.properties.loading:state_dict_round_trip",
            ),
            "pickle": Case("A pickled copy gives the same logits", "harness.properties.state:pickle_round_trip"),
            "deepcopy": Case(
                "A deep copy gives the same logits and shares nothing", "harness.properties.state:deepcopy_independent"
            ),
            "tied_weights": Case(
                "Tied weights stay tied through copies, moves and loading",
                "harness.properties.state:tied_weights",
                owned_by=_UNSAVED,
            ),
            "assign": Case(
                "load_state_dict(assign=True) gives the same logits",
                "harness.properties.loading:assigned_state_dict",
                owned_by=_UNSAVED,
            ),
            "meta": Case(
                "Built on the meta device, and loaded, a model gives the same logits",
                "harness.properties.meta_loading:built_on_meta",
                owned_by=_UNSAVED,
            ),
            "dtype": Case(
                "A state dict in another dtype gives its values, and leaves the model in its own dtype",
                "harness.properties.loading:other_dtype",
                owned_by=_UNSAVED,
            ),
            "after_training": Case(
                "A model that was trained, saved and loaded answers and trains on as the one that was saved",
                "harness.properties.resuming:after_training",
                owned_by=_UNSAVED,
            ),
            "own_methods": Case(
                "What save_pretrained or a Lightning checkpoint saves gives the same logits once loaded",
                "harness.properties.own_formats:own_methods",
                owned_by=("serialisation[state_dict]", "serialisation[meta]"),
                sign=facts.OWN_FORMAT,
            ),
            "partial": Case(
                "A file in which a weight is missing is refused, or the loss is told",
                "harness.properties.partial_files:missing_weights_are_told",
                owned_by=(*_UNSAVED, *(f"serialisation[{case}]" for case in ("own_methods", "tied_weights", "dtype"))),
                sign=facts.OWN_LOADING,
            ),
            "resized": Case(
                "resize_token_embeddings leaves the known tokens, and ties, as they were",
                "harness.properties.own_formats:resized_vocabulary",
                needs=facts.ids,
                sign=facts.RESIZING,
            ),
        },
    ),
    Property(
        "adapter_layers",
        1,
        "Adapters on frozen weights (LoRA and the like) do the same merged, disabled, trained and saved",
        tolerance=DIFFERENCE,
        memory=GRADIENTS,
        sign=facts.ADAPTERS,
        cases={
            "merged": Case(
                "Adapters merged into the weights give the same logits, and unmerging restores them",
                "harness.properties.adapter_layers:merged_equals_unmerged",
                owned_by=("mode_round_trip",),
            ),
            "disabled": Case(
                "Adapters that are switched off leave the base model",
                "harness.properties.adapter_layers:disabled_is_base",
            ),
            "trained": Case(
                "Training changes adapters, and nothing that is frozen",
                "harness.properties.adapter_training:only_adapters_move",
                owned_by=("gradient_flow[reaches_every_parameter]",),
            ),
            "saved": Case(
                "Saved adapters, loaded over the same base model, give the same logits",
                "harness.properties.adapter_training:saved_adapters_load",
                owned_by=(
                    "adapter_layers[merged]",
                    "adapter_layers[trained]",
                    "serialisation[state_dict]",
                    "serialisation[after_training]",
                ),
            ),
        },
    ),
)


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
            "own_answers": Case(
                "The model's own `predict` leaves the mode as it was, and answers each row alike in both modes",
                "harness.properties.own_answers:own_answers",
                owned_by=("eval_deterministic", "stateless", "batch_independence"),
                sign=facts.OWN_ANSWERS,
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


DECODING = (
    Property(
        "decoding",
        1,
        "A text gives the same in one call, token by token with a cache, padded on the left in a batch, and by `generate`",
        tolerance=DIFFERENCE,
        needs=facts.read_along,
        cases={
            "cache": Case(
                "Token by token with the model's own cache, a text gives what it gives in one call",
                "harness.properties.decoding.pieces:cache_equals_whole",
                needs=facts.stateless,
                owned_by=("causal", "stateless"),
                sign=facts.CACHE,
                search=Search("several_tokens", examples=3, corner="longest_sizes"),
            ),
            "requests": Case(
                "A text gives the same whatever was read with the cache before",
                "harness.properties.decoding.pieces:another_request",
                needs=facts.stateless,
                owned_by=("stateless", "decoding[cache]"),
                sign=facts.CACHE,
                search=Search("several_tokens", examples=2),
            ),
            "left_padding": Case(
                "A row that is padded on the left in a batch gives what it gives alone, with a cache too",
                "harness.properties.decoding.left_padding:left_padding_ignored",
                needs=facts.masked_text,
                owned_by=("causal", "padding_ignored", "decoding[cache]"),
                sign=facts.CACHE_OR_GENERATE,
                search=Search("several_tokens", examples=2, corner="largest_sizes"),
            ),
            "generate": Case(
                "Each token that `generate` writes is the likeliest by one call of what stands before it",
                "harness.properties.decoding.generation:greedy_is_likeliest",
                needs=facts.written,
                owned_by=("causal", "batch_independence[forward]", "decoding[cache]", "decoding[left_padding]"),
                sign=facts.GENERATE,
            ),
        },
    ),
)


RESOURCES = (
    Property(
        "memory_footprint",
        1,
        "Memory is bounded and does not grow from call to call",
        "harness.properties.resources:memory_footprint",
        "MiB that one call may hold at its peak",
        memory=GRADIENTS,
    ),
    Property(
        "inference_speed",
        1,
        "Work does not grow from call to call",
        "harness.properties.resources:inference_speed",
        "milliseconds that the median call may take",
    ),
)

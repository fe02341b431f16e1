"""Tier 1: what must hold of a model that is saved, loaded and copied."""

from __future__ import annotations

from harness.catalogue import facts
from harness.catalogue.entry import BOTH, DIFFERENCE, GRADIENTS, SECOND, Case, Property

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
                "harness.properties.ties:tied_weights",
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
                memory=BOTH,
            ),
            "after_training": Case(
                "A model that was trained, saved and loaded answers and trains on as the one that was saved",
                "harness.properties.resuming:after_training",
                owned_by=_UNSAVED,
                memory=BOTH,
            ),
            "own_methods": Case(
                "What save_pretrained or a Lightning checkpoint saves gives the same logits once loaded",
                "harness.properties.own_formats:own_methods",
                owned_by=("serialisation[state_dict]", "serialisation[meta]"),
                sign=facts.OWN_FORMAT,
            ),
            "resized": Case(
                "resize_token_embeddings leaves the known tokens, and ties, as they were",
                "harness.properties.own_formats:resized_vocabulary",
                needs=facts.text,
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

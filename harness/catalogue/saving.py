"""Tier 1: what must hold of a model that is saved, loaded and copied."""

from __future__ import annotations

from harness.catalogue.entry import DIFFERENCE, Case, Property

SAVING = (
    Property(
        "serialisation",
        1,
        "Saved, pickled and copied models give the same logits, and tied weights stay tied",
        tolerance=DIFFERENCE,
        cases={
            "state_dict": Case(
                "A second instance with the saved state dict gives the same logits",
                "harness.properties.state:state_dict_round_trip",
            ),
            "pickle": Case("A pickled copy gives the same logits", "harness.properties.state:pickle_round_trip"),
            "deepcopy": Case(
                "A deep copy gives the same logits and shares nothing", "harness.properties.state:deepcopy_independent"
            ),
            "tied_weights": Case(
                "Tied weights stay tied through copies, moves and loading", "harness.properties.state:tied_weights"
            ),
        },
    ),
)

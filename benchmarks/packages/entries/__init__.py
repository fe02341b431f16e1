"""The entries of the board, a file a family of packages or of tasks."""

from __future__ import annotations

from packages.entries import (
    graphs,
    image_models,
    image_to_image,
    language_models,
    several_inputs,
    sound_and_series,
    table_models,
    transformers_models,
    waiting,
)
from packages.entry import Entry

ENTRIES: tuple[Entry, ...] = (
    *image_models.ENTRIES,
    *transformers_models.ENTRIES,
    *language_models.ENTRIES,
    *table_models.ENTRIES,
    *image_to_image.ENTRIES,
    *graphs.ENTRIES,
    *sound_and_series.ENTRIES,
    *several_inputs.ENTRIES,
    *waiting.ENTRIES,
)
"""All entries."""

"""The entries of the board, a file a family of packages."""

from __future__ import annotations

from packages.entries import image_models, language_models, table_models, transformers_models, waiting
from packages.entry import Entry

ENTRIES: tuple[Entry, ...] = (
    *image_models.ENTRIES,
    *transformers_models.ENTRIES,
    *language_models.ENTRIES,
    *table_models.ENTRIES,
    *waiting.ENTRIES,
)
"""All entries."""

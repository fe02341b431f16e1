"""Tier 1: what must hold of models that write a text token by token."""

from __future__ import annotations

from harness.catalogue import facts
from harness.catalogue.entry import DIFFERENCE, Case, Property, Search

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
                search=Search("several_tokens", examples=3, corner="largest_sizes"),
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

"""The sentences of ``cls_tiny_v1``: each is about food, music, sport or the weather.

Some words belong to one topic, some to two, and most sentences begin and end in words that all topics share, so that the first word is
not enough.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from harness.data.grammar import draw

WHO = ("the children", "my friends", "we", "they")
WHEN = ("today", "every day", "in the morning", "at night", "again")

WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "food": {
        "do": ("bake", "eat", "cook", "taste"),
        "thing": ("bread", "soup", "cheese", "an apple", "fish"),
        "is": ("sweet", "warm", "fresh"),
    },
    "music": {
        "do": ("sing", "play", "hear", "learn"),
        "thing": ("a song", "the drum", "the piano", "a tune"),
        "is": ("loud", "sweet", "soft"),
    },
    "sport": {
        "do": ("win", "play", "watch", "lose"),
        "thing": ("the match", "the race", "a game", "football"),
        "is": ("fast", "hard", "close"),
    },
    "weather": {
        "do": ("watch", "see", "hear", "feel"),
        "thing": ("the rain", "the wind", "the snow", "the sun"),
        "is": ("cold", "warm", "grey", "soft"),
    },
}
TEMPLATES = (
    "{who} {do} {thing} {when} .",
    "{when} {who} {do} {thing} .",
    "{thing} is {is_} {when} , and {who} {do} it .",
    "{who} like it when {thing} is {is_} .",
    "is {thing} {is_} {when} ?",
)


def sentence_about(topic: str) -> Callable[[Random], str]:
    """What composes a sentence about a topic."""
    words = WORDS[topic]

    def compose(rng: Random) -> str:
        return draw(rng, TEMPLATES).format(
            who=draw(rng, WHO),
            when=draw(rng, WHEN),
            do=draw(rng, words["do"]),
            thing=draw(rng, words["thing"]),
            is_=draw(rng, words["is"]),
        )

    return compose

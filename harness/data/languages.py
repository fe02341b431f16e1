"""The pairs of ``seq2seq_tiny_v1``: simple English, and the same in Tilo, a language made up for this project.

Tilo has no article, puts the adjective behind its noun, the verb at the end and the time at the very end. A translator must learn the
words, and where in the source to look.
"""

from __future__ import annotations

from random import Random

from harness.data.grammar import draw, draw_two

NOUNS = {
    "cat": "mika",
    "dog": "burro",
    "bird": "piri",
    "child": "lelo",
    "fish": "suvi",
    "tree": "tallo",
    "house": "koda",
    "stone": "gran",
    "flower": "fiola",
    "boat": "vena",
}
ADJECTIVES = {"small": "ti", "big": "gol", "old": "vanu", "new": "nua", "white": "alba", "black": "nok"}
VERBS = {"sees": "vidas", "likes": "amas", "finds": "trovas", "follows": "sekvas", "paints": "kolos", "needs": "nidas"}
TIMES = {"today": "oda", "often": "multe", "now": "nu"}


def pair(rng: Random) -> tuple[str, str]:
    """An English sentence and its translation, words and full stops with a space between."""
    subject, thing = draw_two(rng, tuple(NOUNS))
    verb = draw(rng, tuple(VERBS))
    first, second, time = (_perhaps(rng, words) for words in (ADJECTIVES, ADJECTIVES, TIMES))
    english = ("the", first, subject, verb, "the", second, thing, time, ".")
    tilo = (
        NOUNS[subject],
        ADJECTIVES.get(first, ""),
        NOUNS[thing],
        ADJECTIVES.get(second, ""),
        VERBS[verb],
        TIMES.get(time, ""),
        ".",
    )
    return " ".join(filter(None, english)), " ".join(filter(None, tilo))


def _perhaps(rng: Random, words: dict[str, str]) -> str:
    """One of the words, or half of the time none."""
    return draw(rng, tuple(words)) if rng.random() < 0.5 else ""

"""The built-in datasets: made here, small, and the same to the byte on every machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import shake_256
from random import Random
from typing import TypeVar

import numpy as np
import torch

from harness.data import Record, RecordList, SizedSource
from harness.data.tokens import IdSpace, SymbolTokenizer
from harness.errors import DataError, did_you_mean
from harness.tasks import TaskSpec

ROWS = {"train": 800, "validation": 100, "test": 100}
"""The splits, and how many rows each has."""

SMALLEST_VOCABULARY = 16
"""With fewer ids most words would be the unknown one."""


def default_dataset(task: TaskSpec) -> str | None:
    """The built-in set made for a task, or ``None`` where there is none."""
    return next(iter(task.facts.datasets), None)


def class_names(dataset_id: str) -> tuple[str, ...]:
    """The classes of a built-in set in the order of their ids."""
    return {"cls_tiny_v1": tuple(sorted(TOPIC_WORDS)), "vision_tiny_v1": tuple(SHAPES)}.get(dataset_id, ())


def builtin_source(dataset_id: str, task: TaskSpec, split: str) -> SizedSource:
    """The rows of a split.

    Args:
        dataset_id: One of ``harness.config_values.DATASETS``.
        task: What they are for; a task with fewer classes than the set gets the rows of its first ones.
        split: ``train``, ``validation`` or ``test``.

    Raises:
        DataError: There is no such split, or the set is not made for the task.
    """
    if split not in ROWS:
        raise DataError(f"`split`: {dataset_id} has no split {split!r}.{did_you_mean(split, ROWS)} It has {', '.join(ROWS)}")
    if dataset_id not in task.facts.datasets:
        fitting = default_dataset(task)
        instead = f"`dataset_id` {fitting!r}" if fitting else "your own file by `path`"
        raise DataError(f"`dataset_id`: {dataset_id} has no rows for {task.title}; give {instead}")
    if dataset_id == "vision_tiny_v1":
        assert task.image_size is not None
        return ShapeSource(dataset_id, f"{dataset_id}:{split}", ROWS[split], task.image_size, task.num_classes or len(SHAPES))
    rows = _SPLITTERS[dataset_id]()[split]
    if task.num_classes and task.is_text:
        rows = [row for row in rows if row["label"] in class_names(dataset_id)[: task.num_classes]]
    return RecordList(dataset_id, [Record(f"{dataset_id}, row {number}", row) for number, row in enumerate(rows, 1)])


def builtin_tokenizer(dataset_id: str, task: TaskSpec) -> SymbolTokenizer:
    """The words of a set's training split, the most frequent ones where the vocabulary is smaller.

    Raises:
        DataError: The vocabulary is smaller than any sense can be made of.
    """
    if (task.vocab_size or 0) < SMALLEST_VOCABULARY:
        raise DataError(f"`vocab_size` {task.vocab_size}: {dataset_id} needs {SMALLEST_VOCABULARY} ids or more")
    texts = (text for row in _SPLITTERS[dataset_id]()["train"] for name, text in row.items() if name != "label")
    return SymbolTokenizer.trained("words", IdSpace.of(task), texts)


def _split(rows: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    """Deals rows out to the splits."""
    left = iter(rows)
    return {split: [next(left) for _ in range(count)] for split, count in ROWS.items()}


@cache
def _stories() -> dict[str, list[dict[str, str]]]:
    return _split([{"text": text} for text in distinct(story, sum(ROWS.values()), "lm_tiny_v1")])


@cache
def _topics() -> dict[str, list[dict[str, str]]]:
    names = sorted(TOPIC_WORDS)
    each = sum(ROWS.values()) // len(names)
    sentences = [distinct(sentence_about(name), each, f"cls_tiny_v1:{name}") for name in names]
    turns = zip(*sentences, strict=True)
    return _split([{"text": text, "label": name} for turn in turns for name, text in zip(names, turn, strict=True)])


@cache
def _pairs() -> dict[str, list[dict[str, str]]]:
    pairs = distinct(pair, sum(ROWS.values()), "seq2seq_tiny_v1")
    return _split([{"source": english, "target": tilo} for english, tilo in pairs])


_SPLITTERS: dict[str, Callable[[], dict[str, list[dict[str, str]]]]] = {
    "lm_tiny_v1": _stories,
    "cls_tiny_v1": _topics,
    "seq2seq_tiny_v1": _pairs,
}


T = TypeVar("T")


def draw(rng: Random, options: Sequence[T]) -> T:
    """One of the options.

    Of Python's generators only ``random()`` is promised to give the same numbers in every version, so ``choice`` is not used.
    """
    return options[int(rng.random() * len(options))]


def draw_two(rng: Random, options: Sequence[T]) -> tuple[T, T]:
    """Two different ones of the options."""
    first = int(rng.random() * len(options))
    step = 1 + int(rng.random() * (len(options) - 1))
    return options[first], options[(first + step) % len(options)]


def distinct(compose: Callable[[Random], T], count: int, seed: str) -> list[T]:
    """The first ``count`` different things that ``compose`` makes from a seeded generator."""
    rng, found = Random(seed), dict[T, None]()
    while len(found) < count:
        found[compose(rng)] = None
    return list(found)


# lm_tiny_v1: stories of two sentences about six children, their animals and their things. What can be learnt, from easy to hard: which words
# follow each other, where each animal lives and what it does there, and which pronoun takes up a name of the sentence before.


@dataclass(frozen=True)
class Person:
    """Someone a story is about, with the pronouns that take up the name."""

    name: str
    he: str
    him: str
    his: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Animal:
    """An animal, what it does, and where."""

    name: str
    does: str
    where: str

    def __str__(self) -> str:
        return self.name


PEOPLE = tuple(
    [Person(name, "she", "her", "her") for name in ("anna", "mia", "lily")]
    + [Person(name, "he", "him", "his") for name in ("tom", "ben", "sam")]
)
ANIMALS = (
    Animal("cat", "sleeps", "under the table"),
    Animal("dog", "runs", "in the garden"),
    Animal("bird", "sings", "in the tree"),
    Animal("fish", "swims", "in the river"),
    Animal("horse", "walks", "near the forest"),
)
COLOURS = ("red", "blue", "green", "yellow")
THINGS = ("ball", "book", "cup", "hat", "kite")
FURNITURE = ("table", "bed", "chair")
PLACES = ("garden", "house", "river", "forest")
FOOD = ("bread", "soup", "an apple")
KINDS = ("small", "big", "old")
STORY_TIMES = ("morning", "evening")
FEELINGS = ("happy", "tired", "hungry")

STORY_TEMPLATES = (
    "{person} has a {colour} {thing} . {person.he} puts it on the {furniture} .",
    "{person} has a {kind} {animal} . it {animal.does} {animal.where} .",
    "the {kind} {animal} {animal.does} {animal.where} . {person} sees it every {time} .",
    "in the {time} {person} walks to the {place} . {person.he} takes {person.his} {thing} with {person.him} .",
    "{person} gives the {colour} {thing} to {friend} . {friend} thanks {person.him} .",
    "{person} is hungry . {person.he} eats {food} in the house .",
    "{person} is tired . {person.he} goes to bed and sleeps .",
    "{person} is {feeling} today . {friend} sits on the {furniture} with {person.him} .",
    "where is the {thing} ? it is under the {furniture} , near {person} .",
    "where is the {animal} ? it {animal.does} {animal.where} , as every {time} .",
    "{person} looks for {person.his} {thing} . {friend} finds it in the {place} .",
    "{person} and {friend} play in the {place} . the {animal} looks at {person.him} .",
    "the {colour} {thing} is not {other} . {person} likes it , but {friend} does not .",
    "{person} likes the {animal} . every {time} {person.he} gives it {food} .",
)


def story(rng: Random) -> str:
    """A story: words and punctuation marks with a space between."""
    person, friend = draw_two(rng, PEOPLE)
    colour, other = draw_two(rng, COLOURS)
    return draw(rng, STORY_TEMPLATES).format(
        person=person,
        friend=friend,
        colour=colour,
        other=other,
        animal=draw(rng, ANIMALS),
        thing=draw(rng, THINGS),
        furniture=draw(rng, FURNITURE),
        place=draw(rng, PLACES),
        food=draw(rng, FOOD),
        kind=draw(rng, KINDS),
        time=draw(rng, STORY_TIMES),
        feeling=draw(rng, FEELINGS),
    )


# cls_tiny_v1: sentences about food, music, sport or the weather. Some words belong to one topic, some to two, and most sentences begin and end
# in words that all topics share, so that the first word is not enough.

WHO = ("the children", "my friends", "we", "they")
WHEN = ("today", "every day", "in the morning", "at night", "again")

TOPIC_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
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
TOPIC_TEMPLATES = (
    "{who} {do} {thing} {when} .",
    "{when} {who} {do} {thing} .",
    "{thing} is {is_} {when} , and {who} {do} it .",
    "{who} like it when {thing} is {is_} .",
    "is {thing} {is_} {when} ?",
)


def sentence_about(topic: str) -> Callable[[Random], str]:
    """What composes a sentence about a topic."""
    words = TOPIC_WORDS[topic]

    def compose(rng: Random) -> str:
        return draw(rng, TOPIC_TEMPLATES).format(
            who=draw(rng, WHO),
            when=draw(rng, WHEN),
            do=draw(rng, words["do"]),
            thing=draw(rng, words["thing"]),
            is_=draw(rng, words["is"]),
        )

    return compose


# seq2seq_tiny_v1: simple English, and the same in Tilo, a language made up for this project. Tilo has no article, puts the adjective behind its
# noun, the verb at the end and the time at the very end. A translator must learn the words, and where in the source to look.

TILO_NOUNS = {
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
TILO_ADJECTIVES = {"small": "ti", "big": "gol", "old": "vanu", "new": "nua", "white": "alba", "black": "nok"}
TILO_VERBS = {"sees": "vidas", "likes": "amas", "finds": "trovas", "follows": "sekvas", "paints": "kolos", "needs": "nidas"}
TILO_TIMES = {"today": "oda", "often": "multe", "now": "nu"}


def pair(rng: Random) -> tuple[str, str]:
    """An English sentence and its translation, words and full stops with a space between."""
    subject, thing = draw_two(rng, tuple(TILO_NOUNS))
    verb = draw(rng, tuple(TILO_VERBS))
    first, second, time = (_perhaps(rng, words) for words in (TILO_ADJECTIVES, TILO_ADJECTIVES, TILO_TIMES))
    english = ("the", first, subject, verb, "the", second, thing, time, ".")
    tilo = (
        TILO_NOUNS[subject],
        TILO_ADJECTIVES.get(first, ""),
        TILO_NOUNS[thing],
        TILO_ADJECTIVES.get(second, ""),
        TILO_VERBS[verb],
        TILO_TIMES.get(time, ""),
        ".",
    )
    return " ".join(filter(None, english)), " ".join(filter(None, tilo))


def _perhaps(rng: Random, words: dict[str, str]) -> str:
    """One of the words, or half of the time none."""
    return draw(rng, tuple(words)) if rng.random() < 0.5 else ""


# vision_tiny_v1: a circle, a cross, a square or a triangle, somewhere, in some size and colour, under noise.

Plane = np.ndarray
"""A coordinate of every pixel relative to the shape's centre and size, float64 ``[H, W]`` or what broadcasts to it."""

SHAPES: dict[str, Callable[[Plane, Plane], np.ndarray]] = {
    "circle": lambda u, v: u * u + v * v <= 1,
    "cross": lambda u, v: np.minimum(abs(u), abs(v)) <= 0.3,
    "square": lambda u, v: np.maximum(abs(u), abs(v)) <= 0.85,
    "triangle": lambda u, v: (abs(u) <= (v + 1) / 1.8) & (v <= 0.8),
}
"""What is inside a shape, by its name; the names are in sorted order, as class ids are."""

_NOISE = 0.15


@dataclass(frozen=True)
class ShapeSource:
    """Rows that are drawn when they are asked for; a row depends only on its number, the seed and the size.

    Attributes:
        name: The dataset in messages.
        seed: Names the split, so that no two splits share a row.
        rows: How many there are.
        size: ``(C, H, W)`` in pixels.
        num_classes: How many of the shapes there are.
    """

    name: str
    seed: str
    rows: int
    size: tuple[int, int, int]
    num_classes: int

    def __len__(self) -> int:
        """How many there are."""
        return self.rows

    def __getitem__(self, index: int) -> Record:
        """A row: ``pixel_values`` float32 ``[C, H, W]`` from 0 to 1, and the shape's name."""
        label = list(SHAPES)[: self.num_classes][index % min(self.num_classes, len(SHAPES))]
        image = draw_shape(label, self.size, f"{self.seed}:{index}")
        return Record(f"{self.name}, row {index + 1}", {"pixel_values": torch.from_numpy(image), "label": label})

    def __iter__(self) -> Iterator[Record]:
        """All of them."""
        return (self[index] for index in range(self.rows))


def draw_shape(name: str, size: tuple[int, int, int], seed: str) -> np.ndarray:
    """Draws a shape, the same to the byte on every machine: nothing here rounds differently elsewhere.

    Returns:
        Float32 ``[C, H, W]`` in steps of 1/255.
    """
    channels, height, width = size
    rng = Random(seed)
    centre_x, centre_y, radius = (low + span * rng.random() for low, span in ((0.36, 0.28), (0.36, 0.28), (0.22, 0.12)))
    u = ((np.arange(width) + 0.5) / width - centre_x)[None, :] / radius
    v = ((np.arange(height) + 0.5) / height - centre_y)[:, None] / radius
    box = np.maximum(abs(u), abs(v)) <= 1
    inside = (SHAPES[name](u, v) & box)[None]
    light = np.array([0.65 + 0.35 * rng.random() for _ in range(channels)])[:, None, None]
    dark = np.array([0.3 * rng.random() for _ in range(channels)])[:, None, None]
    noise = np.frombuffer(shake_256(seed.encode()).digest(channels * height * width), dtype=np.uint8).reshape(size)
    image = np.where(inside, light, dark) + _NOISE * (noise / 127.5 - 1)
    return (np.rint(np.clip(image, 0, 1) * 255) / 255).astype(np.float32)

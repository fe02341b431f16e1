"""The sentences of ``lm_tiny_v1``: stories of two sentences about six children, their animals and their things.

What can be learnt, from easy to hard: which words follow each other, where each animal lives and what it does there, and which pronoun
takes up a name of the sentence before.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from harness.data.grammar import draw, draw_two


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
TIMES = ("morning", "evening")
FEELINGS = ("happy", "tired", "hungry")

TEMPLATES = (
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
    return draw(rng, TEMPLATES).format(
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
        time=draw(rng, TIMES),
        feeling=draw(rng, FEELINGS),
    )

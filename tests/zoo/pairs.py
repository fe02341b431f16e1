"""A planted bug and its corrected twin, and the register of all of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from harness.evidence import Status
from harness.tasks import TaskSpec, TaskType

Factory = Callable[[], nn.Module]

FAMILIES = (
    "decoders",
    "decoder_life",
    "decoder_copies",
    "encoders",
    "vision",
    "mixers",
    "recurrent",
    "seq2seq",
    "tabular",
    "lightning_pairs",
)
"""Modules of this package that register pairs."""

VOCAB, LENGTH, CLASSES, FEATURES, CHANNELS, SIDE = 37, 12, 4, 6, 3, 8

CAUSAL = TaskSpec(TaskType.CAUSAL_LM, vocab_size=VOCAB, max_seq_len=LENGTH, pad_token_id=0)
MASKED = TaskSpec(TaskType.MASKED_LM, vocab_size=VOCAB, max_seq_len=LENGTH, pad_token_id=0)
TAGGING = TaskSpec(TaskType.TOKEN_CLASSIFICATION, vocab_size=VOCAB, max_seq_len=LENGTH, pad_token_id=0, num_classes=CLASSES)
TEXT = TaskSpec(TaskType.SEQUENCE_CLASSIFICATION, vocab_size=VOCAB, max_seq_len=LENGTH, pad_token_id=0, num_classes=CLASSES)
SEQ2SEQ = TaskSpec(TaskType.SEQ2SEQ_LM, vocab_size=VOCAB, max_seq_len=LENGTH, pad_token_id=0)
IMAGES = TaskSpec(TaskType.IMAGE_CLASSIFICATION, image_size=(CHANNELS, SIDE, SIDE), num_classes=CLASSES)
TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=FEATURES, num_classes=CLASSES)
NUMBER = TaskSpec(TaskType.TABULAR_REGRESSION, num_features=FEATURES)

HUMBATOVA = "Humbatova et al. 2020, Taxonomy of Real Faults in Deep Learning Systems"
ISLAM = "Islam et al. 2019, A Comprehensive Study on Deep Learning Bug Characteristics"
ZHANG = "Zhang et al. 2018, An Empirical Study on TensorFlow Program Bugs"
RECIPE = "Karpathy 2019, A Recipe for Training Neural Networks"
PYTORCH = "PyTorch documentation"


@dataclass(frozen=True)
class Pair:
    """A planted bug.

    Attributes:
        name: Unique name.
        task: What both models are for.
        buggy: Makes the model with the bug.
        sound: Makes the corrected twin; pairs of one architecture share it.
        test: Key of the finding that must catch it, such as ``finite_output[extremes]``.
        module: What blame must name, or a prefix of its path; empty where no module can be named.
        source: Where this kind of bug is described.
        status: What the finding must be; a warning where the property warns by design.
    """

    name: str
    task: TaskSpec
    buggy: Factory
    sound: Factory
    test: str
    module: str
    source: str
    status: Status = Status.FAIL

    @property
    def property(self) -> str:
        """The property of the expected finding."""
        return self.test.partition("[")[0]

    def blames(self, module: str) -> bool:
        """Whether a finding that blames a module blames the right one."""
        return not self.module or module == self.module or module.startswith((f"{self.module}.", f"{self.module}["))


_REGISTER: dict[str, Pair] = {}


def register(pair: Pair) -> None:
    """Adds a pair.

    Raises:
        ValueError: There is a pair of that name.
    """
    if pair.name in _REGISTER:
        raise ValueError(f"two pairs are named {pair.name!r}")
    _REGISTER[pair.name] = pair


def planted(
    test: str, *, task: TaskSpec, sound: Factory, source: str, module: str = "", status: Status = Status.FAIL
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Registers a class as the buggy half of a pair that is named after it."""

    def decorate(buggy: type[nn.Module]) -> type[nn.Module]:
        register(Pair(buggy.__name__, task, buggy, sound, test, module, source, status))
        return buggy

    return decorate


def all_pairs() -> list[Pair]:
    """Every pair of every family."""
    for family in FAMILIES:
        importlib.import_module(f".{family}", __package__)
    return list(_REGISTER.values())
